//! Traits for sources of time and ids. Simulations implement them so that a run can be repeated
//! exactly.

use std::fmt::Debug;
use std::sync::Mutex;

use chrono::{DateTime, SubsecRound as _, Utc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

/// A source of time.
///
/// # Guarantees
/// A call is cheap and never blocks. A clock only returns the time; to wait, use `tokio::time`. A
/// test that pauses `tokio::time` uses a [`TokioClock`], which then pauses too.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Returns the current time in whole microseconds, which is the precision of the registry.
    fn now(&self) -> DateTime<Utc>;
}

/// The system clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the only permitted call")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }
}

/// A clock that starts at a given time and advances exactly as `tokio::time` does.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    start: DateTime<Utc>,
    since: tokio::time::Instant,
}

impl TokioClock {
    /// Creates a clock whose current time is `start`.
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

/// Serializes times with exactly six fractional digits, so that sorting them as text works.
pub(crate) mod six_digits {
    use chrono::{DateTime, SecondsFormat, Utc};
    use serde::Serializer;

    pub(crate) fn serialize<S: Serializer>(time: &DateTime<Utc>, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
    }

    #[cfg(feature = "api")]
    #[expect(clippy::ref_option, reason = "the signature that serde requires")]
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

/// A source of new ids.
pub trait IdSource: Debug + Send + Sync + 'static {
    /// Returns a unique UUID.
    fn uuid(&self) -> Uuid;
}

/// Random ids.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomIds;

impl IdSource for RandomIds {
    #[expect(clippy::disallowed_methods, reason = "the only permitted call")]
    fn uuid(&self) -> Uuid {
        Uuid::new_v4()
    }
}

/// Pseudorandom ids. Sources with the same seed return the same ids.
#[derive(Debug)]
pub struct SeededIds(Mutex<StdRng>);

impl SeededIds {
    /// Creates a source that starts from this seed.
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
