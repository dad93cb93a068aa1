//! How changed replicas are replaced (Compose `deploy.update_config`, `deploy.rollback_config`).

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
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
    /// How many replicas are replaced at a time; 0 means all. The default is 1.
    #[serde(skip_serializing_if = "is_default")]
    pub parallelism: Option<u32>,
    /// How long to wait after a replica has been replaced before the next one is replaced. The
    /// default is 0.
    #[serde(
        with = "crate::model::service::optional_seconds",
        skip_serializing_if = "is_default"
    )]
    pub delay: Option<Duration>,
    /// How long a new replica must stay ready before it counts as replaced. A replica that ends
    /// earlier has failed. The default is 0: a replica counts as replaced as soon as it is ready.
    #[serde(
        with = "crate::model::service::optional_seconds",
        skip_serializing_if = "is_default"
    )]
    pub monitor: Option<Duration>,
    /// Whether the new replica starts before the old one is stopped. By default it does, unless the
    /// service mounts a volume or a path of the node that it may write to. Replicas that use the
    /// same host port or the network of the same node, and services that run once, are always
    /// stopped first.
    #[serde(skip_serializing_if = "is_default")]
    pub order: Option<ReplacementOrder>,
    /// The action after a failure. The default is [`OnFailure::Pause`].
    #[serde(skip_serializing_if = "is_default")]
    pub on_failure: Option<OnFailure>,
    /// The share of replicas that may fail before [`Self::on_failure`] applies, in millionths. The
    /// default is 0: it applies after the first failure.
    #[serde(skip_serializing_if = "is_default")]
    pub max_failure_millionths: Option<u32>,
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
    /// The failed replica is restored, and no further replicas are replaced.
    Pause,
    /// The failed replica is restored, and the remaining replicas are replaced.
    Continue,
    /// All replicas are restored.
    Rollback,
}

/// A user's request about a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutRequest {
    /// Replace no further replicas.
    Pause,
    /// Continue after a pause, or try again after a failure.
    Resume,
    /// Restore all replicas that were replaced.
    Rollback,
}

impl RolloutRequest {
    /// All requests.
    pub const ALL: [Self; 3] = [Self::Pause, Self::Resume, Self::Rollback];
}

impl fmt::Display for RolloutRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A request about the rollout of one specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutControl {
    /// The digest of the specification.
    pub digest: super::SpecDigest,
    pub request: RolloutRequest,
    /// When the request was accepted.
    pub at: DateTime<Utc>,
}

impl RolloutControl {
    /// Returns whether the request makes an earlier failure of the specification obsolete.
    pub fn supersedes(&self, failed_at: DateTime<Utc>) -> bool {
        self.request == RolloutRequest::Resume && failed_at <= self.at
    }
}
