//! Defines waits that are reported as progress.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::progress::{Progress, Reporter};
use super::retry_or;
use crate::api::wire::WaitV1;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::reconcile::RunningStep;

/// The interval between reports of a wait, and by default the delay before the first report.
const REPORTED_EVERY: Duration = Duration::from_secs(10);

/// How long a wait may continue after its announced end, so that the last attempt can complete.
const GRACE: Duration = Duration::from_mins(1);

/// How long a control loop may be idle, without a running step and without a wait.
const IDLE: Duration = Duration::from_mins(5);

/// How long a step may take if the manager reports no time limit for it.
const LONGEST_STEP: Duration = Duration::from_hours(2);

/// How many waits of a control loop are reported individually.
const SHOWN: usize = 8;

/// A wait that is reported as progress.
pub struct Wait<'a> {
    reporter: &'a dyn Reporter,
    key: String,
    what: String,
    since: DateTime<Utc>,
    limit: Duration,
    /// The delay before the first report.
    first: Duration,
    detail: Mutex<Option<String>>,
}

impl std::fmt::Debug for Wait<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wait")
            .field("what", &self.what)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl<'a> Wait<'a> {
    /// Starts a wait that lasts at most `limit`. Reports show `what` after the word "waiting:".
    pub fn new(
        reporter: &'a dyn Reporter,
        clock: &dyn Clock,
        what: impl Into<String>,
        limit: Duration,
    ) -> Self {
        let what = what.into();
        Self {
            reporter,
            key: what.clone(),
            what,
            since: clock.now(),
            limit,
            first: REPORTED_EVERY,
            detail: Mutex::default(),
        }
    }

    /// Sets the delay before the first report.
    #[must_use]
    pub fn reported_after(mut self, first: Duration) -> Self {
        self.first = first;
        self
    }

    /// Sets a detail for the next reports, for example the latest error.
    pub fn set_detail(&self, text: impl Into<String>) {
        let mut detail = self.detail.lock().unwrap_or_else(PoisonError::into_inner);
        *detail = Some(text.into());
    }

    /// Waits for the result of `work`.
    ///
    /// # Errors
    /// The error of `work`, or [`Error::TimedOut`] after the limit.
    pub async fn until<T, E: From<Error>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.within(self.limit, work).await
    }

    /// Repeats an attempt that may succeed later, until it succeeds or the limit is reached.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub async fn repeat<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let deadline = Instant::now() + self.limit;
        let attempts = async {
            loop {
                match attempt().await {
                    Ok(value) => return Ok(value),
                    Err(error) => {
                        self.set_detail(error.chain());
                        retry_or(error, deadline).await?;
                    }
                }
            }
        };
        // The last attempt may exceed the limit.
        self.within(self.limit + GRACE, attempts).await
    }

    async fn within<T, E: From<Error>>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let reports = async {
            let mut pace = interval_at(Instant::now() + self.first, REPORTED_EVERY);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                pace.tick().await;
                self.report();
            }
        };
        tokio::select! {
            biased;
            done = tokio::time::timeout(limit, work) => done.unwrap_or_else(|_| {
                Err(E::from(Error::TimedOut {
                    what: self.what.clone(),
                    after: limit,
                }))
            }),
            () = reports => {
                let why = "reporting the progress ended unexpectedly";
                Err(E::from(Error::failed(&self.what, why)))
            }
        }
    }

    fn report(&self) {
        let detail = self.detail.lock().unwrap_or_else(PoisonError::into_inner);
        self.reporter.report(Progress::Waiting {
            key: self.key.clone(),
            what: self.what.clone(),
            since: self.since,
            until: after(self.since, self.limit),
            detail: detail.clone(),
        });
    }
}

fn after(since: DateTime<Utc>, limit: Duration) -> DateTime<Utc> {
    let limit = chrono::TimeDelta::from_std(limit).ok();
    limit
        .and_then(|limit| since.checked_add_signed(limit))
        .unwrap_or(since)
}

/// Reports the running steps and waits of a control loop, and fails if one of them exceeds its
/// limit.
pub(super) struct LoopWatch<'a> {
    reporter: &'a dyn Reporter,
    clock: &'a dyn Clock,
    next_report: Instant,
    /// When each wait was first seen, for waits without a start time.
    seen: BTreeMap<String, DateTime<Utc>>,
    idle_since: Option<DateTime<Utc>>,
}

impl<'a> LoopWatch<'a> {
    pub(super) fn new(reporter: &'a dyn Reporter, clock: &'a dyn Clock) -> Self {
        Self {
            reporter,
            clock,
            next_report: Instant::now() + REPORTED_EVERY,
            seen: BTreeMap::new(),
            idle_since: None,
        }
    }

    /// Returns the time at which the next report is due.
    pub(super) fn next_report(&self) -> Instant {
        self.next_report
    }

