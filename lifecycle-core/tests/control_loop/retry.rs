//! Tests that an error disappears with the next `up` or `retry` after its cause was fixed outside
//! the platform.

use std::time::Duration;

use lifecycle_core::error::{BuildPlace, Error};
use lifecycle_core::model::{Epoch, EventKind, InstanceState, ServiceName};
use lifecycle_core::reconcile::{HeldBy, RetryOptions, Round};
use lifecycle_core::sim::{Behaviour, FaultRates, SimOptions};

use crate::platform::{instance, node, service};
use crate::stage::Stage;

/// Time limit for an error to disappear after a retry.
const GONE: Duration = Duration::from_secs(10);

const LIMIT: Duration = Duration::from_hours(2);

/// This text is in every injected error.
const MARK: &str = "broken outside";

/// Returns one error of each kind.
fn errors() -> Vec<Error> {
    let what = || MARK.to_owned();
    let why = what;
    let hint = || "repair it".to_owned();
    vec![
        Error::not_found(what()),
        Error::conflict(what(), why()),
        Error::invalid(what(), why(), hint()),
        Error::unsupported(what(), "the simulation"),
        Error::denied(what(), why(), hint()),
        Error::unreachable(what(), None),
        Error::timed_out(what(), Duration::from_secs(1)),
        Error::overdue(what(), Duration::from_secs(1), None, hint()),
        Error::throttled(what(), Some(Duration::from_mins(10))),
        Error::exhausted(what(), why(), hint()),
        Error::failed(what(), why()),
        Error::build(what(), BuildPlace::default(), why()),
        Error::interrupted(what(), None),
        Error::corrupt(what(), why()),
        Error::stale_epoch(Epoch(1), Epoch(2)),
        Error::Name(ServiceName::try_from("A b").unwrap_err()),
        Error::io(what(), std::io::Error::other(MARK)),
        Error::not_ready(what(), why()),
    ]
}

/// For each type of step: the simulated call that fails, and the argument of `retry`.
const CALLS: [(&str, &str); 6] = [
    ("n2: provision", "n2"),
    ("n3: prepare", "n3"),
    ("pull db-image:1", "db"),
    ("build demo-000001/api", "api"),
    ("-db-1", "db"),
    ("-web-1", "web-1"),
];

/// Describes the failed steps that wait for their next attempt.
fn failed_steps(round: &Round) -> Vec<String> {
    let held = round.plan.held.iter().filter_map(|held| match &held.by {
        HeldBy::Backoff { step, why, .. } => Some(format!("{step}: {why}")),
        HeldBy::Failed { why } => Some(format!("{}: {why}", held.subject)),
        _ => None,
    });
    held.collect()
}

async fn retry(stage: &Stage, name: Option<&str>) {
    if let Some(name) = name {
        let retried = stage
            .manager
            .retry(name, RetryOptions::default())
            .await
            .unwrap();
        assert!(!retried.is_empty(), "no step of {name} failed");
    } else {
        let declaration = stage.declaration.clone();
        assert!(!stage.manager.apply(declaration).await.unwrap().changed);
    }
}

