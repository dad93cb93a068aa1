//! Tests that the services of a platform start in order, and that the manager is idle afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lifecycle_core::model::InstanceState;
use lifecycle_core::runtime::ContainerState;

use crate::platform::{instance, node};
use crate::stage::Stage;

#[tokio::test(start_paused = true)]
async fn platform_starts_in_order_and_becomes_idle() {
    for seed in 1..=5 {
        let stage = Stage::shop(seed).await;
        let status = stage.settled().await;
        stage.assert_whole().await;
        assert!(stage.manager.is_open(), "seed {seed}");
        assert_eq!(stage.world.installed(&node("n3")), 1, "seed {seed}");
        for status in status.plan.instances.values() {
            assert!(status.settled, "seed {seed}: {status:?}");
        }
        assert_order(&stage).await;
        let effects = stage.world.effects().len();
        let events = stage.last_event().await;
        stage.pass(Duration::from_hours(1)).await;
        assert_eq!(stage.world.effects().len(), effects, "seed {seed}");
        assert_eq!(stage.last_event().await, events, "seed {seed}");
        stage.assert_whole().await;
    }
}

/// Checks that each service started after its dependencies were ready, and that monitoring started
/// last.
pub(crate) async fn assert_order(stage: &Stage) {
    let seed = stage.seed;
    let records = stage.records().await;
    let started = |name: &str, n: u16| records[&instance(name, n)].started_at.unwrap();
    let ready = |name: &str, n: u16| records[&instance(name, n)].ready_at.unwrap();
    let (_, migrate) = stage.place(&instance("migrate", 1));
    let ContainerState::Exited { at: Some(done), .. } = migrate.state else {
        panic!("seed {seed}: {migrate:?}");
    };
    assert_eq!(
        records[&instance("migrate", 1)].state,
        InstanceState::Completed
    );
    assert!(started("migrate", 1) >= ready("db", 1), "seed {seed}");
    for n in [1, 2] {
        assert!(started("api", n) >= done, "seed {seed}");
        assert!(started("web", 1) >= ready("api", n), "seed {seed}");
    }
    let last = started("monitoring", 1);
    let before: Vec<DateTime<Utc>> = records
        .values()
        .filter(|r| r.id.service.as_str() != "monitoring")
        .filter_map(|r| r.ready_at)
        .collect();
    assert_eq!(before.len(), 4, "seed {seed}");
    assert!(before.iter().all(|at| last >= *at), "seed {seed}");
}

/// Runs a platform with a fault, in a separate runtime. Returns the transcript.
fn transcript(seed: u64) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let stage = Stage::shop(seed).await;
        stage.settled().await;
        stage.world.faults().reboot(&node("n2")).unwrap();
        stage.pass(Duration::from_mins(10)).await;
        stage.assert_whole().await;
        stage.world.transcript()
    })
}

#[test]
fn same_seed_gives_the_same_run() {
    let first = transcript(7);
    assert_eq!(first, transcript(7));
    assert_ne!(first, transcript(8));
}

/// An idle manager may list a node's containers every 30 s and ping the node every 4 s. When a
/// container exits, the manager may inspect the container once per event.
#[tokio::test(start_paused = true)]
async fn idle_nodes_are_rarely_listed_and_only_changes_are_inspected() {
    let stage = Stage::shop(51).await;
    stage.settled().await;
    stage.pass(Duration::from_mins(2)).await;
    let nodes = 3;
    let before = stage.world.calls();
    stage.pass(Duration::from_mins(10)).await;
    let after = stage.world.calls();
    let calls = |word: &str| {
        let count = |calls: &BTreeMap<String, u64>| calls.get(word).copied().unwrap_or_default();
        count(&after) - count(&before)
    };
    let lists = 19 * nodes..=21 * nodes;
    assert!(lists.contains(&calls("state")), "{} lists", calls("state"));
    assert!(calls("ping") <= 201 * nodes, "{} pings", calls("ping"));
    for word in ["info", "container", "connect", "events", "exec"] {
        assert_eq!(calls(word), 0, "calls of {word}");
    }

    let (node, container) = stage.place(&instance("db", 1));
    let faults = stage.world.faults();
    faults.kill_container(&node, &container.name, 1).unwrap();
    stage.pass(Duration::from_millis(200)).await;
    let inspected = stage.world.calls()["container"] - after["container"];
    assert!((1..=4).contains(&inspected), "{inspected} inspections");
    stage.pass(Duration::from_secs(20)).await;
    stage.assert_whole().await;
}
