//! Tests how containers that share a network are placed, started, restarted and replaced together.

use lifecycle_core::model::{
    ContainerId, ContainerRun, DependencyCondition, NodeSpec, Resources, RestartPolicy,
    RolloutControl, RolloutRequest,
};
use lifecycle_core::reconcile::placement::place;
use lifecycle_core::reconcile::{Action, Declared, HeldBy, Plan, Readiness, Reason};
use lifecycle_core::runtime::ContainerState;

use super::builder::{
    ServiceChanges, declaration, declared, derived, instance, node_name, service, service_name,
};
use super::checks::may_run;
use super::model::{World, has_no_network, is_running};

fn pair(vpn: u32, app: u32) -> Declared {
    let vpn = service("vpn").version(vpn * 2);
    let app = service("app").version(app * 2).joins("vpn");
    declared(&["n1", "n2"], vec![vpn, app])
}

fn settled(declared: &Declared) -> World {
    let mut world = World::empty();
    world.settle(declared);
    world
}

/// Returns the steps that start, stop and remove containers, for example `-app-1 +vpn-1`.
fn shown(plan: &Plan) -> String {
    let steps = plan.steps.iter().filter_map(|step| match &step.action {
        Action::StartInstance { instance, .. } => Some(format!("+{instance}")),
        Action::StopInstance { instance, .. } => Some(format!("-{instance}")),
        Action::RemoveInstance { instance, .. } => Some(format!("x{instance}")),
        _ => None,
    });
    steps.collect::<Vec<_>>().join(" ")
}

/// Carries out all steps of a plan, one after the other, and returns them as text.
fn carry_out(world: &mut World, declared: &Declared) -> String {
    let plan = world.plan(declared);
    world.record(&plan);
    for step in &plan.steps {
        world.apply(declared, &step.action);
    }
    shown(&plan)
}

fn end(world: &mut World, service: &str, code: i64) {
    let now = world.now;
    let id = instance(service, 1);
    let found = world.of(&id).find(|(_, c)| is_running(c));
    let (node, name) = found
        .map(|(node, c)| (node.clone(), c.name.clone()))
        .unwrap();
    world.container(&node, &name).unwrap().state = ContainerState::Exited {
        code,
        at: Some(now),
    };
}

fn id_of(world: &World, service: &str) -> ContainerId {
    let id = instance(service, 1);
    let mut running = world.of(&id).filter(|(_, c)| is_running(c));
    running.next().unwrap().1.id.clone()
}

fn assert_joined(world: &World) {
    let id = instance("app", 1);
    let (node, app) = world.of(&id).find(|(_, c)| is_running(c)).unwrap();
    let state = &world.machines[node].state;
    assert!(!has_no_network(state, app), "{app:#?}");
    assert_eq!(app.joins, Some(id_of(world, "vpn")));
}

#[test]
fn both_are_on_one_node_and_start_in_order() {
    let pair = pair(1, 1);
    let world = settled(&pair);
    assert_joined(&world);
    let placed = place(&pair, &world.observed(), &world.history());
    let node = |service| placed.nodes[&instance(service, 1)].clone();
    assert_eq!(node("vpn"), node("app"));
}

#[test]
fn resources_and_constraints_of_both_count() {
    let nodes = |capacity: [u64; 2]| {
        let nodes = ["n1", "n2"].iter().zip(capacity);
        let node = |(name, cpu_millis): (&&str, u64)| NodeSpec {
            capacity: Some(Resources {
                cpu_millis,
                memory_bytes: 0,
            }),
            ..NodeSpec::new(node_name(name))
        };
        nodes.map(node).collect::<Vec<_>>()
    };
    let reserving = |mut spec: lifecycle_core::model::ServiceSpec| {
        spec.reserves.cpu_millis = 3;
        spec
    };
    let services = || {
        vec![
            reserving(service("vpn")),
            reserving(service("app")).joins("vpn"),
        ]
    };
    let place = |nodes, services| {
        let declared = derived(&declaration(nodes, services)).unwrap();
        let world = World::empty();
        place(&declared, &world.observed(), &world.history())
    };
    let vpn = instance("vpn", 1);
    let app = instance("app", 1);
    let placed = place(nodes([5, 6]), services());
    assert_eq!(placed.nodes[&vpn], node_name("n2"));
    assert_eq!(placed.nodes[&app], node_name("n2"));
    let placed = place(nodes([5, 5]), services());
    let why = &placed.unplaceable;
    assert!(why[&vpn].contains("free capacity"), "{}", why[&vpn]);
    assert!(why[&app].contains("network of vpn-1"), "{}", why[&app]);
    let constrained = vec![service("vpn"), service("app").on("n2").joins("vpn")];
    let placed = place(nodes([9, 9]), constrained);
    assert_eq!(placed.nodes[&vpn], node_name("n2"));
    let apart = vec![
        service("vpn").on("n1"),
        service("app").on("n2").joins("vpn"),
    ];
    let placed = place(nodes([9, 9]), apart);
    let why = &placed.unplaceable[&vpn];
    assert!(
        why.contains("app-1, which joins the replica's network"),
        "{why}"
    );
}

