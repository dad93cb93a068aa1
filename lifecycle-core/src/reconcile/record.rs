//! Computes the changes that bring the registry up to date with the observation, and the events
//! that report them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Utc};

use super::declared::Declared;
use super::endpoints::{published, reachable};
use super::input::PlanningInput;
use super::observe::{EngineView, NodeView, Observed, Readiness};
use super::state::{self, Verdict};
use super::step::Plan;
use crate::cloud::{CloudOperation, Power};
use crate::model::{
    ContainerId, EventKind, InstanceId, InstanceRecord, InstanceState, NewEvent, NodeName,
    RolloutControl, ServiceName, Subject, VolumeName,
};
use crate::registry::{Batch, Change, NodeRecord, Snapshot, VolumeRecord};
use crate::runtime::{ContainerState, ObservedContainer, Role};

/// Returns the batch that brings the registry up to date.
pub(super) fn record(
    input: &PlanningInput,
    plan: &Plan,
    under_way: &UnderWay,
    before: &Snapshot,
) -> Batch {
    let mut recording = Recording {
        declared: &input.declared,
        observed: &input.observed,
        rollouts: &input.history.rollouts,
        plan,
        under_way,
        before,
        now: input.now,
        batch: Batch::default(),
    };
    recording.nodes();
    recording.instances();
    recording.volumes();
    recording.rejections();
    recording.batch
}

/// Activities in progress that affect the records: stops of containers and changes of nodes.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    /// Containers that are being stopped or removed. They publish no endpoints.
    pub(super) stopping: BTreeSet<ContainerId>,
    /// Node changes that the cloud has accepted but not completed yet.
    pub(super) operations: BTreeMap<NodeName, CloudOperation>,
}

struct Recording<'a> {
    declared: &'a Declared,
    observed: &'a Observed,
    rollouts: &'a BTreeMap<ServiceName, RolloutControl>,
    plan: &'a Plan,
    under_way: &'a UnderWay,
    before: &'a Snapshot,
    now: DateTime<Utc>,
    batch: Batch,
}

