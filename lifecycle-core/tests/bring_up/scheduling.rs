//! Tests that nodes are cordoned, drained and opened again at run time, and that a drain moves each
//! replica once although the manager crashes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use lifecycle_core::Error;
use lifecycle_core::api::wire::{InstanceStateV1, NewNodeV1, SchedulingV1, StayingV1};
use lifecycle_core::bootstrap::Outcome;
use lifecycle_core::model::{
    NodeName, NodeRequest, Protocol, PublishedPort, ServiceName, VolumeMount, VolumeName,
    VolumeOptions,
};
use lifecycle_core::platform::OverrideChange;
use lifecycle_core::sim::{Edge, Violation};

use crate::stage::Stage;

use NodeRequest::{Cordon, Drain, Uncordon};

fn service(name: &str) -> ServiceName {
    ServiceName::try_from(name).unwrap()
}

/// Returns a platform with the nodes n1, n2 and n3. Each replica of `api` needs a node of its own, and
/// `db` has a volume on n2.
async fn running(seed: u64) -> Stage {
    let mut stage = Stage::new(seed).await;
    let api = stage.declaration.services.get_mut(&service("api")).unwrap();
    api.container.ports.push(PublishedPort {
        host_port: Some(8080),
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
    });
    stage.pin("db", "n2");
    let db = stage.declaration.services.get_mut(&service("db")).unwrap();
    db.container.volumes.push(VolumeMount {
        volume: VolumeName::try_from("data").unwrap(),
        target: "/data".into(),
        read_only: false,
        options: VolumeOptions::default(),
    });
    stage.up().await.unwrap();
    // The volume binds the replica from now on.
    let db = stage.declaration.services.get_mut(&service("db")).unwrap();
    db.constraints.clear();
    stage.up().await.unwrap();
    let node = NewNodeV1::new(NodeName::try_from("n3").unwrap(), None);
    let bootstrapper = stage.bootstrapper().await;
    bootstrapper
        .add_node(stage.declaration.id, &node)
        .await
        .unwrap();
    stage
}

async fn change(
    stage: &Stage,
    nodes: &[&str],
    request: NodeRequest,
) -> Result<(Outcome, Vec<StayingV1>), Error> {
    let bootstrapper = stage.bootstrapper().await;
    let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    let changed = bootstrapper.change_nodes(stage.declaration.id, &names, request);
    let within = tokio::time::timeout(Duration::from_hours(1), changed).await;
    within.unwrap_or_else(|_| panic!("{}", stage.world.transcript()))
}

/// Returns the violations apart from replicas of `api` that start on another node, or with another
/// specification, before they stop.
fn unintended(stage: &Stage) -> Vec<Violation> {
    let is_move = |one: &Violation| match one {
        Violation::Duplicated { instance, .. } | Violation::Overlapping { instance, .. } => {
            instance.service == service("api")
        }
        _ => false,
    };
    let violations = stage.world.violations().into_iter();
    violations.filter(|one| !is_move(one)).collect()
}

async fn scale(stage: &Stage, replicas: u16) {
    let bootstrapper = stage.bootstrapper().await;
    let (id, api) = (stage.declaration.id, service("api"));
    let scaled = bootstrapper.override_service(id, &api, OverrideChange::Scale(replicas));
    drop(scaled.await.unwrap());
}

/// Returns the node of each ready replica.
async fn nodes(stage: &Stage) -> BTreeMap<String, String> {
    let services = stage.api().await.services().await.unwrap();
    let instances = services.into_iter().flat_map(|service| service.instances);
    let ready = instances.filter(|one| one.state == InstanceStateV1::Ready);
    ready
        .map(|one| (one.id, one.node.unwrap().to_string()))
        .collect()
}

