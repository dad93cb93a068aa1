//! Steps of a plan, what holds others up, and the reason of each, as data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::{
    ContainerId, DependencyCondition, InstanceId, InstanceState, NodeName, ServiceName, Subject,
    VolumeName,
};
use crate::registry::RejectedSpec;

/// The identity of a step: the same step in two plans has the same id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct StepId(pub Arc<str>);

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "action")]
#[non_exhaustive]
pub enum Action {
    /// Makes a node.
    ProvisionNode {
        /// Which one.
        node: NodeName,
    },
    /// Starts a stopped node.
    StartNode {
        /// Which one.
        node: NodeName,
    },
    /// Turns a node into a Docker host.
    PrepareNode {
        /// Which one.
        node: NodeName,
    },
    /// Deletes a node that is no longer declared, or that the cloud could not make.
    DeleteNode {
        /// Which one.
        node: NodeName,
    },
    /// Builds a service's image.
    BuildImage {
        /// The image's name.
        image: String,
        /// The service whose declaration says how.
        service: ServiceName,
        /// Where.
        node: NodeName,
    },
    /// Copies an image from another node.
    CopyImage {
        /// The image's name.
        image: String,
        /// From where.
        from: NodeName,
        /// To where.
        node: NodeName,
    },
    /// Pulls an image.
    PullImage {
        /// The image's name.
        image: String,
        /// Where.
        node: NodeName,
    },
    /// Makes sure that the node's agent runs, in place of any former one.
    EnsureAgent {
        /// The container's name.
        container: String,
        /// Where.
        node: NodeName,
    },
    /// Removes a node's agent.
    RemoveAgent {
        /// The container's name.
        container: String,
        /// Where.
        node: NodeName,
    },
    /// Makes sure that an instance's container exists and runs.
    StartInstance {
        /// Which replica of which service.
        instance: InstanceId,
        /// The container's name.
        container: String,
        /// Where.
        node: NodeName,
    },
    /// Stops an instance's container and keeps it.
    StopInstance {
        /// Which replica of which service.
        instance: InstanceId,
        /// The container's name.
        container: String,
        /// The engine's id of it. A step is written with its action's fields beside its own `id`.
        #[serde(rename = "container_id")]
        id: ContainerId,
        /// Where.
        node: NodeName,
    },
    /// Removes an instance's container.
    RemoveInstance {
        /// Which replica of which service.
        instance: InstanceId,
        /// The container's name.
        container: String,
        /// The engine's id of it. A step is written with its action's fields beside its own `id`.
        #[serde(rename = "container_id")]
        id: ContainerId,
        /// Where.
        node: NodeName,
    },
}

impl Action {
    /// The node that it works on; the bounds per node go by it.
    pub fn node(&self) -> &NodeName {
        match self {
            Self::ProvisionNode { node }
            | Self::StartNode { node }
            | Self::PrepareNode { node }
            | Self::DeleteNode { node }
            | Self::BuildImage { node, .. }
            | Self::CopyImage { node, .. }
            | Self::PullImage { node, .. }
            | Self::EnsureAgent { node, .. }
            | Self::RemoveAgent { node, .. }
            | Self::StartInstance { node, .. }
            | Self::StopInstance { node, .. }
            | Self::RemoveInstance { node, .. } => node,
        }
    }

    /// What it is about.
    pub fn subject(&self) -> Subject {
        match self {
            Self::ProvisionNode { node }
            | Self::StartNode { node }
            | Self::PrepareNode { node }
            | Self::DeleteNode { node }
            | Self::CopyImage { node, .. }
            | Self::PullImage { node, .. }
            | Self::EnsureAgent { node, .. }
            | Self::RemoveAgent { node, .. } => Subject::Node(node.clone()),
            Self::BuildImage { service, .. } => Subject::Service(service.clone()),
            Self::StartInstance { instance, .. }
            | Self::StopInstance { instance, .. }
            | Self::RemoveInstance { instance, .. } => Subject::Instance(instance.clone()),
        }
    }

    /// The replica that it is about, if it is about one.
    pub fn instance(&self) -> Option<&InstanceId> {
        match self {
            Self::StartInstance { instance, .. }
            | Self::StopInstance { instance, .. }
            | Self::RemoveInstance { instance, .. } => Some(instance),
            Self::ProvisionNode { .. }
            | Self::StartNode { .. }
            | Self::PrepareNode { .. }
            | Self::DeleteNode { .. }
            | Self::BuildImage { .. }
            | Self::CopyImage { .. }
            | Self::PullImage { .. }
            | Self::EnsureAgent { .. }
            | Self::RemoveAgent { .. } => None,
        }
    }

