//! Overrides in requests and responses.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::{NodeName, ServiceName, Subject};
use crate::platform::{Override, OverrideKind};

/// The body of `POST /v1/services/{name}/scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaleV1 {
    /// The number of replicas.
    pub replicas: u16,
}

/// The body of `POST /v1/nodes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NewNodeV1 {
    pub name: NodeName,
    /// The node whose size, image, labels and capacity the new node gets; by default, it gets the
    /// provider's defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub like: Option<String>,
}

impl NewNodeV1 {
    /// Creates a request for a node like another one, or with the provider's defaults.
    pub fn new(name: NodeName, like: Option<String>) -> Self {
        Self { name, like }
    }
}

/// A change that was requested at run time, on top of the user's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct OverrideV1 {
    /// The name of the override: `<service>.replicas`, `<service>.stopped` or `<name>.added`.
    pub id: String,
    /// The service that is changed or added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// The node that is added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// What is changed.
    #[serde(flatten)]
    pub kind: OverrideKindV1,
    /// When the change was requested.
    #[serde(serialize_with = "crate::clock::six_digits::serialize")]
    pub at: DateTime<Utc>,
    /// Who requested the change: a token, with its id and the address of the client.
    pub by: String,
}

/// What an override changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "kind")]
#[non_exhaustive]
pub enum OverrideKindV1 {
    /// The number of replicas.
    Replicas {
        /// The number in force.
        replicas: u16,
        /// The number in the files.
        declared: u16,
    },
    /// The service has no replicas until it is started.
    Stopped,
    /// The service or node is declared in addition to those in the files.
    Added,
    /// A kind that only a newer manager knows.
    #[serde(other)]
    Unknown,
}

impl From<Override> for OverrideV1 {
    fn from(one: Override) -> Self {
        Self {
            id: one.id(),
            kind: match one.kind {
                OverrideKind::Replicas { replicas, declared } => {
                    OverrideKindV1::Replicas { replicas, declared }
                }
                OverrideKind::Stopped => OverrideKindV1::Stopped,
                OverrideKind::Added => OverrideKindV1::Added,
            },
            service: match &one.subject {
                Subject::Service(service) => Some(service.clone()),
                _ => None,
            },
            node: match one.subject {
                Subject::Node(node) => Some(node),
                _ => None,
            },
            at: one.requested.at,
            by: one.requested.by,
        }
    }
}

impl fmt::Display for OverrideV1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = self.id.split('.').next().unwrap_or(&self.id);
        match self.kind {
            OverrideKindV1::Replicas { replicas, declared } => write!(
                f,
                "{of} has {replicas} {}, the files declare {declared}",
                if replicas == 1 { "replica" } else { "replicas" }
            )?,
            OverrideKindV1::Stopped => write!(f, "{of} is stopped")?,
            OverrideKindV1::Added if self.node.is_some() => write!(f, "node {of} was added")?,
            OverrideKindV1::Added => write!(f, "{of} was added")?,
            OverrideKindV1::Unknown => write!(f, "{} is changed", self.id)?,
        }
        let at = self.at.format("%FT%TZ");
        write!(f, " (requested at {at} by {})", self.by)
    }
}
