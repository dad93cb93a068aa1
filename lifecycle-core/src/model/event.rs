//! What happened, as the registry keeps it and `/v1/events` tells it.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{InstanceId, NodeName, ServiceName};

/// What an event or a step is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Subject {
    /// The platform as a whole.
    Platform,
    /// A node.
    Node(NodeName),
    /// A service.
    Service(ServiceName),
    /// One replica of a service.
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

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EventKind {
    /// A new generation was accepted.
    Declared,
    /// A plan with steps that no earlier plan of this process had.
    Planned,
    /// A step began.
    StepStarted,
    /// A step ended well.
    StepSucceeded,
    /// A step failed; it may be tried again.
    StepFailed,
    /// An instance became ready and its endpoints were published.
    Ready,
    /// An instance is ready no more and its endpoints were withdrawn.
    NotReady,
    /// A service or an instance failed for good under this declaration.
    Failed,
    /// A node cannot be asked.
    NodeUnknown,
    /// A node answers again.
    NodeKnown,
    /// The first round has ended and the API is open.
    FirstRoundDone,
    /// Connections to a service were given up, since none of its instances got ready in time.
    NoReadyEndpoint,
    /// An agent cannot listen at an address, since something else on its node has it.
    CannotListen,
    /// The manager took the lease.
    Leading,
    /// A restart was asked for.
    RestartRequested,
    /// A restart has ended, well or not.
    RestartEnded,
    /// The database of a kind of objects cannot be written; the central registry can.
    DatabaseAway,
    /// The database of a kind of objects is up to date again.
    DatabaseBack,
    /// A kind of a newer manager.
    #[serde(other)]
    Unknown,
}

/// An event that is about to be recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NewEvent {
    /// When it happened.
    #[serde(serialize_with = "crate::clock::six_digits::serialize")]
    pub at: DateTime<Utc>,
    /// Its kind.
    pub kind: EventKind,
    /// What it is about.
    pub subject: Subject,
    /// One sentence for people. Holds no secret.
    pub message: String,
    /// The data behind the sentence, by kind: a plan, a step, a reason.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub data: serde_json::Value,
}

/// A recorded event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// Its place in the order of all events of this registry; a cursor is one of these.
    pub id: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: NewEvent,
}
