//! Compares plans in typical situations with snapshots.

use std::sync::Arc;

use chrono::TimeDelta;
use lifecycle_core::cloud::Power;
use lifecycle_core::model::{
    DependencyCondition, InstanceState, NodeSpec, RestartPolicy, ServiceSpec, SpecDigest,
    VolumeMount, VolumeName, VolumeOptions,
};
use lifecycle_core::reconcile::{
    Action, Declared, Endings, EngineView, Failure, HeldBy, Observed, Plan, PlanningInput,
    Readiness, plan,
};
use lifecycle_core::registry::Unknown;
use lifecycle_core::runtime::ContainerState;

use super::builder::{
    ServiceChanges, declaration, declared, derived, instance, node_name, service,
};
use super::model::{World, is_running};

fn shop() -> Vec<ServiceSpec> {
    vec![
        service("db").image("postgres:15"),
        service("api").ready_after("db").replicas(2),
        service("web").ready_after("api").host_port(80),
        service("monitoring").last(),
    ]
}

pub(super) fn shop_declared() -> Declared {
    declared(&["n1", "n2", "n3"], shop())
}

/// Returns the world after the shop's plans were carried out.
pub(super) fn shop_world() -> World {
    let mut world = World::empty();
    world.settle(&shop_declared());
    world
}

/// Formats the plan and the status of each replica.
pub(super) fn text(plan: &Plan) -> String {
    let instances: Vec<String> = plan
        .instances
        .iter()
        .map(|(id, status)| {
            let node = status.node.as_ref().map_or("no node", |n| n.as_str());
            let why = match &status.state {
                InstanceState::Failed { why } | InstanceState::Unknown { why, .. } => {
                    format!(": {why}")
                }
                _ => String::new(),
            };
            let settled = if status.settled { "" } else { ", not settled" };
            format!("{id} on {node}: {}{why}{settled}", status.state.word())
        })
        .collect();
    let settled = if plan.settled {
        "settled"
    } else {
        "not settled"
    };
    format!("{plan}\n\n{}\n{settled}", instances.join("\n"))
}

/// Returns a replica's node and the name of its container.
pub(super) fn location_of(
    world: &World,
    service: &str,
    replica: u16,
) -> (lifecycle_core::model::NodeName, String) {
    let id = instance(service, replica);
    let (node, container) = world.of(&id).next().unwrap();
    (node.clone(), container.name.clone())
}

fn end(world: &mut World, service: &str, code: i64) {
    let (node, name) = location_of(world, service, 1);
    let at = Some(world.now);
    world.container(&node, &name).unwrap().state = ContainerState::Exited { code, at };
}

fn plan_of(declared: &Declared, observed: &Observed, world: &World) -> Plan {
    plan(&PlanningInput {
        observed: Arc::new(observed.clone()),
        ..world.input(declared)
    })
}

#[test]
fn creates_everything_when_nothing_exists() {
    insta::assert_snapshot!(text(&World::empty().plan(&shop_declared())));
}

#[test]
fn plans_nothing_when_everything_is_as_declared() {
    let plan = shop_world().plan(&shop_declared());
    assert!(plan.is_empty() && plan.settled);
    insta::assert_snapshot!(text(&plan));
}

#[test]
fn recreates_a_removed_container() {
    let mut world = shop_world();
    let (node, name) = location_of(&world, "api", 1);
    let machine = world.machines.get_mut(&node).unwrap();
    machine.state.containers.retain(|c| c.name != name);
    let plan = world.plan(&shop_declared());
    assert_eq!(plan.steps.len(), 1);
    insta::assert_snapshot!(text(&plan));
}

#[test]
fn restarts_an_ended_container() {
    let mut world = shop_world();
    end(&mut world, "db", 1);
    insta::assert_snapshot!(text(&world.plan(&shop_declared())));
}

#[test]
fn backs_off_when_a_container_keeps_ending() {
    let mut world = shop_world();
    end(&mut world, "db", 1);
    let db = instance("db", 1);
    let container = world.of(&db).next().unwrap().1.id.clone();
    let now = world.now;
    let endings = |times| Endings {
        times,
        again_at: now + TimeDelta::seconds(4),
        recent: times,
        was_unhealthy: false,
        last: None,
    };
    world.endings.insert(container.clone(), endings(3));
    let third = world.plan(&shop_declared());
    assert_eq!(third.next_change, Some(now + TimeDelta::seconds(4)));
    world.endings.insert(container, endings(5));
    let fifth = world.plan(&shop_declared());
    insta::assert_snapshot!(format!(
        "the third time\n{}\n\nthe fifth time\n{}",
        text(&third),
        text(&fifth)
    ));
}

