//! Tests volumes that vanish from their node.

use std::time::Duration;

use lifecycle_core::cloud::CloudProvider as _;
use lifecycle_core::host::{NodeConnector as _, NodeHandle};
use lifecycle_core::model::{Constraint, ConstraintOperator, EventKind, InstanceState, VolumeName};
use lifecycle_core::reconcile::{RetryOptions, Round};
use lifecycle_core::runtime::Role;
use lifecycle_core::sim::SimOptions;

use crate::platform::{instance, node, service};
use crate::stage::Stage;

const RECREATE: RetryOptions = RetryOptions {
    recreate_volumes: true,
};

fn data() -> VolumeName {
    VolumeName::try_from("data").unwrap()
}

/// Returns the node on which a service was started.
async fn home(stage: &Stage, service: &str) -> NodeHandle {
    let node = stage.records().await[&instance(service, 1)].node.clone();
    let cloud = stage.world.cloud(&stage.owner);
    let machine = cloud.get(&node).await.unwrap().unwrap();
    let connector = stage.world.connector(&stage.owner);
    connector.connect(&machine).await.unwrap()
}

/// Keeps a service on a node.
fn pin(stage: &mut Stage, name: &str, node: &str) {
    let spec = stage.declaration.services.get_mut(&service(name)).unwrap();
    spec.constraints.push(Constraint {
        key: "node.hostname".to_owned(),
        operator: ConstraintOperator::Equal,
        value: node.to_owned(),
    });
}

/// Removes the container of the database and its volume while no manager runs.
async fn remove_database(stage: &mut Stage) {
    stage.crash().await;
    let (_, container) = stage.place(&instance("db", 1));
    let runtime = home(stage, "db").await.runtime;
    runtime.remove_container(&container.name).await.unwrap();
    runtime.remove_volume(&data()).await.unwrap();
    stage.start();
    let limit = Duration::from_mins(10);
    let is_held = |round: &Round| round.settled && round.input.is_some();
    stage.until("the database is held", limit, is_held).await;
}

async fn has_volume(stage: &Stage) -> bool {
    let found = home(stage, "db").await.runtime.state().await.unwrap();
    found.volumes.contains(&data())
}

fn has_database(stage: &Stage) -> bool {
    let mut containers = stage.containers().into_iter();
    containers.any(|(_, c)| c.role == Role::Instance(instance("db", 1)))
}

#[tokio::test(start_paused = true)]
async fn a_vanished_volume_holds_its_replica_until_it_is_recreated() {
    let mut stage = Stage::shop(91).await;
    stage.settled().await;
    let (cursor, node) = (stage.last_event().await, stage.place(&instance("db", 1)).0);
    remove_database(&mut stage).await;
    stage.pass(Duration::from_mins(10)).await;
    assert!(!has_database(&stage) && !has_volume(&stage).await);
    let record = &stage.records().await[&instance("db", 1)];
    assert_eq!(record.node, node);
    let events = stage.events(EventKind::VolumeVanished, cursor).await;
    assert_eq!(events.len(), 1, "{events:#?}");
    assert!(events[0].message.contains("volume data"), "{events:#?}");
    let round = stage.manager.round();
    let InstanceState::Failed { why } = &round.plan.instances[&instance("db", 1)].state else {
        panic!("{round:#?}");
    };
    let expected = format!(
        "its volume data no longer exists on {node}; to start with an empty one, run `bootstrapper \
         retry db --recreate-volume`, then restore its data from a backup"
    );
    assert_eq!(*why, expected);

    // Only the services that use the volume can allow a new one, and only on request.
    for (name, options) in [("web", RECREATE), ("db", RetryOptions::default())] {
        stage.manager.retry(name, options).await.unwrap();
        stage.pass(Duration::from_mins(2)).await;
        assert!(!has_database(&stage), "{name}");
    }
    let retried = stage.manager.retry("db", RECREATE).await.unwrap();
    assert!(
        retried.contains(&format!("allow an empty volume data on {node}")),
        "{retried:?}"
    );
    stage.settled().await;
    stage.assert_whole().await;
    assert!(has_volume(&stage).await);
    // The new volume is watched, too.
    remove_database(&mut stage).await;
    assert!(!has_database(&stage));
}

