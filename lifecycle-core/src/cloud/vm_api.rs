//! The smaller trait for clouds: calls for VMs that return when the cloud has finished.

use std::fmt::Debug;

use async_trait::async_trait;

use super::{CloudCapabilities, ObservedNode, PreflightReport};
use crate::error::{Error, Result};
use crate::model::{NodeSpec, Owner, PlatformId};

/// A VM of an account, with the platform that it is marked as belonging to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// The platform whose id is on the VM; `None` if it belongs to no platform.
    pub platform: Option<PlatformId>,
    /// How the VM is.
    pub node: ObservedNode,
}

/// The calls of a cloud account for its VMs. [`VmCloud`](super::VmCloud) makes a
/// [`CloudProvider`](super::CloudProvider) of it, which decides what is to be done, keeps track of
/// changes under way, and passes on only VMs of its own platform.
///
/// # Guarantees
/// - A change returns when the cloud has finished it: `list` then shows its result. While a change
///   is under way `list` shows [`Power::Starting`](super::Power::Starting) or
///   [`Power::Stopping`](super::Power::Stopping), if the cloud says so: that is how another process
///   learns of it.
/// - `create` puts the platform's id and the node's name on the VM in the same request that creates
///   it. If the platform has a VM of that name already, `create` does not make a second one.
/// - Two platforms may each have a VM for a node of the same name.
/// - A call may be dropped at any await point, or its process may end, and be made again.
///
/// # Errors
/// As those of [`CloudProvider`](super::CloudProvider). Deleting a VM that is gone is Ok.
#[async_trait]
pub trait VmApi: Debug + Send + Sync + 'static {
    /// What this cloud can do. With `fences`, [`power_off`](Self::power_off) is implemented; with
    /// `adopts`, [`set_owner`](Self::set_owner) is.
    fn capabilities(&self) -> CloudCapabilities;

    /// Checks in seconds, without changing anything, whether the nodes can be created.
    async fn preflight(&self, wanted: &[NodeSpec]) -> Result<PreflightReport> {
        let _ = wanted;
        Ok(PreflightReport::default())
    }

    /// All VMs of the account, those of other platforms and of none included. Complete, or an
    /// error.
    async fn list(&self) -> Result<Vec<Vm>>;

    /// Creates and starts a VM for a node of a platform.
    async fn create(&self, spec: &NodeSpec, owner: &Owner) -> Result<()>;

    /// Starts a stopped VM.
    async fn start(&self, vm: &ObservedNode) -> Result<()>;

    /// Shuts a running VM down.
    async fn stop(&self, vm: &ObservedNode) -> Result<()>;

    /// Restarts a running VM.
    async fn restart(&self, vm: &ObservedNode) -> Result<()>;

    /// Deletes a VM with all that was created for it.
    async fn delete(&self, vm: &ObservedNode) -> Result<()>;

    /// Cuts the power of a VM, whatever state it is in, without waiting for its operating system.
    async fn power_off(&self, vm: &ObservedNode) -> Result<()> {
        Err(Error::Unsupported {
            what: format!("powering {} off", vm.name),
            backend: self.capabilities().name.into(),
        })
    }

    /// Marks a VM that exists as a platform's, or as no platform's, and as not created by it.
    async fn set_owner(&self, vm: &ObservedNode, owner: Option<&Owner>) -> Result<()> {
        let _ = owner;
        Err(Error::Unsupported {
            what: format!("adopting {}", vm.name),
            backend: self.capabilities().name.into(),
        })
    }

    /// Deletes what the VMs of a platform share, such as a network. There are none left when this
    /// is called. Absent is Ok.
    async fn delete_shared(&self, owner: &Owner) -> Result<()> {
        let _ = owner;
        Ok(())
    }
}