/// A container that keeps ending while it is not ready: the reason is its last exit code.
#[test]
fn a_replica_that_is_never_ready_fails_with_the_last_exit_of_its_container() {
    let mut world = shop_world();
    let db = instance("db", 1);
    let container = world.of(&db).next().unwrap().1.id.clone();
    let waiting = Readiness::Waiting {
        since: world.now - TimeDelta::minutes(6),
        was_ready: false,
        why: Some("it has just been started".to_owned()),
    };
    world.readiness.insert(container.clone(), waiting);
    let mut why = |times| {
        let endings = Endings {
            times,
            again_at: world.now,
            recent: times,
            was_unhealthy: false,
            last: Some("exit code 7".to_owned()),
        };
        world.endings.insert(container.clone(), endings);
        let plan = world.plan(&shop_declared());
        let held = plan.held.into_iter().find_map(|held| match held.by {
            HeldBy::Failed { why } => Some(why),
            _ => None,
        });
        held.expect("a failed replica")
    };
    let started = "not ready within 5m: it has just been started";
    assert_eq!(why(0), started);
    assert_eq!(
        why(1),
        format!("{started}; its container ended with exit code 7")
    );
    let ended = "its container ended 4× in a row, the last time with exit code 7";
    assert_eq!(why(4), format!("{started}; {ended}"));
}

pub(super) fn shop_with(change: impl Fn(ServiceSpec) -> ServiceSpec, name: &str) -> Declared {
    let services = shop().into_iter().map(|s| {
        if s.name.as_str() == name {
            change(s)
        } else {
            s
        }
    });
    declared(&["n1", "n2", "n3"], services.collect())
}

#[test]
fn replaces_a_service_whose_code_changed() {
    let declared = shop_with(|s| s.version(2), "web");
    let mut world = shop_world();
    let at_first = world.plan(&declared);
    world.get_images(&declared);
    let later = world.plan(&declared);
    insta::assert_snapshot!(format!("{}\n\nlater\n{}", text(&at_first), text(&later)));
}

#[test]
fn replaces_dependencies_first() {
    let services = shop().into_iter().map(|s| s.version(2)).collect();
    let declared = declared(&["n1", "n2", "n3"], services);
    let mut world = shop_world();
    world.get_images(&declared);
    insta::assert_snapshot!(text(&world.plan(&declared)));
}

#[test]
fn rolls_back_a_service_that_never_becomes_ready() {
    let former = shop_world();
    let declared = shop_with(|s| s.version(2), "web");
    let mut world = former.clone();
    world.never_ready.insert(
        declared.services[&instance("web", 1).service]
            .digest
            .clone(),
    );
    world.settle(&declared);
    let waiting = world.plan(&declared);
    world.now += TimeDelta::minutes(5);
    let rejected = world.plan(&declared);
    assert_eq!(rejected.rejects.len(), 1);
    world.settle(&declared);
    let back = world.plan(&declared);
    assert!(back.steps.is_empty());
    // One additional container is left: the rejected one, whose output can still be read.
    assert_eq!(world.summary(true).len(), former.summary(true).len() + 1);
    world.now += TimeDelta::minutes(10);
    world.settle(&declared);
    assert_eq!(world.summary(true), former.summary(true));
    insta::assert_snapshot!(format!(
        "waiting\n{}\n\nrejected\n{}\n\nrolled back\n{}",
        text(&waiting),
        text(&rejected),
        text(&back)
    ));
}

#[test]
fn rolls_back_a_service_that_is_never_restarted() {
    let services = |version| {
        let web = service("web").version(version).restart(RestartPolicy::No);
        declared(&["n1"], vec![web])
    };
    let mut world = World::empty();
    world.settle(&services(1));
    let former = world.summary(true);
    let declared = services(2);
    world.never_ready.insert(
        declared.services[&instance("web", 1).service]
            .digest
            .clone(),
    );
    world.settle(&declared);
    world.now += TimeDelta::minutes(5);
    world.settle(&declared);
    world.now += TimeDelta::minutes(10);
    world.settle(&declared);
    assert_eq!(world.summary(true), former);
}