    /// Processes the loop's current steps and waits.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if a step or a wait should have ended.
    pub(super) fn update(&mut self, running: &[RunningStep], waits: &[WaitV1]) -> Result<()> {
        let now = self.clock.now();
        let mut open: Vec<Progress> = running
            .iter()
            .map(|step| Progress::Waiting {
                key: step.id.to_string(),
                what: step.what.clone(),
                since: step.since,
                until: step
                    .until
                    .unwrap_or_else(|| after(step.since, LONGEST_STEP)),
                detail: step.last_line.clone(),
            })
            .collect();
        self.seen
            .retain(|what, _| waits.iter().any(|wait| wait.what == *what));
        for wait in waits {
            let seen = *self.seen.entry(wait.what.clone()).or_insert(now);
            open.push(Progress::Waiting {
                key: format!("wait/{}", wait.what),
                what: wait.what.clone(),
                since: wait.since.unwrap_or(seen),
                until: wait.until,
                detail: None,
            });
        }
        if open.is_empty() {
            let since = *self.idle_since.get_or_insert(now);
            open.push(Progress::Waiting {
                key: "wait/next step".into(),
                what: "the next step of the control loop".into(),
                since,
                until: after(since, IDLE),
                detail: None,
            });
        } else {
            self.idle_since = None;
        }
        for wait in &open {
            if let Progress::Waiting {
                what, since, until, ..
            } = wait
                && now > after(*until, GRACE)
            {
                return Err(Error::TimedOut {
                    what: what.clone(),
                    after: Duration::from_secs((now - *since).num_seconds().unsigned_abs()),
                });
            }
        }
        if Instant::now() >= self.next_report {
            self.next_report = Instant::now() + REPORTED_EVERY;
            let more = open.len().saturating_sub(SHOWN);
            for wait in open.into_iter().take(SHOWN) {
                self.reporter.report(wait);
            }
            if more > 0 {
                self.reporter.report(Progress::Note {
                    text: format!("waiting for {more} more"),
                });
            }
        }
        Ok(())
    }

    /// Reports that the loop has not answered since `since`.
    pub(super) fn unanswered(&mut self, error: &Error, since: Instant, limit: Duration) {
        if Instant::now() < self.next_report {
            return;
        }
        self.next_report = Instant::now() + REPORTED_EVERY;
        let ago = chrono::TimeDelta::from_std(since.elapsed()).unwrap_or_default();
        let since = self.clock.now() - ago;
        self.reporter.report(Progress::Waiting {
            key: "wait/manager".into(),
            what: "the manager's response".into(),
            since,
            until: after(since, limit),
            detail: Some(error.chain()),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::clock::TokioClock;
    use crate::reconcile::StepId;

    #[derive(Debug, Default)]
    struct Recorder(Mutex<Vec<Progress>>);

    impl Reporter for Recorder {
        fn report(&self, progress: Progress) {
            self.0.lock().unwrap().push(progress);
        }
    }

    fn clock() -> TokioClock {
        TokioClock::starting_at(DateTime::UNIX_EPOCH)
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_reported_with_its_times_and_ends() {
        let recorder = Arc::new(Recorder::default());
        let clock = clock();
        let wait = Wait::new(
            recorder.as_ref(),
            &clock,
            "port 22",
            Duration::from_secs(25),
        );
        let began = Instant::now();
        let work = async {
            wait.set_detail("refused");
            std::future::pending::<Result<()>>().await
        };
        let error = wait.until(work).await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
        assert_eq!(began.elapsed(), Duration::from_secs(25));
        let reports = recorder.0.lock().unwrap();
        assert_eq!(reports.len(), 2, "{reports:?}");
        let expected = Progress::Waiting {
            key: "port 22".into(),
            what: "port 22".into(),
            since: DateTime::UNIX_EPOCH,
            until: after(DateTime::UNIX_EPOCH, Duration::from_secs(25)),
            detail: Some("refused".into()),
        };
        assert_eq!(reports[0], expected);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_report_may_be_earlier() {
        let recorder = Recorder::default();
        let clock = clock();
        let wait = Wait::new(&recorder, &clock, "the files", Duration::from_mins(1));
        let wait = wait.reported_after(Duration::from_secs(1));
        for (seconds, expected) in [(0, 0), (2, 1), (15, 3)] {
            let work = async {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Ok::<(), Error>(())
            };
            wait.until(work).await.unwrap();
            assert_eq!(recorder.0.lock().unwrap().len(), expected, "{seconds} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn repeated_attempts_end_with_the_last_error() {
        let recorder = Recorder::default();
        let clock = clock();
        let wait = Wait::new(&recorder, &clock, "the manager", Duration::from_secs(40));
        let attempt = || async {
            Err::<(), _>(Error::Unreachable {
                hint: None,
                what: "it".into(),
                source: None,
            })
        };
        let error = wait.repeat(attempt).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert!(recorder.0.lock().unwrap().len() >= 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_never_ends_times_out() {
        let recorder = Recorder::default();
        let clock = clock();
        let now = clock.now();
        let until = after(now, Duration::from_secs(100));
        let step = RunningStep {
            id: "node/a/provision".parse::<StepId>().unwrap(),
            what: "create node a".into(),
            since: now,
            until: Some(until),
            last_line: Some("Creating".into()),
        };
        let wait = WaitV1 {
            what: "node a is starting".into(),
            since: None,
            until,
        };
        for (running, waits) in [(vec![step], vec![]), (vec![], vec![wait]), (vec![], vec![])] {
            let mut watch = LoopWatch::new(&recorder, &clock);
            let began = Instant::now();
            let error = loop {
                if let Err(error) = watch.update(&running, &waits) {
                    break error;
                }
                assert!(began.elapsed() < IDLE * 2, "the loop did not time out");
                tokio::time::sleep(Duration::from_secs(1)).await;
            };
            assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
        }
        let reports = recorder.0.lock().unwrap();
        assert!(reports.len() > 30, "{reports:?}");
    }
}
