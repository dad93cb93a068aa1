//! Tests rollouts as operations: their record, the requests about them, and their continuation by a
//! new manager after a crash at any effect.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use lifecycle_core::Error;
use lifecycle_core::api::ManagerApi;
use lifecycle_core::api::wire::{OperationStateV1, ServiceV1};
use lifecycle_core::model::{
    EventKind, OperationId, Protocol, PublishedPort, Replacement, ReplacementOrder, RolloutRequest,
    UpdatePolicy,
};
use lifecycle_core::network::Redirect;
use lifecycle_core::reconcile::RolloutState;
use lifecycle_core::sim::{Edge, Violation};

use crate::stage::Stage;

/// Declares how the replicas of api are replaced.
fn update(stage: &mut Stage, update: Replacement) {
    let services = &mut stage.declaration.services;
    let api = services.get_mut(&"api".try_into().unwrap()).unwrap();
    api.update = UpdatePolicy {
        update: Some(update),
        rollback: None,
    };
}

/// Returns a running platform whose rollouts of api pause for an hour after the first replica, and
/// declares a new version of api.
async fn slow(seed: u64) -> Stage {
    let mut stage = Stage::new(seed).await;
    let delay = Some(Duration::from_hours(1));
    update(
        &mut stage,
        Replacement {
            delay,
            ..Replacement::default()
        },
    );
    stage.up().await.unwrap();
    stage.command("api", "sleep infinity");
    stage.api().await.apply(&stage.declaration).await.unwrap();
    until(&stage, "api-1 is replaced", |api| {
        let rollout = api.rollout.as_ref();
        rollout.is_some_and(|rollout| rollout.replaced == 1)
    })
    .await;
    stage
}

async fn service(stage: &Stage) -> ServiceV1 {
    let services = stage.api().await.services().await.unwrap();
    let found = services.into_iter().find(|s| s.name.as_str() == "api");
    found.unwrap()
}

/// Waits until the state of api is as expected.
async fn until(stage: &Stage, what: &str, is_so: impl Fn(&ServiceV1) -> bool) {
    let wait = async {
        while !is_so(&service(stage).await) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_mins(30), wait).await;
    if ended.is_err() {
        let service = service(stage).await;
        panic!("{what}: {service:#?}\n{}", stage.world.transcript());
    }
}

fn is_in(state: RolloutState) -> impl Fn(&ServiceV1) -> bool {
    move |api| {
        api.rollout
            .as_ref()
            .is_some_and(|rollout| rollout.state == state)
    }
}

