//! How a container is connected: its network, its name, and how it finds others.

use serde::{Deserialize, Serialize};

use super::container::is_default;

/// A container's network beyond its ports. Every field serialises to nothing at its default, as
/// the spec digest asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connection {
    /// Which network it has.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: NetworkMode,
    /// Its host name; its id without one.
    #[serde(skip_serializing_if = "is_default")]
    pub hostname: Option<String>,
    /// Its domain name.
    #[serde(skip_serializing_if = "is_default")]
    pub domainname: Option<String>,
    /// Further lines of its `/etc/hosts`: `name:address`.
    #[serde(skip_serializing_if = "is_default")]
    pub extra_hosts: Vec<String>,
    /// Resolvers of its own. With them it does not ask the platform's.
    #[serde(skip_serializing_if = "is_default")]
    pub dns: Vec<String>,
    /// Domains that are tried behind a name.
    #[serde(skip_serializing_if = "is_default")]
    pub dns_search: Vec<String>,
    /// Options of the resolver.
    #[serde(skip_serializing_if = "is_default")]
    pub dns_options: Vec<String>,
}

/// Which network a container has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// One of its own on its node, connected to the platform's services.
    #[default]
    Platform,
    /// The node's own.
    Host,
    /// None but its loopback.
    None,
}

impl Connection {
    /// Whether it has resolvers of its own in place of the platform's.
    pub fn has_own_resolvers(&self) -> bool {
        !self.dns.is_empty()
    }
}