#[tokio::test(start_paused = true)]
async fn fixed_error_of_any_kind_disappears_after_a_retry() {
    for (place, (call, name)) in CALLS.into_iter().enumerate() {
        // Test one call with every kind of error, and the other calls with a sample of the kinds.
        let kinds = (0..errors().len()).step_by(if place == 2 { 1 } else { 5 });
        for kind in kinds {
            let error = || errors().swap_remove(kind);
            let context = format!("{call}: {:?}", error());
            let mut stage = Stage::shop_without_manager(SimOptions::seeded(70)).await;
            for _ in 0..100 {
                stage.world.faults().fail_next(call, error());
            }
            stage.start();
            let status = stage.until("settled", LIMIT, |s| s.settled).await;
            assert!(!failed_steps(&status).is_empty(), "{context}: {status:#?}");
            stage.world.faults().repair(call);
            let before = stage.last_event().await;
            retry(&stage, ((place + kind) % 2 == 0).then_some(name)).await;
            assert!(!stage.manager.round().settled, "{context}");
            stage.pass(GONE).await;
            let status = stage.manager.round();
            assert_eq!(failed_steps(&status), Vec::<String>::new(), "{context}");
            let began = stage.events(EventKind::StepStarted, before).await;
            assert!(!began.is_empty(), "{context}");
            stage.settled().await;
            stage.assert_whole().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn quota_errors_and_failed_vms_are_retried_immediately() {
    for seed in 71..=72 {
        let quota = seed == 71;
        let mut stage = Stage::shop_without_manager(SimOptions::seeded(seed)).await;
        let rates = |provision_fails| FaultRates {
            provision_fails,
            ..FaultRates::default()
        };
        if quota {
            stage.world.faults().quota(Some(2));
        } else {
            stage.world.faults().rates(rates(1.0));
        }
        stage.start();
        stage.until("settled", LIMIT, |s| s.settled).await;
        stage.world.faults().quota(None);
        stage.world.faults().rates(rates(0.0));
        retry(&stage, None).await;
        stage.pass(GONE).await;
        let status = stage.manager.round();
        assert_eq!(failed_steps(&status), Vec::<String>::new());
        stage.settled().await;
        stage.assert_whole().await;
    }
}

#[tokio::test(start_paused = true)]
async fn node_that_responds_again_is_noticed_immediately() {
    let stage = Stage::shop(73).await;
    stage.settled().await;
    let unreachable = node("n2");
    stage.world.faults().pause(&unreachable).unwrap();
    stage.pass(Duration::from_mins(20)).await;
    assert!(stage.manager.round().settled);
    stage.world.faults().heal(&unreachable).unwrap();
    retry(&stage, None).await;
    // The retry makes the platform unsettled until the node has responded.
    let status = stage.until("settled", GONE, |s| s.settled).await;
    assert_eq!(failed_steps(&status), Vec::<String>::new());
    let ready =
        |state: &InstanceState| matches!(state, InstanceState::Ready | InstanceState::Completed);
    let instances = status.plan.instances.values();
    assert!(instances.clone().all(|i| ready(&i.state)), "{status:#?}");
}

#[tokio::test(start_paused = true)]
async fn ended_containers_start_immediately_whatever_their_policy() {
    // Without a retry, a failed job is never restarted, and a service is restarted after pauses
    // that grow to a minute.
    for (name, seed) in [("migrate", 74), ("web", 75)] {
        let mut stage = Stage::shop_without_manager(SimOptions::seeded(seed)).await;
        let fails = Behaviour::default().exits(Duration::from_secs(1), 3);
        stage.world.behave(name, fails);
        stage.start();
        stage.until("settled", LIMIT, |s| s.settled).await;
        stage.pass(Duration::from_secs(100)).await;
        let works = match name {
            "migrate" => Behaviour::default().exits(Duration::from_secs(1), 0),
            _ => Behaviour::default().exposes(80),
        };
        stage.world.behave(name, works);
        let id = instance(name, 1);
        retry(&stage, (seed == 74).then_some(name)).await;
        let up = |status: &Round| {
            let instance = &status.plan.instances[&id];
            matches!(
                instance.state,
                InstanceState::Ready | InstanceState::Completed
            )
        };
        let status = stage.until("up", GONE, |s| s.settled || up(s)).await;
        assert!(up(&status), "{name}: {status:#?}");
        stage.settled().await;
        stage.assert_whole().await;
        // A later `up` must not start a job that has succeeded.
        let effects = stage.world.effects().len();
        stage
            .manager
            .apply(stage.declaration.clone())
            .await
            .unwrap();
        stage.pass(Duration::from_mins(1)).await;
        assert_eq!(stage.world.effects().len(), effects);
    }
}

#[tokio::test(start_paused = true)]
async fn rejected_specification_is_retried() {
    for kept in [true, false] {
        let mut stage = Stage::shop(76).await;
        stage.settled().await;
        let web = stage.declaration.services.get_mut(&service("web")).unwrap();
        let environment = &mut web.container.environment;
        environment.insert("MODE".into(), lifecycle_core::secret::Sensitive::new("new"));
        let broken = Behaviour::default().exits(Duration::ZERO, 1);
        stage.world.behave("web", broken);
        let applied = stage.manager.apply(stage.declaration.clone()).await;
        let generation = applied.unwrap().generation;
        stage
            .until("settled", LIMIT, |s| {
                s.generation() == generation && s.settled
            })
            .await;
        // Retry once while the failed container is kept, and once after it has been removed.
        let time = if kept { 1 } else { 20 };
        stage.pass(Duration::from_mins(time)).await;
        assert_eq!(stage.registry.snapshot().await.unwrap().rejected.len(), 1);
        stage.world.behave("web", Behaviour::default().exposes(80));
        retry(&stage, kept.then_some("web")).await;
        stage.pass(GONE).await;
        assert!(stage.registry.snapshot().await.unwrap().rejected.is_empty());
        stage.settled().await;
        stage.assert_whole().await;
    }
}

#[tokio::test(start_paused = true)]
async fn retry_changes_nothing_else() {
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(77)).await;
    for pull in ["n2: provision", "n3: provision"] {
        let error = Error::denied(MARK, MARK, "repair it");
        stage.world.faults().fail_next(pull, error);
    }
    stage.start();
    stage.until("settled", LIMIT, |s| s.settled).await;
    let before = stage.last_event().await;
    let retried = stage
        .manager
        .retry("n2", RetryOptions::default())
        .await
        .unwrap();
    assert_eq!(retried.len(), 1, "{retried:?}");
    assert!(retried[0].contains("n2"), "{retried:?}");
    stage.pass(GONE).await;
    let began = stage.events(EventKind::StepStarted, before).await;
    assert!(
        began.iter().all(|e| !e.message.contains("n3")),
        "{began:#?}"
    );
    assert!(began.iter().any(|e| e.message.contains("n2")), "{began:#?}");
    let waiting = failed_steps(&stage.manager.round());
    assert!(
        waiting.iter().all(|step| step.contains("n3")),
        "{waiting:?}"
    );
    assert!(!waiting.is_empty());
    let unknown = stage
        .manager
        .retry("n4", RetryOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(unknown, Error::NotFound { .. }), "{unknown:?}");
}

#[tokio::test(start_paused = true)]
async fn failing_build_is_not_repeated_until_a_retry() {
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(78)).await;
    let error = || {
        Error::build(
            "building image demo-000001/api",
            BuildPlace::at_instruction("Dockerfile", 3, "EXPOSE 8080"),
            "it ended with exit code 2",
        )
    };
    for _ in 0..2 {
        stage
            .world
            .faults()
            .fail_next("build demo-000001/api", error());
    }
    stage.start();
    let status = stage.until("settled", LIMIT, |s| s.settled).await;
    let api = &status.plan.instances[&instance("api", 1)].state;
    let InstanceState::Failed { why } = api else {
        panic!("{api:?}");
    };
    assert!(why.contains("Dockerfile:3 (EXPOSE 8080)"), "{why}");
    stage.pass(Duration::from_hours(2)).await;
    let failed = stage.events(EventKind::StepFailed, 0).await;
    assert_eq!(failed.len(), 1, "{failed:#?}");
    retry(&stage, Some("api")).await;
    stage.pass(Duration::from_mins(2)).await;
    let failed = stage.events(EventKind::StepFailed, 0).await;
    assert_eq!(failed.len(), 2, "{failed:#?}");
    retry(&stage, None).await;
    stage.settled().await;
    stage.assert_whole().await;
}
