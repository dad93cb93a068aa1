//! Creates, starts, stops, and removes containers and their volumes on an engine.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, Volume, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
    ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptions,
    StartContainerOptions, StopContainerOptionsBuilder,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use lifecycle_core::clock::{Clock as _, SystemClock};
use lifecycle_core::model::{DEFAULT_STOP_GRACE, Protocol, PublishedPort, VolumeMount, VolumeName};
use lifecycle_core::runtime::{ContainerSpec, ObservedContainer, Owner, vanished};
use lifecycle_core::{Error, Result};

use super::bound;
use super::port::{self, HostPort};
use super::{DockerEngine, QUICK, spec, transport};
use crate::{inspect, labels};

/// Time limit for creating or starting a container, which may take long on a busy host.
const PATIENT: Duration = Duration::from_mins(3);
/// Poll interval while a container is being removed.
const PACE: Duration = Duration::from_millis(50);
/// How long the engine may take to report why it killed a container.
const LATE_REPORT: Duration = Duration::from_millis(300);
/// The number of concurrent inspections. Each uses a kept connection.
const PARALLEL: usize = transport::KEPT;
/// The number of attempts to find free host ports. An attempt fails only if a program outside
/// containers uses a port.
const PORT_TRIES: usize = 20;

/// The result of a start.
enum Started {
    Yes,
    /// A host port is already in use; contains the engine's message.
    PortTaken(String),
    /// The host does not have an address at which a port is bound.
    AddressMissing(Error),
}

/// Returns one mount of each volume of a container.
fn mounts(spec: &ContainerSpec) -> impl Iterator<Item = &VolumeMount> {
    let mounts = spec.template.volumes.iter();
    let by_volume: BTreeMap<&VolumeName, &VolumeMount> =
        mounts.map(|mount| (&mount.volume, mount)).collect();
    by_volume.into_values()
}

/// Returns whether the engine created a volume together with its container.
fn is_substitute(volume: &Volume) -> bool {
    volume.labels.contains_key(labels::SUBSTITUTE)
}

/// Returns the command that creates a volume which the platform accepts.
fn create_command(owner: &Owner, mount: &VolumeMount, name: &str) -> String {
    if mount.options.external {
        return format!("docker volume create {name}");
    }
    let labels = spec::volume_labels(owner, mount).into_iter();
    let labels: BTreeSet<String> = labels
        .map(|(key, value)| format!("--label {key}={value}"))
        .collect();
    let labels: Vec<String> = labels.into_iter().collect();
    format!("docker volume create {} {name}", labels.join(" "))
}

/// Returns the error for a volume that should exist, but does not.
fn missing(mount: &VolumeMount, name: &str) -> Error {
    if !mount.options.external {
        return vanished(&mount.volume);
    }
    Error::invalid(
        format!("the external volume {name}"),
        "the node's engine has no volume with this name",
        "create the volume on the node with `docker volume create`, or declare the volume without \
         `external`",
    )
}

