//! The planner: a pure function that returns the steps that lead from the observed to the declared
//! state. It uses no I/O, no clock and no random numbers, so equal inputs yield equal plans.
//!
//! - [`nodes`]: nodes are created, started and prepared for Docker.
//! - [`agents`]: each node gets an agent before containers that may use service names start there.
//! - [`images`]: an image is built or pulled on one node and copied to the others.
//! - [`dependencies`]: a service starts after those that it depends on; a service with
//!   `starts: last` starts after all others.
//! - [`instances`]: replicas are created on the nodes that they are placed on.
//! - [`keep_running`]: containers that were never started, or that ended, are started.
//! - [`rollout`]: the replicas of a changed service are replaced a few at a time.
//! - [`replacement`]: a container is replaced by its successor, and is restored if the successor
//!   fails.
//! - [`restart`]: containers are restarted on request, one replica at a time.
//! - [`ports`]: a host port passes from one replica to another.
//! - [`node_restart`]: nodes are restarted on request, after their containers were stopped.
//! - [`joined`]: containers that share a network are started, stopped and replaced together.
//! - [`public_ports`]: the ports of public services are opened in the cloud's firewall.
//! - [`leftovers`]: objects that are no longer declared are removed in reverse start order.
//! - [`text`]: plans are formatted as text.

mod agents;
mod dependencies;
mod images;
mod instances;
mod joined;
mod keep_running;
mod leftovers;
mod node_restart;
mod nodes;
mod order;
mod ports;
mod public_ports;
mod replacement;
mod restart;
mod rollout;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use self::rollout::Rollout;
use super::declared::{Declared, DeclaredService};
use super::index::{Index, Seen};
use super::input::{Failure, History, PlanningInput};
use super::observe::Observed;
use super::placement::{IndexedPlacement, place_indexed};
use super::state::{self, Verdict};
use super::step::{Action, Held, HeldBy, InstanceStatus, Plan, Reason, Step, StepId};
use crate::model::{ContainerId, InstanceId, NodeName, Protocol, ServiceName, Subject};

/// The planner's settings: what it may assume, and how long it waits.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Whether the cloud provider can create nodes.
    pub provisions: bool,
    /// Whether the planner leaves the manager's node to the bootstrapper. True in the manager,
    /// false in the bootstrapper.
    pub spares_manager_node: bool,
    /// Whether the plan contains only steps for nodes. True in the bootstrapper: only the manager
    /// acts on engines.
    pub only_nodes: bool,
    /// Whether the plan opens and closes ports in the cloud's firewall. The control loop clears this
    /// if the cloud has no such firewall.
    #[serde(default)]
    pub opens_ports: bool,
    /// How often in a row an instance may end before it counts as failed. The instance is still
    /// started again.
    pub endings_before_failed: u32,
    /// How often in a row a step may fail before it counts as failed. The step is still retried.
    pub failures_before_failed: u32,
    /// How long a node may be unknown before its replicas count as failed for the round.
    pub unknown_before_failed: Duration,
    /// How long a node may be starting or stopping before its replicas count as failed for the
    /// round.
    pub changing_before_failed: Duration,
    /// How long a container may run before the round no longer waits for its completion.
    pub completes_within: Duration,
    /// How long the container of a rejected specification is kept, so that its output can be read.
    pub rejected_kept_for: Duration,
    /// How long the previous agent on a node may take to finish its connections after the current one
    /// has started.
    pub agent_finishes_within: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            provisions: true,
            spares_manager_node: false,
            only_nodes: false,
            opens_ports: true,
            endings_before_failed: 5,
            failures_before_failed: 5,
            unknown_before_failed: Duration::from_mins(5),
            changing_before_failed: Duration::from_mins(30),
            completes_within: Duration::from_hours(24),
            rejected_kept_for: Duration::from_mins(10),
            agent_finishes_within: Duration::from_hours(1),
        }
    }
}

impl Policy {
    /// Returns whether a step with this failure counts as failed.
    pub(crate) fn counts_as_failed(&self, failure: &Failure) -> bool {
        failure.is_final || failure.times >= self.failures_before_failed
    }
}

/// Returns the plan that leads from the observed to the declared state.
pub fn plan(input: &PlanningInput) -> Plan {
    let index = Index::new(&input.declared, &input.observed, &input.history);
    let mut planning = Planning::new(input, &index);
    planning.nodes();
    if !input.policy.only_nodes {
        planning.delete_unreachable_nodes();
        planning.agents();
        planning.public_ports();
        planning.undeclared_instances();
        planning.instances();
        planning.unneeded_agents();
        planning.unneeded_images();
        planning.undeclared_nodes();
    }
    planning.finish()
}

/// A condition that steps of the plan wait for.
#[derive(Debug, Clone)]
enum Gate {
    /// The condition is met.
    Open,
    /// The condition is met once this step is done.
    After(StepId),
    /// The condition cannot be met in this plan.
    Blocked(Blocked),
}

/// Why a condition cannot be met in this plan.
#[derive(Debug, Clone)]
struct Blocked {
    by: HeldBy,
    /// Whether the cause remains for the rest of the round.
    settled: bool,
}

