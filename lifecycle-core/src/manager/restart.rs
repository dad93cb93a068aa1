//! Accepts restarts of services, and of nodes. A restart is an operation. It lists the runs of
//! containers ([`ContainerRun`]) that the control loop must replace.

pub(super) mod ending;
mod node;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::{Accepted, Manager, is_platform_deletion, scope};
use crate::error::{Error, Result};
use crate::model::{
    ContainerId, ContainerRun, EventKind, InstanceId, InstanceState, NewEvent, NodeName, Operation,
    OperationId, OperationKind, OperationState, Replica, ServiceName, Subject,
};
use crate::platform::Declaration;
use crate::reconcile::{NodeView, Observed};
use crate::registry::{Batch, Change};
use crate::runtime::ObservedContainer;

impl Manager {
    /// Starts to restart the containers of a service, or of one replica (`web-2`). With `replaces`,
    /// restarts only replicas whose current run started at the given time, so the call can be
    /// repeated safely.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if the name is not declared
    /// - [`Error::Forbidden`] if the request is limited to some services, and others would be restarted
    /// - [`Error::Conflict`] if none of the containers has been started, or a replica's node is
    ///   unreachable
    /// - [`Error::NotReady`] before the end of the first round
    pub async fn restart(
        &self,
        name: &str,
        replaces: Option<&BTreeMap<InstanceId, DateTime<Utc>>>,
    ) -> Result<Operation> {
        let write = self.begin_write(Accepted::AfterFirstRound).await?;
        if let Some(operation) = self.answered_operation(&write).await? {
            return Ok(operation);
        }
        let epoch = write.epoch;
        let registry = &self.backends.registry;
        let open = registry.open_operations().await?;
        if open.iter().any(is_platform_deletion) {
            return Err(Error::Conflict {
                what: format!("restarting {name} failed"),
                why: "the platform is being deleted".into(),
            });
        }
        let snapshot = registry.snapshot().await?;
        let declaration = snapshot.declaration.as_ref().map(|(_, d)| d);
        let (service, replicas) = resolve(name, declaration)?;
        // A restart includes the services that join the network of the restarted one.
        if let Some((scope, declaration)) = scope::current().zip(declaration) {
            declaration.check_group(service.as_str(), &scope)?;
        }
        let mut runs = self.runs_of(&replicas);
        let starts = |runs: &BTreeMap<InstanceId, ContainerRun>| -> BTreeMap<_, _> {
            let start = |(id, run): (&InstanceId, &ContainerRun)| (id.clone(), run.started_at);
            runs.iter().map(start).collect()
        };
        let mut requested = replaces.cloned().unwrap_or_else(|| starts(&runs));
        requested.retain(|id, _| replicas.contains(id));
        if let Some(same) = restart_of(&requested, &open) {
            return self.join(&write, same).await;
        }
        let unknown = requested.keys().find(|id| self.is_unknown(id));
        let obstacle = match unknown {
            Some(id) => Some(format!("the node of {id} is unreachable")),
            None if runs.is_empty() => Some("none of its containers has been started".to_owned()),
            None => None,
        };
        if let Some(why) = obstacle {
            return Err(Error::Conflict {
                what: format!("restarting {name} failed"),
                why,
            });
        }
        runs.retain(|id, run| requested.get(id) == Some(&run.started_at));
        // A container that joins the network of another one loses it when that one is restarted.
        let joiners = joiners(runs.keys(), declaration);
        runs.extend(self.runs_of(&joiners));
        if let Some(same) = restart_of(&starts(&runs), &open) {
            return self.join(&write, same).await;
        }
        let now = self.backends.clock.now();
        let operation = Operation {
            id: OperationId(self.backends.ids.uuid()),
            state: if runs.is_empty() {
                OperationState::Succeeded { at: now }
            } else {
                OperationState::Running
            },
            kind: OperationKind::Restart {
                service: service.clone(),
                replaces: runs.clone(),
                cancelled: false,
            },
            requested_at: now,
        };
        let mut batch = Batch::of(Change::PutOperation(operation.clone()));
        batch.changes.extend(write.answer(&operation.id)?);
        if !runs.is_empty() {
            let subject = Subject::Service(service.clone());
            let request = format!("restart {}", listed(runs.keys()));
            batch.events.push(self.audit(&request, subject));
            batch.events.push(NewEvent {
                at: now,
                kind: EventKind::RestartRequested,
                subject: Subject::Service(service),
                message: format!("restart of {} requested", listed(runs.keys())),
                data: serde_json::json!({ "operation": operation.id }),
            });
        }
        registry.commit(epoch, batch).await?;
        if !runs.is_empty() {
            self.open_operations().push(operation.clone());
            self.aim_operations();
            self.accepted.notify_one();
        }
        Ok(operation)
    }

