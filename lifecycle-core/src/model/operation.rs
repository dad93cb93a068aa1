//! Requested changes that outlive the process that accepted the request.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::container::is_default;
use super::{
    ContainerId, Generation, InstanceId, NodeName, RolloutRequest, ServiceName, SpecDigest, Subject,
};

/// The id of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct OperationId(pub Uuid);

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The requested change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
#[non_exhaustive]
pub enum OperationKind {
    /// Bring the platform to a new generation.
    Declare {
        generation: Generation,
        /// What the request changes in the declaration.
        subject: Subject,
        /// The name of the request, for example `scale to 5`.
        request: String,
        /// The nodes that the request changes, if it changes no services.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        nodes: BTreeSet<NodeName>,
        /// The runs of containers that start again, because their node was stopped and is started.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        replaces: BTreeMap<InstanceId, ContainerRun>,
    },
    /// Remove the whole platform.
    DeletePlatform {
        /// Whether to remove the named volumes from nodes that are not deleted.
        volumes: bool,
    },
    /// Restart the containers of a service, or of one replica.
    Restart {
        service: ServiceName,
        /// The container to replace for each replica, with its start time. A container that was
        /// started later is not restarted, so a repeated or resumed request restarts each replica
        /// only once.
        replaces: BTreeMap<InstanceId, ContainerRun>,
        /// Whether the restart was cancelled: what has begun is completed.
        #[serde(default, skip_serializing_if = "is_default")]
        cancelled: bool,
    },
    /// Restart a node, after its containers were stopped, and start them again.
    RestartNode {
        node: NodeName,
        /// The boot that the restart ends. A node in a later boot is not restarted, so a repeated or
        /// resumed request restarts the node only once.
        boot_id: String,
        /// The run of each container that the restart ends.
        replaces: BTreeMap<InstanceId, ContainerRun>,
        /// Whether the restart was cancelled: what has begun is completed.
        #[serde(default, skip_serializing_if = "is_default")]
        cancelled: bool,
    },
    /// Prepare a node for Docker again.
    PrepareNode {
        node: NodeName,
        /// What was done, once the preparation has succeeded.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outcome: Option<String>,
    },
    /// Replace the replicas of a service as declared.
    Rollout {
        service: ServiceName,
        /// The digest of the specification that is rolled out.
        digest: SpecDigest,
        /// The latest request of a user about this rollout.
        request: Option<RolloutRequest>,
    },
}

/// Identifies one execution of a container, from a start to the next exit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRun {
    pub container: ContainerId,
    /// When the engine started the container.
    pub started_at: DateTime<Utc>,
}

/// The progress of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum OperationState {
    /// The operation was accepted and has not ended yet.
    Running,
    Succeeded {
        at: DateTime<Utc>,
    },
    Failed {
        at: DateTime<Utc>,
        why: String,
    },
    /// The operation was cancelled before everything was done.
    Cancelled {
        at: DateTime<Utc>,
    },
}

impl OperationKind {
    /// Returns whether the operation was cancelled, and completes what it has begun.
    pub fn is_cancelled(&self) -> bool {
        matches!(
            self,
            Self::Restart {
                cancelled: true,
                ..
            } | Self::RestartNode {
                cancelled: true,
                ..
            }
        )
    }
}

impl Operation {
    /// Returns when the operation ended; `None` if it is running.
    pub fn ended_at(&self) -> Option<DateTime<Utc>> {
        match self.state {
            OperationState::Running => None,
            OperationState::Succeeded { at }
            | OperationState::Failed { at, .. }
            | OperationState::Cancelled { at } => Some(at),
        }
    }

    /// Returns what the operation is about.
    pub fn subject(&self) -> Subject {
        match &self.kind {
            OperationKind::Declare { subject, .. } => subject.clone(),
            OperationKind::DeletePlatform { .. } => Subject::Platform,
            OperationKind::Restart { service, .. } | OperationKind::Rollout { service, .. } => {
                Subject::Service(service.clone())
            }
            OperationKind::RestartNode { node, .. } | OperationKind::PrepareNode { node, .. } => {
                Subject::Node(node.clone())
            }
        }
    }
}

/// A requested change with an id and a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    pub id: OperationId,
    /// The requested change.
    #[serde(flatten)]
    pub kind: OperationKind,
    /// The progress.
    #[serde(flatten)]
    pub state: OperationState,
    pub requested_at: DateTime<Utc>,
}
