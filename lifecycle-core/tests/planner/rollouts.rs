//! Tests how the replicas of a changed service are replaced: parallelism, order, delay, monitoring,
//! and what happens after a failure.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::TimeDelta;
use lifecycle_core::model::{
    DependencyCondition, InstanceId, InstanceState, NetworkMode, NodeMount, OnFailure, Protocol,
    PublishedPort, Replacement, ReplacementOrder, RestartPolicy, RolloutControl, RolloutRequest,
    ServiceSpec, SpecDigest, UpdatePolicy, VolumeMount, VolumeName, VolumeOptions,
};
use lifecycle_core::reconcile::{Action, Declared, HeldBy, Plan, Reason, RolloutState};
use lifecycle_core::runtime::ContainerState;
use proptest::prelude::*;

use super::arbitrary::update_policy;
use super::builder::{ServiceChanges, declared, instance, service, service_name};
use super::checks::{assert_sound, may_run};
use super::model::{World, is_running};
use super::properties::{chooser, config, forget_endings, partly};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

pub(crate) fn web(replicas: u16) -> ServiceSpec {
    service("web").image("nginx").replicas(replicas)
}

pub(crate) fn updated(update: Replacement) -> UpdatePolicy {
    UpdatePolicy {
        update: Some(update),
        rollback: None,
    }
}

/// Returns a world that runs version 1 of the service, and the declarations of versions 1 and 2.
/// Version 2 is everywhere except on the containers.
pub(crate) fn before(spec: &ServiceSpec) -> (World, Declared, Declared) {
    let version = |version| declared(&NODES, vec![spec.clone().version(version)]);
    let (old, new) = (version(1), version(2));
    let mut world = World::empty();
    world.settle(&old);
    world.get_images(&new);
    (world, old, new)
}

pub(crate) fn digest(declared: &Declared) -> SpecDigest {
    declared.services[&service_name("web")].digest.clone()
}

/// Returns the starts and stops of a plan, as `+web-1` and `-web-1`.
fn changes(plan: &Plan) -> Vec<String> {
    let steps = plan.steps.iter();
    let changes = steps.filter_map(|step| match &step.action {
        Action::StartInstance { instance, .. } => Some(format!("+{instance}")),
        Action::StopInstance { instance, .. } => Some(format!("-{instance}")),
        _ => None,
    });
    changes.collect()
}

/// Carries out all steps of the plans, until no step is left or time has to pass. Returns the starts and
/// stops.
pub(crate) fn carry_out(world: &mut World, declared: &Declared) -> Vec<String> {
    let mut done = Vec::new();
    loop {
        let plan = world.plan(declared);
        assert_sound(&plan);
        world.assert_available(declared, &plan);
        world.record(&plan);
        let steps = may_run(&plan);
        let Some(step) = steps.first() else {
            return done;
        };
        done.extend(changes(&Plan {
            steps: vec![step.clone()],
            ..Plan::default()
        }));
        world.apply(declared, &step.action);
    }
}

/// Carries out the plans and lets time pass, up to `seconds`. Returns the starts and stops of each
/// second.
pub(crate) fn run(world: &mut World, declared: &Declared, seconds: usize) -> Vec<Vec<String>> {
    let mut all = vec![carry_out(world, declared)];
    for _ in 0..seconds {
        world.tick(declared);
        all.push(carry_out(world, declared));
    }
    all
}

fn ready(world: &World, replicas: u16) -> usize {
    let ids = (1..=replicas).map(|n| instance("web", n));
    ids.filter(|id| world.is_ready(id, &BTreeSet::new()))
        .count()
}

/// Returns the replicas with a running container of this digest.
fn running(world: &World, digest: &SpecDigest, replicas: u16) -> Vec<InstanceId> {
    let ids = (1..=replicas).map(|n| instance("web", n));
    let runs = |id: &InstanceId| {
        let mut of = world.of(id);
        of.any(|(_, c)| is_running(c) && c.digest == *digest)
    };
    ids.filter(runs).collect()
}

