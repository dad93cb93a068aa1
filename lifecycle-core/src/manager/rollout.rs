//! Records rollouts as operations, and accepts requests about them. Only the planner decides which
//! replicas are replaced, and when.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::{Accepted, Manager, is_platform_deletion};
use crate::error::{Error, Result};
use crate::model::{
    EventKind, InstanceState, NewEvent, Operation, OperationId, OperationKind, OperationState,
    RolloutControl, RolloutRequest, ServiceName, SpecDigest, Subject,
};
use crate::reconcile::{RetryOptions, RolloutProgress, RolloutState, Round};
use crate::registry::{Batch, Change};

impl Manager {
    /// Pauses, resumes or rolls back the rollout of a service. Repeating a request changes nothing.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if the service is not declared
    /// - [`Error::Conflict`] if all replicas of the service run as declared: their previous
    ///   containers are removed
    /// - [`Error::NotReady`] before the end of the first round
    pub async fn rollout(&self, name: &str, request: RolloutRequest) -> Result<Operation> {
        let write = self.begin_write(Accepted::AfterFirstRound).await?;
        if let Some(operation) = self.answered_operation(&write).await? {
            return Ok(operation);
        }
        let registry = &self.backends.registry;
        let failed = |why: &str| Error::Conflict {
            what: format!("the {} of the rollout of {name} failed", noun(request)),
            why: why.to_owned(),
        };
        let open = registry.open_operations().await?;
        if open.iter().any(is_platform_deletion) {
            return Err(failed("the platform is being deleted"));
        }
        let round = self.round();
        let snapshot = registry.snapshot().await?;
        let current = snapshot.declaration.map(|(generation, _)| generation);
        if current != Some(round.generation()) {
            let why = "the latest declaration has not been planned yet";
            return Err(Error::not_ready(format!("the rollout of {name}"), why));
        }
        let declared = round.input.as_ref().map(|input| &input.declared.services);
        let services = || declared.into_iter().flatten();
        let Some((service, spec)) = services().find(|(known, _)| known.as_str() == name) else {
            let known = services().map(|(service, _)| service.as_str());
            return Err(Error::unknown_name(format!("service {name}"), name, known));
        };
        let Some(progress) = round.plan.rollouts.get(service) else {
            return Err(failed(
                "all replicas of the service run as declared; to return to an earlier version, \
                 declare it again and run `up`",
            ));
        };
        let same = open.iter().find(|o| is_rollout(o, service, &spec.digest));
        let goes_back = same.and_then(requested) == Some(RolloutRequest::Rollback)
            || matches!(
                progress.state,
                RolloutState::RollingBack | RolloutState::RolledBack
            );
        if request == RolloutRequest::Pause && goes_back {
            return Err(failed("a rollback cannot be paused"));
        }
        let is_repeated = same.is_some_and(|same| requested(same) == Some(request));
        // A rollout that has failed again can be resumed again.
        let resumes_again = request == RolloutRequest::Resume && is_stopped(progress);
        if let Some(same) = same.filter(|_| is_repeated && !resumes_again) {
            return self.join(&write, same).await;
        }
        let now = self.backends.clock.now();
        let id = same.map_or_else(|| OperationId(self.backends.ids.uuid()), |same| same.id);
        let operation = Operation {
            id,
            kind: OperationKind::Rollout {
                service: service.clone(),
                digest: spec.digest.clone(),
                request: Some(request),
            },
            state: OperationState::Running,
            requested_at: now,
        };
        let event = NewEvent {
            at: now,
            kind: EventKind::RolloutRequested,
            subject: Subject::Service(service.clone()),
            message: format!("{} of the rollout of {service} requested", noun(request)),
            data: serde_json::json!({ "operation": id, "request": request }),
        };
        let audit = self.audit(&format!("rollout {request}"), event.subject.clone());
        let mut batch = Batch::of(Change::PutOperation(operation.clone()));
        batch.changes.extend(write.answer(&operation.id)?);
        let batch = batch.event(audit).event(event);
        registry.commit(write.epoch, batch).await?;
        self.open_operations().retain(|open| open.id != id);
        self.open_operations().push(operation.clone());
        self.aim_operations();
        if request == RolloutRequest::Resume && is_stopped(progress) {
            let subject = Subject::Service(service.clone());
            self.request_retry(subject, RetryOptions::default(), None)?;
        }
        self.accepted.notify_one();
        Ok(operation)
    }

    /// Returns the requests about the open rollouts.
    pub(super) fn rollout_requests(&self) -> Arc<BTreeMap<ServiceName, RolloutControl>> {
        let open = self.open_operations();
        let requests = open.iter().filter_map(|operation| match &operation.kind {
            OperationKind::Rollout {
                service,
                digest,
                request: Some(request),
            } => {
                let control = RolloutControl {
                    digest: digest.clone(),
                    request: *request,
                    at: operation.requested_at,
                };
                Some((service.clone(), control))
            }
            _ => None,
        });
        Arc::new(requests.collect())
    }

