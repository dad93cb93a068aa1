//! Tests the bootstrapper in the simulation: `up`, a second `up`, a change, `down`, and a crash
//! before and after every effect.

mod adoption;
mod cancellation;
mod commands;
mod dependencies;
mod export;
mod hosts;
mod image_logins;
mod logs;
mod mounts;
mod node_restart;
mod node_stop;
mod nodes;
mod overrides;
mod preparation;
mod registry;
mod requests;
mod restart;
mod revisions;
mod rollouts;
mod rotation;
mod scheduling;
mod spans;
mod stage;
mod unhealthy;
mod upgrade;
mod waits;
mod watches;

use std::collections::BTreeSet;

use lifecycle_core::Error;
use lifecycle_core::api::wire::InstanceStateV1;
use lifecycle_core::host::HostOutput;
use lifecycle_core::sim::{Edge, EffectOutcome, Violation};

use crate::stage::Stage;

#[tokio::test(start_paused = true)]
async fn platform_starts_and_a_second_up_changes_nothing() {
    let stage = Stage::new(1).await;
    let outcome = stage.up().await.unwrap();
    assert_eq!(outcome.failures, [], "{}", stage.world.transcript());
    let services: Vec<_> = outcome.services.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(services, ["api", "db", "monitoring"]);
    let before = stage.containers();
    assert_eq!(
        before.len(),
        7,
        "manager, 2 agents, db, 2 × api, monitoring: {before:?}"
    );

    let effects = stage.world.effects().len();
    let again = stage.up().await.unwrap();
    assert_eq!(again.failures, []);
    assert_eq!(again.generation, outcome.generation);
    assert_eq!(stage.containers(), before);
    let all = stage.world.effects();
    // Ignore reads, and writes that leave a file unchanged.
    let new: Vec<_> = all[effects..]
        .iter()
        .filter(|e| e.outcome == EffectOutcome::Changed && !e.what.starts_with("exec ls"))
        .collect();
    assert!(new.is_empty(), "{new:#?}");
    assert_eq!(stage.world.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn a_running_managers_node_and_port_cannot_change() {
    let stage = Stage::new(1).await;
    stage.up().await.unwrap();
    let bootstrapper = stage.bootstrapper().await;
    let api = stage.api().await;
    let mut moved = stage.declaration.clone();
    let mut names = moved.nodes.keys();
    moved.manager.node = names
        .find(|name| **name != stage.declaration.manager.node)
        .cloned()
        .unwrap();
    let mut other_port = stage.declaration.clone();
    other_port.manager.port += 1;
    for declaration in [moved, other_port] {
        let here = bootstrapper.preflight(&declaration).await.unwrap_err();
        let there = api.apply(&declaration).await.unwrap_err();
        assert!(matches!(here, Error::Invalid { .. }), "{here:?}");
        assert_eq!(
            here.to_string(),
            there.to_string(),
            "both checks must report the same error"
        );
        assert_eq!(here.hint(), there.hint());
    }
}

#[tokio::test(start_paused = true)]
async fn monitoring_starts_after_all_others_are_ready() {
    let stage = Stage::new(2).await;
    let outcome = stage.up().await.unwrap();
    let monitoring = &outcome.services[2].instances[0];
    for service in &outcome.services[..2] {
        for instance in &service.instances {
            assert!(instance.ready_at < monitoring.started_at, "{instance:?}");
        }
    }
}

/// Returns whether a violation is an update that starts the new container first.
fn is_overlap(violation: &Violation) -> bool {
    matches!(violation, Violation::Overlapping { .. })
}

#[tokio::test(start_paused = true)]
async fn changed_code_base_replaces_only_its_service() {
    let mut stage = Stage::new(3).await;
    stage.up().await.unwrap();
    let before = stage.containers();
    stage.change_code("api", "other").await;
    let outcome = stage.up().await.unwrap();
    assert_eq!(outcome.failures, []);
    assert_eq!(outcome.generation, 2);
    let after = stage.containers();
    let kept = before.intersection(&after).count();
    assert_eq!(
        kept, 5,
        "containers other than those of api were replaced: {before:?} {after:?}"
    );
    assert_eq!(after.len(), 7);
    let violations = stage.world.violations();
    assert_eq!(
        violations.len(),
        2,
        "each replica of api starts its new container first"
    );
    assert!(violations.iter().all(is_overlap), "{violations:?}");
}

#[tokio::test(start_paused = true)]
async fn failed_change_fails_every_up_until_the_next_change() {
    let mut stage = Stage::new(8).await;
    stage.up().await.unwrap();
    let before = stage.containers();
    stage.command("api", "echo broken; exit 1");
    for _ in 0..2 {
        let outcome = stage.up().await.unwrap();
        let failed: Vec<_> = outcome.failures.iter().map(|f| &*f.instance).collect();
        assert_eq!(failed, ["api-1", "api-2"]);
        // After the first failure, the rollout is paused.
        let why = &outcome.failures[1].why;
        assert!(
            why.starts_with("the rollout is paused: api-1 failed: "),
            "{why}"
        );
        for failure in &outcome.failures[..1] {
            assert!(
                failure.why.contains("in a row")
                    && failure
                        .why
                        .contains("the previous specification runs again"),
                "{failure:?}"
            );
            assert!(
                failure.last_lines.iter().any(|line| line == "broken"),
                "{failure:?}"
            );
        }
        let api = outcome.services.iter().find(|s| s.name.as_str() == "api");
        for instance in &api.unwrap().instances {
            assert_eq!(instance.state, InstanceStateV1::Ready, "{instance:?}");
        }
    }
    // The failed container of api-1 is kept, so that its output is still available.
    assert_eq!(stage.containers().len(), before.len() + 1);
    stage.command("api", "sleep infinity");
    let outcome = stage.up().await.unwrap();
    assert_eq!(outcome.failures, [], "{}", stage.world.transcript());
    assert_eq!(stage.containers().len(), before.len());
    assert!(stage.world.violations().iter().all(is_overlap));
}

#[tokio::test(start_paused = true)]
async fn second_failed_change_keeps_the_last_working_specification() {
    let mut stage = Stage::new(9).await;
    stage.up().await.unwrap();
    let ids = |stage: &Stage| -> BTreeSet<String> {
        let containers = stage.containers().into_iter();
        containers.map(|(_, id, _)| id).collect()
    };
    let before = ids(&stage);
    for command in ["exit 1", "exit 2"] {
        stage.command("api", command);
        let outcome = stage.up().await.unwrap();
        assert_eq!(outcome.failures.len(), 2, "{:?}", outcome.failures);
        let after = ids(&stage);
        assert!(before.is_subset(&after), "{}", stage.world.transcript());
        assert_eq!(
            after.len(),
            before.len() + 1,
            "expected the failed container of the first replica"
        );
    }
    assert!(stage.world.violations().iter().all(is_overlap));
}

#[tokio::test(start_paused = true)]
async fn unused_code_bases_are_removed_after_the_round() {
    let stage = Stage::new(10).await;
    let old = ["aa", "bb", "cc"].map(|name| format!("{name}.tar"));
    stage.world.answer(
        "ls -1t",
        HostOutput {
            code: 0,
            stdout: old.join("\n"),
            stderr: String::new(),
        },
    );
    stage.up().await.unwrap();
    let effects = stage.world.effects();
    let removal = effects.iter().position(|e| e.what.contains("exec rm -f"));
    assert!(removal.is_some(), "{}", stage.world.transcript());
    let start = effects.iter().rposition(|e| e.what.contains("start"));
    assert!(start < removal, "{}", stage.world.transcript());
}

#[tokio::test(start_paused = true)]
async fn down_removes_everything_and_can_be_repeated() {
    let stage = Stage::new(4).await;
    stage.up().await.unwrap();
    stage.down().await.unwrap();
    assert_eq!(stage.leftovers(), [""; 0]);
    stage.down().await.unwrap();
    stage.up().await.unwrap();
    assert_eq!(stage.containers().len(), 7);
}

#[tokio::test(start_paused = true)]
async fn down_removes_nothing_if_the_manager_denies_the_request() {
    let stage = Stage::new(4).await;
    stage.up().await.unwrap();
    let before = stage.containers();
    let denied = Error::denied("/v1/platform", "the role is too low", "use another token");
    stage.world.faults().fail_next("delete_platform", denied);
    let ended = stage.down().await.unwrap_err();
    assert!(matches!(ended, Error::Denied { .. }), "{ended:?}");
    assert_eq!(stage.containers(), before);
    stage.down().await.unwrap();
    assert_eq!(stage.leftovers(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn removed_nodes_are_reported_with_their_contents() {
    let mut stage = Stage::new(8).await;
    assert_eq!(stage.removed_by_up().await, [], "no node exists yet");
    stage.up().await.unwrap();
    assert_eq!(stage.removed_by_up().await, []);
    stage.drop_node("n2");
    let removed = stage.removed_by_up().await;
    let [removal] = removed.as_slice() else {
        panic!("{removed:?}");
    };
    assert_eq!(removal.node.name.as_str(), "n2");
    let contents = removal.contents.to_string();
    assert!(contents.starts_with("replicas: api-"), "{contents}");
    stage.up().await.unwrap();
    assert_eq!(stage.removed_by_up().await, []);
    assert!(!stage.leftovers().iter().any(|left| left.contains("n2")));
}

#[tokio::test(start_paused = true)]
async fn impossible_placement_is_refused_before_any_change() {
    let mut stage = Stage::new(5).await;
    stage.pin("db", "nowhere");
    let error = stage.up().await.unwrap_err();
    assert!(
        error.to_string().contains("no node can run db-1"),
        "{error}"
    );
    assert!(
        stage.world.effects().is_empty(),
        "{}",
        stage.world.transcript()
    );
}

/// Crashes the bootstrapper and the manager together: both processes lose their memory, and the
/// simulated world continues. A new `up` must reach the same state as without a crash.
#[tokio::test(start_paused = true)]
async fn up_continues_after_a_crash_at_any_effect() {
    let whole = Stage::new(6).await;
    whole.up().await.unwrap();
    let effects = whole.world.effects().len() as u64;
    let expected: Vec<String> = whole.names();
    assert!(effects > 15, "{}", whole.world.transcript());
    for effect in 1..=effects {
        for edge in [Edge::Before, Edge::After] {
            let stage = Stage::new(6).await;
            stage.world.faults().crash_at(effect, edge);
            tokio::select! {
                biased;
                () = stage.world.crashed() => {}
                ended = stage.up() => panic!("effect {effect} {edge:?} did not occur: {ended:?}"),
            }
            stage.world.next_incarnation();
            let outcome = stage.up().await;
            let context = || format!("effect {effect} {edge:?}\n{}", stage.world.transcript());
            let outcome = outcome.unwrap_or_else(|e| panic!("{}: {}", e.chain(), context()));
            assert_eq!(outcome.failures, [], "{}", context());
            assert_eq!(stage.names(), expected, "{}", context());
            assert_eq!(stage.world.violations(), [], "{}", context());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn down_continues_after_a_crash_at_any_effect() {
    let whole = Stage::new(7).await;
    whole.up().await.unwrap();
    let first = whole.world.effects().len() as u64;
    whole.down().await.unwrap();
    let last = whole.world.effects().len() as u64;
    assert!(last > first + 3);
    for effect in first + 1..=last {
        for edge in [Edge::Before, Edge::After] {
            let stage = Stage::new(7).await;
            stage.up().await.unwrap();
            stage.world.faults().crash_at(effect, edge);
            tokio::select! {
                biased;
                () = stage.world.crashed() => {}
                ended = stage.down() => panic!("effect {effect} {edge:?} did not occur: {ended:?}"),
            }
            stage.world.next_incarnation();
            let context = || format!("effect {effect} {edge:?}\n{}", stage.world.transcript());
            stage
                .down()
                .await
                .unwrap_or_else(|e| panic!("{}: {}", e.chain(), context()));
            assert_eq!(stage.leftovers(), [""; 0], "{}", context());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn manager_that_restarts_before_the_final_summary_is_asked_again() {
    let stage = Stage::new(3).await;
    for _ in 0..2 {
        let error = Error::unreachable("the manager", None);
        stage.world.faults().fail_next("manager: services", error);
    }
    let outcome = stage.up().await.unwrap();
    assert_eq!(outcome.failures, []);
    assert!(!outcome.services.is_empty());
}