fn held_by(plan: &Plan, replica: u16) -> HeldBy {
    let subject = lifecycle_core::model::Subject::Instance(instance("web", replica));
    let held = plan.held.iter().find(|held| held.subject == subject);
    held.map(|held| held.by.clone()).unwrap()
}

#[test]
fn replaces_one_replica_at_a_time_and_starts_the_new_one_first() {
    let (mut world, _, new) = before(&web(3));
    assert_eq!(
        run(&mut world, &new, 3),
        [
            vec!["+web-1"],
            vec!["-web-1", "+web-2"],
            vec!["-web-2", "+web-3"],
            vec!["-web-3"],
        ]
    );
    let plan = world.plan(&new);
    assert!(plan.is_empty() && plan.settled && plan.rollouts.is_empty());
    assert_eq!(world.containers().count(), 3);
}

#[test]
fn reports_the_progress_and_what_each_replica_waits_for() {
    let (mut world, _, new) = before(&web(3));
    run(&mut world, &new, 1);
    let plan = world.plan(&new);
    let progress = &plan.rollouts[&service_name("web")];
    assert_eq!(progress.state, RolloutState::Progressing);
    assert_eq!((progress.replaced, progress.replicas), (1, 3));
    let replica = instance("web", 2);
    assert_eq!(held_by(&plan, 3), HeldBy::ReplacedAfter { replica });
    assert!(!plan.settled);
}

#[test]
fn parallelism_zero_replaces_all_replicas_together() {
    let all = Replacement {
        parallelism: Some(0),
        order: Some(ReplacementOrder::StopFirst),
        ..Replacement::default()
    };
    let mut spec = web(3);
    spec.update = updated(all);
    let (mut world, _, new) = before(&spec);
    let first = carry_out(&mut world, &new);
    assert_eq!(first.len(), 6, "{first:?}");
}

#[test]
fn stops_the_old_replica_first_if_the_service_writes_to_a_volume() {
    let mut spec = web(2);
    spec.container.volumes = vec![VolumeMount {
        volume: VolumeName::try_from("data").unwrap(),
        target: "/data".into(),
        read_only: false,
        options: VolumeOptions::default(),
    }];
    let (mut world, _, new) = before(&spec);
    assert_eq!(carry_out(&mut world, &new), ["-web-1", "+web-1"]);
}

#[test]
fn stops_the_old_replica_first_if_both_cannot_run_together() {
    let with = |change: fn(&mut ServiceSpec)| {
        let mut spec = web(1);
        change(&mut spec);
        let (mut world, _, new) = before(&spec);
        carry_out(&mut world, &new)
    };
    let stop_first = ["-web-1", "+web-1"];
    let host_network = |spec: &mut ServiceSpec| spec.container.connection.mode = NetworkMode::Host;
    assert_eq!(with(host_network), stop_first);
    let node_path = |spec: &mut ServiceSpec| {
        spec.container.node_paths = vec![NodeMount {
            source: "/srv/db".into(),
            target: "/var/lib/db".into(),
            ..NodeMount::default()
        }];
    };
    assert_eq!(with(node_path), stop_first);
    // Ports on one address of the node are not observed.
    let one_address = |spec: &mut ServiceSpec| {
        spec.container.ports = vec![PublishedPort {
            host_port: Some(8080),
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: Some(std::net::Ipv4Addr::LOCALHOST.into()),
        }];
    };
    assert_eq!(with(one_address), stop_first);
}

#[test]
fn stops_no_replica_while_another_is_not_ready() {
    let mut spec = web(3);
    spec.update = updated(Replacement {
        order: Some(ReplacementOrder::StopFirst),
        ..Replacement::default()
    });
    let (mut world, _, new) = before(&spec);
    world.power_off(&super::builder::node_name("n2"));
    world.lose(&super::builder::node_name("n2"));
    assert_eq!(carry_out(&mut world, &new), Vec::<String>::new());
    let plan = world.plan(&new);
    let too_few = HeldBy::TooFewReady {
        ready: 2,
        replicas: 3,
    };
    assert_eq!(held_by(&plan, 1), too_few);
    assert_eq!(held_by(&plan, 3), too_few);
}

