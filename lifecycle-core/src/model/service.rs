//! Declared services, read from the user's files. The values are normalized, and variables and
//! secrets are resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::build::BuildSource;
use super::connection::Connection;
use super::container::{Devices, Isolation, KernelLimits, Logging, Terminal, is_default};
use super::mount::{MemoryMount, NodeMount, ShippedMount, VolumeMount};
use super::update::UpdatePolicy;
use super::{
    NodeSpec, Origin, Protocol, PublicPort, Replica, Resources, ServiceName, TokenRole, TokenScope,
};
use crate::secret::Sensitive;

/// The workload class of a service. Each class can have a separate database.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ServiceClass {
    /// A part of the platform itself.
    #[default]
    Microservice,
    /// A hosted application.
    Application,
    /// A hosted AI model.
    Model,
}

impl fmt::Display for ServiceClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Microservice => "microservice",
            Self::Application => "application",
            Self::Model => "model",
        })
    }
}

/// A declared service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// The name, unique in the platform.
    pub name: ServiceName,
    #[serde(default)]
    pub class: ServiceClass,
    #[serde(default)]
    pub origin: Origin,
    /// The number of replicas that should run.
    pub replicas: u16,
    pub source: ImageSource,
    /// The template of the service's containers.
    pub container: ContainerTemplate,
    /// The services that this service depends on, with the condition for each.
    #[serde(default)]
    pub depends_on: BTreeMap<ServiceName, DependencyCondition>,
    /// An HTTP check that determines readiness, instead of the health check or a TCP connection.
    #[serde(default)]
    pub ready: Option<HttpReadiness>,
    /// How long an instance may take to become ready after its start.
    #[serde(with = "crate::model::service::seconds")]
    pub ready_within: Duration,
    /// What happens when the service's container exits. For `None`, see [`RestartPolicy`].
    #[serde(default)]
    pub restart: Option<RestartPolicy>,
    /// Constraints on the nodes that the service may run on.
    #[serde(default)]
    pub constraints: Vec<Constraint>,
    /// The resources that each replica reserves on its node.
    #[serde(default)]
    pub reserves: Resources,
    #[serde(default)]
    pub starts: Starts,
    /// Additional names under which other services reach this service.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub aliases: BTreeSet<String>,
    /// The maximum number of replicas per node; unlimited by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_per_node: Option<u16>,
    /// How changed replicas are replaced.
    #[serde(default, skip_serializing_if = "is_default")]
    pub update: UpdatePolicy,
    /// Whether the published ports are reachable from outside the nodes' network.
    #[serde(default, skip_serializing_if = "is_default")]
    pub public: bool,
    /// The values that may be secrets.
    #[serde(default, skip_serializing_if = "is_default")]
    pub secrets: Secrets,
}

/// The values of a service that may be secrets. A rollback keeps their current values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Secrets {
    /// The variables of the environment whose values come from outside the Compose files: from the
    /// environment of the command, from `.env`, or from an environment file.
    #[serde(skip_serializing_if = "is_default")]
    pub variables: BTreeSet<String>,
    /// The mount points of the Compose `secrets`.
    #[serde(skip_serializing_if = "is_default")]
    pub files: BTreeSet<String>,
}

/// The source of a service's image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::large_enum_variant, reason = "there is only one per service")]
pub enum ImageSource {
    /// Built from a code base.
    Build(BuildSource),
    /// The image reference that the user declared.
    Image(String),
}

/// The stop grace period of a container that declares none. Compose and Docker have the same default.
pub const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);