#[test]
fn a_changed_network_replaces_both_and_stops_the_joining_container_first() {
    let mut world = settled(&pair(1, 1));
    let before = [id_of(&world, "vpn"), id_of(&world, "app")];
    let new = pair(2, 1);
    world.get_images(&new);
    let plan = world.plan(&new);
    assert_eq!(shown(&plan), "-app-1 -vpn-1 +vpn-1 +app-1");
    let first = may_run(&plan);
    assert_eq!(first.len(), 1, "{first:#?}");
    assert!(matches!(first[0].reason, Reason::NetworkEnds { .. }));
    world.settle(&new);
    assert_joined(&world);
    assert_ne!(id_of(&world, "vpn"), before[0]);
    assert_ne!(id_of(&world, "app"), before[1]);
    assert_eq!(world.containers().count(), 2);
}

/// Pauses the rollout of a service before it replaces anything.
fn pause(world: &mut World, declared: &Declared, service: &str) {
    let name = service_name(service);
    let control = RolloutControl {
        digest: declared.services[&name].digest.clone(),
        request: RolloutRequest::Pause,
        at: world.now,
    };
    world.rollouts.insert(name, control);
}

#[test]
fn while_the_replacement_of_the_network_is_paused_ended_containers_start_again() {
    for ended in ["app", "vpn"] {
        let mut world = settled(&pair(1, 1));
        let new = pair(2, 1);
        world.get_images(&new);
        pause(&mut world, &new, "vpn");
        let before: Vec<String> = world.containers().map(|(_, c)| c.name.clone()).collect();
        end(&mut world, ended, 1);
        for _ in 0..4 {
            carry_out(&mut world, &new);
        }
        assert_joined(&world);
        let after: Vec<String> = world.containers().map(|(_, c)| c.name.clone()).collect();
        assert_eq!(after, before, "{ended} ended");
    }
}

#[test]
fn while_the_rollout_of_the_joining_service_is_paused_its_ended_container_starts_again() {
    let mut world = settled(&pair(1, 1));
    let new = pair(1, 2);
    world.get_images(&new);
    pause(&mut world, &new, "app");
    let before: Vec<String> = world.containers().map(|(_, c)| c.name.clone()).collect();
    end(&mut world, "app", 1);
    for _ in 0..4 {
        carry_out(&mut world, &new);
    }
    assert_joined(&world);
    let after: Vec<String> = world.containers().map(|(_, c)| c.name.clone()).collect();
    assert_eq!(after, before);
}

#[test]
fn a_changed_joining_service_is_replaced_alone() {
    let mut world = settled(&pair(1, 1));
    let vpn = id_of(&world, "vpn");
    let new = pair(1, 2);
    world.get_images(&new);
    assert_eq!(shown(&world.plan(&new)), "-app-1 +app-1");
    world.settle(&new);
    assert_joined(&world);
    assert_eq!(id_of(&world, "vpn"), vpn);
}

#[test]
fn an_unchanged_image_of_the_network_replaces_nothing() {
    let mut world = settled(&pair(1, 1));
    // Versions 2 and 3 of a code base lead to the same image.
    let vpn = service("vpn").version(3);
    let new = declared(
        &["n1", "n2"],
        vec![vpn, service("app").version(2).joins("vpn")],
    );
    world.get_images(&new);
    assert_eq!(shown(&world.plan(&new)), "");
}

#[test]
fn a_network_that_ended_restarts_both() {
    for restart in [
        RestartPolicy::Always,
        RestartPolicy::No,
        RestartPolicy::OnFailure { max_retries: None },
    ] {
        let vpn = service("vpn").restart(RestartPolicy::Always);
        let app = service("app").joins("vpn").restart(restart);
        let pair = declared(&["n1"], vec![vpn, app]);
        let mut world = settled(&pair);
        let app = id_of(&world, "app");
        end(&mut world, "vpn", 1);
        let plan = world.plan(&pair);
        assert_eq!(shown(&plan), "+vpn-1 -app-1 +app-1");
        // A crash after the second step must not change the result.
        for step in &plan.steps[..2] {
            world.apply(&pair, &step.action);
        }
        assert_eq!(carry_out(&mut world, &pair), "+app-1", "{restart:?}");
        assert_joined(&world);
        assert_eq!(id_of(&world, "app"), app);
        world.settle(&pair);
        assert_eq!(shown(&world.plan(&pair)), "");
    }
}