#[test]
fn returns_to_the_old_declaration_before_the_new_one_is_ready() {
    let services = |version| {
        let web = service("web").version(version).restart(RestartPolicy::No);
        declared(&["n1"], vec![web])
    };
    let mut world = World::empty();
    world.settle(&services(1));
    let former = world.summary(true);
    world.never_ready.insert(
        services(2).services[&instance("web", 1).service]
            .digest
            .clone(),
    );
    world.settle(&services(2));
    insta::assert_snapshot!(text(&world.plan(&services(1))));
    world.settle(&services(1));
    assert_eq!(world.summary(true), former);
}

#[test]
fn does_not_roll_back_a_failed_job() {
    let services = |version| {
        vec![
            service("migrate").version(version),
            service("api")
                .version(version)
                .needs("migrate", DependencyCondition::ServiceCompletedSuccessfully),
        ]
    };
    let mut world = World::empty();
    world.settle(&declared(&["n1"], services(1)));
    let second = declared(&["n1"], services(2));
    let id = instance("migrate", 1);
    let digest = second.services[&id.service].digest.as_str();
    let failed = ContainerState::Exited {
        code: 1,
        at: Some(world.now),
    };
    world.leave(&node_name("n1"), &id, digest, failed);
    world.get_images(&second);
    let plan = world.plan(&second);
    assert!(plan.rejects.is_empty());
    insta::assert_snapshot!(text(&plan));
}

#[test]
fn starts_a_stopped_node() {
    let mut world = shop_world();
    world.power_off(&node_name("n2"));
    insta::assert_snapshot!(text(&world.plan(&shop_declared())));
}

#[test]
fn holds_the_replicas_of_an_unreachable_node() {
    let mut world = shop_world();
    world.lose(&node_name("n2"));
    let at_first = world.plan(&shop_declared());
    world.now += TimeDelta::minutes(5);
    let later = world.plan(&shop_declared());
    insta::assert_snapshot!(format!("{}\n\nlater\n{}", text(&at_first), text(&later)));
}

#[test]
fn begins_no_step_on_a_node_that_does_not_respond() {
    let world = shop_world();
    let mut observed = world.observed();
    let (node, container) = location_of(&world, "db", 1);
    let view = Arc::make_mut(observed.nodes.get_mut(&node).unwrap());
    view.not_responding = Some(Unknown {
        since: world.now,
        why: "no answer".into(),
    });
    let plan = plan_of(&shop_declared(), &observed, &world);
    assert!(plan.is_empty() && plan.settled, "{plan}");
    let view = Arc::make_mut(observed.nodes.get_mut(&node).unwrap());
    let EngineView::Known { state, .. } = &mut view.engine else {
        panic!("{view:?}");
    };
    state.containers.retain(|c| c.name != container);
    insta::assert_snapshot!(text(&plan_of(&shop_declared(), &observed, &world)));
}

#[test]
fn recreates_a_node_that_the_cloud_failed_to_create() {
    let mut world = World::empty();
    world.add_failed_machine(&node_name("n2"));
    let declared = declared(&["n1", "n2"], vec![service("db").on("n2")]);
    insta::assert_snapshot!(text(&world.plan(&declared)));
    let plan = world.settle(&declared);
    assert!(plan.is_empty() && plan.settled);
}

#[test]
fn keeps_a_failed_node_that_ran_something() {
    let mut world = shop_world();
    let (node, _) = location_of(&world, "db", 1);
    world.power_off(&node);
    world.machines.get_mut(&node).unwrap().power = Power::Failed;
    let plan = world.plan(&shop_declared());
    assert!(plan.steps.iter().all(|step| *step.action.node() != node));
    insta::assert_snapshot!(text(&plan));
}

#[test]
fn counts_a_node_that_never_starts_as_failed() {
    let world = shop_world();
    let mut observed = world.observed();
    let (node, _) = location_of(&world, "db", 1);
    let view = Arc::make_mut(observed.nodes.get_mut(&node).unwrap());
    view.machine.power = Power::Starting;
    view.engine = EngineView::NotAsked;
    view.changing_since = Some(world.now);
    let observed = Arc::new(observed);
    let plan_at = |now| {
        plan(&PlanningInput {
            observed: Arc::clone(&observed),
            now,
            ..world.input(&shop_declared())
        })
    };
    let at_first = plan_at(world.now);
    let end = world.now + TimeDelta::minutes(30);
    assert!(!at_first.settled);
    assert_eq!(at_first.next_change, Some(end));
    let later = plan_at(end);
    assert!(later.settled);
    insta::assert_snapshot!(text(&later));
}