/// The template for the containers of a service. Every field is part of the spec digest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerTemplate {
    /// Overrides the command of the image.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// Overrides the entrypoint of the image.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// The environment. Values may be secrets.
    #[serde(default)]
    pub environment: BTreeMap<String, Sensitive>,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub working_dir: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Named volumes.
    #[serde(default)]
    pub volumes: Vec<VolumeMount>,
    /// Ports published on the node, as in Compose's `ports`.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// Ports that other services can reach; a host port is chosen for each.
    #[serde(default)]
    pub expose: Vec<(u16, Protocol)>,
    /// The health check, if it differs from the image's.
    #[serde(default)]
    pub healthcheck: Option<Healthcheck>,
    /// How long a stop waits for open connections to end, and then for the process to exit before it
    /// is killed; [`DEFAULT_STOP_GRACE`] by default.
    #[serde(default, with = "crate::model::service::optional_seconds")]
    pub stop_grace: Option<Duration>,
    #[serde(default)]
    pub limits: Resources,
    /// The containers' access to the manager's API. With `None`, they get neither its address nor
    /// credentials.
    #[serde(default)]
    pub api: Option<ApiAccess>,
    /// The user's own files.
    #[serde(default, skip_serializing_if = "is_default")]
    pub files: Vec<ShippedMount>,
    /// Mount points of unnamed volumes, which are deleted with the container.
    #[serde(default, skip_serializing_if = "is_default")]
    pub anonymous_volumes: Vec<String>,
    /// Mounted paths of the node.
    #[serde(default, skip_serializing_if = "is_default")]
    pub node_paths: Vec<NodeMount>,
    /// File systems in memory.
    #[serde(default, skip_serializing_if = "is_default")]
    pub memory: Vec<MemoryMount>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub connection: Connection,
    #[serde(default, skip_serializing_if = "is_default")]
    pub isolation: Isolation,
    #[serde(default, skip_serializing_if = "is_default")]
    pub devices: Devices,
    /// Limits other than processors and memory.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kernel: KernelLimits,
    #[serde(default, skip_serializing_if = "is_default")]
    pub terminal: Terminal,
    #[serde(default, skip_serializing_if = "is_default")]
    pub logging: Logging,
    /// Ports published at one host port of several.
    #[serde(default, skip_serializing_if = "is_default")]
    pub port_choices: Vec<PortChoice>,
    /// Whether the containers may use the cloud's metadata service, which hands out the credentials of
    /// the VM's identity. Containers on the node's network always may.
    #[serde(default, skip_serializing_if = "is_default")]
    pub metadata_service: bool,
    /// Variables of the image that the containers do not get.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unset: BTreeSet<String>,
}

/// The operations of the manager's API that a service may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApiAccess {
    /// What the role `viewer` permits.
    Read,
    /// What the role `operator` permits.
    Operate,
    /// What this role permits, for the services of this scope.
    Granted {
        role: TokenRole,
        /// Boxed, because there are declarations with tens of thousands of services.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scope: Option<Box<TokenScope>>,
    },
}

impl ApiAccess {
    /// Returns the role of the service's token.
    pub fn role(&self) -> TokenRole {
        match self {
            Self::Read => TokenRole::Viewer,
            Self::Operate => TokenRole::Operator,
            Self::Granted { role, .. } => *role,
        }
    }

    /// Returns the services that the service's token is limited to.
    pub fn scope(&self) -> Option<&TokenScope> {
        match self {
            Self::Read | Self::Operate => None,
            Self::Granted { scope, .. } => scope.as_deref(),
        }
    }
}

/// A port published on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The port on the node; by default chosen from the platform's range.
    #[serde(default)]
    pub host_port: Option<u16>,
    /// The port in the container.
    pub container_port: u16,
    pub protocol: Protocol,
    /// The node's address to listen on; all of its addresses by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// A port published at one host port of several, as `8000-8010:80` in Compose. A container gets its
/// host port when it is created, and keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortChoice {
    /// The possible ports on the node, in ascending order. No service declares one of them as a fixed
    /// port.
    pub candidates: Vec<u16>,
    /// The port in the container.
    pub container_port: u16,
    pub protocol: Protocol,
    /// The node's address to listen on; all of its addresses by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

impl PortChoice {
    /// Returns the candidates in the order in which a replica uses them. Each replica prefers another
    /// one, so that the host ports do not depend on the order in which containers are created.
    pub fn preferred(&self, replica: Replica) -> impl Iterator<Item = u16> {
        let count = self.candidates.len();
        let first = usize::from(replica.0.saturating_sub(1)) % count.max(1);
        let candidates = self.candidates.iter().copied();
        candidates.cycle().skip(first).take(count)
    }
}

/// A health check that the engine runs in the container (Compose `healthcheck`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// The command to run.
    pub test: HealthcheckTest,
    /// The time between two checks.
    #[serde(default, with = "crate::model::service::optional_seconds")]
    pub interval: Option<Duration>,
    /// The timeout of one check.
    #[serde(default, with = "crate::model::service::optional_seconds")]
    pub timeout: Option<Duration>,
    /// How many consecutive failures make the container unhealthy.
    #[serde(default)]
    pub retries: Option<u32>,
    /// How long failures are ignored after the start.
    #[serde(default, with = "crate::model::service::optional_seconds")]
    pub start_period: Option<Duration>,
}

