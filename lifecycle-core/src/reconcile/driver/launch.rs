//! Chooses which steps of the latest plan to start, and runs them.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use chrono::{DateTime, Utc};
use tracing::Instrument as _;

use super::load::Load;
use super::{Driver, Running, Target};
use crate::cloud::NodeChange;
use crate::error::Result;
use crate::model::{EventKind, InstanceId, InstanceRecord, NodeName, VolumeName};
use crate::reconcile::execute::Execution;
use crate::reconcile::feeder::Drain;
use crate::reconcile::liveness::Stop;
use crate::reconcile::observe::Observed;
use crate::reconcile::step::{Action, Reason, Step};
use crate::registry::{Batch, Change};
use crate::runtime::Role;

impl Driver {
    /// Starts every step of the latest plan that may start now.
    pub(super) async fn launch(&mut self) -> Result<()> {
        let launches = self.choose();
        if launches.is_empty() {
            return Ok(());
        }
        self.withdraw(&launches).await?;
        if let Some(latest) = &self.latest {
            let (target, observed) = (latest.target.clone(), Arc::clone(&latest.input.observed));
            self.update_agents(&target, &observed, &launches);
        }
        let now = self.backends.clock.now();
        for step in launches {
            let Some(latest) = &self.latest else {
                break;
            };
            if let Some(container) = step.action.ended_container() {
                let stop = match &step.reason {
                    Reason::Unhealthy { .. } => Stop::Unhealthy,
                    _ => Stop::Planned,
                };
                self.watcher.expect_end(container, stop);
            }
            let execution = self.execution(&step.action, &latest.target, &latest.input.observed);
            self.spawn(step.action, execution, now);
        }
        Ok(())
    }

    fn choose(&mut self) -> Vec<Step> {
        let Some(latest) = &mut self.latest else {
            return Vec::new();
        };
        let mut load = Load::of(self.running.values().map(|r| &r.action));
        let mut busy: BTreeSet<InstanceId> = self
            .running
            .values()
            .map(|r| &r.action)
            .chain(self.settling.values().map(|s| &s.action))
            .filter_map(|action| action.instance().cloned())
            .collect();
        let mut chosen = Vec::new();
        let steps = &latest.plan.steps;
        latest.left.retain(|place| {
            let step = &steps[*place];
            if self.running.contains_key(&step.id) || self.settling.contains_key(&step.id) {
                return false;
            }
            let instance = step.action.instance();
            if !load.admits(&step.action, &self.options.bounds)
                || instance.is_some_and(|id| busy.contains(id))
            {
                return true;
            }
            busy.extend(instance.cloned());
            load.add(&step.action);
            chosen.push(step.clone());
            false
        });
        chosen
    }

    /// Withdraws the endpoints of containers before they are stopped. The driver, not the step,
    /// does this, so that registry writes follow the order of observations.
    async fn withdraw(&mut self, launches: &[Step]) -> Result<()> {
        let mut batch = Batch::default();
        for step in launches {
            let Some(id) = step.action.ended_container() else {
                continue;
            };
            let Some(recorded) = self.registry.instances.get(id) else {
                continue;
            };
            if recorded.endpoints.is_empty() {
                continue;
            }
            let record = InstanceRecord {
                endpoints: Vec::new(),
                ..recorded.clone()
            };
            let change = Change::PutInstance(Box::new(record));
            batch.changes.push(change);
        }
        if !batch.is_empty() {
            self.write(batch).await?;
        }
        Ok(())
    }

    /// Resumes the cloud operations that a previous process started.
    pub(super) fn resume(&mut self, target: &Target, observed: &Observed, now: DateTime<Utc>) {
        for operation in std::mem::take(&mut self.inherited) {
            let node = operation.change.node().clone();
            let action = match operation.change {
                NodeChange::Provision { .. } => Action::ProvisionNode { node },
                NodeChange::Start { .. } => Action::StartNode { node },
                NodeChange::Delete { .. } => Action::DeleteNode { node },
                NodeChange::Restart { boot_id, .. } => Action::RestartNode { node, boot_id },
                NodeChange::Stop { .. } => Action::StopNode { node },
            };
            let execution = self.execution(&action, target, observed);
            self.spawn(action, execution, now);
        }
    }

    fn execution(&self, action: &Action, target: &Target, observed: &Observed) -> Execution {
        let nodes = action.nodes();
        let machines = nodes.filter_map(|name| observed.nodes.get_key_value(name));
        Execution {
            backends: self.backends.clone(),
            declared: Arc::clone(&target.declared),
            machines: machines
                .map(|(name, view)| (name.clone(), view.machine.clone()))
                .collect(),
            api: target.api.clone(),
            deadlines: self.options.deadlines.clone(),
            under_way: self.operations.get(action.node()).cloned(),
            begun: self.begun.clone(),
            drain: self.drain(action),
            used_volumes: self.used_volumes_on(action.node()),
            replaces: replaces(action, observed),
        }
    }

    fn used_volumes_on(&self, node: &NodeName) -> BTreeSet<VolumeName> {
        let used = self.registry.volumes.keys().filter(|(on, _)| on == node);
        used.map(|(_, volume)| volume.clone()).collect()
    }

    /// Returns what `action` has to wait for before it stops a container, if it stops one.
    fn drain(&self, action: &Action) -> Option<Drain> {
        let Action::StopInstance {
            instance,
            container,
            ..
        } = action
        else {
            return None;
        };
        let declared = self.declared.subscribe();
        Some(self.feeder.drain(&instance.service, container, declared))
    }

    fn spawn(&mut self, action: Action, execution: Execution, now: DateTime<Utc>) {
        let lines = Arc::clone(&self.lines);
        let id = action.id();
        if self.failures.contains_key(&id) {
            self.count_retry(&action);
        }
        self.running.insert(
            id.clone(),
            Running {
                action: action.clone(),
                since: now,
                until: chrono::TimeDelta::from_std(execution.limit(&action))
                    .ok()
                    .and_then(|limit| now.checked_add_signed(limit)),
            },
        );
        self.record_event(EventKind::StepStarted, &action, action.to_string(), now);
        let line_id = id.clone();
        let span = tracing::info_span!("step", %id, node = %id.node());
        let work = async move {
            let progress = move |line: &str| {
                tracing::debug!("{line}");
                lines
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(line_id.clone(), line.to_owned());
            };
            execution.carry_out(&action, &progress).await
        };
        let task = self.tasks.spawn(work.instrument(span));
        self.task_steps.insert(task.id(), id);
    }
}

/// Returns whether `action` starts a container while another one of the same replica is running on
/// the node.
fn replaces(action: &Action, observed: &Observed) -> bool {
    let Action::StartInstance {
        instance,
        container,
        node,
        ..
    } = action
    else {
        return false;
    };
    let view = observed.nodes.get(node);
    let state = view.and_then(|view| view.engine_state());
    let mut containers = state.into_iter().flat_map(|state| &state.containers);
    containers.any(|other| {
        let is_of_replica = matches!(&other.role, Role::Instance(of) if of == instance);
        is_of_replica && other.name != *container && other.state.is_running()
    })
}