#[test]
fn keeps_the_placement_of_waiting_replicas() {
    let nodes = ["n1", "n2", "n3", "n4"];
    let declared = declared(&nodes, shop());
    let mut world = World::empty();
    world.placed.insert(instance("db", 1), node_name("n4"));
    world.placed.insert(instance("web", 1), node_name("n4"));
    let before = world.plan(&declared);
    let places = |plan: &Plan| -> Vec<_> {
        let instances = plan.instances.iter();
        instances
            .map(|(id, s)| (id.clone(), s.node.clone()))
            .collect()
    };
    assert_eq!(
        before.instances[&instance("db", 1)].node,
        Some(node_name("n4"))
    );
    world.placed = before
        .instances
        .iter()
        .filter_map(|(id, s)| Some((id.clone(), s.node.clone()?)))
        .collect();
    world.settle(&declared);
    assert_eq!(places(&world.plan(&declared)), places(&before));
}

#[test]
fn prefers_a_node_that_has_the_image() {
    let declared = declared(
        &["n1", "n2", "n3"],
        vec![service("db").image("postgres:15")],
    );
    let mut world = World::empty();
    world.settle(&declared.clone());
    let (first, name) = location_of(&world, "db", 1);
    for machine in world.machines.values_mut() {
        machine.state.containers.retain(|c| c.name != name);
        machine.state.images.clear();
    }
    world.last_seen.clear();
    let other = node_name(if first.as_str() == "n3" { "n2" } else { "n3" });
    let machine = world.machines.get_mut(&other).unwrap();
    machine
        .state
        .images
        .insert("postgres:15".into(), "sha256:15".into());
    let plan = world.plan(&declared);
    assert_eq!(plan.steps.len(), 1, "{plan}");
    assert_eq!(*plan.steps[0].action.node(), other);
}

#[test]
fn does_not_start_a_replica_that_may_run_on_an_unreachable_node() {
    let mut world = shop_world();
    let (node, _) = location_of(&world, "db", 1);
    world.lose(&node);
    let other = if node.as_str() == "n1" { "n2" } else { "n1" };
    let declared = shop_with(|s| s.on(other), "db");
    let plan = world.plan(&declared);
    assert!(
        !plan
            .steps
            .iter()
            .any(|s| matches!(&s.action, Action::StartInstance { instance: i, .. } if *i == instance("db", 1)))
    );
    insta::assert_snapshot!(text(&plan));
}

#[test]
fn holds_replicas_until_their_unreachable_node_is_deleted() {
    let mut world = shop_world();
    let (node, _) = location_of(&world, "db", 1);
    world.lose(&node);
    let left: Vec<&str> = ["n1", "n2", "n3"]
        .into_iter()
        .filter(|n| *n != node.as_str())
        .collect();
    let declared = declared(&left, shop());
    let fencing = world.plan(&declared);
    let delete = Action::DeleteNode { node: node.clone() }.id();
    let db = |plan: &Plan| {
        let start = plan.steps.iter().find(|s| {
            matches!(&s.action, Action::StartInstance { instance: i, .. } if *i == instance("db", 1))
        });
        start.map(|s| s.needs.contains(&delete))
    };
    assert_eq!(db(&fencing), Some(true));
    world.failures.insert(
        delete.clone(),
        Failure {
            times: 1,
            again_at: Some(world.now + TimeDelta::seconds(2)),
            why: "the cloud answered 500".into(),
            is_final: false,
        },
    );
    let held = world.plan(&declared);
    assert_eq!(db(&held), None);
    insta::assert_snapshot!(text(&held));
}

#[test]
fn copies_an_image_from_another_node() {
    let mut world = shop_world();
    let declared = shop_with(|s| s.replicas(3), "api");
    world.machines.values_mut().for_each(|m| {
        let here = m.state.containers.iter().any(|c| c.name.contains("-api-"));
        if !here {
            m.state.images.retain(|name, _| !name.contains("api"));
        }
    });
    insta::assert_snapshot!(text(&world.plan(&declared)));
}

