//! Nodes as they are declared.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::NodeName;

/// Where a declared object comes from. An apply prunes only what an earlier file declared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// From the user's files.
    #[default]
    File,
    /// Added through the manager's API.
    Api,
}

/// A declared node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Its name, unique within the platform.
    pub name: NodeName,
    /// The provider's word for how large it is; the provider's default without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// Further sizes, one of which it may have instead, the better before; only with a `size`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<String>,
    /// The provider's word for what it boots; the provider's default without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Labels that placement constraints can name as `node.labels.<key>`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What services can reserve on it; `None` means that nothing is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Resources>,
    /// Where the declaration of this node comes from.
    #[serde(default)]
    pub origin: Origin,
}

impl NodeSpec {
    /// A node with the provider's defaults.
    pub fn new(name: NodeName) -> Self {
        Self {
            name,
            size: None,
            alternatives: Vec::new(),
            image: None,
            labels: BTreeMap::new(),
            capacity: None,
            origin: Origin::File,
        }
    }
}

/// An amount of processor time and memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a processor; 0 means none asked for.
    #[serde(default)]
    pub cpu_millis: u64,
    /// Bytes of memory; 0 means none asked for.
    #[serde(default)]
    pub memory_bytes: u64,
}

impl Resources {
    /// Whether `self` and `other` together stay within `capacity`.
    pub fn fits_beside(self, other: Self, capacity: Self) -> bool {
        self.cpu_millis.saturating_add(other.cpu_millis) <= capacity.cpu_millis
            && self.memory_bytes.saturating_add(other.memory_bytes) <= capacity.memory_bytes
    }

    /// The sum, at most the largest value that the type holds.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }
}

/// Where a node is reached. Services meet on private addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The address within the platform's network.
    pub private: Option<IpAddr>,
    /// The address from outside, if it has one.
    pub public: Option<IpAddr>,
}

impl Addresses {
    /// An address within the platform's network, and none from outside.
    pub fn private(address: impl Into<IpAddr>) -> Self {
        Self {
            private: Some(address.into()),
            public: None,
        }
    }
}
