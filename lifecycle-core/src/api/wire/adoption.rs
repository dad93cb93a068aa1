//! Machines that are adopted as nodes at run time, in requests and responses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::AppliedV1;
use crate::cloud::{MachineLogin, MachineSpec};
use crate::error::Result;
use crate::manager::Adopted;
use crate::model::{NodeName, NodeSpec};
use crate::platform::read_machine;
use crate::secret::Sensitive;

/// The body of `POST /v1/machines`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NewMachineV1 {
    /// The name of the new node.
    pub name: NodeName,
    /// The IP address or host name at which the manager reaches the machine, unless there is a private
    /// address.
    pub address: String,
    /// The address at which the manager and the other nodes reach the machine; by default `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_address: Option<IpAddr>,
    /// The port of the SSH server; by default 22.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 65_535)))]
    pub port: Option<u16>,
    /// The account for the first login. It must be root, or be allowed to use sudo.
    pub user: String,
    /// The account's password, for the login if there is no key, and for sudo. It is used once, and not
    /// stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Sensitive>,
    /// A private key in OpenSSH format, without a passphrase. It is used once, and not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Sensitive>,
    /// The public host key of the machine in OpenSSH format. Without it, the key that the machine offers
    /// is trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_key: Option<String>,
    /// The labels of the node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// The response to `POST /v1/machines`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AdoptedV1 {
    #[serde(flatten)]
    pub applied: AppliedV1,
    /// The pinned public host keys of the machine, in OpenSSH format.
    pub host_keys: Vec<String>,
}

impl NewMachineV1 {
    /// Creates a request without a login, which is sufficient if the machine belongs to the platform
    /// already.
    pub fn new(name: NodeName, address: String, user: String) -> Self {
        Self {
            name,
            address,
            private_address: None,
            port: None,
            user,
            password: None,
            key: None,
            host_key: None,
            labels: BTreeMap::new(),
        }
    }

    /// Returns the requested node, its machine, and how to log in.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if a value has an invalid format
    pub(crate) fn parts(&self) -> Result<(NodeSpec, MachineSpec, MachineLogin)> {
        let machine = read_machine(
            &self.name,
            &self.address,
            self.private_address,
            self.port,
            &self.user,
            self.host_key.as_deref(),
        )?;
        let spec = NodeSpec {
            labels: self.labels.clone(),
            ..NodeSpec::new(self.name.clone())
        };
        let login = MachineLogin {
            password: self.password.clone(),
            key: self.key.clone(),
        };
        Ok((spec, machine, login))
    }
}

impl From<Adopted> for AdoptedV1 {
    fn from(adopted: Adopted) -> Self {
        Self {
            applied: adopted.applied.into(),
            host_keys: adopted.host_keys,
        }
    }
}
