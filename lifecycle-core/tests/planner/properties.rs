//! Tests properties of plans in random situations. The model of the world panics on a step that
//! violates the start order, runs an instance twice, or uses an object that does not exist.

use lifecycle_core::cloud::Power;
use lifecycle_core::model::{InstanceId, NodeName, PublicPorts, Replica, Scheduling, ServiceName};
use lifecycle_core::reconcile::placement::place;
use lifecycle_core::reconcile::{Declared, Held, HeldBy, Plan, PlanningInput, plan};
use lifecycle_core::runtime::{ContainerState, Role};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::arbitrary::{Mishap, PlatformDraft, mishaps, platform};
use super::builder::{ServiceChanges, service};
use super::checks::{assert_sound, may_run};
use super::model::{World, has_no_network, is_current, is_running};

pub(crate) fn chooser(seed: u64) -> impl FnMut(usize) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    move |n| random.random_range(0..n)
}

/// Carries out some steps of the plans for a declaration.
pub(crate) fn partly(world: &mut World, declared: &Declared, steps: usize, seed: u64) {
    let mut choose = chooser(seed);
    for _ in 0..steps {
        let plan = world.plan(declared);
        assert_sound(&plan);
        let ready = may_run(&plan);
        if ready.is_empty() || choose(4) == 0 {
            world.tick(declared);
        } else {
            let step = &ready[choose(ready.len())];
            world.apply(declared, &step.action);
        }
    }
}

fn happen(world: &mut World, mishap: &Mishap) {
    let nodes: Vec<NodeName> = world
        .machines
        .iter()
        .filter(|(_, m)| m.power == Power::Running && m.prepared && m.unknown_since.is_none())
        .map(|(name, _)| name.clone())
        .collect();
    if nodes.is_empty() {
        return;
    }
    let containers: Vec<(NodeName, String)> = world
        .containers()
        .filter(|(node, _)| nodes.contains(node))
        .map(|(node, c)| (node.clone(), c.name.clone()))
        .collect();
    let pick = |index: &Index| (!containers.is_empty()).then(|| index.get(&containers).clone());
    let now = world.now;
    match mishap {
        Mishap::NodeStops(index) => world.power_off(index.get(&nodes)),
        Mishap::NodeIsLost(index) => world.lose(index.get(&nodes)),
        Mishap::NodeRestartIsRequested(index) => world.request_node_restart(index.get(&nodes)),
        Mishap::ContainerEnds(index) => {
            if let Some((node, name)) = pick(index) {
                let container = world.container(&node, &name).unwrap();
                if is_running(container) {
                    container.state = ContainerState::Exited {
                        code: 1,
                        at: Some(now),
                    };
                }
            }
        }
        Mishap::ContainerIsRemoved(index) => {
            if let Some((node, name)) = pick(index) {
                let machine = world.machines.get_mut(&node).unwrap();
                machine.state.containers.retain(|c| c.name != name);
            }
        }
        Mishap::ContainerWasOnlyCreated(index) => {
            if let Some((node, name)) = pick(index) {
                let container = world.container(&node, &name).unwrap();
                container.state = ContainerState::Created;
                container.started_at = None;
            }
        }
        Mishap::ImageIsRemoved(node, index) => {
            let machine = world.machines.get_mut(node.get(&nodes)).unwrap();
            let images: Vec<String> = machine.state.images.keys().cloned().collect();
            if !images.is_empty() {
                machine.state.images.remove(index.get(&images));
            }
        }
        Mishap::Leftover(node, index, declared_service) => {
            let node = node.get(&nodes).clone();
            let name = match pick(index) {
                Some((at, name)) if *declared_service => {
                    let container = world.container(&at, &name).unwrap();
                    let Role::Instance(id) = &container.role else {
                        return;
                    };
                    id.service.clone()
                }
                _ => ServiceName::try_from("gone").unwrap(),
            };
            let id = InstanceId {
                service: name,
                replica: Replica(1),
            };
            let runs = world.of(&id).any(|(_, c)| is_running(c));
            let state = if runs {
                ContainerState::Exited {
                    code: 0,
                    at: Some(now),
                }
            } else {
                ContainerState::Running { health: None }
            };
            world.leave(&node, &id, &"f0".repeat(32), state);
            if !runs {
                world.last_seen.insert(id, node);
            }
        }
    }
}

