//! Shows tests the state of simulated VMs, including data that Azure's API never returns.

use std::net::Ipv4Addr;

use lifecycle_core::secret::Sensitive;

use super::arm::resource::{Provisioning, Resource as _};
use super::arm::state::ArmState;
use super::arm::vm::Power;

/// The state of a simulated VM.
#[derive(Debug, Clone)]
pub struct SimulatedVm {
    /// The VM's id, in the case in which the VM was created.
    pub id: String,
    pub name: String,
    pub size: String,
    /// The provisioning state: `Creating`, `Updating`, `Succeeded`, `Failed`, or `Deleting`.
    pub provisioning: &'static str,
    /// The power state: `running`, `stopped`, `deallocated`, or a state between these. `None`
    /// before the VM's host is created.
    pub power: Option<&'static str>,
    pub private_address: Option<Ipv4Addr>,
    pub public_address: Option<Ipv4Addr>,
    /// The custom data for the first boot, in Base64, as received. May contain host keys.
    pub custom_data: Option<Sensitive>,
}

pub(super) fn all(arm: &ArmState) -> Vec<SimulatedVm> {
    let vms = arm.vms.values();
    let seen = vms.map(|vm| SimulatedVm {
        id: vm.head().id.to_string(),
        name: vm.head().id.name.clone(),
        size: vm.size().name.to_owned(),
        provisioning: Provisioning::name(&vm.head().state),
        power: vm.power().map(Power::name),
        private_address: vm.private_address(arm),
        public_address: vm.public_address(arm),
        custom_data: vm.custom_data().cloned(),
    });
    seen.collect()
}