    /// Whether its effect is seen at the cloud rather than on the engine.
    pub fn is_at_cloud(&self) -> bool {
        matches!(
            self,
            Self::ProvisionNode { .. } | Self::StartNode { .. } | Self::DeleteNode { .. }
        )
    }

    /// Its identity.
    pub fn id(&self) -> StepId {
        let id = match self {
            Self::ProvisionNode { node } => format!("node/{node}/provision"),
            Self::StartNode { node } => format!("node/{node}/start"),
            Self::PrepareNode { node } => format!("node/{node}/prepare"),
            Self::DeleteNode { node } => format!("node/{node}/delete"),
            // One id for all ways to an image: whichever is chosen, it is the same need.
            Self::BuildImage { image, node, .. }
            | Self::CopyImage { image, node, .. }
            | Self::PullImage { image, node } => format!("node/{node}/image/{image}"),
            Self::EnsureAgent { container, node } => format!("node/{node}/agent/{container}"),
            Self::RemoveAgent { container, node } => {
                format!("node/{node}/remove-agent/{container}")
            }
            Self::StartInstance {
                container, node, ..
            } => {
                format!("node/{node}/start/{container}")
            }
            Self::StopInstance {
                container, node, ..
            } => format!("node/{node}/stop/{container}"),
            Self::RemoveInstance {
                container, node, ..
            } => {
                format!("node/{node}/remove/{container}")
            }
        };
        StepId(id.into())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProvisionNode { node } => write!(f, "provision node {node}"),
            Self::StartNode { node } => write!(f, "start node {node}"),
            Self::PrepareNode { node } => write!(f, "prepare {node} for Docker"),
            Self::DeleteNode { node } => write!(f, "delete node {node}"),
            Self::BuildImage { image, node, .. } => write!(f, "build {image} on {node}"),
            Self::CopyImage { image, from, node } => {
                write!(f, "copy {image} from {from} to {node}")
            }
            Self::PullImage { image, node } => write!(f, "pull {image} on {node}"),
            Self::EnsureAgent { node, .. } => write!(f, "start the agent on {node}"),
            Self::RemoveAgent { node, .. } => write!(f, "remove the agent on {node}"),
            Self::StartInstance { instance, node, .. } => write!(f, "start {instance} on {node}"),
            Self::StopInstance { instance, node, .. } => write!(f, "stop {instance} on {node}"),
            Self::RemoveInstance {
                instance,
                node,
                container,
                ..
            } => write!(f, "remove {instance}'s container {container} on {node}"),
        }
    }
}

/// Why a step is in the plan: what was declared, what was observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "because")]
#[non_exhaustive]
pub enum Reason {
    /// The node is declared and the cloud has none of that name.
    NodeAbsent,
    /// The node is declared and stopped.
    NodeStopped,
    /// The node is about to be made, and a new node has no engine.
    NodeIsNew,
    /// The node runs and has no engine that answers.
    EngineMissing,
    /// The cloud could not make the node, and nothing ever ran on it.
    NodeFailed,
    /// The node is of this platform and no longer declared.
    NodeNotDeclared,
    /// An image is needed and the node does not have it.
    ImageAbsent {
        /// What needs it.
        needed_by: Subject,
        /// Why it is built, copied or pulled.
        way: String,
    },
    /// Service addresses need an agent, and the node has none that runs.
    AgentAbsent,
    /// The node's agent is not the one of this manager.
    AgentOutdated,
    /// Nothing on the node needs its agent any more.
    AgentNotNeeded,
    /// A replica is declared and no container of it exists.
    InstanceAbsent,
    /// A replica is declared and no container of it exists; its volume does, and keeps it there.
    VolumeIsHere {
        /// The volume.
        volume: VolumeName,
    },
    /// A replica's container was made and never started.
    NeverStarted,
    /// A replica's container ended and its restart policy says to start it again.
    Ended {
        /// With this exit code.
        code: i64,
        /// How often it has ended since it was last ready.
        times: u32,
    },
    /// The declaration of the service changed.
    SpecChanged {
        /// The digest that runs, its first digits.
        from: String,
        /// The digest that is declared, its first digits.
        to: String,
    },
    /// A host port that it has is declared for another replica now, and its own declaration
    /// has it elsewhere or not at all.
    PortPasses {
        /// The host port.
        port: u16,
        /// Who is to have it.
        to: InstanceId,
    },
    /// The replica is placed on another node now.
    Moved {
        /// Where it was.
        from: NodeName,
    },
    /// A container is superseded by one that is ready.
    Superseded,
    /// The service, or this replica of it, is no longer declared.
    NotDeclared,
    /// A restart of it was asked for.
    RestartRequested,
    /// The new specification did not become ready, so the former one comes back.
    RolledBack {
        /// Why the new one was given up.
        why: String,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeAbsent => f.write_str("declared; the cloud has no such node"),
            Self::NodeStopped => f.write_str("declared; the node is stopped"),
            Self::NodeIsNew => f.write_str("a new node has no Docker engine"),
            Self::EngineMissing => f.write_str("the node runs, but no Docker engine answers on it"),
            Self::NodeFailed => {
                f.write_str("the cloud could not make it; it is deleted and made again")
            }
            Self::NodeNotDeclared => f.write_str("made for this platform, no longer declared"),
            Self::ImageAbsent { needed_by, way } => {
                write!(f, "{needed_by} needs it, the node does not have it; {way}")
            }
            Self::AgentAbsent => {
                f.write_str("service names need an agent on each node; none runs here")
            }
            Self::AgentOutdated => f.write_str("another version of the manager made the agent"),
            Self::AgentNotNeeded => f.write_str("no service runs here any more"),
            Self::InstanceAbsent => f.write_str("declared; no container of it exists"),
            Self::VolumeIsHere { volume } => write!(
                f,
                "declared; no container of it exists, and its volume {volume} is here"
            ),
            Self::NeverStarted => f.write_str("its container was made and never started"),
            Self::Ended { code, times } => write!(
                f,
                "its container ended with exit code {code} ({times}×); its restart policy keeps it alive"
            ),
            Self::SpecChanged { from, to } => {
                write!(f, "its declaration changed: {from} runs, {to} is declared")
            }
            Self::PortPasses { port, to } => {
                write!(f, "its port {port} is declared for {to} now")
            }
            Self::Moved { from } => write!(f, "it is placed here now and was on {from}"),
            Self::Superseded => f.write_str("what replaces it is up"),
            Self::NotDeclared => f.write_str("it runs and is not declared"),
            Self::RestartRequested => f.write_str("its restart was asked for"),
            Self::RolledBack { why } => {
                write!(
                    f,
                    "the new one was given up ({why}); the former one comes back"
                )
            }
        }
    }
}

