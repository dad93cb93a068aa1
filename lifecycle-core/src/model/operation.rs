//! Requested changes that outlive the process that took the request.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ContainerId, InstanceId, ServiceName};

/// The id of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperationId(pub Uuid);

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
#[non_exhaustive]
pub enum OperationKind {
    /// Take the whole platform down.
    DeletePlatform {
        /// Whether named volumes on nodes that stay are removed too.
        volumes: bool,
    },
    /// Start the containers of a service, or of one replica, anew.
    Restart {
        /// The service.
        service: ServiceName,
        /// Which runs are to end: a container that was started since is not touched, so a
        /// restart that is asked for or carried on twice restarts once.
        replaces: BTreeMap<InstanceId, ContainerRun>,
    },
}

/// One run of a container, from its start to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRun {
    /// The container.
    pub container: ContainerId,
    /// When the engine started it.
    pub started_at: DateTime<Utc>,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum OperationState {
    /// Accepted; under way as soon as the leader sees it.
    Running,
    /// Done.
    Succeeded {
        /// When.
        at: DateTime<Utc>,
    },
    /// Given up.
    Failed {
        /// When.
        at: DateTime<Utc>,
        /// Why.
        why: String,
    },
}

/// A requested change with an id and a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What was asked for.
    #[serde(flatten)]
    pub kind: OperationKind,
    /// How far it is.
    #[serde(flatten)]
    pub state: OperationState,
    /// When it was asked for.
    pub requested_at: DateTime<Utc>,
}
