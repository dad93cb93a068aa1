//! Tests on which nodes replicas are placed while nodes are cordoned or drained.

use std::collections::BTreeMap;

use lifecycle_core::model::{
    ConstraintOperator, NodeSpec, Scheduling, ServiceSpec, VolumeMount, VolumeName, VolumeOptions,
};
use lifecycle_core::reconcile::Declared;
use lifecycle_core::reconcile::placement::{Placement, place};

use super::builder::{ServiceChanges, declaration, derived, instance, node_name, service};
use super::model::World;

use Scheduling::{Cordoned, Drained, Open};

fn nodes(nodes: &[(&str, Scheduling)], services: Vec<ServiceSpec>) -> Declared {
    let nodes = nodes.iter().map(|(name, scheduling)| NodeSpec {
        scheduling: *scheduling,
        ..NodeSpec::new(node_name(name))
    });
    derived(&declaration(nodes.collect(), services)).unwrap()
}

fn with_volume(name: &str) -> ServiceSpec {
    let mut spec = service(name).image("postgres:15");
    spec.container.volumes.push(VolumeMount {
        volume: VolumeName::try_from("data").unwrap(),
        target: "/data".into(),
        read_only: false,
        options: VolumeOptions::default(),
    });
    spec
}

fn placed(world: &World, declared: &Declared) -> Placement {
    place(declared, &world.observed(), &world.history())
}

fn on(placement: &Placement) -> BTreeMap<String, String> {
    let nodes = placement.nodes.iter();
    nodes
        .map(|(id, node)| (id.to_string(), node.to_string()))
        .collect()
}

fn pairs<const N: usize>(expected: [(&str, &str); N]) -> BTreeMap<String, String> {
    let expected = expected.into_iter();
    expected
        .map(|(id, node)| (id.to_owned(), node.to_owned()))
        .collect()
}

/// Creates the volume of a database that runs on n2.
fn add_volume(world: &mut World) {
    let machine = world.machines.get_mut(&node_name("n2")).unwrap();
    let volume = VolumeName::try_from("data").unwrap();
    machine.state.volumes.insert(volume);
}

/// Returns a world with the nodes n1, n2 and n3, and a database with a volume on n2.
fn database() -> World {
    let mut world = World::empty();
    let db = vec![with_volume("db").on("n2")];
    world.settle(&nodes(&[("n1", Open), ("n2", Open), ("n3", Open)], db));
    add_volume(&mut world);
    world
}

#[test]
fn a_replica_with_a_volume_stays_on_a_drained_node_in_every_state() {
    let target = nodes(
        &[("n1", Open), ("n2", Drained), ("n3", Open)],
        vec![with_volume("db")],
    );
    let there = pairs([("db-1", "n2")]);
    let world = database();
    let placement = placed(&world, &target);
    assert_eq!(on(&placement), there);
    let why = &placement.staying[&instance("db", 1)];
    assert!(why.contains("volume data is on n2"), "{why}");
    // Neither its own node nor another one is observed.
    for node in ["n1", "n2", "n3"] {
        let mut world = database();
        world.power_off(&node_name(node));
        assert_eq!(on(&placed(&world, &target)), there, "{node} is stopped");
        let mut world = database();
        world.lose(&node_name(node));
        assert_eq!(on(&placed(&world, &target)), there, "{node} is lost");
    }
    let mut world = database();
    world.settle(&target);
    assert_eq!(on(&placed(&world, &target)), there);
}

#[test]
fn a_replica_moves_only_to_a_node_that_is_ready() {
    let web = || vec![service("web")];
    let mut world = World::empty();
    world.settle(&nodes(&[("n1", Open)], web()));
    // n2 and n3 do not exist yet.
    let target = nodes(&[("n1", Drained), ("n2", Open), ("n3", Cordoned)], web());
    let placement = placed(&world, &target);
    assert_eq!(on(&placement), pairs([("web-1", "n1")]));
    let why = &placement.staying[&instance("web", 1)];
    assert_eq!(why, "n3: cordoned; n1: drained; n2: not ready");
    world.settle(&target);
    assert_eq!(on(&placed(&world, &target)), pairs([("web-1", "n2")]));
    // It does not move back, and not when another node is opened.
    let opened = nodes(&[("n1", Open), ("n2", Open), ("n3", Open)], web());
    world.settle(&opened);
    assert_eq!(on(&placed(&world, &opened)), pairs([("web-1", "n2")]));
}

#[test]
fn a_replica_on_a_node_that_does_not_respond_does_not_move() {
    let web = || vec![service("web").on("n2")];
    let mut world = World::empty();
    world.settle(&nodes(&[("n1", Open), ("n2", Open)], web()));
    world.lose(&node_name("n2"));
    let target = nodes(&[("n1", Open), ("n2", Drained)], vec![service("web")]);
    assert_eq!(on(&placed(&world, &target)), pairs([("web-1", "n2")]));
    world.find_again();
    world.settle(&target);
    assert_eq!(on(&placed(&world, &target)), pairs([("web-1", "n1")]));
}

/// A replica that stays must not keep others from a node.
#[test]
fn new_replicas_are_placed_although_one_stays() {
    let mut db = with_volume("db");
    db.max_per_node = Some(1);
    let mut world = World::empty();
    let all = [("n1", Open), ("n2", Open), ("n3", Open)];
    world.settle(&nodes(&all, vec![db.clone().on("n2")]));
    add_volume(&mut world);
    // With a constraint, the nodes are sorted once for all replicas.
    let mut db = db.replicas(3).on("n9");
    db.constraints[0].operator = ConstraintOperator::NotEqual;
    let target = nodes(&[("n1", Open), ("n2", Drained), ("n3", Open)], vec![db]);
    world.settle(&target);
    let placement = placed(&world, &target);
    assert_eq!(placement.unplaceable, BTreeMap::new());
    let expected = pairs([("db-1", "n2"), ("db-2", "n1"), ("db-3", "n3")]);
    assert_eq!(on(&placement), expected);
}

/// The node on which a replica runs is stronger than one that has an old container of it.
#[test]
fn a_replica_does_not_return_to_a_drained_node() {
    let web = || vec![service("web")];
    let mut world = World::empty();
    world.settle(&nodes(&[("n1", Open), ("n2", Open)], web()));
    world.settle(&nodes(&[("n1", Drained), ("n2", Open)], web()));
    let target = nodes(&[("n1", Drained), ("n2", Drained)], web());
    let placement = placed(&world, &target);
    assert_eq!(on(&placement), pairs([("web-1", "n2")]));
    assert_eq!(placement.staying.len(), 1);
}

#[test]
fn services_that_join_a_network_move_with_it() {
    let services = || vec![service("vpn"), service("app").joins("vpn")];
    let mut world = World::empty();
    world.settle(&nodes(&[("n1", Open), ("n2", Open)], services()));
    let drained = nodes(&[("n1", Drained), ("n2", Open)], services());
    world.settle(&drained);
    let moved = pairs([("app-1", "n2"), ("vpn-1", "n2")]);
    assert_eq!(on(&placed(&world, &drained)), moved);
    let nowhere = nodes(&[("n1", Drained), ("n2", Drained)], services());
    let placement = placed(&world, &nowhere);
    assert_eq!(on(&placement), moved);
    assert_eq!(placement.staying.len(), 2);
    let cordoned = nodes(&[("n1", Open), ("n2", Cordoned)], services());
    assert_eq!(on(&placed(&world, &cordoned)), moved);
}
