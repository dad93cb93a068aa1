//! Tests requested preparations of nodes: the engine must respond afterwards, the operation must end
//! once with what was done or why not, and nothing that runs may be disturbed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use lifecycle_core::api::wire::{InstanceStateV1, OperationKindV1, OperationStateV1, OperationV1};
use lifecycle_core::model::{EventKind, NodeName, NodeRequest, OperationId};
use lifecycle_core::sim::Edge;
use lifecycle_core::{Error, Result};

use crate::stage::Stage;

fn node(name: &str) -> NodeName {
    NodeName::try_from(name).unwrap()
}

async fn running(seed: u64) -> Stage {
    let stage = Stage::new(seed).await;
    stage.up().await.unwrap();
    stage
}

async fn prepare(stage: &Stage, name: &str) -> Result<String> {
    let bootstrapper = stage.bootstrapper().await;
    let prepare = bootstrapper.prepare_node(stage.declaration.id, name);
    let within = tokio::time::timeout(Duration::from_hours(1), prepare).await;
    within.unwrap_or_else(|_| panic!("{}", stage.world.transcript()))
}

/// Waits until an operation ends.
async fn ended(stage: &Stage, id: OperationId) -> OperationV1 {
    let wait = async {
        loop {
            if let Ok(operation) = stage.api().await.operation(id).await
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

/// Waits until all replicas are ready.
async fn all_ready(stage: &Stage) {
    let wait = async {
        loop {
            let services = stage.api().await.services().await.unwrap();
            let mut instances = services.iter().flat_map(|service| &service.instances);
            if instances.all(|instance| instance.state == InstanceStateV1::Ready) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let ready = tokio::time::timeout(Duration::from_mins(10), wait).await;
    ready.unwrap_or_else(|_| panic!("{}", stage.world.transcript()));
}

/// Returns the messages of the events of a kind after the cursor.
async fn events(stage: &Stage, cursor: u64, kind: EventKind) -> Vec<String> {
    let page = stage.api().await.events(cursor).await.unwrap();
    let events = page.events.into_iter().map(|event| event.event);
    let of_kind = events.filter(|event| event.kind == kind);
    of_kind.map(|event| event.message).collect()
}

#[tokio::test(start_paused = true)]
async fn a_running_engine_is_left_alone() {
    let stage = running(161).await;
    let (before, cursor) = (
        stage.containers(),
        stage.api().await.last_event().await.unwrap(),
    );
    for name in ["n1", "n2"] {
        let outcome = prepare(&stage, name).await.unwrap();
        assert_eq!(outcome, "engine 20.10.24 was already running");
    }
    assert_eq!(stage.containers(), before);
    let started = events(&stage, cursor, EventKind::StepStarted).await;
    assert_eq!(started, ["prepare n1 for Docker", "prepare n2 for Docker"]);
    let operations = stage.api().await.operations().await.unwrap();
    let kinds = operations.iter().map(|operation| operation.kind);
    let prepared = kinds.filter(|kind| *kind == OperationKindV1::PrepareNode);
    assert_eq!(prepared.count(), 2);
    assert_eq!(stage.world.violations(), []);
}

/// The node's preparation has failed for a reason that only a person can fix, so the platform does not
/// try again for minutes.
#[tokio::test(start_paused = true)]
async fn a_failed_preparation_is_repeated_at_once() {
    let stage = running(162).await;
    let cursor = stage.api().await.last_event().await.unwrap();
    let denied = Error::denied("installing the engine", "the mirror rejects us", "log in");
    stage.world.faults().fail_next("n2: prepare", denied);
    stage.world.faults().remove_engine(&node("n2")).unwrap();
    while events(&stage, cursor, EventKind::StepFailed)
        .await
        .is_empty()
    {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(stage.world.installed(&node("n2")), 1);
    let began = tokio::time::Instant::now();
    let outcome = prepare(&stage, "n2").await.unwrap();
    assert_eq!(outcome, "engine 20.10.24 was installed");
    assert_eq!(stage.world.installed(&node("n2")), 2);
    let took = began.elapsed();
    assert!(took < Duration::from_mins(4), "{took:?}");
    all_ready(&stage).await;
    assert_eq!(stage.world.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn a_preparation_that_fails_returns_the_reason() {
    let stage = running(163).await;
    let denied = || Error::denied("installing the engine", "the mirror rejects us", "log in");
    stage.world.faults().fail_next("n2: prepare", denied());
    let error = prepare(&stage, "n2").await.unwrap_err().to_string();
    assert!(error.contains("preparing node n2 failed"), "{error}");
    assert!(
        error.contains("the mirror rejects us (hint: log in)"),
        "{error}"
    );
    // The engine still runs, so nothing else is affected, and the next request tries again.
    all_ready(&stage).await;
    let outcome = prepare(&stage, "n2").await.unwrap();
    assert_eq!(outcome, "engine 20.10.24 was already running");
}

#[tokio::test(start_paused = true)]
async fn requests_that_cannot_succeed_are_rejected_or_end() {
    let stage = running(164).await;
    let api = stage.api().await;
    let absent = api.prepare_node("n3").await.unwrap_err();
    assert_eq!(absent.to_string(), "node n3 does not exist");
    // The node responds again only after the request has failed.
    stage.world.faults().pause(&node("n2")).unwrap();
    let first = api.prepare_node("n2").await.unwrap();
    assert_eq!(api.prepare_node("n2").await.unwrap().id, first.id);
    let failed = ended(&stage, first.id()).await;
    let why = failed.why.unwrap();
    assert!(why.contains("the node does not respond"), "{why}");
    stage.world.faults().heal(&node("n2")).unwrap();
    all_ready(&stage).await;
    // A stop of the node ends its preparation.
    stage.world.faults().pause(&node("n2")).unwrap();
    let second = api.prepare_node("n2").await.unwrap();
    let names = ["n2".to_owned()];
    api.change_nodes(&names, NodeRequest::Stop).await.unwrap();
    let failed = ended(&stage, second.id()).await;
    assert_eq!(failed.why.unwrap(), "a stop of the node was requested");
    let rejected = api.prepare_node("n2").await.unwrap_err();
    assert!(matches!(rejected, Error::Conflict { .. }), "{rejected:?}");
}

/// Crashes the manager before and after each effect of the preparation of a node without an engine.
/// The client then waits for the operation that it got, or repeats the request.
#[tokio::test(start_paused = true)]
async fn a_preparation_continues_after_a_crash_at_any_effect() {
    let whole = running(165).await;
    let before = whole.world.effects().len();
    whole.world.faults().remove_engine(&node("n2")).unwrap();
    let begun = whole.api().await.prepare_node("n2").await.unwrap();
    ended(&whole, begun.id()).await;
    all_ready(&whole).await;
    let end = whole.world.effects().len();
    assert!(end >= before + 3, "{}", whole.world.transcript());
    for effect in before + 1..=end {
        for edge in [Edge::Before, Edge::After] {
            let stage = running(165).await;
            stage.world.faults().remove_engine(&node("n2")).unwrap();
            let number = u64::try_from(effect).unwrap();
            stage.world.faults().crash_at(number, edge);
            let mut begun = None;
            tokio::select! {
                biased;
                () = stage.world.crashed() => {}
                () = async {
                    begun = stage.api().await.prepare_node("n2").await.ok();
                    tokio::time::sleep(Duration::from_hours(1)).await;
                } => panic!("effect {effect} {edge:?} did not occur"),
            }
            stage.world.next_incarnation();
            let context = || format!("effect {effect} {edge:?}\n{}", stage.world.transcript());
            let operation = loop {
                match (&begun, stage.api().await.prepare_node("n2").await) {
                    (Some(begun), Ok(_)) => break begun.clone(),
                    (None, Ok(operation)) => break operation,
                    // The new manager is not the leader yet.
                    (_, Err(_)) => tokio::time::sleep(Duration::from_millis(200)).await,
                }
            };
            let operation = ended(&stage, operation.id()).await;
            assert_eq!(
                operation.state,
                OperationStateV1::Succeeded,
                "{}",
                context()
            );
            assert!(operation.outcome.is_some(), "{}", context());
            assert_eq!(stage.world.installed(&node("n2")), 2, "{}", context());
            all_ready(&stage).await;
            assert_eq!(stage.world.violations(), [], "{}", context());
        }
    }
}
