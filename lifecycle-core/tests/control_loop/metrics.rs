//! Tests the metrics of a manager: they follow the state of the platform, and only the leader returns
//! them.

use std::time::Duration;

use lifecycle_core::manager::Manager;
use lifecycle_core::metrics::{Family, MetricValue};
use lifecycle_core::reconcile::Round;
use lifecycle_core::sim::SimOptions;

use crate::platform::{built, instance, node};
use crate::stage::{LEASE, Stage};

fn family(manager: &Manager, name: &str) -> Family {
    let mut families = manager.metrics().into_iter();
    let found = families.find(|family| family.metric.name == name);
    found.unwrap_or_else(|| panic!("no metric {name}"))
}

/// Returns the value of a gauge or a counter with these labels, if it has one.
pub(crate) fn value(manager: &Manager, name: &str, labels: &[&str]) -> Option<u64> {
    let samples = family(manager, name).samples;
    let sample = samples.iter().find(|sample| sample.labels == labels)?;
    match &sample.value {
        MetricValue::Number(number) => Some(*number),
        MetricValue::Durations(durations) => Some(durations.counts.iter().sum()),
    }
}

/// Returns the sum of all values of a gauge or a counter.
pub(crate) fn sum(manager: &Manager, name: &str) -> u64 {
    let samples = family(manager, name).samples.into_iter();
    let numbers = samples.map(|sample| match sample.value {
        MetricValue::Number(number) => number,
        MetricValue::Durations(_) => panic!("{name} is a histogram"),
    });
    numbers.sum()
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_node_and_its_replicas_are_unknown() {
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(61)).await;
    stage.use_agents();
    stage.start();
    stage.settled().await;
    let manager = &stage.manager;
    let nodes = |state| value(manager, "lifecycle_nodes", &[state]);
    let ready = || sum(manager, "lifecycle_service_ready_replicas");
    assert_eq!((nodes("running"), nodes("unknown")), (Some(3), Some(0)));
    // The job `migrate` has completed.
    assert_eq!(sum(manager, "lifecycle_service_replicas"), 6);
    assert_eq!(ready(), 6);
    let completed = ["migrate", "microservice", "completed"];
    assert_eq!(value(manager, "lifecycle_instances", &completed), Some(1));
    let up_to_date = value(manager, "lifecycle_agents", &["up-to-date"]);
    assert_eq!(up_to_date, Some(3));

    let unreachable = stage.place(&instance("db", 1)).0;
    let is_ready = || value(manager, "lifecycle_node_ready", &[unreachable.as_str()]);
    assert_eq!(is_ready(), Some(1));
    stage.world.faults().partition(&unreachable).unwrap();
    stage.pass(Duration::from_secs(30)).await;
    assert_eq!((nodes("running"), nodes("unknown")), (Some(2), Some(1)));
    assert_eq!(is_ready(), Some(0));
    let db = |state| {
        value(
            manager,
            "lifecycle_instances",
            &["db", "microservice", state],
        )
    };
    assert_eq!((db("ready"), db("unknown")), (None, Some(1)));
    let db_ready = ["db", "microservice"];
    let db_ready = || value(manager, "lifecycle_service_ready_replicas", &db_ready);
    assert_eq!(db_ready(), Some(0));
    assert!(sum(manager, "lifecycle_held") > 0);
    stage.world.faults().heal(&unreachable).unwrap();
    stage.pass(Duration::from_mins(1)).await;
    assert_eq!((nodes("running"), ready()), (Some(3), 6));
    assert_eq!(sum(manager, "lifecycle_held"), 0);
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_returns_the_state_of_the_platform() {
    let mut stage = Stage::shop(62).await;
    stage.settled().await;
    let leader = stage.manager.clone();
    let standby = stage.next_manager();
    let follows = tokio::spawn(standby.clone().run());
    stage.pass(LEASE).await;
    let epoch = |manager| value(manager, "lifecycle_epoch", &[]);
    assert_eq!((epoch(&leader), epoch(&standby)), (Some(1), Some(0)));
    assert_eq!(value(&standby, "lifecycle_leading", &[]), Some(0));
    assert_eq!(value(&standby, "lifecycle_settled", &[]), None);
    assert_eq!(sum(&standby, "lifecycle_nodes"), 0);
    let waits = value(
        &standby,
        "lifecycle_lease_requests_total",
        &["held-by-another"],
    );
    assert!(waits > Some(1), "{waits:?}");

    stage.abandon().await;
    stage.pass(LEASE * 2).await;
    assert_eq!(epoch(&standby), Some(2));
    assert_eq!(sum(&standby, "lifecycle_nodes"), 3);
    follows.abort();
}

#[tokio::test(start_paused = true)]
async fn a_rollout_is_counted_while_it_runs_and_when_it_has_ended() {
    let stage = Stage::shop(63).await;
    stage.settled().await;
    let manager = &stage.manager;
    let progressing = || value(manager, "lifecycle_rollouts", &["progressing"]);
    let ended = |state| {
        value(
            manager,
            "lifecycle_operations_ended_total",
            &["rollout", state],
        )
    };
    let settled = || value(manager, "lifecycle_settled_generation", &[]);
    assert_eq!((progressing(), ended("succeeded")), (Some(0), Some(0)));
    assert_eq!(settled(), Some(1));
    let mut changed = stage.declaration.clone();
    let web = changed
        .services
        .values_mut()
        .find(|one| one.name.as_str() == "web");
    web.unwrap().source = built(&stage.world, "web", 80, "second").await.source;
    manager.apply(changed).await.unwrap();
    assert_eq!(value(manager, "lifecycle_generation", &[]), Some(2));
    let mut rounds = manager.rounds();
    let has_begun = rounds.wait_for(|round| !round.plan.rollouts.is_empty());
    drop(has_begun.await.unwrap());
    assert_eq!((progressing(), settled()), (Some(1), Some(1)));
    stage.settled().await;
    stage.pass(Duration::from_secs(1)).await;
    assert_eq!((progressing(), settled()), (Some(0), Some(2)));
    assert_eq!((ended("succeeded"), ended("failed")), (Some(1), Some(0)));
    let rounds = value(manager, "lifecycle_settling_duration_seconds", &[]);
    assert_eq!(rounds, Some(2));
    let started = ["start-instance", "succeeded"];
    let started = value(manager, "lifecycle_step_duration_seconds", &started);
    assert!(started >= Some(7), "{started:?}");
}

#[tokio::test(start_paused = true)]
async fn removed_services_and_nodes_have_no_series() {
    let stage = Stage::shop(64).await;
    stage.settled().await;
    let manager = &stage.manager;
    let mut changed = stage.declaration.clone();
    changed
        .services
        .retain(|name, _| name.as_str() != "monitoring");
    changed.nodes.remove(&node("n3"));
    let generation = manager.apply(changed).await.unwrap().generation;
    let removed =
        |round: &Round| round.generation() == generation && round.settled && round.is_idle();
    let within = Duration::from_hours(1);
    stage.until("removed", within, removed).await;
    let left = manager.metrics().into_iter().flat_map(|one| one.samples);
    let mut labels = left.flat_map(|sample| sample.labels);
    assert!(!labels.any(|label| label == "monitoring" || label == "n3"));
}
