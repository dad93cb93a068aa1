//! Tests the registry in memory.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lifecycle_core::Result;
use lifecycle_core::conformance::registry::{self, Backend};
use lifecycle_core::registry::{MemoryRegistry, Registry};

use crate::clock::ManualClock;

#[derive(Debug, Default)]
struct Memory(Arc<ManualClock>);

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
async fn memory_passes_the_suite() {
    registry::all(&Memory::default()).await.unwrap();
}
