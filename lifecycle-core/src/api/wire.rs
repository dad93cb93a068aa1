//! The types of the API's version 1. They are separate from the domain types, so that the domain
//! types can change without breaking clients.

mod adoption;
mod export;
mod operation;
mod overrides;
mod revisions;
mod token;
mod whole;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::manager::Applied;
use crate::manager::{InstanceOutput, Output};
use crate::model::{
    Endpoint, Event, InstanceId, InstanceState, NodeName, Protocol, PublicPort, ServiceClass,
    ServiceName,
};
use crate::reconcile::{Plan, RolloutProgress, RunningStep};
use crate::runtime::LogLine;

pub use adoption::{AdoptedV1, NewMachineV1};
pub use export::{
    AddedNodeV1, AddedServiceV1, CapacityV1, ExportV1, ExportedMachineV1, ReplicasV1,
};
pub use operation::{OperationKindV1, OperationStateV1, OperationV1};
pub use overrides::{NewNodeV1, OverrideKindV1, OverrideV1, ScaleV1, SchedulingV1, StayingV1};
pub use revisions::{ChangeKindV1, ChangeV1, RevisionV1, RollbackPlanV1, RolledBackV1, SecretV1};
pub use token::{CreatedTokenV1, NewTokenV1, TokenV1};

/// The response to `GET /v1/platform`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PlatformV1 {
    pub name: String,
    /// The platform's UUID.
    pub id: String,
    /// The current generation; 0 before the first declaration.
    pub generation: u64,
    pub state: PlatformState,
    pub manager: Option<ManagerV1>,
}

/// The state of a platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PlatformState {
    /// Changes toward the declaration are in progress.
    Converging,
    /// Every replica is ready or completed.
    Running,
    /// A replica failed, or a node does not respond.
    Degraded,
    /// The platform is being deleted.
    Deleting,
    /// A state that only a newer manager knows.
    #[serde(other)]
    Unknown,
}

/// The location of the manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ManagerV1 {
    /// The API's base URL in the platform's network.
    pub url: String,
    /// The manager's node.
    pub node: NodeName,
}

/// A node in the response to `GET /v1/nodes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct NodeV1 {
    /// The node's name.
    pub name: NodeName,
    /// The node's state.
    pub state: NodeStateV1,
    /// The time since which the node has not responded; absent if it responds.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::clock::six_digits::optional"
    )]
    pub unknown_since: Option<DateTime<Utc>>,
    /// Why the node does not respond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_why: Option<String>,
    /// An opaque value that changes at each boot; absent while the node is not running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The node's addresses.
    pub addresses: AddressesV1,
    /// The node's Docker engine.
    pub docker: DockerV1,
    /// Which replicas the node may have.
    #[serde(default)]
    pub scheduling: SchedulingV1,
}

/// The state of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NodeStateV1 {
    /// The node is declared, but the cloud has no such node.
    Absent,
    /// The node is starting.
    Starting,
    /// The node is running.
    Running,
    /// The node is stopping.
    Stopping,
    /// The node is stopped.
    Stopped,
    /// The cloud could not create the node, or lost it.
    Failed,
    /// The node does not respond, or has a state that only a newer manager knows.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for NodeStateV1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A node's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AddressesV1 {
    /// The address in the platform's network.
    pub private: Option<IpAddr>,
    /// The address for clients outside the platform's network.
    pub public: Option<IpAddr>,
}

/// A node's Docker engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct DockerV1 {
    /// The engine's version, if it was ever observed.
    pub version: Option<String>,
    /// Whether the engine responds.
    pub ready: bool,
}

/// A service in the response to `GET /v1/services`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ServiceV1 {
    /// The service's name.
    pub name: ServiceName,
    /// The class of workload.
    pub class: ServiceClass,
    /// The service's replicas, by number.
    pub instances: Vec<InstanceV1>,
    /// The progress of the service's rollout; absent if all replicas run as declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutProgress>,
    /// The addresses at which a public service is reachable from outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub public: Vec<PublicAddressV1>,
}

