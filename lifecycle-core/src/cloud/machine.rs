//! Machines that exist already and are adopted at run time.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::secret::Sensitive;

/// A machine that is reached by address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    /// The IP address or host name of the machine.
    pub address: String,
    /// The address at which the other nodes reach the machine; by default `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_address: Option<IpAddr>,
    /// The port of the SSH server.
    pub port: u16,
    /// The account for the first login. It must be root, or be allowed to use sudo.
    pub user: String,
    /// The public host keys in OpenSSH format: the requested one, or the one that the first connection
    /// found. Empty before the first connection, if none was requested.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_keys: Vec<String>,
}

impl MachineSpec {
    /// Returns whether two specifications mean the same machine.
    pub fn is_at(&self, other: &Self) -> bool {
        // The DNS ignores the case of names.
        self.port == other.port && self.address.eq_ignore_ascii_case(&other.address)
    }

    /// Returns the machine with the host keys of `known`, unless it has some.
    #[must_use]
    pub fn pinned_as(mut self, known: &Self) -> Self {
        if self.host_keys.is_empty() {
            self.host_keys.clone_from(&known.host_keys);
        }
        self
    }
}

/// How the first login to a machine authenticates. It is used once, and never stored.
#[derive(Debug, Clone, Default)]
pub struct MachineLogin {
    /// The account's password, for the login if there is no key, and for sudo.
    pub password: Option<Sensitive>,
    /// A private key in OpenSSH format, without a passphrase.
    pub key: Option<Sensitive>,
}

/// A machine that was adopted at run time, as far as the manager has recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptedMachine {
    pub machine: MachineSpec,
    pub state: AdoptionState,
}

/// Whether an adopted machine belongs to the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdoptionState {
    /// The machine is a node, also while it does not respond.
    Node,
    /// The machine is no longer declared. It remains a node until it is released, also while it does
    /// not respond.
    Leaving,
    /// The machine is not declared, and may have been taken over. It is a node only if it reports that it
    /// belongs to this platform.
    Unclear,
}
