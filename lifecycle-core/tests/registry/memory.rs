//! The registry in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use lifecycle_core::Result;
use lifecycle_core::clock::Clock;
use lifecycle_core::conformance::registry::{self, Backend};
use lifecycle_core::registry::{MemoryRegistry, Registry};

/// A clock that moves when it is told to.
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

#[derive(Debug, Default)]
struct Memory(Arc<HandClock>);

#[async_trait]
impl Backend for Memory {
    async fn fresh(&self) -> Result<Arc<dyn Registry>> {
        Ok(Arc::new(MemoryRegistry::new(Arc::clone(&self.0) as _)))
    }

    async fn reopen(&self, _: Arc<dyn Registry>) -> Result<Option<Arc<dyn Registry>>> {
        Ok(None)
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(10)
    }

    async fn pass(&self, time: Duration) {
        self.0.forward(time);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_keeps_the_suite() {
    registry::all(&Memory::default()).await.unwrap();
}
