//! Removes containers and nodes that are no longer declared. Services stop in reverse start order.

use std::collections::{BTreeMap, BTreeSet};

use super::{Gate, Planning};
use crate::cloud::Power;
use crate::model::{ContainerId, InstanceId, NodeName, Subject};
use crate::reconcile::index::Seen;
use crate::reconcile::observe::{EngineView, NodeView};
use crate::reconcile::step::{Action, HeldBy, Reason, StepId};
use crate::runtime::{ObservedContainer, Role};

impl<'a> Planning<'a> {
    /// Stops and removes a container. The returned gate opens when the container has been removed.
    pub(super) fn stop_and_remove(
        &mut self,
        instance: &InstanceId,
        seen: Seen<'a>,
        reason: &Reason,
        mut needs: BTreeSet<StepId>,
    ) -> Gate {
        if seen.is_running() {
            let stop = self.stop(instance, seen, reason, needs.clone());
            if let Err(blocked) = stop.pass(&mut needs) {
                return Gate::Blocked(blocked);
            }
        }
        self.propose(
            Action::RemoveInstance {
                instance: instance.clone(),
                container: seen.container.name.clone(),
                id: seen.container.id.clone(),
                node: seen.node.clone(),
            },
            needs,
            reason.clone(),
        )
    }

    pub(super) fn remove_all(
        &mut self,
        instance: &InstanceId,
        containers: &[Seen<'a>],
        reason: &Reason,
    ) {
        for container in containers {
            self.stop_and_remove(instance, *container, reason, BTreeSet::new());
        }
    }

    pub(super) fn undeclared_instances(&mut self) {
        let index = self.index;
        let mut left: Vec<(u32, &InstanceId, Seen<'a>)> = Vec::new();
        for (id, containers) in &index.undeclared {
            let rank = self
                .declared
                .ranks
                .get(&id.service)
                .copied()
                .unwrap_or(u32::MAX);
            left.extend(containers.iter().map(|seen| (rank, *id, *seen)));
        }
        // Stop only the services that are last in the start order. Later plans stop the rest.
        let last = left
            .iter()
            .filter(|(_, _, seen)| seen.is_running())
            .max_by_key(|(rank, ..)| *rank)
            .map(|(rank, id, ..)| (*rank, id.service.clone()));
        for (rank, id, seen) in left {
            let running = seen.is_running();
            let gate = match &last {
                Some((last, service)) if rank < *last && running => {
                    let by = HeldBy::StopsAfter {
                        service: service.clone(),
                    };
                    Gate::Blocked(self.block(Subject::Instance(id.clone()), by, false))
                }
                _ => self.stop_and_remove(id, seen, &Reason::NotDeclared, BTreeSet::new()),
            };
            for (_, protocol, port) in seen.container.ports.iter().filter(|_| running) {
                self.undeclared_ports
                    .insert((seen.node, *port, *protocol), gate.clone());
            }
        }
    }

    /// Returns whether the manager may release a machine that the platform did not create. During
    /// `down`, the bootstrapper releases the machines that the files declare, and records the release.
    fn releases(&self, node: &NodeName, view: &NodeView) -> bool {
        view.is_observed() && (!self.declared.deleting || self.declared.adopted.contains(node))
    }

    /// Holds the deletion of the platform until the machines that were adopted at run time can be
    /// released.
    fn await_adopted_nodes(&mut self) {
        let observed = self.observed;
        for (node, view) in &observed.nodes {
            let is_adopted = self.declared.adopted.contains(node);
            if self.declared.deleting && is_adopted && !view.is_observed() {
                let why = "it does not respond, so it cannot be released".to_owned();
                self.hold(Subject::Node(node.clone()), HeldBy::Failed { why });
            }
        }
    }

    pub(super) fn undeclared_nodes(&mut self) {
        self.await_adopted_nodes();
        let observed = self.observed;
        for (node, view) in &observed.nodes {
            let is_stopped = view.machine.power == Power::Stopped && !view.machine.created;
            if is_stopped && self.is_to_remove(node) && !self.declared.deleting {
                let why = "it is not running; start it, so that it can be released".to_owned();
                self.hold(Subject::Node(node.clone()), HeldBy::Failed { why });
            }
        }
        let lost = self.declared.lost.as_ref();
        let lost = lost.filter(|_| !self.declared.deleting);
        let may_be_added = |node: &NodeName, view: &NodeView| {
            view.machine.created && lost.is_some_and(|deleted| !deleted.contains(node))
        };
        let unknown: Vec<&NodeName> = { observed.nodes.iter() }
            .filter(|(node, view)| self.is_to_remove(node) && may_be_added(node, view))
            .map(|(node, _)| node)
            .collect();
        for node in &unknown {
            let why = format!(
                "it is not declared, but may have been added before the registry was lost; delete it \
                 with `bootstrapper node remove {node}`"
            );
            self.hold(Subject::Node((*node).clone()), HeldBy::Failed { why });
        }
        let undeclared: BTreeMap<&NodeName, &NodeView> = observed
            .nodes
            .iter()
            .map(|(node, view)| (node, view.as_ref()))
            .filter(|(node, view)| {
                self.is_to_remove(node)
                    && !self.unreachable_deletions.contains_key(node)
                    && !unknown.contains(node)
                    && (view.machine.created || self.releases(node, view))
            })
            .collect();
        if undeclared.is_empty() {
            return;
        }
        // A node is deleted only after all other steps that involve the node.
        let mut steps: BTreeMap<&NodeName, BTreeSet<StepId>> = BTreeMap::new();
        let mut removed: BTreeSet<&ContainerId> = BTreeSet::new();
        for step in &self.plan.steps {
            if let Action::RemoveInstance { id, .. } = &step.action {
                removed.insert(id);
            }
            for node in step.action.nodes() {
                if let Some((node, _)) = undeclared.get_key_value(node) {
                    steps.entry(*node).or_default().insert(step.id.clone());
                }
            }
        }
        let mut kept = BTreeSet::new();
        for (node, view) in &undeclared {
            let still_used = match &view.engine {
                EngineView::Known { state, .. } => {
                    let goes = |c: &ObservedContainer| match c.role {
                        Role::Instance(_) => removed.contains(&c.id),
                        Role::Agent => true,
                        Role::Manager => false,
                    };
                    !state.containers.iter().all(goes)
                }
                EngineView::NotAsked => true,
                EngineView::Missing | EngineView::Unknown(_) => false,
            };
            if still_used && view.machine.power == Power::Running {
                kept.insert(*node);
            }
        }
        for (node, view) in undeclared {
            if kept.contains(node) {
                self.hold(Subject::Node(node.clone()), HeldBy::StillUsed);
                continue;
            }
            let node_name = node.clone();
            let action = if view.machine.created {
                Action::DeleteNode { node: node_name }
            } else {
                Action::ReleaseNode { node: node_name }
            };
            self.propose(
                action,
                steps.remove(node).unwrap_or_default(),
                Reason::NodeNotDeclared,
            );
        }
    }
}
