//! Plans for the requested restart or stop of a node.

use lifecycle_core::model::{InstanceState, NodeName, NodeSpec, RestartPolicy};
use lifecycle_core::reconcile::{Action, Declared, Failure, HeldBy, Plan};
use lifecycle_core::runtime::ContainerState;

use super::builder::{
    ServiceChanges, declaration, declared, derived, instance, node_name, service,
};
use super::checks::may_run;
use super::model::{World, is_running};

/// Both services are on one node. `web` needs `db`, and no policy restarts them.
fn pair() -> Declared {
    let db = service("db").on("n1").restart(RestartPolicy::No);
    let web = service("web").on("n1").ready_after("db");
    let elsewhere = service("other").on("n2").ready_after("db");
    declared(
        &["n1", "n2"],
        vec![db, web.restart(RestartPolicy::No), elsewhere],
    )
}

/// Returns the world after the plans were carried out, with the request to restart `n1`.
fn requested(declared: &Declared) -> (World, NodeName) {
    let mut world = World::empty();
    world.settle(declared);
    world.now += chrono::TimeDelta::seconds(9);
    let node = node_name("n1");
    world.request_node_restart(&node);
    (world, node)
}

/// Carries out plans until no step is left. Returns the steps in order.
fn carry_out(world: &mut World, declared: &Declared) -> String {
    let mut done = Vec::new();
    for _ in 0..40 {
        let plan = world.plan(declared);
        let Some(step) = may_run(&plan).into_iter().next() else {
            if plan.settled {
                break;
            }
            world.tick(declared);
            continue;
        };
        done.push(match &step.action {
            Action::StartInstance { instance, .. } => format!("+{instance}"),
            Action::StopInstance { instance, .. } => format!("-{instance}"),
            other => other.to_string(),
        });
        world.apply(declared, &step.action);
    }
    done.join(" ")
}

fn holds(plan: &Plan, is: impl Fn(&HeldBy) -> bool) -> bool {
    plan.held.iter().any(|held| is(&held.by))
}

#[test]
fn containers_stop_before_the_restart_and_start_afterwards_in_order() {
    let declared = pair();
    let (mut world, _) = requested(&declared);
    let plan = world.plan(&declared);
    assert!(!plan.settled);
    assert!(holds(&plan, |by| {
        *by == HeldBy::NodeRestartsAfter {
            replica: instance("web", 1),
        }
    }));
    let done = carry_out(&mut world, &declared);
    assert_eq!(done, "-web-1 -db-1 restart node n1 +db-1 +web-1");
    let plan = world.plan(&declared);
    assert!(plan.is_empty() && plan.settled, "{plan}");
}

#[test]
fn a_node_that_does_not_respond_is_restarted_at_once() {
    let declared = pair();
    let (mut world, node) = requested(&declared);
    world.lose(&node);
    let steps = may_run(&world.plan(&declared));
    let restart = Action::RestartNode {
        node,
        boot_id: "boot 1".into(),
    };
    let actions: Vec<_> = steps.into_iter().map(|step| step.action).collect();
    assert_eq!(actions, [restart]);
}

#[test]
fn a_node_in_a_later_boot_is_not_restarted() {
    let declared = pair();
    let (mut world, node) = requested(&declared);
    world.machines.get_mut(&node).unwrap().boots += 1;
    world.restarts.clear();
    assert!(world.plan(&declared).is_empty());
}

fn failure(is_final: bool) -> Failure {
    Failure {
        times: 1,
        again_at: None,
        why: "no answer".into(),
        is_final,
    }
}

#[test]
fn a_container_that_cannot_be_stopped_does_not_prevent_the_restart() {
    let declared = pair();
    let (mut world, _) = requested(&declared);
    let stop = may_run(&world.plan(&declared)).remove(0);
    world.failures.insert(stop.id, failure(true));
    let next = may_run(&world.plan(&declared)).remove(0);
    assert_eq!(next.action.to_string(), "stop db-1 on n1");
    world.apply(&declared, &next.action);
    let restart = may_run(&world.plan(&declared)).remove(0);
    assert_eq!(restart.action.to_string(), "restart node n1");
}

#[test]
fn after_a_failed_restart_the_containers_start_again() {
    let declared = pair();
    let (mut world, node) = requested(&declared);
    let restart = Action::RestartNode {
        node,
        boot_id: "boot 1".into(),
    };
    for expected in ["stop web-1 on n1", "stop db-1 on n1"] {
        let stop = may_run(&world.plan(&declared)).remove(0);
        assert_eq!(stop.action.to_string(), expected);
        world.apply(&declared, &stop.action);
    }
    world.failures.insert(restart.id(), failure(true));
    assert_eq!(carry_out(&mut world, &declared), "+db-1 +web-1");
    assert!(world.plan(&declared).settled);
}

#[test]
fn a_completed_job_is_not_run_again() {
    let job = service("job").on("n1").restart(RestartPolicy::No);
    let declared = declared(&["n1"], vec![job]);
    let (mut world, _) = requested(&declared);
    let at = Some(world.now);
    for machine in world.machines.values_mut() {
        for container in &mut machine.state.containers {
            assert!(is_running(container));
            container.state = ContainerState::Exited { code: 0, at };
        }
    }
    world.restarts.clear();
    assert_eq!(carry_out(&mut world, &declared), "restart node n1");
}

#[test]
fn containers_stop_before_their_node_and_start_after_it_in_order() {
    let declared = |stopped| {
        let db = service("db").on("n2");
        let web = service("web").on("n2").ready_after("db");
        let mut n2 = NodeSpec::new(node_name("n2"));
        n2.stopped = stopped;
        let nodes = vec![NodeSpec::new(node_name("n1")), n2];
        derived(&declaration(nodes, vec![db, web])).unwrap()
    };
    let mut world = World::empty();
    world.settle(&declared(false));
    let done = carry_out(&mut world, &declared(true));
    assert_eq!(done, "-web-1 -db-1 stop node n2");
    let plan = world.plan(&declared(true));
    assert!(plan.settled && plan.steps.is_empty(), "{plan}");
    let states = plan.instances.values().map(|status| &status.state);
    assert!(
        states
            .into_iter()
            .all(|state| *state == InstanceState::Stopped)
    );
    let done = carry_out(&mut world, &declared(false));
    assert_eq!(done, "start node n2 +db-1 +web-1");
    assert!(world.plan(&declared(false)).is_empty());
}

#[test]
fn a_node_stops_after_its_replicas_have_moved() {
    let declared = |stopped| {
        let mut n2 = NodeSpec::new(node_name("n2"));
        n2.stopped = stopped;
        let nodes = vec![NodeSpec::new(node_name("n1")), n2];
        derived(&declaration(nodes, vec![service("web").replicas(2)])).unwrap()
    };
    let mut world = World::empty();
    world.settle(&declared(false));
    let plan = world.plan(&declared(true));
    let by = |by: &HeldBy| matches!(by, HeldBy::NodeStopsAfter { .. });
    assert!(holds(&plan, by) && !plan.settled, "{plan}");
    let done = carry_out(&mut world, &declared(true));
    let (start, stop) = (done.find('+').unwrap(), done.find('-').unwrap());
    assert!(start < stop && done.ends_with("stop node n2"), "{done}");
    let plan = world.plan(&declared(true));
    let states = plan.instances.values().map(|status| &status.state);
    assert!(
        states
            .into_iter()
            .all(|state| *state == InstanceState::Ready)
    );
}
