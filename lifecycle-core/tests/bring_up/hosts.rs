//! Tests platforms on machines that exist already.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use lifecycle_core::model::NodeName;
use lifecycle_core::platform::{CloudSpec, HostPlace, HostSpec, HostsSpec, Membership};
use lifecycle_core::runtime::Role;

use crate::stage::Stage;

async fn stage(seed: u64) -> Stage {
    let mut stage = Stage::new(seed).await;
    let host = |name: &NodeName| HostSpec {
        place: HostPlace::Address {
            address: format!("{name}.example"),
            private_address: None,
        },
        port: 22,
        user: "ops".into(),
        host_keys: Vec::new(),
        membership: Membership::New,
        id: None,
    };
    let nodes = stage.declaration.nodes.values();
    let hosts: BTreeMap<_, _> = nodes
        .map(|spec| {
            stage.world.add_machine(spec);
            (spec.name.clone(), host(&spec.name))
        })
        .collect();
    stage.declaration.cloud = CloudSpec::Hosts(HostsSpec { hosts });
    stage
}

/// Returns the platform's machines in the cloud.
async fn machines(stage: &Stage) -> Vec<String> {
    let cloud = stage.bootstrapper().await.backends.cloud;
    let listed = cloud.list().await.unwrap();
    assert!(listed.iter().all(|machine| !machine.created), "{listed:?}");
    listed
        .iter()
        .map(|machine| machine.name.to_string())
        .collect()
}

/// Continues from the previous `up`, as each command does.
async fn continue_from_previous(stage: &mut Stage) {
    let placed = stage.bootstrapper().await.state.placement().await.unwrap();
    stage
        .declaration
        .cloud
        .continue_from(&placed.unwrap().cloud);
}

#[tokio::test(start_paused = true)]
async fn machines_are_taken_over_and_released() {
    let mut stage = stage(60).await;
    let outcome = stage.up().await.unwrap();
    assert_eq!(outcome.failures, [], "{}", stage.world.transcript());
    assert_eq!(machines(&stage).await, ["n1", "n2"]);
    continue_from_previous(&mut stage).await;
    let n2 = NodeName::try_from("n2").unwrap();
    let host = stage.declaration.cloud.host(&n2).unwrap();
    assert_eq!(host.membership, Membership::Member);
    assert!(!host.host_keys.is_empty(), "the host key is pinned");

    // A machine that is no longer declared is released, after nothing is left on it.
    stage.drop_node("n2");
    if let CloudSpec::Hosts(spec) = &mut stage.declaration.cloud {
        spec.hosts.remove(&n2);
    }
    continue_from_previous(&mut stage).await;
    let removals = stage.removed_by_up().await;
    assert_eq!(removals.len(), 1, "{removals:?}");
    let outcome = stage.up().await.unwrap();
    assert_eq!(outcome.failures, [], "{}", stage.world.transcript());
    assert_eq!(machines(&stage).await, ["n1"]);
    assert_eq!(stage.world.containers(&n2), []);

    // The next `up` no longer knows the released machine.
    if let CloudSpec::Hosts(spec) = &mut stage.declaration.cloud {
        spec.hosts.remove(&n2);
    }
    continue_from_previous(&mut stage).await;
    assert!(stage.declaration.cloud.host(&n2).is_none());

    stage.down().await.unwrap();
    assert_eq!(machines(&stage).await, [""; 0]);
    let left = stage.leftovers();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn down_removes_everything_if_the_manager_does_not_respond() {
    let stage = stage(61).await;
    stage.up().await.unwrap();
    let node = &stage.declaration.manager.node;
    let containers = stage.world.containers(node).into_iter();
    let manager = { containers }
        .find(|one| one.role == Role::Manager)
        .unwrap();
    let faults = stage.world.faults();
    faults.remove_container(node, &manager.name).unwrap();
    stage.down().await.unwrap();
    assert_eq!(machines(&stage).await, [""; 0]);
    let left = stage.leftovers();
    assert!(left.is_empty(), "{left:?}");
}
