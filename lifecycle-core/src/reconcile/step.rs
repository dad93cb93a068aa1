//! Defines a plan as data: the steps with the reason for each, and the held subjects with the cause
//! of each hold.

mod action;
mod id;
mod rollout;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::{
    ContainerId, DependencyCondition, InstanceId, InstanceState, NodeName, PublicPorts,
    ServiceName, Subject, VolumeName,
};
use crate::registry::RejectedSpec;
use crate::runtime::exit_text;

pub use action::Action;
pub(crate) use action::Work;
pub use id::StepId;
pub use rollout::{RolloutProgress, RolloutState};

/// Why a step is in the plan: a difference between the declaration and the observation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "because")]
#[non_exhaustive]
pub enum Reason {
    /// The node is declared, but the cloud has no node of that name.
    NodeAbsent,
    /// The node is declared, but it is stopped.
    NodeStopped,
    /// The node is about to be created, and a new node has no engine.
    NodeIsNew,
    /// The node is running, but no engine responds on it.
    EngineMissing,
    /// The cloud failed to create the node, and nothing ever ran on it.
    NodeFailed,
    /// A restart of the node was requested.
    NodeRestartRequested,
    /// A stop of the node was requested.
    NodeStopRequested,
    /// A preparation of the node was requested, although an engine responds on it.
    PreparationRequested,
    /// The replica's node is about to be restarted.
    NodeRestarts {
        /// The node.
        node: NodeName,
    },
    /// The replica's node is about to be stopped.
    NodeStops {
        /// The node.
        node: NodeName,
    },
    /// The node was created for this platform and is no longer declared.
    NodeNotDeclared,
    /// The ports that the cloud's firewall opens are not the ones that public services publish on
    /// the node.
    PublicPortsDiffer {
        /// The ports that are open, or partly open, now.
        open: PublicPorts,
    },
    /// The node does not have an image that something on it needs.
    ImageAbsent {
        /// The service or node that needs the image.
        needed_by: Subject,
        /// Whether the image is built, copied or pulled, and why.
        how: String,
    },
    /// No service needs the image under this name any more.
    ImageNotNeeded,
    /// Service addresses need an agent, and none runs on the node.
    AgentAbsent,
    /// The node's agent belongs to another version of the manager.
    AgentOutdated,
    /// No container that could use the agent is left on the node.
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
    /// The replica's container ended, and the restart policy starts it again.
    Ended {
        /// The exit code.
        code: i64,
        /// How often in a row the container has ended.
        times: u32,
        /// Whether the container was killed because its memory was exhausted.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        out_of_memory: bool,
        /// How the container ended, in words; absent if an older manager recorded the reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit: Option<String>,
    },
    /// The service's declaration changed.
    SpecChanged {
        /// The first digits of the running container's digest.
        from: String,
        /// The first digits of the declared digest.
        to: String,
    },
    /// The declaration now gives this container's host port to another replica.
    PortPasses {
        /// The host port.
        port: u16,
        /// The replica that now gets the port.
        to: InstanceId,
    },
    /// The replica is now placed on another node.
    Moved {
        /// The node that the replica was on.
        from: NodeName,
    },
    /// Another container of the replica is ready and replaces this one.
    Superseded,
    /// The service, or this replica of it, is no longer declared.
    NotDeclared,
    /// A restart was requested.
    RestartRequested,
    /// The container's health check failed after the container was ready. The restart policy starts
    /// the container again.
    Unhealthy {
        /// How the check failed.
        why: String,
    },
    /// The container joins the network of another one, which stops, too.
    NetworkEnds {
        /// The replica whose network the container joins.
        replica: InstanceId,
    },
    /// The container has lost its network, because the container whose network it joins was
    /// restarted.
    NetworkRestarted {
        /// The replica whose network the container joins.
        replica: InstanceId,
    },
    /// The container cannot start again, because the network that it joins was removed or belongs
    /// to another container.
    NetworkGone,
    /// The new specification did not become ready, so the previous one is restored.
    RolledBack {
        /// Why the new specification was rejected.
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
            Self::NodeRestartRequested => f.write_str("a restart of the node was requested"),
            Self::NodeStopRequested => f.write_str("a stop of the node was requested"),
            Self::PreparationRequested => f.write_str("a preparation of the node was requested"),
            Self::NodeRestarts { node } => write!(f, "its node {node} is about to be restarted"),
            Self::NodeStops { node } => write!(f, "its node {node} is about to be stopped"),
            Self::NodeNotDeclared => {
                f.write_str("created for this platform, but no longer declared")
            }
            Self::PublicPortsDiffer { open } if open.is_empty() => {
                f.write_str("published by public services, but not open in the cloud's firewall")
            }
            Self::PublicPortsDiffer { open } => write!(
                f,
                "the cloud's firewall opens {open}, which differs from the ports that public \
                 services publish on this node"
            ),
            Self::ImageAbsent { needed_by, how } => write!(f, "needed by {needed_by}; {how}"),
            Self::ImageNotNeeded => f.write_str("no service needs the image under this name"),
            Self::AgentAbsent => f.write_str(
                "service names need an agent on each node, and this node has no \
                             running agent",
            ),
            Self::AgentOutdated => {
                f.write_str("the agent belongs to another version of the manager")
            }
            Self::AgentNotNeeded => f.write_str("no service is left on this node"),
            Self::InstanceAbsent => f.write_str("declared, but the replica has no container"),
            Self::VolumeIsHere { volume } => write!(
                f,
                "declared, but the replica has no container; its volume {volume} is on this node"
            ),
            Self::NeverStarted => f.write_str("its container was created but never started"),
            Self::Ended {
                code, times, exit, ..
            } => {
                let exit = exit.clone().unwrap_or_else(|| exit_text(*code));
                write!(
                    f,
                    "its container ended with {exit} ({times}×), and its restart policy starts it \
                     again"
                )
            }
            Self::SpecChanged { from, to } => {
                write!(f, "its declaration changed: {from} runs, {to} is declared")
            }
            Self::PortPasses { port, to } => write!(f, "its port {port} now belongs to {to}"),
            Self::Moved { from } => write!(f, "it is no longer placed on {from}"),
            Self::Superseded => f.write_str("the container that replaces it is ready"),
            Self::NotDeclared => f.write_str("no longer declared"),
            Self::RestartRequested => f.write_str("a restart was requested"),
            Self::Unhealthy { why } => write!(
                f,
                "it is unhealthy ({why}), and its restart policy starts it again"
            ),
            Self::NetworkEnds { replica } => {
                write!(f, "it joins the network of {replica}, which stops")
            }
            Self::NetworkRestarted { replica } => write!(
                f,
                "it has lost its network, because {replica}, whose network it joins, was restarted"
            ),
            Self::NetworkGone => f.write_str("the network that it joins does not exist any more"),
            Self::RolledBack { why } => write!(
                f,
                "the new specification was rejected ({why}), so the previous specification is \
                 restored"
            ),
        }
    }
}

