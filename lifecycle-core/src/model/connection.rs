//! The connections of a container: its network, its host name, and name resolution.

use serde::{Deserialize, Serialize};

use super::ServiceName;
use super::container::is_default;

/// The network settings of a container except its ports. Default values are not serialized, so they
/// do not affect the spec digest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connection {
    #[serde(skip_serializing_if = "is_default")]
    pub mode: NetworkMode,
    /// Whether containers of other services join the container's network. Such a container does not
    /// use the platform's resolver. [`crate::reconcile::Declared`] sets this.
    #[serde(skip_serializing_if = "is_default")]
    pub is_joined: bool,
    /// The host name; by default the container id.
    #[serde(skip_serializing_if = "is_default")]
    pub hostname: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub domainname: Option<String>,
    /// Additional lines for `/etc/hosts`: `name:address`.
    #[serde(skip_serializing_if = "is_default")]
    pub extra_hosts: Vec<String>,
    /// The container's own resolvers, used instead of the platform's.
    #[serde(skip_serializing_if = "is_default")]
    pub dns: Vec<String>,
    /// The search domains.
    #[serde(skip_serializing_if = "is_default")]
    pub dns_search: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub dns_options: Vec<String>,
}

/// The network of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// The platform's network on the node, from which containers can reach services.
    #[default]
    Platform,
    /// The node's own network.
    Host,
    /// Only the loopback interface.
    None,
    /// The network of another service's container: replica n joins the network of replica n.
    Service(ServiceName),
}

impl Connection {
    /// Returns whether the container uses its own resolvers instead of the platform's.
    pub fn has_own_resolvers(&self) -> bool {
        !self.dns.is_empty()
    }

    /// Returns the service whose containers' network the container joins.
    pub fn joins(&self) -> Option<&ServiceName> {
        match &self.mode {
            NetworkMode::Service(service) => Some(service),
            NetworkMode::Platform | NetworkMode::Host | NetworkMode::None => None,
        }
    }

    /// Returns whether the container's name resolution is the platform's: it neither has its own
    /// resolvers nor shares its network with containers of another service.
    pub fn uses_platform_resolver(&self) -> bool {
        !self.has_own_resolvers() && !self.is_joined && self.joins().is_none()
    }
}
