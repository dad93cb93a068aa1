//! Follows the output of a service's instances: through restarts, replacements and moves, and through
//! outages of nodes. One task watches the recorded containers of the service, and one task for each
//! container reads its output. A reader that starts again continues after the last line that it has
//! returned, which it finds by the engine's timestamps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::output::{InstanceOutput, Output, Sources};
use crate::error::{Error, Result, Retry};
use crate::model::{
    ContainerId, InstanceId, InstanceRecord, InstanceState, NodeName, RestartPolicy, ServiceName,
};
use crate::reconcile::Round;
use crate::registry::Snapshot;
use crate::runtime::{ContainerState, LogLine, LogOptions, LogPosition, ObservedContainer};

/// How long to wait for a round of the control loop before the registry is read again. A standby
/// manager has no rounds.
const POLL: Duration = Duration::from_secs(2);

/// The shortest pause between two polls.
const PACE: Duration = Duration::from_secs(1);

/// The longest pause before an unavailable output is requested again.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How many lines are buffered for a slow reader.
const BUFFERED: usize = 256;

/// Returns the output of a service's instances, until it is dropped or all instances have completed.
pub(super) fn output(
    sources: Sources,
    service: ServiceName,
    options: LogOptions,
    snapshot: &Snapshot,
) -> BoxStream<'static, InstanceOutput> {
    let (output, lines) = mpsc::channel(BUFFERED);
    let mut watched = Watched {
        sources,
        service,
        options,
        output,
        followers: BTreeMap::new(),
        latest: BTreeMap::new(),
        tasks: JoinSet::new(),
    };
    watched.update(snapshot, Since::Beginning);
    // Dropping the set aborts the task, and with it the tasks that it has started.
    let mut task = JoinSet::new();
    task.spawn(watched.run());
    stream::unfold((lines, task), |(mut lines, task)| async move {
        let line = lines.recv().await?;
        Some((line, (lines, task)))
    })
    .boxed()
}

/// Whether a container was there when the output was requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Beginning,
    Later,
}

/// The recorded containers of a service.
struct Watched {
    sources: Sources,
    service: ServiceName,
    options: LogOptions,
    output: mpsc::Sender<InstanceOutput>,
    /// For each followed container, the sender that reports its removal from the records.
    followers: BTreeMap<ContainerId, watch::Sender<bool>>,
    /// The latest known container of each instance, and its node.
    latest: BTreeMap<InstanceId, (ContainerId, NodeName)>,
    tasks: JoinSet<()>,
}

impl Watched {
    async fn run(mut self) {
        loop {
            tokio::select! {
                () = news(&mut self.sources.rounds) => {}
                () = self.output.closed() => return,
            }
            // While the registry is unavailable, the known containers are still followed.
            let Ok(snapshot) = self.sources.registry.snapshot().await else {
                continue;
            };
            self.update(&snapshot, Since::Later);
            while self.tasks.try_join_next().is_some() {}
            if self.tasks.is_empty() && self.is_over(&snapshot) {
                return;
            }
        }
    }

    /// Follows new containers, and reports the removal of others to their followers.
    fn update(&mut self, snapshot: &Snapshot, since: Since) {
        let records = snapshot.instances.values();
        let mut records: Vec<_> = records.filter(|r| r.id.service == self.service).collect();
        self.followers.retain(|container, gone| {
            let is_recorded = records.iter().any(|record| record.container == *container);
            if !is_recorded {
                gone.send_replace(true);
            }
            is_recorded
        });
        // Among the containers of an instance, the one that started last is the latest.
        records.sort_by_key(|record| record.started_at);
        for record in records {
            if self.followers.contains_key(&record.container) {
                continue;
            }
            let place = (record.container.clone(), record.node.clone());
            let previous = self.latest.insert(record.id.clone(), place);
            let (gone, is_gone) = watch::channel(false);
            self.followers.insert(record.container.clone(), gone);
            let follower = Follower {
                sources: self.sources.clone(),
                options: self.options_for(since),
                position: LogPosition::default(),
                instance: record.id.clone(),
                container: record.container.clone(),
                node: record.node.clone(),
                started_at: record.started_at,
                output: self.output.clone(),
                is_gone,
            };
            let notice = (since == Since::Later).then(|| arrival(record, previous));
            self.tasks.spawn(async move {
                // An error means that the client has disconnected.
                let _ = follower.run(notice).await;
            });
        }
    }

