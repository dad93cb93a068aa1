//! Making a node: image, network, volume, address, container, first boot.

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
use super::machine::{Machine, MachineSpec, Origin};
use super::{LocalNodes, soon};
use crate::labels;

/// How often another address is tried, should other processes take one after the other.
const ADDRESS_TRIES: usize = 16;
/// How often, and after what pause, it is looked whether a container appears whose name the
/// engine has given away already.
const NAME_TRIES: u32 = 50;
const NAME_PAUSE: Duration = Duration::from_millis(100);

/// Held while the network is looked for and an address in it is chosen and taken: several providers
/// of one process may make nodes of one platform.
static CHOOSING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Whether an engine, by its socket, may start privileged containers; asked once in a process.
static PRIVILEGED: tokio::sync::Mutex<BTreeMap<PathBuf, bool>> =
    tokio::sync::Mutex::const_new(BTreeMap::new());

/// How far a provision is.
#[derive(Debug)]
pub(super) enum Provision {
    /// Its image is being built; what the build does now.
    Building(String),
    /// This call made the container, or started one that was never started.
    Made(Machine),
    /// The container was there.
    Found(Machine),
}

/// The token of a provision that waits for its image.
const WAITS: &str = "image";

impl Provision {
    /// What a later poll, in any process, has to know.
    pub(super) fn token(&self) -> String {
        match self {
            Self::Building(_) => WAITS.to_owned(),
            Self::Made(machine) => format!("made:{}", machine.id),
            Self::Found(machine) => format!("found:{}", machine.id),
        }
    }
}