/// The command of a health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthcheckTest {
    /// No check, not even the image's (`NONE`, or `disable: true`).
    None,
    /// A program with its arguments (`CMD`).
    Exec(Vec<String>),
    /// A line for the container's shell (`CMD-SHELL`).
    Shell(String),
}

/// A readiness check by HTTP request (`x-lifecycle.ready`). Status codes 200–399 mean ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpReadiness {
    /// The port in the container; the request is sent to the endpoint of this port on the node.
    pub port: u16,
    /// The path, starting with `/`.
    pub path: String,
}

/// The condition of a dependency (Compose `depends_on.condition`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DependencyCondition {
    /// The container of every replica was started.
    ServiceStarted,
    /// Every replica is ready.
    ServiceHealthy,
    /// Every replica exited with code 0.
    ServiceCompletedSuccessfully,
}

/// What happens when a container exits (Compose `restart`). Without a policy, the container is
/// always restarted, unless other services depend on its completion. In that case, the service runs
/// once per spec digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// The container is not restarted.
    No,
    /// The container is always restarted.
    Always,
    /// The container is restarted after a non-zero exit code.
    OnFailure {
        /// The maximum number of consecutive restarts.
        max_retries: Option<u32>,
    },
    /// Treated like `Always`. The two differ only for containers that a user stops by hand.
    UnlessStopped,
}

/// Determines when a service starts relative to other services.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Starts {
    /// Only the service's dependencies determine when it starts.
    #[default]
    InOrder,
    /// The service starts after all services with `InOrder`.
    Last,
}

/// A placement constraint (Compose `deploy.placement.constraints`): `node.labels.zone == a`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraint {
    /// `node.hostname` or `node.labels.<key>`.
    pub key: String,
    pub operator: ConstraintOperator,
    /// The value to compare with.
    pub value: String,
}

/// The comparison operator of a constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConstraintOperator {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
}

impl Constraint {
    /// Returns whether a node satisfies the constraint. A missing label is not equal to any value.
    pub fn holds(&self, node: &NodeSpec) -> bool {
        let value = if self.key == "node.hostname" {
            Some(node.name.as_str())
        } else {
            self.key
                .strip_prefix("node.labels.")
                .and_then(|label| node.labels.get(label))
                .map(String::as_str)
        };
        let equal = value == Some(self.value.as_str());
        match self.operator {
            ConstraintOperator::Equal => equal,
            ConstraintOperator::NotEqual => !equal,
        }
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operator = match self.operator {
            ConstraintOperator::Equal => "==",
            ConstraintOperator::NotEqual => "!=",
        };
        write!(f, "{} {operator} {}", self.key, self.value)
    }
}

impl ServiceSpec {
    /// The default of `ready_within`.
    pub const READY_WITHIN: Duration = Duration::from_mins(5);

    /// Creates a service with one replica of `source`, and with defaults for everything else.
    pub fn new(name: ServiceName, source: ImageSource) -> Self {
        Self {
            name,
            class: ServiceClass::default(),
            origin: Origin::default(),
            replicas: 1,
            source,
            container: ContainerTemplate::default(),
            depends_on: BTreeMap::new(),
            ready: None,
            ready_within: Self::READY_WITHIN,
            restart: None,
            constraints: Vec::new(),
            reserves: Resources::default(),
            starts: Starts::default(),
            aliases: BTreeSet::new(),
            max_per_node: None,
            update: UpdatePolicy::default(),
            public: false,
            secrets: Secrets::default(),
        }
    }

    /// Returns the ports of the service's nodes that are reachable from outside; none, unless the
    /// service is public. Ports at a loopback address and ports without a declared host port are
    /// never public.
    pub fn public_ports(&self) -> impl Iterator<Item = PublicPort> {
        let ports = self.container.ports.iter().filter(|_| self.public);
        let ports = ports.filter(|port| port.host_ip.is_none_or(|ip| !ip.is_loopback()));
        ports.filter_map(|port| {
            Some(PublicPort {
                port: port.host_port?,
                protocol: port.protocol,
            })
        })
    }
}

/// Serializes durations as seconds with fractions, as in Compose files.
pub(crate) mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(value.as_secs_f64())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// Like [`seconds`], for optional durations.
pub(crate) mod optional_seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(
        clippy::ref_option,
        reason = "the signature that serde's `with` requires"
    )]
    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|d| d.as_secs_f64()).serialize(s)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<Duration>, D::Error> {
        Option::<f64>::deserialize(d)?
            .map(Duration::try_from_secs_f64)
            .transpose()
            .map_err(serde::de::Error::custom)
    }
}
