//! Tests the agents' tables and the agents themselves. An agent must know every name before a
//! service starts on its node, and must receive the services' endpoints. A lost agent must be
//! replaced.

use std::collections::BTreeSet;
use std::time::Duration;

use lifecycle_core::cloud::Power;
use lifecycle_core::model::{NodeName, ServiceName};
use lifecycle_core::network::Table;
use lifecycle_core::runtime::Role;
use lifecycle_core::sim::SimOptions;

use crate::stage::Stage;

async fn stage(seed: u64) -> Stage {
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(seed)).await;
    stage.use_agents();
    stage.start();
    stage
}

fn table(stage: &Stage, node: &NodeName) -> Table {
    let table = stage.world.agent_table(node);
    table.unwrap_or_else(|| panic!("seed {}: the agent of {node} has no table", stage.seed))
}

/// Waits until all agents have the same table. Returns the table.
async fn agents_table(stage: &Stage) -> Table {
    agents_table_when(stage, |_| true).await
}

/// Waits until all agents have the same table and the table meets a condition. Returns the table.
async fn agents_table_when(stage: &Stage, condition: impl Fn(&Table) -> bool) -> Table {
    let nodes: Vec<&NodeName> = stage.declaration.nodes.keys().collect();
    let looks = async {
        loop {
            let tables: Vec<Table> = nodes.iter().map(|node| table(stage, node)).collect();
            if tables.windows(2).all(|pair| pair[0] == pair[1]) && condition(&tables[0]) {
                return tables[0].clone();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(5), looks)
        .await
        .unwrap_or_else(|_| {
            panic!(
                "seed {}: the agents do not have the expected table",
                stage.seed
            )
        })
}

fn ready(table: &Table, service: &str) -> usize {
    let service = ServiceName::try_from(service).unwrap();
    table.services[&service]
        .backends
        .iter()
        .filter(|backend| !backend.draining)
        .count()
}

#[tokio::test(start_paused = true)]
async fn every_node_knows_every_name_and_its_endpoints() {
    let stage = stage(61).await;
    stage.settled().await;
    let table = agents_table_when(&stage, |table| ready(table, "monitoring") == 1).await;
    let named: BTreeSet<&ServiceName> = table.services.keys().collect();
    let declared: BTreeSet<&ServiceName> = stage.declaration.services.keys().collect();
    assert_eq!(named, declared);
    let addresses: BTreeSet<_> = table.services.values().map(|s| s.address).collect();
    assert_eq!(addresses.len(), named.len());
    for (id, record) in stage.records().await {
        let entry = &table.services[&id.service];
        let backends: BTreeSet<_> = entry
            .backends
            .iter()
            .filter(|backend| backend.instance == id)
            .flat_map(|backend| backend.endpoints.values())
            .collect();
        let published: BTreeSet<_> = record
            .endpoints
            .iter()
            .map(|e| std::net::SocketAddr::new(e.ip, e.port))
            .collect();
        let service = &stage.declaration.services[&id.service];
        let host_ports: Vec<u16> = service
            .container
            .ports
            .iter()
            .filter_map(|port| port.host_port)
            .collect();
        if host_ports.is_empty() {
            assert_eq!(backends, published.iter().collect(), "{id}");
        } else {
            // Users get the declared host port; agents use another, which is never redirected.
            assert!(
                published.iter().all(|at| host_ports.contains(&at.port())),
                "{id}"
            );
            assert!(
                backends.iter().all(|at| !host_ports.contains(&at.port())),
                "{id}"
            );
            assert_eq!(backends.len(), published.len(), "{id}");
        }
    }
    assert!(stage.world.violations().is_empty());
}

#[tokio::test(start_paused = true)]
async fn stopped_replicas_leave_all_tables_and_return() {
    let stage = stage(62).await;
    stage.settled().await;
    let before = agents_table(&stage).await;
    let id = stage
        .declaration
        .services
        .keys()
        .find(|name| ready(&before, name.as_str()) > 0)
        .unwrap()
        .clone();
    let count = ready(&before, id.as_str());
    let (node, container) = stage.place(&before.services[&id].backends[0].instance);
    stage
        .world
        .faults()
        .kill_container(&node, &container.name, 1)
        .unwrap();
    let during = agents_table_when(&stage, |table| ready(table, id.as_str()) == count - 1).await;
    let after = agents_table_when(&stage, |table| ready(table, id.as_str()) == count).await;
    assert!(before.version < during.version && during.version < after.version);
}

#[tokio::test(start_paused = true)]
async fn takeover_keeps_addresses_and_raises_table_versions() {
    let mut stage = stage(63).await;
    stage.settled().await;
    let before = agents_table(&stage).await;
    let agents = |stage: &Stage| {
        let containers = stage.containers().into_iter();
        let agents = containers.filter(|(_, c)| c.role == Role::Agent);
        agents.map(|(_, c)| c.id).collect::<BTreeSet<_>>()
    };
    let previous = agents(&stage);
    stage.crash().await;
    stage.start();
    stage.settled().await;
    let after = agents_table(&stage).await;
    assert!(before.epoch < after.epoch);
    for (name, service) in &before.services {
        assert_eq!(after.services[name].address, service.address, "{name}");
    }
    assert_eq!(agents(&stage), previous, "the takeover replaced an agent");
}

#[tokio::test(start_paused = true)]
async fn removed_agent_is_created_again_with_its_table() {
    let stage = stage(64).await;
    stage.settled().await;
    let (node, agent) = stage
        .containers()
        .into_iter()
        .find(|(_, c)| c.role == Role::Agent)
        .unwrap();
    assert_eq!(stage.world.node(&node).unwrap().power, Power::Running);
    stage
        .world
        .faults()
        .remove_container(&node, &agent.name)
        .unwrap();
    stage
        .until("noticed", Duration::from_mins(2), |s| !s.is_idle())
        .await;
    stage.settled().await;
    agents_table(&stage).await;
}

#[tokio::test(start_paused = true)]
async fn agents_are_removed_with_the_platform() {
    let stage = stage(65).await;
    stage.settled().await;
    stage.manager.delete_platform(false).await.unwrap();
    let gone = |_: &lifecycle_core::reconcile::Round| {
        stage
            .containers()
            .iter()
            .all(|(_, c)| c.role == Role::Manager)
    };
    stage.until("gone", Duration::from_hours(1), gone).await;
}
