//! Tests services that wait for the completion of a job.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use lifecycle_core::api::wire::InstanceStateV1;
use lifecycle_core::model::{DependencyCondition, RestartPolicy, ServiceName};
use lifecycle_core::reconcile::DriverOptions;
use lifecycle_core::sim::SimManagers;
use tokio::time::Instant;

use crate::stage::Stage;

#[tokio::test(start_paused = true)]
async fn a_failed_job_is_the_cause_that_its_dependents_report() {
    let mut stage = Stage::new(81).await;
    stage.command("db", "echo no database; exit 9");
    let service = |name: &str| ServiceName::try_from(name).unwrap();
    let spec = |stage: &mut Stage, name: &str, dependency: &str| {
        let completes = DependencyCondition::ServiceCompletedSuccessfully;
        let condition = if dependency == "db" {
            completes
        } else {
            DependencyCondition::ServiceHealthy
        };
        let spec = stage.declaration.services.get_mut(&service(name)).unwrap();
        spec.depends_on.insert(service(dependency), condition);
    };
    spec(&mut stage, "api", "db");
    spec(&mut stage, "monitoring", "api");
    let outcome = stage.up().await.unwrap();
    let cause = "db-1 failed: its container ended with exit code 9";
    for failure in &outcome.failures {
        if failure.instance == "db-1" {
            assert_eq!(failure.last_lines, ["no database"]);
            assert_eq!(failure.waits_for, None);
            continue;
        }
        assert!(failure.why.ends_with(cause), "{failure:?}");
        assert!(failure.last_lines.is_empty(), "{failure:?}");
        assert!(failure.waits_for.is_some(), "{failure:?}");
    }
    assert_eq!(outcome.failures.len(), 4, "{:?}", outcome.failures);
    // The first failure in the order of names is a consequence.
    assert_eq!(outcome.failures[0].instance, "api-1");
    assert_eq!(outcome.first_cause().unwrap().instance, "db-1");

    for name in ["api", "monitoring-1"] {
        let why = stage.api().await.why(name).await.unwrap();
        assert!(why.answer.ends_with(cause), "{}", why.answer);
        // The name of the service is also part of the names of its replicas.
        let named = why.answer.matches("monitoring-1").count();
        assert_eq!(named, usize::from(name == "monitoring-1"), "{}", why.answer);
        let output = &why.output[0];
        assert_eq!(output.about.to_string(), "instance db-1");
        assert_eq!(output.lines, ["no database"]);
    }
}

/// Declares that `api` waits until `db` has completed.
fn awaits_completion(stage: &mut Stage) {
    let service = |name: &str| ServiceName::try_from(name).unwrap();
    let api = stage.declaration.services.get_mut(&service("api"));
    let completes = DependencyCondition::ServiceCompletedSuccessfully;
    api.unwrap().depends_on.insert(service("db"), completes);
}

#[tokio::test(start_paused = true)]
async fn up_waits_for_a_running_job_that_others_wait_for() {
    let mut stage = Stage::new(82).await;
    stage.command("db", "sleep 3000; exit 0");
    awaits_completion(&mut stage);
    let began = Instant::now();
    let outcome = stage.up().await.unwrap();
    assert_eq!(outcome.failures, [], "{}", stage.world.transcript());
    assert!(began.elapsed() >= Duration::from_mins(50));
    let services = stage.api().await.services().await.unwrap();
    let instances = services.iter().flat_map(|service| &service.instances);
    for instance in instances {
        let is_job = instance.id == "db-1";
        let expected = if is_job {
            InstanceStateV1::Completed
        } else {
            InstanceStateV1::Ready
        };
        assert_eq!(instance.state, expected, "{instance:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn up_names_the_exit_code_of_a_job_that_fails_after_a_while() {
    let mut stage = Stage::new(83).await;
    stage.command("db", "sleep 60; exit 9");
    awaits_completion(&mut stage);
    let outcome = stage.up().await.unwrap();
    let cause = outcome.first_cause().unwrap();
    assert_eq!(cause.instance, "db-1");
    assert_eq!(cause.why, "its container ended with exit code 9");
}

fn restart(stage: &mut Stage, policy: Option<RestartPolicy>) {
    let db = ServiceName::try_from("db").unwrap();
    stage.declaration.services.get_mut(&db).unwrap().restart = policy;
}

/// The service that waited for the job is already running when the job changes.
#[tokio::test(start_paused = true)]
async fn up_waits_for_a_changed_job() {
    for policy in [None, Some(RestartPolicy::No)] {
        let mut stage = Stage::new(85).await;
        stage.command("db", "exit 0");
        restart(&mut stage, policy);
        awaits_completion(&mut stage);
        assert_eq!(stage.up().await.unwrap().failures, []);
        stage.command("db", "sleep 60; exit 9");
        let outcome = stage.up().await.unwrap();
        let cause = outcome.first_cause().unwrap();
        assert_eq!(cause.instance, "db-1");
        assert!(cause.why.contains("exit code 9"), "{}", cause.why);
    }
}

/// Two runs at once could do the job's work twice, and the old one would hide the end of the new one.
#[tokio::test(start_paused = true)]
async fn a_job_that_changes_while_it_runs_is_stopped_first() {
    for policy in [None, Some(RestartPolicy::No)] {
        let mut stage = Stage::new(86).await;
        stage.command("db", "sleep 3000; exit 0");
        restart(&mut stage, policy);
        awaits_completion(&mut stage);
        drop(tokio::time::timeout(Duration::from_mins(10), stage.up()).await);
        let db = stage
            .names()
            .into_iter()
            .filter(|name| name.contains("-db-1"));
        assert_eq!(db.count(), 1, "{}", stage.world.transcript());
        stage.command("db", "sleep 2; exit 0");
        let outcome = stage.up().await.unwrap();
        assert_eq!(outcome.failures, [], "{}", stage.world.transcript());
        assert_eq!(stage.world.violations(), [], "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn up_does_not_wait_for_ever_for_a_job() {
    let mut stage = Stage::new(84).await;
    stage.command("db", "sleep 1000000");
    awaits_completion(&mut stage);
    let mut options = DriverOptions::default();
    assert_eq!(options.policy.completes_within, Duration::from_hours(24));
    options.policy.completes_within = Duration::from_hours(1);
    stage.managers = SimManagers::new(stage.world.clone(), options);
    let began = Instant::now();
    let outcome = stage.up().await.unwrap();
    let hours = began.elapsed().as_secs() / 3600;
    assert_eq!(hours, 1, "{:?}", outcome.failures);
    let api = { outcome.failures.iter() }.find(|failure| failure.instance == "api-1");
    assert_eq!(api.unwrap().why, "waits for db to complete");
}
