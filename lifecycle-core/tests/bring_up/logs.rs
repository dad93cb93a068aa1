//! Tests that a followed output goes on through restarts, replacements and moves, with each line
//! exactly once.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use lifecycle_core::Result;
use lifecycle_core::api::tail::{self, EventOptions};
use lifecycle_core::api::wire::ServiceLogLine;
use lifecycle_core::model::{DependencyCondition, EventKind, RestartPolicy, ServiceName};
use lifecycle_core::reconcile::RetryOptions;
use lifecycle_core::runtime::LogOptions;
use tokio::time::timeout;

use crate::stage::Stage;

/// An output that is followed, and its lines so far.
struct Followed {
    lines: BoxStream<'static, Result<ServiceLogLine>>,
    seen: Vec<String>,
}

impl Followed {
    async fn of(stage: &Stage, services: &[&str], tail: Option<u32>) -> Self {
        let services = services.iter().map(|name| ServiceName::try_from(*name));
        let services: Vec<ServiceName> = services.map(Result::unwrap).collect();
        let options = LogOptions {
            follow: true,
            tail,
            ..LogOptions::default()
        };
        let api = stage.api().await;
        let (_, lines) = tail::logs(api, &services, &options).await.unwrap();
        Self {
            lines,
            seen: Vec::new(),
        }
    }

    /// Reads until a line contains `text`.
    async fn shows(&mut self, text: &str) {
        let read = async {
            while let Some(line) = self.lines.next().await {
                let line = line.unwrap();
                assert_eq!(line.notice, line.continues, "{line:?}");
                let mark = if line.notice { "note: " } else { "" };
                self.seen
                    .push(format!("{}: {mark}{}", line.instance, line.line.text));
                if line.line.text.contains(text) {
                    return true;
                }
            }
            false
        };
        let shown = timeout(Duration::from_mins(10), read).await;
        assert_eq!(shown, Ok(true), "{text:?} is not in {:#?}", self.seen);
    }

    fn count(&self, text: &str) -> usize {
        self.seen.iter().filter(|line| line.contains(text)).count()
    }
}

#[tokio::test(start_paused = true)]
async fn the_output_of_a_restarted_container_goes_on() {
    let stage = Stage::new(71).await;
    stage.up().await.unwrap();
    // One output of a service, one of all services, and one of new lines only.
    let one = Followed::of(&stage, &["db"], None).await;
    let all = Followed::of(&stage, &[], None).await;
    let new = Followed::of(&stage, &["db"], Some(0)).await;
    stage.restart("db").await.unwrap();
    stage.restart("db").await.unwrap();
    for (mut followed, first) in [(one, 1), (all, 1), (new, 0)] {
        followed.shows("db: start 3 ").await;
        assert_eq!(
            followed.count("db: start 1 "),
            first,
            "{:#?}",
            followed.seen
        );
        assert_eq!(followed.count("db: start 2 "), 1, "{:#?}", followed.seen);
        let again = "db-1: note: the container was started again";
        assert_eq!(followed.count(again), 2, "{:#?}", followed.seen);
    }
}

#[tokio::test(start_paused = true)]
async fn the_output_of_a_replaced_or_moved_instance_goes_on() {
    let mut stage = Stage::new(72).await;
    stage.pin("db", "n1");
    stage.up().await.unwrap();
    let mut followed = Followed::of(&stage, &["db"], None).await;
    stage.command("db", "echo second; sleep infinity");
    stage.up().await.unwrap();
    followed.shows("second").await;
    assert_eq!(
        followed.count("was replaced; its output continues"),
        1,
        "{:#?}",
        followed.seen
    );

    let spec = stage
        .declaration
        .services
        .get_mut(&ServiceName::try_from("db").unwrap());
    spec.unwrap().constraints.clear();
    stage.pin("db", "n2");
    stage.up().await.unwrap();
    followed.shows("moved from n1 to n2").await;
    followed.shows("second").await;
    assert_eq!(followed.count("db: start 1 "), 1, "{:#?}", followed.seen);
}

