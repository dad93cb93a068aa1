//! Operations in responses.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::model::{OperationId, OperationKind, Subject};

/// An operation in a response, for example to `DELETE /v1/platform` or `GET /v1/operations/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct OperationV1 {
    /// The operation's id.
    pub id: Uuid,
    /// The kind of the operation.
    #[serde(default)]
    pub kind: OperationKindV1,
    /// The service or node that is changed, or the platform. Absent in responses of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// The request that changed the declaration, for example `scale to 5`. Present if the kind is `declare`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The generation to which the platform is brought. Present if the kind is `declare`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The operation's state.
    pub state: OperationStateV1,
    /// Why the operation failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What was done, for example `engine 20.10.24 was started`. Present if the kind is `prepare-node` and the operation has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// When the operation was accepted. Absent in responses of earlier versions.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::clock::six_digits::optional"
    )]
    pub requested_at: Option<DateTime<Utc>>,
    /// When the operation ended. Absent while it is running.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::clock::six_digits::optional"
    )]
    pub ended_at: Option<DateTime<Utc>>,
}

/// What an operation does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OperationKindV1 {
    /// The platform is brought to a new generation of the declaration.
    Declare,
    /// The whole platform is deleted.
    DeletePlatform,
    /// The containers of a service, or of one replica, are restarted.
    Restart,
    /// A node is restarted.
    RestartNode,
    /// A node is prepared for Docker again.
    PrepareNode,
    /// The replicas of a service are replaced.
    Rollout,
    /// A kind that only a newer manager knows.
    #[default]
    #[serde(other)]
    Unknown,
}

/// The state of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OperationStateV1 {
    /// The operation was accepted and has not ended yet.
    Running,
    Succeeded,
    Failed,
    /// The operation was cancelled before everything was done.
    Cancelled,
}

impl OperationV1 {
    /// Returns the id as a domain type.
    pub fn id(&self) -> OperationId {
        OperationId(self.id)
    }

    /// Fails if the operation has failed or was cancelled. `what` describes it in the error.
    pub fn succeeded(&self, what: impl Into<String>) -> Result<()> {
        match (&self.why, self.state) {
            (Some(why), _) => Err(Error::failed(what, why.clone())),
            (None, OperationStateV1::Cancelled) => Err(Error::failed(what, "it was cancelled")),
            (None, _) => Ok(()),
        }
    }
}

impl From<&OperationKind> for OperationKindV1 {
    fn from(kind: &OperationKind) -> Self {
        match kind {
            OperationKind::Declare { .. } => Self::Declare,
            OperationKind::DeletePlatform { .. } => Self::DeletePlatform,
            OperationKind::Restart { .. } => Self::Restart,
            OperationKind::RestartNode { .. } => Self::RestartNode,
            OperationKind::PrepareNode { .. } => Self::PrepareNode,
            OperationKind::Rollout { .. } => Self::Rollout,
        }
    }
}

impl fmt::Display for OperationKindV1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl fmt::Display for OperationStateV1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}
