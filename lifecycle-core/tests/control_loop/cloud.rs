//! Tests how the manager uses the cloud, with a provider that records its calls.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lifecycle_core::cloud::{
    CloudCapabilities, CloudOperation, CloudProgress, CloudProvider, Fenced, NodeChange,
    ObservedNode, PreflightReport,
};
use lifecycle_core::error::{Error, Result};
use lifecycle_core::model::{NodeName, NodeSpec, PublicPorts};
use lifecycle_core::sim::{Edge, FaultRates, SimOptions};
use tokio::time::Instant;

use crate::platform::node;
use crate::stage::Stage;

/// Records when a list was requested and returned. If the request was throttled, `wait` is the
/// delay that the cloud requested.
#[derive(Debug, Clone)]
struct Listing {
    asked: Instant,
    answered: Instant,
    wait: Option<Duration>,
}

#[derive(Debug)]
struct RecordingCloud {
    inner: Arc<dyn CloudProvider>,
    listings: Mutex<Vec<Listing>>,
    begun: Mutex<Vec<NodeName>>,
    polled: Mutex<Vec<CloudOperation>>,
}

impl RecordingCloud {
    fn of(stage: &Stage) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::new(stage.world.cloud(&stage.owner)),
            listings: Mutex::default(),
            begun: Mutex::default(),
            polled: Mutex::default(),
        })
    }

    fn begun(&self, node: &NodeName) -> usize {
        let begun = self.begun.lock().unwrap();
        begun.iter().filter(|begun| *begun == node).count()
    }
}

#[async_trait]
impl CloudProvider for RecordingCloud {
    fn capabilities(&self) -> CloudCapabilities {
        self.inner.capabilities()
    }

    async fn preflight(&self, specs: &[NodeSpec]) -> Result<PreflightReport> {
        self.inner.preflight(specs).await
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
        self.begun.lock().unwrap().push(change.node().clone());
        self.inner.begin(change).await
    }

    async fn poll(&self, operation: &CloudOperation) -> Result<CloudProgress> {
        self.polled.lock().unwrap().push(operation.clone());
        self.inner.poll(operation).await
    }

    async fn fence(&self, node: &NodeName) -> Result<Fenced> {
        self.inner.fence(node).await
    }

    async fn set_public_ports(&self, node: &NodeName, ports: &PublicPorts) -> Result<()> {
        self.inner.set_public_ports(node, ports).await
    }

    async fn delete_shared(&self) -> Result<()> {
        self.inner.delete_shared().await
    }
}

#[tokio::test(start_paused = true)]
async fn throttled_cloud_is_not_called_before_its_delay_is_over() {
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(46)).await;
    let cloud = RecordingCloud::of(&stage);
    stage.cloud = Some(cloud.clone());
    stage.start();
    stage.settled().await;
    let before = cloud.listings.lock().unwrap().len();
    // While a node does not respond, the manager lists the cloud's nodes repeatedly.
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
    // A cloud that responds must not be polled in a busy loop.
    assert!(listings.len() < 200, "{}", listings.len());
    faults.heal(&node("n2")).unwrap();
    stage.pass(Duration::from_secs(30)).await;
    stage.assert_whole().await;
}

/// Returns the cloud operations in the registry.
async fn stored(stage: &Stage) -> Vec<CloudOperation> {
    let nodes = stage.registry.snapshot().await.unwrap().nodes;
    let operations = nodes.into_values().filter_map(|v| v.operation);
    operations.collect()
}

async fn stored_for(stage: &Stage, name: &NodeName) -> CloudOperation {
    let found = async {
        loop {
            let operations = stored(stage).await;
            if let Some(operation) = operations.into_iter().find(|o| o.change.node() == name) {
                return operation;
            }
            stage.pass(Duration::from_millis(5)).await;
        }
    };
    let limit = Duration::from_mins(5);
    tokio::time::timeout(limit, found).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn new_process_polls_the_operations_of_the_previous_one() {
    for seed in 48..51 {
        let mut stage = Stage::shop_without_manager(SimOptions::seeded(seed)).await;
        let first = RecordingCloud::of(&stage);
        stage.cloud = Some(first.clone());
        stage.start();
        let operation = stored_for(&stage, &node("n2")).await;
        stage.crash().await;
        assert_eq!(first.begun(&node("n2")), 1, "seed {seed}");
        let second = RecordingCloud::of(&stage);
        stage.cloud = Some(second.clone());
        stage.start();
        stage.settled().await;
        stage.assert_whole().await;
        assert_eq!(second.begun(&node("n2")), 0, "seed {seed}");
        assert!(
            second.polled.lock().unwrap().contains(&operation),
            "seed {seed}"
        );
        assert_eq!(stored(&stage).await, [], "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn operation_that_was_not_stored_is_not_started_twice() {
    for seed in 51..54 {
        let mut stage = Stage::shop_without_manager(SimOptions::seeded(seed)).await;
        let before = u64::try_from(stage.world.effects().len()).unwrap();
        // Crash after the cloud has accepted the first request, before the manager receives the
        // response.
        stage.world.faults().crash_at(before + 1, Edge::After);
        stage.start();
        stage.world.crashed().await;
        stage.crash().await;
        assert_eq!(stored(&stage).await, [], "seed {seed}");
        stage.start();
        stage.settled().await;
        stage.assert_whole().await;
        assert_eq!(stored(&stage).await, [], "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn failed_operation_is_removed() {
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(55)).await;
    let rates = |provision_fails| FaultRates {
        provision_fails,
        ..FaultRates::default()
    };
    stage.world.faults().rates(rates(1.0));
    stage.start();
    let operation = stored_for(&stage, &node("n2")).await;
    stage.crash().await;
    stage.start();
    let gone = async {
        while stored(&stage).await.contains(&operation) {
            stage.pass(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(30), gone)
        .await
        .unwrap();
    stage.world.faults().rates(rates(0.0));
    stage.settled().await;
    stage.assert_whole().await;
    assert_eq!(stored(&stage).await, []);
}
