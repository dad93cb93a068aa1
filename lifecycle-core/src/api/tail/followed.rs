//! Follows the output of one service through outages of the manager.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::time::{Instant, sleep};

use super::{ManagerApi, OUTAGE, PAUSE, WATCH};
use crate::api::wire::ServiceLogLine;
use crate::clock::{Clock as _, SystemClock};
use crate::error::{Error, Result, Retry};
use crate::model::ServiceName;
use crate::runtime::{LogLine, LogOptions, LogPosition};

/// After an outage, lines are requested from this long before the latest known line, because nodes
/// deliver their lines with different delays. Known lines are omitted.
const OVERLAP: TimeDelta = TimeDelta::minutes(1);

/// The longest pause between two attempts to open a stream.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What the outputs that are merged share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Whether the current outage was reported.
    outage: AtomicBool,
    /// The number of outputs that have not ended.
    open: AtomicUsize,
}

impl Shared {
    fn end_outage(&self) {
        self.outage.store(false, Ordering::Relaxed);
    }
}

/// Returns the output of a service. If the manager ends it, it continues when the service runs again, as
/// long as one of the other outputs has not ended.
pub(super) async fn output(
    api: &Arc<dyn ManagerApi>,
    service: &ServiceName,
    options: &LogOptions,
    shared: &Arc<Shared>,
) -> Result<BoxStream<'static, Result<ServiceLogLine>>> {
    let mut followed = Followed {
        api: Arc::clone(api),
        service: service.clone(),
        options: options.clone(),
        shared: Arc::clone(shared),
        run: None,
        lines: stream::empty().boxed(),
        opened_at: SystemClock.now(),
        interrupted: None,
        open_since: Some(Instant::now()),
        positions: BTreeMap::new(),
        known: BTreeMap::new(),
    };
    followed.run = latest_run(api, service).await?;
    followed.lines = api.logs(service, followed.first()).await?;
    shared.open.fetch_add(1, Ordering::Relaxed);
    let lines = stream::try_unfold(followed, async |mut followed| {
        Ok(followed.next().await?.map(|line| (line, followed)))
    });
    Ok(lines.boxed())
}

/// Returns when the latest run of a service started.
async fn latest_run(
    api: &Arc<dyn ManagerApi>,
    service: &ServiceName,
) -> Result<Option<DateTime<Utc>>> {
    let service = api.service(service.as_str()).await?;
    let runs = service.instances.into_iter();
    Ok(runs.filter_map(|instance| instance.started_at).max())
}

struct Followed {
    api: Arc<dyn ManagerApi>,
    service: ServiceName,
    options: LogOptions,
    shared: Arc<Shared>,
    /// When the latest run of the service started, at the time when the current stream was opened.
    run: Option<DateTime<Utc>>,
    /// The current stream from the manager.
    lines: BoxStream<'static, Result<ServiceLogLine>>,
    /// When the first stream was opened.
    opened_at: DateTime<Utc>,
    /// The time of the first interruption since the last new line.
    interrupted: Option<Instant>,
    /// When the current stream was opened; `None` if it was interrupted.
    open_since: Option<Instant>,
    /// For each container, the last line that was returned.
    positions: BTreeMap<String, LogPosition>,
    /// The positions at the start of the current stream.
    known: BTreeMap<String, LogPosition>,
}

impl Followed {
    /// Returns the options for the first stream.
    fn first(&self) -> LogOptions {
        LogOptions {
            follow: true,
            timestamps: true,
            ..self.options.clone()
        }
    }

    /// Opens the stream again, from the latest known lines on.
    async fn open(&mut self) -> Result<()> {
        let latest = self.positions.values().filter_map(|known| known.at).max();
        let latest = latest.and_then(|at| at.checked_sub_signed(OVERLAP));
        let since = match self.options.tail {
            // Earlier lines were not requested.
            Some(_) => latest.or(Some(self.opened_at)),
            None => latest,
        };
        let options = LogOptions {
            tail: None,
            since: since.max(self.options.since),
            ..self.first()
        };
        let run = latest_run(&self.api, &self.service).await?;
        self.lines = self.api.logs(&self.service, options).await?;
        self.run = run;
        self.known = self.positions.clone();
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<ServiceLogLine>> {
        loop {
            if self.open_since.is_none() {
                self.reopen().await?;
            }
            match self.lines.next().await {
                None => {
                    if !self.runs_again().await {
                        return Ok(None);
                    }
                    (self.open_since, self.interrupted) = (None, None);
                }
                Some(Ok(line)) if line.notice => return Ok(Some(line)),
                Some(Ok(line)) => {
                    let known = self.known.get_mut(&line.container);
                    if known.is_some_and(|known| known.contains(&line.line)) {
                        continue;
                    }
                    self.interrupted = None;
                    self.shared.end_outage();
                    let position = self.positions.entry(line.container.clone());
                    position.or_default().note(&line.line);
                    let at = line.line.at.filter(|_| self.options.timestamps);
                    let line = ServiceLogLine {
                        line: LogLine { at, ..line.line },
                        ..line
                    };
                    return Ok(Some(line));
                }
                Some(Err(error)) => {
                    // A stream that is interrupted again and again is one outage.
                    let opened = self.open_since.take();
                    if opened.is_some_and(|at| at.elapsed() > LONGEST_PAUSE) {
                        self.interrupted = None;
                        self.shared.end_outage();
                    }
                    self.interrupted.get_or_insert_with(Instant::now);
                    if let Some(notice) = self.lost(error)? {
                        return Ok(Some(notice));
                    }
                }
            }
        }
    }

    /// Waits until a service whose output has ended runs again. Returns false if all outputs have ended,
    /// or the service no longer exists.
    async fn runs_again(&mut self) -> bool {
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        while self.shared.open.load(Ordering::Relaxed) > 0 {
            sleep(WATCH).await;
            match latest_run(&self.api, &self.service).await {
                Ok(run) if run > self.run => {
                    self.shared.open.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
                Err(Error::NotFound { .. }) => return false,
                // Another output reports an outage.
                Ok(_) | Err(_) => {}
            }
        }
        false
    }

    /// Returns a notice about an outage of the manager, unless it was already reported. Returns other
    /// errors.
    fn lost(&self, error: Error) -> Result<Option<ServiceLogLine>> {
        let Retry::After(_) = error.retry() else {
            return Err(error);
        };
        if self.shared.outage.swap(true, Ordering::Relaxed) {
            return Ok(None);
        }
        Ok(Some(ServiceLogLine {
            instance: self.service.to_string(),
            container: String::new(),
            line: LogLine {
                stderr: true,
                text: "the manager does not respond; the output continues when it does".to_owned(),
                ..LogLine::default()
            },
            notice: true,
            continues: true,
        }))
    }

    /// Opens the stream again, as soon as the manager responds.
    async fn reopen(&mut self) -> Result<()> {
        let interrupted = *self.interrupted.get_or_insert_with(Instant::now);
        let mut pause = PAUSE;
        loop {
            sleep(pause).await;
            match self.open().await {
                Ok(()) if interrupted.elapsed() < OUTAGE => {
                    self.open_since = Some(Instant::now());
                    return Ok(());
                }
                Ok(()) => return Err(self.unanswered()),
                Err(error) => match error.retry() {
                    Retry::After(after) if interrupted.elapsed() < OUTAGE => {
                        pause = after.clamp(PAUSE, LONGEST_PAUSE);
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    fn unanswered(&self) -> Error {
        Error::TimedOut {
            what: format!("the output of {}", self.service),
            after: OUTAGE,
        }
    }
}