/// Waits until an operation ends; returns why it failed.
async fn outcome(stage: &Stage, id: OperationId) -> Option<String> {
    let wait = async {
        loop {
            let operation = stage.api().await.operation(id).await.unwrap();
            if operation.state != OperationStateV1::Running {
                return operation.why;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_hours(2), wait)
        .await
        .unwrap_or_else(|_| panic!("{}", stage.world.transcript()))
}

/// Returns the operations of all rollouts that have begun.
async fn begun(api: &dyn ManagerApi) -> Vec<OperationId> {
    let events = api.events(0).await.unwrap().events;
    let started = events
        .into_iter()
        .filter(|e| e.event.kind == EventKind::RolloutStarted);
    let id = |data: &serde_json::Value| data["operation"].as_str().unwrap().parse().unwrap();
    started
        .map(|event| OperationId(id(&event.event.data)))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_rollout_is_an_operation() {
    let mut stage = Stage::new(31).await;
    stage.up().await.unwrap();
    assert_eq!(begun(stage.api().await.as_ref()).await, []);
    stage.command("api", "sleep infinity");
    stage.up().await.unwrap();
    let operations = begun(stage.api().await.as_ref()).await;
    assert_eq!(operations.len(), 1);
    assert_eq!(outcome(&stage, operations[0]).await, None);
    assert_eq!(service(&stage).await.rollout, None);
}

#[tokio::test(start_paused = true)]
async fn a_failed_rollout_is_a_failed_operation() {
    let mut stage = Stage::new(32).await;
    stage.up().await.unwrap();
    stage.command("api", "exit 1");
    stage.up().await.unwrap();
    let operations = begun(stage.api().await.as_ref()).await;
    assert_eq!(operations.len(), 1);
    let why = outcome(&stage, operations[0]).await.unwrap();
    assert!(
        why.starts_with("api-1 failed: its container ended"),
        "{why}"
    );
    until(&stage, "the rollout is paused", is_in(RolloutState::Paused)).await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_rollout_continues_when_it_is_resumed() {
    let stage = slow(33).await;
    let api = stage.api().await;
    let paused = api.rollout("api", RolloutRequest::Pause).await.unwrap();
    assert_eq!(paused.id(), begun(api.as_ref()).await[0]);
    until(&stage, "the rollout is paused", is_in(RolloutState::Paused)).await;
    tokio::time::sleep(Duration::from_hours(3)).await;
    assert_eq!(service(&stage).await.rollout.unwrap().replaced, 1);
    assert_eq!(
        api.operation(paused.id()).await.unwrap().state,
        OperationStateV1::Running
    );
    // `up` fails while the rollout is paused, and does not resume it.
    let failures = stage.up().await.unwrap().failures;
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(failures[0].instance, "api-2");
    assert_eq!(
        failures[0].why,
        "the rollout is paused: a pause was requested"
    );
    let resumed = api.rollout("api", RolloutRequest::Resume).await.unwrap();
    assert_eq!(resumed.id, paused.id);
    assert_eq!(outcome(&stage, resumed.id()).await, None);
    assert_eq!(service(&stage).await.rollout, None);
}

#[tokio::test(start_paused = true)]
async fn a_new_manager_knows_that_a_rollout_is_paused() {
    let stage = slow(34).await;
    let api = stage.api().await;
    api.rollout("api", RolloutRequest::Pause).await.unwrap();
    stage.world.next_incarnation();
    // The new manager's first round has no plan yet.
    let wait = async {
        loop {
            if let Ok(services) = stage.api().await.services().await
                && services.iter().any(is_in(RolloutState::Paused))
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(10), wait)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_hours(3)).await;
    assert_eq!(service(&stage).await.rollout.unwrap().replaced, 1);
}

#[tokio::test(start_paused = true)]
async fn a_requested_rollback_restores_the_replaced_replicas() {
    let stage = slow(35).await;
    let api = stage.api().await;
    let operation = api.rollout("api", RolloutRequest::Rollback).await.unwrap();
    let again = api.rollout("api", RolloutRequest::Rollback).await.unwrap();
    assert_eq!(again, operation);
    let paused = api.rollout("api", RolloutRequest::Pause).await.unwrap_err();
    assert!(
        paused.to_string().contains("a rollback cannot be paused"),
        "{paused}"
    );
    let why = outcome(&stage, operation.id()).await.unwrap();
    assert_eq!(why, "a rollback was requested");
    until(
        &stage,
        "api is rolled back",
        is_in(RolloutState::RolledBack),
    )
    .await;
    assert_eq!(service(&stage).await.rollout.unwrap().replaced, 0);
    // The rollback holds until it is resumed, or until the next `up`.
    tokio::time::sleep(Duration::from_hours(3)).await;
    assert_eq!(
        service(&stage).await.rollout.unwrap().state,
        RolloutState::RolledBack
    );
    let resumed = api.rollout("api", RolloutRequest::Resume).await.unwrap();
    assert_eq!(outcome(&stage, resumed.id()).await, None);
    assert_eq!(service(&stage).await.rollout, None);
}

#[tokio::test(start_paused = true)]
async fn a_failed_rollout_can_be_rolled_back_or_resumed() {
    let mut stage = Stage::new(39).await;
    stage.up().await.unwrap();
    stage.command("api", "exit 1");
    stage.up().await.unwrap();
    let api = stage.api().await;
    let resumed = api.rollout("api", RolloutRequest::Resume).await.unwrap();
    let why = outcome(&stage, resumed.id()).await.unwrap();
    assert!(why.starts_with("api-1 failed: "), "{why}");
    let again = api.rollout("api", RolloutRequest::Resume).await.unwrap();
    assert!(
        outcome(&stage, again.id())
            .await
            .unwrap()
            .starts_with("api-1 failed: ")
    );
    let back = api.rollout("api", RolloutRequest::Rollback).await.unwrap();
    assert!(outcome(&stage, back.id()).await.is_some());
    until(
        &stage,
        "api is rolled back",
        is_in(RolloutState::RolledBack),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn replicas_of_a_paused_rollout_can_be_restarted() {
    let stage = slow(40).await;
    let api = stage.api().await;
    api.rollout("api", RolloutRequest::Pause).await.unwrap();
    until(&stage, "the rollout is paused", is_in(RolloutState::Paused)).await;
    assert_eq!(stage.restart("api-2").await.unwrap(), ["api-2"]);
    assert_eq!(service(&stage).await.rollout.unwrap().replaced, 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_declaration_ends_the_rollout_of_the_previous_one() {
    let mut stage = slow(36).await;
    stage.command("api", "sleep 100000");
    let first = begun(stage.api().await.as_ref()).await;
    stage.api().await.apply(&stage.declaration).await.unwrap();
    let why = outcome(&stage, first[0]).await.unwrap();
    assert_eq!(why, "the specification is no longer declared");
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_rollout_are_rejected() {
    let stage = Stage::new(37).await;
    stage.up().await.unwrap();
    let api = stage.api().await;
    for request in RolloutRequest::ALL {
        let error = api.rollout("api", request).await.unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
        let error = api.rollout("apy", request).await.unwrap_err();
        assert_eq!(error.hint(), Some("did you mean `api`?"), "{error}");
    }
}

/// Publishes a port of api.
fn publish(stage: &mut Stage, host_port: u16) {
    let services = &mut stage.declaration.services;
    let api = services.get_mut(&"api".try_into().unwrap()).unwrap();
    api.container.ports = vec![PublishedPort {
        host_port: Some(host_port),
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
    }];
}

/// Returns the published ports that each node's agent forwards.
fn redirected(stage: &Stage) -> Vec<(String, u16)> {
    let tables = stage.declaration.nodes.keys().filter_map(|node| {
        let table = stage.world.agent_table(node)?;
        Some(table.redirects.into_iter())
    });
    let of = |redirect: Redirect| (redirect.node.to_string(), redirect.port);
    tables.flatten().map(of).collect()
}

/// Returns the ports of the endpoints of api.
async fn endpoint_ports(stage: &Stage) -> Vec<u16> {
    let instances = service(stage).await.instances.into_iter();
    let endpoints = instances.flat_map(|instance| instance.endpoints);
    endpoints.map(|endpoint| endpoint.port).collect()
}

#[tokio::test(start_paused = true)]
async fn agents_forward_a_published_port_while_no_ready_replica_has_it() {
    let mut stage = Stage::new(41).await;
    publish(&mut stage, 8080);
    let start_first = Replacement {
        order: Some(ReplacementOrder::StartFirst),
        ..Replacement::default()
    };
    update(&mut stage, start_first);
    stage.up().await.unwrap();
    assert_eq!(redirected(&stage), []);
    assert_eq!(endpoint_ports(&stage).await, [8080, 8080]);
    // The old containers have the port, so the new ones start without it.
    stage.command("api", "sleep infinity");
    stage.up().await.unwrap();
    let both = [("n1".to_owned(), 8080), ("n2".to_owned(), 8080)];
    assert_eq!(redirected(&stage), both);
    assert_eq!(endpoint_ports(&stage).await, [8080, 8080]);
    // The port is free now, so the next containers have it.
    stage.command("api", "sleep 100000");
    stage.up().await.unwrap();
    assert_eq!(redirected(&stage), []);
    assert_eq!(endpoint_ports(&stage).await, [8080, 8080]);
}

/// Crashes the manager before and after each effect of a rollout, in both orders. The new manager
/// ends it.
#[tokio::test(start_paused = true)]
async fn a_rollout_continues_after_a_crash_at_any_effect() {
    for order in [ReplacementOrder::StartFirst, ReplacementOrder::StopFirst] {
        let prepared = async || {
            let mut stage = Stage::new(38).await;
            publish(&mut stage, 8080);
            let order = Some(order);
            update(
                &mut stage,
                Replacement {
                    order,
                    ..Replacement::default()
                },
            );
            stage.up().await.unwrap();
            stage.command("api", "sleep infinity");
            stage
        };
        let whole = prepared().await;
        let first = whole.world.effects().len();
        whole.up().await.unwrap();
        let last = whole.world.effects().len();
        assert!(last >= first + 4, "{}", whole.world.transcript());
        for effect in first + 1..=last {
            for edge in [Edge::Before, Edge::After] {
                let stage = prepared().await;
                let number = u64::try_from(effect).unwrap();
                stage.world.faults().crash_at(number, edge);
                tokio::select! {
                    biased;
                    () = stage.world.crashed() => {}
                    _ = stage.up() => {}
                }
                stage.world.next_incarnation();
                let outcome = stage.up().await.unwrap();
                let context = || format!("effect {effect} {edge:?}\n{}", stage.world.transcript());
                assert_eq!(outcome.failures, [], "{}", context());
                assert_eq!(stage.names(), whole.names(), "{}", context());
                assert_eq!(redirected(&stage), redirected(&whole), "{}", context());
                let violations = stage.world.violations();
                let overlaps = violations
                    .iter()
                    .all(|v| matches!(v, Violation::Overlapping { .. }));
                let allowed = order == ReplacementOrder::StartFirst || violations.is_empty();
                assert!(overlaps && allowed, "{violations:?}\n{}", context());
            }
        }
    }
}