/// An address at which a service is reachable from outside the platform's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PublicAddressV1 {
    /// The node, which runs a replica of the service.
    pub node: NodeName,
    /// The node's public address.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

impl PublicAddressV1 {
    /// Creates the address of a node's port.
    pub fn new(node: NodeName, ip: IpAddr, port: PublicPort) -> Self {
        Self {
            node,
            ip,
            port: port.port,
            protocol: port.protocol,
        }
    }
}

impl fmt::Display for PublicAddressV1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = SocketAddr::new(self.ip, self.port);
        match self.protocol {
            Protocol::Tcp => write!(f, "{address}"),
            protocol @ Protocol::Udp => write!(f, "{address}/{protocol}"),
        }
    }
}

/// A replica of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct InstanceV1 {
    /// `<service>-<replica>`.
    pub id: String,
    /// The replica's number.
    pub replica: u16,
    /// The engine's id of the replica's container, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The replica's node; absent if it fits on no node.
    pub node: Option<NodeName>,
    /// The replica's state.
    pub state: InstanceStateV1,
    /// The reason for the state, if there is one. For a ready replica, this is the reason why it
    /// still runs with its previous declaration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The service that the replica waits for before it is started, or started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<ServiceName>,
    /// How often the replica's container ended by itself; absent if it did not, or if the replica is
    /// completed. Only the leading manager knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<EndedV1>,
    /// When the engine started the replica's container.
    #[serde(serialize_with = "crate::clock::six_digits::optional")]
    pub started_at: Option<DateTime<Utc>>,
    /// When the replica's readiness check passed.
    #[serde(serialize_with = "crate::clock::six_digits::optional")]
    pub ready_at: Option<DateTime<Utc>>,
    /// The addresses of the replica's ports; empty unless the replica is ready.
    pub endpoints: Vec<EndpointV1>,
}

/// How often the container of a replica ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct EndedV1 {
    /// How often it ended since it was last ready for ten minutes.
    pub count: u32,
    /// How it ended the last time: its exit code, the signal, and whether its memory was exhausted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
}

impl EndedV1 {
    /// Creates the description of this number of ends.
    pub(crate) fn new(count: u32, last: Option<String>) -> Self {
        Self { count, last }
    }
}

/// The state of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum InstanceStateV1 {
    /// The replica's container is running, but its readiness check has not passed yet.
    Starting,
    /// The replica's readiness check passed.
    Ready,
    /// The replica was ready, and its readiness check does not pass any more.
    Unhealthy,
    /// The replica ended with exit code 0, and its dependents wait for its completion.
    Completed,
    /// The replica's container is not running, or the replica has no container.
    Stopped,
    /// The replica did not become ready in time, or ended with an error.
    Failed,
    /// The replica's node does not respond, or the replica has a state that only a newer manager
    /// knows.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for InstanceStateV1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl From<&InstanceState> for InstanceStateV1 {
    fn from(state: &InstanceState) -> Self {
        match state {
            InstanceState::Starting => Self::Starting,
            InstanceState::Ready => Self::Ready,
            InstanceState::Unhealthy { .. } => Self::Unhealthy,
            InstanceState::Completed => Self::Completed,
            InstanceState::Stopped => Self::Stopped,
            InstanceState::Failed { .. } => Self::Failed,
            InstanceState::Unknown { .. } => Self::Unknown,
        }
    }
}

impl ServiceV1 {
    /// Creates a service with these replicas.
    pub fn new(name: ServiceName, class: ServiceClass, instances: Vec<InstanceV1>) -> Self {
        Self {
            name,
            class,
            instances,
            rollout: None,
            public: Vec::new(),
        }
    }
}

