//! Tests the removal of a platform. Services must stop in reverse order, and everything must be
//! removed, even if managers crash. Another platform with the same name must not be changed.

use std::sync::Arc;
use std::time::Duration;

use lifecycle_core::cloud::{CloudProvider, NodeChange, carry_out};
use lifecycle_core::model::{NodeSpec, Operation, OperationState};
use lifecycle_core::sim::{Edge, EffectOutcome, SimOptions};

use crate::platform::{empty, named, node, owner};
use crate::registry::{Fault, FaultyRegistry};
use crate::stage::Stage;

const SEED: u64 = 5;

async fn ended(stage: &Stage, operation: &Operation) {
    let limit = Duration::from_hours(2);
    let wait = async {
        loop {
            let now = stage.registry.operation(operation.id).await.unwrap();
            match now.unwrap().state {
                OperationState::Running => tokio::time::sleep(Duration::from_secs(1)).await,
                end => return end,
            }
        }
    };
    let end = tokio::time::timeout(limit, wait).await.unwrap_or_else(|_| {
        panic!(
            "seed {}: not removed: {:#?}",
            stage.seed,
            stage.manager.round()
        )
    });
    assert!(matches!(end, OperationState::Succeeded { .. }), "{end:?}");
}

/// Removes the manager's node. The bootstrapper does this after the manager has removed everything
/// else.
async fn remove_the_managers_node(stage: &mut Stage) {
    stage.crash().await;
    let cloud = stage.world.cloud(&stage.owner);
    let change = NodeChange::Delete { node: node("n1") };
    let done = carry_out(&cloud, change, Duration::from_mins(30)).await;
    done.unwrap();
    cloud.delete_shared().await.unwrap();
}

/// Checks that only the manager's node and its network are left.
fn assert_removed(stage: &Stage) {
    let seed = stage.seed;
    let mut left = stage.world.leftovers(&stage.owner);
    left.retain(|what| what != "volume data on n1");
    assert_eq!(left, ["node n1", "network"], "seed {seed}");
    assert!(stage.world.violations().is_empty(), "seed {seed}");
}

#[tokio::test(start_paused = true)]
async fn services_stop_in_reverse_order_and_everything_is_removed() {
    for seed in 1..=5 {
        let mut stage = Stage::shop(seed).await;
        // Start another platform with the same name in the same world.
        let mut other = empty(&owner(2), vec![NodeSpec::new(node("other"))]);
        let cache = named(&stage.world, "cache", 6379);
        other.services.insert(cache.name.clone(), cache);
        let mut other = Stage::of(seed + 1000, stage.world.clone(), owner(2), other).await;
        other.start();
        other.settled().await;
        stage.settled().await;

        let before = stage.world.effects().len();
        let operation = stage.manager.delete_platform(false).await.unwrap();
        let again = stage.manager.delete_platform(false).await.unwrap();
        assert_eq!(operation.id, again.id, "seed {seed}");
        ended(&stage, &operation).await;
        let effects = stage.world.effects().split_off(before);
        let stops: Vec<&str> = effects
            .iter()
            .filter(|e| e.outcome == EffectOutcome::Changed)
            .filter_map(|e| e.what.strip_prefix("stop demo-"))
            .filter_map(|name| name.split('-').nth(1))
            .collect();
        assert_eq!(
            stops,
            ["monitoring", "web", "api", "api", "db"],
            "seed {seed}"
        );
        assert_removed(&stage);
        let records = stage.records().await;
        assert!(records.is_empty(), "seed {seed}: {records:#?}");
        // If the manager is started again before its node is removed, it must not create anything.
        stage.crash().await;
        stage.start();
        stage.pass(Duration::from_mins(30)).await;
        assert_removed(&stage);
        other.crash().await;
        other.start();
        other.settled().await;
        remove_the_managers_node(&mut stage).await;
        assert!(stage.world.leftovers(&stage.owner).is_empty());
        other.assert_whole().await;
    }
}

async fn settled_stage() -> Stage {
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(SEED)).await;
    stage.start();
    stage.settled().await;
    stage
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_at_any_effect_the_next_manager_removes_the_rest() {
    let stage = settled_stage().await;
    let before = stage.world.effects().len();
    let operation = stage.manager.delete_platform(false).await.unwrap();
    ended(&stage, &operation).await;
    let count = stage.world.effects().len() - before;
    assert!(count > 8, "{count}");
    for effect in 1..=count {
        for edge in [Edge::Before, Edge::After] {
            let mut stage = settled_stage().await;
            let at = u64::try_from(before + effect).unwrap();
            stage.world.faults().crash_at(at, edge);
            let operation = stage.manager.delete_platform(false).await.unwrap();
            let limit = Duration::from_hours(2);
            let crashed = tokio::time::timeout(limit, stage.world.crashed()).await;
            crashed.unwrap_or_else(|_| panic!("no effect {effect} {edge:?}"));
            stage.crash().await;
            stage.start();
            ended(&stage, &operation).await;
            assert_removed(&stage);
            stage.pass(Duration::from_mins(10)).await;
            assert_removed(&stage);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn request_with_a_lost_response_can_be_repeated() {
    for edge in [Edge::Before, Edge::After] {
        let mut stage = Stage::shop_without_manager(SimOptions::seeded(SEED)).await;
        let inner = Arc::clone(&stage.registry);
        let registry = FaultyRegistry::new(inner, 0, Fault::Error(edge));
        stage.registry = registry.clone();
        stage.start();
        stage.settled().await;
        registry.fail_next();
        stage.manager.delete_platform(false).await.unwrap_err();
        let operation = stage.manager.delete_platform(false).await.unwrap();
        ended(&stage, &operation).await;
        assert_removed(&stage);
    }
}

#[tokio::test(start_paused = true)]
async fn removed_platform_can_be_declared_again() {
    let stage = settled_stage().await;
    let operation = stage.manager.delete_platform(false).await.unwrap();
    let refused = stage.manager.apply(stage.declaration.clone()).await;
    assert!(refused.is_err(), "{refused:?}");
    ended(&stage, &operation).await;
    let applied = stage
        .manager
        .apply(stage.declaration.clone())
        .await
        .unwrap();
    assert!(applied.changed);
    stage
        .until("up again", Duration::from_hours(1), |s| {
            s.generation() == applied.generation && s.settled && s.is_idle()
        })
        .await;
    stage.assert_whole().await;
}
