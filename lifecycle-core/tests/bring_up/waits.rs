//! Tests that the bootstrapper reports every wait, and that every wait ends. A wait whose condition
//! is never met must end with an error.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lifecycle_core::bootstrap::{Progress, Reporter};
use lifecycle_core::error::Error;
use lifecycle_core::model::NodeName;
use lifecycle_core::reconcile::RetryOptions;
use lifecycle_core::sim::{Behaviour, Latencies, SimOptions, Span};
use tokio::time::Instant;

use crate::stage::Stage;

/// The longest allowed time without a report.
const MAX_PAUSE: Duration = Duration::from_secs(15);

/// Records the reports with their times.
#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<(Instant, Progress)>>);

impl Reporter for Recorder {
    fn report(&self, progress: Progress) {
        // Lines of output do not count: they are only shown together with the next report.
        if !matches!(progress, Progress::Line { .. }) {
            self.0.lock().unwrap().push((Instant::now(), progress));
        }
    }
}

impl Recorder {
    /// Checks that there was no pause longer than `MAX_PAUSE` between reports since `began`.
    /// Returns the waits that were reported.
    fn waits_since(&self, began: Instant) -> Vec<String> {
        let reports = self.0.lock().unwrap();
        let mut last = began;
        let moments = reports.iter().map(|(at, _)| *at);
        for at in moments.filter(|at| *at > began).chain([Instant::now()]) {
            let pause = at - last;
            assert!(pause <= MAX_PAUSE, "no report for {pause:?}: {reports:#?}");
            last = at;
        }
        let waits = reports.iter().filter(|(at, _)| *at > began);
        waits
            .filter_map(|(_, progress)| match progress {
                Progress::Waiting {
                    what,
                    since,
                    until,
                    detail,
                    ..
                } => {
                    assert!(since < until, "{progress:?}");
                    Some(format!("{what}: {}", detail.clone().unwrap_or_default()))
                }
                _ => None,
            })
            .collect()
    }
}

fn node(name: &str) -> NodeName {
    NodeName::try_from(name).unwrap()
}

async fn recording(options: SimOptions) -> (Stage, Arc<Recorder>) {
    let reports = Arc::new(Recorder::default());
    let mut stage = Stage::of(options).await;
    stage.reporter = Arc::clone(&reports) as Arc<dyn Reporter>;
    (stage, reports)
}

/// Lets simulated time pass until a condition is met.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let limit = Duration::from_mins(30);
    assert!(tokio::time::timeout(limit, wait).await.is_ok(), "{what}");
}

#[tokio::test(start_paused = true)]
async fn wait_for_a_node_that_never_starts_ends() {
    let options = SimOptions {
        latencies: Latencies {
            provision: Span::millis(100_000_000, 100_000_000),
            ..Latencies::default()
        },
        ..SimOptions::seeded(31)
    };
    let (mut stage, reports) = recording(options).await;
    stage.declaration.deadlines.create = Duration::from_mins(2);
    let began = Instant::now();
    let error = stage.up().await.unwrap_err();
    assert!(began.elapsed() < Duration::from_mins(35), "{error:?}");
    assert!(error.chain().contains("n1"), "{error:?}");
    let waits = reports.waits_since(began);
    let has = |text: &str| waits.iter().any(|wait| wait.contains(text));
    assert!(has("node n1 has been starting"), "{waits:#?}");
}

#[tokio::test(start_paused = true)]
async fn wait_for_a_node_with_a_closed_ssh_port_ends() {
    let (stage, reports) = recording(SimOptions::seeded(32)).await;
    let began = Instant::now();
    let up = stage.up();
    let close = async {
        let n1 = node("n1");
        until("n1 exists", || stage.world.node(&n1).is_some()).await;
        stage.world.faults().partition(&n1).unwrap();
        std::future::pending::<()>().await;
    };
    let error = tokio::select! {
        outcome = up => outcome.unwrap_err(),
        () = close => unreachable!("this future never completes"),
    };
    assert!(began.elapsed() < Duration::from_mins(10), "{error:?}");
    let waits = reports.waits_since(began);
    let has = |text: &str| waits.iter().any(|wait| wait.contains(text));
    assert!(has("n1 has been unreachable"), "{waits:#?}");
}

#[tokio::test(start_paused = true)]
async fn wait_for_a_manager_that_never_responds_ends() {
    let (stage, reports) = recording(SimOptions::seeded(33)).await;
    let digest = {
        let bootstrapper = stage.bootstrapper().await;
        bootstrapper.manager_image.digest().await.unwrap()
    };
    stage.managers.break_image(&digest);
    let began = Instant::now();
    let error = stage.up().await.unwrap_err();
    assert!(began.elapsed() < Duration::from_mins(10), "{error:?}");
    let waits = reports.waits_since(began);
    let has = |text: &str| waits.iter().any(|wait| wait.contains(text));
    assert!(has("the manager's first response"), "{waits:#?}");
}

