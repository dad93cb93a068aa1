//! The parts of a plan as data: steps, why each is in the plan, and what holds others.

mod action;
mod id;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::{
    ContainerId, DependencyCondition, InstanceId, InstanceState, NodeName, ServiceName, Subject,
    VolumeName,
};
use crate::registry::RejectedSpec;

pub use action::Action;
pub(crate) use action::Work;
pub use id::StepId;

/// Why a step is in the plan: the difference between what is declared and what is observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "because")]
#[non_exhaustive]
pub enum Reason {
    /// The node is declared, and the cloud has no node of that name.
    NodeAbsent,
    /// The node is declared and stopped.
    NodeStopped,
    /// The node is about to be created, and a new node has no engine.
    NodeIsNew,
    /// The node runs, and no engine responds on it.
    EngineMissing,
    /// The cloud failed to create the node, and nothing ever ran on it.
    NodeFailed,
    /// The node was created for this platform and is no longer declared.
    NodeNotDeclared,
    /// The node does not have an image that is needed there.
    ImageAbsent {
        /// The service or node that needs it.
        needed_by: Subject,
        /// Whether it is built, copied or pulled, and why.
        how: String,
    },
    /// Service addresses need an agent, and none runs on the node.
    AgentAbsent,
    /// The node's agent belongs to another version of the manager.
    AgentOutdated,
    /// No container on the node needs the agent any more.
    AgentNotNeeded,
    /// The replica is declared and has no container.
    InstanceAbsent,
    /// The replica is declared and has no container. It is placed on this node because its volume
    /// is here.
    VolumeIsHere {
        /// The volume.
        volume: VolumeName,
    },
    /// The replica's container was created but never started.
    NeverStarted,
    /// The replica's container ended, and its restart policy starts it again.
    Ended {
        /// The exit code.
        code: i64,
        /// How often it has ended since it was last ready.
        times: u32,
    },
    /// The service's declaration changed.
    SpecChanged {
        /// The first digits of the digest that runs.
        from: String,
        /// The first digits of the digest that is declared.
        to: String,
    },
    /// Another replica is now declared to have the replica's host port, and the replica itself is
    /// to have it elsewhere or not at all.
    PortPasses {
        /// The host port.
        port: u16,
        /// The replica that is declared to have it.
        to: InstanceId,
    },
    /// The replica is now placed on another node.
    Moved {
        /// The node that it was on.
        from: NodeName,
    },
    /// Another container of the replica is ready and replaces this one.
    Superseded,
    /// The service, or this replica of it, is no longer declared.
    NotDeclared,
    /// A restart was requested.
    RestartRequested,
    /// The new specification did not become ready, so the previous one comes back.
    RolledBack {
        /// Why the new one was rejected.
        why: String,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeAbsent => f.write_str("declared, but the cloud has no such node"),
            Self::NodeStopped => f.write_str("declared, but the node is stopped"),
            Self::NodeIsNew => f.write_str("a new node has no Docker engine"),
            Self::EngineMissing => {
                f.write_str("the node runs, but no Docker engine responds on it")
            }
            Self::NodeFailed => f.write_str(
                "the cloud failed to create the node, so it is deleted and created again",
            ),
            Self::NodeNotDeclared => {
                f.write_str("created for this platform, but no longer declared")
            }
            Self::ImageAbsent { needed_by, how } => write!(f, "needed by {needed_by}; {how}"),
            Self::AgentAbsent => {
                f.write_str("service names need an agent on each node, and none runs here")
            }
            Self::AgentOutdated => {
                f.write_str("the agent belongs to another version of the manager")
            }
            Self::AgentNotNeeded => f.write_str("no service runs here any more"),
            Self::InstanceAbsent => f.write_str("declared, but it has no container"),
            Self::VolumeIsHere { volume } => write!(
                f,
                "declared, but it has no container; its volume {volume} is on this node"
            ),
            Self::NeverStarted => f.write_str("its container was created but never started"),
            Self::Ended { code, times } => write!(
                f,
                "its container ended with exit code {code} ({times}×), and its restart policy \
                 starts it again"
            ),
            Self::SpecChanged { from, to } => {
                write!(f, "its declaration changed: {from} runs, {to} is declared")
            }
            Self::PortPasses { port, to } => write!(f, "its port {port} is now declared for {to}"),
            Self::Moved { from } => write!(f, "it is no longer placed on {from}"),
            Self::Superseded => f.write_str("the container that replaces it is ready"),
            Self::NotDeclared => f.write_str("no longer declared"),
            Self::RestartRequested => f.write_str("a restart was requested"),
            Self::RolledBack { why } => write!(
                f,
                "the new specification was rejected ({why}), so the previous one comes back"
            ),
        }
    }
}

