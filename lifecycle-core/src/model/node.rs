//! Declared nodes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::NodeName;
use super::container::is_default;

/// The origin of a declared object. When the user's files are applied, only objects that came from
/// those files can be removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The user's files.
    #[default]
    File,
    /// A request to the manager's API.
    Api,
}

/// The kind of a node that the platform does not create.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Existing {
    /// A VM of the cloud. The cloud manages its power and its firewall.
    Vm,
    /// A machine that is reached by address, which the cloud does not know.
    Host,
}

/// A declared node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// The name, unique in the platform.
    pub name: NodeName,
    /// The provider's name of the machine size; by default the provider's default size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// Alternative sizes, in order of preference; empty if there is no `size`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<String>,
    /// The provider's name of the boot image; by default the provider's default image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Labels for placement constraints on `node.labels.<key>`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The resources that services can reserve on the node. With `None`, reservations are not
    /// checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Resources>,
    /// Set if the node exists already. The platform takes it over and does not create it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing: Option<Existing>,
    #[serde(default)]
    pub origin: Origin,
    /// Which replicas the node may have.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scheduling: Scheduling,
    /// Whether the node is stopped until it is started on request.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stopped: bool,
}

/// Which replicas a node may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheduling {
    /// All replicas.
    #[default]
    Open,
    /// Only the replicas that it has.
    Cordoned,
    /// Only the replicas that it has and that fit on no other node. All others move.
    Drained,
}

/// A request that changes what is declared about a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeRequest {
    /// The node gets no new replicas.
    Cordon,
    /// The node's replicas move to other nodes.
    Drain,
    /// The node may have all replicas again.
    Uncordon,
    /// The node's replicas move to other nodes, and then the node is stopped. A replica that fits on no
    /// other node stops with it.
    Stop,
    /// A stopped node is started.
    Start,
}

impl NodeRequest {
    /// All requests.
    pub const ALL: [Self; 5] = [
        Self::Cordon,
        Self::Drain,
        Self::Uncordon,
        Self::Stop,
        Self::Start,
    ];
}

impl fmt::Display for NodeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cordon => "cordon",
            Self::Drain => "drain",
            Self::Uncordon => "uncordon",
            Self::Stop => "stop",
            Self::Start => "start",
        })
    }
}

impl fmt::Display for Scheduling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Cordoned => "cordoned",
            Self::Drained => "drained",
        })
    }
}

impl NodeSpec {
    /// Creates a node with the provider's defaults.
    pub fn new(name: NodeName) -> Self {
        Self {
            name,
            size: None,
            alternatives: Vec::new(),
            image: None,
            labels: BTreeMap::new(),
            capacity: None,
            existing: None,
            origin: Origin::File,
            scheduling: Scheduling::Open,
            stopped: false,
        }
    }
}

/// An amount of processor time and memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a processor; 0 means nothing is requested.
    #[serde(default)]
    pub cpu_millis: u64,
    /// Bytes of memory; 0 means nothing is requested.
    #[serde(default)]
    pub memory_bytes: u64,
}

impl Resources {
    /// Returns whether `self` and `other` together are within `capacity`.
    pub fn fits_with(self, other: Self, capacity: Self) -> bool {
        self.cpu_millis.saturating_add(other.cpu_millis) <= capacity.cpu_millis
            && self.memory_bytes.saturating_add(other.memory_bytes) <= capacity.memory_bytes
    }

    /// Returns the sum, limited to the largest value of the type.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }
}

/// The addresses of a node. Services communicate over private addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The address in the platform's network.
    pub private: Option<IpAddr>,
    /// The address for access from outside the platform's network, if there is one.
    pub public: Option<IpAddr>,
}

impl Addresses {
    /// Creates addresses with only an address in the platform's network.
    pub fn private(address: impl Into<IpAddr>) -> Self {
        Self {
            private: Some(address.into()),
            public: None,
        }
    }
}
