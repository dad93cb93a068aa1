//! Tests services that are published at one of several host ports.

use std::collections::BTreeMap;

use lifecycle_core::model::{NodeSpec, PortChoice, Protocol, PublishedPort};
use lifecycle_core::secret::Sensitive;
use lifecycle_core::sim::SimWorld;

use crate::platform::{empty, named, node, owner, service};
use crate::stage::Stage;

/// Returns the host ports of each replica of `web` in the registry.
async fn ports(stage: &Stage) -> BTreeMap<u16, Vec<u16>> {
    let records = stage.records().await.into_values();
    let web = records.filter(|record| record.id.service == service("web"));
    web.map(|record| {
        let endpoints = record.endpoints.iter().map(|endpoint| endpoint.port);
        (record.id.replica.0, endpoints.collect())
    })
    .collect()
}

fn expected(ports: [u16; 3]) -> BTreeMap<u16, Vec<u16>> {
    (1..).zip(ports.map(|port| vec![port])).collect()
}

#[tokio::test(start_paused = true)]
async fn each_replica_gets_and_keeps_a_port_of_the_range() {
    let world = SimWorld::new(1);
    let mut declaration = empty(&owner(1), vec![NodeSpec::new(node("n1"))]);
    let mut web = named(&world, "web", 80);
    web.replicas = 3;
    web.container.port_choices = vec![PortChoice {
        candidates: vec![8000, 8001, 8002],
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
    }];
    declaration.services.insert(web.name.clone(), web.clone());
    let mut stage = Stage::of(1, world, owner(1), declaration).await;
    stage.use_agents();
    stage.start();
    stage.settled().await;
    assert_eq!(ports(&stage).await, expected([8000, 8001, 8002]));

    stage.crash().await;
    stage.start();
    stage.settled().await;
    assert_eq!(ports(&stage).await, expected([8000, 8001, 8002]));

    // All ports of the range are in use, so the new containers get those of the old ones.
    let variable = ("A".to_owned(), Sensitive::new("1"));
    web.container.environment = [variable].into();
    stage
        .declaration
        .services
        .insert(web.name.clone(), web.clone());
    stage
        .manager
        .apply(stage.declaration.clone())
        .await
        .unwrap();
    stage.settled().await;
    assert_eq!(ports(&stage).await, expected([8000, 8001, 8002]));

    // Another service declares one of the ports, so the range no longer contains it.
    web.container.port_choices[0].candidates = vec![8000, 8002, 8003];
    let mut fixed = named(&stage.world, "fixed", 81);
    fixed.container.ports = vec![PublishedPort {
        host_port: Some(8001),
        container_port: 81,
        protocol: Protocol::Tcp,
        host_ip: None,
    }];
    for spec in [web, fixed] {
        stage.declaration.services.insert(spec.name.clone(), spec);
    }
    stage
        .manager
        .apply(stage.declaration.clone())
        .await
        .unwrap();
    stage.settled().await;
    let mut all: Vec<u16> = ports(&stage).await.into_values().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, [8000, 8002, 8003]);
    let records = stage.records().await;
    let mut fixed = records
        .values()
        .filter(|record| record.id.service == service("fixed"));
    assert_eq!(fixed.next().unwrap().endpoints[0].port, 8001);
}

#[tokio::test(start_paused = true)]
async fn a_node_runs_at_most_as_many_replicas_as_the_range_has_ports() {
    let world = SimWorld::new(2);
    let nodes = ["n1", "n2"].map(|name| NodeSpec::new(node(name)));
    let mut declaration = empty(&owner(1), nodes.to_vec());
    let mut web = named(&world, "web", 80);
    web.replicas = 5;
    web.container.port_choices = vec![PortChoice {
        candidates: vec![8000, 8001],
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
    }];
    declaration.services.insert(web.name.clone(), web);
    let mut stage = Stage::of(2, world, owner(1), declaration).await;
    stage.start();
    let limit = std::time::Duration::from_hours(1);
    let held = stage
        .until("four replicas run", limit, |round| {
            let plan = &round.plan;
            let has_four = stage.containers().len() == 4;
            has_four && round.running.is_empty() && plan.steps.is_empty() && plan.held.len() == 1
        })
        .await;
    let held = format!("{:?}", held.plan.held);
    assert!(held.contains("use all ports from 8000 to 8001"), "{held}");
}
