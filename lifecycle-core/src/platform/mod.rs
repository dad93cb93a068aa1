//! Reads the user's files, `platform.toml` and `compose.yaml`, and turns them into a checked and
//! normalized [`Declaration`].
//!
//! [`find`] selects the files. [`load`] reads them in these steps:
//!
//! 1. Parse each file to a tree with source positions (`yaml`, `toml`, `tree`).
//! 2. Replace variables (`interpolation`, `environment`, `environment_file`).
//! 3. Combine all Compose files, with their `include` and `extends`, into one tree (`files`).
//! 4. Interpret each key (`settings`, `database`, `compose`).
//! 5. Check services against each other and against the nodes (`validate`).
//! 6. Read the code bases (`load`, `dockerfile`).
//!
//! All problems are reported together, each with its line ([`Diagnostics`]).

mod access;
mod applied;
mod azure;
mod compose;
mod confined;
mod copies;
mod database;
mod diagnostic;
mod dockerfile;
mod environment;
mod environment_file;
mod files;
mod home;
mod hosts;
mod interpolation;
mod load;
mod overrides;
mod revisions;
mod scalar;
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
mod yaml_edit;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cloud::{CloudDeadlines, ObservedNode};
use crate::error::{Error, Result};
use crate::model::Kind;
use crate::model::{
    ChunkDigest, DependencyCondition, ImageSource, InstanceId, NodeName, NodeSpec, PlatformId,
    PlatformName, Replica, ServiceName, ServiceSpec, VolumeName,
};
use crate::network::{Block, DEFAULT_BLOCK};
use crate::runtime::ImageRegistry;
use crate::secret::Sensitive;

pub use access::{Access, Credentials, NodeLogin, access};
pub use applied::read_service;
pub use azure::{AzureFilesSpec, AzureSpec, CodeStoreSpec, FilesSecret, JumpHostSpec, LoginSpec};
pub use copies::{MissingCopy, missing_copies};
pub use diagnostic::{Diagnostic, Diagnostics, UnsupportedKey};
pub(crate) use dockerfile::instructions;
pub use hosts::{HostPlace, HostSpec, HostsSpec, Membership, read_machine};
pub use load::{Loaded, Survey, load, survey};
pub use overrides::{
    AddedText, Export, Exportable, ExportedFile, ExportedNode, LeftOverride, Override,
    OverrideChange, OverrideKind, Overrides, Requested, Scaling, export,
};
pub use revisions::{
    Difference, DifferenceKind, Part, Restored, RestoredSecrets, Revision, RevisionNote,
    SecretPlace, SecretValue,
};
pub use schema::schema;
pub use sources::{Sources, find};
pub use starter::{Starter, load_on_fewest_nodes};

use settings::Settings;

/// The declaration of a whole platform, as the manager receives it. Its values are normalized, and
/// variables and secrets are resolved.
///
/// A declaration contains secrets in clear text. It is sent only over TLS or SSH, and is encrypted
/// in the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declaration {
    pub name: PlatformName,
    pub id: PlatformId,
    pub manager: ManagerSpec,
    pub cloud: CloudSpec,
    pub nodes: BTreeMap<NodeName, NodeSpec>,
    pub services: BTreeMap<ServiceName, ServiceSpec>,
    #[serde(default)]
    pub volumes: BTreeSet<VolumeName>,
    #[serde(default)]
    pub network: NetworkSpec,
    /// How long changes of nodes may take.
    #[serde(default)]
    pub deadlines: CloudDeadlines,
    /// The changes that were requested at run time, and that are part of this declaration.
    #[serde(default, skip_serializing_if = "Overrides::is_empty")]
    pub overrides: Overrides,
}

/// Settings of the service network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// The block of service addresses.
    pub block: Block,
    /// How long a new connection waits for a ready endpoint.
    #[serde(with = "crate::model::service::seconds")]
    pub wait: Duration,
}

impl NetworkSpec {
    /// The default of `wait`.
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
    /// Returns the registries of the images that the services run, and of the base images of those
    /// that are built.
    pub fn image_registries(&self) -> BTreeSet<ImageRegistry> {
        let images = self.services.values().flat_map(|spec| match &spec.source {
            ImageSource::Image(image) => std::slice::from_ref(image),
            ImageSource::Build(source) => source.bases.as_slice(),
        });
        images.map(|image| ImageRegistry::of(image)).collect()
    }

    /// Returns the digests of the chunks that contain the mounted files.
    pub fn chunks(&self) -> BTreeSet<ChunkDigest> {
        let services = self.services.values();
        let mounts = services.flat_map(|spec| &spec.container.files);
        mounts.flat_map(|mount| &mount.chunks).copied().collect()
    }

    /// Returns the services whose completion other services wait for.
    pub(crate) fn awaited_completions(&self) -> BTreeSet<&ServiceName> {
        let services = self.services.values();
        let dependencies = services.flat_map(|service| &service.depends_on);
        dependencies
            .filter(|(_, c)| **c == DependencyCondition::ServiceCompletedSuccessfully)
            .map(|(name, _)| name)
            .collect()
    }

