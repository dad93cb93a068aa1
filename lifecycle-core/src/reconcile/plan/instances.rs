//! Instances: one after the other in the start order, each made where none is.

use std::collections::BTreeSet;

use super::order::Dependencies;
use super::replacement::{Containers, WayBack, replaced};
use super::{Gate, Planning, Up, status};
use crate::model::{InstanceId, InstanceState, NodeName, Replica, Subject};
use crate::reconcile::declared::DeclaredService;
use crate::reconcile::observe::EngineView;
use crate::reconcile::step::{Action, HeldBy, InstanceStatus, Reason};
use crate::runtime::ObservedContainer;

impl<'a> Planning<'a> {
    pub(super) fn instances(&mut self) {
        let declared = self.declared;
        for name in self.in_start_order() {
            let Some(service) = declared.services.get(name) else {
                continue;
            };
            let gate = self.dependencies(service);
            for n in 1..=service.spec.replicas {
                let id = InstanceId {
                    service: name.clone(),
                    replica: Replica(n),
                };
                let (status, up) = self.instance(&id, service, &gate);
                self.up.insert(id.clone(), up);
                self.plan.instances.insert(id, status);
            }
        }
    }

    fn instance(
        &mut self,
        id: &InstanceId,
        service: &DeclaredService,
        dependencies: &Dependencies,
    ) -> (InstanceStatus, Up) {
        let Some(node) = self.placement.nodes.get(id).cloned() else {
            let why = self.placement.misfits.get(id).cloned().unwrap_or_default();
            self.hold(
                Subject::Instance(id.clone()),
                HeldBy::NoNodeFits { why: why.clone() },
            );
            let state = InstanceState::Failed {
                why: format!("fits no node: {why}"),
            };
            return (status(None, None, state, true), Up::default());
        };
        let gate = self.node_gates.get(&node).cloned().unwrap_or(Gate::Open);
        if let Gate::Shut { by, settled } = gate {
            return self.on_a_shut_node(id, node, &by, settled);
        }
        let containers = self.containers_of(id, service, &node);
        let rejected = self
            .observed
            .rejected
            .get(id)
            .filter(|r| r.digest == service.digest);
        if let (Some(rejected), Some(former)) = (rejected, containers.predecessor(service, &node)) {
            let way_back = WayBack {
                former,
                why: rejected.why.clone(),
            };
            return self.roll_back(id, service, &node, &containers, &way_back, dependencies);
        }
        match containers.current {
            Some(current) => self.keep(id, service, &node, current, &containers, dependencies),
            None => self.create(id, service, node, &containers, dependencies),
        }
    }

    /// A replica whose node cannot be worked with now: nothing is done and nothing started
    /// elsewhere, since it may still run there.
    fn on_a_shut_node(
        &mut self,
        id: &InstanceId,
        node: NodeName,
        by: &HeldBy,
        settled: bool,
    ) -> (InstanceStatus, Up) {
        let was_here = self.observed.last_seen.get(id) == Some(&node);
        let unknown = self
            .observed
            .nodes
            .get(&node)
            .and_then(|v| match &v.engine {
                EngineView::Unknown(unknown) => Some(unknown.clone()),
                _ => None,
            });
        let state = match unknown {
            Some(u) if was_here => InstanceState::Unknown {
                since: u.since,
                why: u.why,
            },
            _ if settled => InstanceState::Failed {
                why: by.to_string(),
            },
            _ => InstanceState::Stopped,
        };
        self.hold(
            Subject::Instance(id.clone()),
            HeldBy::Node { node: node.clone() },
        );
        (status(Some(node), None, state, settled), Up::default())
    }

