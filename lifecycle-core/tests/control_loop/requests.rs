//! Tests requests to a manager: declarations, credentials, and reads after the manager's restart.

use std::sync::Arc;
use std::time::Duration;

use lifecycle_core::model::EventKind;
use lifecycle_core::registry::Registry;
use lifecycle_core::sim::{Edge, SimOptions};

use crate::platform::{built, instance, service};
use crate::registry::{Fault, FaultyRegistry};
use crate::stage::Stage;

#[tokio::test(start_paused = true)]
async fn identical_declaration_creates_no_generation() {
    let stage = Stage::shop(21).await;
    let status = stage.settled().await;
    let events = stage.last_event().await;
    let applied = stage.manager.apply(stage.declaration.clone()).await;
    let applied = applied.unwrap();
    assert!(!applied.changed);
    assert_eq!(applied.generation, status.generation());
    stage.pass(Duration::from_mins(1)).await;
    assert_eq!(stage.last_event().await, events);
    let mut foreign = stage.declaration.clone();
    foreign.id = crate::platform::owner(9).id;
    assert!(stage.manager.apply(foreign).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn changed_code_replaces_only_its_service() {
    let mut stage = Stage::shop(22).await;
    stage.settled().await;
    let before = stage.records().await;
    let changed = built(&stage.world, "web", 80, "second").await;
    let web = stage.declaration.services.get_mut(&service("web")).unwrap();
    web.source = changed.source;
    let applied = stage.manager.apply(stage.declaration.clone()).await;
    let applied = applied.unwrap();
    assert!(applied.changed);
    stage
        .until("replaced", Duration::from_mins(30), |s| {
            s.generation() == applied.generation && s.settled && s.is_idle()
        })
        .await;
    stage.assert_whole().await;
    let after = stage.records().await;
    for (id, record) in &after {
        let same = before[id].container == record.container;
        assert_eq!(same, *id != instance("web", 1), "{id}");
        if same {
            assert_eq!(&before[id], record, "{id}");
        }
    }
    let declared = stage.events(EventKind::Declared, 0).await;
    assert_eq!(declared.len(), 1, "{declared:#?}");
}

#[tokio::test(start_paused = true)]
async fn declaration_with_a_lost_response_can_be_repeated() {
    for edge in [Edge::Before, Edge::After] {
        let mut stage = Stage::shop_without_manager(SimOptions::seeded(23)).await;
        let inner: Arc<dyn Registry> = Arc::clone(&stage.registry);
        let registry = FaultyRegistry::new(inner, 0, Fault::Error(edge));
        stage.registry = registry.clone();
        stage.start();
        stage.settled().await;
        stage
            .declaration
            .services
            .get_mut(&service("api"))
            .unwrap()
            .replicas = 3;
        registry.fail_next();
        let lost = stage.manager.apply(stage.declaration.clone()).await;
        assert!(lost.is_err());
        let applied = stage.manager.apply(stage.declaration.clone()).await;
        let generation = applied.unwrap().generation;
        stage
            .until("three of api", Duration::from_mins(30), |s| {
                s.generation() == generation && s.settled && s.is_idle()
            })
            .await;
        stage.assert_whole().await;
    }
}

#[tokio::test(start_paused = true)]
async fn restarted_manager_keeps_times_and_endpoints_and_is_open_immediately() {
    for seed in 1..=3 {
        let mut stage = Stage::shop(seed).await;
        stage.settled().await;
        let before = stage.records().await;
        let effects = stage.world.effects().len();
        let cursor = stage.last_event().await;
        stage.crash().await;
        stage.pass(Duration::from_hours(1)).await;
        stage.start();
        // All reads during the restart must return the same records as before.
        for _ in 0..2_000 {
            stage.pass(Duration::from_millis(20)).await;
            assert_eq!(stage.records().await, before, "seed {seed}");
        }
        assert!(stage.manager.is_open(), "seed {seed}");
        stage.settled().await;
        stage.assert_whole().await;
        assert_eq!(stage.world.effects().len(), effects, "seed {seed}");
        for kind in [EventKind::Ready, EventKind::NotReady, EventKind::Planned] {
            let events = stage.events(kind, cursor).await;
            assert!(events.is_empty(), "seed {seed}: {events:#?}");
        }
    }
}