    /// Returns whether the replica's state is unknown because its node is unreachable.
    fn is_unknown(&self, id: &InstanceId) -> bool {
        let round = self.round();
        let status = round.plan.instances.get(id);
        status.is_some_and(|status| matches!(status.state, InstanceState::Unknown { .. }))
    }

    /// Returns whether a run of a container continues, according to the latest round: it has not ended,
    /// and no step is about to end it.
    pub(super) fn continues(&self, run: &ContainerRun) -> bool {
        let round = self.round();
        let observed = round.observed();
        let runs = |view: &NodeView| {
            let state = view.engine_state().into_iter();
            let mut containers = state.flat_map(|state| &state.containers);
            containers.any(|container| {
                container.id == run.container
                    && container.state.is_running()
                    && container.started_at == Some(run.started_at)
            })
        };
        let is_stopping = |node: &NodeName| {
            let mut steps = round.running.iter();
            steps.any(|step| step.id.node() == node && step.id.stops())
        };
        let mut nodes = observed.nodes.iter();
        nodes.any(|(node, view)| runs(view) && !is_stopping(node))
    }

    /// Returns the current run of each replica whose container was started.
    fn runs_of(&self, replicas: &[InstanceId]) -> BTreeMap<InstanceId, ContainerRun> {
        let round = self.round();
        let observed = round.observed();
        let run = |id: &InstanceId| {
            let container = round.plan.instances.get(id)?.container.clone()?;
            let started_at = find(&observed, &container)?.started_at?;
            let run = ContainerRun {
                container,
                started_at,
            };
            Some((id.clone(), run))
        };
        replicas.iter().filter_map(run).collect()
    }
}

/// Returns the open restart that replaces all runs with these start times.
fn restart_of<'o>(
    runs: &BTreeMap<InstanceId, DateTime<Utc>>,
    open: &'o [Operation],
) -> Option<&'o Operation> {
    let replaces_all = |operation: &&Operation| match &operation.kind {
        OperationKind::Restart {
            replaces,
            cancelled: false,
            ..
        } => runs.iter().all(|(id, started_at)| {
            let run = replaces.get(id);
            run.is_some_and(|run| run.started_at == *started_at)
        }),
        OperationKind::Declare { .. }
        | OperationKind::DeletePlatform { .. }
        | OperationKind::Restart { .. }
        | OperationKind::RestartNode { .. }
        | OperationKind::PrepareNode { .. }
        | OperationKind::Rollout { .. } => false,
    };
    open.iter()
        .find(|operation| !runs.is_empty() && replaces_all(operation))
}

/// Resolves the name of a service to all its replicas, and the name of a replica to that replica.
fn resolve(
    name: &str,
    declaration: Option<&Declaration>,
) -> Result<(ServiceName, Vec<InstanceId>)> {
    let services = || declaration.iter().flat_map(|d| &d.services);
    if let Some((service, spec)) = services().find(|(known, _)| known.as_str() == name) {
        let replicas = (1..=spec.replicas).map(|number| InstanceId {
            service: service.clone(),
            replica: Replica(number),
        });
        return Ok((service.clone(), replicas.collect()));
    }
    declaration
        .and_then(|declaration| declaration.replica_named(name))
        .map(|id| (id.service.clone(), vec![id]))
        .ok_or_else(|| {
            let known = services().map(|(service, _)| service.as_str());
            Error::unknown_name(format!("service or replica {name}"), name, known)
        })
}

/// Returns the replicas that join the network of one of these replicas.
fn joiners<'r>(
    replicas: impl Iterator<Item = &'r InstanceId>,
    declaration: Option<&Declaration>,
) -> Vec<InstanceId> {
    let services = || declaration.iter().flat_map(|d| d.services.values());
    let of = |joined: &InstanceId| {
        let joins = services().filter(|spec| {
            spec.container.connection.joins() == Some(&joined.service)
                && spec.replicas >= joined.replica.0
        });
        let replica = joined.replica;
        let ids = joins.map(|spec| InstanceId {
            service: spec.name.clone(),
            replica,
        });
        ids.collect::<Vec<_>>()
    };
    replicas.flat_map(of).collect()
}

fn find<'a>(observed: &'a Observed, container: &ContainerId) -> Option<&'a ObservedContainer> {
    let states = observed.nodes.values().filter_map(|v| v.engine_state());
    let mut containers = states.flat_map(|state| &state.containers);
    containers.find(|found| found.id == *container)
}

fn listed<'a>(ids: impl Iterator<Item = &'a InstanceId>) -> String {
    let ids: Vec<String> = ids.map(ToString::to_string).collect();
    ids.join(", ")
}
