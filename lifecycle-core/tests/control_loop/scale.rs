//! A large platform comes up in bounded real time.

use std::time::{Duration, Instant};

use lifecycle_core::model::{DependencyCondition, NodeSpec};
use lifecycle_core::sim::SimWorld;

use crate::platform::{after, empty, named, node, owner};
use crate::stage::Stage;

#[tokio::test(start_paused = true)]
async fn two_hundred_nodes_with_two_thousand_services_come_up() {
    let began = Instant::now();
    let seed = 1;
    let world = SimWorld::new(seed);
    let nodes = (1..=200).map(|n| NodeSpec::new(node(&format!("n{n}"))));
    let mut declaration = empty(&owner(1), nodes.collect());
    world.publish_image("worker:1");
    for n in 1..=2000 {
        let mut spec = named(&world, &format!("s{n}"), 80);
        spec.source = lifecycle_core::model::ImageSource::Image("worker:1".into());
        if n > 200 {
            let condition = DependencyCondition::ServiceHealthy;
            after(&mut spec, &format!("s{}", n - 200), condition);
        }
        declaration.services.insert(spec.name.clone(), spec);
    }
    let mut stage = Stage::of(seed, world, owner(1), declaration).await;
    stage.start();
    stage.converged().await;
    stage.assert_whole().await;
    let took = began.elapsed();
    println!(
        "{took:?} for {} of simulated time",
        humantime::format_duration(Duration::from_secs(
            u64::try_from(
                (lifecycle_core::clock::Clock::now(&stage.world.clock())
                    - chrono::DateTime::from_timestamp(1_767_225_600, 0).unwrap())
                .num_seconds()
            )
            .unwrap()
        ))
    );
    assert!(took < Duration::from_secs(30), "{took:?}");
}
