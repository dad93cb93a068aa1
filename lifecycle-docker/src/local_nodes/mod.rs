//! Implements a cloud on one machine. Its VMs are containers of the operator's own Docker engine.
//!
//! Each node has an SSH server with Debian's stock configuration, an account with sudo, and its own
//! engine. A node is reached exactly like a VM, so that the same code works on a laptop and on a
//! cloud.
//!
//! All state is kept in the engine, none in this process. A node is a container with labels, its
//! disk is the container's file system and a volume, its address is a label, and its boot id is the
//! container's start time. If a process dies during a call, the same call in another process
//! continues from the state in the engine.

mod bridge;
mod declared;
mod engine;
mod first_boot;
mod image;
mod inbound;
mod network;
mod node_container;
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
    CloudCapabilities, CloudOperation, CloudProgress, CloudProvider, Fenced, Firewall,
    MachineLogin, MachineSpec, NodeChange, ObservedNode, OpenPorts, Power, PreflightReport,
    SshAddress,
};
use lifecycle_core::model::{Addresses, NodeName, NodeSpec};
use lifecycle_core::runtime::Owner;
use lifecycle_core::{Error, Result};
use russh::keys::PublicKey;

pub use self::bridge::Bridge;
use self::engine::{absent_is_none, engine_error};
pub use self::first_boot::FirstBoot;
use self::image::{BASE_IMAGE, Builds, Flavour};
use self::network::DesiredNetwork;
use self::node_container::{Found, HOST_KEYS, NodeContainer};
pub use self::subnet::Subnet;
use crate::labels;

/// The grace period for a node's shutdown. It includes the ten seconds that the node's own engine
/// gives its containers.
const STOP_GRACE: Duration = Duration::from_secs(30);
/// The oldest version of the engine's API that has private control-group namespaces.
const OLDEST_API: (u32, u32) = (1, 41);
/// Time limit for a registry to report whether it has the base image.
const REGISTRY_LIMIT: Duration = Duration::from_secs(10);
/// The number of nodes that are inspected in parallel.
const PARALLEL_INSPECTIONS: usize = 8;

/// Options of [`LocalNodes`].
#[derive(Debug, Clone)]
pub struct LocalNodesOptions {
    /// The socket of the operator's Docker engine; `/var/run/docker.sock` by default.
    pub socket: PathBuf,
    /// The platform that the nodes belong to.
    pub owner: Owner,
    /// The subnet of the nodes' network. If `None`, a free part of `10.89.0.0/16` is chosen when
    /// the first node is created. An existing network keeps its subnet.
    pub subnet: Option<Subnet>,
    /// The public key, in OpenSSH format, that the account on each new node accepts.
    pub authorized_key: String,
    /// The node that runs the manager. It is created with the socket of the operator's engine at
    /// `/run/lifecycle/host-docker.sock`, so that the manager can create nodes too. Access to that
    /// engine means full control of the machine, so use local nodes for development only. Only the
    /// bootstrapper sets this option, because the manager never creates its own node.
    pub manager_node: Option<NodeName>,
    /// The first boot of each node. If set, the nodes are like VMs that a cloud creates from
    /// Debian's stock image, and [`authorized_key`](Self::authorized_key) is ignored.
    pub first_boot: Option<FirstBoot>,
}

impl LocalNodesOptions {
    /// Returns the default options for an owner and a key.
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

    /// Returns the default options for nodes that boot Debian's stock image.
    pub fn stock(owner: Owner, first_boot: FirstBoot) -> Self {
        Self {
            first_boot: Some(first_boot),
            ..Self::new(owner, "")
        }
    }
}

/// A cloud provider whose nodes are containers of the operator's Docker engine.
///
/// # Guarantees
/// The guarantees are those of [`CloudProvider`]. All created resources have labels with the
/// platform's id. Two platforms with the same name have different containers, volumes, and
/// networks.
///
/// # Caveats
/// A node's `capacity` is used for placement but not enforced, because all nodes share the machine.
/// An existing node is left unchanged even if its declaration changes.
///
/// # Errors
/// - [`Error::Conflict`] if a container, network, or volume has a name that this platform needs, but
///   not the platform's id.
/// - [`Error::Unreachable`] if the engine does not respond.
/// - [`Error::Invalid`] if the base image is missing and cannot be pulled.
#[derive(Debug)]
pub struct LocalNodes {
    options: LocalNodesOptions,
    /// `<platform>-<first 6 digits of the id>`. This is the network's name and the prefix of all
    /// other names.
    prefix: String,
    platform_id: String,
    builds: Builds,
    /// The host keys of nodes, by container id. A node's keys are created at its first boot and
    /// never change.
    host_keys: Mutex<HashMap<String, Vec<String>>>,
}