impl NodeV1 {
    /// Creates a node with this state and no other details.
    pub fn new(name: NodeName, state: NodeStateV1) -> Self {
        Self {
            name,
            state,
            unknown_since: None,
            unknown_why: None,
            boot_id: None,
            addresses: AddressesV1 {
                private: None,
                public: None,
            },
            docker: DockerV1 {
                version: None,
                ready: false,
            },
            scheduling: SchedulingV1::Open,
        }
    }
}

impl InstanceV1 {
    /// Creates a replica with this state and no other details.
    pub fn new(id: &InstanceId, state: InstanceStateV1) -> Self {
        Self {
            id: id.to_string(),
            replica: id.replica.0,
            container: None,
            node: None,
            state,
            why: None,
            waits_for: None,
            ended: None,
            started_at: None,
            ready_at: None,
            endpoints: Vec::new(),
        }
    }

    /// Returns the reason that a state contains.
    pub(crate) fn why_of(state: &InstanceState) -> Option<String> {
        match state {
            InstanceState::Failed { why }
            | InstanceState::Unhealthy { why }
            | InstanceState::Unknown { why, .. } => Some(why.clone()),
            InstanceState::Starting
            | InstanceState::Ready
            | InstanceState::Completed
            | InstanceState::Stopped => None,
        }
    }
}

/// The address of a replica's port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct EndpointV1 {
    /// The node's private address.
    pub ip: IpAddr,
    /// The port on the node.
    pub port: u16,
    /// The port inside the container.
    pub container_port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

impl From<Endpoint> for EndpointV1 {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            ip: endpoint.ip,
            port: endpoint.port,
            container_port: endpoint.container_port,
            protocol: endpoint.protocol,
        }
    }
}

/// The response to `GET /v1/progress`. With `?plan=false`, the response omits the plan, which grows
/// with the platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ProgressV1 {
    /// The generation that the manager is applying.
    pub generation: u64,
    /// Whether the API accepts every type of change. It does so after the first round.
    pub open: bool,
    /// Whether the round has ended: no step is running, and the manager waits for nothing.
    pub settled: bool,
    /// Whether the round has ended and every replica is ready or completed.
    pub ready: bool,
    pub running: Vec<RunningStep>,
    /// What the round waits for, in addition to the running steps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<WaitV1>,
    /// The latest plan, unless the request excluded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
}

/// Something that a round waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct WaitV1 {
    pub what: String,
    /// When the wait started, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// The latest time at which the wait ends.
    pub until: DateTime<Utc>,
}

/// The response to a request that changes what is declared, for example `PUT /v1/platform`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AppliedV1 {
    /// The current generation.
    pub generation: u64,
    /// Whether the declaration differs from the previous one.
    pub changed: bool,
    /// The id of the operation that ends when the platform has settled. Absent if nothing was changed and
    /// no such operation is in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Uuid>,
}

impl From<Applied> for AppliedV1 {
    fn from(applied: Applied) -> Self {
        Self {
            generation: applied.generation.0,
            changed: applied.changed,
            operation: applied.operation.map(|operation| operation.0),
        }
    }
}

/// The body of `POST /v1/services/{name}/restart`; it is optional.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RestartV1 {
    /// When each replica's container last started. A replica whose container has started again
    /// since then is not restarted.
    pub replaces: BTreeMap<InstanceId, DateTime<Utc>>,
}

impl RestartV1 {
    /// Creates a body that restarts each of these replicas, unless the replica has started again
    /// since the given time.
    pub fn replacing(replaces: BTreeMap<InstanceId, DateTime<Utc>>) -> Self {
        Self { replaces }
    }
}

/// The body of `POST /v1/nodes/{name}/restart`; it is optional.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RestartNodeV1 {
    /// The boot that the restart ends. A node in a later boot is not restarted. By default, the current
    /// boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
}

impl RestartNodeV1 {
    /// Creates a body that restarts the node, unless it has booted again since the given boot.
    pub fn ending(boot_id: String) -> Self {
        Self {
            boot_id: Some(boot_id),
        }
    }
}