/// A step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Step {
    /// The id of the step.
    pub id: StepId,
    /// What the step does.
    #[serde(flatten)]
    pub action: Action,
    /// The steps of the same plan that must be done before this step.
    pub needs: BTreeSet<StepId>,
    /// Why the step is in the plan.
    pub reason: Reason,
}

/// Why a subject is held: what it waits for, or how it failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "because")]
#[non_exhaustive]
pub enum HeldBy {
    /// The cloud does not respond.
    CloudUnknown {
        /// The time since which the cloud has not responded.
        since: DateTime<Utc>,
        /// The error.
        why: String,
    },
    /// The node is unreachable.
    NodeUnknown {
        /// The node.
        node: NodeName,
        /// The time since which the node has been unreachable.
        since: DateTime<Utc>,
        /// The error.
        why: String,
    },
    /// The node has not responded for a short time. No step starts on it until it responds or
    /// counts as unreachable.
    NodeNotResponding {
        /// The node.
        node: NodeName,
        /// The time since which the node has not responded.
        since: DateTime<Utc>,
        /// The error.
        why: String,
    },
    /// The node is starting or stopping, or was not observed yet.
    NodeChanging {
        /// The node.
        node: NodeName,
        /// The change in progress, for example `starting`.
        power: String,
        /// The time since which the node has been changing, if known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<DateTime<Utc>>,
    },
    /// A restart of the node was requested, and containers on it are still running.
    NodeRestartsAfter {
        /// One of the replicas that stop first.
        replica: InstanceId,
    },
    /// A stop of the node was requested, and containers on it are still running.
    NodeStopsAfter {
        /// One of the replicas that move or stop first.
        replica: InstanceId,
    },
    /// The node, or the replica's node, was stopped on request.
    NodeIsStopped {
        /// The node.
        node: NodeName,
    },
    /// The replica needs a node that cannot be used now. The plan's entry for the node contains the
    /// reason.
    Node {
        /// The node.
        node: NodeName,
    },
    /// The node's agent does not have the services' addresses yet.
    Agent {
        /// The node.
        node: NodeName,
        /// The time since which the agent has lacked the addresses.
        since: DateTime<Utc>,
        /// Why the agent does not have the addresses.
        why: String,
    },
    /// The agents are replaced on one node after the other, and another node is first.
    AgentReplacedAfter {
        /// The node whose agent is being replaced.
        node: NodeName,
    },
    /// The node does not have the image yet. If the step that brings the image is held, the plan's
    /// entry for that step contains the reason.
    Image {
        /// The image.
        image: String,
    },
    /// The image is brought to the node first. The container is replaced only if this image differs
    /// from the one that it runs.
    Comparison {
        /// The image.
        image: String,
    },
    /// Another replica uses a host port that this replica is declared to have, and keeps the port.
    Port {
        /// The host port.
        port: u16,
        /// The replica that has the port.
        holder: InstanceId,
    },
    /// A volume that an instance of the service used no longer exists on the node. The replica is not
    /// started with an empty volume unless this is requested.
    VolumeVanished {
        /// The volume.
        volume: VolumeName,
        /// The node.
        node: NodeName,
        /// The service of the replica.
        service: ServiceName,
    },
    /// The container is running but not ready yet, or not ready any more.
    NotReadyYet {
        /// When the container started, or when it was no longer ready.
        since: Option<DateTime<Utc>>,
        /// Whether the container was ready before.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        was_ready: bool,
        /// Why the last check failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// The container is running, and others wait for its completion.
    Running {
        /// When the container started.
        since: DateTime<Utc>,
    },
    /// A service that this one depends on is not up yet.
    Dependency {
        /// The service.
        service: ServiceName,
        /// The condition that the service has to meet first.
        condition: DependencyCondition,
        /// The failure because of which the condition is not met; absent if nothing has failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failed: Option<FailedReplica>,
    },
    /// The service starts last, and another service is not up yet.
    StartsLast {
        /// One of the services that are not up.
        service: ServiceName,
        /// The failure because of which the service is not up; absent if nothing has failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failed: Option<FailedReplica>,
    },
    /// A step failed and is retried later.
    Backoff {
        /// The step that failed.
        step: StepId,
        /// When the step is retried.
        until: DateTime<Utc>,
        /// How often the step has failed in a row.
        failures: u32,
        /// The last error.
        why: String,
    },
    /// A restart of the replica was requested, and another replica restarts first.
    RestartsAfter {
        /// The replica that restarts first.
        replica: InstanceId,
    },
    /// Other replicas of the service are being replaced first.
    ReplacedAfter {
        /// One of the replicas that are being replaced.
        replica: InstanceId,
    },
    /// The service is replaced after one that it depends on.
    ReplacedAfterService {
        /// The service that is being replaced.
        service: ServiceName,
    },
    /// The declared delay between two replacements has not passed.
    RolloutDelay {
        /// When the next replica may be replaced.
        until: DateTime<Utc>,
    },
    /// The replica would have to stop before its successor starts, and too few other replicas are
    /// ready.
    TooFewReady {
        /// How many replicas are ready.
        ready: usize,
        /// How many replicas are declared.
        replicas: usize,
    },
    /// No further replicas of the service are replaced.
    RolloutPaused {
        /// Which replica failed and why, or that a pause was requested.
        why: String,
    },
    /// The new container is ready, but has to stay ready for a declared time.
    Monitored {
        /// The end of this time.
        until: DateTime<Utc>,
    },
    /// The replica is no longer declared, and another service stops first.
    StopsAfter {
        /// One of the services that stop first.
        service: ServiceName,
    },
    /// The node is no longer declared, but containers are left on it.
    StillUsed,
    /// The replica fits on no node.
    NoNodeFits {
        /// What excludes each node.
        why: String,
    },
    /// The replica is on a drained or stopped node, and fits on no other one.
    StaysOnDrained {
        node: NodeName,
        /// Why the replica does not fit on each of the other nodes.
        why: String,
    },
    /// The service, replica or node failed. Only a new declaration or a requested retry can resolve
    /// the failure.
    Failed {
        /// What happened.
        why: String,
    },
}

/// The failure of a replica that others wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FailedReplica {
    /// The replica that failed.
    pub replica: InstanceId,
    /// Why it failed.
    pub why: String,
}

