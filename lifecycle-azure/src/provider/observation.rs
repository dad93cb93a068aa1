//! Observes nodes: reads their state and their addresses.

use std::collections::HashMap;
use std::net::IpAddr;

use lifecycle_core::cloud::{ObservedNode, SshAddress};
use lifecycle_core::model::{Addresses, NodeName};
use lifecycle_core::{Error, Result};
use serde_json::Value;

use super::Azure;
use crate::network::NETWORK;
use crate::public_ports::{Location, SecurityGroups};
use crate::tags;
use crate::vm::{self, Vm};

const SSH: u16 = 22;

impl Azure {
    /// Returns all nodes, sorted by name.
    pub(super) async fn nodes(&self) -> Result<Vec<ObservedNode>> {
        let mut vms = self.compute.list().await?;
        vms.retain(|vm| vm.tags.are_of(&self.options.owner));
        if vms.is_empty() {
            return Ok(Vec::new());
        }
        // List the interfaces, addresses, and security groups of the whole subscription in three
        // requests, regardless of the number of nodes.
        let of_network = |kind: &str| {
            let subscription = &self.options.subscription;
            format!("/subscriptions/{subscription}/providers/Microsoft.Network/{kind}")
        };
        let (interfaces, publics) = (
            of_network("networkInterfaces"),
            of_network("publicIPAddresses"),
        );
        let (interfaces, publics, groups) = tokio::try_join!(
            self.client.list(&interfaces, NETWORK),
            self.client.list(&publics, NETWORK),
            self.shared.security_groups(),
        )?;
        let by_id = |all: Vec<Value>| -> HashMap<String, Value> {
            let keyed = |one: Value| Some((one.get("id")?.as_str()?.to_lowercase(), one));
            all.into_iter().filter_map(keyed).collect()
        };
        let (interfaces, publics) = (by_id(interfaces), by_id(publics));
        let addresses = |vm: &Vm| {
            let interface = interfaces.get(&vm.interface.as_ref()?.to_lowercase())?;
            let (private, public) = vm::addresses(interface);
            let public = match public {
                Some(path) => public_address(publics.get(&path.to_lowercase())?),
                None => None,
            };
            Some((
                Addresses { private, public },
                Location::of(interface, private),
            ))
        };
        let mut nodes = Vec::with_capacity(vms.len());
        for vm in &vms {
            let (addresses, location) = match addresses(vm) {
                Some(found) => found,
                // The lists may be too old to contain the interface or address of a new VM. Read
                // these resources again.
                None => self.addresses(vm).await?,
            };
            let name = self.options.node_of(vm).ok_or_else(|| {
                Error::corrupt(
                    format!("VM {} of this platform", vm.id),
                    format!(
                        "neither the tag `{}` nor the VM's name is a valid node name",
                        tags::NODE
                    ),
                )
            })?;
            nodes.push(self.observed(name, vm, addresses, location.as_ref(), &groups));
        }
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(nodes)
    }

    pub(super) fn observed(
        &self,
        name: NodeName,
        vm: &Vm,
        addresses: Addresses,
        location: Option<&Location>,
        groups: &SecurityGroups,
    ) -> ObservedNode {
        let owner = &self.options.owner;
        let host_key = vm.tags.get(tags::HOST_KEY).map(str::to_owned);
        let account = vm.tags.get(tags::ACCOUNT).or(vm.account.as_deref());
        ObservedNode {
            open_ports: groups.open_ports(owner, &name, location),
            name,
            provider_id: vm.unique_id.clone(),
            power: vm.power(),
            addresses,
            ssh: SshAddress {
                user: account.unwrap_or(&self.options.account).to_owned(),
                port: SSH,
                host_keys: host_key.into_iter().collect(),
            },
            boot_id: vm.boot_id(),
            created: vm.is_created(),
        }
    }

    /// Reads a resource that belongs to a VM.
    async fn read_part(&self, vm: &Vm, path: &str) -> Result<Option<Value>> {
        // The resources of a VM that is being deleted disappear before the VM.
        if vm.is_settled() {
            self.client.get_existing(path, NETWORK).await
        } else {
            self.client.get(path, NETWORK).await
        }
    }

    /// Reads a VM's addresses, and what determines the rules that apply to the VM.
    pub(super) async fn addresses(&self, vm: &Vm) -> Result<(Addresses, Option<Location>)> {
        let Some(interface) = &vm.interface else {
            return Ok(Default::default());
        };
        let Some(interface) = self.read_part(vm, interface).await? else {
            return Ok(Default::default());
        };
        let (private, public) = vm::addresses(&interface);
        let public = match public {
            Some(path) => self.read_part(vm, &path).await?,
            None => None,
        };
        let addresses = Addresses {
            private,
            public: public.as_ref().and_then(public_address),
        };
        Ok((addresses, Location::of(&interface, private)))
    }
}

fn public_address(resource: &Value) -> Option<IpAddr> {
    resource
        .pointer("/properties/ipAddress")?
        .as_str()?
        .parse()
        .ok()
}
