//! Declared Azure settings: the account for nodes, and the share with code bases. Secrets are
//! separate, in [`Credentials`](super::Credentials).

use serde::{Deserialize, Serialize};

use super::hosts::HostsSpec;

/// An Azure account whose VMs are the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AzureSpec {
    pub subscription: String,
    /// The region, for example `westeurope`.
    pub location: String,
    /// The resource group; without it, the platform creates and deletes its own resource group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_group: Option<String>,
    /// The address block of the network (IPv4 CIDR).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// Sizes for nodes without a size: the first one that is available is used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<String>,
    /// Zones for nodes: the first one with capacity is used. If empty, Azure chooses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// The image for nodes without an image, as `publisher:offer:sku:version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The user account on new nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Addresses from which SSH is allowed; if empty, SSH is allowed from everywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_from: Vec<String>,
    /// Whether new nodes get a public address.
    #[serde(default = "yes")]
    pub public_ip: bool,
    /// The user-assigned identity to assign to the manager's VM, so that the manager can log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// How to log in.
    #[serde(default)]
    pub login: LoginSpec,
    /// The jump host for nodes without a public address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jump_host: Option<JumpHostSpec>,
    /// The endpoint of Resource Manager, if it is not the public one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The endpoint of Entra ID, if it is not the public one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// The CA certificate to trust instead of the public CAs, in PEM format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The nodes that exist already: VMs of the subscription, and machines elsewhere.
    #[serde(default, skip_serializing_if = "HostsSpec::is_empty")]
    pub hosts: HostsSpec,
}

fn yes() -> bool {
    true
}

impl AzureSpec {
    /// Creates the default settings for a subscription and a region.
    pub fn new(subscription: impl Into<String>, location: impl Into<String>) -> Self {
        Self {
            subscription: subscription.into(),
            location: location.into(),
            resource_group: None,
            subnet: None,
            sizes: Vec::new(),
            zones: Vec::new(),
            image: None,
            account: None,
            ssh_from: Vec::new(),
            public_ip: true,
            identity: None,
            login: LoginSpec::default(),
            jump_host: None,
            endpoint: None,
            authority: None,
            ca: None,
            hosts: HostsSpec::default(),
        }
    }

    /// Returns the login method of the manager on its VM: the bootstrapper's client secret, the
    /// declared `identity`, or the bootstrapper's managed identity, in this order. Returns `None`
    /// if the manager cannot log in.
    pub fn login_of_manager(&self) -> Option<LoginSpec> {
        let of_vm = self.identity.clone();
        match &self.login {
            LoginSpec::ClientSecret { .. } => Some(self.login.clone()),
            // The user must make sure that the manager's VM has this identity.
            LoginSpec::ManagedIdentity { .. } | LoginSpec::AssignedIdentity { .. }
                if of_vm.is_none() =>
            {
                Some(self.login.clone())
            }
            _ => of_vm.map(|id| LoginSpec::AssignedIdentity { id }),
        }
    }
}

/// A login method for Azure.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "method")]
pub enum LoginSpec {
    /// Tries the methods that need no settings, and uses the first one that works.
    #[default]
    InOrder,
    /// The session of `az login`.
    AzureCli,
    /// A managed identity of the current VM: the identity with this client id, or the VM's only
    /// identity if `client` is `None`.
    ManagedIdentity {
        /// The client id of the identity.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<String>,
    },
    /// A user-assigned identity of the current VM.
    AssignedIdentity {
        /// The resource id of the identity.
        id: String,
    },
    /// An application with a client secret. The secret itself is in the credentials.
    ClientSecret { tenant: String, client: String },
    /// A token that Kubernetes or GitHub provides in the environment.
    WorkloadIdentity,
}

/// An SSH host that is reachable from outside the platform's network and can reach the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JumpHostSpec {
    /// Host name or address.
    pub host: String,
    /// The port of the SSH server.
    pub port: u16,
    pub user: String,
    /// The public host key, in OpenSSH format.
    pub host_key: String,
}

/// Where code bases are stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "store")]
#[non_exhaustive]
pub enum CodeStoreSpec {
    /// Directories next to the Compose file; the bootstrapper sends them to the manager's node.
    #[default]
    Directory,
    /// A share of Azure Files, which the manager reads directly.
    AzureFiles(AzureFilesSpec),
}

impl CodeStoreSpec {
    /// Returns whether code bases are local directories.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A share of Azure Files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AzureFilesSpec {
    pub account: String,
    pub share: String,
    /// The directory of the share that contains the code bases; the root by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Whether the secret of the code store is a key or a signature.
    pub with: FilesSecret,
    /// The endpoint, if it is not the public one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The CA certificate to trust instead of the public CAs, in PEM format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// The type of secret for a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilesSecret {
    /// A key of the storage account.
    Key,
    /// A shared access signature.
    Sas,
}
