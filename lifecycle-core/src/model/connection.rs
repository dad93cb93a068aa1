//! The connections of a container: its network, its host name, and name resolution.

use serde::{Deserialize, Serialize};

use super::container::is_default;

/// The network settings of a container except its ports. Default values are not serialized, so they
/// do not affect the spec digest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connection {
    #[serde(skip_serializing_if = "is_default")]
    pub mode: NetworkMode,
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// The platform's network on the node, from which containers can reach services.
    #[default]
    Platform,
    /// The node's own network.
    Host,
    /// Only the loopback interface.
    None,
}

impl Connection {
    /// Returns whether the container uses its own resolvers instead of the platform's.
    pub fn has_own_resolvers(&self) -> bool {
        !self.dns.is_empty()
    }
}