/// The end of a text that contains a failure, if there is one.
struct Because<'a>(&'a Option<FailedReplica>);

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(FailedReplica { replica, why }) if why.starts_with("failed ") => {
                write!(f, ", but {replica} {why}")
            }
            Some(FailedReplica { replica, why }) => write!(f, ", but {replica} failed: {why}"),
            None => Ok(()),
        }
    }
}

impl HeldBy {
    /// Returns the service that is not up yet, if the cause is a dependency on it.
    pub fn dependency(&self) -> Option<&ServiceName> {
        match self {
            Self::Dependency { service, .. } | Self::StartsLast { service, .. } => Some(service),
            _ => None,
        }
    }

    /// Returns the failure because of which a dependency is not up, if there is one.
    pub(crate) fn failed_dependency(&self) -> Option<&FailedReplica> {
        match self {
            Self::Dependency { failed, .. } | Self::StartsLast { failed, .. } => failed.as_ref(),
            _ => None,
        }
    }

    /// Returns the time since which the cause has existed, if it is known.
    pub fn since(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::CloudUnknown { since, .. }
            | Self::NodeUnknown { since, .. }
            | Self::NodeNotResponding { since, .. }
            | Self::Running { since }
            | Self::Agent { since, .. } => Some(*since),
            Self::NodeChanging { since, .. } | Self::NotReadyYet { since, .. } => *since,
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
            Self::NodeRestartsAfter { replica } => {
                write!(f, "is restarted after {replica} has stopped")
            }
            Self::NodeStopsAfter { replica } => {
                write!(f, "is stopped after {replica} has moved or stopped")
            }
            Self::NodeIsStopped { node } => {
                write!(
                    f,
                    "node {node} was stopped on request; `bootstrapper node start {node}` starts it"
                )
            }
            Self::Node { node } => write!(f, "waits for node {node}"),
            Self::Agent { node, why, .. } => write!(f, "waits for the agent on {node}: {why}"),
            Self::AgentReplacedAfter { node } => {
                write!(f, "its agent is replaced after the agent on {node}")
            }
            Self::Image { image } => write!(f, "waits for the image {image}"),
            Self::Comparison { image } => write!(
                f,
                "waits for the image {image}; its container is replaced only if the image changed"
            ),
            Self::Port { port, holder } => {
                write!(f, "port {port} is already used by {holder}")
            }
            Self::VolumeVanished {
                volume,
                node,
                service,
            } => write!(
                f,
                "its volume {volume} no longer exists on {node}; to start with an empty one, run \
                 `bootstrapper retry {service} --recreate-volume`, then restore its data from a backup"
            ),
            Self::NotReadyYet { was_ready, why, .. } => {
                let when = if *was_ready { "any more" } else { "yet" };
                write!(f, "running, but not ready {when}")?;
                match why {
                    Some(why) => write!(f, ": {why}"),
                    None => Ok(()),
                }
            }
            Self::Running { .. } => f.write_str("runs until it has completed"),
            Self::Dependency {
                service,
                condition,
                failed,
            } => {
                let to = match condition {
                    DependencyCondition::ServiceStarted => "start",
                    DependencyCondition::ServiceHealthy => "be ready",
                    DependencyCondition::ServiceCompletedSuccessfully => "complete",
                };
                write!(f, "waits for {service} to {to}{}", Because(failed))
            }
            Self::StartsLast { service, failed } => {
                let because = Because(failed);
                write!(f, "starts last, and {service} is not up yet{because}")
            }
            Self::RestartsAfter { replica } => write!(f, "restarts once {replica} is up again"),
            Self::ReplacedAfter { replica } => {
                write!(f, "is replaced after {replica}")
            }
            Self::ReplacedAfterService { service } => write!(f, "is replaced after {service}"),
            Self::RolloutDelay { until } => {
                let until = time_of_day(*until);
                write!(f, "is replaced after the declared delay, at {until}")
            }
            Self::TooFewReady { ready, replicas } => write!(
                f,
                "has to stop before its successor starts, and only {ready} of {replicas} replicas \
                 are ready; to replace more replicas at a time, increase `parallelism` in \
                 `update_config`"
            ),
            Self::RolloutPaused { why } => write!(f, "the rollout is paused: {why}"),
            Self::Monitored { until } => {
                let until = time_of_day(*until);
                write!(f, "ready, and monitored until {until}")
            }
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
            Self::NoNodeFits { why } => write!(f, "does not fit on any node: {why}"),
            Self::StaysOnDrained { node, why } => {
                write!(
                    f,
                    "stays on {node}, because it fits on no other node: {why}"
                )
            }
            Self::Failed { why } => f.write_str(why),
        }
    }
}

