//! Tests how the manager repairs faults of a running platform.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;
use lifecycle_core::api::view;
use lifecycle_core::api::wire::InstanceStateV1;
use lifecycle_core::error::Error;
use lifecycle_core::model::{EventKind, InstanceState, NodeName, Subject};
use lifecycle_core::runtime::Role;
use lifecycle_core::secret::Sensitive;
use lifecycle_core::sim::{Behaviour, EffectOutcome, FaultRates, SimOptions};

use crate::convergence::assert_order;
use crate::platform::{instance, node, service};
use crate::stage::Stage;

const NODES: [&str; 3] = ["n1", "n2", "n3"];

async fn up(seed: u64) -> Stage {
    let stage = Stage::shop(seed).await;
    stage.settled().await;
    stage
}

/// Of the effects after the first `since`, returns those that changed the world. Leaves out the
/// command with which the manager finds out whether a host answers.
fn effects(stage: &Stage, since: usize) -> Vec<String> {
    let effects = stage.world.effects().split_off(since);
    effects
        .into_iter()
        .filter(|e| e.outcome == EffectOutcome::Changed)
        .map(|e| e.what)
        .filter(|what| !what.ends_with("exec true"))
        .collect()
}

/// Checks that there is only one plan after the cursor, and that this plan has only one step.
/// Returns the step's action and reason.
async fn only_planned(stage: &Stage, cursor: u64) -> (String, serde_json::Value) {
    let planned = stage.events(EventKind::Planned, cursor).await;
    assert_eq!(planned.len(), 1, "seed {}: {planned:#?}", stage.seed);
    let steps = planned[0].data["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 1, "seed {}: {steps:#?}", stage.seed);
    let action = steps[0]["action"].as_str().unwrap().to_owned();
    (action, steps[0]["reason"].clone())
}

#[tokio::test(start_paused = true)]
async fn killed_container_is_restarted_once_and_the_plan_has_the_reason() {
    for seed in 1..=3 {
        let stage = up(seed).await;
        let (cursor, since) = (stage.last_event().await, stage.world.effects().len());
        let (on, container) = stage.place(&instance("api", 2));
        let faults = stage.world.faults();
        faults.kill_container(&on, &container.name, 137).unwrap();
        stage.pass(Duration::from_secs(10)).await;
        stage.assert_whole().await;
        stage.pass(Duration::from_mins(10)).await;
        assert_eq!(
            effects(&stage, since),
            [format!("ensure {}", container.name)],
            "seed {seed}"
        );
        let (action, reason) = only_planned(&stage, cursor).await;
        assert_eq!(action, "start-instance");
        assert_eq!(reason["because"], "ended", "{reason}");
        assert_eq!(
            (&reason["code"], &reason["times"]),
            (&137.into(), &1.into())
        );
        let (_, now) = stage.place(&instance("api", 2));
        assert_eq!(now.id, container.id, "the container was replaced");
        for kind in [EventKind::NotReady, EventKind::Ready] {
            assert_eq!(stage.events(kind, cursor).await.len(), 1, "seed {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn removed_container_is_created_again() {
    for seed in 1..=3 {
        let stage = up(seed).await;
        let (cursor, since) = (stage.last_event().await, stage.world.effects().len());
        let (on, container) = stage.place(&instance("web", 1));
        let faults = stage.world.faults();
        faults.remove_container(&on, &container.name).unwrap();
        stage.pass(Duration::from_mins(10)).await;
        stage.assert_whole().await;
        assert_eq!(
            effects(&stage, since),
            [format!("ensure {}", container.name)],
            "seed {seed}"
        );
        let (action, reason) = only_planned(&stage, cursor).await;
        assert_eq!(action, "start-instance");
        assert_eq!(reason["because"], "instance-absent", "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn crash_loop_is_delayed_reported_as_failed_and_retried() {
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(41)).await;
    let dies = Behaviour::default()
        .never_ready()
        .exits(Duration::from_secs(1), 1);
    stage.world.behave("web", dies.exposes(80));
    stage.start();
    let limit = Duration::from_hours(1);
    stage.until("settled", limit, |s| s.settled).await;
    assert!(stage.manager.is_open());
    stage.pass(Duration::from_mins(10)).await;
    let starts: Vec<_> = stage
        .world
        .effects()
        .into_iter()
        .filter(|e| e.what.starts_with("ensure") && e.what.contains("-web-"))
        .map(|e| e.at)
        .collect();
    let pauses: Vec<TimeDelta> = starts.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(pauses[0] < TimeDelta::seconds(5), "{pauses:?}");
    assert!(
        pauses
            .windows(2)
            .all(|w| w[1] > w[0] - TimeDelta::seconds(2)),
        "{pauses:?}"
    );
    let last = *pauses.last().unwrap();
    let minute = TimeDelta::seconds(59)..TimeDelta::seconds(70);
    assert!(minute.contains(&last), "{pauses:?}");
    let record = &stage.records().await[&instance("web", 1)];
    assert!(
        matches!(record.state, InstanceState::Failed { .. }),
        "{record:?}"
    );
    // All rounds of the crash loop together cause only one event.
    let failed = stage.events(EventKind::Failed, 0).await;
    assert_eq!(failed.len(), 1, "{failed:#?}");
    // Monitoring starts last, so it is not started while another service fails.
    assert!(
        !stage
            .records()
            .await
            .contains_key(&instance("monitoring", 1))
    );
    stage.world.behave("web", Behaviour::default().exposes(80));
    stage.settled().await;
    stage.assert_whole().await;
}

#[tokio::test(start_paused = true)]
async fn service_that_always_exits_with_code_0_fails() {
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(43)).await;
    let ends = Behaviour::default().exits(Duration::ZERO, 0);
    stage.world.behave("web", ends);
    stage.start();
    let limit = Duration::from_mins(10);
    stage.until("settled", limit, |s| s.settled).await;
    let record = &stage.records().await[&instance("web", 1)];
    let InstanceState::Failed { why } = &record.state else {
        panic!("{record:?}");
    };
    assert!(why.contains("in a row"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn service_that_is_never_ready_fails_and_the_round_ends() {
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(42)).await;
    stage
        .world
        .behave("web", Behaviour::default().never_ready());
    stage.start();
    let limit = Duration::from_hours(1);
    stage.until("settled", limit, |s| s.settled).await;
    let (_, container) = stage.place(&instance("web", 1));
    let took =
        lifecycle_core::clock::Clock::now(&stage.world.clock()) - container.started_at.unwrap();
    let within = TimeDelta::minutes(5)..TimeDelta::minutes(5) + TimeDelta::seconds(3);
    assert!(within.contains(&took), "{took}");
    stage.pass(Duration::from_secs(1)).await;
    let record = &stage.records().await[&instance("web", 1)];
    let InstanceState::Failed { why } = &record.state else {
        panic!("{record:?}");
    };
    assert!(why.contains("not ready within 5m"), "{why}");
    assert!(stage.manager.is_open());
}

#[tokio::test(start_paused = true)]
async fn the_old_container_is_shown_while_the_new_one_is_not_ready() {
    let mut stage = up(43).await;
    let places = |stage: &Stage| [1, 2].map(|n| stage.place(&instance("api", n)).1.id.to_string());
    let previous = places(&stage);
    let api = stage.declaration.services.get_mut(&service("api")).unwrap();
    let environment = &mut api.container.environment;
    environment.insert("MODE".into(), Sensitive::new("broken"));
    stage
        .world
        .behave("api", Behaviour::default().never_ready());
    let applied = stage.manager.apply(stage.declaration.clone()).await;
    applied.unwrap();
    let shown_until_rejected = async {
        loop {
            let snapshot = stage.registry.snapshot().await.unwrap();
            if !snapshot.rejected.is_empty() {
                return;
            }
            let services = view::services(&snapshot, &stage.manager.round());
            let api = services.iter().find(|s| s.name == service("api")).unwrap();
            for (shown, previous) in api.instances.iter().zip(&previous) {
                assert_eq!(shown.state, InstanceStateV1::Ready, "{shown:?}");
                assert_eq!(shown.container.as_ref(), Some(previous));
                assert_eq!(shown.endpoints.len(), 1);
            }
            stage.pass(Duration::from_millis(10)).await;
        }
    };
    let limit = Duration::from_hours(1);
    tokio::time::timeout(limit, shown_until_rejected)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn change_that_is_never_ready_is_rolled_back() {
    let mut stage = up(43).await;
    let (_, previous) = stage.place(&instance("web", 1));
    let change = |stage: &mut Stage, value: &str| {
        let web = stage.declaration.services.get_mut(&service("web")).unwrap();
        let environment = &mut web.container.environment;
        environment.insert("MODE".into(), Sensitive::new(value));
    };
    change(&mut stage, "broken");
    stage
        .world
        .behave("web", Behaviour::default().never_ready());
    let applied = stage.manager.apply(stage.declaration.clone()).await;
    let generation = applied.unwrap().generation;
    let limit = Duration::from_hours(1);
    let given_up = async {
        while stage.registry.snapshot().await.unwrap().rejected.is_empty() {
            stage.pass(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(limit, given_up).await.unwrap();
    stage.world.behave("web", Behaviour::default());
    stage.pass(Duration::from_secs(10)).await;
    // The previous container serves again, and the status explains why this container does
    // not match the declaration. The failed container is kept for a while.
    let snapshot = stage.registry.snapshot().await.unwrap();
    let status = stage.manager.round();
    let services = lifecycle_core::api::view::services(&snapshot, &status);
    let web = services.iter().find(|s| s.name == service("web")).unwrap();
    let shown = &web.instances[0];
    assert_eq!(
        shown.state,
        lifecycle_core::api::wire::InstanceStateV1::Ready
    );
    assert_eq!(shown.container, Some(previous.id.to_string()));
    let why = shown.why.as_deref().unwrap();
    assert!(
        why.contains("the previous specification runs again"),
        "{why}"
    );
    let of_web = |stage: &Stage| {
        let role = lifecycle_core::runtime::Role::Instance(instance("web", 1));
        let containers = stage.containers().into_iter();
        containers.filter(|(_, c)| c.role == role).count()
    };
    assert_eq!(of_web(&stage), 2);
    stage.pass(Duration::from_mins(10)).await;
    let (_, now) = stage.place(&instance("web", 1));
    assert_eq!(now.id, previous.id);
    let record = &stage.records().await[&instance("web", 1)];
    assert_eq!(record.state, InstanceState::Ready);
    assert_eq!(record.endpoints.len(), 1);
    let snapshot = stage.registry.snapshot().await.unwrap();
    let rejected = &snapshot.rejected[&instance("web", 1)];
    assert_ne!(rejected.digest, previous.digest);
    let since = stage.world.effects().len();
    // The manager must not retry the change by itself, even after an hour and after its own
    // restart.
    stage.pass(Duration::from_hours(1)).await;
    stage.crash().await;
    stage.start();
    let status = stage
        .until("settled", limit, |s| {
            s.generation() == generation && s.settled
        })
        .await;
    let web = &status.plan.instances[&instance("web", 1)];
    let InstanceState::Failed { why } = &web.state else {
        panic!("{web:?}");
    };
    assert!(
        why.contains("the previous specification runs again"),
        "{why}"
    );
    stage.pass(Duration::from_mins(10)).await;
    assert_eq!(effects(&stage, since), Vec::<String>::new());
    assert!(stage.world.violations().is_empty());

    change(&mut stage, "repaired");
    stage
        .manager
        .apply(stage.declaration.clone())
        .await
        .unwrap();
    stage
        .until("repaired", limit, |s| {
            s.generation() > generation && s.settled && s.is_idle()
        })
        .await;
    stage.assert_whole().await;
    let snapshot = stage.registry.snapshot().await.unwrap();
    assert!(snapshot.rejected.is_empty());
}

#[tokio::test(start_paused = true)]
async fn services_start_in_order_after_all_nodes_rebooted() {
    for seed in 1..=3 {
        let stage = up(seed).await;
        let before = stage.records().await;
        for name in NODES {
            stage.world.faults().reboot(&node(name)).unwrap();
        }
        stage.pass(Duration::from_mins(3)).await;
        stage.assert_whole().await;
        let now = stage.records().await;
        let started = |name: &str, n: u16| now[&instance(name, n)].started_at.unwrap();
        let ready = |name: &str, n: u16| now[&instance(name, n)].ready_at.unwrap();
        for n in [1, 2] {
            assert!(started("api", n) >= ready("db", 1), "seed {seed}");
            assert!(started("web", 1) >= ready("api", n), "seed {seed}");
        }
        assert!(started("monitoring", 1) >= ready("web", 1), "seed {seed}");
        // The completed job must not run again.
        let job = instance("migrate", 1);
        assert_eq!(before[&job], now[&job], "seed {seed}");
        for (id, record) in &now {
            assert_eq!(record.container, before[id].container, "seed {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unresponsive_node_is_unknown_and_delays_no_other() {
    for (seed, paused) in [(1, true), (2, false), (3, true), (4, true), (23, true)] {
        let stage = up(seed).await;
        let before = stage.records().await;
        let faults = stage.world.faults();
        // Choose a node on which the database does not run.
        let other = before[&instance("db", 1)].clone();
        let elsewhere = before.values().find(|r| r.node != other.node);
        let unreachable = elsewhere.unwrap().node.clone();
        let since = stage.world.effects().len();
        // The outage begins at another moment between two pings for each seed.
        stage
            .pass(Duration::from_millis(1300) * u32::try_from(seed).unwrap())
            .await;
        let cursor = stage.last_event().await;
        if paused {
            faults.pause(&unreachable).unwrap();
        } else {
            faults.partition(&unreachable).unwrap();
        }
        stage.pass(Duration::from_secs(15)).await;
        let events = stage.events(EventKind::NodeUnknown, cursor).await;
        assert_eq!(events.len(), 1, "seed {seed}: {events:#?}");
        stage.pass(Duration::from_mins(2)).await;
        let nodes = stage.registry.snapshot().await.unwrap().nodes;
        let unknown = nodes[&unreachable].unknown.clone().unwrap();
        assert!(unknown.why.contains("cannot be reached"), "{unknown:?}");
        let records = stage.records().await;
        for record in records.values().filter(|r| r.node == unreachable) {
            let InstanceState::Unknown { since, .. } = &record.state else {
                panic!("seed {seed}: {record:?}");
            };
            assert_eq!(*since, unknown.since);
            assert!(record.endpoints.is_empty());
        }
        let (on, container) = stage.place(&other.id);
        faults.kill_container(&on, &container.name, 1).unwrap();
        stage.pass(Duration::from_secs(5)).await;
        let record = &stage.records().await[&other.id];
        assert_eq!(record.state, InstanceState::Ready, "seed {seed}");
        assert!(record.started_at > other.started_at, "seed {seed}");
        stage.pass(Duration::from_mins(20)).await;
        faults.heal(&unreachable).unwrap();
        stage.pass(Duration::from_secs(30)).await;
        stage.assert_whole().await;
        // The node's containers kept running, and their records are unchanged.
        let records = stage.records().await;
        for (id, record) in records.iter().filter(|(_, r)| r.node == unreachable) {
            assert_eq!(record, &before[id], "seed {seed}");
        }
        assert_eq!(effects(&stage, since).len(), 1, "seed {seed}");
        let nodes = stage.registry.snapshot().await.unwrap().nodes;
        assert_eq!(nodes[&unreachable].unknown, None);
    }
}

#[tokio::test(start_paused = true)]
async fn short_outage_keeps_endpoints_and_starts_no_steps() {
    for seed in 1..=3 {
        let stage = up(seed).await;
        let (before, cursor) = (stage.records().await, stage.last_event().await);
        let faults = stage.world.faults();
        let unreachable = before[&instance("db", 1)].node.clone();
        let error = Error::unreachable("it", None);
        faults.fail_next("ping", error);
        stage.pass(Duration::from_secs(30)).await;
        assert_eq!(stage.records().await, before, "seed {seed}");
        faults.partition(&unreachable).unwrap();
        for _ in 0..30 {
            stage.pass(Duration::from_millis(100)).await;
            assert_eq!(stage.records().await, before, "seed {seed}");
        }
        faults.heal(&unreachable).unwrap();
        stage.pass(Duration::from_secs(30)).await;
        assert_eq!(stage.records().await, before, "seed {seed}");
        for kind in [EventKind::NodeUnknown, EventKind::StepStarted] {
            let events = stage.events(kind, cursor).await;
            assert!(events.is_empty(), "seed {seed}: {events:#?}");
        }
        // A container that was killed during an outage is repaired afterwards.
        let (on, container) = stage.place(&instance("db", 1));
        faults.partition(&unreachable).unwrap();
        faults.kill_container(&on, &container.name, 1).unwrap();
        stage.pass(Duration::from_secs(3)).await;
        faults.heal(&unreachable).unwrap();
        stage.pass(Duration::from_secs(30)).await;
        stage.assert_whole().await;
        let failed = stage.events(EventKind::StepFailed, cursor).await;
        assert!(failed.is_empty(), "seed {seed}: {failed:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn node_that_the_cloud_failed_to_create_is_deleted_and_created_again() {
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(47)).await;
    let rates = |provision_fails| FaultRates {
        provision_fails,
        ..FaultRates::default()
    };
    stage.world.faults().rates(rates(1.0));
    stage.start();
    let limit = Duration::from_hours(2);
    let status = stage.until("settled", limit, |s| s.settled).await;
    let failed = |i: &lifecycle_core::reconcile::InstanceStatus| {
        matches!(i.state, InstanceState::Failed { .. })
    };
    assert!(status.plan.instances.values().any(failed), "{status:#?}");
    stage.world.faults().rates(rates(0.0));
    stage.settled().await;
    stage.assert_whole().await;
    assert_order(&stage).await;
    let deleted = stage.events(EventKind::StepSucceeded, 0).await;
    let deleted = deleted
        .iter()
        .filter(|e| e.message.starts_with("delete node"));
    let count = deleted.count();
    assert!((2..40).contains(&count), "{count}");
}

#[tokio::test(start_paused = true)]
async fn images_are_only_on_nodes_that_run_them() {
    for seed in 1..=5 {
        let stage = up(seed).await;
        let brought = stage.world.effects().into_iter().filter_map(|effect| {
            let what = effect.what;
            let image = what
                .strip_prefix("import ")
                .or_else(|| what.strip_prefix("pull "))
                .or_else(|| what.strip_prefix("build "))?;
            Some((effect.node?, image.to_owned()))
        });
        for (on, image) in brought.filter(|(_, image)| image != "base:1") {
            let of = image.trim_start_matches("demo-000001/");
            let service = of.split(['-', ':']).next().unwrap();
            let runs = stage.containers().iter().any(|(node, c)| {
                *node == on
                    && matches!(&c.role, Role::Instance(id) if id.service.as_str() == service)
            });
            assert!(runs, "seed {seed}: {image} on {on}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn node_that_restarts_during_a_partition_duplicates_nothing() {
    for seed in 1..=3 {
        let stage = up(seed).await;
        let faults = stage.world.faults();
        let unreachable = node("n2");
        faults.partition(&unreachable).unwrap();
        stage.pass(Duration::from_mins(1)).await;
        faults.reboot(&unreachable).unwrap();
        stage.pass(Duration::from_mins(10)).await;
        faults.heal(&unreachable).unwrap();
        stage.pass(Duration::from_mins(3)).await;
        stage.assert_whole().await;
    }
}

#[tokio::test(start_paused = true)]
async fn quota_error_fails_the_node_until_the_quota_is_raised() {
    // With this seed, the manager's node is created before the quota is exhausted.
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(61)).await;
    stage.world.faults().quota(Some(2));
    stage.start();
    let limit = Duration::from_hours(1);
    let status = stage.until("settled", limit, |s| s.settled).await;
    let failed = status.plan.instances.values();
    assert!(
        failed
            .clone()
            .any(|i| matches!(i.state, InstanceState::Failed { .. })),
        "{status:#?}"
    );
    assert!(
        failed.into_iter().any(|i| i.state == InstanceState::Ready),
        "{status:#?}"
    );
    let steps = stage.events(EventKind::StepFailed, 0).await;
    assert!(
        steps.iter().all(|e| e.message.contains("quota")),
        "{steps:#?}"
    );
    stage.world.faults().quota(None);
    stage.pass(Duration::from_mins(15)).await;
    stage.assert_whole().await;
    assert_order(&stage).await;
}

#[tokio::test(start_paused = true)]
async fn failed_pull_is_retried_with_backoff() {
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(45)).await;
    for _ in 0..3 {
        let error = Error::unreachable("the image's registry", None);
        stage.world.faults().fail_next("pull db-image:1", error);
    }
    stage.start();
    stage.settled().await;
    stage.assert_whole().await;
    let failed = stage.events(EventKind::StepFailed, 0).await;
    assert_eq!(failed.len(), 3, "{failed:#?}");
    let began: Vec<_> = stage
        .events(EventKind::StepStarted, 0)
        .await
        .into_iter()
        .filter(|e| e.message.starts_with("pull db-image:1"))
        .map(|e| e.at)
        .collect();
    assert_eq!(began.len(), 4, "{began:?}");
    for (n, failure) in failed.iter().enumerate() {
        let pause = began[n + 1] - failure.at;
        let least = TimeDelta::seconds(1 << n);
        assert!(pause >= least && pause < least * 2, "{n}: {pause}");
    }
}

#[tokio::test(start_paused = true)]
async fn destroyed_node_and_its_services_are_created_again() {
    for seed in 1..=3 {
        let stage = up(seed).await;
        let before = stage.records().await;
        for name in ["n2", "n3"] {
            stage.world.faults().destroy(&node(name)).unwrap();
            stage.pass(Duration::from_secs(35)).await;
            let nodes = stage.registry.snapshot().await.unwrap().nodes;
            let observed = nodes[&node(name)].observed.as_ref();
            let power = observed.map(|machine| machine.power);
            assert_ne!(
                power,
                Some(lifecycle_core::cloud::Power::Running),
                "seed {seed}"
            );
            let of_lost = |r: &&lifecycle_core::model::InstanceRecord| r.node == node(name);
            for record in stage.records().await.values().filter(of_lost) {
                assert!(record.endpoints.is_empty(), "seed {seed}: {record:?}");
            }
            stage.settled().await;
            stage.assert_whole().await;
        }
        let homes = |records: &BTreeMap<_, lifecycle_core::model::InstanceRecord>| {
            let homes = records
                .iter()
                .map(|(id, r)| (format!("{id:?}"), r.node.clone()));
            homes.collect::<BTreeMap<String, NodeName>>()
        };
        assert_eq!(homes(&before), homes(&stage.records().await), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn platform_starts_despite_random_faults() {
    for seed in 100..115 {
        let mut stage = Stage::shop_without_manager(SimOptions::seeded(seed)).await;
        stage.world.faults().rates(FaultRates {
            throttled: 0.1,
            interrupted: 0.03,
            reply_lost: 0.2,
            provision_fails: 0.2,
        });
        stage.start();
        stage.pass(Duration::from_mins(30)).await;
        stage.world.faults().rates(FaultRates::default());
        stage.pass(Duration::from_mins(10)).await;
        stage.assert_whole().await;
    }
}

#[tokio::test(start_paused = true)]
async fn events_explain_why_an_instance_is_no_longer_ready() {
    let stage = Stage::shop(95).await;
    stage.settled().await;
    let id = instance("web", 1);
    let (on, container) = stage.place(&id);
    let cursor = stage.last_event().await;
    let faults = stage.world.faults();
    faults.remove_container(&on, &container.name).unwrap();
    stage.pass(Duration::from_mins(1)).await;
    stage.settled().await;
    faults.partition(&on).unwrap();
    stage.pass(Duration::from_mins(1)).await;
    let events = stage.events(EventKind::NotReady, cursor).await;
    let of_web = events
        .iter()
        .filter(|event| event.subject == Subject::Instance(id.clone()));
    let messages: Vec<&str> = of_web.map(|event| event.message.as_str()).collect();
    let [removed, unreachable] = messages.as_slice() else {
        panic!("{messages:#?}");
    };
    assert_eq!(
        *removed,
        "web-1 is no longer ready: its container was removed"
    );
    let expected = format!("web-1 is no longer ready: node {on} is unreachable: ");
    assert!(unreachable.starts_with(&expected), "{unreachable}");
}
