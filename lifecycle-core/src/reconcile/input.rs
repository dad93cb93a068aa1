//! What the planner is given: what is declared, what is observed, what the manager knows besides,
//! and the rules. An input that was written as JSON gives the same plan when it is read again.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::declared::Declared;
use super::observe::Observed;
use super::plan::Policy;
use super::step::{Plan, StepId};
use crate::model::{ContainerId, ContainerRun, InstanceId, NodeName};
use crate::registry::RejectedSpec;

/// Everything that a plan depends on. Its JSON contains nothing that may be a secret: of each
/// service it has the fields that the planner reads (see [`Declared`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanningInput {
    /// What is declared.
    pub declared: Arc<Declared>,
    /// What exists, as the cloud and the engines report it.
    pub observed: Arc<Observed>,
    /// What the manager knows besides.
    pub history: History,
    /// What the planner may assume.
    pub policy: Policy,
    /// The time of the plan.
    pub now: DateTime<Utc>,
}

impl PlanningInput {
    /// The input for a platform of which nothing exists yet.
    pub fn new(declared: Arc<Declared>, now: DateTime<Utc>) -> Self {
        Self {
            declared,
            observed: Arc::default(),
            history: History::default(),
            policy: Policy::default(),
            now,
        }
    }
}

/// A plan and what it was made from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecordedPlan {
    /// What it was made from.
    pub input: Arc<PlanningInput>,
    /// The plan.
    pub plan: Arc<Plan>,
}

/// What neither the cloud nor the engines report: what was tried, requested and decided before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Where each replica was last seen, for nodes that cannot be asked and for stickiness.
    pub last_seen: Arc<BTreeMap<InstanceId, NodeName>>,
    /// Where the previous plan placed the replicas that have no container yet. They stay there,
    /// so that the images that were brought there are used.
    pub placed: BTreeMap<InstanceId, NodeName>,
    /// Specifications that were rejected because they did not become ready.
    pub rejected: BTreeMap<InstanceId, RejectedSpec>,
    /// Steps that failed.
    pub failures: BTreeMap<StepId, Failure>,
    /// How often containers ended by themselves.
    pub endings: BTreeMap<ContainerId, Endings>,
    /// Runs of containers that are to end, for another one to begin.
    pub restarts: Arc<BTreeMap<InstanceId, ContainerRun>>,
}

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// How often in a row.
    pub times: u32,
    /// When it is tried again by itself; without it only a retry or another declaration does so.
    pub again_at: Option<DateTime<Utc>>,
    /// The error of the last attempt.
    pub why: String,
    /// Whether only a person or another declaration changes it.
    pub is_final: bool,
}

/// How a container ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endings {
    /// How often in a row: a run of some length begins a new row.
    pub times: u32,
    /// When it may be started again.
    pub again_at: DateTime<Utc>,
}
