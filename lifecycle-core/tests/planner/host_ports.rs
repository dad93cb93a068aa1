//! Tests how replicas with a host port are replaced.

use std::collections::BTreeMap;

use lifecycle_core::model::{Protocol, Replacement, ReplacementOrder};
use lifecycle_core::platform::NetworkSpec;
use lifecycle_core::reconcile::observe::AgentView;
use lifecycle_core::reconcile::{Agents, Declared};
use lifecycle_core::secret::PlatformKey;

use super::builder::{ServiceChanges, instance, service_name};
use super::model::{World, is_running};
use super::rollouts::{before, carry_out, digest, run, updated, web};

#[test]
fn stops_the_old_replica_first_if_it_has_the_host_port() {
    let mut spec = web(1).host_port(8080);
    spec.update = updated(Replacement {
        order: Some(ReplacementOrder::StartFirst),
        ..Replacement::default()
    });
    let (mut world, _, new) = before(&spec);
    assert_eq!(carry_out(&mut world, &new), ["-web-1", "+web-1"]);
}

/// Adds agents to the declarations, and runs them.
fn with_agents(world: &mut World, declarations: [Declared; 2]) -> [Declared; 2] {
    let network = NetworkSpec::default();
    let key = PlatformKey::from_hex(&"5a".repeat(32)).unwrap();
    let address = network.block.base();
    let addresses = BTreeMap::from([(service_name("web"), address)]);
    let agents = Agents::new("manager:1".into(), network, addresses, &key).unwrap();
    let declarations = declarations.map(|declared| declared.with_agents(agents.clone()));
    world.run_agents(&declarations[0]);
    declarations
}

/// Returns the host ports of the replica's running container.
fn host_ports(world: &World) -> Vec<u16> {
    let id = instance("web", 1);
    let (_, container) = world.of(&id).find(|(_, c)| is_running(c)).unwrap();
    container.ports.iter().map(|port| port.2).collect()
}

#[test]
fn an_agent_forwards_the_host_port_if_the_new_replica_starts_first() {
    let mut spec = web(1).host_port(8080);
    let start_first = Replacement {
        order: Some(ReplacementOrder::StartFirst),
        ..Replacement::default()
    };
    spec.update = updated(start_first.clone());
    let (mut world, old, new) = before(&spec);
    let [old, new] = with_agents(&mut world, [old, new]);
    assert_eq!(host_ports(&world), [8080]);
    let replaced = [vec!["+web-1".to_owned()], vec!["-web-1".to_owned()]];
    assert_eq!(run(&mut world, &new, 1), replaced);
    assert!(host_ports(&world).is_empty());
    // The port is free, so the next container gets it.
    world.get_images(&old);
    assert_eq!(run(&mut world, &old, 1), replaced);
    assert_eq!(host_ports(&world), [8080]);
    // An agent that cannot redirect ports.
    let (mut world, old, new) = before(&spec);
    let [_, new] = with_agents(&mut world, [old, new]);
    for agent in world.agents.values_mut() {
        *agent = AgentView::UpToDate {
            serving: None,
            cannot_redirect: Some("Operation not supported".into()),
        };
    }
    let stop_first = ["-web-1", "+web-1"];
    assert_eq!(carry_out(&mut world, &new), stop_first);
    // Datagrams are not forwarded.
    spec.container.ports[0].protocol = Protocol::Udp;
    let (mut world, old, new) = before(&spec);
    let [_, new] = with_agents(&mut world, [old, new]);
    assert_eq!(carry_out(&mut world, &new), ["-web-1", "+web-1"]);
}

#[test]
fn a_container_with_the_host_port_is_restored_only_once_the_port_is_free() {
    let mut spec = web(1).host_port(8080);
    spec.update.rollback = Some(Replacement {
        order: Some(ReplacementOrder::StartFirst),
        ..Replacement::default()
    });
    let (mut world, old, new) = before(&spec);
    let [_, new] = with_agents(&mut world, [old, new]);
    world.never_ready.insert(digest(&new));
    // By default, the engine keeps the port, so the old container is stopped first.
    assert_eq!(carry_out(&mut world, &new), ["-web-1", "+web-1"]);
    let rest = run(&mut world, &new, 400).concat();
    assert_eq!(rest, ["-web-1", "+web-1"]);
    assert_eq!(host_ports(&world), [8080]);
}
