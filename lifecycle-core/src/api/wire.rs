//! What the API's version 1 sends and takes. Apart from the domain, so that the domain can
//! change without breaking a client.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::manager::{InstanceOutput, Output};
use crate::model::{
    Endpoint, Event, InstanceId, InstanceState, NodeName, OperationId, Protocol, ServiceClass,
    ServiceName,
};
use crate::reconcile::{Plan, RunningStep};
use crate::runtime::LogLine;

/// `GET /v1/platform`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlatformV1 {
    /// The platform's name.
    pub name: String,
    /// Its UUID.
    pub id: String,
    /// The generation in force; 0 before the first declaration.
    pub generation: u64,
    /// How it stands.
    pub state: PlatformState,
    /// Where its manager is.
    pub manager: Option<ManagerV1>,
}

/// How a platform stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PlatformState {
    /// Something is on its way to what is declared.
    Converging,
    /// Every replica is ready or completed.
    Running,
    /// Some replica failed, or some node cannot be asked.
    Degraded,
    /// It is being deleted.
    Deleting,
    /// A state of a newer manager.
    #[serde(other)]
    Unknown,
}

/// Where the manager is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ManagerV1 {
    /// The API's base URL within the platform's network.
    pub url: String,
    /// Its node.
    pub node: NodeName,
}

/// One of `GET /v1/nodes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct NodeV1 {
    /// Its name.
    pub name: NodeName,
    /// How it stands.
    pub state: NodeStateV1,
    /// Since when it cannot be asked, where it cannot.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::clock::six_digits::optional"
    )]
    pub unknown_since: Option<DateTime<Utc>>,
    /// Why it cannot be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_why: Option<String>,
    /// Where it is reached.
    pub addresses: AddressesV1,
    /// Its engine.
    pub docker: DockerV1,
}

/// How a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NodeStateV1 {
    /// Declared; the cloud has none of that name.
    Absent,
    /// On its way up.
    Starting,
    /// It runs.
    Running,
    /// On its way down.
    Stopping,
    /// It does not run.
    Stopped,
    /// The cloud could not make it, or lost it.
    Failed,
    /// It does not respond; or a state of a newer manager.
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
    /// Within the platform's network.
    pub private: Option<IpAddr>,
    /// From outside.
    pub public: Option<IpAddr>,
}

/// A node's engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct DockerV1 {
    /// Its version, once it was seen.
    pub version: Option<String>,
    /// Whether it answers.
    pub ready: bool,
}

/// One of `GET /v1/services`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ServiceV1 {
    /// Its name.
    pub name: ServiceName,
    /// What kind of workload it is.
    pub class: ServiceClass,
    /// Its replicas, in order.
    pub instances: Vec<InstanceV1>,
}

/// A replica of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct InstanceV1 {
    /// `<service>-<replica>`.
    pub id: String,
    /// Its number.
    pub replica: u16,
    /// The engine's id of its container, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Its node, if it fits on one.
    pub node: Option<NodeName>,
    /// What it is doing.
    pub state: InstanceStateV1,
    /// Why it is in this state, where that needs a reason; of a replica that is ready, why it
    /// serves under its former declaration and not under the present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// When the engine started it.
    #[serde(serialize_with = "crate::clock::six_digits::optional")]
    pub started_at: Option<DateTime<Utc>>,
    /// When its readiness check passed.
    #[serde(serialize_with = "crate::clock::six_digits::optional")]
    pub ready_at: Option<DateTime<Utc>>,
    /// Where it is reached; only while it is ready.
    pub endpoints: Vec<EndpointV1>,
}

/// What a replica is doing, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum InstanceStateV1 {
    /// Its container runs, its readiness check has not passed yet.
    Starting,
    /// Its readiness check passed.
    Ready,
    /// It ran to its end with exit code 0, as its dependents await.
    Completed,
    /// Its container does not run, or there is none.
    Stopped,
    /// It did not become ready in time, or ended with an error.
    Failed,
    /// Its node does not respond; or a state of a newer manager.
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
            InstanceState::Completed => Self::Completed,
            InstanceState::Stopped => Self::Stopped,
            InstanceState::Failed { .. } => Self::Failed,
            InstanceState::Unknown { .. } => Self::Unknown,
        }
    }
}

