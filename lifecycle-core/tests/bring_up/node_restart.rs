//! Tests restarts of nodes. The containers of the node must stop before the restart and run again
//! afterwards, and the node must be restarted only once, even if the request is repeated or a process
//! crashes.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use lifecycle_core::Error;
use lifecycle_core::api::wire::{InstanceStateV1, InstanceV1, OperationStateV1, RestartNodeV1};
use lifecycle_core::model::{NodeName, OperationId};
use lifecycle_core::sim::{Edge, EffectOutcome};

use crate::stage::Stage;

fn node(name: &str) -> NodeName {
    NodeName::try_from(name).unwrap()
}

/// Returns a platform that is up.
async fn running(seed: u64) -> Stage {
    let stage = Stage::new(seed).await;
    stage.up().await.unwrap();
    stage
}

async fn instances(stage: &Stage) -> BTreeMap<String, InstanceV1> {
    let services = stage.api().await.services().await.unwrap();
    let instances = services.into_iter().flat_map(|service| service.instances);
    instances.map(|one| (one.id.clone(), one)).collect()
}

fn boot(stage: &Stage, name: &str) -> String {
    let machine = stage.world.node(&node(name)).unwrap();
    machine.boot_id.unwrap()
}

async fn restart(stage: &Stage, name: &str) -> Result<(), Error> {
    let bootstrapper = stage.bootstrapper().await;
    let restart = bootstrapper.restart_node(stage.declaration.id, name);
    let within = tokio::time::timeout(Duration::from_hours(1), restart).await;
    within.unwrap_or_else(|_| panic!("{}", stage.world.transcript()))
}

/// Returns the descriptions of the effects after the first `since` that contain one of these words.
fn effects(stage: &Stage, since: usize, words: &[&str]) -> Vec<String> {
    let effects = stage.world.effects();
    let new = effects[since..].iter();
    let changed = new.filter(|effect| effect.outcome == EffectOutcome::Changed);
    let shown = changed.map(|effect| {
        let node = effect.node.as_ref().map(NodeName::as_str);
        format!("{}: {}", node.unwrap_or_default(), effect.what)
    });
    let is_wanted = |text: &String| words.iter().any(|word| text.contains(word));
    shown.filter(is_wanted).collect()
}

/// Asserts that exactly the containers on these nodes were started again, and that all are ready.
async fn are_restarted(stage: &Stage, before: &BTreeMap<String, InstanceV1>, on: &str) {
    let after = instances(stage).await;
    for (id, old) in before {
        let new = &after[id];
        let was_here = old.node.as_ref() == Some(&node(on));
        assert_eq!(new.state, InstanceStateV1::Ready, "{new:?}");
        assert_eq!(new.container, old.container, "{id} was replaced");
        assert_eq!(new.started_at > old.started_at, was_here, "{new:?} {old:?}");
        assert_eq!(new.endpoints, old.endpoints);
    }
}