#[test]
fn keeps_replaced_containers_while_another_replica_cannot_be_observed() {
    let (mut world, _, new) = before(&web(2));
    run(&mut world, &new, 1);
    let of_first = |world: &World| world.of(&instance("web", 1)).count();
    assert_eq!(of_first(&world), 2);
    let second = instance("web", 2);
    let node = world.of(&second).next().unwrap().0.clone();
    world.lose(&node);
    run(&mut world, &new, 60);
    assert_eq!(of_first(&world), 2, "a rollback needs the old container");
    world.find_again();
    run(&mut world, &new, 3);
    assert_eq!((of_first(&world), world.containers().count()), (1, 2));
}

#[test]
fn replaces_unready_replicas_first() {
    let (mut world, _, new) = before(&web(3));
    let id = instance("web", 3);
    let (node, name) = {
        let (node, container) = world.of(&id).next().unwrap();
        (node.clone(), container.name.clone())
    };
    let at = Some(world.now);
    world.container(&node, &name).unwrap().state = ContainerState::Exited { code: 1, at };
    assert_eq!(carry_out(&mut world, &new), ["+web-3"]);
}

#[test]
fn waits_for_the_delay_between_replicas() {
    let mut spec = web(2);
    spec.update = updated(Replacement {
        delay: Some(Duration::from_secs(3)),
        ..Replacement::default()
    });
    let (mut world, _, new) = before(&spec);
    run(&mut world, &new, 1);
    let plan = world.plan(&new);
    assert!(matches!(held_by(&plan, 2), HeldBy::RolloutDelay { .. }));
    let seconds = run(&mut world, &new, 3);
    assert_eq!(seconds[..3].concat(), Vec::<String>::new());
    assert_eq!(seconds[3], ["+web-2"]);
}

#[test]
fn monitors_each_replica_before_the_next() {
    let mut spec = web(2);
    spec.update = updated(Replacement {
        monitor: Some(Duration::from_secs(3)),
        ..Replacement::default()
    });
    let (mut world, _, new) = before(&spec);
    let seconds = run(&mut world, &new, 4);
    assert_eq!(seconds[..2], [vec!["+web-1"], vec!["-web-1"]]);
    assert_eq!(seconds[2..4].concat(), Vec::<String>::new());
    assert_eq!(seconds[4], ["+web-2"]);
    run(&mut world, &new, 1);
    let plan = world.plan(&new);
    assert!(matches!(held_by(&plan, 2), HeldBy::Monitored { .. }));
    assert!(!plan.settled);
    run(&mut world, &new, 3);
    assert!(world.plan(&new).settled);
}

#[test]
fn a_replica_that_ends_while_it_is_monitored_has_failed() {
    let mut spec = web(2);
    spec.update = updated(Replacement {
        monitor: Some(Duration::from_secs(3)),
        ..Replacement::default()
    });
    let (mut world, old, new) = before(&spec);
    run(&mut world, &new, 2);
    let id = instance("web", 1);
    let (node, name) = {
        let mut of = world.of(&id);
        let (node, container) = of.find(|(_, c)| c.digest == digest(&new)).unwrap();
        (node.clone(), container.name.clone())
    };
    let at = Some(world.now);
    world.container(&node, &name).unwrap().state = ContainerState::Exited { code: 3, at };
    run(&mut world, &new, 5);
    assert_eq!(running(&world, &digest(&old), 2).len(), 2);
    let plan = world.plan(&new);
    let progress = &plan.rollouts[&service_name("web")];
    assert_eq!(progress.state, RolloutState::Paused);
    let why = progress.why.clone().unwrap();
    assert!(why.contains("exit code 3 within 3s"), "{why}");
}

