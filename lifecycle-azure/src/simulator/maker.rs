//! Who makes the machines behind VMs. By default nobody does: a VM is but a state that changes
//! after a while. Something else may have real hosts made, and these play the VMs.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use async_trait::async_trait;
use lifecycle_core::secret::Sensitive;

/// What a machine is to be.
#[derive(Debug, Clone)]
pub struct MachineOrder {
    /// The VM's id, in lower case.
    pub machine: String,
    /// The name that the machine is to give itself.
    pub host_name: String,
    /// How many cores it is to have.
    pub cores: u32,
    /// Its operating system: `debian`, `ubuntu`.
    pub system: String,
    /// The account to be made on it.
    pub admin: String,
    /// The public keys of that account, as OpenSSH writes them.
    pub ssh_keys: Vec<String>,
    /// What is given to its first boot, in base64, as the client sent it.
    pub custom_data: Option<Sensitive>,
    /// The address that Azure shows for it in its network.
    pub private_address: Option<Ipv4Addr>,
    /// The subnet that it is in.
    pub subnet: Option<MachineSubnet>,
    /// The TCP ports that are open from outside its network: none without a public address, else
    /// those that the security groups of its subnet and its interface let through.
    pub inbound_ports: Vec<RangeInclusive<u16>>,
}

/// The subnet of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSubnet {
    /// Its id, in lower case.
    pub id: String,
    /// The first address of its block.
    pub address: Ipv4Addr,
    /// How many bits of an address its machines share.
    pub prefix_length: u8,
}

/// What is to happen to a machine, which is named by its VM's id in lower case.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum MachineChange {
    /// It is to be made, and to run.
    Make(MachineOrder),
    /// It is to run.
    Start {
        /// Which.
        machine: String,
    },
    /// It is to boot again.
    Restart {
        /// Which.
        machine: String,
    },
    /// It is to be off, and to keep its place.
    PowerOff {
        /// Which.
        machine: String,
        /// At once, without a word to its system.
        skip_shutdown: bool,
    },
    /// It is to be off.
    Deallocate {
        /// Which.
        machine: String,
    },
    /// It is to be gone.
    Delete {
        /// Which.
        machine: String,
    },
}

/// Why a change did not happen: what the VM's operation ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineFailure {
    /// Azure's code, such as `AllocationFailed`.
    pub code: String,
    /// What happened.
    pub message: String,
}

/// Makes machines.
///
/// # Guarantees
/// A change returns when it has happened. Each may be asked for again, and deleting a machine that
/// is not there is fine.
///
/// # Caveats
/// A change under way is dropped when a later operation takes its place, and when the simulator
/// ends.
///
/// # Errors
/// What the VM's operation is to end with.
#[async_trait]
pub trait MachineMaker: fmt::Debug + Send + Sync + 'static {
    /// Carries out a change.
    async fn change(&self, change: MachineChange) -> Result<(), MachineFailure>;

    /// Where the machine at a private address is reached from outside, which its public address
    /// then shows. Without one it keeps what the simulator gave it, which leads nowhere.
    fn public_address(&self, _private: Ipv4Addr) -> Option<Ipv4Addr> {
        None
    }
}

/// Makes nothing: the operations' delays are all there is.
#[derive(Debug, Clone, Copy, Default)]
pub struct StatesOnly;

#[async_trait]
impl MachineMaker for StatesOnly {
    async fn change(&self, _: MachineChange) -> Result<(), MachineFailure> {
        Ok(())
    }
}
