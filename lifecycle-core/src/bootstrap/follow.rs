//! Follows the manager until the platform has settled, and summarizes the result.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use tokio::time::Instant;

use super::PACE;
use super::durations::Timed;
use super::progress::{Progress, Reporter};
use super::wait::{LoopWatch, Wait};
use crate::api::ManagerApi;
use crate::api::wire::{
    InstanceStateV1, InstanceV1, NodeV1, OperationStateV1, OperationV1, ServiceV1, WaitV1,
};
use crate::clock::Clock;
use crate::error::{Error, Result, Retry};
use crate::model::{Event, EventKind, OperationId, ServiceName};
use crate::reconcile::RunningStep;
use crate::runtime::LogOptions;

/// How long the manager may be unreachable after its last answer, by default.
const UNREACHABLE_FOR: Duration = Duration::from_mins(1);

/// How long reading the result and the last output lines of failed replicas may take.
const SUMMARY_WITHIN: Duration = Duration::from_mins(5);

/// How many lines at the end of a failed replica's output are shown.
const LAST_LINES: u32 = 10;

/// The result of a bring-up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The generation that is running.
    pub generation: u64,
    pub nodes: Vec<NodeV1>,
    /// All services with their replicas.
    pub services: Vec<ServiceV1>,
    /// The replicas that failed.
    pub failures: Vec<ServiceFailure>,
}

/// A replica that does not run as declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceFailure {
    /// `<service>-<replica>`.
    pub instance: String,
    pub why: String,
    /// The service that the replica waits for. The cause is one of that service's failures.
    pub waits_for: Option<ServiceName>,
    /// The last lines of the replica's output.
    pub last_lines: Vec<String>,
}

impl Outcome {
    /// Returns the failure that is not a consequence of another one.
    pub fn first_cause(&self) -> Option<&ServiceFailure> {
        let mut causes = self.failures.iter().filter(|f| f.waits_for.is_none());
        causes.next().or(self.failures.first())
    }
}

/// Follows the manager until `generation` has settled, and reports events after `cursor`. Returns
/// the outcome, and the durations of steps.
pub(super) async fn follow(
    client: &dyn ManagerApi,
    generation: u64,
    cursor: u64,
    reporter: &dyn Reporter,
    clock: &dyn Clock,
) -> Result<(Outcome, Vec<Timed>)> {
    let mut following = Following::new(reporter, clock, cursor);
    loop {
        match following.once(client, generation).await {
            Ok(true) => break,
            Ok(false) => following.watch()?,
            Err(error) => following.tolerate(error)?,
        }
        tokio::time::sleep(PACE).await;
    }
    // The manager may be restarting at this moment.
    let summary = || async {
        let nodes = client.nodes().await?;
        let services = client.services().await?;
        let mut failures = Vec::new();
        for service in &services {
            for instance in &service.instances {
                if !is_as_declared(instance) {
                    failures.push(failure(client, service, instance).await);
                }
            }
        }
        Ok(Outcome {
            generation,
            nodes,
            services,
            failures,
        })
    };
    let what = "the manager's report on nodes, services and recent output";
    let outcome = Wait::new(reporter, clock, what, SUMMARY_WITHIN)
        .repeat(summary)
        .await?;
    Ok((outcome, following.took))
}

/// Follows an operation until it ends, and reports events.
pub(super) async fn follow_operation(
    client: &dyn ManagerApi,
    id: OperationId,
    following: &mut Following<'_>,
) -> Result<OperationV1> {
    loop {
        let attempt = async {
            let operation = client.operation(id).await?;
            following.once(client, 0).await?;
            Ok(operation)
        };
        match attempt.await {
            Ok(operation) if operation.state != OperationStateV1::Running => return Ok(operation),
            Ok(_) => following.watch()?,
            Err(error) => following.tolerate(error)?,
        }
        tokio::time::sleep(PACE).await;
    }
}

fn is_up(instance: &InstanceV1) -> bool {
    matches!(
        instance.state,
        InstanceStateV1::Ready | InstanceStateV1::Completed
    )
}

/// Returns whether a replica runs as declared. After a rollback, the previous specification may be
/// up, and `why` contains the reason.
fn is_as_declared(instance: &InstanceV1) -> bool {
    is_up(instance) && instance.why.is_none()
}

async fn failure(
    client: &dyn ManagerApi,
    service: &ServiceV1,
    instance: &InstanceV1,
) -> ServiceFailure {
    let mut last_lines = Vec::new();
    if instance.container.is_some()
        && let Ok(lines) = client
            .logs(&service.name, LogOptions::last(LAST_LINES))
            .await
    {
        let lines: Vec<_> = lines.collect().await;
        last_lines = lines
            .into_iter()
            .filter_map(Result::ok)
            .filter(|l| l.instance == instance.id && !l.notice)
            // Skip the lines of a container that is ready.
            .filter(|l| !is_up(instance) || Some(&l.container) != instance.container.as_ref())
            .map(|l| l.line.text)
            .collect();
    }
    ServiceFailure {
        instance: instance.id.clone(),
        why: instance
            .why
            .clone()
            .unwrap_or_else(|| format!("the replica is {}", instance.state)),
        waits_for: instance.waits_for.clone(),
        last_lines,
    }
}

