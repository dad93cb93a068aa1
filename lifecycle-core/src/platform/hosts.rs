//! Declared hosts: machines that exist already. Passwords and keys are separate, in
//! [`Credentials`](super::Credentials).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::settings::hosts::machine;
use crate::cloud::{MachineSpec, ObservedNode};
use crate::error::{Error, Result};
use crate::model::{Existing, NodeName};

/// Machines that exist already, by the names of their nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostsSpec {
    pub hosts: BTreeMap<NodeName, HostSpec>,
}

/// How a machine that exists already is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HostPlace {
    /// At an address.
    Address {
        /// The IP address or host name at which the bootstrapper reaches the machine.
        address: String,
        /// The address at which the other nodes reach the machine; by default `address`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        private_address: Option<IpAddr>,
    },
    /// As a VM of the cloud, which reports its addresses.
    Vm {
        /// The cloud's name of the VM.
        vm: String,
    },
}

/// A machine that exists already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSpec {
    #[serde(flatten)]
    pub place: HostPlace,
    /// The port of the SSH server.
    pub port: u16,
    /// The account for the first login. It must be root, or be allowed to use sudo.
    pub user: String,
    /// The public host keys in OpenSSH format: the declared one, or those that the first connection
    /// found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_keys: Vec<String>,
    #[serde(default)]
    pub membership: Membership,
    /// The cloud's id of the VM that the platform has taken over. Another VM with the same name is
    /// another machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Whether a host belongs to the platform, as far as the files and the previous `up` show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Membership {
    /// The platform has not taken the host over yet.
    #[default]
    New,
    /// The platform has taken the host over.
    Member,
    /// The host is no longer declared, and is released when nothing of the platform is left on it.
    Removed,
}

/// Reads a machine that is to be adopted at run time. `address` is an IP address or a host name. Without
/// `port`, the machine's SSH server has the default port.
///
/// # Errors
/// [`Error::Invalid`] if a value has an invalid format
pub fn read_machine(
    node: &NodeName,
    address: &str,
    private_address: Option<IpAddr>,
    port: Option<u16>,
    user: &str,
    host_key: Option<&str>,
) -> Result<MachineSpec> {
    let machine = machine(address, private_address, port, user, host_key);
    machine.map_err(|why| {
        let hint = "specify an address such as `203.0.113.7`, and an account such as `admin`";
        Error::invalid(format!("the machine of node {node}"), why, hint)
    })
}

impl HostSpec {
    /// Returns the address or the name of the machine, for messages.
    pub fn name(&self) -> &str {
        match &self.place {
            HostPlace::Address { address, .. } => address,
            HostPlace::Vm { vm } => vm,
        }
    }

    /// Returns whether the machine is a VM that the platform may have marked, but has not taken over.
    pub fn is_new_vm(&self) -> bool {
        self.existing() == Existing::Vm && self.id.is_none()
    }

    /// Returns what kind of node the machine is.
    pub fn existing(&self) -> Existing {
        match self.place {
            HostPlace::Address { .. } => Existing::Host,
            HostPlace::Vm { .. } => Existing::Vm,
        }
    }

    /// Returns whether two specifications mean the same machine.
    pub(super) fn is_at(&self, other: &Self) -> bool {
        // Azure and the DNS ignore the case of names.
        let has_same_name = self.name().eq_ignore_ascii_case(other.name());
        let is_vm = self.existing() == Existing::Vm;
        has_same_name && self.existing() == other.existing() && (is_vm || self.port == other.port)
    }

    /// Returns whether this certainly is another machine. A machine that is reached by address may
    /// get another address.
    fn is_other_machine(&self, other: &Self) -> bool {
        let is_vm = self.existing() == Existing::Vm;
        self.existing() != other.existing() || is_vm && !self.is_at(other)
    }
}

impl From<&MachineSpec> for HostSpec {
    /// Returns the machine as it is declared in the files.
    fn from(machine: &MachineSpec) -> Self {
        Self {
            place: HostPlace::Address {
                address: machine.address.clone(),
                private_address: machine.private_address,
            },
            port: machine.port,
            user: machine.user.clone(),
            host_keys: machine.host_keys.clone(),
            membership: Membership::New,
            id: None,
        }
    }
}

impl HostsSpec {
    /// Returns whether there are no machines.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Returns the names of the VMs, by the names of their nodes.
    pub fn vms(&self) -> impl Iterator<Item = (&NodeName, &str)> {
        self.hosts
            .iter()
            .filter_map(|(node, host)| match &host.place {
                HostPlace::Vm { vm } => Some((node, vm.as_str())),
                HostPlace::Address { .. } => None,
            })
    }

    /// Continues from the hosts of the previous `up`: the host keys that it found remain pinned, and
    /// the hosts that are no longer declared, or replaced by another machine, remain known until they
    /// are released. If the address of a host changed, its host key must be the same, so that another
    /// machine is rejected.
    pub(super) fn continue_from(&mut self, previous: &Self) {
        for (name, before) in &previous.hosts {
            let membership = match before.membership {
                Membership::New => Membership::New,
                Membership::Member | Membership::Removed => Membership::Member,
            };
            let is_released = before.membership == Membership::New;
            let host = self.hosts.get_mut(name);
            let Some(host) = host.filter(|host| is_released || !host.is_other_machine(before))
            else {
                let removed = HostSpec {
                    membership: Membership::Removed,
                    ..before.clone()
                };
                self.hosts.insert(name.clone(), removed);
                continue;
            };
            host.membership = membership;
            host.id.clone_from(&before.id);
            let has_moved = !host.is_at(before);
            if host.host_keys.is_empty() || has_moved && membership == Membership::Member {
                host.host_keys.clone_from(&before.host_keys);
            }
        }
    }

    /// Records that the platform has taken a host over, and pins the host's keys.
    pub(super) fn join(&mut self, machine: &ObservedNode) {
        if let Some(host) = self.hosts.get_mut(&machine.name)
            && host.membership != Membership::Removed
            && !machine.ssh.host_keys.is_empty()
        {
            host.membership = Membership::Member;
            host.id = (host.existing() == Existing::Vm).then(|| machine.provider_id.clone());
            host.host_keys.clone_from(&machine.ssh.host_keys);
        }
    }

    /// Records that a host is about to be released.
    pub(super) fn leave(&mut self, node: &NodeName) {
        if let Some(host) = self.hosts.get_mut(node) {
            host.membership = Membership::Removed;
        }
    }

    /// Forgets a host that was released.
    pub(super) fn forget(&mut self, node: &NodeName) {
        self.hosts.remove(node);
    }
}