/// The manager's node restarts, and with it the manager and a replica.
#[tokio::test(start_paused = true)]
async fn the_output_goes_on_after_an_outage_of_the_manager() {
    let mut stage = Stage::new(74).await;
    stage.pin("db", "n1");
    stage.up().await.unwrap();
    let mut one = Followed::of(&stage, &["db"], None).await;
    let mut all = Followed::of(&stage, &[], Some(1)).await;
    one.shows("db: start 1 ").await;
    all.shows("db: start 1 ").await;
    let bootstrapper = stage.bootstrapper().await;
    let restart = bootstrapper.restart_node(stage.declaration.id, "n1");
    let read = async {
        tokio::join!(one.shows("db: start 2 "), all.shows("db: start 2 "));
    };
    tokio::join!(read, async { restart.await.unwrap() });
    stage.restart("db").await.unwrap();
    for mut followed in [one, all] {
        followed.shows("db: start 3 ").await;
        for line in [
            "db: start 1 ",
            "db: start 2 ",
            "the manager does not respond",
        ] {
            assert_eq!(followed.count(line), 1, "{line}: {:#?}", followed.seen);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn events_and_output_end_when_the_platform_is_deleted() {
    let stage = Stage::new(75).await;
    stage.up().await.unwrap();
    let options = EventOptions {
        tail: Some(0),
        follow: true,
        ..EventOptions::default()
    };
    let events = tail::events(stage.api().await, options).await.unwrap();
    let output = Followed::of(&stage, &[], None).await;
    let (down, events, output) = tokio::join!(
        stage.down(),
        events.try_collect::<Vec<_>>(),
        timeout(Duration::from_mins(5), output.lines.try_collect::<Vec<_>>()),
    );
    down.unwrap();
    output.unwrap().unwrap();
    let events = events.unwrap();
    assert!(
        events.iter().any(|e| e.event.kind == EventKind::Audit),
        "{events:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_output_of_a_completed_or_failed_job_ends() {
    for code in [0, 9] {
        the_output_ends(code).await;
    }
}

async fn the_output_ends(code: u8) {
    let mut stage = Stage::new(73).await;
    stage.command("db", &format!("echo done; exit {code}"));
    let api = stage
        .declaration
        .services
        .get_mut(&ServiceName::try_from("api").unwrap());
    let on_db = DependencyCondition::ServiceCompletedSuccessfully;
    api.unwrap()
        .depends_on
        .insert(ServiceName::try_from("db").unwrap(), on_db);
    let outcome = stage.up().await.unwrap();
    assert_eq!(outcome.failures.is_empty(), code == 0);
    let followed = Followed::of(&stage, &["db"], None).await;
    let lines = followed.lines.map(|line| line.unwrap().line.text);
    let lines = timeout(Duration::from_mins(1), lines.collect::<Vec<_>>());
    assert_eq!(lines.await.unwrap(), ["done"], "exit code {code}");
}

/// A job has ended, but the output of another service is followed, too.
#[tokio::test(start_paused = true)]
async fn the_output_of_a_job_that_runs_again_goes_on() {
    let mut stage = Stage::new(74).await;
    stage.command("api", "echo done; exit 9");
    let api = ServiceName::try_from("api").unwrap();
    let job = stage.declaration.services.get_mut(&api).unwrap();
    (job.replicas, job.restart) = (1, Some(RestartPolicy::No));
    stage.up().await.unwrap();
    let mut followed = Followed::of(&stage, &["api", "db"], None).await;
    for run in 1..4 {
        followed.shows("done").await;
        assert_eq!(followed.count("done"), run, "{:#?}", followed.seen);
        let others = async {
            while let Some(line) = followed.lines.next().await {
                assert_ne!(line.unwrap().line.text, "done");
            }
        };
        let ended = timeout(Duration::from_mins(1), others).await;
        assert!(ended.is_err(), "the output has ended");
        let manager = stage.api().await;
        let retried = manager.retry("api", RetryOptions::default());
        drop(retried.await.unwrap());
    }
}
