//! Runs asynchronous operations and responds to polls.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::call::Call;
use super::id::ResourceId;
use super::problem::Problem;
use super::resource::Resource;
use super::state::ArmState;
use crate::simulator::cloud::Cloud;
use crate::simulator::fault::Injected;

/// How long an operation can be polled after it has finished.
const KEPT: TimeDelta = TimeDelta::hours(24);

pub(crate) type OperationId = Uuid;

#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) subscription: String,
    pub(crate) namespace: &'static str,
    pub(crate) location: String,
    pub(crate) started: DateTime<Utc>,
    pub(crate) end: Option<End>,
    /// The path of the resource that a poll returns after the operation has succeeded, if any.
    pub(crate) result: Option<String>,
    stop: CancellationToken,
}

/// The end time and the result of an operation.
#[derive(Debug)]
pub(crate) struct End {
    at: DateTime<Utc>,
    pub(crate) outcome: Outcome,
}

/// The result of an operation.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Succeeded,
    Failed(Problem),
    Canceled(Problem),
}

impl Operation {
    /// Returns the status document for clients that poll.
    pub(crate) fn status(&self, id: OperationId) -> Value {
        let written = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
        let mut status = json!({"startTime": written(self.started), "name": id});
        let Some(end) = &self.end else {
            status["status"] = "InProgress".into();
            return status;
        };
        status["endTime"] = written(end.at).into();
        match &end.outcome {
            Outcome::Succeeded => status["status"] = "Succeeded".into(),
            Outcome::Failed(problem) => {
                status["status"] = "Failed".into();
                status["error"] = json!(problem);
            }
            Outcome::Canceled(problem) => {
                status["status"] = "Canceled".into();
                status["error"] = json!(problem);
            }
        }
        status
    }
}

#[derive(Debug, Default)]
pub(crate) struct Operations(BTreeMap<OperationId, Operation>);

impl Operations {
    pub(crate) fn get(&self, id: OperationId) -> Option<&Operation> {
        self.0.get(&id)
    }

    /// Removes operations that ended before `before`.
    fn forget(&mut self, before: DateTime<Utc>) {
        let kept =
            |operation: &Operation| operation.end.as_ref().is_none_or(|end| end.at >= before);
        self.0.retain(|_, operation| kept(operation));
    }

    fn end(&mut self, id: OperationId, at: DateTime<Utc>, outcome: Outcome) {
        if let Some(operation) = self.0.get_mut(&id)
            && operation.end.is_none()
        {
            operation.end = Some(End { at, outcome });
            operation.stop.cancel();
        }
    }

    /// Ends an operation that a later operation has replaced.
    pub(crate) fn preempt(&mut self, id: OperationId, at: DateTime<Utc>) {
        let message = "The operation has been preempted by a more recent operation.";
        let problem = Problem::new("OperationPreempted", message);
        self.end(id, at, Outcome::Canceled(problem));
    }
}

/// Describes an operation to start.
#[derive(Debug)]
pub(crate) struct Begin {
    pub(crate) subscription: String,
    pub(crate) namespace: &'static str,
    pub(crate) location: String,
    pub(crate) result: Option<String>,
    pub(crate) delay: Duration,
    pub(crate) injected: Injected,
}

impl Begin {
    /// Describes an operation on a resource. The operation takes `delay`. By default, a poll
    /// returns no resource after the operation has succeeded.
    pub(crate) fn on<R: Resource>(
        call: &Call<'_>,
        id: &ResourceId,
        location: &str,
        delay: Duration,
    ) -> Self {
        Self {
            subscription: id.subscription.clone(),
            namespace: R::NAMESPACE,
            location: location.to_owned(),
            result: None,
            delay,
            injected: call.injected.clone(),
        }
    }

    /// Sets the path of the resource that a poll returns after the operation has succeeded.
    pub(crate) fn showing(mut self, path: String) -> Self {
        self.result = Some(path);
        self
    }
}

/// Starts an operation. After the operation's delay, runs `work`. Then, unless a later operation
/// has replaced this one, calls `finish`, which updates the state with the result.
pub(crate) fn begin(
    cloud: &Cloud,
    arm: &mut ArmState,
    begin: Begin,
    work: impl Future<Output = Result<(), Problem>> + Send + 'static,
    finish: impl FnOnce(&mut ArmState, Result<(), Problem>) -> Result<(), Problem> + Send + 'static,
) -> OperationId {
    let id = cloud.ids.uuid();
    let stop = cloud.stop.child_token();
    arm.operations.forget(arm.now - KEPT);
    arm.operations.0.insert(
        id,
        Operation {
            subscription: begin.subscription,
            namespace: begin.namespace,
            location: begin.location,
            started: arm.now,
            end: None,
            result: begin.result,
            stop: stop.clone(),
        },
    );
    let injected = begin.injected;
    let delay = begin.delay + injected.slow;
    let working = async move {
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if injected.never_ends {
            std::future::pending::<()>().await;
        }
        match injected.fails {
            Some((code, message)) => Err(Problem::new(&code, message)),
            None => work.await,
        }
    };
    let cloud = cloud.clone();
    cloud.tasks.clone().spawn(async move {
        let worked = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            worked = working => worked,
        };
        let mut arm = cloud.arm();
        let arm = &mut *arm;
        // If a later operation has replaced this one, only the later operation changes the state.
        if arm
            .operations
            .get(id)
            .is_none_or(|found| found.end.is_some())
        {
            return;
        }
        let outcome = match finish(arm, worked) {
            Ok(()) => Outcome::Succeeded,
            Err(problem) => Outcome::Failed(problem),
        };
        let now = arm.now;
        arm.operations.end(id, now, outcome);
    });
    id
}
