//! The response to `GET /v1/export`: overrides with what the user's files need to declare them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::cloud::MachineSpec;
use crate::model::{NodeName, NodeSpec, Resources, ServiceClass, ServiceName};
use crate::platform::{AddedText, Exportable, ExportedNode, Scaling};
use crate::secret::Sensitive;

/// The overrides in force, with what the user's files need to declare them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ExportV1 {
    /// The services with a requested number of replicas.
    #[serde(default)]
    pub replicas: BTreeMap<ServiceName, ReplicasV1>,
    /// The added services.
    #[serde(default)]
    pub services: BTreeMap<ServiceName, AddedServiceV1>,
    /// The added nodes.
    #[serde(default)]
    pub nodes: BTreeMap<NodeName, AddedNodeV1>,
    /// The ids of the other overrides, which files cannot declare.
    #[serde(default)]
    pub others: BTreeSet<String>,
}

/// A requested number of replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ReplicasV1 {
    /// The number in force.
    pub replicas: u16,
    /// The number in the files.
    pub declared: u16,
}

/// An added service as it was requested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AddedServiceV1 {
    pub class: ServiceClass,
    /// The service as in a Compose file, as YAML or JSON. Its environment may contain secrets. Absent
    /// if an earlier version added the service and did not keep the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compose: Option<Sensitive>,
}

/// An added node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AddedNodeV1 {
    /// The provider's sizes, in order of preference; empty for the provider's default.
    #[serde(default)]
    pub sizes: Vec<String>,
    /// The provider's image; absent for the provider's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The resources that services can reserve; absent if they are unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<CapacityV1>,
    /// The machine, if it was adopted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<ExportedMachineV1>,
}

/// An adopted machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ExportedMachineV1 {
    /// The IP address or host name.
    pub address: String,
    /// The address at which the other nodes reach the machine; by default `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_address: Option<IpAddr>,
    /// The port of the SSH server.
    pub port: u16,
    /// The account of the first login.
    pub user: String,
    /// The pinned public host keys, in OpenSSH format.
    #[serde(default)]
    pub host_keys: Vec<String>,
}

/// The resources of a node that services can reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct CapacityV1 {
    /// In thousandths of a processor.
    pub cpu_millis: u64,
    pub memory_bytes: u64,
}

impl From<MachineSpec> for ExportedMachineV1 {
    fn from(machine: MachineSpec) -> Self {
        Self {
            address: machine.address,
            private_address: machine.private_address,
            port: machine.port,
            user: machine.user,
            host_keys: machine.host_keys,
        }
    }
}

impl From<ExportedMachineV1> for MachineSpec {
    fn from(machine: ExportedMachineV1) -> Self {
        Self {
            address: machine.address,
            private_address: machine.private_address,
            port: machine.port,
            user: machine.user,
            host_keys: machine.host_keys,
        }
    }
}

impl From<Exportable> for ExportV1 {
    fn from(exportable: Exportable) -> Self {
        let replicas = exportable.replicas.into_iter();
        let services = exportable.services.into_iter();
        let nodes = exportable.nodes.into_iter();
        Self {
            replicas: replicas
                .map(|(name, Scaling { replicas, declared })| {
                    (name, ReplicasV1 { replicas, declared })
                })
                .collect(),
            services: services
                .map(|(name, AddedText { class, text })| {
                    let compose = text;
                    (name, AddedServiceV1 { class, compose })
                })
                .collect(),
            nodes: nodes
                .map(|(name, ExportedNode { spec, machine })| {
                    let node = AddedNodeV1 {
                        machine: machine.map(ExportedMachineV1::from),
                        sizes: spec.size.into_iter().chain(spec.alternatives).collect(),
                        image: spec.image,
                        labels: spec.labels,
                        capacity: spec.capacity.map(|capacity| CapacityV1 {
                            cpu_millis: capacity.cpu_millis,
                            memory_bytes: capacity.memory_bytes,
                        }),
                    };
                    (name, node)
                })
                .collect(),
            others: exportable.others,
        }
    }
}

impl From<ExportV1> for Exportable {
    fn from(export: ExportV1) -> Self {
        let replicas = export.replicas.into_iter();
        let services = export.services.into_iter();
        let nodes = export.nodes.into_iter();
        Self {
            replicas: replicas
                .map(|(name, ReplicasV1 { replicas, declared })| {
                    (name, Scaling { replicas, declared })
                })
                .collect(),
            services: services
                .map(|(name, AddedServiceV1 { class, compose })| {
                    let text = compose;
                    (name, AddedText { class, text })
                })
                .collect(),
            nodes: nodes
                .map(|(name, node)| {
                    let mut sizes = node.sizes.into_iter();
                    let spec = NodeSpec {
                        size: sizes.next(),
                        alternatives: sizes.collect(),
                        image: node.image,
                        labels: node.labels,
                        capacity: node.capacity.map(|capacity| Resources {
                            cpu_millis: capacity.cpu_millis,
                            memory_bytes: capacity.memory_bytes,
                        }),
                        ..NodeSpec::new(name.clone())
                    };
                    let machine = node.machine.map(MachineSpec::from);
                    (name, ExportedNode { spec, machine })
                })
                .collect(),
            others: export.others,
        }
    }
}
