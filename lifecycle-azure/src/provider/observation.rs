//! What Azure shows of nodes: how they are and where they are reached.

use std::collections::HashMap;
use std::net::IpAddr;

use lifecycle_core::cloud::{ObservedNode, SshAddress};
use lifecycle_core::model::Addresses;
use lifecycle_core::{Error, Result};
use serde_json::Value;

use super::Azure;
use crate::machine::{self, Machine};
use crate::network::NETWORK;
use crate::tags;

/// SSH's port.
const SSH: u16 = 22;

impl Azure {
    /// All nodes, in the order of their names.
    pub(super) async fn nodes(&self) -> Result<Vec<ObservedNode>> {
        let mut machines = self.compute.list().await?;
        machines.retain(|machine| machine.tags.are_of(&self.options.owner));
        if machines.is_empty() {
            return Ok(Vec::new());
        }
        // Of the whole subscription, in two requests however many nodes there are.
        let of_network = |kind: &str| {
            let subscription = &self.options.subscription;
            format!("/subscriptions/{subscription}/providers/Microsoft.Network/{kind}")
        };
        let (interfaces, publics) = (
            of_network("networkInterfaces"),
            of_network("publicIPAddresses"),
        );
        let (interfaces, publics) = tokio::try_join!(
            self.client.list(&interfaces, NETWORK),
            self.client.list(&publics, NETWORK),
        )?;
        let by_id = |all: Vec<Value>| -> HashMap<String, Value> {
            let keyed = |one: Value| Some((one.get("id")?.as_str()?.to_lowercase(), one));
            all.into_iter().filter_map(keyed).collect()
        };
        let (interfaces, publics) = (by_id(interfaces), by_id(publics));
        let addresses = |machine: &Machine| {
            let interface = machine.interface.as_ref()?;
            let (private, public) = machine::addresses(interfaces.get(&interface.to_lowercase())?);
            let public = match public {
                Some(path) => public_address(publics.get(&path.to_lowercase())?),
                None => None,
            };
            Some(Addresses { private, public })
        };
        let mut nodes = Vec::with_capacity(machines.len());
        for machine in &machines {
            let addresses = match addresses(machine) {
                Some(addresses) => addresses,
                // Not in the lists, which Azure makes one after the other.
                None => self.addresses(machine).await?,
            };
            let node = self.observed(machine, addresses);
            nodes.push(node.ok_or_else(|| {
                Error::corrupt(
                    format!("VM {} of this platform", machine.id),
                    format!("neither its tag `{}` nor its name is a node's", tags::NODE),
                )
            })?);
        }
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(nodes)
    }

    pub(super) fn observed(&self, machine: &Machine, addresses: Addresses) -> Option<ObservedNode> {
        let host_key = machine.tags.get(tags::HOST_KEY).map(str::to_owned);
        let account = machine
            .tags
            .get(tags::ACCOUNT)
            .or(machine.account.as_deref());
        Some(ObservedNode {
            name: machine.node()?,
            provider_id: machine.vm_id.clone(),
            power: machine.power(),
            addresses,
            ssh: SshAddress {
                user: account.unwrap_or(&self.options.account).to_owned(),
                port: SSH,
                host_keys: host_key.into_iter().collect(),
            },
            boot_id: machine.boot_id(),
            created: machine.is_created(),
        })
    }

    /// The addresses of a VM.
    pub(super) async fn addresses(&self, machine: &Machine) -> Result<Addresses> {
        let Some(interface) = &machine.interface else {
            return Ok(Addresses::default());
        };
        let Some(interface) = self.client.get(interface, NETWORK).await? else {
            return Ok(Addresses::default());
        };
        let (private, public) = machine::addresses(&interface);
        let public = match public {
            Some(path) => self.client.get(&path, NETWORK).await?,
            None => None,
        };
        Ok(Addresses {
            private,
            public: public.as_ref().and_then(public_address),
        })
    }
}

fn public_address(resource: &Value) -> Option<IpAddr> {
    resource
        .pointer("/properties/ipAddress")?
        .as_str()?
        .parse()
        .ok()
}