impl DockerEngine {
    /// Returns the ids of all containers of the platform.
    pub(super) async fn container_ids(&self) -> Result<Vec<String>> {
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&self.filter())
            .build();
        let list = self.docker.list_containers(Some(options));
        let listed = self.within(QUICK, "listing containers", list).await?;
        Ok(listed.into_iter().filter_map(|c| c.id).collect())
    }

    /// Returns the containers with these ids, sorted by name. Omits containers that were removed
    /// meanwhile.
    pub(super) async fn containers(&self, ids: Vec<String>) -> Result<Vec<ObservedContainer>> {
        let mut containers: Vec<ObservedContainer> = stream::iter(ids)
            .map(|id| async move { self.observe(&id).await })
            .buffer_unordered(PARALLEL)
            .try_filter_map(|container| async { Ok(container) })
            .try_collect()
            .await?;
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(containers)
    }

    /// Returns the container with this name or id, if it exists and belongs to the platform.
    pub(super) async fn observe(&self, container: &str) -> Result<Option<ObservedContainer>> {
        let mut found = self.inspect(container).await?;
        let now = SystemClock.now();
        if { found.iter() }.any(|found| inspect::may_have_exceeded_its_memory(found, now)) {
            tokio::time::sleep(LATE_REPORT).await;
            found = self.inspect(container).await?;
        }
        match found {
            Some(found) if self.owns(&found) => inspect::container(found, self.bound.reached()),
            Some(_) | None => Ok(None),
        }
    }

    fn owns(&self, found: &ContainerInspectResponse) -> bool {
        let labels = found.config.as_ref().and_then(|c| c.labels.as_ref());
        labels
            .and_then(|found| found.get(labels::PLATFORM_ID))
            .is_some_and(|id| *id == self.owner.id.to_string())
    }

    /// Returns the platform's volumes, by their names in the declaration.
    pub(super) async fn volumes(&self) -> Result<BTreeSet<VolumeName>> {
        let options = ListVolumesOptionsBuilder::default()
            .filters(&self.filter())
            .build();
        let list = self.docker.list_volumes(Some(options));
        let listed = self.within(QUICK, "listing volumes", list).await?;
        Ok(listed
            .volumes
            .unwrap_or_default()
            .iter()
            .filter_map(|volume| volume.labels.get(labels::VOLUME))
            .filter_map(|name| VolumeName::try_from(name.as_str()).ok())
            .collect())
    }

    pub(super) fn filter(&self) -> HashMap<String, Vec<String>> {
        let label = format!("{}={}", labels::PLATFORM_ID, self.owner.id);
        HashMap::from([("label".to_owned(), vec![label])])
    }

    async fn inspect(&self, name: &str) -> Result<Option<ContainerInspectResponse>> {
        let what = format!("inspecting container {name}");
        let inspect = self
            .docker
            .inspect_container(name, None::<InspectContainerOptions>);
        match self.within(QUICK, &what, inspect).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the container with this name, if it exists. If the container belongs to another
    /// owner, the error names that owner.
    pub(super) async fn owned(&self, name: &str) -> Result<Option<ContainerInspectResponse>> {
        let Some(found) = self.inspect(name).await? else {
            return Ok(None);
        };
        let labels = found.config.as_ref().and_then(|c| c.labels.as_ref());
        self.check_owner(&format!("container {name}"), labels)?;
        Ok(Some(found))
    }

    fn check_owner(&self, what: &str, labels: Option<&HashMap<String, String>>) -> Result<()> {
        let label = |key: &str| labels.and_then(|l| l.get(key)).map(String::as_str);
        let why = match label(labels::PLATFORM_ID) {
            Some(id) if id == self.owner.id.to_string() => return Ok(()),
            Some(id) => format!(
                "it belongs to platform {} ({id})",
                label(labels::PLATFORM).unwrap_or("unnamed")
            ),
            None => {
                "it belongs to no platform, but the platform needs its name; remove or rename it"
                    .to_owned()
            }
        };
        Err(Error::conflict(what, why))
    }

    pub(super) async fn ensure(&self, spec: &ContainerSpec) -> Result<ObservedContainer> {
        self.metadata.block().await?;
        let mut found = self.owned(&spec.name).await?;
        if found.as_ref().is_some_and(inspect::is_being_removed) {
            // Wait until the container is gone. Until then, it cannot be started, and its name is
            // in use.
            self.delete(&spec.name).await?;
            found = None;
        }
        let was_found = found.is_some();
        let mut is_new = true;
        if let Some(found) = found {
            same_digest(spec, &found)?;
            is_new = inspect::was_never_started(&found);
        } else {
            self.ensure_volumes(spec).await?;
            if spec.template.metadata_service {
                self.ensure_metadata_network().await?;
            }
            self.create(spec, &BTreeSet::new()).await?;
        }
        let mut taken = BTreeSet::new();
        for _ in 0..PORT_TRIES {
            if is_new {
                self.check_new(spec, was_found).await?;
            }
            match self.start(&spec.name).await? {
                Started::Yes => return self.observed(&spec.name).await,
                Started::PortTaken(message) => {
                    self.recreate_with_other_ports(spec, &message, &mut taken)
                        .await?;
                }
                Started::AddressMissing(error) => {
                    self.recreate_at_another_address(spec, error, &taken)
                        .await?;
                }
            }
        }
        Err(Error::exhausted(
            format!("host ports for container {}", spec.name),
            format!("no free port was found in {PORT_TRIES} attempts"),
            "make ports available between 20000 and 29999 on the node",
        ))
    }

    /// Re-creates the container, and replaces the host ports that are already in use. Fails if one
    /// of these ports is fixed.
    async fn recreate_with_other_ports(
        &self,
        spec: &ContainerSpec,
        message: &str,
        taken: &mut BTreeSet<HostPort>,
    ) -> Result<()> {
        let container = self.observed(&spec.name).await?;
        let had: BTreeSet<HostPort> = container.ports.iter().map(|p| (p.2, p.1)).collect();
        let conflicts = port::conflicting(message, &had);
        if let Some((host, _)) = port::named(message, &published(spec)).first() {
            return Err(Error::conflict(
                format!("host port {host} for container {}", spec.name),
                message,
            ));
        }
        taken.extend(conflicts);
        taken.extend(self.published().await?);
        tracing::debug!(container = spec.name, message, "trying another host port");
        self.delete(&spec.name).await?;
        self.create(spec, taken).await
    }

    /// Re-creates a container whose chosen ports are bound at an address that the host does not
    /// have: the node's earlier address, or one that the network translates. Returns `error` if the
    /// address is a declared one.
    async fn recreate_at_another_address(
        &self,
        spec: &ContainerSpec,
        error: Error,
        taken: &BTreeSet<HostPort>,
    ) -> Result<()> {
        let found = self.existing(&spec.name).await?;
        let message = error.to_string();
        let Some(address) = inspect::address(&found).filter(|ip| bound::names(&message, *ip))
        else {
            return Err(error);
        };
        if self.bound.for_new() == Some(address) {
            self.bound.set_absent();
            tracing::warn!(
                %address,
                "the node does not have its private address itself, so container ports are bound \
                 at all its addresses"
            );
        }
        self.delete(&spec.name).await?;
        self.create(spec, taken).await
    }

    /// Returns the host ports of all running containers of all platforms.
    async fn published(&self) -> Result<BTreeSet<HostPort>> {
        let options = ListContainersOptionsBuilder::default().build();
        let list = self.docker.list_containers(Some(options));
        let listed = self.within(QUICK, "listing host ports", list).await?;
        Ok(listed
            .into_iter()
            .flat_map(|container| container.ports.unwrap_or_default())
            .filter_map(|port| {
                let protocol = match port.typ?.as_ref() {
                    "tcp" => Protocol::Tcp,
                    "udp" => Protocol::Udp,
                    _ => return None,
                };
                Some((port.public_port?, protocol))
            })
            .collect())
    }

    async fn ensure_volumes(&self, spec: &ContainerSpec) -> Result<()> {
        for mount in mounts(spec) {
            let what = format!("creating volume {}", mount.volume);
            let name = spec::volume_name(&self.owner, mount);
            if mount.options.external || spec.used_volumes.contains(&mount.volume) {
                let Some(found) = self.volume(&name).await? else {
                    return Err(missing(mount, &name));
                };
                self.check_volume(mount, &found)?;
                continue;
            }
            let options = mount.options.driver_opts.iter();
            let options = options.map(|(key, value)| (key.clone(), value.expose().to_owned()));
            let create = self.docker.create_volume(VolumeCreateRequest {
                name: Some(name),
                driver: mount.options.driver.clone(),
                driver_opts: Some(options.collect::<HashMap<_, _>>()).filter(|o| !o.is_empty()),
                labels: Some(spec::volume_labels(&self.owner, mount)),
                ..VolumeCreateRequest::default()
            });
            // The engine returns an existing volume unchanged.
            let volume = self.within(QUICK, &what, create).await?;
            self.check_volume(mount, &volume)?;
        }
        Ok(())
    }

    async fn volume(&self, name: &str) -> Result<Option<Volume>> {
        let what = format!("reading volume {name}");
        let found = self.docker.inspect_volume(name);
        match self.within(QUICK, &what, found).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Checks that a volume was not created by the engine, and that one that is not external has the
    /// labels of the platform.
    fn check_volume(&self, mount: &VolumeMount, found: &Volume) -> Result<()> {
        let what = format!("volume {}", found.name);
        let why = if is_substitute(found) {
            "the engine created it, empty, in place of one that was removed"
        } else if mount.options.external {
            return Ok(());
        } else if found.labels.is_empty() {
            "it has no labels, so it does not belong to the platform"
        } else {
            return self.check_owner(&what, Some(&found.labels));
        };
        let create = create_command(&self.owner, mount, &found.name);
        Err(Error::invalid(
            what,
            why,
            format!(
                "if it is empty, remove it on the node with `docker volume rm {name}`; to restore \
                 data, create it with `{create}` first",
                name = found.name,
            ),
        ))
    }

    /// Checks the volumes of a container that was never started. If one vanished just before the
    /// container was created, the engine has created an empty one in its place. Removes the
    /// container, and the volume, too, if the container did not exist before this call: later,
    /// somebody may have restored data into it.
    async fn check_new(&self, spec: &ContainerSpec, was_found: bool) -> Result<()> {
        for mount in mounts(spec) {
            let name = spec::volume_name(&self.owner, mount);
            let Some(found) = self.volume(&name).await? else {
                self.delete(&spec.name).await?;
                return Err(missing(mount, &name));
            };
            let Err(error) = self.check_volume(mount, &found) else {
                continue;
            };
            self.delete(&spec.name).await?;
            if was_found || !is_substitute(&found) {
                return Err(error);
            }
            let what = format!("removing the new volume {name}");
            let remove = self
                .docker
                .remove_volume(&name, None::<RemoveVolumeOptions>);
            return match self.within(PATIENT, &what, remove).await {
                Ok(()) | Err(Error::NotFound { .. }) => Err(missing(mount, &name)),
                // Another container already uses it.
                Err(Error::Conflict { .. }) => Err(error),
                Err(error) => Err(error),
            };
        }
        Ok(())
    }

    /// Creates the container. If another caller created the same container meanwhile, that
    /// container is used.
    async fn create(&self, spec: &ContainerSpec, taken: &BTreeSet<HostPort>) -> Result<()> {
        let spec = &with_chosen_ports(spec, taken)?;
        let ports = if spec.host_network {
            BTreeMap::new()
        } else {
            let taken = taken.union(&published(spec)).copied().collect();
            port::assign(&spec.ports, &taken).ok_or_else(|| {
                Error::exhausted(
                    format!("host ports for container {}", spec.name),
                    "all ports in the platform's range are already in use",
                    "make ports available between 20000 and 29999 on the node",
                )
            })?
        };
        let what = format!("creating container {}", spec.name);
        // The engine would keep a name, which another container can have later.
        let joined = match &spec.joins {
            Some(name) => self.existing(name).await?.id,
            None => None,
        };
        let options = CreateContainerOptionsBuilder::default()
            .name(&spec.name)
            .build();
        let create = self.docker.create_container(
            Some(options),
            spec::create_body(spec, &ports, self.bound.for_new(), joined.as_deref()),
        );
        match self.within(PATIENT, &what, create).await {
            Ok(_) => Ok(()),
            Err(conflict @ Error::Conflict { .. }) => match self.owned(&spec.name).await? {
                Some(found) => same_digest(spec, &found),
                None => Err(conflict),
            },
            Err(error) => Err(error),
        }
    }

    async fn start(&self, name: &str) -> Result<Started> {
        let what = format!("starting container {name}");
        let start = self
            .docker
            .start_container(name, None::<StartContainerOptions>);
        match self.within(PATIENT, &what, start).await {
            Ok(()) => Ok(Started::Yes),
            Err(Error::Failed { why, .. } | Error::Conflict { why, .. })
                if port::is_conflict(&why) =>
            {
                Ok(Started::PortTaken(why))
            }
            Err(error @ Error::Failed { .. }) if bound::is_missing(&error.to_string()) => {
                Ok(Started::AddressMissing(error))
            }
            Err(error) => Err(error),
        }
    }

    async fn observed(&self, name: &str) -> Result<ObservedContainer> {
        let found = self.existing(name).await?;
        inspect::container(found, self.bound.reached())?.ok_or_else(|| {
            Error::conflict(
                format!("container {name}"),
                "the container has an unknown role or is being removed",
            )
        })
    }

    pub(super) async fn existing(&self, name: &str) -> Result<ContainerInspectResponse> {
        self.owned(name)
            .await?
            .ok_or_else(|| Error::not_found(format!("container {name}")))
    }

    pub(super) async fn start_existing(&self, name: &str) -> Result<()> {
        self.existing(name).await?;
        self.metadata.block().await?;
        match self.start(name).await? {
            Started::Yes => Ok(()),
            Started::PortTaken(why) => Err(Error::conflict(
                format!("a host port of container {name}"),
                why,
            )),
            Started::AddressMissing(error) => Err(error),
        }
    }

    pub(super) async fn stop(&self, name: &str, grace: Option<Duration>) -> Result<()> {
        let Some(found) = self.owned(name).await? else {
            return Ok(());
        };
        let mut options = StopContainerOptionsBuilder::default();
        let waits = match grace {
            Some(grace) => {
                let seconds = spec::whole_seconds(grace);
                options = options.t(i32::try_from(seconds).unwrap_or(i32::MAX));
                grace
            }
            None => found
                .config
                .and_then(|c| c.stop_timeout)
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map_or(DEFAULT_STOP_GRACE, Duration::from_secs),
        };
        let what = format!("stopping container {name}");
        // Stopping may take the whole grace period, so use a separate connection.
        let stop = self.streams.stop_container(name, Some(options.build()));
        match self
            .within(waits.saturating_add(PATIENT), &what, stop)
            .await
        {
            // The engine's client also reports success if the container was already stopped.
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn delete(&self, name: &str) -> Result<()> {
        if self.owned(name).await?.is_none() {
            return Ok(());
        }
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        let what = format!("removing container {name}");
        let remove = self.docker.remove_container(name, Some(options));
        match self.within(PATIENT, &what, remove).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            // Another call is removing the container, so wait until it is gone.
            Err(Error::Conflict { .. }) => self.wait_until_removed(name, what).await,
            Err(error) => Err(error),
        }
    }

    /// Waits until the container is gone. Polls, because the engine's `wait` call fails if the
    /// container is already gone.
    async fn wait_until_removed(&self, name: &str, what: String) -> Result<()> {
        let watch = async {
            while self.owned(name).await?.is_some() {
                tokio::time::sleep(PACE).await;
            }
            Ok(())
        };
        match tokio::time::timeout(QUICK, watch).await {
            Ok(gone) => gone,
            Err(_) => Err(Error::interrupted(what, None)),
        }
    }

    /// Removes all volumes with the platform's label for `volume`.
    pub(super) async fn delete_volume(&self, volume: &VolumeName) -> Result<()> {
        let what = format!("removing volume {volume}");
        let mut filter = self.filter();
        let labels = filter.entry("label".to_owned()).or_default();
        labels.push(spec::volume_label(volume));
        let options = ListVolumesOptionsBuilder::default()
            .filters(&filter)
            .build();
        let list = self.docker.list_volumes(Some(options));
        let listed = self.within(QUICK, &what, list).await?;
        for found in listed.volumes.unwrap_or_default() {
            let remove = self
                .docker
                .remove_volume(&found.name, None::<RemoveVolumeOptions>);
            match self.within(PATIENT, &what, remove).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Returns the specification with one of the host ports of each choice as a fixed one, outside `taken`.
/// Fails if all of them are taken.
fn with_chosen_ports<'a>(
    spec: &'a ContainerSpec,
    taken: &BTreeSet<HostPort>,
) -> Result<Cow<'a, ContainerSpec>> {
    if spec.template.port_choices.is_empty() {
        return Ok(Cow::Borrowed(spec));
    }
    let mut spec = spec.clone();
    let replica = spec.replica();
    let mut used = taken.union(&published(&spec)).copied().collect();
    for choice in std::mem::take(&mut spec.template.port_choices) {
        let Some(host_port) = port::choose(&choice, replica, &mut used) else {
            let first = choice.candidates.first().copied().unwrap_or_default();
            let last = choice.candidates.last().copied().unwrap_or_default();
            return Err(Error::exhausted(
                format!("host ports for container {}", spec.name),
                format!("all declared ports from {first} to {last} are already in use"),
                "publish a larger range in `ports`, or make its ports available on the node",
            ));
        };
        spec.template.ports.push(PublishedPort {
            host_port: Some(host_port),
            container_port: choice.container_port,
            protocol: choice.protocol,
            host_ip: choice.host_ip,
        });
    }
    Ok(Cow::Owned(spec))
}

/// Returns the host ports that the template publishes.
fn published(spec: &ContainerSpec) -> BTreeSet<HostPort> {
    let ports = spec.template.ports.iter();
    let ports = ports.filter_map(|port| port.host_port.map(|host| (host, port.protocol)));
    ports.collect()
}

fn same_digest(spec: &ContainerSpec, found: &ContainerInspectResponse) -> Result<()> {
    let labels = found.config.as_ref().and_then(|c| c.labels.as_ref());
    let digest = labels.and_then(|l| l.get(labels::SPEC_DIGEST));
    if digest.is_some_and(|d| d == spec.digest.as_str()) {
        return Ok(());
    }
    Err(Error::conflict(
        format!("container {}", spec.name),
        "the existing container was created from another specification",
    ))
}