#[test]
fn a_network_that_was_restarted_on_the_node_restarts_the_joining_container() {
    let pair = pair(1, 1);
    let mut world = settled(&pair);
    world.now += chrono::TimeDelta::seconds(9);
    let (now, vpn) = (world.now, instance("vpn", 1));
    let (node, name) = world
        .of(&vpn)
        .map(|(n, c)| (n.clone(), c.name.clone()))
        .next()
        .unwrap();
    world.container(&node, &name).unwrap().started_at = Some(now);
    let plan = world.plan(&pair);
    assert_eq!(shown(&plan), "-app-1 +app-1");
    let because = Reason::NetworkRestarted { replica: vpn };
    assert!(
        plan.steps.iter().all(|step| step.reason == because),
        "{plan:#?}"
    );
    world.settle(&pair);
    assert_joined(&world);
}

#[test]
fn a_network_that_was_removed_re_creates_the_joining_container() {
    let pair = pair(1, 1);
    let mut world = settled(&pair);
    let app = id_of(&world, "app");
    let vpn = id_of(&world, "vpn");
    for machine in world.machines.values_mut() {
        machine.state.containers.retain(|c| c.id != vpn);
    }
    assert_eq!(carry_out(&mut world, &pair), "+vpn-1 -app-1 xapp-1 +app-1");
    assert_joined(&world);
    assert_ne!(id_of(&world, "app"), app);
}

#[test]
fn a_requested_restart_restarts_both_in_order() {
    let pair = pair(1, 1);
    let mut world = settled(&pair);
    world.now += chrono::TimeDelta::seconds(9);
    // The manager requests a restart of both.
    for service in ["vpn", "app"] {
        let id = instance(service, 1);
        let (_, container) = world.of(&id).next().unwrap();
        let run = ContainerRun {
            container: container.id.clone(),
            started_at: container.started_at.unwrap(),
        };
        world.restarts.insert(id, run);
    }
    let text = carry_out(&mut world, &pair);
    assert_eq!(text, "-app-1 -vpn-1 +vpn-1 +app-1");
    assert_joined(&world);
    world.tick(&pair);
    assert_eq!(shown(&world.plan(&pair)), "");
}

#[test]
fn a_failed_network_is_rolled_back_together_with_the_joining_container() {
    let old = pair(1, 1);
    let mut world = settled(&old);
    let before = [id_of(&world, "vpn"), id_of(&world, "app")];
    let new = pair(2, 1);
    world
        .never_ready
        .insert(new.services[&instance("vpn", 1).service].digest.clone());
    fails(&mut world, &new);
    assert_joined(&world);
    assert_eq!([id_of(&world, "vpn"), id_of(&world, "app")], before);
}

#[test]
fn a_failed_joining_container_is_rolled_back_together_with_the_network() {
    let old = pair(1, 1);
    let mut world = settled(&old);
    let before = [id_of(&world, "vpn"), id_of(&world, "app")];
    let new = pair(2, 2);
    world
        .never_ready
        .insert(new.services[&instance("app", 1).service].digest.clone());
    fails(&mut world, &new);
    assert_joined(&world);
    assert_eq!([id_of(&world, "vpn"), id_of(&world, "app")], before);
}

#[test]
fn a_failed_joining_container_is_rolled_back_alone_if_the_network_is_unchanged() {
    let old = pair(1, 1);
    let mut world = settled(&old);
    let before = [id_of(&world, "vpn"), id_of(&world, "app")];
    let new = pair(1, 2);
    world
        .never_ready
        .insert(new.services[&instance("app", 1).service].digest.clone());
    fails(&mut world, &new);
    assert_joined(&world);
    assert_eq!([id_of(&world, "vpn"), id_of(&world, "app")], before);
}

/// Carries out plans until the declaration was rejected and rolled back.
fn fails(world: &mut World, new: &Declared) {
    world.settle(new);
    world.now += chrono::TimeDelta::minutes(6);
    for _ in 0..3 {
        world.settle(new);
    }
    assert!(!world.rejected.is_empty());
    let plan = world.plan(new);
    assert_eq!(shown(&plan), "");
}