/// Returns a world in which some steps of the plans were carried out before mishaps happened.
fn lived(draft: &PlatformDraft, steps: usize, mishaps: &[Mishap], seed: u64) -> World {
    let mut world = World::empty();
    partly(&mut world, &draft.declared(), steps, seed);
    for mishap in mishaps {
        happen(&mut world, mishap);
    }
    world
}

/// Removes the stopped containers that the planner does not start again, because they might prevent
/// the world from settling.
pub(crate) fn forget_endings(world: &mut World, declared: &Declared) {
    for machine in world.machines.values_mut() {
        machine.state.containers.retain(|c| {
            let ContainerState::Exited { code, .. } = c.state else {
                return true;
            };
            let Role::Instance(id) = &c.role else {
                return true;
            };
            let service = declared.services.get(&id.service);
            !service.is_some_and(|s| {
                let may_be_current =
                    c.joins.is_some() || c.template_digest.as_ref() == Some(&s.template_digest);
                (c.digest == s.digest || may_be_current) && s.runs_once == (code != 0)
            })
        });
    }
}

/// Asserts that the world matches the declaration.
fn assert_settled(world: &World, declared: &Declared, plan: &Plan) {
    assert!(plan.steps.is_empty(), "steps left:\n{:#?}", plan.steps);
    let is_unplaceable = plan
        .held
        .iter()
        .any(|h| matches!(h.by, HeldBy::NoNodeFits { .. }));
    if is_unplaceable {
        return;
    }
    assert!(plan.settled, "held:\n{:#?}", plan.held);
    let is_stopped = |node: &NodeName| declared.nodes[node].stopped;
    for (name, machine) in &world.machines {
        assert_eq!(machine.power == Power::Stopped, is_stopped(name), "{name}");
    }
    let mut placed = plan.instances.values().filter_map(|i| i.node.as_ref());
    if placed.any(is_stopped) {
        return;
    }
    let stays = |held: &Held| {
        matches!(
            held.by,
            HeldBy::StaysOnDrained { .. } | HeldBy::NodeIsStopped { .. }
        )
    };
    assert!(plan.held.iter().all(stays), "held:\n{:#?}", plan.held);
    for (id, service) in declared.instances() {
        let all: Vec<_> = { world.of(&id) }
            .filter(|(node, _)| !is_stopped(node))
            .collect();
        assert_eq!(all.len(), 1, "containers of {id}: {all:#?}");
        let state = &world.machines[all[0].0].state;
        assert!(is_current(state, all[0].1, service), "{:#?}", all[0]);
        let is_joining = service.spec.container.connection.joins().is_some();
        assert_eq!(all[0].1.joins.is_some(), is_joining, "{:#?}", all[0]);
        assert!(
            service.runs_once || !has_no_network(state, all[0].1),
            "{:#?}",
            all[0]
        );
        assert_eq!(is_running(all[0].1), !service.runs_once, "{:#?}", all[0]);
    }
    let expected = declared.instances().count();
    // What is left on a stopped node is removed when it runs again.
    let containers = world.containers().filter(|(node, _)| !is_stopped(node));
    assert_eq!(containers.count(), expected, "leftovers");
    for (name, machine) in &world.machines {
        let public = machine
            .state
            .containers
            .iter()
            .filter_map(|c| match &c.role {
                Role::Instance(id) => declared.services.get(&id.service),
                Role::Agent | Role::Manager => None,
            })
            .flat_map(|service| service.spec.public_ports())
            .collect();
        let open = &machine.open_ports;
        assert!(open.are(&public), "{name}: {open:?} instead of {public}");
    }
    let nodes: Vec<_> = world.machines.keys().collect();
    assert_eq!(nodes, declared.nodes.keys().collect::<Vec<_>>());
}

