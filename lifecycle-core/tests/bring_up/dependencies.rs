//! Tests what is reported about a service whose dependency has failed.

use lifecycle_core::model::{DependencyCondition, ServiceName};

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
