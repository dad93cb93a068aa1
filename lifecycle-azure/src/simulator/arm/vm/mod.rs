//! Simulates virtual machines.

mod action;
mod create;
mod request;
mod update;
mod view;

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};
use lifecycle_core::secret::Sensitive;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::address;
use super::id::{Key, ResourceId, key_of};
use super::image::Image;
use super::inbound::open_from_outside;
use super::interface::Interface;
use super::network::surroundings;
use super::operation::OperationId;
use super::problem::Problem;
use super::resource::{Head, Provisioning, Resource, stored_in};
use super::sku::Size;
use super::state::ArmState;
use crate::simulator::host::HostSubnet;

pub(crate) use action::{act, delete};
pub(crate) use create::put;
pub(crate) use update::patch;
pub(crate) use view::{get, instance_view, list};

#[derive(Debug)]
pub(crate) struct VmResource {
    head: Head,
    vm_id: Uuid,
    size: &'static Size,
    image: &'static Image,
    /// The storage profile that responses contain.
    storage: Value,
    system: System,
    interfaces: Vec<Attached>,
    disks: Vec<DiskUse>,
    /// The other members of `properties`, as received.
    others: Map<String, Value>,
    /// The members next to `properties`: zones, identity, plan.
    top_level: Map<String, Value>,
    /// The power state. `None` before the VM has a host.
    power: Option<Power>,
    /// The address at which the VM's host is reachable from outside its network, if the host
    /// backend provides one.
    reached_at: Option<Ipv4Addr>,
    /// The TCP ports that the VM's host has opened to traffic from outside. `None` before the VM has
    /// a host.
    inbound: Option<Vec<RangeInclusive<u16>>>,
    /// The operation in progress.
    operation: Option<OperationId>,
    created: DateTime<Utc>,
    changed: DateTime<Utc>,
}

/// The properties of a VM's operating system.
#[derive(Debug)]
struct System {
    computer_name: String,
    admin: String,
    ssh_keys: Vec<String>,
    /// The operating system profile that responses contain, without secrets.
    shown: Value,
    custom_data: Option<Sensitive>,
}

/// A network interface of a VM.
#[derive(Debug, Clone)]
struct Attached {
    id: ResourceId,
    primary: Option<bool>,
    delete_option: Option<String>,
    /// The name of the network interface configuration. `None` if the interface existed before the
    /// VM.
    configuration: Option<String>,
}

/// A disk of a VM.
#[derive(Debug, Clone)]
struct DiskUse {
    id: ResourceId,
    goes_with_machine: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Power {
    Starting,
    Running,
    Stopping,
    Stopped,
    Deallocating,
    Deallocated,
}

impl Power {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Deallocating => "deallocating",
            Self::Deallocated => "deallocated",
        }
    }
}

fn is_delete(option: Option<&str>) -> bool {
    option.is_some_and(|option| option.eq_ignore_ascii_case("delete"))
}

impl VmResource {
    pub(crate) fn size(&self) -> &'static Size {
        self.size
    }

    pub(crate) fn power(&self) -> Option<Power> {
        self.power
    }

    /// Returns the custom data for the VM's first boot, in Base64, as received.
    pub(crate) fn custom_data(&self) -> Option<&Sensitive> {
        self.system.custom_data.as_ref()
    }

    fn primary_interface<'w>(&self, arm: &'w ArmState) -> Option<&'w Interface> {
        let primary = self
            .interfaces
            .iter()
            .find(|one| one.primary == Some(true))
            .or_else(|| self.interfaces.first())?;
        arm.interfaces.get(&primary.id.key())
    }

    pub(crate) fn private_address(&self, arm: &ArmState) -> Option<Ipv4Addr> {
        Some(self.primary_interface(arm)?.primary()?.private)
    }

    /// Returns the TCP ports that are open from outside according to the security groups.
    fn open_ports(&self, arm: &ArmState) -> Vec<RangeInclusive<u16>> {
        let interface = self.primary_interface(arm);
        interface.map_or_else(Vec::new, |interface| open_from_outside(arm, interface))
    }

    /// Returns the ports that are open from outside, if the VM has a host that has opened other
    /// ports.
    pub(crate) fn changed_inbound(&self, arm: &ArmState) -> Option<Vec<RangeInclusive<u16>>> {
        let opened = self.inbound.as_ref()?;
        let open = self.open_ports(arm);
        (open != *opened && self.head.state != Provisioning::Deleting).then_some(open)
    }

    /// Records the ports that the VM's host has opened.
    pub(crate) fn set_inbound(&mut self, ports: Vec<RangeInclusive<u16>>) {
        self.inbound = Some(ports);
    }

    /// Returns the subnet of the VM's primary interface.
    fn subnet(&self, arm: &ArmState) -> Option<HostSubnet> {
        let id = &self.primary_interface(arm)?.primary()?.subnet;
        let block = surroundings(arm, id)?.block;
        Some(HostSubnet {
            id: key_of(id),
            address: block.network(),
            prefix_length: block.prefix_len(),
        })
    }

    pub(crate) fn public_address(&self, arm: &ArmState) -> Option<Ipv4Addr> {
        let key = self.primary_interface(arm)?.public_addresses().next()?;
        arm.addresses.get(key)?.address()
    }
}

