//! Reports the progress of the bootstrapper.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::durations::Timed;
use super::wait::Wait;
use crate::clock::Clock;
use crate::error::Result;
use crate::reconcile::{Round, StepId};

/// A progress report.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// A piece of work started. All reports about the same work have the same `key`.
    Began {
        key: String,
        /// A description of the work.
        what: String,
    },
    /// The work wrote a line of output.
    Line {
        key: String,
        /// The output line.
        text: String,
    },
    /// The work succeeded.
    Done {
        key: String,
        /// A description of the work.
        what: String,
        took: std::time::Duration,
    },
    /// The work failed, and may be retried later.
    Failed {
        key: String,
        /// A description of the work.
        what: String,
        why: String,
    },
    /// Work is still running, or the bootstrapper is waiting for something. This report is repeated
    /// every few seconds.
    Waiting {
        /// The key with which `Began` reported the work; if it did not, a key of its own.
        key: String,
        what: String,
        since: DateTime<Utc>,
        /// The latest time at which the wait ends.
        until: DateTime<Utc>,
        /// The latest output or error, if there is one.
        detail: Option<String>,
    },
    /// A message about a single event.
    Note { text: String },
}

/// Receives progress reports. Must not block.
pub trait Reporter: Debug + Send + Sync + 'static {
    /// Receives one report.
    fn report(&self, progress: Progress);
}

/// Ignores all reports.
impl Reporter for () {
    fn report(&self, _: Progress) {}
}

/// Reports the start, output and success of the bootstrapper's own work. Callers report errors.
pub(super) struct Stage<'a> {
    reporter: &'a dyn Reporter,
    what: String,
    since: Instant,
    wait: Wait<'a>,
}

impl<'a> Stage<'a> {
    /// Starts work that takes at most `limit`.
    pub(super) fn begin(
        reporter: &'a dyn Reporter,
        clock: &dyn Clock,
        what: String,
        limit: Duration,
    ) -> Self {
        reporter.report(Progress::Began {
            key: what.clone(),
            what: what.clone(),
        });
        Self {
            reporter,
            since: Instant::now(),
            wait: Wait::new(reporter, clock, what.clone(), limit),
            what,
        }
    }

    /// Does the work and reports success.
    pub(super) async fn run<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let value = self.wait.until(work).await?;
        self.done();
        Ok(value)
    }

    /// Does a part of the work.
    pub(super) async fn part<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.wait.until(work).await
    }

    pub(super) fn line(&self, text: &str) {
        self.wait.set_detail(text);
        self.reporter.report(Progress::Line {
            key: self.what.clone(),
            text: text.to_owned(),
        });
    }

    pub(super) fn done(self) {
        self.reporter.report(Progress::Done {
            key: self.what.clone(),
            what: self.what,
            took: self.since.elapsed(),
        });
    }
}

/// Converts the rounds of a control loop to reports about its steps.
pub(super) struct StepReports<'a> {
    reporter: &'a dyn Reporter,
    clock: &'a dyn Clock,
    running: BTreeMap<StepId, (String, DateTime<Utc>, Option<String>)>,
    failures: BTreeMap<StepId, String>,
    /// How long succeeded steps took.
    pub(super) took: Vec<Timed>,
}

impl<'a> StepReports<'a> {
    pub(super) fn new(reporter: &'a dyn Reporter, clock: &'a dyn Clock) -> Self {
        Self {
            reporter,
            clock,
            running: BTreeMap::new(),
            failures: BTreeMap::new(),
            took: Vec::new(),
        }
    }

    pub(super) fn show(&mut self, round: &Round) {
        let failed: BTreeMap<&StepId, &String> = round
            .plan
            .held
            .iter()
            .filter_map(|held| match &held.by {
                crate::reconcile::HeldBy::Backoff { step, why, .. } => Some((step, why)),
                _ => None,
            })
            .collect();
        for step in &round.running {
            let key = step.id.to_string();
            let entry = self.running.entry(step.id.clone()).or_insert_with(|| {
                self.reporter.report(Progress::Began {
                    key: key.clone(),
                    what: step.what.clone(),
                });
                (step.what.clone(), step.since, None)
            });
            if let Some(line) = &step.last_line
                && entry.2.as_ref() != Some(line)
            {
                entry.2 = Some(line.clone());
                self.reporter.report(Progress::Line {
                    key,
                    text: line.clone(),
                });
            }
        }
        let ended: Vec<StepId> = self
            .running
            .keys()
            .filter(|id| !round.running.iter().any(|s| s.id == **id))
            .cloned()
            .collect();
        for id in ended {
            let Some((what, since, _)) = self.running.remove(&id) else {
                continue;
            };
            let key = id.to_string();
            if let Some(why) = failed.get(&id) {
                if self.failures.insert(id.clone(), (*why).clone()).as_ref() != Some(*why) {
                    self.reporter.report(Progress::Failed {
                        key,
                        what,
                        why: (*why).clone(),
                    });
                }
            } else {
                let took = (self.clock.now() - since).to_std().unwrap_or_default();
                self.took.push(Timed {
                    step: key.clone(),
                    took,
                });
                self.reporter.report(Progress::Done { key, what, took });
            }
        }
    }
}