/// Returns the configuration of the property tests. The cases are the same in each run. With
/// `PROPTEST_CASES`, as many random cases are drawn.
pub(crate) fn config() -> ProptestConfig {
    let config = ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 4_000,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_some() {
        return config;
    }
    ProptestConfig {
        cases: 64,
        rng_seed: RngSeed::Fixed(1),
        ..config
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_walk_keeps_the_start_order_and_settles(
        old in platform(),
        steps in 0_usize..160,
        mishaps in mishaps(),
        new in platform(),
        seed in any::<u64>(),
    ) {
        let mut world = lived(&old, steps, &mishaps, seed);
        let declared = new.declared();
        forget_endings(&mut world, &declared);
        // During the first walk, some nodes are unreachable. The model panics if a replica that may
        // still run on one of them starts elsewhere.
        world.walk(&declared, &mut chooser(seed));
        world.find_again();
        let plan = world.walk(&declared, &mut chooser(seed.wrapping_add(1)));
        assert_settled(&world, &declared, &plan);
    }

    #[test]
    fn an_interrupted_walk_ends_in_the_same_world(
        new in platform(),
        steps in 0_usize..120,
        seed in any::<u64>(),
    ) {
        let declared = new.declared();
        let mut straight = World::empty();
        straight.settle(&declared);
        let mut broken = lived(&new, steps, &[], seed);
        let plan = broken.walk(&declared, &mut chooser(seed));
        assert_settled(&broken, &declared, &plan);
        let unplaceable = |world: &World| {
            place(&declared, &world.observed(), &world.history()).unplaceable
        };
        let fits = unplaceable(&straight).is_empty() && unplaceable(&broken).is_empty();
        if fits {
            prop_assert_eq!(straight.summary(false), broken.summary(false));
        }
    }

    #[test]
    fn deletion_stops_in_reverse_order_and_keeps_only_the_managers_node(
        old in platform(),
        mishaps in mishaps(),
        seed in any::<u64>(),
    ) {
        let mut world = lived(&old, 200, &mishaps, seed);
        world.find_again();
        let declared = old.declared();
        let emptied = declared.emptied();
        let mut choose = chooser(seed);
        for _ in 0..500 {
            let plan = world.plan(&emptied);
            assert_sound(&plan);
            let ready = may_run(&plan);
            let Some(step) = ready.get(choose(ready.len().max(1))) else {
                if plan.is_empty() { break; }
                world.tick(&emptied);
                continue;
            };
            if let lifecycle_core::reconcile::Action::StopInstance { instance, .. } = &step.action {
                let rank = |name: &ServiceName| declared.ranks.get(name).copied().unwrap_or(u32::MAX);
                for (_, other) in world.containers().filter(|(_, c)| is_running(c)) {
                    let Role::Instance(other) = &other.role else { continue };
                    prop_assert!(
                        rank(&other.service) <= rank(&instance.service),
                        "{} is stopped while {} is still running", instance, other
                    );
                }
            }
            world.apply(&emptied, &step.action);
        }
        prop_assert!(world.plan(&emptied).is_empty());
        prop_assert_eq!(world.containers().count(), 0);
        let mut left = world.machines.values();
        prop_assert!(left.all(|machine| machine.open_ports.are(&PublicPorts::default())));
        prop_assert_eq!(world.machines.len(), usize::from(!world.machines.is_empty()));
    }

    #[test]
    fn the_same_input_gives_the_same_plan(
        old in platform(),
        steps in 0_usize..160,
        mishaps in mishaps(),
        new in platform(),
        seed in any::<u64>(),
    ) {
        let world = lived(&old, steps, &mishaps, seed);
        let plan = world.plan(&new.declared());
        let text = serde_json::to_string(&plan).unwrap();
        prop_assert_eq!(&text, &serde_json::to_string(&world.plan(&new.declared())).unwrap());
        let back: Plan = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(back, plan);

        // The plan must not depend on the order in which an engine lists its containers.
        let mut shuffled = world.clone();
        for machine in shuffled.machines.values_mut() {
            machine.state.containers.reverse();
        }
        let again = serde_json::to_string(&shuffled.plan(&new.declared())).unwrap();
        prop_assert_eq!(text, again);
    }

    #[test]
    fn a_recorded_input_gives_the_same_plan(
        old in platform(),
        steps in 0_usize..160,
        mishaps in mishaps(),
        new in platform(),
        seed in any::<u64>(),
    ) {
        let world = lived(&old, steps, &mishaps, seed);
        let input = world.input(&new.declared());
        let recorded = serde_json::to_string(&input).unwrap();
        let read: PlanningInput = serde_json::from_str(&recorded).unwrap();
        prop_assert_eq!(recorded, serde_json::to_string(&read).unwrap());
        let planned = serde_json::to_string(&plan(&input)).unwrap();
        prop_assert_eq!(planned, serde_json::to_string(&plan(&read)).unwrap());
    }

    #[test]
    fn placement_respects_constraints_ports_and_capacity(
        old in platform(),
        steps in 0_usize..160,
        new in platform(),
        seed in any::<u64>(),
    ) {
        let world = lived(&old, steps, &[], seed);
        let declared = new.declared();
        let placement = place(&declared, &world.observed(), &world.history());
        for (id, _) in declared.instances() {
            prop_assert!(
                placement.nodes.contains_key(&id) != placement.unplaceable.contains_key(&id)
            );
        }
        for (name, node) in &declared.nodes {
            let here: Vec<_> = declared
                .instances()
                .filter(|(id, _)| placement.nodes.get(id) == Some(name))
                .collect();
            let mut ports = std::collections::BTreeSet::new();
            let mut reserved = 0;
            for (id, service) in &here {
                let is_home = world.of(id).any(|(node, _)| node == name)
                    || world.last_seen.get(id) == Some(name);
                // Replicas that join a network are placed with it.
                let joins = service.spec.container.connection.joins().is_some();
                let permits = joins || match node.scheduling {
                    Scheduling::Open => true,
                    Scheduling::Cordoned => is_home,
                    Scheduling::Drained => is_home && placement.staying.contains_key(id),
                };
                prop_assert!(permits, "{id} on {name}, which is {}", node.scheduling);
                prop_assert!(joins || is_home || !node.stopped, "{id} on {name}");
                prop_assert!(service.spec.constraints.iter().all(|c| c.holds(node)), "{id}");
                for port in &service.spec.container.ports {
                    prop_assert!(ports.insert(port.host_port), "{id} on {name}");
                }
                reserved += service.spec.reserves.cpu_millis;
            }
            if let Some(capacity) = node.capacity {
                prop_assert!(reserved <= capacity.cpu_millis);
            }
        }
    }

    #[test]
    fn replicas_stay_when_a_node_or_a_service_is_added(
        new in platform(),
        seed in any::<u64>(),
    ) {
        let declared = new.declared();
        let mut world = World::empty();
        world.walk(&declared, &mut chooser(seed));
        let before = place(&declared, &world.observed(), &world.history());

        let mut larger = declared.clone();
        let node = super::builder::node_name("a-new-one");
        larger.nodes.insert(node.clone(), lifecycle_core::model::NodeSpec::new(node));
        let addition = super::builder::declared(&["n1"], vec![service("aaa").replicas(3).host_port(8080)]);
        larger.services.extend(addition.services);
        larger.ranks.extend(addition.ranks);
        let after = place(&larger, &world.observed(), &world.history());
        for (id, node) in &before.nodes {
            // A replica that stayed on a drained node may move to the new node.
            if world.of(id).next().is_some() && !before.staying.contains_key(id) {
                prop_assert_eq!(after.nodes.get(id), Some(node));
            }
        }
    }

    #[test]
    fn an_unreachable_node_holds_only_its_own_replicas(
        new in platform(),
        removed in prop::collection::vec(any::<Index>(), 0..4),
        lost in any::<Index>(),
        seed in any::<u64>(),
    ) {
        let declared = new.unordered();
        let mut world = World::empty();
        world.walk(&declared, &mut chooser(seed));
        let nodes: Vec<NodeName> = world.machines.keys().cloned().collect();
        let lost = lost.get(&nodes).clone();
        for index in &removed {
            happen(&mut world, &Mishap::ContainerIsRemoved(*index));
        }
        let known = world.plan(&declared);
        world.lose(&lost);
        let unknown = world.plan(&declared);
        // Compare only the ids of the steps: an image may be copied from different nodes in the two
        // plans.
        let others: Vec<_> = known
            .steps
            .iter()
            .filter(|s| *s.action.node() != lost)
            .map(|s| &s.id)
            .collect();
        prop_assert_eq!(others, unknown.steps.iter().map(|s| &s.id).collect::<Vec<_>>());
        for step in &unknown.steps {
            prop_assert!(*step.action.node() != lost);
        }
    }
}
