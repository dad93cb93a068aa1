//! Runs hosts as nodes of another cloud. Each change to a VM is applied to the node that represents
//! the VM's host.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lifecycle_core::cloud::{CloudProvider, NodeChange, carry_out};
use lifecycle_core::model::NodeSpec;
use lifecycle_core::{Error, Result};

use super::host::{HostBackend, HostChange, HostFailure, HostRequest};

/// Time limit for a change. Long, because the image for the first host may have to be built.
const LIMIT: Duration = Duration::from_mins(30);

/// Chooses the cloud for each host. Hosts differ in their accounts and first boots, so each host
/// may need a different provider.
#[async_trait]
pub trait HostClouds: fmt::Debug + Send + Sync + 'static {
    /// Returns the cloud and the node for a host. Must always return the same placement for the
    /// same request.
    ///
    /// # Errors
    /// Returns an error if no cloud can run such a host.
    fn placement(&self, request: &HostRequest) -> Result<HostPlacement>;

    /// Returns the address at which a host can be reached from outside its network. `private` is
    /// the host's private address.
    fn public_address(&self, private: Ipv4Addr) -> Option<Ipv4Addr>;

    /// Opens exactly these TCP ports of a VM's host to traffic from outside its network, also after
    /// a restart of the host. The first ports are part of the request that creates the host.
    ///
    /// # Errors
    /// Returns an error if the host's firewall cannot be changed.
    async fn set_inbound(&self, vm: &str, ports: &[RangeInclusive<u16>]) -> Result<()>;
}

/// The cloud of a host, and the host's node in that cloud.
#[derive(Debug, Clone)]
pub struct HostPlacement {
    /// The cloud that creates the host.
    pub cloud: Arc<dyn CloudProvider>,
    /// The host's node in that cloud.
    pub node: NodeSpec,
}

/// Creates hosts as nodes of other clouds.
#[derive(Debug)]
pub struct CloudHosts {
    clouds: Arc<dyn HostClouds>,
    placements: Mutex<BTreeMap<String, HostPlacement>>,
    /// Read-locked while a host is being created. Shared resources are removed under the write
    /// lock, and therefore never while a host is being created.
    creating: tokio::sync::RwLock<()>,
}

impl CloudHosts {
    /// Creates a backend. `clouds` chooses the cloud of each host.
    pub fn new(clouds: Arc<dyn HostClouds>) -> Self {
        Self {
            clouds,
            placements: Mutex::default(),
            creating: tokio::sync::RwLock::default(),
        }
    }

    fn placements(&self) -> MutexGuard<'_, BTreeMap<String, HostPlacement>> {
        self.placements
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn placement(&self, vm: &str) -> Result<HostPlacement> {
        let found = self.placements().get(vm).cloned();
        found.ok_or_else(|| Error::not_found(format!("the simulated machine of VM {vm}")))
    }

    async fn carry_out(&self, change: HostChange) -> Result<()> {
        match change {
            HostChange::Create(request) => self.create_host(&request).await,
            HostChange::Start { vm } => self.start(&self.placement(&vm)?).await,
            HostChange::Restart { vm } => self.restart(&self.placement(&vm)?).await,
            HostChange::PowerOff {
                vm,
                skip_shutdown: true,
            } => {
                let placement = self.placement(&vm)?;
                placement.cloud.fence(&placement.node.name).await.map(drop)
            }
            HostChange::PowerOff { vm, .. } | HostChange::Deallocate { vm } => {
                let placement = self.placement(&vm)?;
                let node = placement.node.name.clone();
                carry_out(placement.cloud.as_ref(), NodeChange::Stop { node }, LIMIT).await
            }
            HostChange::SetInbound { vm, ports } => {
                self.placement(&vm)?;
                self.clouds.set_inbound(&vm, &ports).await
            }
            HostChange::Delete { vm } => self.delete(&vm).await,
        }
    }

    async fn create_host(&self, request: &HostRequest) -> Result<()> {
        let placement = self.clouds.placement(request)?;
        // Record the placement before creating the host, so that the host is deleted with its VM
        // even if the creation is interrupted.
        self.placements()
            .insert(request.vm.clone(), placement.clone());
        let _guard = self.creating.read().await;
        let spec = placement.node.clone();
        carry_out(
            placement.cloud.as_ref(),
            NodeChange::Provision { spec },
            LIMIT,
        )
        .await?;
        // If an earlier, interrupted call created the host, the host may have been stopped since
        // then.
        self.start(&placement).await
    }

    async fn start(&self, placement: &HostPlacement) -> Result<()> {
        let node = placement.node.name.clone();
        carry_out(placement.cloud.as_ref(), NodeChange::Start { node }, LIMIT).await
    }

    async fn restart(&self, placement: &HostPlacement) -> Result<()> {
        let node = placement.node.name.clone();
        let seen = placement.cloud.get(&node).await?;
        match seen.and_then(|seen| seen.boot_id) {
            Some(boot_id) => {
                let change = NodeChange::Restart { node, boot_id };
                carry_out(placement.cloud.as_ref(), change, LIMIT).await
            }
            None => self.start(placement).await,
        }
    }

    async fn delete(&self, vm: &str) -> Result<()> {
        let Some(placement) = self.placements().get(vm).cloned() else {
            return Ok(());
        };
        let node = placement.node.name.clone();
        carry_out(placement.cloud.as_ref(), NodeChange::Delete { node }, LIMIT).await?;
        self.placements().remove(vm);
        // Remove the shared resources only with the last host. A host that is being created also
        // needs these resources.
        let Ok(_guard) = self.creating.try_write() else {
            return Ok(());
        };
        match placement.cloud.delete_shared().await {
            Err(Error::Conflict { .. }) => Ok(()),
            other => other,
        }
    }
}

#[async_trait]
impl HostBackend for CloudHosts {
    async fn change(&self, change: HostChange) -> Result<(), HostFailure> {
        self.carry_out(change).await.map_err(|error| {
            tracing::warn!(error = error.chain(), "a host could not be changed");
            HostFailure::from(&error)
        })
    }

    fn public_address(&self, private: Ipv4Addr) -> Option<Ipv4Addr> {
        self.clouds.public_address(private)
    }
}

impl From<&Error> for HostFailure {
    fn from(error: &Error) -> Self {
        let code = match error {
            Error::Exhausted { .. } => "AllocationFailed",
            Error::Invalid { .. } => "InvalidParameter",
            Error::TimedOut { .. } => "OSProvisioningTimedOut",
            _ => "InternalOperationError",
        };
        let hint = error.hint().map(|hint| format!(" ({hint})"));
        Self {
            code: code.to_owned(),
            message: format!("{}{}", error.chain(), hint.unwrap_or_default()),
        }
    }
}