/// Follows the manager's progress and events, and reports what is new.
pub(super) struct Following<'a> {
    reporter: &'a dyn Reporter,
    cursor: u64,
    /// When each running step started, by the manager's clock.
    since: BTreeMap<String, DateTime<Utc>>,
    /// How long succeeded steps took, by the manager's clock.
    took: Vec<Timed>,
    last_answer: Instant,
    /// How long the manager may be unreachable after its last answer.
    unreachable_for: Duration,
    waits: LoopWatch<'a>,
    /// The running steps and the waits at the last poll.
    latest: (Vec<RunningStep>, Vec<WaitV1>),
}

impl<'a> Following<'a> {
    /// Starts after the event `cursor`.
    pub(super) fn new(reporter: &'a dyn Reporter, clock: &'a dyn Clock, cursor: u64) -> Self {
        Self {
            unreachable_for: UNREACHABLE_FOR,
            reporter,
            waits: LoopWatch::new(reporter, clock),
            latest: Default::default(),
            cursor,
            since: BTreeMap::new(),
            took: Vec::new(),
            last_answer: Instant::now(),
        }
    }

    /// Returns whether the manager has been unreachable for too long.
    pub(super) fn is_unanswered(&self) -> bool {
        self.last_answer.elapsed() >= self.unreachable_for
    }

    /// Starts to wait for the manager's next answer.
    pub(super) fn expect_answer(&mut self) {
        self.last_answer = Instant::now();
    }

    /// Lets the manager be unreachable for `limit` after its last answer.
    pub(super) fn unreachable_for(self, limit: Duration) -> Self {
        Self {
            unreachable_for: limit,
            ..self
        }
    }

    /// Reports what is new since the last poll. Returns whether the generation has settled.
    async fn once(&mut self, client: &dyn ManagerApi, generation: u64) -> Result<bool> {
        let progress = client.progress(false).await?;
        let settled = progress.settled && progress.generation >= generation;
        // A step may have started before `cursor`; its start event is then never read.
        for step in &progress.running {
            let began = self.since.entry(step.id.to_string());
            began.or_insert(step.since);
        }
        self.events(client).await?;
        self.last_answer = Instant::now();
        for step in &progress.running {
            if let Some(line) = &step.last_line {
                self.reporter.report(Progress::Line {
                    key: step.id.to_string(),
                    text: line.clone(),
                });
            }
        }
        self.latest = (progress.running, progress.waits);
        Ok(settled)
    }

    /// Reports the running steps and the waits.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if a step or a wait should have ended.
    fn watch(&mut self) -> Result<()> {
        self.waits.update(&self.latest.0, &self.latest.1)
    }

    /// Tolerates an error if the manager answered recently; otherwise, returns the error.
    fn tolerate(&mut self, error: Error) -> Result<()> {
        match error.retry() {
            Retry::After(_) if !self.is_unanswered() => {
                self.waits
                    .unanswered(&error, self.last_answer, self.unreachable_for);
                Ok(())
            }
            _ => Err(error),
        }
    }

    async fn events(&mut self, client: &dyn ManagerApi) -> Result<()> {
        loop {
            let page = match client.events(self.cursor).await {
                Err(Error::NotFound { .. }) => {
                    // The manager has deleted events after this cursor; continue with new ones.
                    self.cursor = client.last_event().await?;
                    return Ok(());
                }
                page => page?,
            };
            if page.events.is_empty() {
                return Ok(());
            }
            self.cursor = page.cursor;
            for event in &page.events {
                self.report_event(event);
            }
        }
    }

    fn report_event(&mut self, event: &Event) {
        let message = event.event.message.clone();
        let step = event.event.data.get("step").and_then(|v| v.as_str());
        let key = step.unwrap_or_default().to_owned();
        match event.event.kind {
            EventKind::StepStarted => {
                self.since.insert(key.clone(), event.event.at);
                self.reporter.report(Progress::Began { key, what: message });
            }
            EventKind::StepSucceeded => {
                let began = self.since.remove(&key);
                let took = began.and_then(|at| (event.event.at - at).to_std().ok());
                self.took.extend(took.map(|took| Timed {
                    step: key.clone(),
                    took,
                }));
                self.reporter.report(Progress::Done {
                    key,
                    what: message,
                    took: took.unwrap_or_default(),
                });
            }
            EventKind::StepFailed => {
                self.since.remove(&key);
                self.reporter.report(Progress::Failed {
                    key,
                    what: String::new(),
                    why: message,
                });
            }
            EventKind::Ready
            | EventKind::NotReady
            | EventKind::Failed
            | EventKind::NodeUnknown
            | EventKind::NodeKnown
            | EventKind::RestartRequested
            | EventKind::RolloutStarted
            | EventKind::RolloutRequested
            | EventKind::RolloutEnded
            | EventKind::DatabaseUnavailable
            | EventKind::NoReadyEndpoint
            | EventKind::CannotListen
            | EventKind::DatabaseAvailable
            | EventKind::EpochRaised
            | EventKind::VolumeVanished
            | EventKind::VolumeFound
            | EventKind::TokenCreated
            | EventKind::TokenRevoked
            | EventKind::StrangerFound
            | EventKind::Unknown => self.reporter.report(Progress::Note { text: message }),
            EventKind::Declared
            | EventKind::Planned
            | EventKind::FirstRoundDone
            | EventKind::RestartEnded
            | EventKind::Audit
            | EventKind::Leading => {}
        }
    }
}
