//! Plans the replicas in the start order, and creates missing containers.

use std::collections::BTreeSet;

use super::dependencies::Dependencies;
use super::replacement::{Containers, Rollback, replaced};
use super::{Blocked, Gate, PlacedReplica, Planning, Up, status};
use crate::model::{ImageSource, NodeName, ReplacementOrder, Subject};
use crate::reconcile::index::{IndexedService, Seen};
use crate::reconcile::observe::EngineView;
use crate::reconcile::state::{self, Verdict};
use crate::reconcile::step::{Action, HeldBy, InstanceStatus, Reason, StepId};

impl<'a> Planning<'a> {
    pub(super) fn instances(&mut self) {
        let index = self.index;
        for service in index.in_start_order() {
            let indexed = &index.services[service];
            let dependencies = self.dependencies(indexed.service);
            for position in self.begin_rollout(indexed) {
                let own = self.dependencies_of(position, indexed.service, &dependencies);
                let (status, up) = self.instance(position, indexed, &own);
                self.note_staying(position);
                self.up[position] = up;
                self.statuses[position] = Some(status);
            }
            self.end_rollout(indexed);
        }
    }

    /// Reports a replica that stays on a drained node. Any other reason was reported before.
    fn note_staying(&mut self, position: usize) {
        let staying = self.placement.staying.get(&position);
        if let (Some(why), Some(node)) = (staying, self.placement.nodes[position]) {
            let by = HeldBy::StaysOnDrained {
                node: node.clone(),
                why: why.clone(),
            };
            let id = self.index.replicas[position].clone();
            self.hold(Subject::Instance(id), by);
        }
    }

    fn instance(
        &mut self,
        position: usize,
        indexed: &IndexedService<'a>,
        dependencies: &Dependencies,
    ) -> (InstanceStatus, Up) {
        let id = &self.index.replicas[position];
        let service = indexed.service;
        let Some(node) = self.placement.nodes[position] else {
            let why = self.placement.unplaceable.get(&position);
            let by = HeldBy::NoNodeFits {
                why: why.cloned().unwrap_or_default(),
            };
            let blocked = self.block(Subject::Instance(id.clone()), by, true);
            let status = InstanceStatus {
                node: None,
                container: None,
                state: state::without_container(None, blocked.verdict()),
                settled: true,
            };
            return (status, Up::default());
        };
        let replica = PlacedReplica {
            position,
            id,
            service,
            node,
        };
        if let Some(Gate::Blocked(blocked)) = self.node_gates.get(node).cloned() {
            if let Some(status) = self.before_restart(replica) {
                let by = HeldBy::Node { node: node.clone() };
                self.hold(Subject::Instance(id.clone()), by);
                return status;
            }
            return self.on_blocked_node(replica, &blocked);
        }
        let containers = self.containers_of(replica);
        if let Some(rejection) = self.rejection(indexed, position)
            && let Some(previous) = containers.previous(replica)
        {
            let rollback = Rollback {
                previous,
                rejection,
            };
            return self.roll_back(replica, &containers, &rollback, dependencies);
        }
        if let Some(rejection) = self.rejection(indexed, position)
            && containers.current.is_none()
            && !containers.others.is_empty()
        {
            return self.without_previous(replica, &containers, &rejection);
        }
        match containers.current {
            Some(current) => {
                if current.container.digest != service.digest {
                    self.plan.unchanged.insert(service.spec.name.clone());
                }
                self.keep(replica, current, &containers, dependencies)
            }
            None => self.create(replica, &containers, dependencies),
        }
    }

    /// Holds a replica whose node cannot be used now. The replica is not started elsewhere, because
    /// it may still run.
    fn on_blocked_node(
        &mut self,
        replica: PlacedReplica<'a>,
        blocked: &Blocked,
    ) -> (InstanceStatus, Up) {
        let was_here = self.index.last_seen[replica.position] == Some(replica.node);
        let view = self.observed.nodes.get(replica.node);
        let view = view.map(AsRef::as_ref).filter(|_| was_here);
        let node = replica.node.clone();
        let (by, verdict) = if let HeldBy::NodeIsStopped { .. } = &blocked.by {
            (blocked.by.clone(), Verdict::NotStarted)
        } else {
            (HeldBy::Node { node }, blocked.verdict())
        };
        self.hold(Subject::Instance(replica.id.clone()), by);
        let status = InstanceStatus {
            node: Some(replica.node.clone()),
            container: None,
            state: state::without_container(view, verdict),
            settled: blocked.settled,
        };
        (status, Up::default())
    }

