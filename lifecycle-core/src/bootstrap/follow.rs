//! Follows the manager until the round has ended, and sums up.

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
use crate::model::{Event, EventKind, OperationId};
use crate::reconcile::RunningStep;
use crate::runtime::LogOptions;

/// How long a manager that answered may be silent.
const SILENCE: Duration = Duration::from_mins(1);

/// How long the account of a round may take, with the last lines of what failed.
const SUMMED_UP_WITHIN: Duration = Duration::from_mins(5);

/// How many last lines of a failed instance are shown.
const LAST_LINES: u32 = 10;

/// How a bring-up ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The generation that was brought up.
    pub generation: u64,
    /// All nodes.
    pub nodes: Vec<NodeV1>,
    /// All services with their replicas.
    pub services: Vec<ServiceV1>,
    /// Those that failed.
    pub failures: Vec<ServiceFailure>,
}

/// A replica that did not come up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceFailure {
    /// `<service>-<replica>`.
    pub instance: String,
    /// Why.
    pub why: String,
    /// Its last lines.
    pub last_lines: Vec<String>,
}

/// Follows until generation `generation` has settled, telling what happens after `cursor`. Gives
/// also how long steps took.
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
            Err(error) => following.bear(error)?,
        }
        tokio::time::sleep(PACE).await;
    }
    let sum_up = async {
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
    let what = "the manager's account of nodes, services and last lines of output";
    let outcome = Wait::new(reporter, clock, what, SUMMED_UP_WITHIN)
        .until::<_, Error>(sum_up)
        .await?;
    Ok((outcome, following.took))
}

/// Follows an operation to its end, telling what happens after `cursor`.
pub(super) async fn follow_operation(
    client: &dyn ManagerApi,
    id: OperationId,
    cursor: u64,
    reporter: &dyn Reporter,
    clock: &dyn Clock,
) -> Result<OperationV1> {
    let mut following = Following::new(reporter, clock, cursor);
    loop {
        let attempt = async {
            let operation = client.operation(id).await?;
            following.once(client, 0).await?;
            Ok(operation)
        };
        match attempt.await {
            Ok(operation) if operation.state != OperationStateV1::Running => return Ok(operation),
            Ok(_) => following.watch()?,
            Err(error) => following.bear(error)?,
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

/// What serves under its former specification, since the declared one was given up, has a reason.
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
            // The one that serves did not fail.
            .filter(|l| !is_up(instance) || Some(&l.container) != instance.container.as_ref())
            .map(|l| l.line.text)
            .collect();
    }
    ServiceFailure {
        instance: instance.id.clone(),
        why: instance
            .why
            .clone()
            .unwrap_or_else(|| format!("it is {}", instance.state)),
        last_lines,
    }
}

struct Following<'a> {
    reporter: &'a dyn Reporter,
    cursor: u64,
    /// When steps began, as the manager says.
    since: BTreeMap<String, DateTime<Utc>>,
    /// How long those took that ended well, as the manager says.
    took: Vec<Timed>,
    heard: Instant,
    waits: LoopWatch<'a>,
    /// What runs and is waited for, as the manager said last.
    latest: (Vec<RunningStep>, Vec<WaitV1>),
}

impl<'a> Following<'a> {
    fn new(reporter: &'a dyn Reporter, clock: &'a dyn Clock, cursor: u64) -> Self {
        Self {
            reporter,
            waits: LoopWatch::new(reporter, clock),
            latest: Default::default(),
            cursor,
            since: BTreeMap::new(),
            took: Vec::new(),
            heard: Instant::now(),
        }
    }

    /// Shows what is new. True once the round has ended.
    async fn once(&mut self, client: &dyn ManagerApi, generation: u64) -> Result<bool> {
        let progress = client.progress(false).await?;
        let over = progress.settled && progress.generation >= generation;
        // Steps that began before what is told here.
        for step in &progress.running {
            let began = self.since.entry(step.id.to_string());
            began.or_insert(step.since);
        }
        self.events(client).await?;
        self.heard = Instant::now();
        for step in &progress.running {
            if let Some(line) = &step.last_line {
                self.reporter.report(Progress::Line {
                    key: step.id.to_string(),
                    text: line.clone(),
                });
            }
        }
        self.latest = (progress.running, progress.waits);
        Ok(over)
    }

    /// Reports what is waited for.
    ///
    /// # Errors
    /// Of what should have ended.
    fn watch(&mut self) -> Result<()> {
        self.waits.see(&self.latest.0, &self.latest.1)
    }

    /// A manager that was heard a moment ago may be silent for a while.
    fn bear(&mut self, error: Error) -> Result<()> {
        match error.retry() {
            Retry::After(_) if self.heard.elapsed() < SILENCE => {
                self.waits.unanswered(&error, self.heard, SILENCE);
                Ok(())
            }
            _ => Err(error),
        }
    }

    async fn events(&mut self, client: &dyn ManagerApi) -> Result<()> {
        loop {
            let page = match client.events(self.cursor).await {
                Err(Error::NotFound { .. }) => {
                    // They are not kept any longer; what matters now is what comes.
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
                self.tell(event);
            }
        }
    }

    fn tell(&mut self, event: &Event) {
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
            | EventKind::DatabaseAway
            | EventKind::NoReadyEndpoint
            | EventKind::CannotListen
            | EventKind::DatabaseBack
            | EventKind::Unknown => self.reporter.report(Progress::Told { text: message }),
            EventKind::Declared
            | EventKind::Planned
            | EventKind::FirstRoundDone
            | EventKind::RestartEnded
            | EventKind::Leading => {}
        }
    }
}