/// A step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Step {
    /// The step's identity.
    pub id: StepId,
    /// What it does.
    #[serde(flatten)]
    pub action: Action,
    /// The steps of the same plan that must be done before it.
    pub needs: BTreeSet<StepId>,
    /// Why it is in the plan.
    pub reason: Reason,
}

/// Why something that is declared cannot be done now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "because")]
#[non_exhaustive]
pub enum HeldBy {
    /// The cloud does not respond.
    CloudUnknown {
        /// Since when.
        since: DateTime<Utc>,
        /// The error.
        why: String,
    },
    /// The node is unreachable.
    NodeUnknown {
        /// The node.
        node: NodeName,
        /// Since when.
        since: DateTime<Utc>,
        /// The error.
        why: String,
    },
    /// The node has not responded for a short time. No step begins on it until it responds, or
    /// counts as unreachable.
    NodeNotResponding {
        /// The node.
        node: NodeName,
        /// Since when.
        since: DateTime<Utc>,
        /// The error.
        why: String,
    },
    /// The node is starting or stopping, or was not observed yet.
    NodeChanging {
        /// The node.
        node: NodeName,
        /// What it is doing, for example `starting`.
        power: String,
        /// Since when, as far as it was observed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<DateTime<Utc>>,
    },
    /// A node that the replica needs cannot be used. The plan has the reason under the node.
    Node {
        /// The node.
        node: NodeName,
    },
    /// The node's agent does not have the services' addresses yet.
    Agent {
        /// The node.
        node: NodeName,
        /// Since when.
        since: DateTime<Utc>,
        /// Why not.
        why: String,
    },
    /// The node does not have the image yet. The plan has the reason under the step that brings it.
    Image {
        /// The image.
        image: String,
    },
    /// Another replica has a host port that this one is declared to have, and keeps it.
    Port {
        /// The host port.
        port: u16,
        /// The replica that has it.
        holder: InstanceId,
    },
    /// The container runs and is not ready yet.
    NotReadyYet {
        /// Since when it runs.
        since: Option<DateTime<Utc>>,
    },
    /// A service that this one depends on is not up.
    Dependency {
        /// The service.
        service: ServiceName,
        /// What it has to reach first.
        condition: DependencyCondition,
    },
    /// The service starts last, and another one is not up.
    StartsLast {
        /// One of the services that are not up.
        service: ServiceName,
    },
    /// A step failed and is retried later.
    Backoff {
        /// The step that failed.
        step: StepId,
        /// When it is retried.
        until: DateTime<Utc>,
        /// How often it has failed in a row.
        failures: u32,
        /// The last error.
        why: String,
    },
    /// A restart of the replica was requested, and another replica restarts before it.
    RestartsAfter {
        /// The replica that restarts before it.
        replica: InstanceId,
    },
    /// The replica is no longer declared, and another service stops before it.
    StopsAfter {
        /// One of the services that stop before it.
        service: ServiceName,
    },
    /// The node is no longer declared, and containers on it have not moved away yet.
    StillUsed,
    /// The replica fits on no node.
    NoNodeFits {
        /// What rules out each node.
        why: String,
    },
    /// It failed. Only another declaration or a retry by a person changes that.
    Failed {
        /// What happened.
        why: String,
    },
}

impl HeldBy {
    /// Since when, as far as it is known.
    pub fn since(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::CloudUnknown { since, .. }
            | Self::NodeUnknown { since, .. }
            | Self::NodeNotResponding { since, .. }
            | Self::Agent { since, .. } => Some(*since),
            Self::NodeChanging { since, .. } | Self::NotReadyYet { since } => *since,
            _ => None,
        }
    }
}

