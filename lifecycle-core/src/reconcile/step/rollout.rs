//! Describes how far the rollout of a service has come.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The progress of a service's rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RolloutProgress {
    /// The state of the rollout.
    pub state: RolloutState,
    /// How many replicas run the declared specification and are ready.
    pub replaced: usize,
    /// How many replicas are declared.
    pub replicas: usize,
    /// Why the rollout is paused or rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The state of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RolloutState {
    /// Replicas are being replaced.
    Progressing,
    /// No further replicas are replaced, because a replica failed or a pause was requested.
    Paused,
    /// All replicas are replaced, except those that failed.
    Failed,
    /// The previous specification is being restored.
    RollingBack,
    /// All replicas run the previous specification again.
    RolledBack,
}

impl fmt::Display for RolloutProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            replaced, replicas, ..
        } = self;
        match self.state {
            RolloutState::Progressing => {
                write!(f, "rolling out: {replaced} of {replicas} replicas replaced")?;
            }
            RolloutState::Paused => {
                write!(
                    f,
                    "rollout paused: {replaced} of {replicas} replicas replaced"
                )?;
            }
            RolloutState::Failed => {
                write!(
                    f,
                    "rollout failed: {replaced} of {replicas} replicas replaced"
                )?;
            }
            RolloutState::RollingBack => f.write_str("rolling back")?,
            RolloutState::RolledBack => f.write_str("rolled back")?,
        }
        match &self.why {
            Some(why) => write!(f, "; {why}"),
            None => Ok(()),
        }
    }
}
