//! How a declaration asks for changed replicas to be replaced (Compose `deploy.update_config`,
//! `deploy.rollback_config`). Kept with the service, without effect yet: the planner stops all
//! replicas of a changed service at once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::container::is_default;

/// What a declaration says of the replacement of replicas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdatePolicy {
    /// When a declaration changes.
    #[serde(skip_serializing_if = "is_default")]
    pub update: Option<Replacement>,
    /// When a changed replica is given up.
    #[serde(skip_serializing_if = "is_default")]
    pub rollback: Option<Replacement>,
}

/// How replicas are replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Replacement {
    /// How many at a time; 0 is all.
    #[serde(skip_serializing_if = "is_default")]
    pub parallelism: Option<u32>,
    /// How long to wait between two.
    #[serde(
        with = "crate::model::service::optional_seconds",
        skip_serializing_if = "is_default"
    )]
    pub delay: Option<Duration>,
    /// How long one is watched after it came up.
    #[serde(
        with = "crate::model::service::optional_seconds",
        skip_serializing_if = "is_default"
    )]
    pub monitor: Option<Duration>,
    /// Whether the new one starts before the old one is stopped.
    #[serde(skip_serializing_if = "is_default")]
    pub order: Option<ReplacementOrder>,
    /// What follows a failure.
    #[serde(skip_serializing_if = "is_default")]
    pub on_failure: Option<OnFailure>,
}

/// Which of the two goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplacementOrder {
    /// The old one stops, then the new one starts.
    StopFirst,
    /// The new one starts, then the old one stops.
    StartFirst,
}

/// What follows when a replaced replica does not come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Nothing more is replaced.
    Pause,
    /// The others are replaced all the same.
    Continue,
    /// The former ones come back.
    Rollback,
}
