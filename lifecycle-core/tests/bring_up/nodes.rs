//! Tests which nodes are created before the manager starts.

use std::time::Duration;

use lifecycle_core::Error;
use lifecycle_core::model::NodeName;
use lifecycle_core::runtime::Role;

use crate::stage::Stage;

/// The call that creates the second node.
const CREATE: &str = "n2: provision";

/// Returns the position of the first effect on a node after `from`.
fn position(stage: &Stage, from: usize, node: &str, what: &str) -> Option<usize> {
    stage.world.effects().iter().skip(from).position(|effect| {
        let on = effect.node.as_ref().map(NodeName::as_str);
        on == Some(node) && effect.what.contains(what)
    })
}

#[tokio::test(start_paused = true)]
async fn the_nodes_of_a_new_platform_are_created_together() {
    let stage = Stage::new(40).await;
    stage.up().await.unwrap();
    let created = position(&stage, 0, "n2", "provision");
    let built = position(&stage, 0, "n1", "lifecycle-manager");
    assert!(created.is_some(), "{}", stage.world.transcript());
    assert!(created < built, "{}", stage.world.transcript());
}

#[tokio::test(start_paused = true)]
async fn the_manager_starts_although_another_node_cannot_be_created() {
    let stage = Stage::new(41).await;
    let faults = stage.world.faults();
    for _ in 0..50 {
        faults.fail_next(CREATE, Error::failed("creating the machine", "no capacity"));
    }
    let outcome = stage.up().await.unwrap();
    assert!(!outcome.failures.is_empty(), "{outcome:?}");
    faults.repair(CREATE);
    let outcome = stage.up().await.unwrap();
    assert_eq!(outcome.failures, [], "{}", stage.world.transcript());
}

#[tokio::test(start_paused = true)]
async fn only_the_manager_creates_other_nodes_of_an_existing_platform() {
    let stage = Stage::new(42).await;
    stage.up().await.unwrap();
    let (first, second) = (
        stage.declaration.manager.node.clone(),
        NodeName::try_from("n2").unwrap(),
    );
    let containers = stage.world.containers(&first).into_iter();
    let manager = containers.map(|one| (one.role, one.name));
    let (_, manager) = { manager }
        .find(|(role, _)| *role == Role::Manager)
        .unwrap();
    let faults = stage.world.faults();
    faults.remove_container(&first, &manager).unwrap();
    // The manager must not notice that the node is gone.
    tokio::time::sleep(Duration::from_secs(1)).await;
    faults.destroy(&second).unwrap();
    let before = stage.world.effects().len();
    let outcome = stage.up().await.unwrap();
    assert_eq!(outcome.failures, [], "{}", stage.world.transcript());
    let started = position(&stage, before, "n1", "lifecycle-manager");
    let created = position(&stage, before, "n2", "provision");
    assert!(started.is_some(), "{}", stage.world.transcript());
    assert!(started < created, "{}", stage.world.transcript());
}