/// Returns a world as [`before`] does. Version 2 never becomes ready, and has this failure action.
fn failing(
    on_failure: OnFailure,
    max_failure_millionths: Option<u32>,
) -> (World, Declared, Declared) {
    let mut spec = web(3);
    spec.ready_within = Duration::from_secs(2);
    spec.update = updated(Replacement {
        on_failure: Some(on_failure),
        max_failure_millionths,
        ..Replacement::default()
    });
    let (mut world, old, new) = before(&spec);
    world.never_ready.insert(digest(&new));
    (world, old, new)
}

/// Runs version 2, which never becomes ready, with this failure action.
fn fail(
    on_failure: OnFailure,
    max_failure_millionths: Option<u32>,
) -> (World, Plan, Declared, Declared) {
    let (mut world, old, new) = failing(on_failure, max_failure_millionths);
    for _ in 0..20 {
        run(&mut world, &new, 1);
        assert_eq!(ready(&world, 3), 3, "the old version serves throughout");
    }
    let plan = world.plan(&new);
    assert!(plan.settled && plan.steps.is_empty(), "{plan:#?}");
    assert_eq!(running(&world, &digest(&new), 3), []);
    (world, plan, old, new)
}

fn attempted(world: &World, declared: &Declared) -> usize {
    let all = world.containers();
    all.filter(|(_, c)| c.digest == digest(declared)).count()
}

#[test]
fn pause_leaves_the_remaining_replicas_untouched() {
    let (world, plan, _, new) = fail(OnFailure::Pause, None);
    assert_eq!(attempted(&world, &new), 1);
    let progress = &plan.rollouts[&service_name("web")];
    assert_eq!(progress.state, RolloutState::Paused);
    assert!(matches!(held_by(&plan, 2), HeldBy::RolloutPaused { .. }));
    let failed = &plan.instances[&instance("web", 1)];
    assert!(
        matches!(&failed.state, InstanceState::Failed { .. }),
        "{failed:?}"
    );
}

#[test]
fn continue_replaces_the_remaining_replicas() {
    let (world, _, _, new) = fail(OnFailure::Continue, None);
    assert_eq!(attempted(&world, &new), 3);
}

#[test]
fn a_rollout_that_continued_after_a_failure_ends() {
    let (mut world, _, new) = failing(OnFailure::Continue, None);
    run(&mut world, &new, 2);
    let rejected = world.plan(&new);
    world.record(&rejected);
    world.never_ready.clear();
    run(&mut world, &new, 5);
    let plan = world.plan(&new);
    assert!(plan.settled && plan.steps.is_empty(), "{plan:#?}");
    let progress = &plan.rollouts[&service_name("web")];
    assert_eq!(
        (progress.state, progress.replaced),
        (RolloutState::Failed, 2)
    );
    // Of the failed replica, both containers are left; of the others, only the new one.
    assert_eq!(world.containers().count(), 4);
}

#[test]
fn another_attempt_never_stops_the_container_that_serves() {
    for restart in [
        RestartPolicy::No,
        RestartPolicy::OnFailure { max_retries: None },
    ] {
        let mut spec = web(1).restart(restart);
        spec.ready_within = Duration::from_secs(2);
        let (mut world, old, new) = before(&spec);
        world.never_ready.insert(digest(&new));
        run(&mut world, &new, 5);
        assert_eq!(attempted(&world, &new), 1);
        // The rollback stopped the new container, which ended with exit code 0.
        world.rejected.clear();
        for _ in 0..5 {
            run(&mut world, &new, 1);
            assert_eq!(running(&world, &digest(&old), 1).len(), 1);
        }
    }
}

