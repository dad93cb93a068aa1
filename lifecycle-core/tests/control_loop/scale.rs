//! A larger platform, in rows that wait for each other, comes up whole.

use lifecycle_core::model::{DependencyCondition, NodeSpec};
use lifecycle_core::sim::SimWorld;

use crate::platform::{after, empty, named, node, owner};
use crate::stage::Stage;

#[tokio::test(start_paused = true)]
async fn thirty_nodes_with_three_hundred_services_come_up() {
    let seed = 1;
    let world = SimWorld::new(seed);
    let nodes = (1..=30).map(|n| NodeSpec::new(node(&format!("n{n}"))));
    let mut declaration = empty(&owner(1), nodes.collect());
    world.publish_image("worker:1");
    for n in 1..=300 {
        let mut spec = named(&world, &format!("s{n}"), 80);
        spec.source = lifecycle_core::model::ImageSource::Image("worker:1".into());
        if n > 30 {
            let condition = DependencyCondition::ServiceHealthy;
            after(&mut spec, &format!("s{}", n - 30), condition);
        }
        declaration.services.insert(spec.name.clone(), spec);
    }
    let mut stage = Stage::of(seed, world, owner(1), declaration).await;
    stage.start();
    stage.converged().await;
    stage.assert_whole().await;
}
