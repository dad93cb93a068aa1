//! Overrides in requests and responses.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::ServiceName;
use crate::platform::{Override, OverrideKind};

/// The body of `POST /v1/services/{name}/scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaleV1 {
    /// The number of replicas.
    pub replicas: u16,
}

/// A change that was requested at run time, on top of the user's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct OverrideV1 {
    /// The name of the override: `<service>.replicas` or `<service>.stopped`.
    pub id: String,
    /// The service that is changed.
    pub service: ServiceName,
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
            },
            service: one.service,
            at: one.requested.at,
            by: one.requested.by,
        }
    }
}

impl fmt::Display for OverrideV1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = &self.service;
        match self.kind {
            OverrideKindV1::Replicas { replicas, declared } => write!(
                f,
                "{service} has {replicas} {}, the files declare {declared}",
                if replicas == 1 { "replica" } else { "replicas" }
            )?,
            OverrideKindV1::Stopped => write!(f, "{service} is stopped")?,
            OverrideKindV1::Unknown => write!(f, "{} is changed", self.id)?,
        }
        let at = self.at.format("%FT%TZ");
        write!(f, " (requested at {at} by {})", self.by)
    }
}