    /// Plans a replica that has no container of the declared specification on its node.
    fn create(
        &mut self,
        replica: PlacedReplica<'a>,
        containers: &Containers<'a>,
        dependencies: &Dependencies,
    ) -> (InstanceStatus, Up) {
        // A container of an earlier specification keeps serving until its successor may start.
        let serving = containers.others.iter().find(|seen| seen.is_running());
        let up = serving.map_or(Up::default(), |seen| self.up_of(seen));
        let planned = |verdict, settled| (status(replica, serving, verdict, settled), up);
        if self.awaits_comparison(replica, containers) {
            // A dependent service that must start waits until it is known whether this replica is
            // replaced.
            let (status, _) = planned(Verdict::Open, false);
            return (status, Up::default());
        }
        let needs = self.needs_of_new(replica).and_then(|needs| {
            let replaces = containers.others.iter().any(Seen::is_running);
            if replaces {
                self.images_of_joiners(replica, needs)
            } else {
                Ok(needs)
            }
        });
        let order = self.order(replica, None, &containers.others);
        if let Err(blocked) = self.turn(replica, order) {
            return self.wait_for_turn(replica, containers, dependencies, &blocked);
        }
        let needs = match needs {
            Ok(needs) => needs,
            Err(blocked) => {
                self.serving.insert(replica.position);
                self.hold(Subject::Instance(replica.id.clone()), blocked.by.clone());
                return planned(blocked.verdict(), blocked.settled);
            }
        };
        let joined = self.needs_of_network(replica, dependencies);
        let (needs, joins) = match joined {
            Ok((steps, joins)) => (needs.into_iter().chain(steps).collect(), joins),
            Err(blocked) => {
                self.serving.insert(replica.position);
                self.hold(Subject::Instance(replica.id.clone()), blocked.by.clone());
                let verdict = if blocked.settled {
                    Verdict::NotStarted
                } else {
                    Verdict::Open
                };
                return planned(verdict, blocked.settled);
            }
        };
        let reason = match containers.others.first() {
            None => self.reason_to_create(replica),
            Some(old) => replaced(old, replica),
        };
        let before = self.extent();
        let stopped = self
            .remove_unusable(replica, &containers.others, &reason, needs)
            .and_then(|needs| self.free_ports(replica, needs))
            .and_then(|needs| self.remove_stopped(replica.id, &containers.others, &reason, needs))
            .and_then(|needs| match order {
                ReplacementOrder::StartFirst => Ok(needs),
                ReplacementOrder::StopFirst => {
                    self.stop_running(replica.id, &containers.others, &reason, needs)
                }
            });
        let needs = match stopped {
            Ok(needs) => needs,
            Err(blocked) => return planned(blocked.verdict(), blocked.settled),
        };
        let digest = &replica.service.digest;
        let start = self.propose(
            Action::StartInstance {
                instance: replica.id.clone(),
                container: self.declared.container_name(replica.id, digest),
                node: replica.node.clone(),
                joins,
            },
            needs,
            reason,
        );
        match start {
            Gate::Blocked(blocked)
                if blocked.settled
                    && let Some(previous) = containers.previous(replica) =>
            {
                let why = blocked.by.to_string();
                self.reject(replica, containers, previous, why, before, dependencies)
            }
            Gate::Blocked(blocked) => {
                self.takes_turn(replica.position, order);
                planned(blocked.verdict(), blocked.settled)
            }
            Gate::After(step) => {
                self.takes_turn(replica.position, order);
                self.starts[replica.position] = Some(step);
                planned(Verdict::Open, false)
            }
            Gate::Open => planned(Verdict::Open, false),
        }
    }

