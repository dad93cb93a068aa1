//! The cloud on one machine: its VMs are containers of the operator's own Docker engine.
//!
//! Each node has an SSH server with Debian's stock configuration, an account with sudo, and an
//! engine of its own, and is reached exactly as a VM is, so that everything above this trait
//! runs its real path on a laptop.
//!
//! What a VM has a cloud for is kept on the engine alone, nothing in this process: a node is a
//! container with labels, its disk the container's file system and a volume, its address a
//! label, its boot id the container's start time. A process that dies at any moment leaves a
//! state from which the same call goes on.

mod bridge;
mod declared;
mod engine;
mod first_boot;
mod image;
mod machine;
mod network;
mod power;
mod provision;
mod subnet;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker;
use bollard::query_parameters::{DownloadFromContainerOptions, ListContainersOptions};
use futures_util::{StreamExt, TryStreamExt, stream};
use lifecycle_core::cloud::{
    CloudCapabilities, CloudOperation, CloudProgress, CloudProvider, Fenced, NodeChange,
    ObservedNode, Power, PreflightReport, SshAddress,
};
use lifecycle_core::model::{Addresses, NodeName, NodeSpec};
use lifecycle_core::runtime::Owner;
use lifecycle_core::{Error, Result};
use russh::keys::PublicKey;

pub use self::bridge::Bridge;
use self::engine::{absent_is_none, engine_error};
pub use self::first_boot::FirstBoot;
use self::image::{BASE_IMAGE, Builds, Flavour};
use self::machine::{Found, HOST_KEYS, Machine};
use self::network::NetworkWish;
pub use self::subnet::Subnet;
use crate::labels;

/// How long a node gets to shut down: its engine gives its containers ten seconds.
const STOP_GRACE: Duration = Duration::from_secs(30);
/// The engine's API that private control-group namespaces need.
const OLDEST_API: (u32, u32) = (1, 41);
/// How long a registry may take to say whether it has the base image.
const REGISTRY_LIMIT: Duration = Duration::from_secs(10);
/// How many nodes are looked at in parallel.
const LOOKS: usize = 8;

/// What local nodes are made with.
#[derive(Debug, Clone)]
pub struct LocalNodesOptions {
    /// The operator's Docker engine; `/var/run/docker.sock` by default.
    pub socket: PathBuf,
    /// Whose nodes these are.
    pub owner: Owner,
    /// The nodes' network. Without one, a free part of `10.89.0.0/16` is found when the first
    /// node is made. A network that exists keeps its subnet.
    pub subnet: Option<Subnet>,
    /// The public key, in OpenSSH form, that the account on each new node accepts.
    pub authorized_key: String,
    /// The node that runs the manager: it is made with the operator's engine mounted at
    /// `/run/lifecycle/host-docker.sock`, so that the manager can make nodes too. Who reaches
    /// that engine owns the machine: this is for development. Only the bootstrapper names it;
    /// the manager, which does not make its own node, leaves it out.
    pub manager_node: Option<NodeName>,
    /// What each node gets from its first boot. With it the nodes are stock VMs, as a cloud makes
    /// them from Debian's image, and [`authorized_key`](Self::authorized_key) has no effect.
    pub first_boot: Option<FirstBoot>,
}

impl LocalNodesOptions {
    /// The defaults for an owner and a key.
    pub fn new(owner: Owner, authorized_key: impl Into<String>) -> Self {
        Self {
            socket: PathBuf::from("/var/run/docker.sock"),
            owner,
            subnet: None,
            authorized_key: authorized_key.into(),
            manager_node: None,
            first_boot: None,
        }
    }

    /// The defaults for an owner and nodes that are stock VMs.
    pub fn stock(owner: Owner, first_boot: FirstBoot) -> Self {
        Self {
            first_boot: Some(first_boot),
            ..Self::new(owner, "")
        }
    }
}

/// Nodes that are containers of the operator's Docker engine.
///
/// # Guarantees
/// Those of [`CloudProvider`]. All that is made carries the platform's id; two platforms of one
/// name have different containers, volumes and networks.
///
/// # Caveats
/// A node's `capacity` is counted by whoever places services, not enforced: nodes share the
/// machine. A node that exists is left as it is, whatever its declaration says by now.
///
/// # Errors
/// A container, network or volume of our name without our id is [`Error::Conflict`]; an engine
/// that does not answer is [`Error::Unreachable`]; a base image that is neither there nor can
/// be pulled is [`Error::Invalid`].
#[derive(Debug)]
pub struct LocalNodes {
    options: LocalNodesOptions,
    /// `<platform>-<first 6 of id>`: the network's name, and what all other names start with.
    prefix: String,
    platform_id: String,
    builds: Builds,
    /// A node's host keys by its container: made at the first boot, they never change.
    host_keys: Mutex<HashMap<String, Vec<String>>>,
}

