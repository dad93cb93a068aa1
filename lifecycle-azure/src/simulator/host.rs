//! The hosts behind VMs. By default there are none: a VM is only a state that changes after a
//! delay. A [`HostBackend`] can run a real host for each VM.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use async_trait::async_trait;
use lifecycle_core::secret::Sensitive;

/// The host to create.
#[derive(Debug, Clone)]
pub struct HostRequest {
    /// The VM's id, in lower case.
    pub vm: String,
    pub host_name: String,
    pub cores: u32,
    /// Its operating system: `debian`, `ubuntu`.
    pub system: String,
    pub admin: String,
    /// The public keys of that account, in OpenSSH form.
    pub ssh_keys: Vec<String>,
    /// The custom data for its first boot, in base64, as the client sent it.
    pub custom_data: Option<Sensitive>,
    /// The private address that Azure shows for it.
    pub private_address: Option<Ipv4Addr>,
    pub subnet: Option<HostSubnet>,
    /// The TCP ports that are open from outside its network: none without a public address, else
    /// those that the security groups of its subnet and its interface allow.
    pub inbound_ports: Vec<RangeInclusive<u16>>,
}

/// The subnet of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSubnet {
    /// Its id, in lower case.
    pub id: String,
    /// The first address of its block.
    pub address: Ipv4Addr,
    pub prefix_length: u8,
}

/// A change to a host, which is identified by its VM's id in lower case.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum HostChange {
    /// Create and start it.
    Create(HostRequest),
    /// Start it.
    Start { vm: String },
    /// Restart it.
    Restart { vm: String },
    /// Stop it and keep its resources.
    PowerOff {
        vm: String,
        /// Whether to stop it at once, without a shutdown of its operating system.
        skip_shutdown: bool,
    },
    /// Stop it and release its resources.
    Deallocate { vm: String },
    /// Delete it.
    Delete { vm: String },
}

/// Why a change failed: the error of the VM's operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFailure {
    /// Azure's code, such as `AllocationFailed`.
    pub code: String,
    pub message: String,
}

/// Runs the hosts behind VMs.
///
/// # Guarantees
/// A change returns when it is complete. Each change may be repeated, and deleting an absent host
/// is Ok.
///
/// # Caveats
/// A change in progress is dropped when a later operation replaces it, and when the simulator ends.
///
/// # Errors
/// The error of the VM's operation.
#[async_trait]
pub trait HostBackend: fmt::Debug + Send + Sync + 'static {
    /// Applies a change.
    async fn change(&self, change: HostChange) -> Result<(), HostFailure>;

    /// The address outside its network at which the host with a private address is reachable. The
    /// VM's public address then shows it. Without one, the VM keeps the simulator's unroutable
    /// address.
    fn public_address(&self, _private: Ipv4Addr) -> Option<Ipv4Addr> {
        None
    }
}

/// Runs no hosts: operations only take their configured delays.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHosts;

#[async_trait]
impl HostBackend for NoHosts {
    async fn change(&self, _: HostChange) -> Result<(), HostFailure> {
        Ok(())
    }
}
