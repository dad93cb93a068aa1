//! Instances: the containers that run replicas.

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

/// The digest of all settings that cannot be changed after a container is created: an HMAC-SHA256
/// with the platform key. Instances with the same digest are interchangeable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct SpecDigest(Arc<str>);

impl SpecDigest {
    /// The format version of the digest's input, recorded in the label `lifecycle.spec-version`.
    pub const VERSION: &'static str = "1";

    /// Wraps a digest in hexadecimal.
    pub fn from_hex(hex: impl Into<Arc<str>>) -> Self {
        Self(hex.into())
    }

    /// Returns all hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the first twelve digits, as used in container names.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for SpecDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The state of an instance, as the manager sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum InstanceState {
    /// The instance's container is running, but its readiness check has not passed yet.
    Starting,
    /// The instance's readiness check has passed.
    Ready,
    /// The instance was ready, and its readiness check does not pass any more.
    Unhealthy {
        /// Why the last check failed.
        why: String,
    },
    /// The instance's container exited with code 0, and other services depend on its completion.
    Completed,
    /// The instance's container is not running.
    Stopped,
    /// The instance did not become ready in time, or exited with an error.
    Failed {
        /// The reason, for the user.
        why: String,
    },
    /// The instance's node does not respond.
    Unknown {
        /// When the node stopped responding.
        since: DateTime<Utc>,
        /// Why the node does not respond.
        why: String,
    },
}

impl InstanceState {
    /// Returns the name of the state, for the CLI and the API.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unhealthy { .. } => "unhealthy",
            Self::Completed => "completed",
            Self::Stopped => "stopped",
            Self::Failed { .. } => "failed",
            Self::Unknown { .. } => "unknown",
        }
    }
}

/// The registry's record of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    pub id: InstanceId,
    pub node: NodeName,
    pub container: ContainerId,
    /// The digest of the specification that the container was created from.
    pub digest: SpecDigest,
    pub state: InstanceState,
    /// When the engine started the container.
    pub started_at: Option<DateTime<Utc>>,
    /// When the readiness check first passed after `started_at`. A restart of the manager keeps
    /// this time.
    pub ready_at: Option<DateTime<Utc>>,
    /// The instance's endpoints; empty unless the instance is ready.
    pub endpoints: Vec<Endpoint>,
}