fn time_of_day(at: DateTime<Utc>) -> impl fmt::Display {
    at.format("%H:%M:%S")
}

/// A subject that no step of the plan can bring to its declared state now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Held {
    /// What is held.
    pub subject: Subject,
    /// Why the subject is held.
    #[serde(flatten)]
    pub by: HeldBy,
    /// When the round stops waiting for the cause. Absent if the round does not wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_until: Option<DateTime<Utc>>,
}

impl Held {
    /// Creates a hold that the round does not wait for.
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
    /// The node that the replica is placed on.
    pub node: Option<NodeName>,
    /// The replica's container, if it has one.
    pub container: Option<ContainerId>,
    /// The replica's state.
    pub state: InstanceState,
    /// Whether the status is final for this round: the replica is ready, completed or failed, or
    /// waits for something that failed.
    pub settled: bool,
}

/// The steps from the observed to the declared state, and everything that cannot be done now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Plan {
    /// The steps to run, in order: each step comes after those that it needs.
    pub steps: Vec<Step>,
    /// What cannot be done now, and why.
    pub held: Vec<Held>,
    /// The status of each declared replica.
    pub instances: BTreeMap<InstanceId, InstanceStatus>,
    /// Whether the round has ended: every node is usable or failed, and every replica is ready,
    /// completed or failed.
    #[serde(default)]
    pub settled: bool,
    /// Specifications that this plan rejects, because they failed and the previous ones can be
    /// restored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejects: Vec<RejectedSpec>,
    /// The services whose containers are kept although the inputs of their images changed, because
    /// the images did not change.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unchanged: BTreeSet<ServiceName>,
    /// The rollouts of services whose replicas do not all run the declared specification yet.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rollouts: BTreeMap<ServiceName, RolloutProgress>,
    /// The next time at which the plan changes even without a new observation.
    pub next_change: Option<DateTime<Utc>>,
}

impl Plan {
    /// Returns whether there is nothing to do and nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.held.is_empty()
    }
}