impl LocalNodes {
    /// Checks the options. Nothing is asked of the engine yet.
    pub fn new(mut options: LocalNodesOptions) -> Result<Self> {
        let key = options.authorized_key.trim().to_owned();
        if let Some(first_boot) = &options.first_boot {
            first_boot.check()?;
        } else if key.contains(['\n', '\r']) || PublicKey::from_openssh(&key).is_err() {
            return Err(Error::invalid(
                "the key for local nodes",
                "it is not one public key in OpenSSH form",
                "give the line of a `.pub` file, for example `ssh-ed25519 AAAA…`",
            ));
        }
        options.authorized_key = key;
        if !options.socket.is_absolute() {
            return Err(Error::invalid(
                format!("socket {}", options.socket.display()),
                "it is not an absolute path",
                "name Docker's socket, for example /var/run/docker.sock",
            ));
        }
        Ok(Self {
            prefix: format!("{}-{}", options.owner.name, options.owner.id.short()),
            platform_id: options.owner.id.to_string(),
            options,
            builds: Builds::default(),
            host_keys: Mutex::default(),
        })
    }

    fn engine(&self) -> Result<Docker> {
        engine::open(&self.options.socket)
    }

    fn container_name(&self, node: &NodeName) -> String {
        format!("{}-node-{node}", self.prefix)
    }

    fn volume_name(&self, node: &NodeName) -> String {
        format!("{}-docker", self.container_name(node))
    }

    /// The labels of all that is the platform's.
    fn labels(&self) -> HashMap<String, String> {
        HashMap::from([
            (
                labels::PLATFORM.to_owned(),
                self.options.owner.name.to_string(),
            ),
            (labels::PLATFORM_ID.to_owned(), self.platform_id.clone()),
        ])
    }

    /// The labels of what belongs to one node.
    fn node_labels(&self, node: &NodeName) -> HashMap<String, String> {
        let mut labels = self.labels();
        labels.insert(labels::ROLE.to_owned(), labels::ROLE_NODE.to_owned());
        labels.insert(labels::NODE.to_owned(), node.to_string());
        labels
    }

    /// The engine's filter for what belongs to this platform's nodes.
    fn node_filter(&self) -> HashMap<String, Vec<String>> {
        let wanted = [
            format!("{}={}", labels::PLATFORM_ID, self.platform_id),
            format!("{}={}", labels::ROLE, labels::ROLE_NODE),
        ];
        HashMap::from([("label".to_owned(), wanted.to_vec())])
    }

    /// The platform's network as it should be.
    fn network<'a>(&'a self, labels: &'a HashMap<String, String>) -> NetworkWish<'a> {
        NetworkWish {
            name: &self.prefix,
            labels,
            subnet: self.options.subnet,
        }
    }

    /// Why the nodes' network cannot be had, in sentences.
    async fn subnet_problems(&self, docker: &Docker, wanted: usize) -> Result<Vec<String>> {
        let labels = self.labels();
        let mut problems: Vec<String> = self
            .network(&labels)
            .obstacle(docker)
            .await?
            .into_iter()
            .collect();
        if let Some(subnet) = self.options.subnet {
            let room = subnet.hosts().count();
            if room < wanted {
                problems.push(format!(
                    "The subnet {subnet} has room for {room} nodes, {wanted} are declared: \
                     choose a larger one."
                ));
            }
        }
        Ok(problems)
    }

    /// What the engine has under a container's name or id.
    async fn find(&self, docker: &Docker, container: &str) -> Result<Option<Found>> {
        let answer = absent_is_none(docker.inspect_container(container, None).await)
            .map_err(|error| engine_error(&format!("container {container}"), error))?;
        Ok(answer.map(|inspected| Machine::read(inspected, &self.platform_id)))
    }

    /// A node of ours by its name. Another's container under that name is a conflict.
    async fn machine(&self, docker: &Docker, node: &NodeName) -> Result<Option<Machine>> {
        let container = self.container_name(node);
        match self.find(docker, &container).await? {
            None => Ok(None),
            Some(Found::Ours(machine)) => Ok(Some(machine)),
            Some(Found::Foreign) => Err(Error::conflict(
                format!("container {container}"),
                "it exists and does not carry this platform's id",
            )),
        }
    }

