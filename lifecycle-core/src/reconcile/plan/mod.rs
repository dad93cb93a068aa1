//! The planner: a pure function from what is declared and what is observed to the steps
//! between them. No I/O, no clock, no randomness; the same input gives the same plan.
//!
//! - [`nodes`]: a node before its Docker.
//! - [`agents`]: names work on a node before anything starts there that may ask for them.
//! - [`images`]: an image before its container; built or pulled once, then copied.
//! - [`order`]: a service before those that depend on it, `starts: last` after all others.
//! - [`instances`]: each replica made where it is placed, and kept [`alive`].
//! - [`replacement`]: stop-first, with a way back.
//! - [`restart`]: the same container again, one replica after the other.
//! - [`ports`]: a host port passes from one to another.
//! - [`leftovers`]: what is no longer declared, in reverse start order.
//! - [`text`]: a plan as people read it.

mod agents;
mod alive;
mod images;
mod instances;
mod leftovers;
mod nodes;
mod order;
mod ports;
mod replacement;
mod restart;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::declared::{Declared, DeclaredService};
use super::index::{Index, Seen};
use super::input::{History, PlanningInput};
use super::observe::Observed;
use super::placement::{Placed, place_indexed};
use super::step::{Action, Held, HeldBy, InstanceStatus, Plan, Reason, Step, StepId};
use crate::model::{ContainerId, InstanceId, InstanceState, NodeName, Protocol, Subject};
use crate::runtime::ObservedContainer;

/// What the planner may assume and how patient it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Whether the cloud can make nodes.
    pub provisions: bool,
    /// Whether the manager's node is someone else's to make and start: true in the manager,
    /// false in the bootstrapper.
    pub spares_manager_node: bool,
    /// Whether only nodes are planned for, and what runs on them is left alone: the
    /// bootstrapper's part, since the manager alone acts on engines.
    pub only_nodes: bool,
    /// After how many endings without having been ready an instance counts as failed. It is
    /// kept alive all the same.
    pub endings_before_failed: u32,
    /// After how many failures in a row a step counts as failed. It is tried again all the same.
    pub failures_before_failed: u32,
    /// How long a node may be unknown before what is on it counts as failed for the round.
    pub unknown_before_failed: Duration,
    /// How long a node may be starting or stopping before the same.
    pub changing_before_failed: Duration,
    /// How long the container of a specification that was given up is kept, for its output.
    pub given_up_kept_for: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            provisions: true,
            spares_manager_node: false,
            only_nodes: false,
            endings_before_failed: 5,
            failures_before_failed: 5,
            unknown_before_failed: Duration::from_mins(5),
            changing_before_failed: Duration::from_mins(30),
            given_up_kept_for: Duration::from_mins(10),
        }
    }
}

/// Plans. See the module's documentation.
pub fn plan(input: &PlanningInput) -> Plan {
    let index = Index::new(&input.declared, &input.observed, &input.history);
    let mut planning = Planning::new(input, &index);
    planning.nodes();
    if !input.policy.only_nodes {
        planning.fences();
        planning.agents();
        planning.undeclared_instances();
        planning.instances();
        planning.needless_agents();
        planning.undeclared_nodes();
    }
    planning.finish()
}

/// Whether something may go on.
#[derive(Debug, Clone)]
enum Gate {
    /// Now.
    Open,
    /// Once this step is done.
    After(StepId),
    /// Not in this plan.
    Shut {
        by: HeldBy,
        /// Whether nothing of this round will open it.
        settled: bool,
    },
}

impl Gate {
    /// Adds what has to be done before, or says what holds it up, and whether for the round.
    fn pass(self, needs: &mut BTreeSet<StepId>) -> Result<(), (HeldBy, bool)> {
        match self {
            Self::Open => {}
            Self::After(step) => {
                needs.insert(step);
            }
            Self::Shut { by, settled } => return Err((by, settled)),
        }
        Ok(())
    }
}

/// A plan in the making.
struct Planning<'a> {
    declared: &'a Declared,
    observed: &'a Observed,
    history: &'a History,
    policy: &'a Policy,
    now: DateTime<Utc>,
    index: &'a Index<'a>,
    placed: Placed<'a>,
    /// Which nodes have which image, in order.
    holders: BTreeMap<&'a str, Vec<&'a NodeName>>,
    node_gates: BTreeMap<&'a NodeName, Gate>,
    agent_gates: BTreeMap<&'a NodeName, Gate>,
    /// Nodes that are deleted though nobody can see what runs on them.
    fences: BTreeMap<&'a NodeName, Gate>,
    /// Host ports that containers which are no longer declared still have.
    leaving: BTreeMap<HostPort<'a>, Gate>,
    /// Host ports that are declared, and which running container of which replica has them now.
    holders_of_ports: BTreeMap<HostPort<'a>, (usize, Seen<'a>)>,
    /// The containers that are stopped, and the order in which that was found.
    stops: BTreeMap<&'a ContainerId, Gate>,
    stop_order: Vec<&'a ContainerId>,
    image_gates: BTreeMap<NodeName, BTreeMap<String, Gate>>,
    /// The steps that bring an image to its first node.
    image_origins: BTreeMap<String, (NodeName, StepId)>,
    /// The step that will start each replica.
    starts: Vec<Option<StepId>>,
    /// How far each replica is, whatever specification it runs.
    up: Vec<Up>,
    statuses: Vec<Option<InstanceStatus>>,
    plan: Plan,
}

