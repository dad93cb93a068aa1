//! Defines a trait for clouds that is easier to implement than
//! [`CloudProvider`](super::CloudProvider).

use std::fmt::Debug;

use async_trait::async_trait;

use super::{CloudCapabilities, ObservedNode, PreflightReport};
use crate::error::{Error, Result};
use crate::model::{NodeSpec, Owner, PlatformId, PublicPorts};

/// A VM in a cloud account, and the platform that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// The platform whose id is on the VM; `None` if the VM belongs to no platform.
    pub platform: Option<PlatformId>,
    pub node: ObservedNode,
}

/// Lists and changes the VMs of a cloud account. [`VmCloud`](super::VmCloud) uses this trait to
/// implement [`CloudProvider`](super::CloudProvider).
///
/// # Guarantees
/// - A call that changes a VM returns when the cloud has finished the change; `list` then shows the
///   result. During a change, `list` shows [`Power::Starting`](super::Power::Starting) or
///   [`Power::Stopping`](super::Power::Stopping) if the cloud reports this state, so that other
///   processes notice the change.
/// - `create` sets the platform's id and the node's name in the same request that creates the VM.
///   If the platform already has a VM with this name, `create` does not create a second one.
/// - Two platforms may each have a VM for a node of the same name.
/// - A call can be repeated after it was cancelled at any await point, or after its process ended.
///
/// # Errors
/// The same as for [`CloudProvider`](super::CloudProvider). Deleting a missing VM is not an error.
#[async_trait]
pub trait VmApi: Debug + Send + Sync + 'static {
    /// Returns the capabilities of this cloud. If `fences` is set, [`power_off`](Self::power_off)
    /// must be implemented. If `adopts` is set, [`set_owner`](Self::set_owner) must be implemented.
    fn capabilities(&self) -> CloudCapabilities;

    /// Checks within seconds, without changing anything, whether the nodes can be created.
    async fn preflight(&self, specs: &[NodeSpec]) -> Result<PreflightReport> {
        let _ = specs;
        Ok(PreflightReport::default())
    }

    /// Returns all VMs of the account, including VMs of other platforms and VMs that belong to no
    /// platform. Returns an error if the list would be incomplete.
    async fn list(&self) -> Result<Vec<Vm>>;

    /// Creates and starts a VM for a node of a platform.
    async fn create(&self, spec: &NodeSpec, owner: &Owner) -> Result<()>;

    /// Starts a stopped VM.
    async fn start(&self, vm: &ObservedNode) -> Result<()>;

    /// Shuts down a running VM.
    async fn stop(&self, vm: &ObservedNode) -> Result<()>;

    /// Restarts a running VM.
    async fn restart(&self, vm: &ObservedNode) -> Result<()>;

    /// Deletes a VM and all resources that were created for it.
    async fn delete(&self, vm: &ObservedNode) -> Result<()>;

    /// Powers off a VM in any state, without waiting for its operating system to shut down.
    async fn power_off(&self, vm: &ObservedNode) -> Result<()> {
        Err(Error::Unsupported {
            what: format!("powering {} off", vm.name),
            backend: self.capabilities().name.into(),
        })
    }

    /// Assigns an existing VM to a platform, or to none, and marks the VM as not created by a
    /// platform.
    async fn set_owner(&self, vm: &ObservedNode, owner: Option<&Owner>) -> Result<()> {
        let _ = owner;
        Err(Error::Unsupported {
            what: format!("adopting {}", vm.name),
            backend: self.capabilities().name.into(),
        })
    }

    /// Makes exactly these ports of a VM reachable from outside, as
    /// [`CloudProvider::set_public_ports`](super::CloudProvider::set_public_ports) describes.
    /// [`delete`](Self::delete), and [`set_owner`](Self::set_owner) without an owner, close all
    /// ports. Must be implemented if the firewall is [`Managed`](super::Firewall::Managed).
    async fn set_public_ports(&self, vm: &ObservedNode, ports: &PublicPorts) -> Result<()> {
        let _ = ports;
        Err(Error::Unsupported {
            what: format!("opening ports of {}", vm.name),
            backend: self.capabilities().name.into(),
        })
    }

    /// Deletes the resources that the VMs of a platform share, such as a network. Called when no VM
    /// of the platform is left. Succeeds if there are no such resources.
    async fn delete_shared(&self, owner: &Owner) -> Result<()> {
        let _ = owner;
        Ok(())
    }
}
