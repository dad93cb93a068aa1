//! A clock that moves only when a test moves it.

use std::sync::Mutex;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lifecycle_core::clock::Clock;

#[derive(Debug, Default)]
pub(crate) struct ManualClock(Mutex<TimeDelta>);

impl ManualClock {
    pub(crate) fn forward(&self, time: Duration) {
        *self.0.lock().unwrap() += TimeDelta::from_std(time).unwrap();
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::<Utc>::UNIX_EPOCH + TimeDelta::days(20_000) + *self.0.lock().unwrap()
    }
}
