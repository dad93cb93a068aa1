//! Leftovers: containers and nodes that are no longer declared. Services stop in the reverse
//! of their start order.

use std::collections::{BTreeMap, BTreeSet};

use super::{Gate, Planning};
use crate::cloud::Power;
use crate::model::{ContainerId, InstanceId, NodeName, Subject};
use crate::reconcile::index::Seen;
use crate::reconcile::observe::{EngineView, NodeView};
use crate::reconcile::step::{Action, HeldBy, Reason, StepId};
use crate::runtime::{ObservedContainer, Role};

impl<'a> Planning<'a> {
    /// Stops and removes a container. Opens after its removal.
    pub(super) fn stop_and_remove(
        &mut self,
        instance: &InstanceId,
        seen: Seen<'a>,
        reason: &Reason,
        mut needs: BTreeSet<StepId>,
    ) -> Gate {
        if seen.is_running() {
            match self.stop(instance, seen, reason, needs.clone()) {
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
                container: seen.container.name.clone(),
                id: seen.container.id.clone(),
                node: seen.node.clone(),
            },
            needs,
            reason.clone(),
        )
    }

    /// Removes what another container replaces.
    pub(super) fn supersede(
        &mut self,
        instance: &InstanceId,
        others: &[Seen<'a>],
        reason: &Reason,
    ) {
        for other in others {
            self.stop_and_remove(instance, *other, reason, BTreeSet::new());
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
        // Only the last of the start order goes now; the others wait for the next plan, so that
        // nothing is stopped while something that depends on it still runs.
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
                    self.hold(Subject::Instance(id.clone()), by.clone());
                    Gate::Shut { by, settled: false }
                }
                _ => self.stop_and_remove(id, seen, &Reason::NotDeclared, BTreeSet::new()),
            };
            for (_, protocol, port) in seen.container.ports.iter().filter(|_| running) {
                self.leaving
                    .insert((seen.node, *port, *protocol), gate.clone());
            }
        }
    }

    pub(super) fn undeclared_nodes(&mut self) {
        let observed = self.observed;
        let undeclared: BTreeMap<&NodeName, &NodeView> = observed
            .nodes
            .iter()
            .map(|(node, view)| (node, view.as_ref()))
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
                    let gone = |c: &ObservedContainer| match c.role {
                        Role::Instance(_) => removed.contains(&c.id),
                        Role::Agent => true,
                        Role::Manager => false,
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
