//! Services as they are declared, after the user's files were read: normalised,
//! interpolated, secrets resolved.

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
use super::{NodeSpec, Origin, Protocol, Resources, ServiceName};
use crate::secret::Sensitive;

/// What kind of workload a service is. Each kind may have a database of its own.
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
    /// Its name, unique within the platform.
    pub name: ServiceName,
    /// What kind of workload it is.
    #[serde(default)]
    pub class: ServiceClass,
    /// Where its declaration comes from.
    #[serde(default)]
    pub origin: Origin,
    /// How many replicas should run.
    pub replicas: u16,
    /// Where its image comes from.
    pub source: ImageSource,
    /// What its containers are made from.
    pub container: ContainerTemplate,
    /// The services that must be up before it, and what "up" means for each.
    #[serde(default)]
    pub depends_on: BTreeMap<ServiceName, DependencyCondition>,
    /// An HTTP check that decides readiness instead of the health check or a connection.
    #[serde(default)]
    pub ready: Option<HttpReadiness>,
    /// How long an instance may take from its start until it is ready.
    #[serde(with = "crate::model::service::seconds")]
    pub ready_within: Duration,
    /// What happens when its container ends. `None`: see [`RestartPolicy`].
    #[serde(default)]
    pub restart: Option<RestartPolicy>,
    /// Which nodes it may run on.
    #[serde(default)]
    pub constraints: Vec<Constraint>,
    /// What each replica reserves on its node.
    #[serde(default)]
    pub reserves: Resources,
    /// Its place in the start order.
    #[serde(default)]
    pub starts: Starts,
    /// Further names that other services reach it by.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub aliases: BTreeSet<String>,
    /// How many replicas one node may have; as many as fit without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_per_node: Option<u16>,
    /// How its replicas are to be replaced.
    #[serde(default, skip_serializing_if = "is_default")]
    pub update: UpdatePolicy,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::large_enum_variant, reason = "there is one for each service")]
pub enum ImageSource {
    /// Built from a code base.
    Build(BuildSource),
    /// Named by the user.
    Image(String),
}

/// What a container of a service is made from; everything here is part of the spec digest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerTemplate {
    /// Overrides the image's command.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// Overrides the image's entrypoint.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// Environment. Values may be secrets.
    #[serde(default)]
    pub environment: BTreeMap<String, Sensitive>,
    /// The user that the process runs as.
    #[serde(default)]
    pub user: Option<String>,
    /// The directory that it starts in.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// The user's own labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Named volumes.
    #[serde(default)]
    pub volumes: Vec<VolumeMount>,
    /// Ports published on the node, as Compose's `ports` has them.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// Ports that other services reach; a host port is picked for each.
    #[serde(default)]
    pub expose: Vec<(u16, Protocol)>,
    /// The health check, if it differs from the image's.
    #[serde(default)]
    pub healthcheck: Option<Healthcheck>,
    /// How long a stop waits before it kills.
    #[serde(default, with = "crate::model::service::optional_seconds")]
    pub stop_grace: Option<Duration>,
    /// The most that a container may use.
    #[serde(default)]
    pub limits: Resources,
    /// Whether containers are told how to reach the manager's API.
    #[serde(default)]
    pub api: Option<ApiAccess>,
    /// Files that the declaration carries.
    #[serde(default, skip_serializing_if = "is_default")]
    pub files: Vec<ShippedMount>,
    /// Places of volumes without a name, which go with the container.
    #[serde(default, skip_serializing_if = "is_default")]
    pub anonymous_volumes: Vec<String>,
    /// Paths of the node.
    #[serde(default, skip_serializing_if = "is_default")]
    pub node_paths: Vec<NodeMount>,
    /// File systems in memory.
    #[serde(default, skip_serializing_if = "is_default")]
    pub memory: Vec<MemoryMount>,
    /// Network and names.
    #[serde(default, skip_serializing_if = "is_default")]
    pub connection: Connection,
    /// How far it is set apart from its node.
    #[serde(default, skip_serializing_if = "is_default")]
    pub isolation: Isolation,
    /// The node's devices that it reaches.
    #[serde(default, skip_serializing_if = "is_default")]
    pub devices: Devices,
    /// Limits beyond processors and memory.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kernel: KernelLimits,
    /// How its process is run and spoken to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub terminal: Terminal,
    /// Where its output goes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub logging: Logging,
}

/// What a service may do at the manager's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApiAccess {
    /// Look up and watch.
    Read,
}

/// A port published on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The port on the node; picked from the platform's range without one.
    #[serde(default)]
    pub host_port: Option<u16>,
    /// The port inside the container.
    pub container_port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The one address of the node that it is opened at; all of them without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// A health check that the engine runs inside the container (Compose `healthcheck`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// What is run.
    pub test: HealthcheckTest,
    /// Time between two checks.
    #[serde(default, with = "crate::model::service::optional_seconds")]
    pub interval: Option<Duration>,
    /// The longest that one check may take.
    #[serde(default, with = "crate::model::service::optional_seconds")]
    pub timeout: Option<Duration>,
    /// How many failures in a row make it unhealthy.
    #[serde(default)]
    pub retries: Option<u32>,
    /// How long failures do not count after the start.
    #[serde(default, with = "crate::model::service::optional_seconds")]
    pub start_period: Option<Duration>,
}

/// What a health check runs.
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

/// An HTTP request whose answer 200–399 means ready (`x-lifecycle.ready`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpReadiness {
    /// The port inside the container; its endpoint on the node is asked.
    pub port: u16,
    /// The path, starting with `/`.
    pub path: String,
}

/// What a dependent awaits of a service (Compose `depends_on.condition`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DependencyCondition {
    /// Every replica's container was started.
    ServiceStarted,
    /// Every replica is ready.
    ServiceHealthy,
    /// Every replica ran to its end with exit code 0.
    ServiceCompletedSuccessfully,
}

/// What happens when a container ends (Compose `restart`). Without one a service is kept
/// alive like `always`, unless others await its completion: then it runs once per digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// It stays ended.
    No,
    /// It is started again.
    Always,
    /// It is started again after a non-zero exit code.
    OnFailure {
        /// At most this many times in a row.
        max_retries: Option<u32>,
    },
    /// Like `Always`: nothing but the manager stops a container here.
    UnlessStopped,
}

/// A service's place in the start order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Starts {
    /// By its dependencies alone.
    #[default]
    InOrder,
    /// After all services that do not start last.
    Last,
}

/// A placement constraint (Compose `deploy.placement.constraints`): `node.labels.zone == a`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraint {
    /// `node.hostname` or `node.labels.<key>`, whole.
    pub key: String,
    /// How the two are compared.
    pub operator: ConstraintOperator,
    /// What the node's value is compared with.
    pub value: String,
}

/// How a constraint compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConstraintOperator {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
}

impl Constraint {
    /// Whether a node meets it. A label that the node lacks equals nothing.
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
    /// How long an instance may take until it is ready, where the declaration does not say.
    pub const READY_WITHIN: Duration = Duration::from_mins(5);

    /// A service with one replica of `source` and defaults for everything else.
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
            most_per_node: None,
            update: UpdatePolicy::default(),
        }
    }
}

/// Durations as seconds with fractions, the form that Compose files use.
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

/// The same for a duration that may be absent.
pub(crate) mod optional_seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "the form that serde's `with` calls")]
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