/// A declared replica, and where it is placed.
#[derive(Debug, Clone, Copy)]
struct Spot<'a> {
    /// Its place in the index.
    at: usize,
    id: &'a InstanceId,
    service: &'a DeclaredService,
    node: &'a NodeName,
}

/// A port of a node.
type HostPort<'a> = (&'a NodeName, u16, Protocol);

/// How far a replica is, as those that depend on it see it.
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
        let mut holders: BTreeMap<&str, Vec<&NodeName>> = BTreeMap::new();
        for (node, view) in &observed.nodes {
            let images = view.engine_state().map(|state| &state.images);
            for image in images.into_iter().flatten() {
                holders.entry(image).or_default().push(node);
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
            placed: place_indexed(declared, observed, history, index),
            holders,
            node_gates: BTreeMap::new(),
            agent_gates: BTreeMap::new(),
            fences: BTreeMap::new(),
            leaving: BTreeMap::new(),
            holders_of_ports: ports::holders(declared, index),
            stops: BTreeMap::new(),
            stop_order: Vec::new(),
            image_gates: BTreeMap::new(),
            image_origins: BTreeMap::new(),
            starts: vec![None; replicas],
            up: vec![Up::default(); replicas],
            statuses: vec![None; replicas],
            plan: Plan::default(),
        }
    }

    /// Puts a step into the plan, unless it failed and has to wait.
    fn propose(&mut self, action: Action, needs: BTreeSet<StepId>, reason: Reason) -> Gate {
        let view = self.observed.nodes.get(action.node());
        if let Some(silence) = view.and_then(|view| view.silence.as_ref()) {
            let by = HeldBy::NodeSilent {
                node: action.node().clone(),
                since: silence.since,
                why: silence.why.clone(),
            };
            self.hold(action.subject(), by.clone());
            return Gate::Shut { by, settled: false };
        }
        let id = action.id();
        if let Some(failure) = self.history.failures.get(&id) {
            let given_up = failure.is_final || failure.times >= self.policy.failures_before_failed;
            if failure.again_at.is_none_or(|at| at > self.now) {
                let why = failure.why.clone();
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
                self.hold(action.subject(), by.clone());
                return Gate::Shut {
                    by,
                    settled: given_up,
                };
            }
        }
        self.plan.steps.push(Step {
            id: id.clone(),
            action,
            needs,
            reason,
        });
        Gate::After(id)
    }

    fn hold(&mut self, subject: Subject, by: HeldBy) {
        let waits_until = self.waits_until(&subject, &by);
        self.plan.held.push(Held {
            subject,
            by,
            waits_until,
        });
    }

    /// Until when the round waits for what holds something up by itself.
    fn waits_until(&self, subject: &Subject, by: &HeldBy) -> Option<DateTime<Utc>> {
        let patience = match by {
            HeldBy::Backoff { until, .. } => return Some(*until),
            HeldBy::CloudUnknown { .. }
            | HeldBy::NodeUnknown { .. }
            | HeldBy::NodeSilent { .. }
            | HeldBy::Agent { .. } => self.policy.unknown_before_failed,
            HeldBy::NodeChanging { .. } => self.policy.changing_before_failed,
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

    /// Whether `since` lies longer back than `patience`; if not, the plan changes then.
    fn is_over(&mut self, since: DateTime<Utc>, patience: Duration) -> bool {
        let Some(end) = chrono::Duration::from_std(patience)
            .ok()
            .and_then(|patience| since.checked_add_signed(patience))
        else {
            return false;
        };
        self.changes_at(end);
        end <= self.now
    }

    /// Says whether the round has ended. Each step stands behind those that it needs already,
    /// since none is proposed before them.
    fn finish(mut self) -> Plan {
        let gates = self.node_gates.values().chain(self.agent_gates.values());
        let nodes_settled = gates.into_iter().all(|gate| match gate {
            Gate::Open => true,
            Gate::After(_) => false,
            Gate::Shut { settled, .. } => *settled,
        });
        let replicas = self.index.replicas.iter().cloned();
        self.plan.instances = replicas
            .zip(self.statuses)
            .filter_map(|(id, status)| Some((id, status?)))
            .collect();
        self.plan.settled = nodes_settled && self.plan.instances.values().all(|i| i.settled);
        self.plan
    }
}

fn status(
    node: Option<NodeName>,
    container: Option<&ObservedContainer>,
    state: InstanceState,
    settled: bool,
) -> InstanceStatus {
    InstanceStatus {
        node,
        container: container.map(|c| c.id.clone()),
        state,
        settled,
    }
}