    fn options_for(&self, since: Since) -> LogOptions {
        LogOptions {
            tail: self.options.tail.filter(|_| since == Since::Beginning),
            ..self.options.clone()
        }
    }

    /// Returns whether there will be no more output.
    fn is_over(&self, snapshot: &Snapshot) -> bool {
        let declaration = snapshot.declaration.as_ref();
        let is_declared = declaration.is_some_and(|(_, d)| d.services.contains_key(&self.service));
        let records = snapshot.instances.values();
        let mut records = records.filter(|r| r.id.service == self.service).peekable();
        match records.peek() {
            Some(_) => records.all(|record| is_final(record, snapshot)),
            None => !is_declared || self.sources.rounds.borrow().is_deleting(),
        }
    }
}

/// Returns whether a container that has ended is never started again, unless this is requested: its
/// service has completed, or has failed and must not be restarted.
fn is_final(record: &InstanceRecord, snapshot: &Snapshot) -> bool {
    let declaration = snapshot.declaration.as_ref();
    let service = declaration.and_then(|(_, d)| d.services.get(&record.id.service));
    match record.state {
        InstanceState::Completed => true,
        InstanceState::Failed { .. } => service.is_some_and(|service| match service.restart {
            Some(policy) => policy == RestartPolicy::No,
            None => {
                declaration.is_some_and(|(_, d)| d.awaited_completions().contains(&service.name))
            }
        }),
        _ => false,
    }
}

/// Waits for the next round, or for some time.
async fn news(rounds: &mut watch::Receiver<Arc<Round>>) {
    sleep(PACE).await;
    tokio::select! {
        Ok(()) = rounds.changed() => {}
        () = sleep(POLL) => {}
    }
}

/// Describes where the output of an instance continues.
fn arrival(record: &InstanceRecord, previous: Option<(ContainerId, NodeName)>) -> String {
    let node = &record.node;
    let continues = format!(
        "its output continues from container {}",
        short(&record.container)
    );
    match previous {
        Some((_, before)) if before != *node => {
            format!("moved from {before} to {node}; {continues}")
        }
        Some((before, _)) => format!("container {} was replaced; {continues}", short(&before)),
        None => format!("new replica on {node}; its output begins"),
    }
}

fn short(container: &ContainerId) -> &str {
    container.0.get(..12).unwrap_or(&container.0)
}

/// Nobody reads the output any more.
struct Closed;

/// Reads the output of one container, through all its runs.
struct Follower {
    sources: Sources,
    /// The options for the first read.
    options: LogOptions,
    position: LogPosition,
    instance: InstanceId,
    container: ContainerId,
    node: NodeName,
    /// The start of the run that is being read; `None` if the container was never started.
    started_at: Option<DateTime<Utc>>,
    output: mpsc::Sender<InstanceOutput>,
    /// Becomes true when the container is no longer recorded.
    is_gone: watch::Receiver<bool>,
}

impl Follower {
    async fn run(mut self, notice: Option<String>) -> Result<(), Closed> {
        if let Some(what) = notice {
            self.notice(what).await?;
        }
        let mut options = LogOptions {
            follow: true,
            timestamps: true,
            ..self.options.clone()
        };
        let mut pause = PACE;
        let mut is_reported = false;
        loop {
            match self.read(options.clone()).await? {
                Ok(()) => {
                    (pause, is_reported) = (PACE, false);
                    let Some(run) = self.next_run().await? else {
                        return Ok(());
                    };
                    options = self.resumed(&run);
                }
                Err(error) => {
                    if self.has_completed().await {
                        return Ok(());
                    }
                    // A missing container is no longer recorded soon.
                    if !is_reported && !matches!(error, Error::NotFound { .. }) {
                        let why = error.chain();
                        let what = match error.retry() {
                            Retry::After(_) => format!(
                                "the output is unavailable, and continues when the node responds: {why}"
                            ),
                            Retry::Replan | Retry::Never => {
                                format!("the output cannot be read: {why}")
                            }
                        };
                        self.notice(what).await?;
                        is_reported = true;
                    }
                    if self.position.at.is_some() {
                        options = lines_since(self.position.at);
                    }
                    tokio::select! {
                        _ = self.is_gone.wait_for(|gone| *gone) => return Ok(()),
                        () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                    }
                }
            }
        }
    }

