//! Tests platforms that store the registry, or parts of it, in databases.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use lifecycle_core::api::wire::NewNodeV1;
use lifecycle_core::error::Error;
use lifecycle_core::model::{EventKind, Kind, NodeName, ServiceClass, ServiceName};
use lifecycle_core::registry::Registry;
use lifecycle_core::secret::Sensitive;

use crate::stage::Stage;

const CENTRAL: &str = "postgres://lifecycle@db/registry";
const OTHER: &str = "postgres://lifecycle@db/another";
const NODES: &str = "postgres://lifecycle@db/nodes";
const SERVICES: &str = "postgres://lifecycle@db/services";

async fn stage(seed: u64) -> Stage {
    let mut stage = Stage::new(seed).await;
    stage.registry.central = Some(Sensitive::new(CENTRAL));
    stage
}

#[tokio::test(start_paused = true)]
async fn managers_endpoint_is_in_the_database_and_a_second_up_changes_nothing() {
    let stage = stage(21).await;
    stage.up().await.unwrap();
    let registry = stage.databases().at(CENTRAL);
    let snapshot = registry.snapshot().await.unwrap();
    let manager = snapshot.manager.unwrap();
    assert_eq!(manager.node, stage.declaration.manager.node);
    assert_eq!(snapshot.instances.len(), 4);
    let before = stage.containers();
    stage.up().await.unwrap();
    assert_eq!(stage.containers(), before);
    assert_eq!(stage.world.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn unreachable_database_is_reported_before_any_change() {
    let stage = stage(22).await;
    stage.databases().set_unavailable(CENTRAL, true);
    let error = stage.up().await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("registry.url"), "{error:?}");
    assert!(
        stage.world.effects().is_empty(),
        "{}",
        stage.world.transcript()
    );
    stage.databases().set_unavailable(CENTRAL, false);
    stage.up().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn another_url_replaces_only_the_manager_and_fills_its_database() {
    let mut stage = stage(23).await;
    stage.up().await.unwrap();
    let before = stage.containers();
    let previous = stage.databases().at(CENTRAL).snapshot().await.unwrap();
    stage.registry.central = Some(Sensitive::new(OTHER));
    stage.up().await.unwrap();
    let after = stage.containers();
    assert_eq!(
        before.intersection(&after).count(),
        6,
        "{before:?} {after:?}"
    );
    assert_eq!(after.len(), 7);
    let now = stage.databases().at(OTHER).snapshot().await.unwrap();
    let instances = |snapshot: &lifecycle_core::registry::Snapshot| -> Vec<_> {
        let records = snapshot.instances.values();
        records
            .map(|v| (v.id.clone(), v.endpoints.clone()))
            .collect()
    };
    assert_eq!(instances(&now), instances(&previous));
    assert!(now.first_round_done);
    assert_eq!(now.manager, previous.manager);
    // Move the registry back to the file on the node.
    stage.registry.central = None;
    stage.up().await.unwrap();
    let file = stage
        .managers
        .registry(&stage.declaration.manager.node)
        .unwrap();
    assert_eq!(
        instances(&file.snapshot().await.unwrap()),
        instances(&previous)
    );
    assert_eq!(stage.containers().len(), 7);
}

/// Adds a service that is like `api`.
fn add_service(stage: &mut Stage, name: &str) {
    let services = &mut stage.declaration.services;
    let mut added = services[&ServiceName::try_from("api").unwrap()].clone();
    added.container.ports.clear();
    services.insert(ServiceName::try_from(name).unwrap(), added);
}

/// Returns the messages about raised epochs.
async fn raised_epochs(stage: &Stage) -> Vec<String> {
    let events = stage.api().await.events(0).await.unwrap().events;
    let raised = events.into_iter().map(|event| event.event);
    let raised = raised.filter(|event| event.kind == EventKind::EpochRaised);
    raised.map(|event| event.message).collect()
}

/// Brings the platform up, and crashes the manager so often that the agents have a later epoch than a
/// new registry.
async fn with_later_epochs(stage: &Stage) {
    for _ in 0..3 {
        stage.up().await.unwrap();
        assert_eq!(raised_epochs(stage).await, [""; 0]);
        stage.world.next_incarnation();
    }
}

/// Adds a service. `up` must end within two minutes. Returns the messages about raised epochs.
async fn up_with_another_service(stage: &mut Stage) -> Vec<String> {
    add_service(stage, "late");
    let up = tokio::time::timeout(Duration::from_mins(2), stage.up()).await;
    let outcome = up.unwrap_or_else(|_| panic!("{}", stage.world.transcript()));
    assert_eq!(outcome.unwrap().failures, []);
    assert_eq!(stage.world.violations(), []);
    raised_epochs(stage).await
}

/// A lost registry starts at the first epoch, but the agents have tables of a later one.
#[tokio::test(start_paused = true)]
async fn names_of_new_services_resolve_after_the_registry_was_lost() {
    let mut stage = stage(26).await;
    with_later_epochs(&stage).await;
    stage.databases().lose(CENTRAL);
    stage.world.next_incarnation();
    let raised = up_with_another_service(&mut stage).await;
    assert!(!raised.is_empty(), "{}", stage.world.transcript());
    assert!(
        raised[0].contains("than this manager (epoch 1)"),
        "{raised:?}"
    );
    assert_eq!(stage.world.violations(), []);
}

/// The registry in another database also starts at the first epoch.
#[tokio::test(start_paused = true)]
async fn names_of_new_services_resolve_after_the_registry_was_replaced() {
    let mut stage = stage(27).await;
    with_later_epochs(&stage).await;
    stage.registry.central = Some(Sensitive::new(OTHER));
    assert!(!up_with_another_service(&mut stage).await.is_empty());
}

/// The files do not declare a node that was added at run time, so that a new registry does not know it.
#[tokio::test(start_paused = true)]
async fn an_added_node_is_kept_after_the_registry_was_lost_or_replaced() {
    let n3 = NodeName::try_from("n3").unwrap();
    for is_lost in [true, false] {
        let mut stage = stage(28).await;
        stage.up().await.unwrap();
        let (bootstrapper, id) = (stage.bootstrapper().await, stage.declaration.id);
        let new = NewNodeV1::new(n3.clone(), None);
        bootstrapper.add_node(id, &new).await.unwrap();
        if is_lost {
            stage.databases().lose(CENTRAL);
            stage.world.next_incarnation();
        } else {
            stage.registry.central = Some(Sensitive::new(OTHER));
        }
        stage.up().await.unwrap();
        tokio::time::sleep(Duration::from_mins(5)).await;
        assert!(
            stage.world.node(&n3).is_some(),
            "{}",
            stage.world.transcript()
        );
        let why = stage.api().await.why("node:n3").await.unwrap();
        assert!(
            why.answer.contains("bootstrapper node remove n3"),
            "{why:?}"
        );
        let bootstrapper = stage.bootstrapper().await;
        bootstrapper.remove_node(id, "n3", false).await.unwrap();
        assert!(stage.world.node(&n3).is_none());
        assert_eq!(stage.world.violations(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn unreachable_database_does_not_delay_up_and_is_updated_later() {
    let mut stage = stage(24).await;
    for (name, service) in &mut stage.declaration.services {
        if name.as_str() == "api" {
            service.class = ServiceClass::Application;
        }
    }
    let urls = [
        (Kind::Nodes, NODES),
        (Kind::Microservices, SERVICES),
        (Kind::Applications, OTHER),
    ];
    stage.registry.kinds = urls.map(|(kind, url)| (kind, Sensitive::new(url))).into();
    stage.databases().set_unavailable(NODES, true);
    stage.up().await.unwrap();
    stage.databases().set_unavailable(NODES, false);
    tokio::time::sleep(std::time::Duration::from_mins(2)).await;
    let at = async |url: &str| stage.databases().at(url).snapshot().await.unwrap();
    let nodes = at(NODES).await;
    assert_eq!((nodes.nodes.len(), nodes.instances.len()), (2, 0));
    let services = at(SERVICES).await;
    assert_eq!((services.nodes.len(), services.instances.len()), (0, 2));
    let applications = at(OTHER).await;
    assert_eq!(applications.instances.len(), 2);
    let of_api = |snapshot: lifecycle_core::registry::Snapshot| {
        snapshot
            .instances
            .into_values()
            .all(|v| v.id.service.as_str() == "api")
    };
    assert!(of_api(applications));

    stage.down().await.unwrap();
    for url in [CENTRAL, SERVICES, OTHER] {
        let end = at(url).await;
        assert!(end.instances.is_empty(), "{url}: {end:?}");
        let (_, declared) = end.declaration.unwrap();
        assert!(declared.services.is_empty(), "{url}: {declared:?}");
    }
    assert_eq!(
        at(NODES).await.nodes.len(),
        1,
        "the manager's own node was not deleted last"
    );
}
