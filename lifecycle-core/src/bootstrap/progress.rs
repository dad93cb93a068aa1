//! Tells how far the bootstrapper is.

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

/// One piece of news.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Something began. `key` tells pieces of news of one thing from others.
    Began {
        /// Its key.
        key: String,
        /// What it is, in words.
        what: String,
    },
    /// It said something.
    Line {
        /// Its key.
        key: String,
        /// What it said.
        text: String,
    },
    /// It ended well.
    Done {
        /// Its key.
        key: String,
        /// What it was.
        what: String,
        /// How long it took.
        took: std::time::Duration,
    },
    /// It failed, for now or for good.
    Failed {
        /// Its key.
        key: String,
        /// What it was.
        what: String,
        /// Why.
        why: String,
    },
    /// Something is waited for, or still being carried out. Reported every few seconds.
    Waiting {
        /// Its key; that of what began, if it is something that began.
        key: String,
        /// What is waited for.
        what: String,
        /// Since when.
        since: DateTime<Utc>,
        /// Until when at the latest.
        until: DateTime<Utc>,
        /// The latest news of it.
        says: Option<String>,
    },
    /// Something that happened at a moment.
    Told {
        /// What, in a sentence.
        text: String,
    },
}

/// Is told how far it is. Must not block.
pub trait Reporter: Debug + Send + Sync + 'static {
    /// Takes a piece of news.
    fn report(&self, progress: Progress);
}

/// Hears nothing.
impl Reporter for () {
    fn report(&self, _: Progress) {}
}

/// Something that the bootstrapper does itself. Dropped without [`Stage::done`], it failed or
/// was broken off; the error that explains it is the caller's.
pub(super) struct Stage<'a> {
    reporter: &'a dyn Reporter,
    what: String,
    since: Instant,
    wait: Wait<'a>,
}

impl<'a> Stage<'a> {
    /// Begins something that takes no longer than `limit`.
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

    /// Carries it out, and tells that it is done.
    pub(super) async fn run<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let value = self.wait.until(work).await?;
        self.done();
        Ok(value)
    }

    /// Carries a part of it out.
    pub(super) async fn part<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.wait.until(work).await
    }

    pub(super) fn line(&self, text: &str) {
        self.wait.says(text);
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

/// Turns statuses of a control loop into news of its steps.
pub(super) struct StepLines<'a> {
    reporter: &'a dyn Reporter,
    clock: &'a dyn Clock,
    running: BTreeMap<StepId, (String, DateTime<Utc>, Option<String>)>,
    failures: BTreeMap<StepId, String>,
    /// How long those took that ended well.
    pub(super) took: Vec<Timed>,
}

impl<'a> StepLines<'a> {
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
