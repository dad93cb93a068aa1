//! The observed state, as the planner receives it. [`super::watch`] collects it.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::cloud::{ObservedNode, Power};
use crate::model::{ContainerId, NodeName};
use crate::registry::Unknown;
use crate::runtime::{EngineInfo, EngineState, ObservedContainer};

/// What exists, according to the cloud, the engines and the agents.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// Set while the cloud's list of nodes is unavailable: since when, and why. Meanwhile, `nodes`
    /// contains the nodes of the latest list.
    pub cloud_unknown: Option<Unknown>,
    /// Each node that the cloud lists for this platform, with its engine.
    pub nodes: BTreeMap<NodeName, Arc<NodeView>>,
    /// Whether each node's agent has the current service addresses.
    #[serde(default)]
    pub agents: BTreeMap<NodeName, AgentView>,
}

/// Whether a running agent has the current service addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum AgentView {
    UpToDate {
        /// The container of the agent that serves. An agent of an older version does not report it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        serving: Option<String>,
        /// Why the agent cannot redirect published ports; `None` if it can.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cannot_redirect: Option<String>,
    },
    Outdated {
        since: DateTime<Utc>,
        why: String,
    },
}

/// An observed node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// The machine as the cloud reports it.
    pub machine: ObservedNode,
    /// The time since which the node has been observed to be starting or stopping.
    #[serde(default)]
    pub changing_since: Option<DateTime<Utc>>,
    pub engine: EngineView,
    /// Set while the node does not respond but does not count as unknown yet: since when, and why.
    /// Meanwhile, `engine` is the engine's last report.
    #[serde(default)]
    pub not_responding: Option<Unknown>,
    /// Whether neither the engine nor the host responds. If only the engine does not, the node's
    /// containers may still serve.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut_off: bool,
    /// The readiness of the node's containers, according to the manager's checks.
    #[serde(default)]
    pub readiness: BTreeMap<ContainerId, Readiness>,
    /// The containers that have the labels of an instance, but another name. They are reported and
    /// otherwise ignored; `engine` does not contain them. A container that is recorded as an instance
    /// and was renamed is not one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strangers: Vec<ObservedContainer>,
}

/// An observed engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum EngineView {
    /// The engine has not been polled yet.
    NotAsked,
    /// The host answers, but no engine does.
    Missing,
    /// The engine's complete report of the platform's resources.
    Known {
        info: EngineInfo,
        state: EngineState,
    },
    /// The node does not respond.
    Unknown(Unknown),
}

impl NodeView {
    /// Creates the view of a node whose engine was not polled yet.
    pub fn not_asked(machine: ObservedNode) -> Self {
        Self {
            machine,
            changing_since: None,
            engine: EngineView::NotAsked,
            not_responding: None,
            cut_off: false,
            readiness: BTreeMap::new(),
            strangers: Vec::new(),
        }
    }

    /// Returns the engine's contents, if they are known.
    pub fn engine_state(&self) -> Option<&EngineState> {
        match &self.engine {
            EngineView::Known { state, .. } => Some(state),
            EngineView::NotAsked | EngineView::Missing | EngineView::Unknown(_) => None,
        }
    }

    /// Returns whether the engine's contents are known, or there is no engine.
    pub fn is_observed(&self) -> bool {
        matches!(self.engine, EngineView::Known { .. } | EngineView::Missing)
    }

    /// Returns whether containers that were last observed on the node may still run there
    /// unobserved.
    pub fn may_run_unseen(&self) -> bool {
        // A stopped VM runs no containers, and does not start by itself.
        self.machine.power != Power::Stopped
            && matches!(self.engine, EngineView::NotAsked | EngineView::Unknown(_))
    }
}

/// Whether a running container is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Readiness {
    /// The container's check has not passed yet, or no longer passes.
    Waiting {
        /// The time since which the container has not been ready. A restart of the container does
        /// not reset this time.
        since: DateTime<Utc>,
        /// Whether the container was ready before in this run.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        was_ready: bool,
        /// Why the last check failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// The container's check passed.
    Ready { at: DateTime<Utc> },
}

impl Readiness {
    /// Returns the readiness of a container that was not ready yet, and was not checked yet.
    pub fn starting(since: DateTime<Utc>) -> Self {
        Self::Waiting {
            since,
            was_ready: false,
            why: None,
        }
    }
}
