//! How changed replicas are replaced (Compose `deploy.update_config`, `deploy.rollback_config`).
//! These settings are stored with the service, but have no effect yet: the planner stops all
//! replicas of a changed service together.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::container::is_default;

/// The settings for replacing replicas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdatePolicy {
    /// How replicas are replaced after a change of the declaration.
    #[serde(skip_serializing_if = "is_default")]
    pub update: Option<Replacement>,
    /// How changed replicas are rolled back.
    #[serde(skip_serializing_if = "is_default")]
    pub rollback: Option<Replacement>,
}

/// How replicas are replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Replacement {
    /// How many replicas are replaced at a time; 0 means all.
    #[serde(skip_serializing_if = "is_default")]
    pub parallelism: Option<u32>,
    /// The delay between two replacements.
    #[serde(
        with = "crate::model::service::optional_seconds",
        skip_serializing_if = "is_default"
    )]
    pub delay: Option<Duration>,
    /// How long a new replica is monitored after its start.
    #[serde(
        with = "crate::model::service::optional_seconds",
        skip_serializing_if = "is_default"
    )]
    pub monitor: Option<Duration>,
    /// Whether the new replica starts before the old one is stopped.
    #[serde(skip_serializing_if = "is_default")]
    pub order: Option<ReplacementOrder>,
    /// What happens after a failure.
    #[serde(skip_serializing_if = "is_default")]
    pub on_failure: Option<OnFailure>,
}

/// The order of stopping and starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplacementOrder {
    /// The old replica is stopped, then the new one started.
    StopFirst,
    /// The new replica is started, then the old one stopped.
    StartFirst,
}

/// What happens if a new replica fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// No further replicas are replaced.
    Pause,
    /// The remaining replicas are replaced.
    Continue,
    /// The previous replicas are restored.
    Rollback,
}
