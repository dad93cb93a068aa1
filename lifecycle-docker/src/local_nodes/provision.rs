//! Provisions a node: provides the image, network, volume, and address, creates the container, and
//! starts the first boot.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptions, ListVolumesOptions, RemoveContainerOptions, RemoveVolumeOptions,
    UploadToContainerOptions,
};
use lifecycle_core::cloud::{CloudProgress, Power};
use lifecycle_core::model::{NodeName, NodeSpec};
use lifecycle_core::{Error, Result};

use super::engine::{absent_is_none, engine_error, refused_for, status};
use super::image::{Availability, Flavour};
use super::node_container::{NodeContainer, NodeContainerSpec, Origin};
use super::{LocalNodes, soon};
use crate::labels;

/// The number of addresses to try. Another process may take a chosen address.
const ADDRESS_TRIES: usize = 16;
/// The number of checks for a container whose name is reserved, but which the engine does not list
/// yet.
const NAME_TRIES: u32 = 50;
const NAME_PAUSE: Duration = Duration::from_millis(100);

/// Held while an address is chosen and assigned, so that two providers in one process do not choose
/// the same address.
static CHOOSING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Records, for each engine's socket, whether the engine may start privileged containers. Each
/// process probes an engine only once.
static PRIVILEGED: tokio::sync::Mutex<BTreeMap<PathBuf, bool>> =
    tokio::sync::Mutex::const_new(BTreeMap::new());

/// The progress of a provision.
#[derive(Debug)]
pub(super) enum Provision {
    /// The image is being built; contains the current build step.
    Building(String),
    /// This call created the container, or started an existing one that had never been started.
    Created(NodeContainer),
    /// The container existed already.
    Found(NodeContainer),
}

/// The token of a provision that waits for its image.
const WAITS: &str = "image";

impl Provision {
    /// Returns the state that a later poll needs, in any process.
    pub(super) fn token(&self) -> String {
        match self {
            Self::Building(_) => WAITS.to_owned(),
            Self::Created(node_container) => format!("created:{}", node_container.id),
            Self::Found(node_container) => format!("found:{}", node_container.id),
        }
    }
}

impl LocalNodes {
    /// Continues a provision from its current state. If `again` is set and the image's build has
    /// failed, builds the image again.
    pub(super) async fn provision(
        &self,
        docker: &Docker,
        spec: &NodeSpec,
        again: bool,
    ) -> Result<Provision> {
        let flavour = self.check(spec)?;
        let what = format!("creating node {}", spec.name);
        let mut avoid = BTreeSet::new();
        let mut named = 0;
        loop {
            let node_container = match self.node_container(docker, &spec.name).await? {
                Some(node_container) if node_container.power == Power::Stopping => {
                    self.wait(docker, &node_container.id, "removed", &what)
                        .await?;
                    continue;
                }
                Some(node_container) if !node_container.fresh => {
                    return Ok(Provision::Found(node_container));
                }
                Some(node_container) => node_container,
                None => match self.builds.ensure(docker, flavour, again).await? {
                    Availability::Building(step) => return Ok(Provision::Building(step)),
                    Availability::Ready => {
                        match self.create(docker, &spec.name, flavour, &avoid).await? {
                            Some(node_container) => node_container,
                            // A dropped call or another process has requested this container.
                            // The engine reserves the name before it lists the container.
                            None if named < NAME_TRIES => {
                                named += 1;
                                tokio::time::sleep(NAME_PAUSE).await;
                                continue;
                            }
                            None => return Err(Error::interrupted(what, None)),
                        }
                    }
                },
            };
            if !node_container.fresh {
                return Ok(Provision::Found(node_container));
            }
            self.seed(docker, &node_container).await?;
            match docker.start_container(&node_container.id, None).await {
                Ok(()) => return Ok(Provision::Created(node_container)),
                // Another process gave the address to another node. This node's container never
                // ran, so re-create it with the next address.
                Err(error)
                    if refused_for(&error, "address already in use")
                        && self.fixed_address().is_none()
                        && avoid.len() < ADDRESS_TRIES =>
                {
                    avoid.extend(node_container.address);
                    self.discard(docker, &node_container).await?;
                }
                Err(error) => return Err(start_error(&spec.name, error)),
            }
        }
    }

    /// Returns the progress of the provision with this token.
    pub(super) async fn provisioned(
        &self,
        docker: &Docker,
        spec: &NodeSpec,
        token: &str,
    ) -> Result<CloudProgress> {
        if token == WAITS {
            return match self.provision(docker, spec, false).await? {
                Provision::Building(step) => Ok(soon(step)),
                Provision::Created(node_container) | Provision::Found(node_container) => {
                    self.booted(docker, &node_container.id, &spec.name).await
                }
            };
        }
        // A poll must not replace a deleted container, so the token contains the container's id.
        let (how, id) = token.split_once(':').ok_or_else(|| {
            Error::corrupt(
                format!("the provisioning token of node {}", spec.name),
                format!("`{token}` is not a token of this provider"),
            )
        })?;
        let node_container = self.node_container(docker, &spec.name).await?;
        match node_container.filter(|node_container| node_container.id == id) {
            Some(node_container) if how == "found" && node_container.power == Power::Stopped => {
                Ok(CloudProgress::Done)
            }
            Some(node_container) => self.booted(docker, &node_container.id, &spec.name).await,
            None => Err(Error::not_found(format!("node {}", spec.name))),
        }
    }

