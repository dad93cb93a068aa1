//! The planner: a pure function from what is declared and what is observed to the steps
//! between them. No I/O, no clock, no randomness; the same input gives the same plan.
//!
//! - [`nodes`]: a node before its Docker.
//! - [`images`]: an image before its container; built or pulled once, then copied.
//! - [`order`]: a service before those that depend on it, `starts: last` after all others.
//! - [`instances`]: each replica made where it is placed, and kept [`alive`].
//! - [`replacement`]: stop-first, with a way back.
//! - [`ports`]: a host port passes from one to another.
//! - [`leftovers`]: what is no longer declared, in reverse start order.
//! - [`text`]: a plan as people read it.

mod alive;
mod images;
mod instances;
mod leftovers;
mod nodes;
mod order;
mod ports;
mod replacement;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::declared::Declared;
use super::observe::Observed;
use super::placement::{Placement, place};
use super::step::{Action, Held, HeldBy, InstanceStatus, Plan, Reason, Step, StepId};
use crate::model::{
    ContainerId, InstanceId, InstanceState, NodeName, Protocol, ServiceName, Starts, Subject,
};
use crate::runtime::{ObservedContainer, Role};

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
        }
    }
}

/// Plans. See the module's documentation.
pub fn plan(declared: &Declared, observed: &Observed, policy: &Policy, now: DateTime<Utc>) -> Plan {
    let mut planning = Planning::new(declared, observed, policy, now);
    planning.nodes();
    if !policy.only_nodes {
        planning.fences();
        planning.undeclared_instances();
        planning.instances();
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

/// A plan in the making.
struct Planning<'a> {
    declared: &'a Declared,
    observed: &'a Observed,
    policy: &'a Policy,
    now: DateTime<Utc>,
    placement: Placement,
    /// Every container of each replica that any engine shows.
    containers: BTreeMap<&'a InstanceId, Vec<(&'a NodeName, &'a ObservedContainer)>>,
    /// Which nodes have which image.
    holders: BTreeMap<&'a str, BTreeSet<&'a NodeName>>,
    node_gates: BTreeMap<NodeName, Gate>,
    /// Nodes that are deleted though nobody can see what runs on them.
    fences: BTreeMap<&'a NodeName, Gate>,
    /// Host ports that containers which are no longer declared still have.
    leaving: BTreeMap<HostPort<'a>, Gate>,
    /// Host ports that are declared, and which running container has them now.
    holders_of_ports: BTreeMap<HostPort<'a>, (&'a InstanceId, &'a ObservedContainer)>,
    /// The containers that are stopped, in the order in which that was found.
    stops: IndexMap<&'a ContainerId, Gate>,
    image_gates: BTreeMap<(NodeName, String), Gate>,
    /// The steps that bring an image to its first node.
    image_origins: BTreeMap<String, (NodeName, StepId)>,
    /// The steps that will start a replica.
    starts: BTreeMap<InstanceId, StepId>,
    /// How far each replica is, whatever specification it runs.
    up: BTreeMap<InstanceId, Up>,
    plan: Plan,
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
    fn new(
        declared: &'a Declared,
        observed: &'a Observed,
        policy: &'a Policy,
        now: DateTime<Utc>,
    ) -> Self {
        let mut containers: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut holders: BTreeMap<&str, BTreeSet<&NodeName>> = BTreeMap::new();
        for (node, view) in &observed.nodes {
            let Some(state) = view.engine_state() else {
                continue;
            };
            for container in &state.containers {
                if let Role::Instance(id) = &container.role {
                    containers.entry(id).or_default().push((node, container));
                }
            }
            for image in &state.images {
                holders.entry(image).or_default().insert(node);
            }
        }
        for containers in containers.values_mut() {
            containers
                .sort_by_key(|(node, c): &(&NodeName, &ObservedContainer)| (*node, &c.name, &c.id));
        }
        Self {
            declared,
            observed,
            policy,
            now,
            placement: place(declared, observed),
            containers,
            holders,
            node_gates: BTreeMap::new(),
            fences: BTreeMap::new(),
            leaving: BTreeMap::new(),
            holders_of_ports: ports::holders(declared, observed),
            stops: IndexMap::new(),
            image_gates: BTreeMap::new(),
            image_origins: BTreeMap::new(),
            starts: BTreeMap::new(),
            up: BTreeMap::new(),
            plan: Plan::default(),
        }
    }

    /// Puts a step into the plan, unless it failed and has to wait.
    fn propose(&mut self, action: Action, needs: BTreeSet<StepId>, reason: Reason) -> Gate {
        let id = action.id();
        if let Some(failure) = self.observed.failures.get(&id) {
            let given_up = failure.is_final || failure.times >= self.policy.failures_before_failed;
            if failure.again_at > self.now {
                let by = HeldBy::Backoff {
                    step: id,
                    until: failure.again_at,
                    failures: failure.times,
                    why: failure.why.clone(),
                };
                self.changes_at(failure.again_at);
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
        self.plan.held.push(Held { subject, by });
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

    /// Puts each step behind those that it needs, and says whether the round has ended.
    fn finish(mut self) -> Plan {
        let nodes_settled = self.node_gates.values().all(|gate| match gate {
            Gate::Open => true,
            Gate::After(_) => false,
            Gate::Shut { settled, .. } => *settled,
        });
        self.plan.settled = nodes_settled && self.plan.instances.values().all(|i| i.settled);
        let mut placed = BTreeSet::new();
        let mut waiting = std::mem::take(&mut self.plan.steps);
        let known: BTreeSet<StepId> = waiting.iter().map(|s| s.id.clone()).collect();
        while !waiting.is_empty() {
            let before = waiting.len();
            let mut later = Vec::new();
            for step in waiting {
                if step
                    .needs
                    .iter()
                    .all(|n| placed.contains(n) || !known.contains(n))
                {
                    placed.insert(step.id.clone());
                    self.plan.steps.push(step);
                } else {
                    later.push(step);
                }
            }
            waiting = later;
            if waiting.len() == before {
                // Steps that need each other: none of them may begin. They stay visible.
                self.plan.steps.append(&mut waiting);
            }
        }
        self.plan
    }

    /// The services in their start order.
    fn in_start_order(&self) -> Vec<&'a ServiceName> {
        let mut order: Vec<_> = self
            .declared
            .services
            .iter()
            .map(|(name, service)| {
                let last = service.spec.starts == Starts::Last;
                let rank = self.declared.ranks.get(name).copied().unwrap_or_default();
                (last, rank, name)
            })
            .collect();
        order.sort();
        order.into_iter().map(|(_, _, name)| name).collect()
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
