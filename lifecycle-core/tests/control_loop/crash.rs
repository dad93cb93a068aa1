//! Crashes the manager before and after every effect and every commit. The next manager must reach
//! the same state as without a crash, and no object may be duplicated or left behind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lifecycle_core::registry::MemoryRegistry;
use lifecycle_core::sim::{Edge, SimOptions};

use crate::registry::{Fault, FaultyRegistry};
use crate::stage::Stage;

const EDGES: [Edge; 2] = [Edge::Before, Edge::After];
const SEED: u64 = 3;

async fn stage() -> Stage {
    Stage::shop_without_manager(SimOptions::seeded(SEED)).await
}

fn names(stage: &Stage) -> BTreeSet<String> {
    let containers = stage.containers();
    containers.into_iter().map(|(_, c)| c.name).collect()
}

/// Returns the final state of a run without faults, and the number of its effects.
async fn undisturbed() -> (BTreeSet<String>, u64) {
    let mut stage = stage().await;
    let before = stage.world.effects().len();
    stage.start();
    stage.settled().await;
    let effects = stage.world.effects().len() - before;
    (names(&stage), u64::try_from(effects).unwrap())
}

async fn crashes_at(effect: u64, edge: Edge, loses_registry: bool) -> Stage {
    let mut stage = stage().await;
    let before = u64::try_from(stage.world.effects().len()).unwrap();
    stage.world.faults().crash_at(before + effect, edge);
    stage.start();
    let crashed = tokio::time::timeout(Duration::from_hours(2), stage.world.crashed()).await;
    crashed.unwrap_or_else(|_| panic!("the run with seed {SEED} has no effect {effect}"));
    stage.crash().await;
    if loses_registry {
        stage.registry = Arc::new(MemoryRegistry::new(Arc::new(stage.world.clock())));
    }
    stage.start();
    stage
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_at_any_effect_the_next_manager_reaches_the_same_state() {
    let (expected, effects) = undisturbed().await;
    assert!(effects > 15, "{effects}");
    for effect in 1..=effects {
        for edge in EDGES {
            let stage = crashes_at(effect, edge, false).await;
            stage.settled().await;
            assert_eq!(names(&stage), expected, "effect {effect} {edge:?}");
            stage.assert_whole().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_with_a_lost_registry_the_state_is_the_same() {
    let (expected, effects) = undisturbed().await;
    for effect in (1..=effects).step_by(3) {
        for edge in EDGES {
            let stage = crashes_at(effect, edge, true).await;
            stage.settled().await;
            assert_eq!(names(&stage), expected, "effect {effect} {edge:?}");
            stage.assert_whole().await;
        }
    }
}

/// Runs the platform with a fault at a commit and checks the final state. Returns whether the run
/// had that many commits.
async fn fails_at(commit: u64, fault: Fault, expected: &BTreeSet<String>) -> bool {
    let mut stage = stage().await;
    let registry = FaultyRegistry::new(Arc::clone(&stage.registry), commit, fault);
    stage.registry = registry.clone();
    stage.start();
    if matches!(fault, Fault::Crash(_)) {
        tokio::select! {
            () = registry.failed() => {}
            _ = stage.settled() => return false,
        }
        stage.crash().await;
        registry.next_process();
        stage.start();
    }
    stage.settled().await;
    assert_eq!(names(&stage), *expected, "commit {commit} {fault:?}");
    stage.assert_whole().await;
    registry.commits() >= commit
}

#[tokio::test(start_paused = true)]
async fn after_a_fault_at_any_commit_the_state_is_the_same() {
    let (expected, _) = undisturbed().await;
    for edge in EDGES {
        for kind in [Fault::Crash, Fault::Error] {
            let mut commit = 1;
            while fails_at(commit, kind(edge), &expected).await {
                // Test each of the first ten commits, then every fifth.
                commit += if commit < 10 { 1 } else { 5 };
            }
            assert!(commit > 20, "only {commit} commits");
        }
    }
}