    /// Returns the node's container. Creates it if it is missing, but does not start it. Returns
    /// `None` if the name belongs to a container that the engine does not list yet.
    async fn create(
        &self,
        docker: &Docker,
        node: &NodeName,
        flavour: Flavour,
        avoid: &BTreeSet<Ipv4Addr>,
    ) -> Result<Option<NodeContainer>> {
        let privileged = self.may_be_privileged(docker, flavour).await?;
        let _choosing = CHOOSING.lock().await;
        let network_labels = self.labels();
        let subnet = self.network(&network_labels).ensure(docker).await?;
        let volume = self.ensure_volume(docker, node).await?;
        let mut taken: BTreeSet<Ipv4Addr> = self
            .node_containers(docker)
            .await?
            .into_iter()
            .filter_map(|node_container| node_container.address)
            .collect();
        taken.extend(avoid);
        let free = || subnet.lowest_free(&taken);
        let address = self.fixed_address().or_else(free);
        let address = address.ok_or_else(|| {
            Error::exhausted(
                format!("addresses in {subnet}"),
                "all addresses are assigned to nodes",
                "delete nodes, or delete the platform and choose a larger `subnet`",
            )
        })?;
        let spec = NodeContainerSpec {
            node,
            image: flavour.tag(),
            network: &self.prefix,
            address,
            volume,
            labels: self.node_labels(node),
            origin: match &self.options.first_boot {
                Some(first_boot) => Origin::FirstBoot(first_boot),
                None => Origin::Image(&self.options.authorized_key),
            },
            host_socket: (self.options.manager_node.as_ref() == Some(node))
                .then_some(self.options.socket.as_path()),
            privileged,
        };
        let options = CreateContainerOptions {
            name: Some(self.container_name(node)),
            ..CreateContainerOptions::default()
        };
        match docker.create_container(Some(options), spec.body()).await {
            Ok(_) => tracing::info!(%node, %address, "created the container of a local node"),
            // Another process created the container meanwhile; its labels are checked below.
            Err(error) if status(&error) == Some(409) => {}
            Err(error) => return Err(engine_error(&format!("creating node {node}"), error)),
        }
        self.node_container(docker, node).await
    }

    fn fixed_address(&self) -> Option<Ipv4Addr> {
        self.options.first_boot.as_ref()?.address
    }

    /// Writes the first-boot input to a stock node that never ran. Also replaces input that exists,
    /// in case an earlier call was interrupted.
    pub(super) async fn seed(&self, docker: &Docker, node_container: &NodeContainer) -> Result<()> {
        let (Some(first_boot), true) = (&self.options.first_boot, node_container.fresh) else {
            return Ok(());
        };
        let options = UploadToContainerOptions {
            path: "/".to_owned(),
            ..UploadToContainerOptions::default()
        };
        // To cloud-init, the container's id is the machine's id, so a re-created node runs its
        // first boot again.
        let archive = bollard::body_full(first_boot.seed(&node_container.id)?);
        docker
            .upload_to_container(&node_container.id, Some(options), archive)
            .await
            .map_err(|error| {
                engine_error(
                    &format!("preparing the first boot of node {}", node_container.node),
                    error,
                )
            })
    }

    /// Removes a container that never ran and therefore contains no data of the node.
    async fn discard(&self, docker: &Docker, node_container: &NodeContainer) -> Result<()> {
        // Without `force`, the engine rejects the removal if another process has started the
        // container meanwhile.
        let removed = docker
            .remove_container(&node_container.id, None::<RemoveContainerOptions>)
            .await;
        match absent_is_none(removed) {
            Ok(_) => Ok(()),
            Err(error) if status(&error) == Some(409) => Ok(()),
            Err(error) => Err(engine_error(
                &format!(
                    "removing the unused container of node {}",
                    node_container.node
                ),
                error,
            )),
        }
    }

    async fn ensure_volume(&self, docker: &Docker, node: &NodeName) -> Result<String> {
        let name = self.volume_name(node);
        let request = VolumeCreateRequest {
            name: Some(name.clone()),
            labels: Some(self.node_labels(node)),
            ..VolumeCreateRequest::default()
        };
        // The engine returns the existing volume, if there is one.
        let volume = docker
            .create_volume(request)
            .await
            .map_err(|error| engine_error(&format!("creating volume {name}"), error))?;
        if volume.labels.get(labels::PLATFORM_ID) == Some(&self.platform_id) {
            Ok(name)
        } else {
            Err(foreign_volume(&name))
        }
    }

