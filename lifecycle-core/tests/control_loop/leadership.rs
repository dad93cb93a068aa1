//! Tests two managers that share a registry: the standby manager takes over when the leader
//! crashes.

use std::sync::Arc;
use std::time::Duration;

use lifecycle_core::error::Error;
use lifecycle_core::model::{Epoch, EventKind};
use lifecycle_core::registry::{Batch, Change, Lease};
use lifecycle_core::sim::{Edge, SimOptions};

use crate::registry::{Fault, FaultyRegistry};
use crate::stage::{LEASE, Stage};

#[tokio::test(start_paused = true)]
async fn standby_manager_takes_over_when_the_lease_expires() {
    let mut stage = Stage::shop(31).await;
    stage.settled().await;
    let follower = stage.next_manager();
    let follows = tokio::spawn(follower.clone().run());
    stage.pass(LEASE * 4).await;
    let leading = stage.events(EventKind::Leading, 0).await;
    assert_eq!(leading.len(), 1, "{leading:#?}");
    assert!(follower.apply(stage.declaration.clone()).await.is_err());
    assert!(follower.delete_platform(false).await.is_err());

    // Crash the leader. The world and the standby manager continue.
    let effects = stage.world.effects().len();
    stage.abandon().await;
    stage.pass(LEASE * 2).await;
    let leading = stage.events(EventKind::Leading, 0).await;
    assert_eq!(leading.len(), 2, "{leading:#?}");
    assert!(follower.is_open());
    stage.pass(Duration::from_mins(2)).await;
    assert_eq!(stage.world.effects().len(), effects);
    stage.manager = follower;
    stage.settled().await;
    stage.assert_whole().await;

    let write = Batch::of(Change::MarkFirstRoundDone);
    let refused = stage.registry.commit(Epoch(1), write).await;
    assert!(
        matches!(refused, Err(Error::StaleEpoch { .. })),
        "{refused:?}"
    );
    follows.abort();
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_renewed_while_the_registry_deletes_old_events() {
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(32)).await;
    let fault = Fault::Error(Edge::Before);
    let registry = FaultyRegistry::new(Arc::clone(&stage.registry), 0, fault);
    stage.registry = Arc::clone(&registry) as _;
    stage.start();
    stage.settled().await;
    registry.keep_busy();
    stage.pass(LEASE * 4).await;
    let other = stage.registry.acquire_lease("another manager", LEASE).await;
    assert!(matches!(other, Ok(Lease::HeldBy { .. })), "{other:?}");
}
