//! The planner's input: the declaration, the observation, the manager's history, and the policy. If
//! an input is written as JSON and read again, it gives the same plan.

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

/// Everything that a plan depends on. The JSON contains nothing that may be a secret: of each
/// service, it contains only the fields that the planner reads (see [`Declared`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanningInput {
    pub declared: Arc<Declared>,
    /// What exists, as the cloud and the engines report it.
    pub observed: Arc<Observed>,
    pub history: History,
    pub policy: Policy,
    /// The time of the plan.
    pub now: DateTime<Utc>,
}

impl PlanningInput {
    /// Creates the input for a platform of which no part exists yet.
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

/// A plan and its input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecordedPlan {
    pub input: Arc<PlanningInput>,
    pub plan: Arc<Plan>,
}

/// What neither the cloud nor the engines report: previous attempts, requests and decisions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The last known node of each replica. The planner needs it for unreachable nodes, and to keep
    /// replicas on their nodes.
    pub last_seen: Arc<BTreeMap<InstanceId, NodeName>>,
    /// Where the previous plan placed the replicas that have no container yet. These replicas stay
    /// there, so that the images that were copied to their nodes are used.
    pub placed: BTreeMap<InstanceId, NodeName>,
    /// Specifications that were rejected because they did not become ready.
    pub rejected: BTreeMap<InstanceId, RejectedSpec>,
    /// Steps that failed.
    pub failures: BTreeMap<StepId, Failure>,
    /// How often containers ended by themselves.
    pub endings: BTreeMap<ContainerId, Endings>,
    /// Runs of containers that a new run must replace.
    pub restarts: Arc<BTreeMap<InstanceId, ContainerRun>>,
}

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// How often the step failed in a row.
    pub times: u32,
    /// The time of the next attempt; `None` if only a retry or another declaration triggers one.
    pub again_at: Option<DateTime<Utc>>,
    /// The error of the last attempt.
    pub why: String,
    /// Whether only a person or another declaration can resolve the failure.
    pub is_final: bool,
}

/// How a container ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endings {
    /// How often the container ended in a row; a run of at least 10 seconds starts a new row.
    pub times: u32,
    /// When the container may be started again.
    pub again_at: DateTime<Utc>,
}