impl LocalNodes {
    /// Goes on with a provision from wherever it is. `again` builds an image anew whose build
    /// has failed.
    pub(super) async fn provision(
        &self,
        docker: &Docker,
        spec: &NodeSpec,
        again: bool,
    ) -> Result<Provision> {
        let flavour = self.check(spec)?;
        let what = format!("making node {}", spec.name);
        let mut avoid = BTreeSet::new();
        let mut named = 0;
        loop {
            let machine = match self.machine(docker, &spec.name).await? {
                Some(machine) if machine.power == Power::Stopping => {
                    self.wait(docker, &machine.id, "removed", &what).await?;
                    continue;
                }
                Some(machine) if !machine.fresh => return Ok(Provision::Found(machine)),
                Some(machine) => machine,
                None => match self.builds.ensure(docker, flavour, again).await? {
                    Availability::Building(says) => return Ok(Provision::Building(says)),
                    Availability::Ready => {
                        match self.create(docker, &spec.name, flavour, &avoid).await? {
                            Some(machine) => machine,
                            // A call that was dropped, or another process, is being served:
                            // the engine reserves the name first and shows the container last.
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
            if !machine.fresh {
                return Ok(Provision::Found(machine));
            }
            self.seed(docker, &machine).await?;
            match docker.start_container(&machine.id, None).await {
                Ok(()) => return Ok(Provision::Made(machine)),
                // Another process gave the address to another node meanwhile. This one never
                // ran, so it is made again with the next one.
                Err(error)
                    if refused_for(&error, "address already in use")
                        && self.fixed_address().is_none()
                        && avoid.len() < ADDRESS_TRIES =>
                {
                    avoid.extend(machine.address);
                    self.discard(docker, &machine).await?;
                }
                Err(error) => return Err(start_error(&spec.name, error)),
            }
        }
    }

    /// How far the provision with this token is.
    pub(super) async fn provisioned(
        &self,
        docker: &Docker,
        spec: &NodeSpec,
        token: &str,
    ) -> Result<CloudProgress> {
        if token == WAITS {
            return match self.provision(docker, spec, false).await? {
                Provision::Building(says) => Ok(soon(says)),
                Provision::Made(machine) | Provision::Found(machine) => {
                    self.booted(docker, &machine.id, &spec.name).await
                }
            };
        }
        // An operation that made or found a container is about that one: what was deleted
        // since is not made again by asking.
        let (how, id) = token.split_once(':').ok_or_else(|| {
            Error::corrupt(
                format!("the token of provisioning node {}", spec.name),
                format!("`{token}` is none of ours"),
            )
        })?;
        let machine = self.machine(docker, &spec.name).await?;
        match machine.filter(|machine| machine.id == id) {
            Some(machine) if how == "found" && machine.power == Power::Stopped => {
                Ok(CloudProgress::Done)
            }
            Some(machine) => self.booted(docker, &machine.id, &spec.name).await,
            None => Err(Error::not_found(format!("node {}", spec.name))),
        }
    }

    /// The node's container, made if there is none; not started. `None` if its name is taken
    /// by one that does not show yet.
    async fn create(
        &self,
        docker: &Docker,
        node: &NodeName,
        flavour: Flavour,
        avoid: &BTreeSet<Ipv4Addr>,
    ) -> Result<Option<Machine>> {
        let privileged = self.may_be_privileged(docker, flavour).await?;
        let _choosing = CHOOSING.lock().await;
        let network_labels = self.labels();
        let subnet = self.network(&network_labels).ensure(docker).await?;
        let volume = self.ensure_volume(docker, node).await?;
        let mut taken: BTreeSet<Ipv4Addr> = self
            .machines(docker)
            .await?
            .into_iter()
            .filter_map(|machine| machine.address)
            .collect();
        taken.extend(avoid);
        let free = || subnet.lowest_free(&taken);
        let address = self.fixed_address().or_else(free);
        let address = address.ok_or_else(|| {
            Error::exhausted(
                format!("addresses in {subnet}"),
                "each has a node",
                "delete nodes, or begin anew with a larger `subnet`",
            )
        })?;
        let spec = MachineSpec {
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
            Ok(_) => tracing::info!(%node, %address, "made the container of a local node"),
            // Made meanwhile by another process; whether it is ours shows below.
            Err(error) if status(&error) == Some(409) => {}
            Err(error) => return Err(engine_error(&format!("node {node}"), error)),
        }
        self.machine(docker, node).await
    }

    fn fixed_address(&self) -> Option<Ipv4Addr> {
        self.options.first_boot.as_ref()?.address
    }

    /// Gives a stock node that never ran what its first boot reads; again, should a call before
    /// have broken off.
    pub(super) async fn seed(&self, docker: &Docker, machine: &Machine) -> Result<()> {
        let (Some(first_boot), true) = (&self.options.first_boot, machine.fresh) else {
            return Ok(());
        };
        let options = UploadToContainerOptions {
            path: "/".to_owned(),
            ..UploadToContainerOptions::default()
        };
        // The container's id is the machine's: what is made anew boots for the first time again.
        let archive = bollard::body_full(first_boot.seed(&machine.id)?);
        docker
            .upload_to_container(&machine.id, Some(options), archive)
            .await
            .map_err(|error| engine_error(&format!("the first boot of {}", machine.node), error))
    }

    /// Removes a container that never ran, with nothing of the node's in it.
    async fn discard(&self, docker: &Docker, machine: &Machine) -> Result<()> {
        // Without force: should another process have started it by now, the engine refuses.
        let removed = docker
            .remove_container(&machine.id, None::<RemoveContainerOptions>)
            .await;
        match absent_is_none(removed) {
            Ok(_) => Ok(()),
            Err(error) if status(&error) == Some(409) => Ok(()),
            Err(error) => Err(engine_error(&format!("node {}", machine.node), error)),
        }
    }

    async fn ensure_volume(&self, docker: &Docker, node: &NodeName) -> Result<String> {
        let name = self.volume_name(node);
        let request = VolumeCreateRequest {
            name: Some(name.clone()),
            labels: Some(self.node_labels(node)),
            ..VolumeCreateRequest::default()
        };
        // The engine answers with the volume that is there, if there is one.
        let volume = docker
            .create_volume(request)
            .await
            .map_err(|error| engine_error(&format!("volume {name}"), error))?;
        if volume.labels.get(labels::PLATFORM_ID) == Some(&self.platform_id) {
            Ok(name)
        } else {
            Err(foreign_volume(&name))
        }
    }

    /// Removes a node's volume. Absent is Ok.
    pub(super) async fn remove_volume(&self, docker: &Docker, node: &NodeName) -> Result<()> {
        let name = self.volume_name(node);
        let what = format!("volume {name}");
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

    /// Removes all that may be left once no node is: volumes of deletions that broke off, the
    /// probe, the network.
    pub(super) async fn sweep(&self, docker: &Docker) -> Result<()> {
        let options = ListVolumesOptions {
            filters: Some(self.node_filter()),
        };
        let volumes = docker
            .list_volumes(Some(options))
            .await
            .map_err(|error| engine_error("the volumes of local nodes", error))?;
        for volume in volumes.volumes.unwrap_or_default() {
            absent_is_none(
                docker
                    .remove_volume(&volume.name, None::<RemoveVolumeOptions>)
                    .await,
            )
            .map_err(|error| engine_error(&format!("volume {}", volume.name), error))?;
        }
        self.remove_probe(docker).await?;
        let labels = self.labels();
        self.network(&labels).remove(docker).await
    }

    /// Whether the engine may start privileged containers. It may not say so before it has
    /// tried: its own capabilities can be bounded by what started it.
    async fn may_be_privileged(&self, docker: &Docker, flavour: Flavour) -> Result<bool> {
        // Held while it is tried: two probes of one platform have one name.
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
            // Another process probes; starting its probe tells as much.
            Err(error) if status(&error) == Some(409) => {}
            Err(error) => return Err(engine_error("the probe for privileges", error)),
        }
        let may = match docker.start_container(&name, None).await {
            Ok(()) => true,
            Err(error) if refused_for(&error, "operation not permitted") => {
                tracing::debug!("the engine starts no privileged containers");
                false
            }
            Err(error) => return Err(engine_error("the probe for privileges", error)),
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
            // Being removed by another process.
            Err(error) if status(&error) == Some(409) => Ok(()),
            Err(error) => Err(engine_error("the probe for privileges", error)),
        }
    }

    /// Cannot be a node's: theirs go on with `-node-`.
    fn probe_name(&self) -> String {
        format!("{}-privilege-probe", self.prefix)
    }
}

/// Why a node's container did not start.
pub(super) fn start_error(node: &NodeName, error: bollard::errors::Error) -> Error {
    let what = format!("starting node {node}");
    match error {
        error if refused_for(&error, "address already in use") => Error::conflict(
            format!("the address of node {node}"),
            "another container took it",
        ),
        // Here a 404 is about what the container needs, not about itself.
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
        "it exists and does not carry this platform's id",
    )
}
