//! What an agent is told: every service with its address, its ports and where connections go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Block;
use crate::model::{Epoch, InstanceId, PlatformName, Protocol, ServiceName};

/// Where connections to service addresses go, as the leading manager sees it. Always whole:
/// what it does not hold does not exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The epoch of the manager that made it. An agent refuses a lower one than it has.
    pub epoch: Epoch,
    /// Its number within the epoch. An agent refuses a lower one than it has; the same one
    /// again is accepted without effect.
    pub version: u64,
    /// The platform's name; `<service>.<platform>.internal` is a service's full name.
    pub platform: PlatformName,
    /// The block that the addresses come from.
    pub block: Block,
    /// How long a new connection waits for a ready endpoint.
    #[serde(with = "crate::model::service::seconds")]
    pub wait: Duration,
    /// The services.
    pub services: BTreeMap<ServiceName, ServiceEntry>,
}

/// A service in a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEntry {
    /// Its address.
    pub address: Ipv4Addr,
    /// Further names that lead to it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub aliases: BTreeSet<String>,
    /// The container ports at which its address listens, with or without a ready endpoint.
    pub ports: BTreeSet<(u16, Protocol)>,
    /// Its instances that are ready or draining.
    pub backends: Vec<Backend>,
}

/// An instance to which connections go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The instance.
    pub instance: InstanceId,
    /// Its container's name, which tells two containers of one instance apart.
    pub container: String,
    /// Where each of its container ports is reached.
    #[serde(with = "endpoints")]
    pub endpoints: BTreeMap<(u16, Protocol), SocketAddr>,
    /// Whether it gets no new connections; its open ones are counted.
    #[serde(default)]
    pub draining: bool,
}

/// A map with ports as keys, as a list: JSON has only strings as keys.
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
