//! Tests how plans build, compare, copy and remove images.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use lifecycle_core::model::{DependencyCondition, ServiceSpec};
use lifecycle_core::reconcile::{Action, Failure, Plan};
use lifecycle_core::runtime::uncompared;

use super::builder::{ServiceChanges, declared, instance, node_name, service};
use super::model::World;
use super::situations::{location_of, shop_declared, shop_with, shop_world, text};

#[test]
fn keeps_a_service_whose_image_is_unchanged() {
    // Versions 2 and 3 differ only in files that are not part of the image.
    let services = |version| {
        let web = service("web").version(version).replicas(3);
        let job = service("job").version(version);
        let after = DependencyCondition::ServiceCompletedSuccessfully;
        declared(&["n1", "n2"], vec![web.needs("job", after), job])
    };
    let mut world = World::empty();
    world.settle(&services(2));
    let before: Vec<_> = world.containers().map(|(_, c)| c.clone()).collect();
    let third = services(3);
    let at_first = world.plan(&third);
    assert!(at_first.rollouts.is_empty(), "{at_first}");
    world.settle(&third);
    let after: Vec<_> = world.containers().map(|(_, c)| c.clone()).collect();
    assert_eq!(before, after);
    let later = world.plan(&third);
    assert!(later.steps.is_empty() && later.settled, "{later}");
    world.settle(&services(4));
    let changed = world.containers().all(|(_, c)| !before.contains(c));
    assert!(changed, "a changed image replaced nothing");
    insta::assert_snapshot!(format!("{}\n\nlater\n{}", text(&at_first), text(&later)));
}

#[test]
fn builds_one_image_for_the_services_of_a_code_base() {
    let services = ["a", "b", "c"].map(|name| ServiceSpec {
        source: service("code").source,
        ..service(name).replicas(2)
    });
    let declared = declared(&["n1", "n2"], services.into());
    let plan = World::empty().plan(&declared);
    let actions = || plan.steps.iter().map(|step| &step.action);
    let builds = actions().filter(|action| matches!(action, Action::BuildImage { .. }));
    let copies = actions().filter(|action| matches!(action, Action::CopyImage { .. }));
    assert_eq!((builds.count(), copies.count()), (1, 1), "{plan}");
}

#[test]
fn builds_no_image_that_another_node_is_building() {
    let web = service("web").replicas(2);
    let declared = declared(&["n1", "n2"], vec![web]);
    let mut world = World::empty();
    let image = declared.services.values().next().unwrap().image.clone();
    world.builds.insert(image, node_name("n2"));
    let plan = world.plan(&declared);
    let of_image = plan.steps.iter().filter(|step| {
        let action = &step.action;
        matches!(action, Action::BuildImage { .. } | Action::CopyImage { .. })
    });
    let nodes: Vec<String> = of_image.map(|step| step.action.to_string()).collect();
    assert_eq!(nodes.len(), 2, "{plan}");
    assert!(nodes[0].starts_with("build ") && nodes[0].ends_with(" on n2"));
    assert!(nodes[1].ends_with(" from n2 to n1"), "{nodes:?}");
}

#[test]
fn builds_where_the_image_can_be_compared() {
    let web = |version| service("web").version(version).replicas(2);
    let mut world = World::empty();
    world.settle(&declared(&["n1", "n2"], vec![web(1).on("n2")]));
    // The first replica moves to a node that has never had the image.
    let moved = ServiceSpec {
        constraints: Vec::new(),
        max_per_node: Some(1),
        ..web(2)
    };
    let plan = world.plan(&declared(&["n1", "n2"], vec![moved]));
    let built = plan.steps.iter().find_map(|step| match &step.action {
        Action::BuildImage { node, .. } => Some(node.as_str()),
        _ => None,
    });
    assert_eq!(built, Some("n2"), "{plan}");
}

#[test]
fn builds_where_the_image_was_built_first() {
    let services = |version| {
        let shared = |name| ServiceSpec {
            source: service("code").version(version).source,
            ..service(name)
        };
        let api = shared("api").on("n2").ready_after("worker");
        vec![api, shared("worker").on("n3")]
    };
    let on_managers = |version| {
        let web = service("web").version(version);
        vec![web.replicas(3)]
    };
    let nodes = ["n3", "n1", "n2"];
    for services in [services as fn(u32) -> Vec<ServiceSpec>, on_managers] {
        let built = |world: &World, version| {
            let plan = world.plan(&declared(&nodes, services(version)));
            let build = plan.steps.iter().find_map(|step| match &step.action {
                Action::BuildImage { node, .. } => Some(node.clone()),
                _ => None,
            });
            build.unwrap_or_else(|| panic!("{plan}"))
        };
        let mut world = World::empty();
        world.settle(&declared(&nodes, Vec::new()));
        let first = built(&world, 1);
        assert_eq!(first, node_name("n3"));
        world.settle(&declared(&nodes, services(1)));
        assert_eq!(built(&world, 2), first);
    }
}

