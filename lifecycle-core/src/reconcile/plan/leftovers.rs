//! Leftovers: containers and nodes that are no longer declared. Services stop in the reverse
//! of their start order.

use std::collections::{BTreeMap, BTreeSet};

use super::{Gate, Planning};
use crate::cloud::Power;
use crate::model::{ContainerId, InstanceId, NodeName, Subject};
use crate::reconcile::observe::{EngineView, NodeView};
use crate::reconcile::step::{Action, HeldBy, Reason, StepId};
use crate::runtime::{ObservedContainer, Role};

impl<'a> Planning<'a> {
    /// Stops and removes a container. Opens after its removal.
    pub(super) fn stop_and_remove(
        &mut self,
        instance: &InstanceId,
        node: &NodeName,
        container: &'a ObservedContainer,
        reason: &Reason,
        mut needs: BTreeSet<StepId>,
    ) -> Gate {
        if container.state.is_running() {
            match self.stop(instance, node, container, reason, needs.clone()) {
                Gate::After(step) => {
                    needs.insert(step);
                }
                Gate::Open => {}
                shut @ Gate::Shut { .. } => return shut,
            }
        }
        self.propose(
            Action::RemoveInstance {
                instance: instance.clone(),
                container: container.name.clone(),
                id: container.id.clone(),
                node: node.clone(),
            },
            needs,
            reason.clone(),
        )
    }

    /// Removes what another container replaces.
    pub(super) fn supersede(
        &mut self,
        instance: &InstanceId,
        others: &[(&NodeName, &'a ObservedContainer)],
        reason: &Reason,
    ) {
        for (node, container) in others {
            self.stop_and_remove(instance, node, container, reason, BTreeSet::new());
        }
    }

    pub(super) fn undeclared_instances(&mut self) {
        let mut left: Vec<(u32, &'a InstanceId, &'a NodeName, &'a ObservedContainer)> = Vec::new();
        for (id, containers) in &self.containers {
            if self.declared.wants(id) {
                continue;
            }
            let rank = self
                .declared
                .ranks
                .get(&id.service)
                .copied()
                .unwrap_or(u32::MAX);
            left.extend(containers.iter().map(|(node, c)| (rank, *id, *node, *c)));
        }
        // Only the last of the start order goes now; the others wait for the next plan, so that
        // nothing is stopped while something that depends on it still runs.
        let last = left
            .iter()
            .filter(|(_, _, _, c)| c.state.is_running())
            .max_by_key(|(rank, ..)| *rank)
            .map(|(rank, id, ..)| (*rank, id.service.clone()));
        for (rank, id, node, container) in left {
            let running = container.state.is_running();
            let gate = match &last {
                Some((last, service)) if rank < *last && running => {
                    let by = HeldBy::StopsAfter {
                        service: service.clone(),
                    };
                    self.hold(Subject::Instance(id.clone()), by.clone());
                    Gate::Shut { by, settled: false }
                }
                _ => {
                    self.stop_and_remove(id, node, container, &Reason::NotDeclared, BTreeSet::new())
                }
            };
            for (_, protocol, port) in container.ports.iter().filter(|_| running) {
                self.leaving.insert((node, *port, *protocol), gate.clone());
            }
        }
    }

    pub(super) fn undeclared_nodes(&mut self) {
        let observed = self.observed;
        let undeclared: BTreeMap<&NodeName, &NodeView> = observed
            .nodes
            .iter()
            .filter(|(node, view)| {
                self.is_ours_to_delete(node, view) && !self.fences.contains_key(node)
            })
            .collect();
        if undeclared.is_empty() {
            return;
        }
        // All that still has to do with a node comes before its end.
        let mut steps: BTreeMap<&NodeName, BTreeSet<StepId>> = BTreeMap::new();
        let mut removed: BTreeSet<&ContainerId> = BTreeSet::new();
        for step in &self.plan.steps {
            let from = match &step.action {
                Action::CopyImage { from, .. } => Some(from),
                Action::RemoveInstance { id, .. } => {
                    removed.insert(id);
                    None
                }
                _ => None,
            };
            for node in std::iter::once(step.action.node()).chain(from) {
                if let Some((node, _)) = undeclared.get_key_value(node) {
                    steps.entry(*node).or_default().insert(step.id.clone());
                }
            }
        }
        let mut kept = BTreeSet::new();
        for (node, view) in &undeclared {
            let still_used = match &view.engine {
                EngineView::Known { state, .. } => {
                    let gone = |c: &ObservedContainer| {
                        matches!(c.role, Role::Instance(_)) && removed.contains(&c.id)
                    };
                    !state.containers.iter().all(gone)
                }
                EngineView::NotAsked => true,
                EngineView::Missing | EngineView::Unknown(_) => false,
            };
            if still_used && view.machine.power == Power::Running {
                kept.insert(*node);
            }
        }
        for node in undeclared.keys() {
            if kept.contains(node) {
                self.hold(Subject::Node((*node).clone()), HeldBy::StillUsed);
                continue;
            }
            self.propose(
                Action::DeleteNode {
                    node: (*node).clone(),
                },
                steps.remove(node).unwrap_or_default(),
                Reason::NodeNotDeclared,
            );
        }
    }
}