#[tokio::test(start_paused = true)]
async fn containers_stop_before_the_restart_and_run_again_afterwards() {
    let stage = running(31).await;
    let before = instances(&stage).await;
    let (first, since) = (boot(&stage, "n2"), stage.world.effects().len());
    restart(&stage, "n2").await.unwrap();
    assert_ne!(boot(&stage, "n2"), first);
    are_restarted(&stage, &before, "n2").await;
    let done = effects(&stage, since, &["stop ", "restart", "start "]);
    let restarted = done.iter().position(|what| what == "n2: restart").unwrap();
    let here = before.values().filter(|one| one.node == Some(node("n2")));
    let stops = { done[..restarted].iter() }.filter(|what| what.contains("stop "));
    assert!(here.clone().count() > 0);
    assert_eq!(stops.count(), here.count(), "{done:#?}");
    assert_eq!(stage.world.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn the_managers_own_node_can_be_restarted() {
    let stage = running(32).await;
    let before = instances(&stage).await;
    let first = boot(&stage, "n1");
    restart(&stage, "n1").await.unwrap();
    assert_ne!(boot(&stage, "n1"), first);
    are_restarted(&stage, &before, "n1").await;
    assert_eq!(stage.world.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_respond_is_restarted() {
    let stage = running(33).await;
    let first = boot(&stage, "n2");
    stage.world.faults().pause(&node("n2")).unwrap();
    restart(&stage, "n2").await.unwrap();
    assert_ne!(boot(&stage, "n2"), first);
    let after = instances(&stage).await;
    for instance in after.values() {
        assert_eq!(instance.state, InstanceStateV1::Ready, "{instance:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeated_request_restarts_once() {
    let stage = running(34).await;
    let since = stage.world.effects().len();
    let api = stage.api().await;
    let request = RestartNodeV1::ending(boot(&stage, "n2"));
    let first = api.restart_node("n2", &request).await.unwrap();
    let again = api.restart_node("n2", &request).await.unwrap();
    assert_eq!(first.id, again.id);
    ends(&stage, first.id()).await;
    let late = api.restart_node("n2", &request).await.unwrap();
    assert_eq!(late.state, OperationStateV1::Succeeded);
    assert_eq!(effects(&stage, since, &["restart"]), ["n2: restart"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_restart_is_reported_and_the_services_run_again() {
    let stage = running(35).await;
    let before = instances(&stage).await;
    let first = boot(&stage, "n2");
    let (why, hint) = ("the role is missing", "assign the role");
    let denied = Error::denied("restarting the VM", why, hint);
    stage.world.faults().fail_next("n2: restart", denied);
    let error = restart(&stage, "n2").await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("restarting node n2 failed"), "{text}");
    assert!(text.contains("restarting the VM"), "{text}");
    assert_eq!(boot(&stage, "n2"), first);
    are_restarted(&stage, &before, "n2").await;
    // The cause was fixed, so the next request asks the cloud again.
    restart(&stage, "n2").await.unwrap();
    assert_ne!(boot(&stage, "n2"), first);
}

#[tokio::test(start_paused = true)]
async fn unknown_nodes_are_rejected() {
    let stage = running(36).await;
    let error = restart(&stage, "n3").await.unwrap_err();
    assert!(
        error.to_string().contains("node n3 does not exist"),
        "{error}"
    );
    let api = stage.api().await;
    let request = RestartNodeV1::default();
    let error = api.restart_node("n3", &request).await.unwrap_err();
    assert_eq!(error.to_string(), "node n3 does not exist");
}

/// Waits until an operation succeeds.
async fn ends(stage: &Stage, id: OperationId) {
    let wait = async {
        loop {
            let operation = stage.api().await.operation(id).await;
            match operation.unwrap().state {
                OperationStateV1::Running => tokio::time::sleep(Duration::from_secs(1)).await,
                other => break other,
            }
        }
    };
    let ended = tokio::time::timeout(Duration::from_mins(30), wait).await;
    let ended = ended.unwrap_or_else(|_| panic!("{}", stage.world.transcript()));
    assert_eq!(ended, OperationStateV1::Succeeded);
}

/// Crashes the manager before and after each effect of a restart. The client then repeats the
/// request.
#[tokio::test(start_paused = true)]
async fn a_restart_continues_after_a_crash_at_any_effect() {
    let whole = running(37).await;
    let begin = whole.world.effects().len();
    restart(&whole, "n2").await.unwrap();
    let end = whole.world.effects().len();
    assert!(end >= begin + 3, "{}", whole.world.transcript());
    for effect in begin + 1..=end {
        for edge in [Edge::Before, Edge::After] {
            let stage = running(37).await;
            let before = instances(&stage).await;
            let request = RestartNodeV1::ending(boot(&stage, "n2"));
            let effect_number = u64::try_from(effect).unwrap();
            stage.world.faults().crash_at(effect_number, edge);
            let api = stage.api().await;
            tokio::select! {
                biased;
                () = stage.world.crashed() => {}
                () = async {
                    drop(api.restart_node("n2", &request).await);
                    std::future::pending::<()>().await;
                } => {}
            }
            stage.world.next_incarnation();
            let context = || format!("effect {effect} {edge:?}\n{}", stage.world.transcript());
            let operation = loop {
                match stage.api().await.restart_node("n2", &request).await {
                    Ok(operation) => break operation,
                    // The new manager is not the leader yet.
                    Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                }
            };
            ends(&stage, operation.id()).await;
            are_restarted(&stage, &before, "n2").await;
            let restarts = effects(&stage, begin, &["restart"]);
            assert_eq!(restarts, ["n2: restart"], "{}", context());
            assert_eq!(stage.world.violations(), [], "{}", context());
        }
    }
}
