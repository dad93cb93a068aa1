//! Tests that services can be scaled, stopped and started at run time, that `up` keeps these changes
//! unless the files change the same value, and that each change is made once although a process
//! crashes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use lifecycle_core::Error;
use lifecycle_core::api::wire::{InstanceStateV1, OverrideKindV1};
use lifecycle_core::bootstrap::Outcome;
use lifecycle_core::model::{EventKind, NetworkMode, ServiceName};
use lifecycle_core::platform::OverrideChange;
use lifecycle_core::sim::Edge;

use crate::stage::Stage;

use OverrideChange::{Scale, Start, Stop};

fn service(name: &str) -> ServiceName {
    ServiceName::try_from(name).unwrap()
}

/// Returns a platform that is up, with one replica of `db` and two of `api`.
async fn running(seed: u64) -> Stage {
    let stage = Stage::new(seed).await;
    stage.up().await.unwrap();
    stage
}

async fn change(stage: &Stage, name: &str, change: OverrideChange) -> Result<Outcome, Error> {
    let (bootstrapper, name) = (stage.bootstrapper().await, service(name));
    let changed = bootstrapper.override_service(stage.declaration.id, &name, change);
    let within = tokio::time::timeout(Duration::from_hours(1), changed).await;
    within.unwrap_or_else(|_| panic!("{}", stage.world.transcript()))
}

/// Returns the number of ready replicas of each service. The replicas that are not declared any more
/// must have no container.
async fn ready(stage: &Stage) -> BTreeMap<String, usize> {
    let services = stage.api().await.services().await.unwrap();
    let mut declared = 0;
    let counts = services.iter().map(|service| {
        declared += service.instances.len();
        let instances = service.instances.iter();
        let ready = instances.filter(|one| one.state == InstanceStateV1::Ready);
        (service.name.to_string(), ready.count())
    });
    let counts = counts.collect();
    let instances = stage.names().into_iter();
    let instances = instances.filter(|name| {
        stage
            .declaration
            .services
            .keys()
            .any(|service| name.contains(&format!("-{service}-")))
    });
    assert_eq!(instances.count(), declared, "{:?}", stage.names());
    counts
}

fn counts(db: usize, api: usize) -> BTreeMap<String, usize> {
    BTreeMap::from([
        ("api".to_owned(), api),
        ("db".to_owned(), db),
        ("monitoring".to_owned(), 1),
    ])
}

/// Returns the ids of the overrides in force.
async fn ids(stage: &Stage) -> Vec<String> {
    let overrides = stage.api().await.overrides().await.unwrap();
    overrides.into_iter().map(|one| one.id).collect()
}