    /// Records the rollouts that have begun, and those that have ended.
    pub(super) async fn follow_rollouts(&self, round: &Round) -> Result<()> {
        let Some(input) = round.input.as_ref().filter(|_| !round.is_deleting()) else {
            return Ok(());
        };
        if self.open_operations().is_empty() && round.plan.rollouts.is_empty() {
            return Ok(());
        }
        // A request that is being accepted must not be overwritten.
        let epoch = self.epoch.lock().await;
        let Some(epoch) = *epoch else { return Ok(()) };
        let at = self.backends.clock.now();
        let mut batch = Batch::default();
        let open: Vec<Operation> = {
            let open = self.open_operations();
            let rollouts = open
                .iter()
                .filter(|o| matches!(o.kind, OperationKind::Rollout { .. }));
            rollouts.cloned().collect()
        };
        let mut ended = Vec::new();
        for operation in &open {
            let OperationKind::Rollout {
                service, digest, ..
            } = &operation.kind
            else {
                continue;
            };
            let declared = input.declared.services.get(service);
            let is_declared = declared.is_some_and(|declared| declared.digest == *digest);
            let progress = round.plan.rollouts.get(service).filter(|_| is_declared);
            let handled = input
                .history
                .rollouts
                .get(service)
                .map(|c| (c.request, c.at));
            let sent = requested(operation).map(|request| (request, operation.requested_at));
            if handled != sent && is_declared {
                // The round does not take the request into account yet.
                continue;
            }
            if is_declared && progress.is_none() && has_unseen(round, service) {
                // A replica may still run the previous specification.
                continue;
            }
            if let Some(state) = outcome(operation, is_declared, progress, at) {
                let message = match &state {
                    OperationState::Failed { why, .. } => {
                        format!("the rollout of {service} failed: {why}")
                    }
                    _ => format!("the rollout of {service} is complete"),
                };
                ended.push(operation.id);
                batch.events.push(event(
                    EventKind::RolloutEnded,
                    operation.id,
                    service,
                    message,
                    at,
                ));
                batch.changes.push(Change::PutOperation(Operation {
                    state,
                    ..operation.clone()
                }));
            }
        }
        let mut begun = Vec::new();
        for (service, progress) in &round.plan.rollouts {
            let Some(declared) = input.declared.services.get(service) else {
                continue;
            };
            let is_open = open
                .iter()
                .any(|o| is_rollout(o, service, &declared.digest));
            if is_open || progress.state != RolloutState::Progressing {
                continue;
            }
            let operation = Operation {
                id: OperationId(self.backends.ids.uuid()),
                kind: OperationKind::Rollout {
                    service: service.clone(),
                    digest: declared.digest.clone(),
                    request: None,
                },
                state: OperationState::Running,
                requested_at: at,
            };
            let message = format!(
                "the rollout of {service} has begun; replicas: {}",
                progress.replicas
            );
            let started = event(
                EventKind::RolloutStarted,
                operation.id,
                service,
                message,
                at,
            );
            batch.events.push(started);
            batch.changes.push(Change::PutOperation(operation.clone()));
            begun.push(operation);
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.backends.registry.commit(epoch, batch).await?;
        let mut open = self.open_operations();
        open.retain(|operation| !ended.contains(&operation.id));
        open.extend(begun);
        drop(open);
        if !ended.is_empty() {
            self.aim_operations();
        }
        Ok(())
    }
}

/// Returns whether a replica of the service cannot be observed.
fn has_unseen(round: &Round, service: &ServiceName) -> bool {
    let instances = round.plan.instances.iter();
    let mut own = instances.filter(|(id, _)| id.service == *service);
    own.any(|(_, status)| matches!(status.state, InstanceState::Unknown { .. }))
}

fn event(
    kind: EventKind,
    id: OperationId,
    service: &ServiceName,
    message: String,
    at: DateTime<Utc>,
) -> NewEvent {
    NewEvent {
        at,
        kind,
        subject: Subject::Service(service.clone()),
        message,
        data: serde_json::json!({ "operation": id }),
    }
}

fn is_rollout(operation: &Operation, name: &ServiceName, of: &SpecDigest) -> bool {
    let kind = &operation.kind;
    matches!(kind, OperationKind::Rollout { service, digest, .. } if service == name && digest == of)
}

fn requested(operation: &Operation) -> Option<RolloutRequest> {
    match operation.kind {
        OperationKind::Rollout { request, .. } => request,
        _ => None,
    }
}

/// Returns whether a rollout goes on only after a request.
fn is_stopped(progress: &RolloutProgress) -> bool {
    match progress.state {
        RolloutState::Progressing => false,
        RolloutState::Paused
        | RolloutState::Failed
        | RolloutState::RollingBack
        | RolloutState::RolledBack => true,
    }
}

fn noun(request: RolloutRequest) -> &'static str {
    match request {
        RolloutRequest::Pause => "pause",
        RolloutRequest::Resume => "resumption",
        RolloutRequest::Rollback => "rollback",
    }
}

/// Returns how a rollout ended; `None` if it has not ended.
fn outcome(
    operation: &Operation,
    is_declared: bool,
    progress: Option<&RolloutProgress>,
    at: DateTime<Utc>,
) -> Option<OperationState> {
    let failed = |why: String| Some(OperationState::Failed { at, why });
    if !is_declared {
        return failed("the specification is no longer declared".into());
    }
    let Some(progress) = progress else {
        return Some(OperationState::Succeeded { at });
    };
    let why = || progress.why.clone().unwrap_or_else(|| progress.to_string());
    match progress.state {
        RolloutState::Progressing | RolloutState::RollingBack => None,
        RolloutState::Paused if requested(operation) == Some(RolloutRequest::Pause) => None,
        RolloutState::Paused | RolloutState::Failed | RolloutState::RolledBack => failed(why()),
    }
}
