//! Tests which ports are opened in the cloud's firewall, and when.

use lifecycle_core::cloud::OpenPorts;
use lifecycle_core::model::{NodeName, Protocol, PublicPort, PublicPorts, ServiceSpec};
use lifecycle_core::reconcile::{Action, Declared, Plan, PlanningInput, Policy, plan};

use super::builder::{ServiceChanges, declared, node_name, service};
use super::model::World;

fn ports(ports: &[u16]) -> PublicPorts {
    let ports = ports.iter();
    ports
        .map(|port| PublicPort {
            port: *port,
            protocol: Protocol::Tcp,
        })
        .collect()
}

/// Returns a service that publishes this port.
fn web(public: bool, port: u16) -> ServiceSpec {
    let mut web = service("web").image("nginx").host_port(port);
    web.public = public;
    web
}

fn nodes(services: Vec<ServiceSpec>) -> Declared {
    declared(&["n1", "n2"], services)
}

/// Returns the ports that a plan opens, as `<node>: <ports>`.
fn opened(plan: &Plan) -> Vec<String> {
    let steps = plan.steps.iter();
    steps
        .filter_map(|step| match &step.action {
            Action::SetPublicPorts { ports, node } => Some(format!("{node}: {ports}")),
            _ => None,
        })
        .collect()
}

fn open(world: &World, node: &str) -> OpenPorts {
    world.machines[&node_name(node)].open_ports.clone()
}

#[test]
fn opens_the_port_on_the_node_of_the_replica_only() {
    let on_n2 = nodes(vec![web(true, 80).on("n2")]);
    let mut world = World::empty();
    let first = world.plan(&on_n2);
    assert_eq!(opened(&first), ["n2: 80/tcp"]);
    assert!(!first.settled);
    world.settle(&on_n2);
    assert!(open(&world, "n1").are(&ports(&[])));
    assert!(open(&world, "n2").are(&ports(&[80])));

    // The port moves with the replica. The old node's port stays open while the old replica runs.
    let on_n1 = nodes(vec![web(true, 80).on("n1")]);
    assert_eq!(opened(&world.plan(&on_n1)), ["n1: 80/tcp"]);
    world.settle(&on_n1);
    assert!(open(&world, "n1").are(&ports(&[80])));
    assert!(open(&world, "n2").are(&ports(&[])));
}

#[test]
fn opens_nothing_for_a_service_that_is_not_public() {
    let mut world = World::empty();
    let private = nodes(vec![web(false, 80).on("n1")]);
    assert!(opened(&world.plan(&private)).is_empty());
    world.settle(&private);

    // A change of `public` replaces no container, and the port is closed again.
    let public = nodes(vec![web(true, 80).on("n1")]);
    let plan = world.plan(&public);
    assert_eq!(opened(&plan), ["n1: 80/tcp"]);
    assert_eq!(plan.steps.len(), 1);
    world.settle(&public);
    let plan = world.plan(&private);
    assert_eq!(opened(&plan), ["n1: "]);
    assert_eq!(plan.steps.len(), 1);
    world.settle(&private);
    assert!(open(&world, "n1").are(&ports(&[])));
}

#[test]
fn closes_the_ports_of_a_removed_service_before_its_containers_are_removed() {
    let mut world = World::empty();
    let public = nodes(vec![web(true, 80).on("n1")]);
    world.settle(&public);
    let plan = world.plan(&nodes(Vec::new()));
    let close = plan
        .steps
        .iter()
        .find(|step| matches!(step.action, Action::SetPublicPorts { .. }));
    assert!(close.unwrap().needs.is_empty());
    assert_eq!(opened(&plan), ["n1: "]);
    assert_eq!(opened(&world.plan(&public.emptied())), ["n1: "]);
}

#[test]
fn another_service_gets_an_open_port_only_after_it_was_closed() {
    let mut world = World::empty();
    world.settle(&nodes(vec![web(true, 80).on("n1")]));
    let other = service("other").image("nginx").host_port(80).on("n1");
    let declared = nodes(vec![other]);
    let plan = world.plan(&declared);
    let starts = plan.steps.iter().find(|step| {
        matches!(&step.action, Action::StartInstance { instance, .. }
            if instance.service.as_str() == "other")
    });
    let needs: Vec<String> = starts
        .unwrap()
        .needs
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        needs.contains(&"node/n1/public-ports".to_owned()),
        "{needs:?}"
    );
    world.settle(&declared);
    assert!(open(&world, "n1").are(&ports(&[])));
}

#[test]
fn a_port_is_opened_only_after_another_service_has_released_it() {
    let mut world = World::empty();
    let private = service("other").image("nginx").host_port(80).on("n1");
    world.settle(&nodes(vec![private]));
    let public = nodes(vec![web(true, 80).on("n1")]);
    assert!(opened(&world.plan(&public)).is_empty());
    world.settle(&public);
    assert!(open(&world, "n1").are(&ports(&[80])));
}

#[test]
fn on_a_node_that_does_not_respond_ports_are_closed_but_not_opened() {
    let mut world = World::empty();
    let private = service("other").image("nginx").host_port(80).on("n1");
    world.settle(&nodes(vec![private]));
    let now = world.now;
    let unreachable = |world: &mut World, since| {
        world
            .machines
            .get_mut(&node_name("n1"))
            .unwrap()
            .unknown_since = since;
    };
    unreachable(&mut world, Some(now));
    let public = nodes(vec![web(true, 80).on("n1")]);
    assert!(opened(&world.plan(&public)).is_empty(), "`other` may run");
    unreachable(&mut world, None);
    world.settle(&public);
    unreachable(&mut world, Some(now));
    assert!(
        opened(&world.plan(&public)).is_empty(),
        "the port stays open"
    );
    assert_eq!(
        opened(&world.plan(&nodes(vec![web(false, 80).on("n1")]))),
        ["n1: "]
    );
}

#[test]
fn incomplete_and_unexpected_rules_are_corrected() {
    let mut world = World::empty();
    let public = nodes(vec![web(true, 80).on("n1")]);
    world.settle(&public);
    let set = |world: &mut World, node: NodeName, open: &[u16], partly: &[u16]| {
        world.machines.get_mut(&node).unwrap().open_ports = OpenPorts {
            open: ports(open),
            partly: ports(partly),
        };
    };
    for (open, partly) in [(&[][..], &[80][..]), (&[80], &[81]), (&[80, 81], &[])] {
        set(&mut world, node_name("n1"), open, partly);
        assert_eq!(opened(&world.plan(&public)), ["n1: 80/tcp"]);
    }
    set(&mut world, node_name("n1"), &[80], &[]);
    set(&mut world, node_name("n2"), &[], &[80]);
    assert_eq!(opened(&world.plan(&public)), ["n2: "]);
}

#[test]
fn plans_no_ports_without_a_firewall() {
    let world = World::empty();
    let public = nodes(vec![web(true, 80).on("n1")]);
    let policy = Policy {
        opens_ports: false,
        ..Policy::default()
    };
    let input = PlanningInput {
        policy,
        ..world.input(&public)
    };
    assert!(opened(&plan(&input)).is_empty());
}
