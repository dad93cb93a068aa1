//! Time and new ids as something that is asked for, so that the same run can be had again.

use std::fmt::Debug;
use std::sync::Mutex;

use chrono::{DateTime, SubsecRound as _, Utc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

/// Tells the time.
///
/// # Guarantees
/// Cheap, never blocks. Waiting goes through `tokio::time`, which a test can pause; a clock
/// for such a test moves with it.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The time now, in whole microseconds: all that the registry keeps.
    fn now(&self) -> DateTime<Utc>;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }
}

/// A clock that starts at a given moment and moves with `tokio::time`, paused or not.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    start: DateTime<Utc>,
    since: tokio::time::Instant,
}

impl TokioClock {
    /// Starts at `start` now.
    pub fn starting_at(start: DateTime<Utc>) -> Self {
        Self {
            start,
            since: tokio::time::Instant::now(),
        }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> DateTime<Utc> {
        chrono::Duration::from_std(self.since.elapsed())
            .ok()
            .and_then(|passed| self.start.checked_add_signed(passed))
            .unwrap_or(self.start)
            .trunc_subsecs(6)
    }
}

/// How a time is written for others: always with six digits, so that times also sort as text.
pub(crate) mod six_digits {
    use chrono::{DateTime, SecondsFormat, Utc};
    use serde::Serializer;

    pub(crate) fn serialize<S: Serializer>(time: &DateTime<Utc>, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
    }

    #[cfg(feature = "api")]
    #[expect(clippy::ref_option, reason = "the form that serde calls")]
    pub(crate) fn optional<S: Serializer>(
        time: &Option<DateTime<Utc>>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => serialize(time, s),
            None => s.serialize_none(),
        }
    }
}

/// Makes new ids.
pub trait IdSource: Debug + Send + Sync + 'static {
    /// A UUID that nobody else has.
    fn uuid(&self) -> Uuid;
}

/// Random ids.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomIds;

impl IdSource for RandomIds {
    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    fn uuid(&self) -> Uuid {
        Uuid::new_v4()
    }
}

/// Ids that a seed determines.
#[derive(Debug)]
pub struct SeededIds(Mutex<StdRng>);

impl SeededIds {
    /// The ids of this seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl IdSource for SeededIds {
    fn uuid(&self) -> Uuid {
        let mut rng = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        uuid::Builder::from_random_bytes(rng.random()).into_uuid()
    }
}