/// The volume vanishes after the start of the new container was planned, so the manager has not observed
/// this yet.
#[tokio::test(start_paused = true)]
async fn a_volume_that_vanishes_while_its_replica_starts_is_not_recreated() {
    let stage = Stage::shop(95).await;
    stage.settled().await;
    let (node, container) = stage.place(&instance("db", 1));
    let runtime = home(&stage, "db").await.runtime;
    let faults = stage.world.faults();
    faults.remove_container(&node, &container.name).unwrap();
    let limit = Duration::from_mins(1);
    let starts = |round: &Round| {
        let mut running = round.running.iter();
        running.any(|step| step.what.starts_with("start db-1"))
    };
    stage.until("the database starts", limit, starts).await;
    runtime.remove_volume(&data()).await.unwrap();
    stage.pass(Duration::from_mins(10)).await;
    assert!(!has_database(&stage) && !has_volume(&stage).await);
    let round = stage.manager.round();
    let found = &round.plan.instances[&instance("db", 1)].state;
    let is_held =
        matches!(found, InstanceState::Failed { why } if why.contains("no longer exists"));
    assert!(is_held, "{found:?}");
    stage.manager.retry("db", RECREATE).await.unwrap();
    stage.settled().await;
    stage.assert_whole().await;
}

#[tokio::test(start_paused = true)]
async fn a_restored_volume_ends_the_hold() {
    let mut stage = Stage::shop(92).await;
    stage.settled().await;
    let node = stage.place(&instance("db", 1)).0;
    let volumes = stage.registry.snapshot().await.unwrap().volumes;
    assert_eq!(volumes.len(), 1, "{volumes:?}");
    remove_database(&mut stage).await;
    let cursor = stage.last_event().await;
    stage
        .world
        .faults()
        .add_volume(&node, &stage.owner, &data())
        .unwrap();
    stage
        .manager
        .retry("db", RetryOptions::default())
        .await
        .unwrap();
    stage.settled().await;
    stage.assert_whole().await;
    assert_eq!(stage.place(&instance("db", 1)).0, node);
    assert_eq!(stage.events(EventKind::VolumeFound, cursor).await.len(), 1);
    let records = stage.registry.snapshot().await.unwrap().volumes;
    assert_eq!(records, volumes);
}

#[tokio::test(start_paused = true)]
async fn a_removed_volume_that_no_replica_uses_is_forgotten() {
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(94)).await;
    let mut copy = stage.declaration.services[&service("db")].clone();
    pin(&mut stage, "db", "n1");
    // A service with a single replica would be bound to the existing volume.
    (copy.name, copy.replicas) = (service("copy"), 2);
    stage.declaration.services.insert(service("copy"), copy);
    pin(&mut stage, "copy", "n2");
    stage.start();
    stage.settled().await;
    let handle = home(&stage, "copy").await;
    let mut without = stage.declaration.clone();
    without.services.remove(&service("copy"));
    stage.manager.apply(without).await.unwrap();
    stage.settled().await;
    let cursor = stage.last_event().await;
    handle.runtime.remove_volume(&data()).await.unwrap();
    stage.pass(Duration::from_mins(10)).await;
    stage
        .manager
        .apply(stage.declaration.clone())
        .await
        .unwrap();
    stage.settled().await;
    stage.assert_whole().await;
    let reported = stage.events(EventKind::VolumeVanished, cursor).await;
    assert!(reported.is_empty(), "{reported:#?}");
}

#[tokio::test(start_paused = true)]
async fn the_volumes_of_a_destroyed_node_hold_nothing() {
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(93)).await;
    let node = node("n2");
    pin(&mut stage, "db", "n2");
    stage.start();
    stage.settled().await;
    stage.world.faults().destroy(&node).unwrap();
    stage.pass(Duration::from_mins(1)).await;
    stage.settled().await;
    stage.assert_whole().await;
}