#[test]
fn removes_an_undeclared_service() {
    let mut services = shop();
    services.retain(|s| s.name.as_str() != "monitoring");
    let declared = declared(&["n1", "n2", "n3"], services);
    let mut world = shop_world();
    world.get_images(&declared);
    insta::assert_snapshot!(text(&world.plan(&declared)));
}

#[test]
fn moves_replicas_off_an_undeclared_node() {
    let declared = declared(&["n1", "n3"], shop());
    let mut world = shop_world();
    let first = world.plan(&declared);
    world.settle(&declared);
    assert!(world.plan(&declared).is_empty());
    assert_eq!(world.machines.len(), 2);
    insta::assert_snapshot!(text(&first));
}

#[test]
fn reuses_the_port_of_an_undeclared_service() {
    let mut world = World::empty();
    world.settle(&declared(&["n1"], vec![service("old").host_port(80)]));
    let declared = declared(&["n1"], vec![service("new").host_port(80)]);
    insta::assert_snapshot!(text(&world.plan(&declared)));
    world.settle(&declared);
    assert!(world.plan(&declared).is_empty());
}

#[test]
fn hands_a_port_over_to_a_dependency() {
    let before = declared(&["n1"], vec![service("web").host_port(80)]);
    let mut world = World::empty();
    world.settle(&before);
    let proxy = service("proxy").host_port(80);
    let declared = declared(&["n1"], vec![service("web").ready_after("proxy"), proxy]);
    insta::assert_snapshot!(text(&world.plan(&declared)));
    let plan = world.settle(&declared);
    assert!(plan.is_empty() && plan.settled);
}

#[test]
fn swaps_the_ports_of_two_services() {
    let services = |a, b| {
        vec![
            service("a").host_port(a),
            service("b").host_port(b).ready_after("a"),
        ]
    };
    let mut world = World::empty();
    world.settle(&declared(&["n1"], services(80, 81)));
    let declared = declared(&["n1"], services(81, 80));
    insta::assert_snapshot!(text(&world.plan(&declared)));
    let plan = world.settle(&declared);
    assert!(plan.is_empty() && plan.settled);
}

#[test]
fn keeps_the_port_of_a_rolled_back_service() {
    let web = service("web").host_port(80);
    let mut world = World::empty();
    world.settle(&declared(&["n1"], vec![web.clone()]));
    let second = declared(&["n1"], vec![service("web").version(2)]);
    let web = instance("web", 1);
    let digest = second.services[&web.service].digest.clone();
    world.never_ready.insert(digest);
    world.settle(&second);
    world.now += TimeDelta::minutes(5);
    world.settle(&second);
    let proxy = service("proxy").host_port(80);
    let third = declared(&["n1"], vec![service("web").version(2), proxy]);
    let plan = world.settle(&third);
    assert!(plan.steps.is_empty() && plan.settled);
    insta::assert_snapshot!(text(&plan));
}

#[test]
fn stops_in_reverse_start_order() {
    let declared = shop_declared().emptied();
    let mut world = shop_world();
    let first = world.plan(&declared);
    world.settle(&declared);
    assert!(world.plan(&declared).is_empty());
    assert_eq!(world.machines.len(), 1);
    insta::assert_snapshot!(text(&first));
}

#[test]
fn reports_why_no_node_fits() {
    let services = vec![
        service("a").host_port(80).replicas(3),
        service("b").on("n9"),
        service("c").ready_after("b"),
    ];
    let declared = declared(&["n1", "n2"], services);
    let mut world = World::empty();
    insta::assert_snapshot!(text(&world.settle(&declared)));
}

#[test]
fn rejects_a_dependency_cycle() {
    let nodes = vec![NodeSpec::new(node_name("n1"))];
    let services = vec![
        service("a").ready_after("b"),
        service("b").ready_after("a"),
        service("c"),
    ];
    let error = derived(&declaration(nodes, services)).unwrap_err();
    insta::assert_snapshot!(error.chain());
}