impl Blocked {
    fn new(by: HeldBy, settled: bool) -> Self {
        Self { by, settled }
    }

    /// Returns the verdict on a blocked replica: it has failed if it stays blocked for the rest of
    /// the round.
    fn verdict(&self) -> Verdict {
        if self.settled {
            Verdict::Failed {
                why: self.by.to_string(),
            }
        } else {
            Verdict::Open
        }
    }
}

impl Gate {
    fn blocked(by: HeldBy, settled: bool) -> Self {
        Self::Blocked(Blocked::new(by, settled))
    }

    /// Adds the step that opens the gate, if there is one, to `needs`. A blocked gate is an error.
    fn pass(self, needs: &mut BTreeSet<StepId>) -> Result<(), Blocked> {
        match self {
            Self::Open => {}
            Self::After(step) => {
                needs.insert(step);
            }
            Self::Blocked(blocked) => return Err(blocked),
        }
        Ok(())
    }
}

/// A plan that is being built.
struct Planning<'a> {
    declared: &'a Declared,
    observed: &'a Observed,
    history: &'a History,
    policy: &'a Policy,
    now: DateTime<Utc>,
    index: &'a Index<'a>,
    placement: IndexedPlacement<'a>,
    /// For each image, the nodes that have it, in order.
    image_holders: BTreeMap<&'a str, Vec<&'a NodeName>>,
    node_gates: BTreeMap<&'a NodeName, Gate>,
    /// The nodes that are about to be restarted.
    restarting: BTreeSet<&'a NodeName>,
    agent_gates: BTreeMap<&'a NodeName, Gate>,
    /// The nodes whose public ports change; each gate opens after the change.
    public_port_gates: BTreeMap<&'a NodeName, Gate>,
    /// Whether no outdated agent will be replaced in this round.
    agents_settled: bool,
    /// Deletions of nodes whose containers cannot be observed. Their replicas may start elsewhere
    /// only afterwards.
    unreachable_deletions: BTreeMap<&'a NodeName, Gate>,
    /// Host ports of containers that are no longer declared; each gate opens when the port is free.
    undeclared_ports: BTreeMap<HostPort<'a>, Gate>,
    /// For each declared host port in use, the replica's position and its running container.
    port_holders: BTreeMap<HostPort<'a>, (usize, Seen<'a>)>,
    /// The gates of the containers that this plan stops, and the order in which the stops were
    /// added.
    stops: BTreeMap<&'a ContainerId, Gate>,
    stop_order: Vec<&'a ContainerId>,
    image_gates: BTreeMap<NodeName, BTreeMap<String, Gate>>,
    /// For each image that this plan builds or pulls, the step and its node.
    image_origins: BTreeMap<String, (NodeName, StepId)>,
    /// The step that starts each replica, if the plan has one.
    starts: Vec<Option<StepId>>,
    /// The dependency conditions that each replica meets.
    up: Vec<Up>,
    statuses: Vec<Option<InstanceStatus>>,
    /// The rollout of the service that is being planned.
    rollout: Rollout,
    /// The services that are being rolled out.
    rolling_out: BTreeSet<&'a ServiceName>,
    /// The positions of the replicas whose old container serves until a successor is ready.
    serving: BTreeSet<usize>,
    /// The positions of the replicas that may have to be replaced, depending on an image.
    compared: BTreeSet<usize>,
    plan: Plan,
}

/// A declared replica and the node that it is placed on.
#[derive(Debug, Clone, Copy)]
struct PlacedReplica<'a> {
    /// The replica's position in the index.
    position: usize,
    id: &'a InstanceId,
    service: &'a DeclaredService,
    node: &'a NodeName,
}

type HostPort<'a> = (&'a NodeName, u16, Protocol);

/// The dependency conditions that a replica meets.
#[derive(Debug, Clone, Copy, Default)]
struct Up {
    started: bool,
    ready: bool,
    completed: bool,
}

impl<'a> Planning<'a> {
    fn new(input: &'a PlanningInput, index: &'a Index<'a>) -> Self {
        let PlanningInput {
            declared,
            observed,
            history,
            policy,
            now,
        } = input;
        let mut image_holders: BTreeMap<&str, Vec<&NodeName>> = BTreeMap::new();
        for (node, view) in &observed.nodes {
            let images = view.engine_state().map(|state| &state.images);
            for image in images.into_iter().flat_map(BTreeMap::keys) {
                image_holders.entry(image).or_default().push(node);
            }
        }
        let replicas = index.replicas.len();
        Self {
            declared,
            observed,
            history,
            policy,
            now: *now,
            index,
            placement: place_indexed(declared, observed, history, index),
            image_holders,
            node_gates: BTreeMap::new(),
            restarting: BTreeSet::new(),
            agent_gates: BTreeMap::new(),
            public_port_gates: BTreeMap::new(),
            agents_settled: true,
            unreachable_deletions: BTreeMap::new(),
            undeclared_ports: BTreeMap::new(),
            port_holders: ports::holders(declared, index),
            stops: BTreeMap::new(),
            stop_order: Vec::new(),
            image_gates: BTreeMap::new(),
            image_origins: BTreeMap::new(),
            starts: vec![None; replicas],
            up: vec![Up::default(); replicas],
            statuses: vec![None; replicas],
            rollout: Rollout::none(),
            rolling_out: BTreeSet::new(),
            serving: BTreeSet::new(),
            compared: BTreeSet::new(),
            plan: Plan::default(),
        }
    }