#[test]
fn replicas_are_replaced_pair_by_pair() {
    let pairs = |version: u32| {
        let vpn = service("vpn").version(version * 2).replicas(2);
        let app = service("app").joins("vpn").replicas(2);
        declared(&["n1", "n2"], vec![vpn, app])
    };
    let mut world = settled(&pairs(1));
    let new = pairs(2);
    world.get_images(&new);
    let text = carry_out(&mut world, &new);
    assert_eq!(text, "-app-1 -vpn-1 +vpn-1 +app-1");
    // The next pair waits for the joining container, too.
    let is_vpn = |c: &ContainerId, world: &World| {
        let mut containers = world.containers();
        containers.any(|(_, found)| found.id == *c && found.name.contains("-vpn-"))
    };
    let now = world.now;
    let waiting: Vec<ContainerId> = world.readiness.keys().cloned().collect();
    for id in waiting {
        if is_vpn(&id, &world) {
            world.readiness.insert(id, Readiness::Ready { at: now });
        }
    }
    let plan = world.plan(&new);
    assert_eq!(shown(&plan), "");
    let waits = |held: &lifecycle_core::reconcile::Held| matches!(&held.by, HeldBy::ReplacedAfter { replica } if *replica == instance("vpn", 1));
    assert!(plan.held.iter().any(waits), "{:#?}", plan.held);
    world.tick(&new);
    let text = carry_out(&mut world, &new);
    assert_eq!(text, "-app-2 -vpn-2 +vpn-2 +app-2");
    world.settle(&new);
    assert_eq!(world.containers().count(), 4);
}

#[test]
fn a_service_that_joins_later_is_re_created_in_the_network() {
    let apart = declared(&["n1"], vec![service("vpn"), service("app")]);
    let mut world = settled(&apart);
    let joined = declared(&["n1"], vec![service("vpn"), service("app").joins("vpn")]);
    world.settle(&joined);
    assert_joined(&world);
    world.settle(&apart);
    let id = instance("app", 1);
    assert!(world.of(&id).all(|(_, app)| app.joins.is_none()));
}

#[test]
fn a_joining_service_may_wait_until_the_network_is_ready() {
    let app = service("app")
        .joins("vpn")
        .needs("vpn", DependencyCondition::ServiceHealthy);
    let pair = declared(&["n1"], vec![service("vpn"), app]);
    let mut world = World::empty();
    world.settle(&pair);
    assert_joined(&world);
}

#[test]
fn pairs_are_replaced_although_another_pair_is_not_ready() {
    let version = |version| {
        let vpn = service("vpn").version(version).replicas(2);
        let app = service("app").replicas(2).joins("vpn");
        let app = app.needs("vpn", DependencyCondition::ServiceHealthy);
        declared(&["n1"], vec![vpn, app])
    };
    let mut world = settled(&version(2));
    let new = version(4);
    world.get_images(&new);
    // The second pair ends before the rollout.
    for service in ["vpn", "app"] {
        let id = instance(service, 2);
        let (node, name) = world
            .of(&id)
            .next()
            .map(|(n, c)| (n.clone(), c.name.clone()))
            .unwrap();
        let at = Some(world.now);
        world.container(&node, &name).unwrap().state = ContainerState::Exited { code: 1, at };
    }
    world.settle(&new);
    assert!(world.plan(&new).held.is_empty());
    assert_eq!(world.containers().count(), 4);
}

#[test]
fn a_network_that_ended_and_is_replaced_takes_the_joining_container_along() {
    let before = declared(&["n1"], vec![service("vpn"), service("app").joins("vpn")]);
    let changed = vec![service("vpn").host_port(8080), service("app").joins("vpn")];
    let after = declared(&["n1"], changed);
    let ended = |code| ContainerState::Exited { code, at: None };
    for state in [ContainerState::Created, ended(0), ended(1)] {
        let mut world = settled(&before);
        let vpn = instance("vpn", 1);
        let mut found = world
            .of(&vpn)
            .map(|(node, c)| (node.clone(), c.name.clone()));
        let (node, name) = found.next().unwrap();
        drop(found);
        let container = world.container(&node, &name).unwrap();
        if state == ContainerState::Created {
            container.started_at = None;
        }
        container.state = state;
        let plan = world.walk(&after, &mut |_| 0);
        assert!(plan.held.is_empty(), "{:#?}", plan.held);
        assert_joined(&world);
    }
}
