//! The smaller trait for clouds: calls for VMs that return when the cloud has finished.

use std::fmt::Debug;

use async_trait::async_trait;

use super::{CloudCapabilities, ObservedNode, PreflightReport};
use crate::error::{Error, Result};
use crate::model::{NodeSpec, Owner, PlatformId};

/// A VM of an account, with the platform that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// The platform whose id is on the VM; `None` if it belongs to no platform.
    pub platform: Option<PlatformId>,
    pub node: ObservedNode,
}

/// The calls of a cloud account for its VMs. [`VmCloud`](super::VmCloud) implements
/// [`CloudProvider`](super::CloudProvider) with it: it decides what to do, tracks changes in
/// progress, and passes on only VMs of its own platform.
///
/// # Guarantees
/// - A change returns when the cloud has finished it: `list` then shows its result. During a
///   change, `list` shows [`Power::Starting`](super::Power::Starting) or
///   [`Power::Stopping`](super::Power::Stopping) if the cloud reports it, so that other processes
///   notice the change.
/// - `create` sets the platform's id and the node's name in the same request that creates the VM.
///   If the platform already has a VM with this name, `create` does not create a second one.
/// - Two platforms may each have a VM for a node of the same name.
/// - A call may be cancelled at any await point, or its process may end, and can be repeated.
///
/// # Errors
/// The same as those of [`CloudProvider`](super::CloudProvider). Deleting a missing VM is Ok.
#[async_trait]
pub trait VmApi: Debug + Send + Sync + 'static {
    /// Returns the capabilities of this cloud. If `fences` is set, [`power_off`](Self::power_off)
    /// must be implemented; if `adopts` is set, [`set_owner`](Self::set_owner) must be.
    fn capabilities(&self) -> CloudCapabilities;

    /// Checks within seconds, without changing anything, whether the nodes can be created.
    async fn preflight(&self, specs: &[NodeSpec]) -> Result<PreflightReport> {
        let _ = specs;
        Ok(PreflightReport::default())
    }

    /// Returns all VMs of the account, also those of other platforms and those that belong to no
    /// platform. The list is complete, or the call fails.
    async fn list(&self) -> Result<Vec<Vm>>;

    /// Creates and starts a VM for a node of a platform.
    async fn create(&self, spec: &NodeSpec, owner: &Owner) -> Result<()>;

    /// Starts a stopped VM.
    async fn start(&self, vm: &ObservedNode) -> Result<()>;

    /// Shuts a running VM down.
    async fn stop(&self, vm: &ObservedNode) -> Result<()>;

    /// Restarts a running VM.
    async fn restart(&self, vm: &ObservedNode) -> Result<()>;

    /// Deletes a VM with everything that was created for it.
    async fn delete(&self, vm: &ObservedNode) -> Result<()>;

    /// Powers a VM off in any state, without waiting for its operating system.
    async fn power_off(&self, vm: &ObservedNode) -> Result<()> {
        Err(Error::Unsupported {
            what: format!("powering {} off", vm.name),
            backend: self.capabilities().name.into(),
        })
    }

    /// Marks an existing VM as owned by a platform or by none, and as not created by a platform.
    async fn set_owner(&self, vm: &ObservedNode, owner: Option<&Owner>) -> Result<()> {
        let _ = owner;
        Err(Error::Unsupported {
            what: format!("adopting {}", vm.name),
            backend: self.capabilities().name.into(),
        })
    }

    /// Deletes the resources that the VMs of a platform share, such as a network. Called when no VM
    /// is left. Returns Ok if nothing exists.
    async fn delete_shared(&self, owner: &Owner) -> Result<()> {
        let _ = owner;
        Ok(())
    }
}
