//! Tests that an instance that was ready and is not ready any more is shown as unhealthy, with the
//! reason, and that an instance that is not ready yet shows the reason, too.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use lifecycle_core::api::wire::{InstanceStateV1, InstanceV1};
use lifecycle_core::model::{EventKind, RestartPolicy, ServiceName};
use lifecycle_core::sim::Behaviour;

use crate::stage::Stage;

async fn db(stage: &Stage) -> InstanceV1 {
    let services = stage.api().await.services().await.unwrap();
    let found = services.into_iter().find(|s| s.name.as_str() == "db");
    found.unwrap().instances.remove(0)
}

/// Declares the restart policy of `db`.
fn restarts(stage: &mut Stage, policy: RestartPolicy) {
    let name = ServiceName::try_from("db").unwrap();
    stage.declaration.services.get_mut(&name).unwrap().restart = Some(policy);
}

/// Waits until the replica of `db` has this state.
async fn becomes(stage: &Stage, expected: InstanceStateV1) -> InstanceV1 {
    let reached = async {
        loop {
            let instance = db(stage).await;
            if instance.state == expected {
                return instance;
            }
            let before = [InstanceStateV1::Ready, InstanceStateV1::Unhealthy];
            assert!(before.contains(&instance.state), "{instance:?}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let reached = tokio::time::timeout(Duration::from_mins(20), reached).await;
    reached.unwrap_or_else(|_| panic!("{}", stage.world.transcript()))
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_no_longer_ready_is_unhealthy_with_the_reason() {
    let checked = Behaviour::default().with_healthcheck();
    for (behaviour, why) in [
        (checked, "its health check failed with exit code 1"),
        (Behaviour::default(), "port 5432: connection refused"),
    ] {
        let mut stage = Stage::new(91).await;
        restarts(&mut stage, RestartPolicy::No);
        let after = Duration::from_mins(10);
        stage.world.behave("db", behaviour.unhealthy_after(after));
        stage.up().await.unwrap();
        let unhealthy = becomes(&stage, InstanceStateV1::Unhealthy).await;
        assert_eq!(unhealthy.why.as_deref(), Some(why));
        assert!(unhealthy.endpoints.is_empty(), "{unhealthy:?}");
        let answer = stage.api().await.why("db").await.unwrap().answer;
        assert!(
            answer.ends_with(&format!("not ready any more: {why}")),
            "{answer}"
        );
        let events = stage.api().await.events(0).await.unwrap().events;
        let not_ready = events.iter().find(|e| e.event.kind == EventKind::NotReady);
        let message = &not_ready.unwrap().event.message;
        assert_eq!(
            *message,
            format!("db-1 is no longer ready: unhealthy: {why}")
        );
        // After the time limit, the replica counts as failed, for the same reason.
        let failed = becomes(&stage, InstanceStateV1::Failed).await;
        assert!(failed.why.as_ref().unwrap().ends_with(why), "{failed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_does_not_become_ready_shows_the_reason() {
    let stage = Stage::new(92).await;
    stage.world.behave("db", Behaviour::default().never_ready());
    let outcome = stage.up().await.unwrap();
    let cause = outcome.first_cause().unwrap();
    assert_eq!(cause.instance, "db-1");
    assert!(cause.why.starts_with("not ready within"), "{cause:?}");
    assert!(
        cause.why.ends_with("port 5432: connection refused"),
        "{cause:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_instance_is_restarted_as_its_policy_declares() {
    let max_retries = None;
    for policy in [
        RestartPolicy::Always,
        RestartPolicy::OnFailure { max_retries },
    ] {
        let mut stage = Stage::new(93).await;
        restarts(&mut stage, policy);
        let behaviour = Behaviour::default().with_healthcheck();
        let after = Duration::from_mins(2);
        stage.world.behave("db", behaviour.unhealthy_after(after));
        stage.up().await.unwrap();
        let first = db(&stage).await;
        let mut starts = vec![first.started_at.unwrap()];
        let watched = async {
            while starts.len() < 5 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let now = db(&stage).await;
                assert_eq!(now.container, first.container, "the container was replaced");
                starts.extend(now.started_at.filter(|at| !starts.contains(at)));
            }
        };
        let watched = tokio::time::timeout(Duration::from_hours(1), watched).await;
        assert!(watched.is_ok(), "{starts:?}\n{}", stage.world.transcript());
        let runs = starts
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).num_seconds());
        let runs: Vec<i64> = runs.collect();
        assert!(
            runs.is_sorted() && runs[3] >= runs[0] + 3,
            "the pauses do not grow: {runs:?}"
        );
        let ended = db(&stage).await.ended.unwrap();
        assert_eq!(ended.count, 4);
        let planned = stage.api().await.events(0).await.unwrap().events;
        let planned = planned
            .iter()
            .filter(|e| e.event.kind == EventKind::Planned);
        let mut steps = planned.filter_map(|e| e.event.data["steps"].as_array().cloned());
        let is_unhealthy = |step: &serde_json::Value| step["reason"]["because"] == "unhealthy";
        assert!(steps.any(|steps| steps.iter().any(is_unhealthy)));
    }
}