impl Recording<'_> {
    fn nodes(&mut self) {
        for (name, view) in &self.observed.nodes {
            let old = self.before.nodes.get(name);
            let operation = self.under_way.operations.get(name).cloned();
            let record = node_record(name, view, old, operation);
            if old == Some(&record) {
                continue;
            }
            let was_unknown = old.is_some_and(|o| o.unknown.is_some());
            let subject = Subject::Node(name.clone());
            match (&record.unknown, was_unknown) {
                (Some(unknown), false) => self.event(
                    EventKind::NodeUnknown,
                    subject,
                    format!("node {name} is unreachable: {}", unknown.why),
                ),
                (None, true) => self.event(
                    EventKind::NodeKnown,
                    subject,
                    format!("node {name} responds again"),
                ),
                _ => {}
            }
            self.batch.changes.push(Change::PutNode(Box::new(record)));
        }
        if self.observed.cloud_unknown.is_some() {
            return;
        }
        let gone: Vec<NodeName> = self
            .before
            .nodes
            .keys()
            .filter(|n| !self.observed.nodes.contains_key(*n))
            .cloned()
            .collect();
        for name in gone {
            if !self.declared.nodes.contains_key(&name) {
                self.batch.changes.push(Change::DeleteNode(name));
                continue;
            }
            let record = NodeRecord {
                operation: self.under_way.operations.get(&name).cloned(),
                ..NodeRecord::new(name.clone())
            };
            if self.before.nodes.get(&name) != Some(&record) {
                self.batch.changes.push(Change::PutNode(Box::new(record)));
            }
        }
    }

    fn instances(&mut self) {
        let (observed, before) = (self.observed, self.before);
        let containers = || {
            observed.nodes.iter().flat_map(|(node, view)| {
                let state = view.engine_state().into_iter();
                let containers = state.flat_map(|state| &state.containers);
                containers.filter_map(move |container| match &container.role {
                    Role::Instance(id) => Some((node, view, id, container)),
                    Role::Manager | Role::Agent => None,
                })
            })
        };
        let mut known = 0;
        for (node, view, id, container) in containers() {
            known += usize::from(before.instances.contains_key(&container.id));
            let record = self.instance_record(id, node, view, container);
            self.put_instance(record, Some(container));
        }
        if known == before.instances.len() {
            return;
        }
        let seen: HashSet<&ContainerId> = containers().map(|(_, _, _, c)| &c.id).collect();
        let represented: HashSet<&InstanceId> = containers().map(|(_, _, id, _)| id).collect();
        for recorded in before.instances.values() {
            if !seen.contains(&recorded.container) {
                self.unseen(recorded.clone(), &represented);
            }
        }
    }

    /// Handles a recorded container that no engine currently lists.
    fn unseen(&mut self, mut record: InstanceRecord, represented: &HashSet<&InstanceId>) {
        let view = self.observed.nodes.get(&record.node).map(AsRef::as_ref);
        let keeps_state = match view.map(|view| &view.engine) {
            Some(EngineView::Unknown(_)) => false,
            // The engine was not observed yet, so the record may still be right.
            Some(EngineView::NotAsked) => {
                view.is_some_and(|view| view.machine.power == Power::Running)
            }
            None if self.observed.cloud_unknown.is_some() => true,
            Some(EngineView::Known { .. } | EngineView::Missing) | None => {
                // Keep the last record of a declared replica, because it contains the replica's
                // last node.
                if represented.contains(&record.id) || !self.declared.contains(&record.id) {
                    self.batch
                        .changes
                        .push(Change::DeleteInstance(record.container));
                    return;
                }
                record.ready_at = None;
                false
            }
        };
        if !keeps_state {
            record.endpoints = Vec::new();
            record.state = state::without_container(view, Verdict::Open);
            self.put_instance(record, None);
        }
    }

    fn instance_record(
        &self,
        id: &InstanceId,
        node: &NodeName,
        view: &NodeView,
        container: &ObservedContainer,
    ) -> InstanceRecord {
        let ready_at = match view.readiness.get(&container.id) {
            Some(Readiness::Ready { at }) => Some(*at),
            Some(Readiness::Waiting { .. }) | None => None,
        };
        let running = matches!(container.state, ContainerState::Running { .. });
        let state = state::of_planned_container(view, container, self.plan.instances.get(id));
        let publishes =
            state == InstanceState::Ready && !self.under_way.stopping.contains(&container.id);
        InstanceRecord {
            id: id.clone(),
            node: node.clone(),
            container: container.id.clone(),
            digest: container.digest.clone(),
            started_at: container.started_at,
            ready_at: ready_at.filter(|_| running),
            endpoints: if publishes {
                let template = self.declared.template(&id.service);
                let state = view.engine_state();
                let reachable = state.map(|state| reachable(state, container));
                let container = reachable.as_deref().unwrap_or(container);
                published(view.machine.addresses.private, container, template)
            } else {
                Vec::new()
            },
            state,
        }
    }

    fn put_instance(&mut self, record: InstanceRecord, container: Option<&ObservedContainer>) {
        let old = self.before.instances.get(&record.container);
        if old == Some(&record) {
            return;
        }
        let subject = Subject::Instance(record.id.clone());
        let was_ready = old.is_some_and(|o| o.state == InstanceState::Ready);
        let is_ready = record.state == InstanceState::Ready;
        if is_ready && !was_ready {
            let at: Vec<String> = record
                .endpoints
                .iter()
                .map(|e| format!("{}:{}", e.ip, e.port))
                .collect();
            let place = if at.is_empty() {
                format!("on {}", record.node)
            } else {
                format!("on {} at {}", record.node, at.join(", "))
            };
            self.event(
                EventKind::Ready,
                subject,
                format!("{} is ready {place}", record.id),
            );
        } else if was_ready && record.state == InstanceState::Completed {
            let message = format!("{} has completed", record.id);
            self.event(EventKind::NotReady, subject, message);
        } else if was_ready && !is_ready && self.is_ready_elsewhere(&record) {
            // Its successor has replaced the container.
        } else if was_ready && !is_ready {
            let why = match &record.state {
                InstanceState::Unhealthy { why } => format!("unhealthy: {why}"),
                InstanceState::Unknown { why, .. } => {
                    format!("node {} is unreachable: {why}", record.node)
                }
                state => {
                    let stopped = self.under_way.stopping.contains(&record.container);
                    let exit = container
                        .filter(|_| !stopped)
                        .and_then(ObservedContainer::exit);
                    match (exit, state) {
                        (Some(exit), _) => format!("its container ended with {exit}"),
                        (None, InstanceState::Failed { why }) => why.clone(),
                        (None, InstanceState::Stopped) if container.is_none() && !stopped => {
                            "its container was removed".to_owned()
                        }
                        (None, state) => state.word().to_owned(),
                    }
                }
            };
            self.event(
                EventKind::NotReady,
                subject,
                format!("{} is no longer ready: {why}", record.id),
            );
        } else if let Some(exit) = self.early_end(&record, old, container) {
            let message = format!("{} ended before it was ready: {exit}", record.id);
            self.event(EventKind::NotReady, subject, message);
        } else if let InstanceState::Failed { why } = &record.state
            && old.is_none_or(|o| !matches!(o.state, InstanceState::Failed { .. }))
        {
            self.event(
                EventKind::Failed,
                subject,
                format!("{} failed: {why}", record.id),
            );
        }
        let change = Change::PutInstance(Box::new(record));
        self.batch.changes.push(change);
    }

    /// Returns whether another container of the same replica is ready.
    fn is_ready_elsewhere(&self, record: &InstanceRecord) -> bool {
        let views = self.observed.nodes.values();
        let mut containers = views.flat_map(|view| {
            let state = view.engine_state().into_iter();
            let containers = state.flat_map(|state| &state.containers);
            containers.map(move |container| (view, container))
        });
        containers.any(|(view, container)| {
            container.id != record.container
                && matches!(&container.role, Role::Instance(id) if *id == record.id)
                && container.state.is_running()
                && matches!(
                    view.readiness.get(&container.id),
                    Some(Readiness::Ready { .. })
                )
        })
    }

    /// Returns how a container that was never ready ended by itself, if it is started again.
    fn early_end(
        &self,
        record: &InstanceRecord,
        old: Option<&InstanceRecord>,
        container: Option<&ObservedContainer>,
    ) -> Option<String> {
        let is_new = old.is_some_and(|old| {
            old.state == InstanceState::Starting || old.started_at != record.started_at
        });
        let ended = record.state == InstanceState::Stopped
            && is_new
            && !self.under_way.stopping.contains(&record.container);
        container.filter(|_| ended)?.exit()
    }

    /// Records the volumes that instances use, and reports those that vanished.
    fn volumes(&mut self) {
        let (declared, observed, before) = (self.declared, self.observed, self.before);
        let mounts = |service: &ServiceName, volume: &VolumeName| {
            let service = declared.services.get(service);
            let mounts = service.map(|service| &service.spec.container.volumes);
            let mut managed = mounts.into_iter().flatten();
            managed.any(|mount| mount.volume == *volume && !mount.options.external)
        };
        for (node, view) in &observed.nodes {
            let Some(state) = view.engine_state() else {
                continue;
            };
            for volume in &state.volumes {
                let record = before.volumes.get(&(node.clone(), volume.clone()));
                let is_used = || {
                    state
                        .containers
                        .iter()
                        .any(|container| match &container.role {
                            Role::Instance(id) => {
                                container.started_at.is_some() && mounts(&id.service, volume)
                            }
                            Role::Manager | Role::Agent => false,
                        })
                };
                if record.map_or_else(is_used, |record| record.is_missing) {
                    self.put_volume(node, volume, false);
                }
            }
        }
        for record in before.volumes.values() {
            let VolumeRecord { node, volume, .. } = record;
            let exists = match observed.nodes.get(node) {
                Some(view) => match view.engine_state() {
                    Some(state) => state.volumes.contains(volume),
                    None => continue,
                },
                None if observed.cloud_unknown.is_some() => continue,
                None => false,
            };
            if exists {
                continue;
            }
            // The last record of a declared replica is kept, so a replica that used the volume has one.
            let is_needed = before
                .instances
                .values()
                .any(|instance| instance.node == *node && mounts(&instance.id.service, volume));
            let node_exists = observed.nodes.contains_key(node);
            if is_needed && node_exists && !record.is_missing {
                self.put_volume(node, volume, true);
            } else if !is_needed || !node_exists {
                let delete = Change::DeleteVolume(node.clone(), volume.clone());
                self.batch.changes.push(delete);
            }
        }
    }

    fn put_volume(&mut self, node: &NodeName, volume: &VolumeName, is_missing: bool) {
        let key = (node.clone(), volume.clone());
        let was_missing = self.before.volumes.get(&key).is_some_and(|v| v.is_missing);
        let subject = Subject::Node(node.clone());
        if is_missing {
            let message = format!(
                "the volume {volume} no longer exists on {node}; its services are not started with an \
                 empty one until `bootstrapper retry NAME --recreate-volume`"
            );
            self.event(EventKind::VolumeVanished, subject, message);
        } else if was_missing {
            let message = format!("the volume {volume} exists again on {node}");
            self.event(EventKind::VolumeFound, subject, message);
        }
        self.batch.changes.push(Change::PutVolume(VolumeRecord {
            node: node.clone(),
            volume: volume.clone(),
            is_missing,
        }));
    }

    fn rejections(&mut self) {
        for rejected in &self.plan.rejects {
            self.batch.changes.push(Change::Reject(rejected.clone()));
            self.event(
                EventKind::Failed,
                Subject::Instance(rejected.id.clone()),
                format!(
                    "the new specification of {} was rejected: {}",
                    rejected.id, rejected.why
                ),
            );
        }
        let obsolete: Vec<InstanceId> = self
            .before
            .rejected
            .values()
            .filter(|r| self.plan.rejects.iter().all(|new| new.id != r.id))
            .filter(|r| {
                let service = self.declared.services.get(&r.id.service);
                let control = self.rollouts.get(&r.id.service);
                service.is_none_or(|s| s.digest != r.digest)
                    || control.is_some_and(|c| c.digest == r.digest && c.supersedes(r.at))
            })
            .map(|r| r.id.clone())
            .collect();
        for id in obsolete {
            self.batch.changes.push(Change::ClearRejected(id));
        }
    }

    fn event(&mut self, kind: EventKind, subject: Subject, message: String) {
        self.batch.events.push(NewEvent {
            at: self.now,
            kind,
            subject,
            message,
            data: serde_json::Value::Null,
        });
    }
}

fn node_record(
    name: &NodeName,
    view: &NodeView,
    old: Option<&NodeRecord>,
    operation: Option<CloudOperation>,
) -> NodeRecord {
    let (engine, unknown) = match &view.engine {
        EngineView::Known { info, .. } => (Some(info.clone()), None),
        EngineView::Unknown(unknown) => (old.and_then(|o| o.engine.clone()), Some(unknown.clone())),
        EngineView::NotAsked => (old.and_then(|o| o.engine.clone()), None),
        EngineView::Missing => (None, None),
    };
    NodeRecord {
        name: name.clone(),
        observed: Some(view.machine.clone()),
        engine,
        host_keys: view.machine.ssh.host_keys.clone(),
        unknown,
        operation,
    }
}