    /// All nodes of ours, in the order of their names.
    async fn machines(&self, docker: &Docker) -> Result<Vec<Machine>> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(self.node_filter()),
            ..ListContainersOptions::default()
        };
        let containers = docker
            .list_containers(Some(options))
            .await
            .map_err(|error| engine_error("the list of local nodes", error))?;
        let ids = containers.into_iter().filter_map(|container| container.id);
        let found: Vec<Option<Found>> = stream::iter(ids)
            .map(|id| async move { self.find(docker, &id).await })
            .buffer_unordered(LOOKS)
            .try_collect()
            .await?;
        let mut machines: Vec<Machine> = found
            .into_iter()
            .filter_map(|found| match found {
                Some(Found::Ours(machine)) => Some(machine),
                // Gone since it was listed.
                Some(Found::Foreign) | None => None,
            })
            .collect();
        machines.sort_by(|one, other| one.node.cmp(&other.node));
        Ok(machines)
    }

    async fn observe(&self, docker: &Docker, machine: Machine) -> Result<ObservedNode> {
        let host_keys = self.host_keys(docker, &machine).await?;
        Ok(ObservedNode {
            name: machine.node.clone(),
            provider_id: machine.id.clone(),
            power: machine.power,
            addresses: Addresses {
                private: machine.address.map(IpAddr::V4),
                public: None,
            },
            ssh: SshAddress {
                user: machine.account.clone(),
                port: 22,
                host_keys,
            },
            boot_id: machine.running_boot().map(str::to_owned),
            created: true,
        })
    }

    /// The public keys that the node's sshd offers; none before its first boot made them. Read
    /// through the engine, which works whether the node runs or not.
    async fn host_keys(&self, docker: &Docker, machine: &Machine) -> Result<Vec<String>> {
        let known = self.known_keys().get(&machine.id).cloned();
        if let Some(keys) = known {
            return Ok(keys);
        }
        let options = DownloadFromContainerOptions {
            path: HOST_KEYS.to_owned(),
        };
        let archive = docker
            .download_from_container(&machine.id, Some(options))
            .try_fold(Vec::new(), |mut all, part| async move {
                all.extend_from_slice(&part);
                Ok(all)
            });
        let what = format!("the host keys of node {}", machine.node);
        let Some(archive) =
            absent_is_none(archive.await).map_err(|error| engine_error(&what, error))?
        else {
            return Ok(Vec::new());
        };
        let keys = read_keys(&archive).map_err(|why| Error::corrupt(what, why))?;
        self.known_keys().insert(machine.id.clone(), keys.clone());
        Ok(keys)
    }

    fn known_keys(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<String>>> {
        self.host_keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what local nodes have no notion of.
    fn check(&self, spec: &NodeSpec) -> Result<Flavour> {
        if let Some(size) = &spec.size {
            return Err(Error::invalid(
                format!("size `{size}` of node {}", spec.name),
                "local nodes have no sizes, they share this machine",
                "leave `size` out",
            ));
        }
        match self.options.first_boot {
            Some(_) => Ok(Flavour::Stock),
            None => Flavour::of(spec),
        }
    }

    /// What about the engine keeps nodes from being made, in sentences.
    async fn engine_problems(&self, docker: &Docker) -> Result<Vec<String>> {
        let version = docker
            .version()
            .await
            .map_err(|error| engine_error("the Docker engine's version", error))?;
        let mut problems = Vec::new();
        let os = version.os.unwrap_or_default();
        if os != "linux" {
            problems.push(format!(
                "The Docker engine runs on `{os}`: local nodes need one on Linux."
            ));
        }
        let api = version.api_version.unwrap_or_default();
        if numbers(&api).is_none_or(|api| api < OLDEST_API) {
            let (major, minor) = OLDEST_API;
            problems.push(format!(
                "The Docker engine's API is {api}, local nodes need {major}.{minor}: install \
                 Docker 20.10 or later."
            ));
        }
        Ok(problems)
    }

    /// Why the images cannot be had, if so. A build or a pull would change something, so the
    /// registry is only asked whether it has the base.
    async fn image_problem(
        &self,
        docker: &Docker,
        flavours: &BTreeSet<Flavour>,
    ) -> Result<Option<String>> {
        let mut missing = false;
        for flavour in flavours {
            missing |= !engine::has_image(docker, &flavour.tag()).await?;
        }
        if !missing || engine::has_image(docker, BASE_IMAGE).await? {
            return Ok(None);
        }
        let asked = tokio::time::timeout(
            REGISTRY_LIMIT,
            docker.inspect_registry_image(BASE_IMAGE, None),
        );
        Ok(match asked.await {
            Ok(Ok(_)) => None,
            Ok(Err(_)) | Err(_) => Some(format!(
                "The engine has no image {BASE_IMAGE} and cannot pull it: run \
                 `script/base-image`, which makes it from Debian's packages."
            )),
        })
    }
}

#[async_trait]
impl CloudProvider for LocalNodes {
    fn capabilities(&self) -> CloudCapabilities {
        CloudCapabilities {
            name: "local nodes",
            provisions: true,
            knows_host_keys: true,
            fences: true,
            // Labels of a container cannot be changed.
            adopts: false,
        }
    }

    async fn preflight(&self, wanted: &[NodeSpec]) -> Result<PreflightReport> {
        let mut problems = Vec::new();
        let mut flavours = BTreeSet::new();
        for spec in wanted {
            match self.check(spec) {
                Ok(flavour) => {
                    flavours.insert(flavour);
                }
                Err(error) => {
                    let hint = error.hint().unwrap_or("correct the declaration");
                    problems.push(format!("The {error}: {hint}."));
                }
            }
        }
        let asked = async {
            let docker = self.engine()?;
            let mut found = self.engine_problems(&docker).await?;
            found.extend(self.image_problem(&docker, &flavours).await?);
            found.extend(self.subnet_problems(&docker, wanted.len()).await?);
            Ok::<_, Error>(found)
        };
        match asked.await {
            Ok(found) => problems.extend(found),
            Err(error) => {
                let hint = error
                    .hint()
                    .unwrap_or("install Docker, start it, and see that `docker info` answers");
                problems.push(format!(
                    "The Docker engine at {} cannot be used ({}): {hint}.",
                    self.options.socket.display(),
                    error.chain()
                ));
            }
        }
        Ok(PreflightReport {
            problems,
            ..PreflightReport::default()
        })
    }

    async fn list(&self) -> Result<Vec<ObservedNode>> {
        let docker = self.engine()?;
        let machines = self.machines(&docker).await?;
        stream::iter(machines)
            .map(|machine| self.observe(&docker, machine))
            .buffered(LOOKS)
            .try_collect()
            .await
    }

    async fn get(&self, node: &NodeName) -> Result<Option<ObservedNode>> {
        let docker = self.engine()?;
        match self.machine(&docker, node).await? {
            Some(machine) => Ok(Some(self.observe(&docker, machine).await?)),
            None => Ok(None),
        }
    }

    async fn adopt(&self, node: &NodeName) -> Result<ObservedNode> {
        // Labels of a container cannot be changed: what is not ours never will be.
        self.get(node)
            .await?
            .ok_or_else(|| Error::unsupported(format!("adopting {node}"), "local nodes"))
    }

    async fn begin(&self, change: NodeChange) -> Result<CloudOperation> {
        let docker = self.engine()?;
        let token = match &change {
            NodeChange::Provision { spec } => self.provision(&docker, spec, true).await?.token(),
            NodeChange::Start { node } => self.start(&docker, node).await?,
            NodeChange::Stop { node } => self.stop(&docker, node).await?,
            NodeChange::Restart { node, boot_id } => self.restart(&docker, node, boot_id).await?,
            NodeChange::Delete { node } => self.delete(&docker, node).await?,
        };
        Ok(CloudOperation { change, token })
    }

    async fn poll(&self, operation: &CloudOperation) -> Result<CloudProgress> {
        let docker = self.engine()?;
        match &operation.change {
            NodeChange::Provision { spec } => {
                self.provisioned(&docker, spec, &operation.token).await
            }
            NodeChange::Start { node } => self.started(&docker, node).await,
            NodeChange::Stop { node } => self.stopped(&docker, node, &operation.token).await,
            NodeChange::Restart { node, boot_id } => self.restarted(&docker, node, boot_id).await,
            NodeChange::Delete { node } => self.deleted(&docker, node, &operation.token).await,
        }
    }

    async fn fence(&self, node: &NodeName) -> Result<Fenced> {
        let docker = self.engine()?;
        self.kill(&docker, node).await
    }

    async fn delete_shared(&self) -> Result<()> {
        let docker = self.engine()?;
        let left: Vec<String> = self
            .machines(&docker)
            .await?
            .into_iter()
            .map(|machine| machine.node.to_string())
            .collect();
        if !left.is_empty() {
            return Err(Error::conflict(
                format!("network {}", self.prefix),
                format!("nodes still use it: {}", left.join(", ")),
            ));
        }
        self.sweep(&docker).await
    }
}

/// A progress that is asked for again soon: all that happens here takes seconds.
fn soon(says: impl Into<String>) -> CloudProgress {
    CloudProgress::Running {
        after: Some(Duration::from_millis(200)),
        says: Some(says.into()),
    }
}

/// The keys in an archive of the file that holds them, without their comments.
fn read_keys(archive: &[u8]) -> Result<Vec<String>, String> {
    let mut archive = tar::Archive::new(archive);
    let mut entries = archive.entries().map_err(|error| error.to_string())?;
    let mut file = entries
        .next()
        .ok_or("the archive is empty")?
        .map_err(|error| error.to_string())?;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut file, &mut text).map_err(|error| error.to_string())?;
    text.lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some(kind), Some(key)) => Ok(format!("{kind} {key}")),
                _ => Err("a line of it is no public key".to_owned()),
            }
        })
        .collect()
}