fn on(nodes: &BTreeMap<String, String>, node: &str) -> Vec<String> {
    let here = nodes.iter().filter(|(_, on)| *on == node);
    here.map(|(replica, _)| replica.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_cordoned_node_keeps_its_replicas_and_gets_no_others() {
    let mut stage = running(111).await;
    let before = nodes(&stage).await;
    let (outcome, staying) = change(&stage, &["n3"], Cordon).await.unwrap();
    assert_eq!(staying, []);
    let of_n3 = outcome.nodes.iter().find(|node| node.name.as_str() == "n3");
    assert_eq!(of_n3.unwrap().scheduling, SchedulingV1::Cordoned);
    change(&stage, &["n1"], Cordon).await.unwrap();
    assert_eq!(nodes(&stage).await, before);

    // A changed specification replaces the replicas where they are, also after a restart.
    stage.command("api", "echo second; sleep infinity");
    stage.world.next_incarnation();
    assert_eq!(stage.up().await.unwrap().failures, []);
    assert_eq!(nodes(&stage).await, before);

    // The third replica fits only on n3.
    let bootstrapper = stage.bootstrapper().await;
    let (id, api) = (stage.declaration.id, service("api"));
    let scaled = bootstrapper.override_service(id, &api, OverrideChange::Scale(3));
    let failures = scaled.await.unwrap().failures;
    assert_eq!(failures.len(), 1, "{failures:?}");
    let why = &failures[0].why;
    assert!(why.contains("n1 and 1 more: cordoned"), "{why}");

    let (_, staying) = change(&stage, &["n3"], Uncordon).await.unwrap();
    assert_eq!(staying, []);
    assert_eq!(nodes(&stage).await["api-3"], "n3");
    let overrides = stage.api().await.overrides().await.unwrap();
    let ids: Vec<&str> = overrides.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["api.replicas", "n3.added", "n1.scheduling"]);
    bootstrapper
        .remove_override(id, "n1.scheduling")
        .await
        .unwrap();
    let listed = stage.api().await.nodes().await.unwrap();
    assert!(
        listed
            .iter()
            .all(|node| node.scheduling == SchedulingV1::Open)
    );
    assert_eq!(unintended(&stage), []);
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_keeps_only_replicas_that_fit_nowhere_else() {
    let stage = running(112).await;
    let before = nodes(&stage).await;
    assert_eq!(before["db-1"], "n2");
    let moving: Vec<String> = on(&before, "n2")
        .into_iter()
        .filter(|one| one != "db-1")
        .collect();
    assert!(!moving.is_empty(), "{before:?}");
    let (outcome, staying) = change(&stage, &["n2"], Drain).await.unwrap();
    assert_eq!(outcome.failures, []);
    let after = nodes(&stage).await;
    assert_eq!(after.len(), before.len());
    assert_eq!(on(&after, "n2"), ["db-1"]);
    let [stays] = staying.as_slice() else {
        panic!("{staying:?}");
    };
    assert_eq!(stays.instance, "db-1");
    assert!(stays.why.contains("volume data is on n2"), "{stays:?}");
    let why = stage.api().await.why("db-1").await.unwrap();
    let why = serde_json::to_string(&why).unwrap();
    assert!(why.contains("stays on n2"), "{why}");

    // Each replica of `api` needs a node, so the third one stays where it is.
    change(&stage, &["n2"], Uncordon).await.unwrap();
    assert_eq!(nodes(&stage).await, after, "a replica moved back");
    scale(&stage, 3).await;
    let (_, staying) = change(&stage, &["n2"], Drain).await.unwrap();
    let stay: Vec<&str> = staying.iter().map(|one| one.instance.as_str()).collect();
    assert_eq!(stay, ["api-3", "db-1"]);
    assert_eq!(nodes(&stage).await.len(), before.len() + 1);
    // It moves as soon as there is another node.
    let bootstrapper = stage.bootstrapper().await;
    let node = NewNodeV1::new(NodeName::try_from("n4").unwrap(), None);
    bootstrapper
        .add_node(stage.declaration.id, &node)
        .await
        .unwrap();
    assert_eq!(nodes(&stage).await["api-3"], "n4");
    stage.up().await.unwrap();
    assert_eq!(on(&nodes(&stage).await, "n2"), ["db-1"]);
    assert_eq!(unintended(&stage), []);
}

/// `up` asks before it deletes a drained node that is no longer declared.
#[tokio::test(start_paused = true)]
async fn a_drained_node_is_not_taken_for_an_added_one() {
    let mut stage = running(116).await;
    change(&stage, &["n2"], Drain).await.unwrap();
    stage.drop_node("n2");
    let removed = stage.removed_by_up().await;
    let names: Vec<&str> = removed.iter().map(|one| one.node.name.as_str()).collect();
    assert_eq!(names, ["n2"]);
}

/// The volumes on a stopped node cannot be seen, so a replica with a volume must not start elsewhere.
#[tokio::test(start_paused = true)]
async fn a_replica_stays_on_a_drained_node_that_is_stopped() {
    let stage = running(117).await;
    change(&stage, &["n2"], Drain).await.unwrap();
    let before = nodes(&stage).await;
    assert_eq!(before["db-1"], "n2");
    let n2 = NodeName::try_from("n2").unwrap();
    stage.world.faults().power_off(&n2).unwrap();
    tokio::time::sleep(Duration::from_mins(30)).await;
    assert_eq!(nodes(&stage).await, before);
    assert_eq!(unintended(&stage), []);
}

/// A replica on a node that does not respond may still run, so it must not start elsewhere.
#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_respond_is_not_drained() {
    let stage = running(113).await;
    let before = nodes(&stage).await;
    let n2 = NodeName::try_from("n2").unwrap();
    stage.world.faults().partition(&n2).unwrap();
    tokio::time::sleep(Duration::from_mins(2)).await;
    let drained = stage.api().await.change_nodes(&["n2".into()], Drain).await;
    assert!(drained.unwrap().changed);
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(stage.world.violations(), [], "a replica moved");
    stage.world.faults().heal(&n2).unwrap();
    tokio::time::sleep(Duration::from_mins(2)).await;
    change(&stage, &["n2"], Drain).await.unwrap();
    let after = nodes(&stage).await;
    assert_eq!(on(&after, "n2"), ["db-1"]);
    assert_eq!(after.len(), before.len());
    assert_eq!(unintended(&stage), []);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_request_changes_nothing_and_unknown_nodes_are_rejected() {
    let stage = running(114).await;
    let api = stage.api().await;
    for (request, changed) in [
        (Uncordon, false),
        (Drain, true),
        (Drain, false),
        (Cordon, true),
        (Uncordon, true),
    ] {
        let applied = api.change_nodes(&["n3".into()], request).await.unwrap();
        assert_eq!(applied.changed, changed, "{request}");
    }
    let unknown = api.change_nodes(&["n33".into()], Drain).await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound { .. }), "{unknown:?}");
    assert!(unknown.hint().unwrap().contains("`n3`"), "{unknown:?}");
    // All nodes are changed at once, or none.
    let unknown = api.change_nodes(&["n1".into(), "n33".into()], Drain).await;
    assert!(
        matches!(unknown, Err(Error::NotFound { .. })),
        "{unknown:?}"
    );
    let listed = api.nodes().await.unwrap();
    assert!(
        listed
            .iter()
            .all(|node| node.scheduling == SchedulingV1::Open)
    );
    let before = nodes(&stage).await;
    change(&stage, &["n1", "n2", "n3"], Drain).await.unwrap();
    change(&stage, &["n3", "n2", "n1"], Uncordon).await.unwrap();
    assert_eq!(nodes(&stage).await, before, "a replica moved");
    // A node like a cordoned one is not cordoned, and a removed one leaves no override.
    change(&stage, &["n3"], Cordon).await.unwrap();
    let bootstrapper = stage.bootstrapper().await;
    let id = stage.declaration.id;
    let node = NewNodeV1::new(NodeName::try_from("n4").unwrap(), Some("n3".into()));
    let outcome = bootstrapper.add_node(id, &node).await.unwrap();
    let n4 = outcome.nodes.iter().find(|node| node.name.as_str() == "n4");
    assert_eq!(n4.unwrap().scheduling, SchedulingV1::Open);
    bootstrapper.remove_node(id, "n3", true).await.unwrap();
    let overrides = api.overrides().await.unwrap();
    let ids: Vec<&str> = overrides.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["n4.added"]);
}