    /// Returns the steps that must be done before a new container can start, apart from the
    /// service's dependencies.
    fn needs_of_new(&mut self, replica: PlacedReplica<'a>) -> Result<BTreeSet<StepId>, Blocked> {
        let mut needs = BTreeSet::new();
        let node = self.node_gates.get(replica.node);
        node.cloned().unwrap_or(Gate::Open).pass(&mut needs)?;
        self.gone_elsewhere(replica).pass(&mut needs)?;
        self.volumes_exist(replica).pass(&mut needs)?;
        self.service_image(replica).pass(&mut needs)?;
        self.agent_gate(replica.node).pass(&mut needs)?;
        self.closed_ports(replica).pass(&mut needs)?;
        Ok(needs)
    }

    /// Brings the replica's built image to its node before anything else happens to a container
    /// that may differ from the declared specification only in the image's name. Returns whether
    /// the replica waits for the image.
    fn awaits_comparison(
        &mut self,
        replica: PlacedReplica<'a>,
        containers: &Containers<'a>,
    ) -> bool {
        let PlacedReplica { node, service, .. } = replica;
        let is_built = matches!(service.spec.source, ImageSource::Build(_));
        let may_be_current = |seen: &Seen<'a>| seen.node == node && seen.may_be_current(service);
        if !is_built || !containers.others.iter().any(may_be_current) {
            return false;
        }
        let Gate::After(_) = self.service_image(replica) else {
            return false;
        };
        self.compared.insert(replica.position);
        let by = HeldBy::Comparison {
            image: service.image.clone(),
        };
        self.hold(Subject::Instance(replica.id.clone()), by);
        true
    }

    /// Returns the reason to create a container for a replica that has none.
    fn reason_to_create(&self, replica: PlacedReplica<'a>) -> Reason {
        let view = self.observed.nodes.get(replica.node);
        let state = view.and_then(|view| view.engine_state());
        let mounts = &replica.service.spec.container.volumes;
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

    /// Returns a gate that is blocked if a volume that the service used on this node has vanished.
    fn volumes_exist(&self, replica: PlacedReplica<'a>) -> Gate {
        let PlacedReplica { node, service, .. } = replica;
        let view = self.observed.nodes.get(node);
        let state = view.and_then(|view| view.engine_state());
        let (Some(state), Some(used)) = (state, self.history.volumes.get(node)) else {
            return Gate::Open;
        };
        let mounts = service.spec.container.volumes.iter();
        let mut managed = mounts.filter(|mount| !mount.options.external);
        let vanished = managed
            .find(|mount| used.contains(&mount.volume) && !state.volumes.contains(&mount.volume));
        match vanished {
            Some(mount) => {
                let by = HeldBy::VolumeVanished {
                    volume: mount.volume.clone(),
                    node: node.clone(),
                    service: service.spec.name.clone(),
                };
                Gate::blocked(by, true)
            }
            None => Gate::Open,
        }
    }

    /// Returns a gate that opens when the replica can no longer be running, unobserved, on another
    /// node.
    fn gone_elsewhere(&mut self, replica: PlacedReplica<'a>) -> Gate {
        let observed = self.observed;
        let elsewhere = |last: &&NodeName| *last != replica.node;
        let Some(last) = self.index.last_seen[replica.position].filter(elsewhere) else {
            return Gate::Open;
        };
        let Some(view) = observed.nodes.get(last) else {
            // The node no longer exists, unless the cloud could not be polled.
            let Some(unknown) = &observed.cloud_unknown else {
                return Gate::Open;
            };
            let by = HeldBy::CloudUnknown {
                since: unknown.since,
                why: unknown.why.clone(),
            };
            let settled = self.has_passed(unknown.since, self.policy.unknown_before_failed);
            return Gate::blocked(by, settled);
        };
        if !view.may_run_unseen() {
            return Gate::Open;
        }
        if let Some(deletion) = self.unreachable_deletions.get(last) {
            return deletion.clone();
        }
        match &view.engine {
            EngineView::Unknown(unknown) => {
                let by = HeldBy::NodeUnknown {
                    node: last.clone(),
                    since: unknown.since,
                    why: unknown.why.clone(),
                };
                let settled = self.has_passed(unknown.since, self.policy.unknown_before_failed);
                Gate::blocked(by, settled)
            }
            _ => Gate::blocked(HeldBy::Node { node: last.clone() }, false),
        }
    }
}
