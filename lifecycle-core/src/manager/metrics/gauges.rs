//! Computes the gauges about the platform from a round of the control loop.

use std::collections::{BTreeMap, BTreeSet};

use super::State;
use crate::cloud::Power;
use crate::metrics::{Family, Metric};
use crate::model::{InstanceId, InstanceState, OperationKind, ServiceName};
use crate::reconcile::driver::measures::tag;
use crate::reconcile::observe::AgentView;
use crate::reconcile::{DeclaredService, EngineView, NodeView, PlanningInput, Readiness, Round};
use crate::runtime::{ContainerState, Role};

const NODE_STATES: [&str; 7] = [
    "absent", "starting", "running", "stopping", "stopped", "failed", "unknown",
];

const ROLLOUT_STATES: [&str; 5] = [
    "progressing",
    "paused",
    "failed",
    "rolling-back",
    "rolled-back",
];

const AGENT_STATES: [&str; 2] = ["up-to-date", "outdated"];

static BUILD: Metric = Metric::gauge(
    "lifecycle_build_info",
    &["version"],
    "Always 1; the label is the version of the manager",
);

static LEADING: Metric = Metric::gauge(
    "lifecycle_leading",
    &[],
    "Whether this manager leads (1) or not (0)",
);

static EPOCH: Metric = Metric::gauge(
    "lifecycle_epoch",
    &[],
    "The epoch under which this manager leads; 0 while it does not lead",
);

static FIRST_ROUND: Metric = Metric::gauge(
    "lifecycle_first_round_done",
    &[],
    "Whether the first round has ended (1), so that the API accepts all changes, or not (0)",
);

static GENERATION: Metric = Metric::gauge(
    "lifecycle_generation",
    &[],
    "The generation that is declared",
);

static SETTLED: Metric = Metric::gauge(
    "lifecycle_settled",
    &[],
    "Whether the round has ended (1): nothing is left to do or to wait for; 0 while a change is in progress",
);

static NODES: Metric = Metric::gauge("lifecycle_nodes", &["state"], "Declared and observed nodes");

static NODE_READY: Metric = Metric::gauge(
    "lifecycle_node_ready",
    &["node"],
    "Whether the node is running and its engine responds (1) or not (0)",
);

static REPLICAS: Metric = Metric::gauge(
    "lifecycle_service_replicas",
    &["service", "class"],
    "Declared replicas of a service",
);

static READY: Metric = Metric::gauge(
    "lifecycle_service_ready_replicas",
    &["service", "class"],
    "Replicas of a service that are ready or completed",
);

static INSTANCES: Metric = Metric::gauge(
    "lifecycle_instances",
    &["service", "class", "state"],
    "Declared replicas in a state; states without replicas are left out",
);

static ROLLOUTS: Metric = Metric::gauge(
    "lifecycle_rollouts",
    &["state"],
    "Services whose replicas do not all run the declared specification",
);

static RUNNING: Metric = Metric::gauge(
    "lifecycle_operations_running",
    &["kind"],
    "Operations that were accepted and have not ended",
);

static PLANNED_STEPS: Metric =
    Metric::gauge("lifecycle_planned_steps", &[], "Steps of the latest plan");

static RUNNING_STEPS: Metric =
    Metric::gauge("lifecycle_running_steps", &[], "Steps that are running");

static HELD: Metric = Metric::gauge(
    "lifecycle_held",
    &["cause"],
    "What the latest plan cannot do now; causes that hold nothing are left out",
);

static AGENTS: Metric = Metric::gauge(
    "lifecycle_agents",
    &["state"],
    "Running agents, by whether they have the current service addresses (`up-to-date`, `outdated`)",
);

/// Returns all gauges. While the manager does not lead, those about the platform have no values, so that
/// several managers of a platform do not count it several times.
pub(super) fn gauges(state: &State, round: &Round) -> Vec<Family> {
    let State {
        epoch,
        generation,
        is_open,
        operations,
    } = state;
    let is_leading = *epoch > 0;
    let mut families = vec![
        Family::new(&BUILD).with(&[env!("CARGO_PKG_VERSION")], 1),
        Family::new(&LEADING).with(&[], is_leading.into()),
        Family::new(&EPOCH).with(&[], *epoch),
    ];
    let first_round = number(&FIRST_ROUND, is_leading.then(|| u64::from(*is_open)));
    families.push(first_round);
    families.push(number(&GENERATION, generation.filter(|_| is_leading)));
    families.push(running(is_leading, round, operations));
    let input = round.input.as_deref().filter(|_| is_leading);
    let number = |metric, value: u64| number(metric, input.map(|_| value));
    families.extend([
        number(&SETTLED, round.settled.into()),
        number(&PLANNED_STEPS, round.plan.steps.len() as u64),
        number(&RUNNING_STEPS, round.running.len() as u64),
    ]);
    families.extend(nodes(input));
    families.extend(replicas(input, round));
    let rollouts = round.plan.rollouts.values();
    let rollouts = rollouts.map(|rollout| tag(&rollout.state, ""));
    families.push(by_state(
        &ROLLOUTS,
        &ROLLOUT_STATES,
        input.map(|_| rollouts),
    ));
    let agents = input.map(|input| input.observed.agents.values());
    let agents = agents.map(|agents| agents.map(agent_state));
    families.push(by_state(&AGENTS, &AGENT_STATES, agents));
    let held = round.plan.held.iter().map(|held| tag(&held.by, "because"));
    families.push(counted(&HELD, held.filter(|_| input.is_some())));
    families
}

