//! The table that the manager sends to an agent: every service with its address, ports, and
//! backends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Block;
use crate::model::{Epoch, InstanceId, NodeName, PlatformName, Protocol, ServiceName};

/// All services of a platform and their backends, as the leading manager sees them. A service that
/// is not in the table does not exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The epoch of the manager that created the table. An agent rejects a table with a lower epoch
    /// than that of its active table.
    pub epoch: Epoch,
    /// The table's number within the epoch. An agent rejects a table with a lower version than that
    /// of its active table; a table with the same version is accepted without effect.
    pub version: u64,
    /// The platform's name; `<service>.<platform>.internal` is a service's full name.
    pub platform: PlatformName,
    /// The block of service addresses.
    pub block: Block,
    /// How long a new connection waits for a ready endpoint.
    #[serde(with = "crate::model::service::seconds")]
    pub wait: Duration,
    pub services: BTreeMap<ServiceName, ServiceEntry>,
    /// The published TCP ports whose new connections the agents forward, in place of the engine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redirects: Vec<Redirect>,
    /// The containers that were backends when their node stopped responding, by name, with that node.
    /// The agents reset the open connections to them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lost: BTreeMap<String, NodeName>,
}

impl Table {
    /// Returns the table for the agent of one node: without the redirects of other nodes.
    #[must_use]
    pub fn for_node(&self, node: &NodeName) -> Self {
        let redirects = self.redirects.iter();
        let own = redirects.filter(|redirect| redirect.node == *node);
        Self {
            redirects: own.cloned().collect(),
            ..self.clone()
        }
    }
}

/// A published TCP port of a node. The agent forwards new connections to a ready endpoint of the
/// service, or holds them until there is one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Redirect {
    pub node: NodeName,
    /// The port on the node.
    pub port: u16,
    pub service: ServiceName,
    pub container_port: u16,
}

/// A service in a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEntry {
    pub address: Ipv4Addr,
    /// Further names that resolve to the service's address.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub aliases: BTreeSet<String>,
    /// The container ports on which the service's address listens, with or without a ready
    /// endpoint.
    pub ports: BTreeSet<(u16, Protocol)>,
    /// The service's instances that are ready or draining.
    pub backends: Vec<Backend>,
}

/// An instance that receives connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    pub instance: InstanceId,
    /// The name of the instance's container. It distinguishes two containers of one instance.
    pub container: String,
    /// The address for each container port of the instance.
    #[serde(with = "endpoints")]
    pub endpoints: BTreeMap<(u16, Protocol), SocketAddr>,
    /// Whether the instance is draining: it gets no new connections, and the agent reports its open
    /// connections.
    #[serde(default)]
    pub draining: bool,
}

/// Serializes the map as a list, because JSON keys must be strings.
mod endpoints {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use serde::{Deserialize, Deserializer, Serializer};

    use crate::model::Protocol;

    type Map = BTreeMap<(u16, Protocol), SocketAddr>;

    pub(super) fn serialize<S: Serializer>(value: &Map, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(
            value
                .iter()
                .map(|((port, protocol), address)| (port, protocol, address)),
        )
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Map, D::Error> {
        let list = Vec::<(u16, Protocol, SocketAddr)>::deserialize(d)?;
        Ok(list
            .into_iter()
            .map(|(port, protocol, address)| ((port, protocol), address))
            .collect())
    }
}