#[test]
fn holds_steps_that_need_a_failed_step() {
    let declared = shop_declared();
    let mut world = World::empty();
    for node in ["n1", "n2", "n3"] {
        let node = node_name(node);
        world.apply(&declared, &Action::ProvisionNode { node: node.clone() });
        world.apply(
            &declared,
            &Action::PrepareNode {
                node,
                operation: None,
            },
        );
    }
    let first = world.plan(&declared);
    let pull = first
        .steps
        .iter()
        .find(|s| matches!(&s.action, Action::PullImage { image, .. } if image == "postgres:15"))
        .unwrap();
    world.failures.insert(
        pull.id.clone(),
        Failure {
            times: 5,
            again_at: Some(world.now + TimeDelta::seconds(16)),
            why: "no such image".into(),
            is_final: false,
        },
    );
    let plan = world.plan(&declared);
    assert_eq!(plan.next_change, Some(world.now + TimeDelta::seconds(16)));
    insta::assert_snapshot!(text(&plan));
}

#[test]
fn rolls_back_to_the_last_specification_that_was_ready() {
    // Version 1 becomes ready. Version 2 is replaced by version 4 before it becomes ready, and
    // version 4 is rejected. The rollback must choose version 1.
    let services = |version| declared(&["n1"], vec![service("web").version(version)]);
    let web = |version| -> SpecDigest {
        services(version).services[&instance("web", 1).service]
            .digest
            .clone()
    };
    let mut world = World::empty();
    world.settle(&services(1));
    world.never_ready = [web(2), web(4)].into();
    world.settle(&services(2));
    world.settle(&services(4));
    world.now += TimeDelta::minutes(5);
    world.settle(&services(4));
    // Let time pass until the rejected container is removed.
    world.now += TimeDelta::minutes(10);
    world.settle(&services(4));
    let left: Vec<_> = world.containers().map(|(_, c)| c.clone()).collect();
    assert_eq!(left.len(), 1);
    assert!(is_running(&left[0]) && left[0].digest == web(1));
}

/// Returns a service with one named volume.
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

/// Returns a world in which a database that ran on n2 no longer exists, but its volume still does.
fn only_the_volume_is_left() -> World {
    let mut world = World::empty();
    world.settle(&declared(&["n1", "n2", "n3"], Vec::new()));
    let machine = world.machines.get_mut(&node_name("n2")).unwrap();
    let volume = VolumeName::try_from("data").unwrap();
    machine.state.volumes.insert(volume);
    world
}

#[test]
fn places_a_replica_on_the_node_of_its_volume() {
    let target = declared(&["n1", "n2", "n3"], vec![with_volume("db")]);
    let plan = only_the_volume_is_left().plan(&target);
    let start = plan.steps.iter().find(|step| {
        matches!(&step.action, Action::StartInstance { node, .. } if *node == node_name("n2"))
    });
    let reason = start.unwrap().reason.to_string();
    assert_eq!(
        reason,
        "declared, but the replica has no container; its volume data is on this node"
    );
}

#[test]
fn does_not_start_a_replica_without_its_volume() {
    let elsewhere = with_volume("db").on("n1");
    let target = declared(&["n1", "n2", "n3"], vec![elsewhere]);
    let plan = only_the_volume_is_left().plan(&target);
    let text = text(&plan);
    assert!(
        text.contains("n1: the replica's volume data is on n2, and data is not moved"),
        "{text}"
    );
    let starts = plan.steps.iter();
    let mut starts = starts.filter(|s| matches!(s.action, Action::StartInstance { .. }));
    assert!(starts.next().is_none());
}

#[test]
fn gives_each_of_several_replicas_its_own_volume() {
    let mut spec = with_volume("db").replicas(3);
    spec.max_per_node = Some(1);
    let target = declared(&["n1", "n2", "n3"], vec![spec]);
    let plan = only_the_volume_is_left().plan(&target);
    let nodes: std::collections::BTreeSet<_> = plan
        .instances
        .values()
        .map(|status| status.node.clone())
        .collect();
    assert_eq!(nodes.len(), 3, "{}", text(&plan));
}

#[test]
fn respects_the_maximum_per_node() {
    let mut spec = service("db").image("postgres:15").replicas(3);
    spec.max_per_node = Some(1);
    let target = declared(&["n1", "n2"], vec![spec]);
    let text = text(&World::empty().plan(&target));
    assert!(
        text.contains("n1 and 1 more: already runs the maximum number of replicas per node (1)"),
        "{text}"
    );
}
