//! Tests restarts of services. Each container must be restarted only once, even if the request is
//! repeated or a process crashes.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lifecycle_core::api::wire::{InstanceStateV1, InstanceV1, OperationStateV1, RestartV1};
use lifecycle_core::model::{InstanceId, Replica, ServiceName};
use lifecycle_core::sim::{Edge, EffectOutcome};

use crate::stage::Stage;

async fn instances(stage: &Stage, service: &str) -> Vec<InstanceV1> {
    let services = stage.api().await.services().await.unwrap();
    let found = services.into_iter().find(|s| s.name.as_str() == service);
    found.unwrap().instances
}

fn ids(instances: &[InstanceV1]) -> Vec<&Option<String>> {
    instances.iter().map(|i| &i.container).collect()
}

fn runs(instances: &[InstanceV1]) -> BTreeMap<InstanceId, DateTime<Utc>> {
    let run = |instance: &InstanceV1| {
        let (service, _) = instance.id.rsplit_once('-').unwrap();
        let id = InstanceId {
            service: ServiceName::try_from(service).unwrap(),
            replica: Replica(instance.replica),
        };
        (id, instance.started_at.unwrap())
    };
    instances.iter().map(run).collect()
}

/// Returns how many containers of a service were started after the first `since` effects.
fn starts(stage: &Stage, service: &str, since: usize) -> usize {
    let effects = stage.world.effects();
    let is_start = |what: &str| what.starts_with("start ") || what.starts_with("ensure ");
    let mut new = effects[since..].iter().filter(|effect| {
        effect.outcome == EffectOutcome::Changed
            && is_start(&effect.what)
            && effect.what.contains(&format!("-{service}-"))
    });
    new.by_ref().count()
}

#[tokio::test(start_paused = true)]
async fn restart_keeps_containers_and_is_rolling() {
    let stage = Stage::new(11).await;
    stage.up().await.unwrap();
    let before = instances(&stage, "api").await;
    let db = instances(&stage, "db").await;
    let effects = stage.world.effects().len();
    let restarted = stage.restart("api").await.unwrap();
    assert_eq!(restarted, ["api-1", "api-2"]);
    let after = instances(&stage, "api").await;
    assert_eq!(ids(&after), ids(&before), "a container was replaced");
    assert_eq!(
        starts(&stage, "api", effects),
        2,
        "{}",
        stage.world.transcript()
    );
    for (old, new) in before.iter().zip(&after) {
        assert!(new.started_at > old.started_at, "{new:?}");
        assert_eq!(new.state, InstanceStateV1::Ready);
    }
    assert!(after[0].ready_at <= after[1].started_at, "{after:?}");
    assert_eq!(instances(&stage, "db").await, db);
    assert_eq!(stage.world.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn one_replica_can_be_restarted() {
    let stage = Stage::new(12).await;
    stage.up().await.unwrap();
    let before = instances(&stage, "api").await;
    assert_eq!(stage.restart("api-2").await.unwrap(), ["api-2"]);
    let after = instances(&stage, "api").await;
    assert_eq!(after[0], before[0]);
    assert!(after[1].started_at > before[1].started_at);
}

#[tokio::test(start_paused = true)]
async fn repeated_request_restarts_once() {
    let stage = Stage::new(13).await;
    stage.up().await.unwrap();
    let replaces = runs(&instances(&stage, "db").await);
    let effects = stage.world.effects().len();
    let api = stage.api().await;
    let request = || Some(RestartV1::replacing(replaces.clone()));
    let first = api.restart("db", request()).await.unwrap();
    let again = api.restart("db", request()).await.unwrap();
    assert_eq!(first.id, again.id);
    ends(&stage, first.id()).await;
    let late = api.restart("db", request()).await.unwrap();
    assert_eq!(
        late.state,
        OperationStateV1::Succeeded,
        "the run that this request replaces has already been replaced"
    );
    assert_eq!(starts(&stage, "db", effects), 1);
}

#[tokio::test(start_paused = true)]
async fn undeclared_services_cannot_be_restarted() {
    let stage = Stage::new(14).await;
    stage.up().await.unwrap();
    let error = stage.restart("apy").await.unwrap_err();
    assert_eq!(error.hint(), Some("did you mean `api`?"), "{error}");
    let error = stage.api().await.restart("api-3", None).await.unwrap_err();
    assert_eq!(error.to_string(), "service or replica api-3 does not exist");
}

/// Waits until an operation ends.
async fn ends(stage: &Stage, id: lifecycle_core::model::OperationId) {
    let wait = async {
        while stage.api().await.operation(id).await.unwrap().state == OperationStateV1::Running {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(10), wait)
        .await
        .unwrap_or_else(|_| panic!("{}", stage.world.transcript()));
    let operation = stage.api().await.operation(id).await.unwrap();
    assert_eq!(
        operation.state,
        OperationStateV1::Succeeded,
        "{operation:?}"
    );
}

/// Crashes the manager before and after each effect of a restart. The client then repeats the
/// request.
#[tokio::test(start_paused = true)]
async fn restart_continues_after_a_crash_at_any_effect() {
    let whole = Stage::new(15).await;
    whole.up().await.unwrap();
    let first = whole.world.effects().len();
    whole.restart("api").await.unwrap();
    let last = whole.world.effects().len();
    assert!(last >= first + 4, "{}", whole.world.transcript());
    for effect in first + 1..=last {
        for edge in [Edge::Before, Edge::After] {
            let stage = Stage::new(15).await;
            stage.up().await.unwrap();
            let before = instances(&stage, "api").await;
            let replaces = runs(&before);
            let begun = stage.world.effects().len();
            let effect_number = u64::try_from(effect).unwrap();
            stage.world.faults().crash_at(effect_number, edge);
            let api = stage.api().await;
            let request = || Some(RestartV1::replacing(replaces.clone()));
            tokio::select! {
                biased;
                () = stage.world.crashed() => {}
                () = async {
                    drop(api.restart("api", request()).await);
                    std::future::pending::<()>().await;
                } => {}
            }
            stage.world.next_incarnation();
            let context = || format!("effect {effect} {edge:?}\n{}", stage.world.transcript());
            let operation = loop {
                match stage.api().await.restart("api", request()).await {
                    Ok(operation) => break operation,
                    // The new manager is not the leader yet.
                    Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                }
            };
            ends(&stage, operation.id()).await;
            let after = instances(&stage, "api").await;
            assert_eq!(ids(&after), ids(&before), "{}", context());
            assert!(
                after.iter().all(|i| i.state == InstanceStateV1::Ready),
                "{after:#?}
{operation:#?}
{}",
                context()
            );
            assert_eq!(starts(&stage, "api", begun), 2, "{}", context());
            assert_eq!(stage.world.violations(), [], "{}", context());
        }
    }
}