/// The response to `POST /v1/retry/{name}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RetriedV1 {
    /// A description of each failure that is retried; empty if nothing had failed.
    pub retried: Vec<String>,
}

/// The response to `GET /v1/events` with `Accept: application/json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct EventsV1 {
    /// The events after the cursor, oldest first.
    pub events: Vec<Event>,
    /// The cursor for the next page.
    pub cursor: u64,
}

/// A line of a service's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ServiceLogLine {
    /// `<service>-<replica>`; in a line about an outage of the manager the service.
    pub instance: String,
    /// The engine's id of the container that wrote the line; empty in a line about an outage of the
    /// manager.
    pub container: String,
    /// The line itself.
    #[serde(flatten)]
    pub line: LogLine,
    /// Whether the line is from the manager, not from the instance. Such a line contains the reason
    /// why the rest of the output is unavailable, or, in a followed output, what has happened to the
    /// instance: its container ended, was started again, or was replaced. A client adds a line when
    /// the manager does not respond.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub notice: bool,
    /// Whether the output goes on after this line from the manager.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub continues: bool,
}

impl From<InstanceOutput> for ServiceLogLine {
    fn from(output: InstanceOutput) -> Self {
        let of_manager = |text| LogLine {
            stderr: true,
            text,
            ..LogLine::default()
        };
        let (line, notice, continues) = match output.output {
            Output::Line(line) => (line, false, false),
            Output::Changed { what } => (of_manager(what), true, true),
            Output::Unavailable { why } => {
                let text = format!("the rest of the output is unavailable: {why}");
                (of_manager(text), true, false)
            }
        };
        Self {
            instance: output.instance,
            container: output.container.to_string(),
            line,
            notice,
            continues,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EventKind;

    #[test]
    fn times_have_six_fractional_digits_even_for_whole_seconds() {
        let whole: DateTime<Utc> = "2026-01-02T03:04:05Z".parse().unwrap();
        let id = InstanceId::try_from("web-1".to_owned()).unwrap();
        let mut instance = InstanceV1::new(&id, InstanceStateV1::Starting);
        instance.started_at = Some(whole);
        let sent = serde_json::to_value(&instance).unwrap();
        assert_eq!(sent["started_at"], "2026-01-02T03:04:05.000000Z");
        assert!(sent["ready_at"].is_null());
        assert_eq!(
            serde_json::from_value::<InstanceV1>(sent).unwrap(),
            instance
        );
    }

    #[test]
    fn unknown_kinds_and_states_of_a_newer_manager_are_accepted() {
        let page: EventsV1 = serde_json::from_value(serde_json::json!({
            "events": [
                {"id": 7, "at": "2026-01-02T03:04:05Z", "kind": "levitated", "subject": "platform",
                 "message": "it floats"},
                {"id": 8, "at": "2026-01-02T03:04:06Z", "kind": "ready", "message": "web-1 is ready",
                 "subject": {"instance": "web-1"}},
            ],
            "cursor": 8,
        }))
        .unwrap();
        let kinds: Vec<EventKind> = page.events.iter().map(|e| e.event.kind).collect();
        assert_eq!(kinds, [EventKind::Unknown, EventKind::Ready]);
        assert_eq!(page.events[0].event.message, "it floats");

        let mut node = NodeV1::new("n1".try_into().unwrap(), NodeStateV1::Running);
        let mut sent = serde_json::to_value(&node).unwrap();
        sent["state"] = "floating".into();
        node.state = NodeStateV1::Unknown;
        assert_eq!(serde_json::from_value::<NodeV1>(sent).unwrap(), node);

        let id = InstanceId::try_from("web-1".to_owned()).unwrap();
        let mut instance = InstanceV1::new(&id, InstanceStateV1::Ready);
        let mut sent = serde_json::to_value(&instance).unwrap();
        sent["state"] = "floating".into();
        instance.state = InstanceStateV1::Unknown;
        assert_eq!(
            serde_json::from_value::<InstanceV1>(sent).unwrap(),
            instance
        );
    }
}