impl fmt::Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CloudUnknown { since, why } => {
                let since = time_of_day(*since);
                write!(f, "the cloud has not responded since {since}: {why}")
            }
            Self::NodeUnknown { node, since, why } => {
                let since = time_of_day(*since);
                write!(f, "node {node} has been unreachable since {since}: {why}")
            }
            Self::NodeNotResponding { node, since, why } => {
                let since = time_of_day(*since);
                write!(f, "node {node} has not responded since {since}: {why}")
            }
            Self::NodeChanging { node, power, since } => match since {
                Some(since) => {
                    let since = time_of_day(*since);
                    write!(f, "node {node} has been {power} since {since}")
                }
                None => write!(f, "node {node} is {power}"),
            },
            Self::Node { node } => write!(f, "waits for node {node}"),
            Self::Agent { node, why, .. } => write!(f, "waits for the agent on {node}: {why}"),
            Self::Image { image } => write!(f, "waits for the image {image}"),
            Self::Port { port, holder } => {
                write!(f, "port {port} is already used by {holder}")
            }
            Self::NotReadyYet { .. } => f.write_str("running, but not ready yet"),
            Self::Dependency { service, condition } => match condition {
                DependencyCondition::ServiceStarted => write!(f, "waits for {service} to start"),
                DependencyCondition::ServiceHealthy => write!(f, "waits for {service} to be ready"),
                DependencyCondition::ServiceCompletedSuccessfully => {
                    write!(f, "waits for {service} to complete")
                }
            },
            Self::StartsLast { service } => write!(f, "starts last, and {service} is not up yet"),
            Self::RestartsAfter { replica } => write!(f, "restarts once {replica} is up again"),
            Self::StopsAfter { service } => write!(f, "stops after {service}"),
            Self::StillUsed => f.write_str("no longer declared, but still in use"),
            Self::Backoff {
                until,
                failures,
                why,
                ..
            } => {
                let until = time_of_day(*until);
                write!(f, "failed {failures}×, next attempt at {until}: {why}")
            }
            Self::NoNodeFits { why } => write!(f, "fits on no node: {why}"),
            Self::Failed { why } => f.write_str(why),
        }
    }
}

fn time_of_day(at: DateTime<Utc>) -> impl fmt::Display {
    at.format("%H:%M:%S")
}

/// Something that is declared and that no step of the plan can begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Held {
    /// What is held.
    pub subject: Subject,
    /// Why.
    #[serde(flatten)]
    pub by: HeldBy,
    /// When the round stops waiting for it. Absent if the round does not wait for this cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_until: Option<DateTime<Utc>>,
}

impl Held {
    /// A hold that the round does not wait for.
    pub fn new(subject: Subject, by: HeldBy) -> Self {
        Self {
            subject,
            by,
            waits_until: None,
        }
    }
}

/// The status of a declared replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InstanceStatus {
    /// The node that it is placed on.
    pub node: Option<NodeName>,
    /// Its container, if it has one.
    pub container: Option<ContainerId>,
    /// Its state.
    pub state: InstanceState,
    /// Whether it will not change within this round: it is ready, completed or failed, or waits
    /// for something that failed.
    pub settled: bool,
}

/// The ordered difference between what is declared and what is observed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What is to be done. Each step comes after those that it needs.
    pub steps: Vec<Step>,
    /// What cannot be done now, and why.
    pub held: Vec<Held>,
    /// The status of each declared replica.
    pub instances: BTreeMap<InstanceId, InstanceStatus>,
    /// Whether the round has ended: every node is usable or failed, every replica is ready,
    /// completed or failed.
    #[serde(default)]
    pub settled: bool,
    /// Specifications that this plan rejects, since they failed and the previous one can come back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejects: Vec<RejectedSpec>,
    /// The next time at which the plan changes without a new observation.
    pub next_change: Option<DateTime<Utc>>,
}

impl Plan {
    /// Whether there is nothing to do and nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.held.is_empty()
    }
}
