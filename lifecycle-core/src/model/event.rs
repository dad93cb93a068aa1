//! Events, as the registry stores them and `/v1/events` returns them.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{InstanceId, NodeName, ServiceName};

/// The subject of an event or step.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Subject {
    /// The platform as a whole.
    Platform,
    Node(NodeName),
    Service(ServiceName),
    /// A replica of a service.
    Instance(InstanceId),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Platform => f.write_str("platform"),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Service(name) => write!(f, "service {name}"),
            Self::Instance(id) => write!(f, "instance {id}"),
        }
    }
}

/// The type of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EventKind {
    /// A new generation was accepted.
    Declared,
    /// A plan contains steps that were in no earlier plan of this manager process.
    Planned,
    /// A step started.
    StepStarted,
    /// A step succeeded.
    StepSucceeded,
    /// A step failed; it may be retried.
    StepFailed,
    /// An instance became ready, and its endpoints were published.
    Ready,
    /// An instance is no longer ready, and its endpoints were withdrawn.
    NotReady,
    /// A service or an instance failed permanently with the current declaration.
    Failed,
    /// A node does not respond.
    NodeUnknown,
    /// A node responds again.
    NodeKnown,
    /// The manager's first reconciliation round has ended, and the API accepts changes.
    FirstRoundDone,
    /// Connections to a service were reset, because no instance became ready in time.
    NoReadyEndpoint,
    /// An agent cannot listen on an address, because another process on the node uses it.
    CannotListen,
    /// A container has the labels of an instance, but another name. It is not managed.
    StrangerFound,
    /// A volume that an instance has used no longer exists on its node.
    VolumeVanished,
    /// A volume that had vanished exists again.
    VolumeFound,
    /// The manager acquired the lease.
    Leading,
    /// An agent has a later table than the manager, because the registry was lost or replaced. The
    /// manager continues with an epoch after the agent's.
    EpochRaised,
    /// A restart was requested.
    RestartRequested,
    /// A restart has ended, successfully or not.
    RestartEnded,
    /// Replicas of a service are being replaced.
    RolloutStarted,
    /// A rollout is to be paused, resumed or rolled back.
    RolloutRequested,
    /// All replicas of a service were replaced, or the rollout failed.
    RolloutEnded,
    /// A token of the manager's API was created.
    TokenCreated,
    /// A token of the manager's API was revoked.
    TokenRevoked,
    /// A change was requested, and accepted. The data contains the request and the token.
    Audit,
    /// The separate database for a kind of objects cannot be written, but the central registry can.
    DatabaseUnavailable,
    /// The separate database for a kind of objects is up to date again.
    DatabaseAvailable,
    /// An event type that only a newer manager knows.
    #[serde(other)]
    Unknown,
}

/// An event that has not been recorded, and therefore has no id yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NewEvent {
    /// When the event happened.
    #[serde(serialize_with = "crate::clock::six_digits::serialize")]
    pub at: DateTime<Utc>,
    /// The type of the event.
    pub kind: EventKind,
    /// The subject of the event.
    pub subject: Subject,
    /// One sentence for people. Contains no secrets.
    pub message: String,
    /// The data of the event, depending on its type: a plan, a step, a reason.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub data: serde_json::Value,
}

/// A recorded event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// The number of the event in this registry; also usable as a cursor.
    pub id: u64,
    /// The recorded event itself.
    #[serde(flatten)]
    pub event: NewEvent,
}