fn number(metric: &'static Metric, value: Option<u64>) -> Family {
    let mut family = Family::new(metric);
    if let Some(value) = value {
        family.push(&[], value);
    }
    family
}

/// Returns how many of `values` there are of each. Values that do not occur are left out.
fn counted(metric: &'static Metric, values: impl Iterator<Item = String>) -> Family {
    let mut numbers: BTreeMap<String, u64> = BTreeMap::new();
    for value in values {
        *numbers.entry(value).or_default() += 1;
    }
    let mut family = Family::new(metric);
    for (value, number) in &numbers {
        family.push(&[value], *number);
    }
    family
}

/// Returns how many of `values` there are in each state, also in states that do not occur.
fn by_state<S: AsRef<str>>(
    metric: &'static Metric,
    states: &[&str],
    values: Option<impl Iterator<Item = S>>,
) -> Family {
    let mut family = Family::new(metric);
    let Some(values) = values else {
        return family;
    };
    let mut numbers: BTreeMap<&str, u64> = states.iter().map(|state| (*state, 0)).collect();
    for value in values {
        if let Some(number) = numbers.get_mut(value.as_ref()) {
            *number += 1;
        }
    }
    for (state, number) in numbers {
        family.push(&[state], number);
    }
    family
}

fn running(is_leading: bool, round: &Round, operations: &[OperationKind]) -> Family {
    let kinds = operations.iter().map(|kind| tag(kind, "kind"));
    let deletion = OperationKind::DeletePlatform { volumes: false };
    let deletion = round.is_deleting().then(|| tag(&deletion, "kind"));
    counted(&RUNNING, kinds.chain(deletion).filter(|_| is_leading))
}

fn nodes(input: Option<&PlanningInput>) -> [Family; 2] {
    let Some(input) = input else {
        return [Family::new(&NODES), Family::new(&NODE_READY)];
    };
    let observed = &input.observed.nodes;
    let names: BTreeSet<_> = input.declared.nodes.keys().chain(observed.keys()).collect();
    let mut ready = Family::new(&NODE_READY);
    for name in &names {
        let is_ready = observed.get(*name).is_some_and(|view| {
            let responds = matches!(view.engine, EngineView::Known { .. });
            responds && view.machine.power == Power::Running
        });
        ready.push(&[name.as_str()], is_ready.into());
    }
    let states = names.iter().map(|name| {
        let view = observed.get(*name);
        view.map_or("absent", |view| node_state(view))
    });
    [by_state(&NODES, &NODE_STATES, Some(states)), ready]
}

/// Returns the state of a node, as in the API.
fn node_state(view: &NodeView) -> &'static str {
    match (&view.engine, view.machine.power) {
        (EngineView::Unknown(_), _) => "unknown",
        (_, Power::Starting) => "starting",
        (_, Power::Running) => "running",
        (_, Power::Stopping) => "stopping",
        (_, Power::Stopped) => "stopped",
        (_, Power::Failed) => "failed",
    }
}

fn agent_state(agent: &AgentView) -> &'static str {
    match agent {
        AgentView::UpToDate { .. } => "up-to-date",
        AgentView::Outdated { .. } => "outdated",
    }
}

/// The numbers of replicas of a service: all of them by state.
type States = BTreeMap<&'static str, u64>;

fn replicas(input: Option<&PlanningInput>, round: &Round) -> [Family; 3] {
    let mut families = [&REPLICAS, &READY, &INSTANCES].map(Family::new);
    let Some(input) = input else {
        return families;
    };
    let ready = ready_replicas(input);
    let mut by_service: BTreeMap<&ServiceName, States> = BTreeMap::new();
    for (id, status) in &round.plan.instances {
        // During a rollout, the previous container serves until the planned one is ready.
        let state = if ready.contains(id) {
            InstanceState::Ready.word()
        } else {
            status.state.word()
        };
        let states = by_service.entry(&id.service).or_default();
        *states.entry(state).or_default() += 1;
    }
    let [declared, up, instances] = &mut families;
    for (name, DeclaredService { spec, .. }) in &input.declared.services {
        let class = spec.class.to_string();
        let labels = [name.as_str(), &class];
        let states = by_service.remove(name).unwrap_or_default();
        declared.push(&labels, spec.replicas.into());
        let is_up = [InstanceState::Ready, InstanceState::Completed].map(|state| state.word());
        let number = |state: &&str| states.get(*state).copied().unwrap_or_default();
        up.push(&labels, is_up.iter().map(number).sum());
        for (state, number) in &states {
            instances.push(&[name.as_str(), &class, state], *number);
        }
    }
    families
}

/// Returns the replicas with a ready container.
fn ready_replicas(input: &PlanningInput) -> BTreeSet<&InstanceId> {
    let views = input.observed.nodes.values();
    let containers = views.flat_map(|view| {
        let state = view.engine_state().into_iter();
        let containers = state.flat_map(|state| &state.containers);
        containers.filter(|container| {
            let readiness = view.readiness.get(&container.id);
            matches!(container.state, ContainerState::Running { .. })
                && matches!(readiness, Some(Readiness::Ready { .. }))
        })
    });
    let replicas = containers.filter_map(|container| match &container.role {
        Role::Instance(id) => Some(id),
        Role::Manager | Role::Agent => None,
    });
    replicas.collect()
}
