//! Tests platforms that store the registry, or parts of it, in databases.

use lifecycle_core::error::Error;
use lifecycle_core::model::Kind;
use lifecycle_core::model::ServiceClass;
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
