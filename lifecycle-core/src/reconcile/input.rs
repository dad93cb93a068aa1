//! The planner's input: the declaration, the observation, the manager's history, and the policy. An
//! input that was written as JSON and read back leads to the same plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::declared::Declared;
use super::observe::Observed;
use super::plan::Policy;
use super::step::{Plan, StepId};
use crate::model::{
    ContainerId, ContainerRun, InstanceId, NodeName, OperationId, RolloutControl, ServiceName,
    VolumeName,
};
use crate::registry::RejectedSpec;

/// Everything that a plan depends on. Its JSON contains no secrets: each service is reduced to the
/// fields that the planner reads (see [`Declared`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanningInput {
    pub declared: Arc<Declared>,
    /// What exists, according to the cloud, the engines and the agents.
    pub observed: Arc<Observed>,
    pub history: History,
    pub policy: Policy,
    /// The time of the plan.
    pub now: DateTime<Utc>,
}

impl PlanningInput {
    /// Creates the input for a platform of which nothing exists yet.
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

/// A plan together with the input that it was made from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RecordedPlan {
    /// What the plan was made from. The format depends on the manager's version.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "serde_json::Map<String, serde_json::Value>")
    )]
    pub input: Arc<PlanningInput>,
    pub plan: Arc<Plan>,
}

/// The manager's records of previous attempts, requests and decisions, which neither the cloud nor
/// the engines can report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The last known node of each replica, where the replica may still run unobserved.
    pub last_seen: Arc<BTreeMap<InstanceId, NodeName>>,
    /// The nodes on which the previous plan placed replicas that have no container yet.
    pub placed: BTreeMap<InstanceId, NodeName>,
    /// Specifications that were rejected because their containers did not become ready.
    pub rejected: BTreeMap<InstanceId, RejectedSpec>,
    /// The node on which each image is being built, or was built and is not yet observed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub builds: BTreeMap<String, NodeName>,
    /// Steps that failed.
    pub failures: BTreeMap<StepId, Failure>,
    /// How often each container ended by itself.
    pub endings: BTreeMap<ContainerId, Endings>,
    /// The runs of containers for which a restart or a retry was requested.
    pub restarts: Arc<BTreeMap<InstanceId, ContainerRun>>,
    /// The named volumes that instances have used on each node. They may contain data.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<NodeName, BTreeSet<VolumeName>>,
    /// The nodes for which a restart was requested, with the boot that the restart ends.
    #[serde(default, skip_serializing_if = "has_no_entries")]
    pub node_restarts: Arc<BTreeMap<NodeName, String>>,
    /// The nodes whose preparation was requested.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub preparations: BTreeMap<NodeName, Preparation>,
    /// The requests about rollouts.
    #[serde(default, skip_serializing_if = "has_no_entries")]
    pub rollouts: Arc<BTreeMap<ServiceName, RolloutControl>>,
}

fn has_no_entries<K, V>(map: &Arc<BTreeMap<K, V>>) -> bool {
    map.is_empty()
}

/// A requested preparation of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preparation {
    pub operation: OperationId,
    /// What was done; `None` until the preparation has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// How often the step failed in a row.
    pub times: u32,
    /// The time of the next attempt; `None` if the step is not retried automatically.
    pub again_at: Option<DateTime<Utc>>,
    /// The error of the last attempt.
    pub why: String,
    /// Whether only a person or a new declaration can resolve the failure.
    pub is_final: bool,
}

/// How often a container ended by itself, and when it may start again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endings {
    /// How often in a row the container ended. A run of at least 10 seconds starts a new count.
    pub times: u32,
    /// When the container may be started again.
    pub again_at: DateTime<Utc>,
    /// How often the container ended by itself since it was last ready for ten minutes. The pauses
    /// before its restarts grow with this number.
    #[serde(default)]
    pub recent: u32,
    /// Whether the manager ended the last run because it was unhealthy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_unhealthy: bool,
    /// How the last run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
}
