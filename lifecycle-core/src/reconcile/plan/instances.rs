//! Instances: one after the other in the start order, each made where none is.

use std::collections::BTreeSet;

use super::order::Dependencies;
use super::replacement::{Containers, WayBack, replaced};
use super::{Gate, Planning, Spot, Up, status};
use crate::model::{InstanceId, InstanceState, NodeName, Subject};
use crate::reconcile::declared::DeclaredService;
use crate::reconcile::observe::EngineView;
use crate::reconcile::step::{Action, HeldBy, InstanceStatus, Reason};

impl<'a> Planning<'a> {
    pub(super) fn instances(&mut self) {
        let index = self.index;
        for place in index.in_start_order() {
            let indexed = &index.services[place];
            let gate = self.dependencies(indexed.service);
            for at in indexed.places() {
                let id = &index.replicas[at];
                let (status, up) = self.instance(at, id, indexed.service, &gate);
                self.up[at] = up;
                self.statuses[at] = Some(status);
            }
        }
    }

    fn instance(
        &mut self,
        at: usize,
        id: &'a InstanceId,
        service: &'a DeclaredService,
        dependencies: &Dependencies,
    ) -> (InstanceStatus, Up) {
        let Some(node) = self.placed.nodes[at] else {
            let why = self.placed.misfits.get(&at).cloned().unwrap_or_default();
            self.hold(
                Subject::Instance(id.clone()),
                HeldBy::NoNodeFits { why: why.clone() },
            );
            let state = InstanceState::Failed {
                why: format!("fits no node: {why}"),
            };
            return (status(None, None, state, true), Up::default());
        };
        let spot = Spot {
            at,
            id,
            service,
            node,
        };
        if let Some(Gate::Shut { by, settled }) = self.node_gates.get(node) {
            let failed = settled.then(|| by.to_string());
            return self.on_a_shut_node(spot, failed);
        }
        let containers = self.containers_of(spot);
        let rejected = self.history.rejected.get(id);
        if let Some(rejected) = rejected.filter(|r| r.digest == service.digest)
            && let Some(former) = containers.predecessor(spot)
        {
            let way_back = WayBack {
                former,
                since: rejected.at,
                why: rejected.why.clone(),
            };
            return self.roll_back(spot, &containers, &way_back, dependencies);
        }
        match containers.current {
            Some(current) => self.keep(spot, current, &containers, dependencies),
            None => self.create(spot, &containers, dependencies),
        }
    }

    /// A replica whose node cannot be worked with now: nothing is done and nothing started
    /// elsewhere, since it may still run there.
    fn on_a_shut_node(&mut self, spot: Spot<'a>, failed: Option<String>) -> (InstanceStatus, Up) {
        let settled = failed.is_some();
        let was_here = self.index.last_seen[spot.at] == Some(spot.node);
        let view = self.observed.nodes.get(spot.node);
        let state = match (view.map(|view| &view.engine), failed) {
            (Some(EngineView::Unknown(unknown)), _) if was_here => InstanceState::Unknown {
                since: unknown.since,
                why: unknown.why.clone(),
            },
            (_, Some(why)) => InstanceState::Failed { why },
            (_, None) => InstanceState::Stopped,
        };
        let node = spot.node.clone();
        self.hold(Subject::Instance(spot.id.clone()), HeldBy::Node { node });
        let node = Some(spot.node.clone());
        (status(node, None, state, settled), Up::default())
    }

    /// No container of the declared specification exists on the replica's node.
    fn create(
        &mut self,
        spot: Spot<'a>,
        containers: &Containers<'a>,
        dependencies: &Dependencies,
    ) -> (InstanceStatus, Up) {
        // What runs under a former specification goes on serving until its successor may start.
        let former = containers.others.iter().find(|seen| seen.is_running());
        let up = former.map_or(Up::default(), Planning::up_of);
        let stands = |state, settled| {
            let node = Some(spot.node.clone());
            let container = former.map(|seen| seen.container);
            (status(node, container, state, settled), up)
        };
        let held = |by: &HeldBy, settled| {
            let state = if settled {
                let why = by.to_string();
                InstanceState::Failed { why }
            } else if up.ready {
                InstanceState::Ready
            } else {
                InstanceState::Stopped
            };
            stands(state, settled)
        };
        let mut needs = BTreeSet::new();
        let ways = [
            Self::node_gate,
            Self::vacated,
            Self::service_image,
            Self::names,
        ];
        for way in ways {
            match way(self, spot) {
                Gate::Open => {}
                Gate::After(step) => {
                    needs.insert(step);
                }
                Gate::Shut { by, settled } => {
                    self.hold(Subject::Instance(spot.id.clone()), by.clone());
                    return held(&by, settled);
                }
            }
        }
        match dependencies {
            Dependencies::Met(steps) => needs.extend(steps.iter().cloned()),
            Dependencies::Unmet { by, settled } => {
                self.hold(Subject::Instance(spot.id.clone()), by.clone());
                return stands(InstanceState::Stopped, *settled);
            }
        }
        let reason = match containers.others.first() {
            None => self.absent(spot),
            Some(old) => replaced(old, spot.node, &spot.service.digest),
        };
        let stopped = self
            .free_ports(spot, needs)
            .and_then(|needs| self.clear_stopped(spot.id, &containers.others, &reason, needs))
            .and_then(|needs| self.stop_running(spot.id, &containers.others, &reason, needs));
        let needs = match stopped {
            Ok(needs) => needs,
            Err((by, settled)) => return held(&by, settled),
        };
        let start = self.propose(
            Action::StartInstance {
                instance: spot.id.clone(),
                container: self.declared.container_name(spot.id, &spot.service.digest),
                node: spot.node.clone(),
            },
            needs,
            reason,
        );
        match start {
            Gate::After(step) => {
                self.starts[spot.at] = Some(step);
                let serves = if up.ready {
                    InstanceState::Ready
                } else {
                    InstanceState::Stopped
                };
                stands(serves, false)
            }
            Gate::Shut { by, settled: true } => held(&by, true),
            Gate::Open | Gate::Shut { .. } => stands(InstanceState::Stopped, false),
        }
    }

    /// Why a replica of which nothing exists is made here.
    fn absent(&self, spot: Spot<'a>) -> Reason {
        let view = self.observed.nodes.get(spot.node);
        let state = view.and_then(|view| view.engine_state());
        let mounts = &spot.service.spec.container.volumes;
        let here = state.and_then(|state| {
            let mut volumes = mounts.iter().map(|mount| &mount.volume);
            volumes.find(|volume| state.volumes.contains(*volume))
        });
        match here {
            Some(volume) => Reason::VolumeIsHere {
                volume: volume.clone(),
            },
            None => Reason::InstanceAbsent,
        }
    }

    fn node_gate(&mut self, spot: Spot<'a>) -> Gate {
        let gate = self.node_gates.get(spot.node);
        gate.cloned().unwrap_or(Gate::Open)
    }

    /// Opens when the replica would find other services by their names.
    fn names(&mut self, spot: Spot<'a>) -> Gate {
        self.agent_gate(spot.node)
    }

    /// Opens when the replica cannot run unseen on another node than the one it is placed on.
    fn vacated(&mut self, spot: Spot<'a>) -> Gate {
        let observed = self.observed;
        let elsewhere = |last: &&NodeName| *last != spot.node;
        let Some(last) = self.index.last_seen[spot.at].filter(elsewhere) else {
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
