//! Tests that nodes are stopped and started again on request: which replicas move, which stop with
//! their node, and that each happens once although the manager crashes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use lifecycle_core::Error;
use lifecycle_core::api::wire::{
    AppliedV1, InstanceStateV1, NewNodeV1, OperationStateV1, OperationV1, RestartNodeV1, StayingV1,
};
use lifecycle_core::bootstrap::Outcome;
use lifecycle_core::cloud::Power;
use lifecycle_core::model::{
    NodeName, NodeRequest, OperationId, RestartPolicy, ServiceName, VolumeMount, VolumeName,
    VolumeOptions,
};
use lifecycle_core::platform::OverrideChange;
use lifecycle_core::sim::{Edge, Violation};

use crate::stage::Stage;

use NodeRequest::{Drain, Start, Stop, Uncordon};

fn service(name: &str) -> ServiceName {
    ServiceName::try_from(name).unwrap()
}

fn node(name: &str) -> NodeName {
    NodeName::try_from(name).unwrap()
}

/// Returns a platform with the nodes n1, n2 and n3; `db` has a volume on n2.
async fn running(seed: u64) -> Stage {
    let mut stage = Stage::new(seed).await;
    stage.pin("db", "n2");
    let db = stage.declaration.services.get_mut(&service("db")).unwrap();
    // No policy starts it again.
    db.restart = Some(RestartPolicy::No);
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
    let added = NewNodeV1::new(node("n3"), None);
    let bootstrapper = stage.bootstrapper().await;
    let added = bootstrapper.add_node(stage.declaration.id, &added);
    drop(added.await.unwrap());
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

/// Returns the state of each replica, and its node.
async fn replicas(stage: &Stage) -> BTreeMap<String, (InstanceStateV1, String)> {
    let services = stage.api().await.services().await.unwrap();
    let instances = services.into_iter().flat_map(|service| service.instances);
    instances
        .map(|one| {
            let on = one.node.map(|node| node.to_string());
            (one.id, (one.state, on.unwrap_or_default()))
        })
        .collect()
}

fn power(stage: &Stage, name: &str) -> Power {
    stage.world.node(&node(name)).unwrap().power
}

/// Returns the violations, except that replicas start on another node before they stop.
fn unintended(stage: &Stage) -> Vec<Violation> {
    let is_move = |one: &Violation| matches!(one, Violation::Duplicated { .. });
    let violations = stage.world.violations().into_iter();
    violations.filter(|one| !is_move(one)).collect()
}

/// Waits until the operation of a change ends.
async fn ended(stage: &Stage, applied: &AppliedV1) -> OperationV1 {
    let id = OperationId(applied.operation.unwrap());
    let wait = async {
        loop {
            let operation = stage.api().await.operation(id).await;
            if let Ok(operation) = operation
                && operation.state != OperationStateV1::Running
            {
                break operation;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_hours(1), wait).await;
    ended.unwrap_or_else(|_| panic!("{}", stage.world.transcript()))
}

#[tokio::test(start_paused = true)]
async fn replicas_leave_a_stopped_node_or_stop_with_it() {
    let stage = running(131).await;
    let before = replicas(&stage).await;
    assert_eq!(before["db-1"], (InstanceStateV1::Ready, "n2".into()));
    let (outcome, staying) = change(&stage, &["n2"], Stop).await.unwrap();
    assert_eq!(outcome.failures, []);
    let stopped: Vec<&str> = staying.iter().map(|one| one.instance.as_str()).collect();
    assert_eq!(stopped, ["db-1"]);
    assert_eq!(power(&stage, "n2"), Power::Stopped);
    let after = replicas(&stage).await;
    assert_eq!(after["db-1"], (InstanceStateV1::Stopped, "n2".into()));
    for (id, (state, on)) in after.iter().filter(|(id, _)| *id != "db-1") {
        assert_eq!(*state, InstanceStateV1::Ready, "{id}");
        assert_ne!(on, "n2", "{id}");
    }
    let why = stage.api().await.why("db-1").await.unwrap();
    let why = serde_json::to_string(&why).unwrap();
    assert!(why.contains("node start n2"), "{why}");
    let overrides = stage.api().await.overrides().await.unwrap();
    let ids: Vec<&str> = overrides.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["n3.added", "n2.power"]);
    assert!(overrides[1].to_string().starts_with("node n2 is stopped"));

    // It stays stopped, also after `up` and a restart of the manager.
    stage.world.next_incarnation();
    stage.up().await.unwrap();
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(power(&stage, "n2"), Power::Stopped);
    assert_eq!(replicas(&stage).await, after);

    let (outcome, staying) = change(&stage, &["n2"], Start).await.unwrap();
    assert_eq!((outcome.failures, staying), (vec![], vec![]));
    assert_eq!(power(&stage, "n2"), Power::Running);
    let again = replicas(&stage).await;
    assert_eq!(again["db-1"], (InstanceStateV1::Ready, "n2".into()));
    let overrides = stage.api().await.overrides().await.unwrap();
    assert_eq!(overrides.len(), 1, "{overrides:?}");
    assert_eq!(unintended(&stage), []);
}

#[tokio::test(start_paused = true)]
async fn a_replica_without_a_volume_leaves_a_stopped_node_when_another_has_room() {
    let mut stage = running(132).await;
    // Each replica needs a node of its own.
    let api = stage.declaration.services.get_mut(&service("api")).unwrap();
    api.max_per_node = Some(1);
    stage.up().await.unwrap();
    let bootstrapper = stage.bootstrapper().await;
    let (api, scale) = (service("api"), OverrideChange::Scale(3));
    let scaled = bootstrapper.override_service(stage.declaration.id, &api, scale);
    assert_eq!(scaled.await.unwrap().failures, []);
    let (_, staying) = change(&stage, &["n3"], Stop).await.unwrap();
    let [one] = staying.as_slice() else {
        panic!("{staying:?}");
    };
    assert!(one.instance.starts_with("api-"), "{one:?}");
    assert_eq!(power(&stage, "n3"), Power::Stopped);
    let id = one.instance.clone();
    assert_eq!(replicas(&stage).await[&id].0, InstanceStateV1::Stopped);
    let added = NewNodeV1::new(node("n4"), None);
    let added = bootstrapper.add_node(stage.declaration.id, &added);
    drop(added.await.unwrap());
    let expected = (InstanceStateV1::Ready, "n4".into());
    assert_eq!(replicas(&stage).await[&id], expected);
    change(&stage, &["n3"], Start).await.unwrap();
    assert_eq!(replicas(&stage).await[&id], expected, "it moved back");
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_is_still_drained_after_a_stop() {
    let stage = running(133).await;
    change(&stage, &["n2"], Drain).await.unwrap();
    let drained = replicas(&stage).await;
    change(&stage, &["n2"], Stop).await.unwrap();
    change(&stage, &["n2"], Start).await.unwrap();
    assert_eq!(replicas(&stage).await, drained);
    let overrides = stage.api().await.overrides().await.unwrap();
    let ids: Vec<&str> = overrides.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["n3.added", "n2.scheduling"]);
    change(&stage, &["n2"], Uncordon).await.unwrap();
    // The removal of the override starts the node, too.
    change(&stage, &["n2"], Stop).await.unwrap();
    let bootstrapper = stage.bootstrapper().await;
    let removed = bootstrapper.remove_override(stage.declaration.id, "n2.power");
    drop(removed.await.unwrap());
    assert_eq!(power(&stage, "n2"), Power::Running);
}

#[tokio::test(start_paused = true)]
async fn nodes_that_cannot_be_stopped_are_rejected() {
    let stage = running(134).await;
    let api = stage.api().await;
    let own = api.change_nodes(&["n3".into(), "n1".into()], Stop).await;
    let own = own.unwrap_err();
    assert!(matches!(own, Error::Invalid { .. }), "{own:?}");
    assert!(own.to_string().contains("the manager runs on it"), "{own}");
    assert_eq!(power(&stage, "n3"), Power::Running);
    let unknown = api.change_nodes(&["n9".into()], Stop).await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound { .. }), "{unknown:?}");
    for (request, changed) in [(Start, false), (Stop, true), (Stop, false), (Start, true)] {
        let applied = api.change_nodes(&["n3".into()], request).await.unwrap();
        assert_eq!(applied.changed, changed, "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_operation_ends_when_the_node_has_stopped_or_cannot_be_stopped() {
    let stage = running(135).await;
    let api = stage.api().await;
    let denied = Error::denied("stopping the VM", "the role is missing", "assign the role");
    stage.world.faults().fail_next("n3: power off", denied);
    let applied = api.change_nodes(&["n3".into()], Stop).await.unwrap();
    let operation = ended(&stage, &applied).await;
    assert_eq!(operation.state, OperationStateV1::Failed, "{operation:?}");
    assert!(operation.why.unwrap().contains("the role is missing"));
    let applied = api.change_nodes(&["n3".into()], Start).await.unwrap();
    let operation = ended(&stage, &applied).await;
    assert_eq!(operation.state, OperationStateV1::Succeeded);
    let applied = api.change_nodes(&["n3".into()], Stop).await.unwrap();
    let operation = ended(&stage, &applied).await;
    assert_eq!(operation.state, OperationStateV1::Succeeded);
    assert_eq!(operation.request.as_deref(), Some("stop"));
    assert_eq!(power(&stage, "n3"), Power::Stopped);
}

/// A node that does not respond cannot drain, so it is stopped at once.
#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_respond_is_stopped_at_once() {
    let stage = running(136).await;
    let n3 = node("n3");
    stage.world.faults().pause(&n3).unwrap();
    tokio::time::sleep(Duration::from_mins(3)).await;
    change(&stage, &["n3"], Stop).await.unwrap();
    assert_eq!(power(&stage, "n3"), Power::Stopped);
    for (id, (state, on)) in replicas(&stage).await {
        assert_eq!(state, InstanceStateV1::Ready, "{id}");
        assert_ne!(on, "n3", "{id}");
    }
    assert_eq!(unintended(&stage), []);
}

/// Crashes the manager before and after each effect of a stop and the following start. The client then
/// repeats the request.
#[tokio::test(start_paused = true)]
async fn a_node_stops_and_starts_once_although_the_manager_crashes() {
    for request in [Stop, Start] {
        let prepared = async || {
            let stage = running(137).await;
            if request == Start {
                change(&stage, &["n2"], Stop).await.unwrap();
            }
            stage
        };
        let whole = prepared().await;
        let begin = whole.world.effects().len();
        change(&whole, &["n2"], request).await.unwrap();
        let end = whole.world.effects().len();
        assert!(end >= begin + 2, "{}", whole.world.transcript());
        let expected = replicas(&whole).await;
        for effect in begin + 1..=end {
            for edge in [Edge::Before, Edge::After] {
                let stage = prepared().await;
                let number = u64::try_from(effect).unwrap();
                stage.world.faults().crash_at(number, edge);
                tokio::select! {
                    biased;
                    () = stage.world.crashed() => {}
                    ended = change(&stage, &["n2"], request) => {
                        panic!("effect {effect} {edge:?} did not occur: {ended:?}");
                    }
                }
                stage.world.next_incarnation();
                let context = || format!("effect {effect} {edge:?}\n{}", stage.world.transcript());
                // The new manager may not lead yet.
                while change(&stage, &["n2"], request).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                assert_eq!(replicas(&stage).await, expected, "{}", context());
                assert_eq!(power(&stage, "n2"), power(&whole, "n2"), "{}", context());
                assert_eq!(unintended(&stage), [], "{}", context());
                let operations = stage.api().await.operations().await.unwrap();
                let open = |one: &&OperationV1| one.state == OperationStateV1::Running;
                assert_eq!(operations.iter().find(open), None, "{}", context());
            }
        }
    }
}

/// The volume of a service is on the stopped node, although none of its replicas was last seen there.
#[tokio::test(start_paused = true)]
async fn a_volume_on_a_stopped_node_binds_its_service() {
    let mut stage = running(138).await;
    let (id, db) = (stage.declaration.id, service("db"));
    let bootstrapper = stage.bootstrapper().await;
    let stop = bootstrapper.override_service(id, &db, OverrideChange::Stop);
    drop(stop.await.unwrap());
    change(&stage, &["n2"], Stop).await.unwrap();
    let start = bootstrapper.override_service(id, &db, OverrideChange::Start);
    let failures = start.await.unwrap().failures;
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert!(
        failures[0].why.contains("volume data is on n2"),
        "{failures:?}"
    );
    let (_, staying) = change(&stage, &["n2"], Start).await.unwrap();
    assert_eq!(staying, []);
    let expected = (InstanceStateV1::Ready, "n2".to_owned());
    assert_eq!(replicas(&stage).await["db-1"], expected);

    // Not even a new constraint starts it without its volume.
    change(&stage, &["n2"], Stop).await.unwrap();
    stage.pin("db", "n1");
    let failures = stage.up().await.unwrap().failures;
    assert!(
        failures.iter().any(|one| one.instance == "db-1"),
        "{failures:?}"
    );
    assert_ne!(replicas(&stage).await["db-1"].0, InstanceStateV1::Ready);
    assert_eq!(unintended(&stage), []);
}

#[tokio::test(start_paused = true)]
async fn a_completed_job_does_not_run_again() {
    let mut stage = Stage::new(139).await;
    stage.pin("monitoring", "n2");
    stage.command("monitoring", "echo done; exit 0");
    let of = |stage: &mut Stage| {
        let services = &mut stage.declaration.services;
        let job = services.get_mut(&service("monitoring")).unwrap();
        job.restart = Some(RestartPolicy::No);
        job.constraints.clear();
    };
    stage.up().await.unwrap();
    of(&mut stage);
    stage.up().await.unwrap();
    let added = NewNodeV1::new(node("n3"), None);
    let bootstrapper = stage.bootstrapper().await;
    let added = bootstrapper.add_node(stage.declaration.id, &added);
    drop(added.await.unwrap());
    let runs = || {
        let effects = stage.world.effects().into_iter();
        effects
            .filter(|one| one.what.contains("start") && one.what.contains("-monitoring-"))
            .count()
    };
    let before = runs();
    for request in [Drain, Stop, Start, Uncordon] {
        change(&stage, &["n2"], request).await.unwrap();
        tokio::time::sleep(Duration::from_mins(10)).await;
        assert_eq!(runs(), before, "{request}\n{}", stage.world.transcript());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_restart_and_excludes_another() {
    let stage = running(150).await;
    let api = stage.api().await;
    let begun = api.restart_node("n3", &RestartNodeV1::default()).await;
    let begun = begun.unwrap();
    let applied = api.change_nodes(&["n3".into()], Stop).await.unwrap();
    assert_eq!(
        ended(&stage, &applied).await.state,
        OperationStateV1::Succeeded
    );
    let mut restart = applied.clone();
    restart.operation = Some(begun.id);
    let restart = ended(&stage, &restart).await;
    // The restart may have ended before.
    let why = restart.why.unwrap_or_default();
    assert!(
        why.is_empty() || why.contains("a stop of the node"),
        "{why}"
    );
    let rejected = api.restart_node("n3", &RestartNodeV1::default()).await;
    let rejected = rejected.unwrap_err();
    assert!(matches!(rejected, Error::Conflict { .. }), "{rejected:?}");
}

#[tokio::test(start_paused = true)]
async fn an_operation_about_several_nodes_reports_only_these() {
    let stage = running(151).await;
    let api = stage.api().await;
    let both = ["n2".to_owned(), "n3".to_owned()];
    let applied = api.change_nodes(&both, Stop).await.unwrap();
    let operation = ended(&stage, &applied).await;
    assert_eq!(
        operation.state,
        OperationStateV1::Succeeded,
        "{operation:?}"
    );
    assert_eq!(replicas(&stage).await["db-1"].0, InstanceStateV1::Stopped);
    let applied = api.change_nodes(&both, Start).await.unwrap();
    assert_eq!(
        ended(&stage, &applied).await.state,
        OperationStateV1::Succeeded
    );
    let denied = Error::denied("stopping the VM", "the role is missing", "assign the role");
    stage.world.faults().fail_next("n3: power off", denied);
    let applied = api.change_nodes(&both, Stop).await.unwrap();
    let operation = ended(&stage, &applied).await;
    assert_eq!(operation.state, OperationStateV1::Failed);
    assert!(operation.why.unwrap().contains("node n3"));
}
