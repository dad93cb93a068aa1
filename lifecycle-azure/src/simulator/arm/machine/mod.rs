//! Virtual machines.

mod action;
mod create;
mod request;
mod update;
mod view;

use std::net::Ipv4Addr;

use chrono::{DateTime, Utc};
use lifecycle_core::secret::Sensitive;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::address;
use super::id::{Key, ResourceId, key_of};
use super::image::Image;
use super::interface::Interface;
use super::network::surroundings;
use super::operation::OperationId;
use super::problem::Problem;
use super::resource::{Head, Provisioning, Resource};
use super::sku::Size;
use super::world::{Shelf, World};
use crate::simulator::maker::MachineSubnet;

pub(crate) use action::{act, delete};
pub(crate) use create::put;
pub(crate) use update::patch;
pub(crate) use view::{get, instance_view, list};

/// A virtual machine.
#[derive(Debug)]
pub(crate) struct Machine {
    head: Head,
    vm_id: Uuid,
    size: &'static Size,
    image: &'static Image,
    /// The storage profile as it is shown.
    storage: Value,
    system: System,
    interfaces: Vec<Attached>,
    disks: Vec<DiskUse>,
    /// What else stands under `properties`, as it was given.
    others: Map<String, Value>,
    /// What stands beside `properties`: zones, identity, plan.
    beside: Map<String, Value>,
    /// None before there is a machine.
    power: Option<Power>,
    /// Where its machine is reached from outside, if not at an address of the simulator's own.
    reached_at: Option<Ipv4Addr>,
    /// The operation that changes it now.
    operation: Option<OperationId>,
    created: DateTime<Utc>,
    changed: DateTime<Utc>,
}

/// What is known of its operating system.
#[derive(Debug)]
struct System {
    computer_name: String,
    admin: String,
    ssh_keys: Vec<String>,
    /// The profile as it is shown: without secrets.
    shown: Value,
    custom_data: Option<Sensitive>,
}

/// A network interface that a VM has.
#[derive(Debug, Clone)]
struct Attached {
    id: ResourceId,
    primary: Option<bool>,
    delete_option: Option<String>,
    /// The name of the configuration that it was made from with the VM.
    configuration: Option<String>,
}

/// A disk that a VM has.
#[derive(Debug, Clone)]
struct DiskUse {
    id: ResourceId,
    goes_with_machine: bool,
}

/// Whether a machine runs.
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

impl Machine {
    pub(crate) fn size(&self) -> &'static Size {
        self.size
    }

    pub(crate) fn power(&self) -> Option<Power> {
        self.power
    }

    /// What was given to its first boot, in base64, as it came.
    pub(crate) fn custom_data(&self) -> Option<&Sensitive> {
        self.system.custom_data.as_ref()
    }

    fn primary_interface<'w>(&self, world: &'w World) -> Option<&'w Interface> {
        let primary = self
            .interfaces
            .iter()
            .find(|one| one.primary == Some(true))
            .or_else(|| self.interfaces.first())?;
        world.interfaces.get(&primary.id.key())
    }

    pub(crate) fn private_address(&self, world: &World) -> Option<Ipv4Addr> {
        Some(self.primary_interface(world)?.primary()?.private)
    }

    /// The subnet that it is reached in.
    fn subnet(&self, world: &World) -> Option<MachineSubnet> {
        let id = &self.primary_interface(world)?.primary()?.subnet;
        let block = surroundings(world, id)?.block;
        Some(MachineSubnet {
            id: key_of(id),
            address: block.network(),
            prefix_length: block.prefix_len(),
        })
    }

    pub(crate) fn public_address(&self, world: &World) -> Option<Ipv4Addr> {
        let key = self.primary_interface(world)?.public_addresses().next()?;
        world.addresses.get(key)?.address()
    }
}

/// Lets an operation change a VM and sets its state and power; the addresses follow.
fn set(world: &mut World, key: &Key, state: Provisioning, power: Option<Power>) {
    let now = world.now;
    let Some(machine) = world.machines.get_mut(key) else {
        return;
    };
    machine.head.state = state;
    machine.power = power;
    machine.changed = now;
    let interfaces: Vec<_> = machine.interfaces.iter().map(|one| one.id.key()).collect();
    let reached_at = machine.reached_at;
    let has_address = match power {
        Some(Power::Running | Power::Starting | Power::Stopping | Power::Stopped) => true,
        None | Some(Power::Deallocating | Power::Deallocated) => false,
    };
    let addresses: Vec<Key> = interfaces
        .iter()
        .filter_map(|key| world.interfaces.get(key))
        .flat_map(|interface| interface.public_addresses().cloned())
        .collect();
    for key in addresses {
        address::follow_machine(world, &key, has_address);
        if let Some(at) = reached_at {
            address::reach_at(world, &key, at);
        }
    }
}

/// Begins the end of a VM whose resource group is deleted: nothing else may change it any more.
pub(crate) fn mark_deleting(world: &mut World, key: &Key) {
    let now = world.now;
    let former = world.machines.get_mut(key).and_then(|machine| {
        machine.head.state = Provisioning::Deleting;
        machine.operation.take()
    });
    if let Some(former) = former {
        world.operations.preempt(former, now);
    }
}

/// Ends the deletion of a VM that is there still.
pub(crate) fn mark_failed(world: &mut World, key: &Key, problem: Problem) {
    if let Some(machine) = world.machines.get_mut(key) {
        machine.head.state = Provisioning::Failed(problem);
    }
}

impl Resource for Machine {
    const KIND: &'static str = "Microsoft.Compute/virtualMachines";
    const NAMESPACE: &'static str = "Microsoft.Compute";

    fn shelf(world: &World) -> &Shelf<Self> {
        &world.machines
    }
    fn shelf_mut(world: &mut World) -> &mut Shelf<Self> {
        &mut world.machines
    }
    fn head(&self) -> &Head {
        &self.head
    }
    fn head_mut(&mut self) -> &mut Head {
        &mut self.head
    }

    fn properties(&self, _world: &World) -> Map<String, Value> {
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

    fn beside(&self) -> Map<String, Value> {
        self.beside.clone()
    }

    fn in_use(&self, _world: &World) -> Option<Problem> {
        None
    }

    /// What has `deleteOption: Delete` goes with it, the rest is let go.
    fn removed(self, world: &mut World) {
        for attached in self.interfaces {
            let key = attached.id.key();
            let Some(interface) = world.interfaces.get_mut(&key) else {
                continue;
            };
            interface.detach();
            if !is_delete(attached.delete_option.as_deref()) {
                continue;
            }
            let addresses: Vec<Key> = interface.public_addresses().cloned().collect();
            world.interfaces.remove(&key);
            for address in addresses {
                let goes = world
                    .addresses
                    .get(&address)
                    .is_some_and(address::PublicAddress::goes_with_machine);
                if goes {
                    world.addresses.remove(&address);
                }
            }
        }
        for used in self.disks {
            let key = used.id.key();
            if used.goes_with_machine {
                world.disks.remove(&key);
            } else if let Some(disk) = world.disks.get_mut(&key) {
                disk.machine = None;
            }
        }
    }
}