#[test]
fn a_failed_move_is_rolled_back_on_the_previous_node() {
    let mut spec = web(1);
    spec.ready_within = Duration::from_secs(2);
    spec.update = updated(Replacement {
        order: Some(ReplacementOrder::StopFirst),
        ..Replacement::default()
    });
    let old = declared(&NODES, vec![spec.clone().on("n1")]);
    let new = declared(&NODES, vec![spec.version(2).on("n2")]);
    let mut world = World::empty();
    world.settle(&old);
    world.get_images(&new);
    world.never_ready.insert(digest(&new));
    run(&mut world, &new, 8);
    assert_eq!(ready(&world, 1), 1);
    assert_eq!(running(&world, &digest(&old), 1).len(), 1);
    assert!(world.plan(&new).settled);
}

#[test]
fn a_rollback_monitors_each_replica() {
    let mut spec = web(3);
    spec.update = UpdatePolicy {
        update: None,
        rollback: Some(Replacement {
            monitor: Some(Duration::from_secs(2)),
            ..Replacement::default()
        }),
    };
    let (mut world, _, new) = before(&spec);
    run(&mut world, &new, 2);
    request(&mut world, &new, RolloutRequest::Rollback);
    let mut seconds = run(&mut world, &new, 3);
    assert_eq!(seconds.remove(0), ["-web-3", "+web-1"]);
    assert!(!world.plan(&new).settled);
    assert_eq!(seconds.concat(), ["-web-1", "+web-2"]);
}

#[test]
fn a_pause_during_the_last_replica_ends_with_the_rollout() {
    let (mut world, _, new) = before(&web(1));
    carry_out(&mut world, &new);
    request(&mut world, &new, RolloutRequest::Pause);
    run(&mut world, &new, 2);
    let plan = world.plan(&new);
    assert!(plan.is_empty() && plan.rollouts.is_empty(), "{plan:#?}");
}

#[test]
fn max_failure_ratio_tolerates_failed_replicas() {
    let (world, _, _, new) = fail(OnFailure::Pause, Some(400_000));
    assert_eq!(
        attempted(&world, &new),
        2,
        "1 of 3 is tolerated, 2 of 3 are not"
    );
}

#[test]
fn rollback_restores_the_replicas_that_were_replaced() {
    let mut spec = web(3);
    spec.ready_within = Duration::from_secs(2);
    spec.update = updated(Replacement {
        on_failure: Some(OnFailure::Rollback),
        ..Replacement::default()
    });
    let (mut world, old, new) = before(&spec);
    run(&mut world, &new, 1);
    assert_eq!(running(&world, &digest(&new), 3).len(), 2);
    world.never_ready.insert(digest(&new));
    run(&mut world, &new, 12);
    assert_eq!(ready(&world, 3), 3);
    assert_eq!(running(&world, &digest(&old), 3).len(), 3);
    assert_eq!(running(&world, &digest(&new), 3), []);
    let plan = world.plan(&new);
    assert!(plan.settled);
    let progress = &plan.rollouts[&service_name("web")];
    assert_eq!(progress.state, RolloutState::RolledBack);
    let states = plan.instances.values();
    let failed = states.filter(|status| matches!(status.state, InstanceState::Failed { .. }));
    assert_eq!(failed.count(), 3);
    // After the old declaration is restored, nothing changes any more.
    world.rejected.clear();
    run(&mut world, &old, 1);
    assert!(world.plan(&old).is_empty());
}

#[test]
fn a_start_that_fails_for_good_is_rolled_back() {
    let mut spec = web(1);
    spec.update = updated(Replacement {
        order: Some(ReplacementOrder::StopFirst),
        ..Replacement::default()
    });
    let (mut world, old, new) = before(&spec);
    let plan = world.plan(&new);
    let start = plan
        .steps
        .iter()
        .find(|step| matches!(step.action, Action::StartInstance { .. }));
    let failure = lifecycle_core::reconcile::Failure {
        times: 1,
        again_at: None,
        why: "no such device".into(),
        is_final: true,
    };
    world.failures.insert(start.unwrap().id.clone(), failure);
    let stop = may_run(&plan).remove(0);
    world.apply(&new, &stop.action);
    run(&mut world, &new, 1);
    assert_eq!(running(&world, &digest(&old), 1).len(), 1);
    let state = &world.plan(&new).instances[&instance("web", 1)].state;
    let InstanceState::Failed { why } = state else {
        panic!("{state:?}");
    };
    assert!(why.contains("no such device"), "{why}");
}