    /// No container of the declared specification exists on the replica's node.
    fn create(
        &mut self,
        id: &InstanceId,
        service: &DeclaredService,
        node: NodeName,
        containers: &Containers<'a>,
        dependencies: &Dependencies,
    ) -> (InstanceStatus, Up) {
        // What runs under a former specification goes on serving until its successor may start.
        let former = containers.others.iter().find(|(_, c)| c.state.is_running());
        let up = former.map_or(Up::default(), |(_, c)| self.up_of(c));
        let standing = |state| {
            (
                status(Some(node.clone()), former_id(former), state, false),
                up,
            )
        };
        let mut needs = BTreeSet::new();
        let ways = [Self::node_gate, Self::vacated, Self::service_image];
        for way in ways {
            match way(self, id, &node, service) {
                Gate::Open => {}
                Gate::After(step) => {
                    needs.insert(step);
                }
                Gate::Shut { by, settled } => {
                    self.hold(Subject::Instance(id.clone()), by.clone());
                    let state = if settled {
                        InstanceState::Failed {
                            why: by.to_string(),
                        }
                    } else if up.ready {
                        InstanceState::Ready
                    } else {
                        InstanceState::Stopped
                    };
                    return (status(Some(node), former_id(former), state, settled), up);
                }
            }
        }
        match dependencies {
            Dependencies::Met(steps) => needs.extend(steps.iter().cloned()),
            Dependencies::Unmet { by, settled } => {
                self.hold(Subject::Instance(id.clone()), by.clone());
                return (
                    status(
                        Some(node),
                        former_id(former),
                        InstanceState::Stopped,
                        *settled,
                    ),
                    up,
                );
            }
        }
        let reason = match containers.others.first() {
            None => Reason::InstanceAbsent,
            Some((from, old)) => replaced(from, old, &node, &service.digest),
        };
        let stopped = self
            .free_ports(id, service, &node, needs)
            .and_then(|needs| self.stop_running(id, &containers.others, &reason, needs));
        let needs = match stopped {
            Ok(needs) => needs,
            Err((by, settled)) => {
                let state = if settled {
                    InstanceState::Failed {
                        why: by.to_string(),
                    }
                } else if up.ready {
                    InstanceState::Ready
                } else {
                    InstanceState::Stopped
                };
                return (status(Some(node), former_id(former), state, settled), up);
            }
        };
        let start = self.propose(
            Action::StartInstance {
                instance: id.clone(),
                container: self.declared.container_name(id, &service.digest),
                node: node.clone(),
            },
            needs,
            reason,
        );
        match start {
            Gate::After(step) => {
                self.starts.insert(id.clone(), step);
                standing(if up.ready {
                    InstanceState::Ready
                } else {
                    InstanceState::Stopped
                })
            }
            Gate::Open => standing(InstanceState::Stopped),
            Gate::Shut { by, settled } => {
                let state = if settled {
                    InstanceState::Failed {
                        why: by.to_string(),
                    }
                } else {
                    InstanceState::Stopped
                };
                (status(Some(node), former_id(former), state, settled), up)
            }
        }
    }

    fn node_gate(&mut self, _: &InstanceId, node: &NodeName, _: &DeclaredService) -> Gate {
        self.node_gates.get(node).cloned().unwrap_or(Gate::Open)
    }

    /// Opens when the replica cannot run unseen on another node than the one it is placed on.
    fn vacated(&mut self, id: &InstanceId, node: &NodeName, _: &DeclaredService) -> Gate {
        let observed = self.observed;
        let Some(last) = observed.last_seen.get(id).filter(|last| *last != node) else {
            return Gate::Open;
        };
        let Some(view) = observed.nodes.get(last) else {
            // Gone, if the cloud can say so.
            let Some(unknown) = &observed.cloud_unknown else {
                return Gate::Open;
            };
            return Gate::Shut {
                by: HeldBy::CloudUnknown {
                    since: unknown.since,
                    why: unknown.why.clone(),
                },
                settled: self.is_over(unknown.since, self.policy.unknown_before_failed),
            };
        };
        if !view.may_run_unseen() {
            return Gate::Open;
        }
        if let Some(fence) = self.fences.get(last) {
            return fence.clone();
        }
        match &view.engine {
            EngineView::Unknown(unknown) => Gate::Shut {
                by: HeldBy::NodeUnknown {
                    node: last.clone(),
                    since: unknown.since,
                    why: unknown.why.clone(),
                },
                settled: self.is_over(unknown.since, self.policy.unknown_before_failed),
            },
            _ => Gate::Shut {
                by: HeldBy::Node { node: last.clone() },
                settled: false,
            },
        }
    }
}

fn former_id<'a>(
    former: Option<&(&'a NodeName, &'a ObservedContainer)>,
) -> Option<&'a ObservedContainer> {
    former.map(|(_, c)| *c)
}
