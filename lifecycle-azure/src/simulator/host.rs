//! Defines the hosts that run simulated VMs. By default, there are no hosts: a VM is only a state
//! that changes after a delay. A [`HostBackend`] can run a real host for each VM.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use async_trait::async_trait;
use lifecycle_core::secret::Sensitive;

/// Describes a host that must be created.
#[derive(Debug, Clone)]
pub struct HostRequest {
    /// The id of the host's VM, in lower case.
    pub vm: String,
    pub host_name: String,
    pub cores: u32,
    /// The operating system: `debian` or `ubuntu`.
    pub system: String,
    pub admin: String,
    /// The public keys that `admin` accepts, in OpenSSH format.
    pub ssh_keys: Vec<String>,
    /// The custom data for the first boot, in Base64, as the client sent it.
    pub custom_data: Option<Sensitive>,
    /// The private address that Azure shows for the VM.
    pub private_address: Option<Ipv4Addr>,
    pub subnet: Option<HostSubnet>,
    /// The TCP ports that are open from outside the network. Without a public address, no port is
    /// open. Otherwise, the open ports are those that the security groups of the subnet and the
    /// interface allow.
    pub inbound_ports: Vec<RangeInclusive<u16>>,
}

/// The subnet of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSubnet {
    /// The subnet's id, in lower case.
    pub id: String,
    /// The first address of the subnet's block.
    pub address: Ipv4Addr,
    pub prefix_length: u8,
}

/// A change to a host. The id of the host's VM, in lower case, identifies the host.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum HostChange {
    /// Create and start the host.
    Create(HostRequest),
    /// Start the host.
    Start { vm: String },
    /// Restart the host.
    Restart { vm: String },
    /// Stop the host and keep its resources.
    PowerOff {
        vm: String,
        /// Whether to stop the host immediately, without a shutdown of its operating system.
        skip_shutdown: bool,
    },
    /// Stop the host and release its resources.
    Deallocate { vm: String },
    /// Open exactly these TCP ports of the host to traffic from outside, as in
    /// [`HostRequest::inbound_ports`]. The ports also stay open when the host restarts.
    SetInbound {
        vm: String,
        ports: Vec<RangeInclusive<u16>>,
    },
    /// Delete the host.
    Delete { vm: String },
}

/// The reason why a change failed, which becomes the error of the VM's operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFailure {
    /// Azure's code, such as `AllocationFailed`.
    pub code: String,
    pub message: String,
}

/// Runs a host for each simulated VM.
///
/// # Guarantees
/// A change returns when it is complete. Every change can be repeated, and deleting an absent host
/// succeeds.
///
/// # Caveats
/// A change in progress is dropped when a later operation replaces it or the simulator stops.
///
/// # Errors
/// A [`HostFailure`] becomes the error of the VM's operation.
#[async_trait]
pub trait HostBackend: fmt::Debug + Send + Sync + 'static {
    /// Applies a change.
    async fn change(&self, change: HostChange) -> Result<(), HostFailure>;

    /// Returns the address at which a host can be reached from outside its network. `private` is
    /// the host's private address. The simulator reports the returned address as the VM's public
    /// address. With `None`, the VM keeps its public address, which is not routable.
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