    /// Removes a node's volume. Succeeds if the volume is absent.
    pub(super) async fn remove_volume(&self, docker: &Docker, node: &NodeName) -> Result<()> {
        let name = self.volume_name(node);
        let what = format!("removing volume {name}");
        let found = absent_is_none(docker.inspect_volume(&name).await)
            .map_err(|error| engine_error(&what, error))?;
        let Some(volume) = found else {
            return Ok(());
        };
        if volume.labels.get(labels::PLATFORM_ID) != Some(&self.platform_id) {
            return Err(foreign_volume(&name));
        }
        absent_is_none(
            docker
                .remove_volume(&name, None::<RemoveVolumeOptions>)
                .await,
        )
        .map(|_| ())
        .map_err(|error| engine_error(&what, error))
    }

    /// Removes the resources that may remain after the last node: volumes of interrupted deletions,
    /// the probe, and the network.
    pub(super) async fn sweep(&self, docker: &Docker) -> Result<()> {
        let options = ListVolumesOptions {
            filters: Some(self.node_filter()),
        };
        let volumes = docker
            .list_volumes(Some(options))
            .await
            .map_err(|error| engine_error("listing the volumes of local nodes", error))?;
        for volume in volumes.volumes.unwrap_or_default() {
            absent_is_none(
                docker
                    .remove_volume(&volume.name, None::<RemoveVolumeOptions>)
                    .await,
            )
            .map_err(|error| engine_error(&format!("removing volume {}", volume.name), error))?;
        }
        self.remove_probe(docker).await?;
        let labels = self.labels();
        self.network(&labels).remove(docker).await
    }

    /// Returns whether the engine may start privileged containers. Starts one to find out.
    async fn may_be_privileged(&self, docker: &Docker, flavour: Flavour) -> Result<bool> {
        // Hold the lock during the probe: two probes for the same platform would have the same
        // name.
        let mut known = PRIVILEGED.lock().await;
        if let Some(may) = known.get(&self.options.socket) {
            return Ok(*may);
        }
        let may = self.probe(docker, flavour).await?;
        known.insert(self.options.socket.clone(), may);
        Ok(may)
    }

    async fn probe(&self, docker: &Docker, flavour: Flavour) -> Result<bool> {
        self.remove_probe(docker).await?;
        let name = self.probe_name();
        let body = ContainerCreateBody {
            image: Some(flavour.tag()),
            entrypoint: Some(vec!["/bin/true".to_owned()]),
            labels: Some(self.labels()),
            host_config: Some(HostConfig {
                privileged: Some(true),
                network_mode: Some("none".to_owned()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptions {
            name: Some(name.clone()),
            ..CreateContainerOptions::default()
        };
        match docker.create_container(Some(options), body).await {
            Ok(_) => {}
            // Another process has created the probe. Start that probe; the result is the same.
            Err(error) if status(&error) == Some(409) => {}
            Err(error) => return Err(engine_error("checking the engine's privileges", error)),
        }
        let may = match docker.start_container(&name, None).await {
            Ok(()) => true,
            Err(error) if refused_for(&error, "operation not permitted") => {
                tracing::debug!("the engine cannot start privileged containers");
                false
            }
            Err(error) => return Err(engine_error("checking the engine's privileges", error)),
        };
        self.remove_probe(docker).await?;
        Ok(may)
    }

    async fn remove_probe(&self, docker: &Docker) -> Result<()> {
        let options = RemoveContainerOptions {
            force: true,
            v: true,
            ..RemoveContainerOptions::default()
        };
        let removed = docker
            .remove_container(&self.probe_name(), Some(options))
            .await;
        match absent_is_none(removed) {
            Ok(_) => Ok(()),
            // Another process is removing the probe.
            Err(error) if status(&error) == Some(409) => Ok(()),
            Err(error) => Err(engine_error("checking the engine's privileges", error)),
        }
    }

    /// Returns the name of the probe's container, which differs from the names of all nodes'
    /// containers.
    fn probe_name(&self) -> String {
        format!("{}-privilege-probe", self.prefix)
    }
}

/// Converts the error if a node's container does not start.
pub(super) fn start_error(node: &NodeName, error: bollard::errors::Error) -> Error {
    let what = format!("starting node {node}");
    match error {
        error if refused_for(&error, "address already in use") => Error::conflict(
            format!("the address of node {node}"),
            "another container uses this address",
        ),
        // Here, status 404 means that something the container needs is missing, not the container.
        bollard::errors::Error::DockerResponseServerError {
            status_code: 404,
            message,
        } => Error::failed(what, message),
        error => engine_error(&what, error),
    }
}

fn foreign_volume(name: &str) -> Error {
    Error::conflict(
        format!("volume {name}"),
        "a volume with this name exists, but does not belong to this platform",
    )
}