fn numbers(version: &str) -> Option<(u32, u32)> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Whether a node is on, or about to be.
fn is_on(power: Power) -> bool {
    match power {
        Power::Starting | Power::Running | Power::Stopping => true,
        Power::Stopped | Power::Failed => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifecycle_core::model::{PlatformId, PlatformName};

    const KEY: &str = "ssh-ed25519 \
         AAAAC3NzaC1lZDI1NTE5AAAAIII6fX/0SqxN5uKL92X3reblSoar81B6yIgED6RWolKy operator";

    fn options(key: &str) -> LocalNodesOptions {
        let owner = Owner {
            id: PlatformId::new(uuid_of("0123456789abcdef0123456789abcdef")),
            name: PlatformName::try_from("demo").unwrap(),
        };
        LocalNodesOptions::new(owner, key)
    }

    fn uuid_of(text: &str) -> uuid::Uuid {
        text.parse().unwrap()
    }

    #[test]
    fn names_carry_the_platforms_id() {
        let nodes = LocalNodes::new(options(KEY)).unwrap();
        let node = NodeName::try_from("n1").unwrap();
        assert_eq!(nodes.container_name(&node), "demo-012345-node-n1");
        assert_eq!(nodes.volume_name(&node), "demo-012345-node-n1-docker");
    }

    #[test]
    fn a_key_that_no_sshd_would_take_is_refused() {
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            &format!("{KEY}\n{KEY}"),
        ] {
            let error = LocalNodes::new(options(bad)).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{bad}: {error}");
        }
    }

    #[test]
    fn host_keys_lose_their_comments() {
        let text = format!("{KEY}\necdsa-sha2-nistp256 AAAAE2 root@n1\n");
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        archive
            .append_data(&mut header, "host-keys", text.as_bytes())
            .unwrap();
        let keys = read_keys(&archive.into_inner().unwrap()).unwrap();
        assert_eq!(keys[0], KEY.strip_suffix(" operator").unwrap());
        assert_eq!(keys[1], "ecdsa-sha2-nistp256 AAAAE2");
        assert!(read_keys(&[]).is_err());
    }

    #[tokio::test]
    async fn preflight_says_all_that_is_wrong_at_once() {
        let mut options = options(KEY);
        options.socket = PathBuf::from("/nonexistent/docker.sock");
        let nodes = LocalNodes::new(options).unwrap();
        let mut odd = NodeSpec::new(NodeName::try_from("n1").unwrap());
        odd.image = Some("ubuntu".to_owned());
        let mut large = NodeSpec::new(NodeName::try_from("n2").unwrap());
        large.size = Some("Standard_B2s".to_owned());
        let problems = nodes.preflight(&[odd, large]).await.unwrap().problems;
        assert_eq!(problems.len(), 3, "{problems:#?}");
        assert!(problems[0].contains("`ubuntu`") && problems[0].contains("`bare`"));
        assert!(problems[1].contains("leave `size` out"));
        assert!(problems[2].contains("/nonexistent/docker.sock"));
    }
}
