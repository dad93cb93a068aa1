//! Leftovers: containers and nodes that are no longer declared. Services stop in the reverse
//! of their start order.

use std::collections::BTreeSet;

use super::{Gate, Planning};
use crate::model::{InstanceId, NodeName, Subject};
use crate::reconcile::observe::EngineView;
use crate::reconcile::step::{Action, HeldBy, Reason, StepId};
use crate::runtime::{ContainerState, ObservedContainer, Role};

impl Planning<'_> {
    pub(super) fn leftovers(&mut self) {
        self.undeclared_instances();
        self.undeclared_nodes();
    }

    /// Stops and removes a container. Opens after its removal.
    pub(super) fn stop_and_remove(
        &mut self,
        instance: &InstanceId,
        node: &NodeName,
        container: &ObservedContainer,
        reason: &Reason,
        mut needs: BTreeSet<StepId>,
    ) -> Gate {
        let running = matches!(
            container.state,
            ContainerState::Running { .. } | ContainerState::Paused
        );
        if running {
            let stopped = self.propose(
                Action::StopInstance {
                    instance: instance.clone(),
                    container: container.name.clone(),
                    id: container.id.clone(),
                    node: node.clone(),
                },
                needs.clone(),
                reason.clone(),
            );
            match stopped {
                Gate::After(step) => {
                    needs.insert(step);
                }
                Gate::Open => {}
                Gate::Shut { .. } => return stopped,
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

    /// Removes what a ready container replaces.
    pub(super) fn supersede(
        &mut self,
        instance: &InstanceId,
        others: &[(&NodeName, &ObservedContainer)],
    ) {
        for (node, container) in others {
            self.stop_and_remove(
                instance,
                node,
                container,
                &Reason::Superseded,
                BTreeSet::new(),
            );
        }
    }

    fn undeclared_instances(&mut self) {
        let mut left: Vec<(u32, &InstanceId, &NodeName, &ObservedContainer)> = Vec::new();
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
        let running = |c: &ObservedContainer| {
            matches!(
                c.state,
                ContainerState::Running { .. } | ContainerState::Paused
            )
        };
        let last = left
            .iter()
            .filter(|(_, _, _, c)| running(c))
            .max_by_key(|(rank, ..)| *rank)
            .map(|(rank, id, ..)| (*rank, id.service.clone()));
        for (rank, id, node, container) in left {
            match &last {
                Some((last, service)) if rank < *last && running(container) => self.hold(
                    Subject::Instance(id.clone()),
                    HeldBy::StopsAfter {
                        service: service.clone(),
                    },
                ),
                _ => {
                    self.stop_and_remove(
                        id,
                        node,
                        container,
                        &Reason::NotDeclared,
                        BTreeSet::new(),
                    );
                }
            }
        }
    }

    fn undeclared_nodes(&mut self) {
        for (node, view) in &self.observed.nodes {
            let spared = self.policy.spares_manager_node && *node == self.declared.manager_node;
            if self.declared.nodes.contains_key(node) || !view.machine.created || spared {
                continue;
            }
            let needs: BTreeSet<StepId> = self
                .plan
                .steps
                .iter()
                .filter(|s| s.action.node() == node)
                .map(|s| s.id.clone())
                .collect();
            let still_used = match &view.engine {
                EngineView::Known { state, .. } => state.containers.iter().any(|c| {
                    let removal = |id: &InstanceId| {
                        Action::RemoveInstance {
                            instance: id.clone(),
                            container: c.name.clone(),
                            id: c.id.clone(),
                            node: node.clone(),
                        }
                        .id()
                    };
                    match &c.role {
                        Role::Instance(id) => !needs.contains(&removal(id)),
                        Role::Manager => true,
                    }
                }),
                EngineView::NotAsked => true,
                EngineView::Missing | EngineView::Unknown(_) => false,
            };
            if still_used && view.machine.power == crate::cloud::Power::Running {
                self.hold(Subject::Node(node.clone()), HeldBy::StillUsed);
                continue;
            }
            self.propose(
                Action::DeleteNode { node: node.clone() },
                needs,
                Reason::NodeNotDeclared,
            );
        }
    }
}
