//! Tests larger platforms with chains of dependencies.

use lifecycle_core::model::{DependencyCondition, NodeSpec};
use lifecycle_core::sim::SimWorld;

use crate::metrics::sum;
use crate::platform::{after, empty, named, node, owner};
use crate::stage::Stage;

/// Checks that a large platform starts. It has `nodes` nodes and ten times as many services. The
/// services form chains of ten, in which each service depends on the previous one.
async fn assert_starts(nodes: u32) {
    let seed = 1;
    let world = SimWorld::new(seed);
    let specs = (1..=nodes).map(|n| NodeSpec::new(node(&format!("n{n}"))));
    let mut declaration = empty(&owner(1), specs.collect());
    world.publish_image("worker:1");
    for n in 1..=nodes * 10 {
        let mut spec = named(&world, &format!("s{n}"), 80);
        spec.source = lifecycle_core::model::ImageSource::Image("worker:1".into());
        if n > nodes {
            let condition = DependencyCondition::ServiceHealthy;
            after(&mut spec, &format!("s{}", n - nodes), condition);
        }
        declaration.services.insert(spec.name.clone(), spec);
    }
    let mut stage = Stage::of(seed, world, owner(1), declaration).await;
    stage.start();
    stage.settled().await;
    stage.assert_whole().await;
    let ready = sum(&stage.manager, "lifecycle_service_ready_replicas");
    assert_eq!(ready, u64::from(nodes * 10));
}

#[tokio::test(start_paused = true)]
async fn thirty_nodes_with_three_hundred_services() {
    assert_starts(30).await;
}

#[tokio::test(start_paused = true)]
async fn two_hundred_nodes_with_two_thousand_services() {
    assert_starts(200).await;
}
