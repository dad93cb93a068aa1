//! A cloud that remembers when it was asked for its list, and what it answered.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lifecycle_core::cloud::{
    CloudCapabilities, CloudOperation, CloudProgress, CloudProvider, Fenced, NodeChange,
    ObservedNode, PreflightReport,
};
use lifecycle_core::error::{Error, Result};
use lifecycle_core::model::{NodeName, NodeSpec};
use lifecycle_core::sim::SimOptions;
use tokio::time::Instant;

use crate::platform::node;
use crate::stage::Stage;

/// When a list was asked for, when it was answered, and for how long it was refused.
#[derive(Debug, Clone)]
struct Listing {
    asked: Instant,
    answered: Instant,
    wait: Option<Duration>,
}

#[derive(Debug)]
struct WatchedCloud {
    inner: Arc<dyn CloudProvider>,
    listings: Mutex<Vec<Listing>>,
}

#[async_trait]
impl CloudProvider for WatchedCloud {
    fn capabilities(&self) -> CloudCapabilities {
        self.inner.capabilities()
    }

    async fn preflight(&self, wanted: &[NodeSpec]) -> Result<PreflightReport> {
        self.inner.preflight(wanted).await
    }

    async fn list(&self) -> Result<Vec<ObservedNode>> {
        let asked = Instant::now();
        let answer = self.inner.list().await;
        let wait = match &answer {
            Err(Error::Throttled { after, .. }) => *after,
            _ => None,
        };
        self.listings.lock().unwrap().push(Listing {
            asked,
            answered: Instant::now(),
            wait,
        });
        answer
    }

    async fn get(&self, node: &NodeName) -> Result<Option<ObservedNode>> {
        self.inner.get(node).await
    }

    async fn adopt(&self, node: &NodeName) -> Result<ObservedNode> {
        self.inner.adopt(node).await
    }

    async fn begin(&self, change: NodeChange) -> Result<CloudOperation> {
        self.inner.begin(change).await
    }

    async fn poll(&self, operation: &CloudOperation) -> Result<CloudProgress> {
        self.inner.poll(operation).await
    }

    async fn fence(&self, node: &NodeName) -> Result<Fenced> {
        self.inner.fence(node).await
    }

    async fn delete_shared(&self) -> Result<()> {
        self.inner.delete_shared().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttled_cloud_is_not_asked_before_its_delay_is_over() {
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(46)).await;
    let cloud = Arc::new(WatchedCloud {
        inner: Arc::new(stage.world.cloud(&stage.owner)),
        listings: Mutex::default(),
    });
    stage.cloud = Some(cloud.clone());
    stage.start();
    stage.converged().await;
    let before = cloud.listings.lock().unwrap().len();
    // A node that cannot be asked is a reason to look at the cloud, again and again.
    let faults = stage.world.faults();
    faults.pause(&node("n2")).unwrap();
    stage.pass(Duration::from_secs(20)).await;
    faults.throttle(1, Duration::from_mins(5));
    stage.pass(Duration::from_mins(15)).await;
    let listings = cloud.listings.lock().unwrap()[before..].to_vec();
    let refused: Vec<usize> = (0..listings.len())
        .filter(|n| listings[*n].wait.is_some())
        .collect();
    assert_eq!(refused.len(), 1, "{listings:#?}");
    let n = refused[0];
    let pause = listings[n + 1].asked - listings[n].answered;
    assert!(pause >= Duration::from_mins(5), "{pause:?}");
    // Nor is a cloud that answers asked without end.
    assert!(listings.len() < 200, "{}", listings.len());
    faults.heal(&node("n2")).unwrap();
    stage.pass(Duration::from_secs(30)).await;
    stage.assert_whole().await;
}