#[test]
fn a_waiting_replica_is_kept_running() {
    let mut spec = web(2);
    spec.update = updated(Replacement {
        delay: Some(Duration::from_hours(1)),
        ..Replacement::default()
    });
    let (mut world, _, new) = before(&spec);
    run(&mut world, &new, 1);
    let id = instance("web", 2);
    world.restarts.insert(id.clone(), {
        let (_, container) = world.of(&id).next().unwrap();
        lifecycle_core::model::ContainerRun {
            container: container.id.clone(),
            started_at: container.started_at.unwrap(),
        }
    });
    let plan = world.plan(&new);
    let step = may_run(&plan).remove(0);
    assert_eq!(step.reason, Reason::RestartRequested);
    world.apply(&new, &step.action);
    assert_eq!(carry_out(&mut world, &new), ["+web-2"]);
}

/// Requests something of the rollout of this declaration.
fn request(world: &mut World, declared: &Declared, request: RolloutRequest) {
    let control = RolloutControl {
        digest: digest(declared),
        request,
        at: world.now,
    };
    world.rollouts.insert(service_name("web"), control);
}

#[test]
fn a_requested_pause_ends_with_the_replica_in_progress() {
    let (mut world, _, new) = before(&web(3));
    run(&mut world, &new, 1);
    request(&mut world, &new, RolloutRequest::Pause);
    assert_eq!(run(&mut world, &new, 3).concat(), ["-web-2"]);
    let plan = world.plan(&new);
    assert_eq!(
        plan.rollouts[&service_name("web")].state,
        RolloutState::Paused
    );
    request(&mut world, &new, RolloutRequest::Resume);
    assert_eq!(run(&mut world, &new, 2).concat(), ["+web-3", "-web-3"]);
}

#[test]
fn a_requested_pause_holds_after_a_failure_that_is_tolerated() {
    let (mut world, _, new) = failing(OnFailure::Continue, None);
    run(&mut world, &new, 1);
    request(&mut world, &new, RolloutRequest::Pause);
    run(&mut world, &new, 10);
    assert_eq!(attempted(&world, &new), 1);
}

#[test]
fn a_request_about_another_specification_has_no_effect() {
    let (mut world, old, new) = before(&web(3));
    request(&mut world, &old, RolloutRequest::Pause);
    run(&mut world, &new, 5);
    assert!(world.plan(&new).is_empty());
}

#[test]
fn a_requested_rollback_restores_one_replica_at_a_time() {
    let (mut world, old, new) = before(&web(3));
    run(&mut world, &new, 2);
    request(&mut world, &new, RolloutRequest::Rollback);
    let seconds = run(&mut world, &new, 3);
    assert_eq!(seconds[0], ["-web-3", "+web-1"]);
    assert_eq!(seconds[1], ["-web-1", "+web-2"]);
    assert_eq!(seconds[2], ["-web-2"]);
    assert_eq!(running(&world, &digest(&old), 3).len(), 3);
    let plan = world.plan(&new);
    assert_eq!(
        plan.rollouts[&service_name("web")].state,
        RolloutState::RolledBack
    );
}