impl LocalNodes {
    /// Validates the options without sending a request to the engine.
    pub fn new(mut options: LocalNodesOptions) -> Result<Self> {
        let key = options.authorized_key.trim().to_owned();
        if let Some(first_boot) = &options.first_boot {
            first_boot.check()?;
        } else if key.contains(['\n', '\r']) || PublicKey::from_openssh(&key).is_err() {
            return Err(Error::invalid(
                "the key for local nodes",
                "it is not a single public key in OpenSSH format",
                "pass the line of a `.pub` file, for example `ssh-ed25519 AAAA…`",
            ));
        }
        options.authorized_key = key;
        if !options.socket.is_absolute() {
            return Err(Error::invalid(
                format!("socket {}", options.socket.display()),
                "it is not an absolute path",
                "specify Docker's socket, for example /var/run/docker.sock",
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

    /// Returns the labels of all resources of the platform.
    fn labels(&self) -> HashMap<String, String> {
        HashMap::from([
            (
                labels::PLATFORM.to_owned(),
                self.options.owner.name.to_string(),
            ),
            (labels::PLATFORM_ID.to_owned(), self.platform_id.clone()),
        ])
    }

    /// Returns the labels of resources that belong to one node.
    fn node_labels(&self, node: &NodeName) -> HashMap<String, String> {
        let mut labels = self.labels();
        labels.insert(labels::ROLE.to_owned(), labels::ROLE_NODE.to_owned());
        labels.insert(labels::NODE.to_owned(), node.to_string());
        labels
    }

    /// Returns the engine's filter for resources of this platform's nodes.
    fn node_filter(&self) -> HashMap<String, Vec<String>> {
        let labels = [
            format!("{}={}", labels::PLATFORM_ID, self.platform_id),
            format!("{}={}", labels::ROLE, labels::ROLE_NODE),
        ];
        HashMap::from([("label".to_owned(), labels.to_vec())])
    }

    /// Returns the desired state of the platform's network.
    fn network<'a>(&'a self, labels: &'a HashMap<String, String>) -> DesiredNetwork<'a> {
        DesiredNetwork {
            name: &self.prefix,
            labels,
            subnet: self.options.subnet,
        }
    }

    /// Returns the reasons why the nodes' network cannot be used, as sentences.
    async fn subnet_problems(&self, docker: &Docker, nodes: usize) -> Result<Vec<String>> {
        let labels = self.labels();
        let mut problems: Vec<String> = self
            .network(&labels)
            .obstacle(docker)
            .await?
            .into_iter()
            .collect();
        if let Some(subnet) = self.options.subnet {
            let room = subnet.hosts().count();
            if room < nodes {
                problems.push(format!(
                    "The subnet {subnet} has room for {room} nodes, but {nodes} are declared: \
                     choose a larger subnet."
                ));
            }
        }
        Ok(problems)
    }

    /// Returns the container with this name or id.
    async fn find(&self, docker: &Docker, container: &str) -> Result<Option<Found>> {
        let answer = absent_is_none(docker.inspect_container(container, None).await)
            .map_err(|error| engine_error(&format!("inspecting container {container}"), error))?;
        Ok(answer.map(|inspected| NodeContainer::read(inspected, &self.platform_id)))
    }

    /// Returns the container of a node. Fails with [`Error::Conflict`] if a container with its name
    /// does not belong to this platform.
    async fn node_container(
        &self,
        docker: &Docker,
        node: &NodeName,
    ) -> Result<Option<NodeContainer>> {
        let container = self.container_name(node);
        match self.find(docker, &container).await? {
            None => Ok(None),
            Some(Found::Owned(node_container)) => Ok(Some(node_container)),
            Some(Found::Foreign) => Err(Error::conflict(
                format!("container {container}"),
                "a container with this name exists, but does not belong to this platform",
            )),
        }
    }

    /// Returns all nodes of this platform, sorted by name.
    async fn node_containers(&self, docker: &Docker) -> Result<Vec<NodeContainer>> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(self.node_filter()),
            ..ListContainersOptions::default()
        };
        let containers = docker
            .list_containers(Some(options))
            .await
            .map_err(|error| engine_error("listing local nodes", error))?;
        let ids = containers.into_iter().filter_map(|container| container.id);
        let found: Vec<Option<Found>> = stream::iter(ids)
            .map(|id| async move { self.find(docker, &id).await })
            .buffer_unordered(PARALLEL_INSPECTIONS)
            .try_collect()
            .await?;
        let mut node_containers: Vec<NodeContainer> = found
            .into_iter()
            .filter_map(|found| match found {
                Some(Found::Owned(node_container)) => Some(node_container),
                // The container was removed after it was listed.
                Some(Found::Foreign) | None => None,
            })
            .collect();
        node_containers.sort_by(|one, other| one.node.cmp(&other.node));
        Ok(node_containers)
    }

    async fn observe(
        &self,
        docker: &Docker,
        node_container: NodeContainer,
    ) -> Result<ObservedNode> {
        let host_keys = self.host_keys(docker, &node_container).await?;
        Ok(ObservedNode {
            name: node_container.node.clone(),
            provider_id: node_container.id.clone(),
            power: node_container.power,
            addresses: Addresses {
                private: node_container.address.map(IpAddr::V4),
                public: None,
            },
            ssh: SshAddress {
                user: node_container.account.clone(),
                port: 22,
                host_keys,
            },
            boot_id: node_container.running_boot().map(str::to_owned),
            created: true,
            open_ports: OpenPorts::default(),
        })
    }

    /// Returns the public keys that the node's sshd offers, or none if the first boot has not
    /// created them yet. Also works while the node is stopped.
    async fn host_keys(
        &self,
        docker: &Docker,
        node_container: &NodeContainer,
    ) -> Result<Vec<String>> {
        let known = self.known_keys().get(&node_container.id).cloned();
        if let Some(keys) = known {
            return Ok(keys);
        }
        let options = DownloadFromContainerOptions {
            path: HOST_KEYS.to_owned(),
        };
        let archive = docker
            .download_from_container(&node_container.id, Some(options))
            .try_fold(Vec::new(), |mut all, part| async move {
                all.extend_from_slice(&part);
                Ok(all)
            });
        let what = format!("reading the host keys of node {}", node_container.node);
        let Some(archive) =
            absent_is_none(archive.await).map_err(|error| engine_error(&what, error))?
        else {
            return Ok(Vec::new());
        };
        let keys = read_keys(&archive).map_err(|why| {
            Error::corrupt(
                format!("the host key file of node {}", node_container.node),
                why,
            )
        })?;
        self.known_keys()
            .insert(node_container.id.clone(), keys.clone());
        Ok(keys)
    }

    fn known_keys(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<String>>> {
        self.host_keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Rejects settings that local nodes do not support.
    fn check(&self, spec: &NodeSpec) -> Result<Flavour> {
        if let Some(size) = &spec.size {
            return Err(Error::invalid(
                format!("size `{size}` of node {}", spec.name),
                "local nodes share this machine and have no sizes",
                "remove `size`",
            ));
        }
        match self.options.first_boot {
            Some(_) => Ok(Flavour::Stock),
            None => Flavour::of(spec),
        }
    }

    /// Returns the problems of the engine that prevent the creation of nodes, as sentences.
    async fn engine_problems(&self, docker: &Docker) -> Result<Vec<String>> {
        let version = docker
            .version()
            .await
            .map_err(|error| engine_error("reading the Docker engine's version", error))?;
        let mut problems = Vec::new();
        let os = version.os.unwrap_or_default();
        if os != "linux" {
            problems.push(format!(
                "The Docker engine runs on `{os}`, but local nodes need an engine on Linux."
            ));
        }
        let api = version.api_version.unwrap_or_default();
        if numbers(&api).is_none_or(|api| api < OLDEST_API) {
            let (major, minor) = OLDEST_API;
            problems.push(format!(
                "The Docker engine's API version is {api}, but local nodes need {major}.{minor}: \
                 install Docker 20.10 or later."
            ));
        }
        Ok(problems)
    }

    /// Returns the reason why the images are unavailable, if any. Neither builds nor pulls an
    /// image.
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
                "The engine does not have the image {BASE_IMAGE} and cannot pull it: run \
                 `script/base-image` to build the image from Debian's packages."
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
            powers: true,
            knows_host_keys: true,
            fences: true,
            // An adopted container would need new labels, but a container's labels cannot be
            // changed.
            adopts: false,
            firewall: Firewall::Absent,
        }
    }

    async fn preflight(&self, nodes: &[NodeSpec]) -> Result<PreflightReport> {
        let mut problems = Vec::new();
        let mut flavours = BTreeSet::new();
        for spec in nodes {
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
            found.extend(self.subnet_problems(&docker, nodes.len()).await?);
            Ok::<_, Error>(found)
        };
        match asked.await {
            Ok(found) => problems.extend(found),
            Err(error) => {
                let hint = error
                    .hint()
                    .unwrap_or("install Docker, start it, and check that `docker info` succeeds");
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
        let node_containers = self.node_containers(&docker).await?;
        stream::iter(node_containers)
            .map(|node_container| self.observe(&docker, node_container))
            .buffered(PARALLEL_INSPECTIONS)
            .try_collect()
            .await
    }

    async fn get(&self, node: &NodeName) -> Result<Option<ObservedNode>> {
        let docker = self.engine()?;
        match self.node_container(&docker, node).await? {
            Some(node_container) => Ok(Some(self.observe(&docker, node_container).await?)),
            None => Ok(None),
        }
    }

    async fn adopt(&self, node: &NodeName) -> Result<ObservedNode> {
        // A container's labels cannot be changed, so an existing container cannot be adopted.
        self.get(node)
            .await?
            .ok_or_else(|| Error::unsupported(format!("adopting node {node}"), "local nodes"))
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

    async fn check_machine(
        &self,
        node: &NodeName,
        _: &MachineSpec,
        _: &MachineLogin,
    ) -> Result<MachineSpec> {
        Err(Error::unsupported(
            format!("adopting a machine as node {node}"),
            "local nodes; platforms with the provider `hosts` or `azure` support it",
        ))
    }

    async fn delete_shared(&self) -> Result<()> {
        let docker = self.engine()?;
        let left: Vec<String> = self
            .node_containers(&docker)
            .await?
            .into_iter()
            .map(|node_container| node_container.node.to_string())
            .collect();
        if !left.is_empty() {
            return Err(Error::conflict(
                format!("network {}", self.prefix),
                format!("these nodes still use the network: {}", left.join(", ")),
            ));
        }
        self.sweep(&docker).await
    }
}

/// Returns progress with a short poll interval. Operations on local nodes take only seconds.
fn soon(step: impl Into<String>) -> CloudProgress {
    CloudProgress::Running {
        after: Some(Duration::from_millis(200)),
        message: Some(step.into()),
    }
}

/// Returns the public keys in an archive of the host key file, without their comments.
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
                _ => Err("a line of the file is not a public key".to_owned()),
            }
        })
        .collect()
}

fn numbers(version: &str) -> Option<(u32, u32)> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Returns whether a node is running, starting, or stopping.
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
    fn names_contain_the_platform_id() {
        let nodes = LocalNodes::new(options(KEY)).unwrap();
        let node = NodeName::try_from("n1").unwrap();
        assert_eq!(nodes.container_name(&node), "demo-012345-node-n1");
        assert_eq!(nodes.volume_name(&node), "demo-012345-node-n1-docker");
    }

    #[test]
    fn rejects_an_invalid_authorized_key() {
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
    fn strips_comments_from_host_keys() {
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
    async fn preflight_reports_all_problems_at_once() {
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
        assert!(problems[1].contains("remove `size`"));
        assert!(problems[2].contains("/nonexistent/docker.sock"));
    }
}