/// A step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Step {
    /// Its identity.
    pub id: StepId,
    /// What it does.
    #[serde(flatten)]
    pub action: Action,
    /// Steps of the same plan that must be done before it.
    pub needs: BTreeSet<StepId>,
    /// Why it is in the plan.
    pub reason: Reason,
}

/// What holds something up that the declaration wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "because")]
#[non_exhaustive]
pub enum HeldBy {
    /// The cloud does not answer.
    CloudUnknown {
        /// Since when.
        since: DateTime<Utc>,
        /// Why.
        why: String,
    },
    /// The node cannot be asked.
    NodeUnknown {
        /// Which one.
        node: NodeName,
        /// Since when.
        since: DateTime<Utc>,
        /// Why.
        why: String,
    },
    /// The node does not answer just now: nothing is begun on it until it does, or until it has
    /// been silent for long enough to count as unknown.
    NodeSilent {
        /// Which one.
        node: NodeName,
        /// Since when.
        since: DateTime<Utc>,
        /// Why.
        why: String,
    },
    /// The node is on its way.
    NodeChanging {
        /// Which one.
        node: NodeName,
        /// What the cloud says of it.
        power: String,
        /// Since when, as far as was seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<DateTime<Utc>>,
    },
    /// A node that something runs on is not usable, for a reason of its own.
    Node {
        /// Which one.
        node: NodeName,
    },
    /// The node's agent does not have the services' addresses yet.
    Agent {
        /// The node.
        node: NodeName,
        /// Since when.
        since: DateTime<Utc>,
        /// Why.
        why: String,
    },
    /// The image is not there yet, for a reason of its own.
    Image {
        /// Which one.
        image: String,
    },
    /// A host port that it is to have is another replica's, which keeps it.
    Port {
        /// The host port.
        port: u16,
        /// Who has it.
        holder: InstanceId,
    },
    /// The container runs and is not ready yet.
    NotReadyYet {
        /// Since when it runs.
        since: Option<DateTime<Utc>>,
    },
    /// A service that must be up before it is not.
    Dependency {
        /// Which one.
        service: ServiceName,
        /// What is awaited of it.
        condition: DependencyCondition,
    },
    /// It starts last, and this service is not up.
    StartsLast {
        /// One of those that are not up.
        service: ServiceName,
    },
    /// It failed, and is tried again later.
    Backoff {
        /// What failed.
        step: StepId,
        /// When it is tried again.
        until: DateTime<Utc>,
        /// How often it failed.
        failures: u32,
        /// What it said the last time.
        why: String,
    },
    /// Its restart was asked for, and this replica is restarted before it.
    RestartsAfter {
        /// The replica that is not up again.
        replica: InstanceId,
    },
    /// It is no longer declared and stops only after this service.
    StopsAfter {
        /// One of those that stop before it.
        service: ServiceName,
    },
    /// The node is no longer declared, and something on it has not moved away yet.
    StillUsed,
    /// No node can take it.
    NoNodeFits {
        /// What each node lacks, or what all lack.
        why: String,
    },
    /// It failed, and only another declaration or a person changes that.
    Failed {
        /// What happened.
        why: String,
    },
}