/// Crashes the manager before and after each effect of a drain. The client then repeats the request.
#[tokio::test(start_paused = true)]
async fn a_drain_moves_each_replica_once_although_the_manager_crashes() {
    let whole = running(115).await;
    let begin = whole.world.effects().len();
    change(&whole, &["n2"], Drain).await.unwrap();
    let end = whole.world.effects().len();
    assert!(end >= begin + 2, "{}", whole.world.transcript());
    let expected = nodes(&whole).await;
    for effect in begin + 1..=end {
        for edge in [Edge::Before, Edge::After] {
            let stage = running(115).await;
            let number = u64::try_from(effect).unwrap();
            stage.world.faults().crash_at(number, edge);
            tokio::select! {
                biased;
                () = stage.world.crashed() => {}
                ended = change(&stage, &["n2"], Drain) => {
                    panic!("effect {effect} {edge:?} did not occur: {ended:?}");
                }
            }
            stage.world.next_incarnation();
            let context = || format!("effect {effect} {edge:?}\n{}", stage.world.transcript());
            // The new manager may not lead yet.
            while change(&stage, &["n2"], Drain).await.is_err() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            assert_eq!(nodes(&stage).await, expected, "{}", context());
            assert_eq!(unintended(&stage), [], "{}", context());
        }
    }
}