#[tokio::test(start_paused = true)]
async fn a_service_is_scaled_stopped_and_started() {
    let stage = running(81).await;
    let outcome = change(&stage, "api", Scale(5)).await.unwrap();
    assert_eq!(outcome.failures, []);
    assert_eq!(ready(&stage).await, counts(1, 5));
    change(&stage, "api", Stop).await.unwrap();
    assert_eq!(ready(&stage).await, counts(1, 0));
    // The number of replicas of a stopped service can be changed.
    change(&stage, "api", Scale(3)).await.unwrap();
    assert_eq!(ready(&stage).await, counts(1, 0));
    assert_eq!(ids(&stage).await, ["api.replicas", "api.stopped"]);
    change(&stage, "api", Start).await.unwrap();
    assert_eq!(ready(&stage).await, counts(1, 3));
    let overrides = stage.api().await.overrides().await.unwrap();
    let kind = OverrideKindV1::Replicas {
        replicas: 3,
        declared: 2,
    };
    assert_eq!(overrides[0].kind, kind);
    let bootstrapper = stage.bootstrapper().await;
    let id = stage.declaration.id;
    bootstrapper
        .remove_override(id, "api.replicas")
        .await
        .unwrap();
    assert_eq!(ready(&stage).await, counts(1, 2));
    assert_eq!(ids(&stage).await, [""; 0]);
    let unknown = bootstrapper.remove_override(id, "api.replicas").await;
    assert!(
        matches!(unknown, Err(Error::NotFound { .. })),
        "{unknown:?}"
    );
    assert_eq!(stage.world.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_change_changes_nothing() {
    let stage = running(82).await;
    let api = stage.api().await;
    let cursor = api.last_event().await.unwrap();
    for change in [Start, Scale(2)] {
        let applied = api.override_service("api", change).await.unwrap();
        assert!(!applied.changed, "{change}");
    }
    for (index, change) in [Stop, Stop, Scale(4), Scale(4)].into_iter().enumerate() {
        let applied = api.override_service("api", change).await.unwrap();
        assert_eq!(applied.changed, index % 2 == 0, "{change}");
    }
    let first = api.overrides().await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    api.override_service("api", Scale(4)).await.unwrap();
    assert_eq!(api.overrides().await.unwrap(), first);
    let events = api.events(cursor).await.unwrap().events.into_iter();
    let audit = events.filter(|event| event.event.kind == EventKind::Audit);
    let audit: Vec<String> = audit.map(|event| event.event.message).collect();
    let who = "the program that runs the manager";
    assert_eq!(
        audit,
        [
            format!("{who}: stop, service api"),
            format!("{who}: scale to 4, service api")
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn up_keeps_changes_unless_the_files_change_the_same_value() {
    let mut stage = running(83).await;
    change(&stage, "api", Scale(3)).await.unwrap();
    change(&stage, "db", Stop).await.unwrap();
    stage.up().await.unwrap();
    assert_eq!(ready(&stage).await, counts(0, 3));
    // Another value of the same services.
    stage.command("api", "echo second; sleep infinity");
    stage.command("db", "echo second; sleep infinity");
    stage.up().await.unwrap();
    assert_eq!(ready(&stage).await, counts(0, 3));
    assert_eq!(ids(&stage).await, ["api.replicas", "db.stopped"]);

    stage
        .declaration
        .services
        .get_mut(&service("api"))
        .unwrap()
        .replicas = 1;
    stage.up().await.unwrap();
    assert_eq!(ready(&stage).await, counts(0, 1));
    assert_eq!(ids(&stage).await, ["db.stopped"]);
    // The plan of unchanged files contains the overrides.
    let plan = stage.api().await.plan(&stage.declaration).await.unwrap();
    assert_eq!(plan.steps, []);

    // The overrides of a service end with its declaration.
    let db = stage.declaration.services.remove(&service("db")).unwrap();
    let api = stage.declaration.services.get_mut(&service("api")).unwrap();
    let depends_on = std::mem::take(&mut api.depends_on);
    stage.up().await.unwrap();
    assert_eq!(ids(&stage).await, [""; 0]);
    let api = stage.declaration.services.get_mut(&service("api")).unwrap();
    api.depends_on = depends_on;
    stage.declaration.services.insert(service("db"), db);
    stage.up().await.unwrap();
    assert_eq!(ready(&stage).await, counts(1, 1));
}

#[tokio::test(start_paused = true)]
async fn services_that_share_a_network_are_changed_together() {
    let mut stage = Stage::new(84).await;
    let monitoring = stage.declaration.services.get_mut(&service("monitoring"));
    let connection = &mut monitoring.unwrap().container.connection;
    connection.mode = NetworkMode::Service(service("db"));
    stage.up().await.unwrap();
    change(&stage, "monitoring", Scale(2)).await.unwrap();
    assert_eq!(ids(&stage).await, ["db.replicas", "monitoring.replicas"]);
    change(&stage, "db", Stop).await.unwrap();
    assert_eq!(ready(&stage).await.values().sum::<usize>(), 2);
    change(&stage, "monitoring", Start).await.unwrap();
    assert_eq!(ready(&stage).await.values().sum::<usize>(), 6);
    assert_eq!(stage.world.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn impossible_changes_are_rejected() {
    let stage = running(85).await;
    let unknown = change(&stage, "apy", Stop).await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound { .. }), "{unknown:?}");
    assert!(unknown.hint().unwrap().contains("`api`"), "{unknown:?}");
    let many = change(&stage, "api", Scale(u16::MAX)).await.unwrap_err();
    assert!(matches!(many, Error::Invalid { .. }), "{many:?}");
    assert_eq!(ids(&stage).await, [""; 0]);
    assert_eq!(ready(&stage).await, counts(1, 2));
}

/// Crashes the manager before and after each effect of a change. The client then repeats the request.
#[tokio::test(start_paused = true)]
async fn a_change_is_made_once_although_the_manager_crashes() {
    for (seed, wanted, expected) in [(86, Scale(4), counts(1, 4)), (87, Stop, counts(1, 0))] {
        let whole = running(seed).await;
        let begin = whole.world.effects().len();
        change(&whole, "api", wanted).await.unwrap();
        let end = whole.world.effects().len();
        assert!(end >= begin + 2, "{}", whole.world.transcript());
        for effect in begin + 1..=end {
            for edge in [Edge::Before, Edge::After] {
                let stage = running(seed).await;
                let number = u64::try_from(effect).unwrap();
                stage.world.faults().crash_at(number, edge);
                tokio::select! {
                    biased;
                    () = stage.world.crashed() => {}
                    ended = change(&stage, "api", wanted) => {
                        panic!("effect {effect} {edge:?} did not occur: {ended:?}");
                    }
                }
                stage.world.next_incarnation();
                let context = || format!("effect {effect} {edge:?}\n{}", stage.world.transcript());
                // The new manager may not lead yet.
                while change(&stage, "api", wanted).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                assert_eq!(ready(&stage).await, expected, "{}", context());
                assert_eq!(ids(&stage).await.len(), 1, "{}", context());
                assert_eq!(stage.world.violations(), [], "{}", context());
            }
        }
    }
}