    /// Adds a step to the plan. If the step cannot start now, records instead why its subject is held.
    fn propose(&mut self, action: Action, needs: BTreeSet<StepId>, reason: Reason) -> Gate {
        let view = self.observed.nodes.get(action.node());
        if let Some(not_responding) = view.and_then(|view| view.not_responding.as_ref()) {
            let by = HeldBy::NodeNotResponding {
                node: action.node().clone(),
                since: not_responding.since,
                why: not_responding.why.clone(),
            };
            return Gate::Blocked(self.block(action.subject(), by, false));
        }
        let id = action.id();
        if let Some(failure) = self.history.failures.get(&id)
            && failure.again_at.is_none_or(|at| at > self.now)
        {
            let why = failure.why.clone();
            let settled = self.policy.counts_as_failed(failure);
            let by = match failure.again_at {
                Some(until) => HeldBy::Backoff {
                    step: id,
                    until,
                    failures: failure.times,
                    why,
                },
                None => HeldBy::Failed { why },
            };
            if let Some(at) = failure.again_at {
                self.changes_at(at);
            }
            return Gate::Blocked(self.block(action.subject(), by, settled));
        }
        self.plan.steps.push(Step {
            id: id.clone(),
            action,
            needs,
            reason,
        });
        Gate::After(id)
    }

    /// Records in the plan what holds `subject`.
    fn block(&mut self, subject: Subject, by: HeldBy, settled: bool) -> Blocked {
        self.hold(subject, by.clone());
        Blocked::new(by, settled)
    }

    fn hold(&mut self, subject: Subject, by: HeldBy) {
        let waits_until = self.waits_until(&subject, &by);
        self.plan.held.push(Held {
            subject,
            by,
            waits_until,
        });
    }

    /// Returns the time at which the round stops waiting for a hold, if the round waits for it.
    fn waits_until(&self, subject: &Subject, by: &HeldBy) -> Option<DateTime<Utc>> {
        let patience = match by {
            HeldBy::Backoff { until, .. }
            | HeldBy::RolloutDelay { until }
            | HeldBy::Monitored { until } => return Some(*until),
            HeldBy::CloudUnknown { .. }
            | HeldBy::NodeUnknown { .. }
            | HeldBy::NodeNotResponding { .. }
            | HeldBy::Agent { .. } => self.policy.unknown_before_failed,
            HeldBy::NodeChanging { .. } => self.policy.changing_before_failed,
            HeldBy::Running { .. } => self.policy.completes_within,
            HeldBy::Dependency { .. } => return self.completes_until(by),
            HeldBy::NotReadyYet { .. } => {
                let Subject::Instance(id) = subject else {
                    return None;
                };
                self.declared.services.get(&id.service)?.spec.ready_within
            }
            _ => return None,
        };
        let patience = chrono::Duration::from_std(patience).ok()?;
        by.since()?.checked_add_signed(patience)
    }

    fn changes_at(&mut self, at: DateTime<Utc>) {
        if at > self.now && self.plan.next_change.is_none_or(|next| at < next) {
            self.plan.next_change = Some(at);
        }
    }

    /// Returns whether `patience` has passed since `since`. If not, schedules the plan's next
    /// change.
    fn has_passed(&mut self, since: DateTime<Utc>, patience: Duration) -> bool {
        let Some(end) = chrono::Duration::from_std(patience)
            .ok()
            .and_then(|patience| since.checked_add_signed(patience))
        else {
            return false;
        };
        self.changes_at(end);
        end <= self.now
    }

    /// Completes the plan. The steps need no sorting: each was added after the steps that it needs.
    fn finish(mut self) -> Plan {
        let gates = self.node_gates.values().chain(self.agent_gates.values());
        let gates = gates.chain(self.public_port_gates.values());
        let nodes_settled = gates.into_iter().all(|gate| match gate {
            Gate::Open => true,
            Gate::After(_) => false,
            Gate::Blocked(blocked) => blocked.settled,
        });
        let replicas = self.index.replicas.iter().cloned();
        self.plan.instances = replicas
            .zip(self.statuses)
            .filter_map(|(id, status)| Some((id, status?)))
            .collect();
        self.plan.settled =
            nodes_settled && self.agents_settled && self.plan.instances.values().all(|i| i.settled);
        self.plan
    }
}

/// Returns the status of a replica that has the container `seen`, or no container.
fn status(
    replica: PlacedReplica<'_>,
    seen: Option<&Seen<'_>>,
    verdict: Verdict,
    settled: bool,
) -> InstanceStatus {
    InstanceStatus {
        node: Some(replica.node.clone()),
        container: seen.map(|seen| seen.container.id.clone()),
        state: match seen {
            Some(seen) => state::of_replica(seen, verdict),
            None => state::without_container(None, verdict),
        },
        settled,
    }
}