/// Sets a VM's provisioning state and power state, and updates its addresses.
fn set(arm: &mut ArmState, key: &Key, state: Provisioning, power: Option<Power>) {
    let now = arm.now;
    let Some(vm) = arm.vms.get_mut(key) else {
        return;
    };
    vm.head.state = state;
    vm.power = power;
    vm.changed = now;
    let interfaces: Vec<_> = vm.interfaces.iter().map(|one| one.id.key()).collect();
    let reached_at = vm.reached_at;
    let has_address = match power {
        Some(Power::Running | Power::Starting | Power::Stopping | Power::Stopped) => true,
        None | Some(Power::Deallocating | Power::Deallocated) => false,
    };
    let addresses: Vec<Key> = interfaces
        .iter()
        .filter_map(|key| arm.interfaces.get(key))
        .flat_map(|interface| interface.public_addresses().cloned())
        .collect();
    for key in addresses {
        address::follow_vm(arm, &key, has_address);
        if let Some(at) = reached_at {
            address::reach_at(arm, &key, at);
        }
    }
}

/// Marks a VM as being deleted with its resource group, so that no other request can change the VM.
pub(crate) fn mark_deleting(arm: &mut ArmState, key: &Key) {
    let now = arm.now;
    let previous = arm.vms.get_mut(key).and_then(|vm| {
        vm.head.state = Provisioning::Deleting;
        vm.operation.take()
    });
    if let Some(previous) = previous {
        arm.operations.preempt(previous, now);
    }
}

/// Marks a VM as failed after its deletion has failed.
pub(crate) fn mark_failed(arm: &mut ArmState, key: &Key, problem: Problem) {
    if let Some(vm) = arm.vms.get_mut(key) {
        vm.head.state = Provisioning::Failed(problem);
    }
}

impl Resource for VmResource {
    const KIND: &'static str = "Microsoft.Compute/virtualMachines";
    const NAMESPACE: &'static str = "Microsoft.Compute";

    stored_in!(vms);

    fn properties(&self, _world: &ArmState) -> Map<String, Value> {
        let interfaces: Vec<_> = self
            .interfaces
            .iter()
            .map(|one| {
                let mut shown = json!({"id": one.id.to_string()});
                if let Some(primary) = one.primary {
                    shown["properties"]["primary"] = primary.into();
                }
                if let Some(option) = &one.delete_option {
                    shown["properties"]["deleteOption"] = option.clone().into();
                }
                shown
            })
            .collect();
        let mut properties = self.others.clone();
        properties.insert("vmId".into(), json!(self.vm_id));
        properties.insert("hardwareProfile".into(), json!({"vmSize": self.size.name}));
        properties.insert("storageProfile".into(), self.storage.clone());
        properties.insert("osProfile".into(), self.system.shown.clone());
        properties.insert(
            "networkProfile".into(),
            json!({ "networkInterfaces": interfaces }),
        );
        properties.insert("timeCreated".into(), view::written(self.created).into());
        properties
    }

    fn top_level(&self) -> Map<String, Value> {
        self.top_level.clone()
    }

    fn in_use(&self, _world: &ArmState) -> Option<Problem> {
        None
    }

    /// Deletes the VM's resources that have `deleteOption: Delete`, and detaches the others.
    fn removed(self, arm: &mut ArmState) {
        for attached in self.interfaces {
            let key = attached.id.key();
            let Some(interface) = arm.interfaces.get_mut(&key) else {
                continue;
            };
            interface.detach();
            if !is_delete(attached.delete_option.as_deref()) {
                continue;
            }
            let addresses: Vec<Key> = interface.public_addresses().cloned().collect();
            arm.interfaces.remove(&key);
            for address in addresses {
                let goes = arm
                    .addresses
                    .get(&address)
                    .is_some_and(address::PublicAddress::goes_with_machine);
                if goes {
                    arm.addresses.remove(&address);
                }
            }
        }
        for used in self.disks {
            let key = used.id.key();
            if used.goes_with_machine {
                arm.disks.remove(&key);
            } else if let Some(disk) = arm.disks.get_mut(&key) {
                disk.vm = None;
            }
        }
    }
}
