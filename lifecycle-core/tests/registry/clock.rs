//! A clock that moves when it is told to.

use std::sync::Mutex;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lifecycle_core::clock::Clock;

#[derive(Debug, Default)]
pub(crate) struct HandClock(Mutex<TimeDelta>);

impl HandClock {
    pub(crate) fn forward(&self, time: Duration) {
        *self.0.lock().unwrap() += TimeDelta::from_std(time).unwrap();
    }
}

impl Clock for HandClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::<Utc>::UNIX_EPOCH + TimeDelta::days(20_000) + *self.0.lock().unwrap()
    }
}