#[tokio::test(start_paused = true)]
async fn slow_steps_and_unready_services_are_reported_as_waits() {
    let options = SimOptions {
        latencies: Latencies {
            build: Span::millis(600_000, 600_000),
            ..Latencies::default()
        },
        ..SimOptions::seeded(34)
    };
    let (stage, reports) = recording(options).await;
    stage.world.behave(
        "monitoring",
        Behaviour::default().never_ready().with_healthcheck(),
    );
    let began = Instant::now();
    let outcome = stage.up().await.unwrap();
    assert_eq!(outcome.failures.len(), 1, "{:?}", outcome.failures);
    let waits = reports.waits_since(began);
    let has = |text: &str| waits.iter().any(|wait| wait.contains(text));
    assert!(
        has("monitoring-1: running, but not ready yet") && has("/api:"),
        "{waits:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn commands_without_a_manager_end() {
    let (stage, reports) = recording(SimOptions::seeded(35)).await;
    stage.up().await.unwrap();
    stage.world.faults().pause(&node("n1")).unwrap();
    let began = Instant::now();
    stage.restart("db").await.unwrap_err();
    reports.waits_since(began);
    let bootstrapper = stage.bootstrapper().await;
    let began = Instant::now();
    let retried = bootstrapper
        .retry(stage.declaration.id, "db", RetryOptions::default())
        .await;
    assert!(retried.is_err(), "{retried:?}");
    reports.waits_since(began);
    let began = Instant::now();
    let up = stage.up().await.unwrap_err();
    assert!(began.elapsed() < Duration::from_mins(10), "{up:?}");
    reports.waits_since(began);
    let began = Instant::now();
    // `down` must delete the nodes even without the manager.
    stage.down().await.unwrap();
    reports.waits_since(began);
}

#[tokio::test(start_paused = true)]
async fn up_ends_when_the_manager_is_lost() {
    let (stage, reports) = recording(SimOptions::seeded(36)).await;
    let began = Instant::now();
    let up = stage.up();
    let lose = async {
        let second = node("n2");
        until("the manager uses n2", || !stage.agents(&second).is_empty()).await;
        stage.world.faults().pause(&node("n1")).unwrap();
        std::future::pending::<()>().await;
    };
    let error = tokio::select! {
        outcome = up => outcome.unwrap_err(),
        () = lose => unreachable!("this future never completes"),
    };
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    reports.waits_since(began);
}

#[tokio::test(start_paused = true)]
async fn up_retries_a_fixed_error() {
    let (stage, _) = recording(SimOptions::seeded(37)).await;
    let denied = Error::denied("the machine", "the account may not create it", "grant it");
    stage.world.faults().fail_next("/api:", denied);
    let outcome = stage.up().await.unwrap();
    assert!(!outcome.failures.is_empty());
    let began = Instant::now();
    let outcome = stage.up().await.unwrap();
    assert_eq!(outcome.failures, [], "{}", stage.world.transcript());
    // This time is enough for a build and three containers, but not for the pauses between
    // automatic retries.
    assert!(
        began.elapsed() < Duration::from_mins(4),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn missing_secrets_of_existing_nodes_are_reported_immediately() {
    let (stage, _) = recording(SimOptions::seeded(38)).await;
    let kept_in = Path::new("/config/lifecycle/id");
    let mut bootstrapper = stage.bootstrapper().await;
    bootstrapper.state = Arc::new(lifecycle_core::bootstrap::MemoryState::default());
    let lacking = bootstrapper.missing_secrets(kept_in).await.unwrap();
    assert!(lacking.is_none(), "no node exists yet: {lacking:?}");
    stage.up().await.unwrap();
    let effects = stage.world.effects().len();
    let lacking = bootstrapper
        .missing_secrets(kept_in)
        .await
        .unwrap()
        .unwrap();
    let text = lacking.chain();
    assert!(
        text.contains("n1, n2") && text.contains("/config/lifecycle/id"),
        "{text}"
    );
    assert!(
        lacking
            .hint()
            .unwrap()
            .contains("copy /config/lifecycle/id")
    );
    assert_eq!(stage.world.effects().len(), effects);
    let kept = &stage.bootstrapper().await.secrets;
    bootstrapper.state.store_secrets(kept).await.unwrap();
    assert!(
        bootstrapper
            .missing_secrets(kept_in)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn reported_durations_match_the_events() {
    let (stage, reports) = recording(SimOptions::seeded(39)).await;
    stage.up().await.unwrap();
    let events = stage.api().await.events(0).await.unwrap().events;
    let moment = |kind: lifecycle_core::model::EventKind, step: &str| {
        let of_step =
            |data: &serde_json::Value| data.get("step").and_then(|s| s.as_str()) == Some(step);
        let mut found = events.iter().filter(|e| e.event.kind == kind);
        found.find(|e| of_step(&e.event.data)).map(|e| e.event.at)
    };
    let reports = reports.0.lock().unwrap();
    let mut compared = 0;
    for (_, progress) in reports.iter() {
        let Progress::Done { key, took, .. } = progress else {
            continue;
        };
        let began = moment(lifecycle_core::model::EventKind::StepStarted, key);
        let ended = moment(lifecycle_core::model::EventKind::StepSucceeded, key);
        if let (Some(began), Some(ended)) = (began, ended) {
            assert_eq!((ended - began).to_std().unwrap(), *took, "{key}");
            compared += 1;
        }
    }
    assert!(compared > 5, "{reports:#?}");
}
