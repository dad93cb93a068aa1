//! A VM as a test sees it from inside: with what Azure's API never gives back.

use std::net::Ipv4Addr;

use lifecycle_core::secret::Sensitive;

use super::arm::machine::Power;
use super::arm::resource::{Provisioning, Resource as _};
use super::arm::world::World;

/// A VM.
#[derive(Debug, Clone)]
pub struct SimulatedMachine {
    /// Its id, with the capitals that it was made with.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its size.
    pub size: String,
    /// `Creating`, `Updating`, `Succeeded`, `Failed`, `Deleting`.
    pub provisioning: &'static str,
    /// `running`, `stopped`, `deallocated` and what lies between; none before it was ever made.
    pub power: Option<&'static str>,
    /// The address in its network.
    pub private_address: Option<Ipv4Addr>,
    /// The address outside.
    pub public_address: Option<Ipv4Addr>,
    /// What it was given for its first boot, in base64, as it came. It may hold host keys.
    pub custom_data: Option<Sensitive>,
}

pub(super) fn all(world: &World) -> Vec<SimulatedMachine> {
    let machines = world.machines.values();
    let seen = machines.map(|machine| SimulatedMachine {
        id: machine.head().id.to_string(),
        name: machine.head().id.name.clone(),
        size: machine.size().name.to_owned(),
        provisioning: Provisioning::name(&machine.head().state),
        power: machine.power().map(Power::name),
        private_address: machine.private_address(world),
        public_address: machine.public_address(world),
        custom_data: machine.custom_data().cloned(),
    });
    seen.collect()
}
