//! What exists, as the planner is told it. How it is found out is the business of
//! [`super::watch`].

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::step::StepId;
use crate::cloud::{ObservedNode, Power};
use crate::model::{ContainerId, InstanceId, NodeName};
use crate::registry::{RejectedSpec, Unknown};
use crate::runtime::{EngineInfo, EngineState};

/// Everything that the planner may know.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// Since when and why the cloud's list of nodes cannot be had. The nodes below are then
    /// those that it last told.
    pub cloud_unknown: Option<Unknown>,
    /// Every node that the cloud shows as this platform's, and its engine.
    pub nodes: BTreeMap<NodeName, NodeView>,
    /// What is known of containers beyond what their engine says.
    pub readiness: BTreeMap<ContainerId, Readiness>,
    /// Where each replica was last seen, for nodes that cannot be asked and for stickiness.
    pub last_seen: BTreeMap<InstanceId, NodeName>,
    /// Specifications that were given up.
    pub rejected: BTreeMap<InstanceId, RejectedSpec>,
    /// Steps that failed.
    pub failures: BTreeMap<StepId, Failure>,
    /// How containers ended by themselves.
    pub endings: BTreeMap<ContainerId, Endings>,
}

/// A node as it is observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// What the cloud says.
    pub machine: ObservedNode,
    /// What its engine says.
    pub engine: EngineView,
}

/// An engine as it is observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum EngineView {
    /// It has not been asked yet.
    NotAsked,
    /// The host answers and has no engine that does.
    Missing,
    /// All that is the platform's on it.
    Known {
        /// The engine.
        info: EngineInfo,
        /// Its contents.
        state: EngineState,
    },
    /// It cannot be asked.
    Unknown(Unknown),
}

impl NodeView {
    /// The engine's contents, if they are known.
    pub fn engine_state(&self) -> Option<&EngineState> {
        match &self.engine {
            EngineView::Known { state, .. } => Some(state),
            EngineView::NotAsked | EngineView::Missing | EngineView::Unknown(_) => None,
        }
    }

    /// Whether what was last seen on it may run there without anybody seeing it now.
    pub fn may_run_unseen(&self) -> bool {
        // What the cloud shows as stopped runs nothing, and starts nothing by itself later.
        self.machine.power != Power::Stopped
            && matches!(self.engine, EngineView::NotAsked | EngineView::Unknown(_))
    }
}

/// Whether a running container is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Readiness {
    /// Its check has not passed since this start.
    Waiting {
        /// Since when this replica has been coming up, its restarts included.
        since: DateTime<Utc>,
    },
    /// Its check passed.
    Ready {
        /// When.
        at: DateTime<Utc>,
    },
}

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// How often in a row.
    pub times: u32,
    /// When it may be tried again.
    pub again_at: DateTime<Utc>,
    /// What it said the last time.
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
