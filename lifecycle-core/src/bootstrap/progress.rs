//! Tells how far the bootstrapper is.

use std::collections::BTreeMap;
use std::fmt::Debug;

use tokio::time::Instant;

use super::durations::Timed;
use crate::reconcile::{Status, StepId};

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
}

impl<'a> Stage<'a> {
    pub(super) fn begin(reporter: &'a dyn Reporter, what: String) -> Self {
        reporter.report(Progress::Began {
            key: what.clone(),
            what: what.clone(),
        });
        Self {
            reporter,
            what,
            since: Instant::now(),
        }
    }

    pub(super) fn line(&self, text: &str) {
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
    running: BTreeMap<StepId, (String, Instant, Option<String>)>,
    failures: BTreeMap<StepId, String>,
    /// How long those took that ended well.
    pub(super) took: Vec<Timed>,
}

impl<'a> StepLines<'a> {
    pub(super) fn new(reporter: &'a dyn Reporter) -> Self {
        Self {
            reporter,
            running: BTreeMap::new(),
            failures: BTreeMap::new(),
            took: Vec::new(),
        }
    }

    pub(super) fn show(&mut self, status: &Status) {
        let failed: BTreeMap<&StepId, &String> = status
            .plan
            .held
            .iter()
            .filter_map(|held| match &held.by {
                crate::reconcile::HeldBy::Backoff { step, why, .. } => Some((step, why)),
                _ => None,
            })
            .collect();
        for step in &status.running {
            let key = step.id.to_string();
            let entry = self.running.entry(step.id.clone()).or_insert_with(|| {
                self.reporter.report(Progress::Began {
                    key: key.clone(),
                    what: step.what.clone(),
                });
                (step.what.clone(), Instant::now(), None)
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
            .filter(|id| !status.running.iter().any(|s| s.id == **id))
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
                self.took.push(Timed {
                    step: key.clone(),
                    took: since.elapsed(),
                });
                self.reporter.report(Progress::Done {
                    key,
                    what,
                    took: since.elapsed(),
                });
            }
        }
    }
}