impl ServiceV1 {
    /// A service with its replicas.
    pub fn new(name: ServiceName, class: ServiceClass, instances: Vec<InstanceV1>) -> Self {
        Self {
            name,
            class,
            instances,
        }
    }
}

impl NodeV1 {
    /// A node of which only the state is known.
    pub fn new(name: NodeName, state: NodeStateV1) -> Self {
        Self {
            name,
            state,
            unknown_since: None,
            unknown_why: None,
            addresses: AddressesV1 {
                private: None,
                public: None,
            },
            docker: DockerV1 {
                version: None,
                ready: false,
            },
        }
    }
}

impl InstanceV1 {
    /// A replica of which only the state is known.
    pub fn new(id: &InstanceId, state: InstanceStateV1) -> Self {
        Self {
            id: id.to_string(),
            replica: id.replica.0,
            container: None,
            node: None,
            state,
            why: None,
            started_at: None,
            ready_at: None,
            endpoints: Vec::new(),
        }
    }

    /// The reason that a state carries.
    pub(crate) fn why_of(state: &InstanceState) -> Option<String> {
        match state {
            InstanceState::Failed { why } | InstanceState::Unknown { why, .. } => Some(why.clone()),
            InstanceState::Starting
            | InstanceState::Ready
            | InstanceState::Completed
            | InstanceState::Stopped => None,
        }
    }
}

/// Where a replica is reached.
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

/// `GET /v1/progress`; with `?plan=false` without the plan, which grows with the platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProgressV1 {
    /// The generation that is worked towards.
    pub generation: u64,
    /// Whether the API takes changes.
    pub open: bool,
    /// Whether nothing of this round will change any more.
    pub settled: bool,
    /// Whether everything is ready.
    pub ready: bool,
    /// What is being carried out.
    pub running: Vec<RunningStep>,
    /// What the round waits for, in addition to the running steps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<WaitV1>,
    /// The latest plan, unless it was not wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
}

/// Something that a round waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WaitV1 {
    /// What, in words.
    pub what: String,
    /// Since when, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// Until when at the latest.
    pub until: DateTime<Utc>,
}

/// The answer to `PUT /v1/platform`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AppliedV1 {
    /// The generation in force.
    pub generation: u64,
    /// Whether the declaration differed from the one before.
    pub changed: bool,
}

/// An operation, as `DELETE /v1/platform` and `GET /v1/operations/{id}` answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OperationV1 {
    /// Its id.
    pub id: Uuid,
    /// How far it is.
    pub state: OperationStateV1,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OperationStateV1 {
    /// It is being carried out.
    Running,
    /// It ended well.
    Succeeded,
    /// It failed.
    Failed,
}

impl OperationV1 {
    /// The id as the domain has it.
    pub fn id(&self) -> OperationId {
        OperationId(self.id)
    }
}

/// The body of `POST /v1/services/{name}/restart`; it may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RestartV1 {
    /// When the run of each replica began that is to end. One that was started since is not
    /// touched.
    pub replaces: BTreeMap<InstanceId, DateTime<Utc>>,
}

impl RestartV1 {
    /// Ends the run of each replica that began at this time.
    pub fn replacing(replaces: BTreeMap<InstanceId, DateTime<Utc>>) -> Self {
        Self { replaces }
    }
}

/// The answer to `POST /v1/retry/{name}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RetriedV1 {
    /// What had failed and is tried again, in words; empty if nothing had.
    pub retried: Vec<String>,
}

/// `GET /v1/events` with `Accept: application/json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// `<service>-<replica>`.
    pub instance: String,
    /// The engine's id of the container that wrote it.
    pub container: String,
    /// The line.
    #[serde(flatten)]
    pub line: LogLine,
    /// Whether the manager says it, not the instance: why no more can be had of its output.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub notice: bool,
}

impl From<InstanceOutput> for ServiceLogLine {
    fn from(output: InstanceOutput) -> Self {
        let (line, notice) = match output.output {
            Output::Line(line) => (line, false),
            Output::Unavailable { why } => {
                let line = LogLine {
                    at: None,
                    stderr: true,
                    text: format!("no more of its output can be had: {why}"),
                };
                (line, true)
            }
        };
        Self {
            instance: output.instance,
            container: output.container.to_string(),
            line,
            notice,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EventKind;

    #[test]
    fn times_have_six_digits_even_on_the_second() {
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
    fn a_page_with_a_kind_or_state_of_a_newer_manager_is_read() {
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