proptest! {
    #![proptest_config(config())]

    /// A specification that never becomes ready, or stops becoming ready after some replicas were replaced,
    /// never costs more replicas than `parallelism` allows, and the old one serves in the end.
    #[test]
    fn a_failing_version_never_replaces_a_working_one(
        update in update_policy(),
        replicas in 1_u16..5,
        breaks_after in 0_usize..4,
        old_is_lost in any::<bool>(),
    ) {
        let mut spec = web(replicas);
        spec.ready_within = Duration::from_secs(2);
        spec.update = update;
        let (mut world, _, new) = before(&spec);
        run(&mut world, &new, breaks_after);
        world.never_ready.insert(digest(&new));
        let at = world.now;
        if old_is_lost {
            // The next replica crashes with the old version.
            let broken = world.containers().find(|(_, c)| is_running(c) && c.digest != digest(&new));
            if let Some((node, name)) = broken.map(|(node, c)| (node.clone(), c.name.clone())) {
                let container = world.container(&node, &name).unwrap();
                container.state = ContainerState::Exited { code: 1, at: Some(at) };
            }
        }
        for _ in 0..60 {
            run(&mut world, &new, 1);
        }
        world.now += TimeDelta::minutes(11);
        run(&mut world, &new, 3);
        let plan = world.plan(&new);
        prop_assert!(plan.steps.is_empty(), "{:#?}", plan.steps);
        prop_assert!(plan.settled, "{:#?}", plan);
        prop_assert_eq!(ready(&world, replicas), usize::from(replicas));
    }
}

/// Found by `every_walk_keeps_the_start_order_and_settles`.
#[test]
fn a_dependent_service_waits_for_replicas_that_were_jobs_before() {
    use DependencyCondition::{ServiceCompletedSuccessfully as Done, ServiceStarted as Started};
    let job = |name: &str| {
        let mut spec = service(name);
        spec.restart = None;
        spec
    };
    let before = vec![
        service("kiln").replicas(3).image("postgres:15"),
        service("bee").replicas(2).last().image("postgres:15"),
        job("yak").replicas(2),
        job("oak").replicas(3),
        { service("zinc").replicas(2) }
            .needs("yak", Done)
            .needs("oak", Done),
        service("ant").replicas(2).image("postgres:15"),
    ];
    let before = declared(&["n1", "n2", "n4", "n5", "n6", "n8"], before);
    let yak = service("yak").replicas(2).image("postgres:15");
    let after = vec![
        service("kiln"),
        yak.needs("kiln", Started)
            .restart(RestartPolicy::OnFailure { max_retries: None }),
        service("oak").image("postgres:15").needs("yak", Started),
        { service("zinc").image("postgres:15").replicas(2) }.joins("yak"),
        service("mole").replicas(3).image("postgres:15"),
        service("elm").needs("oak", Started),
        service("cow").replicas(3).needs("kiln", Started),
    ];
    let after = declared(&["n1", "n3", "n8"], after);
    for seed in 10..30_u64 {
        let mut world = World::empty();
        partly(
            &mut world,
            &before,
            30 + usize::try_from(seed).unwrap(),
            seed,
        );
        let mut random = chooser(seed);
        let containers: Vec<_> = { world.containers() }
            .map(|(node, c)| (node.clone(), c.name.clone()))
            .collect();
        let (node, name) = &containers[random(containers.len())];
        let removed_from = &mut world.machines.get_mut(node).unwrap().state.containers;
        removed_from.retain(|c| c.name != *name);
        forget_endings(&mut world, &after);
        // The model asserts that a replica starts after those that it depends on.
        world.walk(&after, &mut chooser(seed));
    }
}

#[test]
fn a_completed_job_stays_completed_beside_a_container_that_started_later() {
    let mut job = service("job");
    job.restart = None;
    let app = service("app").needs("job", DependencyCondition::ServiceCompletedSuccessfully);
    let declared = declared(&NODES, vec![job, app]);
    let mut world = World::empty();
    world.settle(&declared);
    world.now += TimeDelta::seconds(5);
    let running = ContainerState::Running { health: None };
    let node = super::builder::node_name("n2");
    world.leave(&node, &instance("job", 1), &"f0".repeat(32), running);
    let plan = world.walk(&declared, &mut |_| 0);
    assert!(plan.held.is_empty(), "{:#?}", plan.held);
    assert_eq!(world.of(&instance("job", 1)).count(), 1);
}
