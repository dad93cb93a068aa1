//! What is declared of Azure: an account that nodes come from, a share that holds code bases.
//! Secrets are kept apart, in [`Credentials`](super::Credentials).

use serde::{Deserialize, Serialize};

/// An account on Azure whose VMs are the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AzureSpec {
    /// The subscription's id.
    pub subscription: String,
    /// The region, as `westeurope`.
    pub location: String,
    /// The resource group; without one, one of the platform's own that is made and removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_group: Option<String>,
    /// The network's block (IPv4 CIDR).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// The sizes of nodes that name none: the first that can be had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<String>,
    /// The zones that nodes may be in: the first that has room. None: wherever Azure puts them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// What nodes boot that name nothing, as `publisher:offer:sku:version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The account on each new node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// From where SSH is allowed; from everywhere without any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_from: Vec<String>,
    /// Whether new nodes get a public address.
    #[serde(default = "yes")]
    pub public_ip: bool,
    /// The user-assigned identity that the manager's VM gets and the manager logs in with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// How to log in.
    #[serde(default)]
    pub login: LoginSpec,
    /// Through what nodes without a public address are reached from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jump_host: Option<JumpHostSpec>,
    /// Resource Manager's address, if it is not the public one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Entra's address, if it is not the public one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// The certificate, in PEM, of the only authority to trust; the public ones without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

fn yes() -> bool {
    true
}

impl AzureSpec {
    /// The defaults for a subscription and a region.
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
        }
    }

    /// How the manager logs in, from its VM: as the bootstrapper does where that can be handed
    /// over, else with the identity that its VM is given. `None` if there is no way.
    pub fn login_of_manager(&self) -> Option<LoginSpec> {
        let of_vm = self.identity.clone();
        match &self.login {
            LoginSpec::ClientSecret { .. } => Some(self.login.clone()),
            // Which VM has an identity that is not given here is the user's care.
            LoginSpec::ManagedIdentity { .. } | LoginSpec::AssignedIdentity { .. }
                if of_vm.is_none() =>
            {
                Some(self.login.clone())
            }
            _ => of_vm.map(|id| LoginSpec::AssignedIdentity { id }),
        }
    }
}

/// A way to log in to Azure.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "method")]
pub enum LoginSpec {
    /// The first that works of those that need nothing declared.
    #[default]
    InOrder,
    /// What `az login` keeps.
    AzureCli,
    /// The identity of the VM that this runs on: the only one that it has, unless one is named.
    ManagedIdentity {
        /// Its client id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<String>,
    },
    /// A user-assigned identity of the VM that this runs on.
    AssignedIdentity {
        /// Its resource id.
        id: String,
    },
    /// An application with a secret, which is the cloud's among the credentials.
    ClientSecret {
        /// The tenant's id.
        tenant: String,
        /// The application's client id.
        client: String,
    },
    /// A token that Kubernetes or GitHub puts into the environment.
    WorkloadIdentity,
}

/// A host with SSH that is reached from outside, and reaches the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JumpHostSpec {
    /// Its name or address.
    pub host: String,
    /// The port of its SSH server.
    pub port: u16,
    /// The account there.
    pub user: String,
    /// Its public key, in OpenSSH form.
    pub host_key: String,
}

/// Where code bases are read from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "store")]
#[non_exhaustive]
pub enum CodeStoreSpec {
    /// Directories beside the Compose file; the bootstrapper sends them to the manager's node.
    #[default]
    Directory,
    /// A share of Azure Files, which the manager reads by itself.
    AzureFiles(AzureFilesSpec),
}

impl CodeStoreSpec {
    /// Whether the manager has none of its own to read from.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A share of Azure Files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AzureFilesSpec {
    /// The storage account.
    pub account: String,
    /// The share.
    pub share: String,
    /// The directory of the share that holds the code bases; all of it without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Whether the code store's secret is a key or a signature.
    pub with: FilesSecret,
    /// Where the service answers, if not where the public one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The certificate, in PEM, of the only authority to trust; the public ones without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// What kind of secret opens a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilesSecret {
    /// A key of the storage account.
    Key,
    /// A shared access signature.
    Sas,
}
