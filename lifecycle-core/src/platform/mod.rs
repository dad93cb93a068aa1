//! What the user declares: `platform.toml` and `compose.yaml`, read, checked and normalised
//! into one [`Declaration`].
//!
//! [`find`] says which files, [`load`] reads them. Text becomes a tree whose parts know their
//! places (`yaml`, `toml` → `tree`), variables are put in (`interpolation`, `environment`,
//! `environment_file`), several files and what they include and extend become one tree (`files`),
//! each key is read by what it means (`settings`, `database`, `compose`), what services say of
//! each other is checked (`validate`), and code bases are looked up (`load`, `dockerfile`). Everything wrong is found in one go and said with its line
//! ([`Diagnostics`]).

mod access;
mod azure;
mod compose;
mod database;
mod diagnostic;
mod dockerfile;
mod environment;
mod environment_file;
mod files;
mod interpolation;
mod load;
mod schema;
mod secret_reference;
mod settings;
mod sources;
mod starter;
mod text_file;
mod toml;
mod tree;
mod validate;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cloud::CloudDeadlines;
use crate::error::{Error, Result};
use crate::model::Kind;
use crate::model::{
    InstanceId, NodeName, NodeSpec, PlatformId, PlatformName, Replica, ServiceName, ServiceSpec,
    VolumeName,
};
use crate::network::{Block, DEFAULT_BLOCK};
use crate::secret::Sensitive;

pub use access::{Access, Credentials, access};
pub use azure::{AzureFilesSpec, AzureSpec, CodeStoreSpec, FilesSecret, JumpHostSpec, LoginSpec};
pub use diagnostic::{Diagnostic, Diagnostics, UnsupportedKey};
pub(crate) use dockerfile::instructions;
pub use load::{Loaded, Survey, load, survey};
pub use schema::schema;
pub use sources::{Sources, find};
pub use starter::{Starter, load_on_fewest_nodes};

use settings::Settings;

/// A whole platform as its manager is told: normalised, interpolated, secrets resolved.
///
/// Holds secrets in clear: it travels over TLS or SSH only, and the registry keeps it sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declaration {
    /// The platform's name.
    pub name: PlatformName,
    /// The platform's identity.
    pub id: PlatformId,
    /// The lifecycle manager.
    pub manager: ManagerSpec,
    /// Where nodes come from.
    pub cloud: CloudSpec,
    /// The nodes.
    pub nodes: BTreeMap<NodeName, NodeSpec>,
    /// The services.
    pub services: BTreeMap<ServiceName, ServiceSpec>,
    /// The named volumes.
    #[serde(default)]
    pub volumes: BTreeSet<VolumeName>,
    /// The service network.
    #[serde(default)]
    pub network: NetworkSpec,
    /// How long changes of nodes may take.
    #[serde(default)]
    pub deadlines: CloudDeadlines,
}

/// The service network: where addresses come from, and how long connections are held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// The block that service addresses come from.
    pub block: Block,
    /// How long a new connection waits for a ready endpoint.
    #[serde(with = "crate::model::service::seconds")]
    pub wait: Duration,
}

impl NetworkSpec {
    /// How long a new connection waits, where the declaration does not say.
    pub const WAIT: Duration = Duration::from_secs(30);
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self {
            block: DEFAULT_BLOCK,
            wait: Self::WAIT,
        }
    }
}

impl Declaration {
    /// The replica that `web-2` means, if it is declared.
    pub fn replica_named(&self, name: &str) -> Option<InstanceId> {
        let (service, replica) = name.rsplit_once('-')?;
        let replica: u16 = replica.parse().ok()?;
        let mut services = self.services.iter();
        let (service, spec) = services.find(|(known, _)| known.as_str() == service)?;
        (1..=spec.replicas).contains(&replica).then(|| InstanceId {
            service: service.clone(),
            replica: Replica(replica),
        })
    }
}

/// Where the lifecycle manager runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerSpec {
    /// Its node.
    pub node: NodeName,
    /// The port of its API on that node.
    pub port: u16,
}

impl ManagerSpec {
    /// The port of the manager's API, where the declaration does not say.
    pub const PORT: u16 = 7443;

    /// Rejects what a running manager's node and port cannot become: a second manager on another
    /// node would compete with it, and services received its address when they started.
    pub(crate) fn check_change(&self, declared: &Self) -> Result<()> {
        let refused = |what: &str, why: String, stays: &str| {
            Err(Error::Invalid {
                what: what.into(),
                why,
                hint: format!("leave it at {stays}, or take the platform down first"),
            })
        };
        if self.node != declared.node {
            let why = format!(
                "the manager runs on {}, and moving it to {} is not possible yet",
                self.node, declared.node
            );
            return refused("manager.node", why, self.node.as_str());
        }
        if self.port != declared.port {
            let why = format!(
                "the manager's API is at port {}, which services received when they started; \
                 changing it to {} is not possible yet",
                self.port, declared.port
            );
            return refused("manager.port", why, &self.port.to_string());
        }
        Ok(())
    }
}

/// Where nodes come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "provider")]
#[non_exhaustive]
pub enum CloudSpec {
    /// Containers on the operator's own engine that play VMs.
    Local {
        /// The network that the nodes share (IPv4 CIDR); picked without one.
        #[serde(default)]
        subnet: Option<String>,
    },
    /// VMs on Azure.
    Azure(Box<AzureSpec>),
}

impl CloudSpec {
    /// The host that nodes are reached through from outside.
    pub fn jump_host(&self) -> Option<&JumpHostSpec> {
        match self {
            Self::Local { .. } => None,
            Self::Azure(spec) => spec.jump_host.as_ref(),
        }
    }
}

impl Default for CloudSpec {
    fn default() -> Self {
        Self::Local { subnet: None }
    }
}

/// Where the registry lies. Not a part of the declaration that the registry keeps: the
/// bootstrapper hands it to the manager.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrySpec {
    /// The URL of the central database; a file in the manager's directory on its node, if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub central: Option<Sensitive>,
    /// The URLs of the databases of kinds; the central one serves for those without.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kinds: BTreeMap<Kind, Sensitive>,
}

impl RegistrySpec {
    /// Whether all of it is the file on the manager's node.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How services find the manager, where they ask for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerEndpoint {
    /// The manager's node.
    pub node: NodeName,
    /// Its private address.
    pub ip: IpAddr,
    /// The port of its API.
    pub port: u16,
}

impl ManagerEndpoint {
    /// The API's base URL.
    pub fn url(&self) -> String {
        format!("https://{}", std::net::SocketAddr::new(self.ip, self.port))
    }
}