impl HeldBy {
    /// Since when it is so, as far as it is known.
    pub fn since(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::CloudUnknown { since, .. }
            | Self::NodeUnknown { since, .. }
            | Self::NodeSilent { since, .. }
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
                write!(
                    f,
                    "the cloud does not answer since {}: {why}",
                    short(*since)
                )
            }
            Self::NodeUnknown { node, since, why } => {
                write!(
                    f,
                    "node {node} cannot be asked since {}: {why}",
                    short(*since)
                )
            }
            Self::NodeSilent { node, since, why } => {
                write!(
                    f,
                    "node {node} has not answered since {}: {why}",
                    short(*since)
                )
            }
            Self::NodeChanging { node, power, since } => match since {
                Some(since) => write!(f, "node {node} is {power} since {}", short(*since)),
                None => write!(f, "node {node} is {power}"),
            },
            Self::Node { node } => write!(f, "waits for node {node}"),
            Self::Agent { node, why, .. } => write!(f, "waits for the agent of {node}: {why}"),
            Self::Image { image } => write!(f, "waits for the image {image}"),
            Self::Port { port, holder } => write!(f, "its port {port} is taken by {holder}"),
            Self::NotReadyYet { .. } => f.write_str("runs, not ready yet"),
            Self::Dependency { service, condition } => match condition {
                DependencyCondition::ServiceStarted => {
                    write!(f, "waits for {service} to be started")
                }
                DependencyCondition::ServiceHealthy => write!(f, "waits for {service} to be ready"),
                DependencyCondition::ServiceCompletedSuccessfully => {
                    write!(f, "waits for {service} to complete")
                }
            },
            Self::StartsLast { service } => write!(f, "starts last, and {service} is not up yet"),
            Self::RestartsAfter { replica } => {
                write!(f, "is restarted once {replica} is up again")
            }
            Self::StopsAfter { service } => write!(f, "stops after {service}"),
            Self::StillUsed => f.write_str("no longer declared, but something still runs on it"),
            Self::Backoff {
                until,
                failures,
                why,
                ..
            } => write!(
                f,
                "failed {failures}×, tried again at {}: {why}",
                short(*until)
            ),
            Self::NoNodeFits { why } => write!(f, "fits no node: {why}"),
            Self::Failed { why } => f.write_str(why),
        }
    }
}

fn short(at: DateTime<Utc>) -> impl fmt::Display {
    at.format("%H:%M:%S")
}

/// Something that the declaration wants and that has no step that could begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Held {
    /// What is held up.
    pub subject: Subject,
    /// By what.
    #[serde(flatten)]
    pub by: HeldBy,
    /// Until when this round waits for it at the latest, where it waits for this itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_until: Option<DateTime<Utc>>,
}

impl Held {
    /// Something that is held up by what this round does not wait for.
    pub fn new(subject: Subject, by: HeldBy) -> Self {
        Self {
            subject,
            by,
            waits_until: None,
        }
    }
}

/// How one declared replica stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InstanceStatus {
    /// Where it is placed.
    pub node: Option<NodeName>,
    /// Its container, if it exists.
    pub container: Option<ContainerId>,
    /// Its state.
    pub state: InstanceState,
    /// Whether this round will change nothing of it any more: it is ready, completed or
    /// failed, or held up by something that failed.
    pub settled: bool,
}

/// The ordered difference between what is declared and what is observed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What is to be done; each step stands behind those that it needs.
    pub steps: Vec<Step>,
    /// What cannot be done now, and why.
    pub held: Vec<Held>,
    /// How each declared replica stands.
    pub instances: BTreeMap<InstanceId, InstanceStatus>,
    /// Whether the round has ended: every node is usable or failed, every replica is ready,
    /// completed or failed.
    #[serde(default)]
    pub settled: bool,
    /// Specifications that are given up now, since their predecessor is there to come back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejects: Vec<RejectedSpec>,
    /// When time alone changes the plan, the next such moment.
    pub next_change: Option<DateTime<Utc>>,
}

impl Plan {
    /// Whether nothing is to be done and nothing is waited for.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.held.is_empty()
    }
}
