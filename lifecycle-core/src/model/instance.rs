//! Instances: the containers that really run a replica.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Endpoint, InstanceId, NodeName};

/// The engine's id of a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct ContainerId(pub Arc<str>);

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// HMAC-SHA256 under the platform key over everything that a running container cannot change.
/// Two instances with one digest are interchangeable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpecDigest(Arc<str>);

impl SpecDigest {
    /// The version of the form that the digest is computed over, as the label
    /// `lifecycle.spec-version` records it.
    pub const VERSION: &'static str = "1";

    /// Wraps the hexadecimal digest, as computed or as read from a container's label.
    pub fn from_hex(hex: impl Into<Arc<str>>) -> Self {
        Self(hex.into())
    }

    /// All hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The twelve digits that stand in a container's name.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for SpecDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an instance is doing, as the manager sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum InstanceState {
    /// Its container runs, its readiness check has not passed yet.
    Starting,
    /// Its readiness check passed.
    Ready,
    /// It ran to its end with exit code 0, as its dependents await.
    Completed,
    /// Its container does not run.
    Stopped,
    /// It did not become ready in time, or ended with an error.
    Failed {
        /// What happened, in words for the user.
        why: String,
    },
    /// Its node cannot be asked.
    Unknown {
        /// Since when.
        since: DateTime<Utc>,
        /// Why not.
        why: String,
    },
}

impl InstanceState {
    /// The state in one word, as the CLI and the API show it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Completed => "completed",
            Self::Stopped => "stopped",
            Self::Failed { .. } => "failed",
            Self::Unknown { .. } => "unknown",
        }
    }
}

/// What the registry keeps of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Which replica of which service.
    pub id: InstanceId,
    /// The node it runs on.
    pub node: NodeName,
    /// The container that runs it.
    pub container: ContainerId,
    /// The digest of the specification that the container was made from.
    pub digest: SpecDigest,
    /// What it is doing.
    pub state: InstanceState,
    /// When the engine started the container.
    pub started_at: Option<DateTime<Utc>>,
    /// When the readiness check passed for this start; kept across the manager's restarts.
    pub ready_at: Option<DateTime<Utc>>,
    /// Where it is reached; only while it is ready.
    pub endpoints: Vec<Endpoint>,
}