    /// Returns the declared replica with this name, for example `web-2`.
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
    pub node: NodeName,
    /// The port of the manager's API on that node.
    pub port: u16,
}

impl ManagerSpec {
    /// The default port of the manager's API.
    pub const PORT: u16 = 7443;

    /// Rejects a change of the node or the port, because running services use the manager's old
    /// address.
    pub(crate) fn check_change(&self, declared: &Self) -> Result<()> {
        let refused = |what: &str, why: String, stays: &str| {
            Err(Error::Invalid {
                what: what.into(),
                why,
                hint: format!(
                    "set {what} back to {stays}, or remove the platform with `bootstrapper \
                               down` first"
                ),
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
                "running services use the manager's API at port {}, and changing the port to {} is \
                 not possible yet",
                self.port, declared.port
            );
            return refused("manager.port", why, &self.port.to_string());
        }
        Ok(())
    }
}

/// The provider of nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "provider")]
#[non_exhaustive]
pub enum CloudSpec {
    /// Containers on the local engine that behave like VMs.
    Local {
        /// The network of the nodes (IPv4 CIDR); a free one is chosen by default.
        #[serde(default)]
        subnet: Option<String>,
    },
    Azure(Box<AzureSpec>),
    /// Machines that exist already and are reached by address.
    Hosts(HostsSpec),
}

impl CloudSpec {
    /// Returns the jump host for the nodes, if one is declared.
    pub fn jump_host(&self) -> Option<&JumpHostSpec> {
        match self {
            Self::Local { .. } | Self::Hosts(_) => None,
            Self::Azure(spec) => spec.jump_host.as_ref(),
        }
    }

    /// Returns the nodes that exist already, including those that are no longer declared.
    pub fn hosts(&self) -> Option<&HostsSpec> {
        match self {
            Self::Hosts(spec) => Some(spec),
            Self::Azure(spec) => Some(&spec.hosts),
            Self::Local { .. } => None,
        }
    }

    fn hosts_mut(&mut self) -> Option<&mut HostsSpec> {
        match self {
            Self::Hosts(spec) => Some(spec),
            Self::Azure(spec) => Some(&mut spec.hosts),
            Self::Local { .. } => None,
        }
    }

    /// Continues from the cloud of the previous `up`, which is part of
    /// [`ManagerPlacement`](crate::bootstrap::ManagerPlacement): host keys that were trusted on first
    /// use remain pinned, and hosts that are no longer declared remain known until they are
    /// released. Call this before creating the provider.
    pub fn continue_from(&mut self, previous: &Self) {
        if std::mem::discriminant(self) == std::mem::discriminant(previous)
            && let (Some(hosts), Some(previous)) = (self.hosts_mut(), previous.hosts())
        {
            hosts.continue_from(previous);
        }
    }

    /// Returns the declared machine of a node, if the machine exists already.
    pub fn host(&self, node: &NodeName) -> Option<&HostSpec> {
        self.hosts()?.hosts.get(node)
    }

    /// Records that the platform has taken an existing machine over.
    pub fn join(&mut self, machine: &ObservedNode) {
        if let Some(hosts) = self.hosts_mut() {
            hosts.join(machine);
        }
    }

    /// Records that a machine is about to be released.
    pub fn leave(&mut self, node: &NodeName) {
        if let Some(hosts) = self.hosts_mut() {
            hosts.leave(node);
        }
    }

    /// Returns the nodes of the machines that are no longer declared.
    pub fn removed_hosts(&self) -> impl Iterator<Item = &NodeName> {
        let hosts = self.hosts().map(|hosts| &hosts.hosts);
        let removed = |host: &HostSpec| host.membership == Membership::Removed;
        let hosts = hosts.into_iter().flatten();
        hosts
            .filter(move |(_, host)| removed(host))
            .map(|(node, _)| node)
    }

    /// Forgets a machine that was released.
    pub fn forget(&mut self, node: &NodeName) {
        if let Some(hosts) = self.hosts_mut() {
            hosts.forget(node);
        }
    }
}

impl Default for CloudSpec {
    fn default() -> Self {
        Self::Local { subnet: None }
    }
}

/// The location of the registry. It is not part of the declaration; the bootstrapper passes it to
/// the manager in the hand-over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrySpec {
    /// The URL of the central database; by default, a file on the manager's node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub central: Option<Sensitive>,
    /// The URLs of separate databases for individual kinds of objects. All other kinds are in the
    /// central database.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kinds: BTreeMap<Kind, Sensitive>,
}

impl RegistrySpec {
    /// Returns whether the whole registry is the file on the manager's node.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The address of the manager's API, for services that use the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerEndpoint {
    pub node: NodeName,
    /// The private address of the node.
    pub ip: IpAddr,
    pub port: u16,
}

impl ManagerEndpoint {
    /// Returns the base URL of the API.
    pub fn url(&self) -> String {
        format!("https://{}", std::net::SocketAddr::new(self.ip, self.port))
    }
}
