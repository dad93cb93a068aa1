//! Overrides in requests and responses.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::{NodeName, Scheduling, ServiceName, Subject};
use crate::platform::{Override, OverrideKind};
use crate::reconcile::{HeldBy, Plan};

/// The body of `POST /v1/services/{name}/scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ScaleV1 {
    /// The number of replicas.
    #[serde(deserialize_with = "super::whole::number")]
    #[cfg_attr(feature = "schema", schemars(range(max = 10_000)))]
    pub replicas: u16,
}

/// The body of `POST /v1/nodes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// The name of the override: `<service>.replicas`, `<service>.stopped`, `<name>.added`,
    /// `<node>.adopting`, `<node>.scheduling` or `<node>.power`.
    pub id: String,
    /// The service that is changed or added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// The node that is added, adopted, cordoned, drained or stopped.
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
    /// The service has no replicas, or the node is stopped, until it is started.
    Stopped,
    /// The service or node is declared in addition to those in the files.
    Added,
    /// The machine of the node is being taken over, or this was interrupted.
    Adopting,
    /// The node is cordoned or drained.
    Scheduling {
        /// Which replicas the node may have.
        scheduling: SchedulingV1,
    },
    /// A kind that only a newer manager knows.
    #[serde(other)]
    Unknown,
}

impl OverrideKindV1 {
    /// Returns whether the override adds what the files do not declare.
    pub(crate) fn is_addition(self) -> bool {
        matches!(self, Self::Added | Self::Adopting)
    }
}

/// Which replicas a node may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SchedulingV1 {
    /// All replicas.
    #[default]
    Open,
    /// Only the replicas that it has.
    Cordoned,
    /// Only the replicas that it has and that fit on no other node. All others move.
    Drained,
    /// A value that only a newer manager knows.
    #[serde(other)]
    Unknown,
}

impl From<Scheduling> for SchedulingV1 {
    fn from(scheduling: Scheduling) -> Self {
        match scheduling {
            Scheduling::Open => Self::Open,
            Scheduling::Cordoned => Self::Cordoned,
            Scheduling::Drained => Self::Drained,
        }
    }
}

impl fmt::Display for SchedulingV1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A replica that stays on a drained node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct StayingV1 {
    /// `<service>-<replica>`.
    pub instance: String,
    /// Why the replica does not fit on each of the other nodes.
    pub why: String,
}

impl StayingV1 {
    /// Returns the replicas that stay on drained nodes according to a plan.
    pub(crate) fn on(nodes: &[String], plan: &Plan) -> Vec<Self> {
        let held = plan.held.iter();
        let staying = held.filter_map(|held| match (&held.subject, &held.by) {
            (Subject::Instance(id), HeldBy::StaysOnDrained { node: on, why })
                if nodes.iter().any(|node| node == on.as_str()) =>
            {
                Some(Self {
                    instance: id.to_string(),
                    why: why.clone(),
                })
            }
            _ => None,
        });
        let mut staying: Vec<Self> = staying.collect();
        staying.sort_by(|a, b| a.instance.cmp(&b.instance));
        staying
    }
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
                OverrideKind::Adopting => OverrideKindV1::Adopting,
                OverrideKind::Scheduling(scheduling) => OverrideKindV1::Scheduling {
                    scheduling: scheduling.into(),
                },
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
            OverrideKindV1::Stopped if self.node.is_some() => write!(f, "node {of} is stopped")?,
            OverrideKindV1::Stopped => write!(f, "{of} is stopped")?,
            OverrideKindV1::Added if self.node.is_some() => write!(f, "node {of} was added")?,
            OverrideKindV1::Added => write!(f, "{of} was added")?,
            OverrideKindV1::Adopting => write!(
                f,
                "the adoption of node {of} is not complete; repeat it with `bootstrapper node adopt`, \
                 or end it with `bootstrapper node remove {of}`"
            )?,
            OverrideKindV1::Scheduling { scheduling } => write!(f, "node {of} is {scheduling}")?,
            OverrideKindV1::Unknown => write!(f, "{} is changed", self.id)?,
        }
        let at = self.at.format("%FT%TZ");
        write!(f, " (requested at {at} by {})", self.by)
    }
}