    /// Returns the lines of the container until it ends. An engine may end the stream before it has
    /// sent the last lines, so they are requested again.
    async fn read(&mut self, options: LogOptions) -> Result<Result<()>, Closed> {
        let is_first_empty = options.tail == Some(0);
        if let Err(error) = self.pass(options).await? {
            return Ok(Err(error));
        }
        if self.position.at.is_some() || !is_first_empty {
            let rest = LogOptions {
                follow: false,
                ..lines_since(self.position.at.or(self.options.since))
            };
            // A removed container has no more output.
            drop(self.pass(rest).await?);
        }
        Ok(Ok(()))
    }

    /// Returns lines until their stream ends, without those that were returned before.
    async fn pass(&mut self, options: LogOptions) -> Result<Result<()>, Closed> {
        let source = self.sources.source(&self.node, &self.container).await;
        let lines = match source {
            Ok(source) => source.lines(options).await,
            Err(error) => Err(error),
        };
        let mut lines = match lines {
            Ok(lines) => lines,
            Err(error) => return Ok(Err(error)),
        };
        let mut known = self.position.clone();
        loop {
            let line = tokio::select! {
                line = lines.next() => line,
                () = self.output.closed() => return Err(Closed),
            };
            match line {
                None => return Ok(Ok(())),
                Some(Err(error)) => return Ok(Err(error)),
                Some(Ok(line)) if known.contains(&line) => {}
                Some(Ok(line)) => {
                    self.position.note(&line);
                    let line = LogLine {
                        at: line.at.filter(|_| self.options.timestamps),
                        ..line
                    };
                    self.send(Output::Line(line)).await?;
                }
            }
        }
    }

    /// Waits until the container is running again. Returns `None` if it was removed or has
    /// completed.
    async fn next_run(&mut self) -> Result<Option<ObservedContainer>, Closed> {
        let mut has_ended = false;
        loop {
            let seen = match self.sources.source(&self.node, &self.container).await {
                Ok(source) => source.container().await,
                Err(error) => Err(error),
            };
            if let Ok(Some(container)) = seen {
                match container.state {
                    ContainerState::Running { .. } | ContainerState::Paused => {
                        let started_at = self
                            .started_at
                            .replace(container.started_at.unwrap_or(DateTime::UNIX_EPOCH));
                        if started_at.is_some() && started_at != container.started_at {
                            self.notice("the container was started again".into())
                                .await?;
                        }
                        return Ok(Some(container));
                    }
                    ContainerState::Exited { .. } if !has_ended => {
                        has_ended = true;
                        if !self.is_over().await {
                            let exit = container.exit().unwrap_or_default();
                            self.notice(format!("the container ended with {exit}"))
                                .await?;
                        }
                    }
                    ContainerState::Exited { .. } | ContainerState::Created => {}
                }
                if has_ended && self.is_over().await {
                    return Ok(None);
                }
            }
            tokio::select! {
                _ = self.is_gone.wait_for(|gone| *gone) => return Ok(None),
                () = news(&mut self.sources.rounds) => {}
                () = self.output.closed() => return Err(Closed),
            }
        }
    }

    async fn has_completed(&self) -> bool {
        let snapshot = self.sources.registry.snapshot().await;
        let record = snapshot.map(|mut snapshot| snapshot.instances.remove(&self.container));
        matches!(record, Ok(Some(record)) if record.state == InstanceState::Completed)
    }

    /// Returns whether a container that has ended is never started again.
    async fn is_over(&self) -> bool {
        let Ok(snapshot) = self.sources.registry.snapshot().await else {
            return false;
        };
        let record = snapshot.instances.get(&self.container);
        record.is_some_and(|record| is_final(record, &snapshot))
    }

    /// Returns the options that continue after the last line, in a new run of the container.
    fn resumed(&self, run: &ObservedContainer) -> LogOptions {
        // The log of a container whose last lines were not requested may contain earlier lines.
        let begins = match self.options.tail {
            Some(_) => run.started_at,
            None => self.options.since,
        };
        lines_since(self.position.at.or(begins))
    }

    async fn notice(&self, what: String) -> Result<(), Closed> {
        self.send(Output::Changed { what }).await
    }

    async fn send(&self, output: Output) -> Result<(), Closed> {
        let output = InstanceOutput {
            instance: self.instance.to_string(),
            container: self.container.clone(),
            output,
        };
        self.output.send(output).await.map_err(|_| Closed)
    }
}

fn lines_since(since: Option<DateTime<Utc>>) -> LogOptions {
    LogOptions {
        tail: None,
        follow: true,
        since,
        timestamps: true,
    }
}
