//! Tests two managers that share a registry: the standby manager takes over when the leader
//! crashes.

use std::time::Duration;

use lifecycle_core::error::Error;
use lifecycle_core::model::{Epoch, EventKind};
use lifecycle_core::registry::{Batch, Change};

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
