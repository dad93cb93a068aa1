//! A large platform comes up with a bounded amount of work.

use std::time::Duration;

use lifecycle_core::clock::Clock;
use lifecycle_core::model::{DependencyCondition, NodeSpec};
use lifecycle_core::sim::SimWorld;

use crate::platform::{after, empty, named, node, owner};
use crate::stage::Stage;

#[tokio::test(start_paused = true)]
async fn fifty_nodes_with_five_hundred_services_come_up() {
    let began = processor_time();
    let seed = 1;
    let world = SimWorld::new(seed);
    let beginning = world.clock().now();
    let nodes = (1..=50).map(|n| NodeSpec::new(node(&format!("n{n}"))));
    let mut declaration = empty(&owner(1), nodes.collect());
    world.publish_image("worker:1");
    for n in 1..=500 {
        let mut spec = named(&world, &format!("s{n}"), 80);
        spec.source = lifecycle_core::model::ImageSource::Image("worker:1".into());
        if n > 50 {
            let condition = DependencyCondition::ServiceHealthy;
            after(&mut spec, &format!("s{}", n - 50), condition);
        }
        declaration.services.insert(spec.name.clone(), spec);
    }
    let mut stage = Stage::of(seed, world, owner(1), declaration).await;
    stage.start();
    stage.converged().await;
    let took = processor_time().saturating_sub(began);
    let simulated = stage.world.clock().now() - beginning;
    println!("{took:?} for {simulated} of simulated time");
    stage.assert_whole().await;
    assert!(took < Duration::from_mins(1), "{took:?}");
}

/// The processor time of this thread: what else the machine does is not measured.
fn processor_time() -> Duration {
    let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanos = schedule.split_whitespace().next().unwrap();
    Duration::from_nanos(nanos.parse().unwrap())
}
