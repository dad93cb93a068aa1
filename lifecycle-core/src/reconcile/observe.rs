//! What exists, as the planner is told it. How it is found out is the business of
//! [`super::watch`].

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::cloud::{ObservedNode, Power};
use crate::model::{ContainerId, NodeName};
use crate::registry::Unknown;
use crate::runtime::{EngineInfo, EngineState};

/// What exists, as the cloud, the engines and the agents report it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// Since when and why the cloud's list of nodes cannot be had. The nodes below are then
    /// those of its latest list.
    pub cloud_unknown: Option<Unknown>,
    /// Every node that the cloud shows as this platform's, and its engine. What did not change
    /// is shared with the observation before.
    pub nodes: BTreeMap<NodeName, Arc<NodeView>>,
    /// What each node's agent knows of the services' addresses.
    #[serde(default)]
    pub agents: BTreeMap<NodeName, AgentView>,
}

/// What a running agent knows of the services' addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum AgentView {
    /// All that is declared.
    Told,
    /// Not all yet.
    NotTold {
        /// Since when.
        since: DateTime<Utc>,
        /// Why.
        why: String,
    },
}

/// A node as it is observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// What the cloud says.
    pub machine: ObservedNode,
    /// Since when it has been starting or stopping, as far as was seen.
    #[serde(default)]
    pub changing_since: Option<DateTime<Utc>>,
    /// What its engine says.
    pub engine: EngineView,
    /// Since when and why it does not answer, while that is not long enough for it to count as
    /// unknown. What stands above is then what it last told.
    #[serde(default)]
    pub silence: Option<Unknown>,
    /// What is known of its containers beyond what the engine says: whether they are ready.
    #[serde(default)]
    pub readiness: BTreeMap<ContainerId, Readiness>,
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
    /// A machine whose engine was not asked yet.
    pub fn not_asked(machine: ObservedNode) -> Self {
        Self {
            machine,
            changing_since: None,
            engine: EngineView::NotAsked,
            silence: None,
            readiness: BTreeMap::new(),
        }
    }

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