#[test]
fn replaces_a_dependent_service_only_after_the_comparison() {
    let services = |version, label: &str| {
        let mut web = service("web").image("nginx:1").ready_after("api");
        web.container.labels.insert("label".into(), label.into());
        declared(&["n1"], vec![service("api").version(version), web])
    };
    let mut world = World::empty();
    world.settle(&services(1, "a"));
    let plan = world.plan(&services(2, "b"));
    let steps: Vec<String> = plan.steps.iter().map(|s| s.action.to_string()).collect();
    assert_eq!(steps.len(), 1, "{plan}");
    assert!(steps[0].starts_with("build "), "{plan}");
    assert!(!plan.settled);
    world.settle(&services(2, "b"));
    assert!(world.plan(&services(2, "b")).is_empty());
}

#[test]
fn builds_elsewhere_after_a_failure_on_the_node_that_could_compare() {
    let web = |version| {
        let web = service("web").version(version);
        declared(&["n1", "n2"], vec![web.replicas(2)])
    };
    let mut world = World::empty();
    world.settle(&web(1));
    let second = web(2);
    let build = world.plan(&second).steps[0].clone();
    assert!(
        matches!(build.action, Action::BuildImage { .. }),
        "{build:?}"
    );
    let failed = Failure {
        times: 1,
        again_at: Some(world.now + TimeDelta::seconds(16)),
        why: "no space left on device".into(),
        is_final: false,
    };
    world.failures.insert(build.id.clone(), failed);
    let plan = world.plan(&second);
    let other = plan.steps.iter().find(|step| {
        matches!(step.action, Action::BuildImage { .. })
            && step.action.node() != build.action.node()
    });
    assert!(other.is_some(), "{plan}");
}

#[test]
fn removes_only_names_that_the_platform_gave() {
    let declared = shop_declared();
    let mut world = shop_world();
    let image = declared.services[&instance("web", 1).service].image.clone();
    for machine in world.machines.values_mut() {
        let Some(id) = machine.state.images.get(&image).cloned() else {
            continue;
        };
        let repository = image.split(':').next().unwrap();
        let by_digest = format!("{repository}@sha256:00");
        machine.state.images.insert(by_digest, id);
    }
    let plan = world.plan(&declared);
    assert!(plan.is_empty(), "{plan}");
}

#[test]
fn an_image_that_cannot_be_removed_delays_nothing() {
    let second = shop_with(|s| s.version(2), "web");
    let mut world = shop_world();
    world.settle(&second);
    let (node, _) = location_of(&world, "web", 1);
    let old = shop_declared().services[&instance("web", 1).service]
        .image
        .clone();
    let images = &mut world.machines.get_mut(&node).unwrap().state.images;
    images.insert(old, "image of others".into());
    let plan = world.plan(&second);
    assert_eq!(plan.steps.len(), 1, "{plan}");
    let again_at = world.now + TimeDelta::seconds(16);
    let failed = Failure {
        times: 1,
        again_at: Some(again_at),
        why: "a container uses the image".into(),
        is_final: false,
    };
    world.failures.insert(plan.steps[0].id.clone(), failed);
    let plan = world.plan(&second);
    assert!(plan.is_empty() && plan.settled, "{plan}");
    assert_eq!(plan.next_change, Some(again_at));
}

#[test]
fn removes_images_that_no_service_needs() {
    let second = shop_with(|s| s.version(2), "web");
    let mut world = shop_world();
    let images = |world: &World| -> BTreeSet<String> {
        let machines = world.machines.values();
        machines
            .flat_map(|m| m.state.images.keys().cloned())
            .collect()
    };
    let before = images(&world);
    world.get_images(&second);
    // The old container still needs the old image.
    let plan = world.plan(&second);
    let removes = |plan: &Plan| {
        let steps = plan.steps.iter();
        steps
            .filter(|s| matches!(s.action, Action::RemoveImage { .. }))
            .count()
    };
    assert_eq!(removes(&plan), 0, "{plan}");
    world.settle(&second);
    let after = images(&world);
    let gone: Vec<_> = before.difference(&after).collect();
    assert_eq!(gone.len(), 1, "{gone:?}");
    assert!(gone[0].contains("/web:"), "{gone:?}");
    assert!(
        after.contains("debian:12"),
        "an image of others was removed"
    );
}

#[test]
fn removes_the_image_of_an_interrupted_build_but_not_of_a_build_in_progress() {
    let second = shop_with(|s| s.version(2), "web");
    let mut world = shop_world();
    let plan = world.plan(&second);
    let (image, node) = plan
        .steps
        .iter()
        .find_map(|step| match &step.action {
            Action::BuildImage { image, node, .. } => Some((image.clone(), node.clone())),
            _ => None,
        })
        .unwrap();
    let left = uncompared(&image);
    let names = |world: &World| {
        let images = &world.machines[&node].state.images;
        images.keys().cloned().collect::<BTreeSet<_>>()
    };
    let images = &mut world.machines.get_mut(&node).unwrap().state.images;
    images.insert(left.clone(), "an image without containers".into());
    let removes = |plan: &Plan| {
        let mut actions = plan.steps.iter().map(|step| &step.action);
        actions.any(|action| matches!(action, Action::RemoveImage { image, .. } if *image == left))
    };
    assert!(!removes(&world.plan(&second)));
    world.get_images(&second);
    assert!(removes(&world.plan(&second)));
    world.settle(&second);
    let names = names(&world);
    assert!(
        names.contains(&image) && !names.contains(&left),
        "{names:?}"
    );
}
