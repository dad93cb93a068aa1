//! The container engine of a simulated machine: its images, containers, volumes and ports. The
//! engine has no timers. Callers pass the current time, and due changes are applied when the engine
//! is accessed.

mod agent;
mod ports;
mod start;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use ports::BoundPort;

use super::ledger::{InstanceKey, Ledger};
use super::world::Rules;
use crate::error::{Error, Result};
use crate::model::{ContainerId, NodeName, PlatformId, Protocol, SpecDigest, VolumeName};
use crate::runtime::{
    ContainerSpec, ContainerState, EngineEvent, EngineState, Health, ImageInfo, LogLine,
    ObservedContainer, Role,
};

/// The delay before the engine restarts a container.
const ENGINE_RESTART: Duration = Duration::from_secs(1);
/// How many events are kept for late readers.
const EVENTS_KEPT: usize = 256;
/// The exit code of a container whose machine lost power.
const POWER_LOST: i64 = 255;

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Image {
    pub(super) id: String,
    /// A digest of what the image was built from; equal for images that behave the same.
    pub(super) contents: String,
    pub(super) exposed: BTreeSet<(u16, Protocol)>,
    pub(super) has_healthcheck: bool,
    pub(super) command: Option<Vec<String>>,
}

impl Image {
    /// Returns an image without exposed ports, health check or command.
    pub(super) fn of_program(contents: &str) -> Self {
        Self {
            id: format!("sha256:{}", hex::encode(Sha256::digest(contents))),
            contents: contents.to_owned(),
            exposed: BTreeSet::new(),
            has_healthcheck: false,
            command: None,
        }
    }

    /// Returns the image as an archive under this name.
    pub(super) fn archive(&self, name: &str) -> Result<Bytes> {
        let archive = serde_json::to_vec(&(name, self))
            .map_err(|error| Error::failed(format!("exporting image {name}"), error.to_string()))?;
        Ok(archive.into())
    }
}

#[derive(Debug, Clone)]
enum Phase {
    Created,
    Running(Run),
    Exited { code: i64, at: Instant },
}

#[derive(Debug, Clone)]
struct Run {
    ready_at: Option<Instant>,
    unready_at: Option<Instant>,
    ends: Option<(Instant, i64)>,
    /// The time up to which health changes were reported as events.
    health_reported: Instant,
}

#[derive(Debug)]
pub(super) struct Container {
    id: ContainerId,
    /// The id of the container's image.
    image: String,
    pub(super) spec: ContainerSpec,
    exposed: BTreeSet<(u16, Protocol)>,
    has_healthcheck: bool,
    command: Vec<String>,
    phase: Phase,
    started: Option<Instant>,
    starts: u64,
    host_ports: BTreeSet<BoundPort>,
    stop_requested: bool,
    restart_at: Option<Instant>,
    /// The container whose network this container joins.
    joins: Option<ContainerId>,
    /// The run of that container whose network this container's run has: its number of starts.
    joined_run: u64,
    pub(super) log: Vec<LogLine>,
}

impl Container {
    pub(super) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running(_))
    }

    pub(super) fn owner(&self) -> PlatformId {
        self.spec.owner.id
    }

    fn answers(&self, now: Instant) -> bool {
        match &self.phase {
            Phase::Running(run) => {
                run.ready_at.is_some_and(|at| at <= now) && run.unready_at.is_none_or(|at| at > now)
            }
            Phase::Created | Phase::Exited { .. } => false,
        }
    }

    fn key(&self) -> Option<InstanceKey> {
        match &self.spec.role {
            Role::Instance(id) => Some((self.spec.owner.id, id.clone())),
            Role::Manager | Role::Agent => None,
        }
    }

    fn next_health(&self, run: &Run) -> Option<Instant> {
        if !self.has_healthcheck {
            return None;
        }
        [run.ready_at, run.unready_at]
            .into_iter()
            .flatten()
            .filter(|at| *at > run.health_reported)
            .min()
    }

    fn next_due(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Running(run) => [run.ends.map(|(at, _)| at), self.next_health(run)]
                .into_iter()
                .flatten()
                .min(),
            Phase::Created | Phase::Exited { .. } => self.restart_at,
        }
    }

    fn observed(&self, now: Instant, rules: &Rules) -> ObservedContainer {
        let state = match &self.phase {
            Phase::Created => ContainerState::Created,
            Phase::Exited { code, at } => ContainerState::Exited {
                code: *code,
                at: Some(rules.date(*at)),
            },
            Phase::Running(run) => ContainerState::Running {
                health: self.has_healthcheck.then(|| {
                    if run.unready_at.is_some_and(|at| at <= now) {
                        Health::Unhealthy
                    } else if run.ready_at.is_some_and(|at| at <= now) {
                        Health::Healthy
                    } else {
                        Health::Starting
                    }
                }),
            },
        };
        let unhealthy = ContainerState::Running {
            health: Some(Health::Unhealthy),
        };
        let is_unhealthy = state == unhealthy;
        ObservedContainer {
            id: self.id.clone(),
            name: self.spec.name.clone(),
            role: self.spec.role.clone(),
            digest: self.spec.digest.clone(),
            digest_version: SpecDigest::VERSION.to_owned(),
            template_digest: self.spec.template_digest.clone(),
            image: self.image.clone(),
            state,
            started_at: self.started.map(|at| rules.date(at)),
            ports: self.host_ports.iter().copied().collect(),
            exposed: self.exposed.iter().copied().collect(),
            has_healthcheck: self.has_healthcheck,
            failed_check: is_unhealthy.then(|| "its health check failed with exit code 1".into()),
            out_of_memory: None,
            joins: self.joins.clone(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Engine {
    pub(super) installed: bool,
    pub(super) images: BTreeMap<String, Image>,
    pub(super) containers: BTreeMap<String, Container>,
    agents: BTreeMap<PlatformId, agent::SharedState>,
    volumes: BTreeSet<(PlatformId, VolumeName)>,
    bound: BTreeMap<(u16, Protocol), String>,
    events: VecDeque<(u64, PlatformId, EngineEvent)>,
    event_count: u64,
    created_count: u64,
    command_count: u64,
    /// The ids of commands that were ended by a call.
    ended_commands: BTreeSet<String>,
}

/// The machine on which an engine runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Here<'a> {
    pub(super) number: u64,
    pub(super) node: &'a NodeName,
    pub(super) fenced: bool,
}

impl Engine {
    /// Returns a new id for a command in a container.
    pub(super) fn new_command(&mut self, container: &str) -> String {
        self.command_count += 1;
        format!("exec {} in {container}", self.command_count)
    }

    pub(super) fn end_command(&mut self, id: &str) {
        self.ended_commands.insert(id.to_owned());
    }

    pub(super) fn has_ended_command(&self, id: &str) -> bool {
        self.ended_commands.contains(id)
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.containers
            .values()
            .filter_map(Container::next_due)
            .min()
    }

    /// Applies all changes that are due at this time.
    pub(super) fn advance(
        &mut self,
        due: Instant,
        here: Here<'_>,
        rules: &Rules,
        ledger: &mut Ledger,
    ) {
        let names: Vec<String> = self
            .containers
            .iter()
            .filter(|(_, container)| container.next_due().is_some_and(|at| at <= due))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            let Some(container) = self.containers.get_mut(&name) else {
                continue;
            };
            match &mut container.phase {
                Phase::Running(run) => match run.ends {
                    Some((at, code)) if at <= due => {
                        self.end(&name, code, at, here, ledger);
                        self.restart_by_itself(&name, at);
                    }
                    _ => {
                        run.health_reported = due;
                        let healthy = run.unready_at.is_none_or(|at| at > due);
                        let (owner, id) = (container.owner(), container.id.clone());
                        let word = if healthy { "healthy" } else { "unhealthy" };
                        self.record_event(owner, id, format!("health_status: {word}"));
                    }
                },
                Phase::Created | Phase::Exited { .. } => {
                    container.restart_at = None;
                    // If a port is in use, the container stays stopped, as in a real engine.
                    let _ = self.start(&name, due, here, rules, ledger);
                }
            }
        }
    }

    /// Starts the containers that start with the engine, after the machine has booted.
    pub(super) fn boot(&mut self, at: Instant, here: Here<'_>, rules: &Rules, ledger: &mut Ledger) {
        let names: Vec<String> = self
            .containers
            .iter()
            .filter(|(_, c)| c.spec.starts_with_engine && !c.stop_requested && c.started.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            let _ = self.start(&name, at, here, rules, ledger);
        }
    }

    /// Ends all running containers when the machine loses power.
    pub(super) fn lose_power(&mut self, at: Instant, here: Here<'_>, ledger: &mut Ledger) {
        let running: Vec<String> = self
            .containers
            .iter()
            .filter(|(_, container)| container.is_running())
            .map(|(name, _)| name.clone())
            .collect();
        for name in running {
            self.end(&name, POWER_LOST, at, here, ledger);
        }
        for container in self.containers.values_mut() {
            container.restart_at = None;
        }
    }

    fn record_event(
        &mut self,
        owner: PlatformId,
        container: ContainerId,
        action: impl Into<String>,
    ) {
        self.event_count += 1;
        let action = action.into();
        let event = EngineEvent { container, action };
        self.events.push_back((self.event_count, owner, event));
        if self.events.len() > EVENTS_KEPT {
            self.events.pop_front();
        }
    }

    /// Returns the number of the latest event.
    pub(super) fn last_event(&self) -> u64 {
        self.event_count
    }

    /// Returns the first event of a platform after the event with this number.
    pub(super) fn event_after(&self, number: u64, owner: PlatformId) -> Option<(u64, EngineEvent)> {
        self.events
            .iter()
            .find(|(n, of, _)| *n > number && *of == owner)
            .map(|(n, _, event)| (*n, event.clone()))
    }

    pub(super) fn state(&self, owner: PlatformId, now: Instant, rules: &Rules) -> EngineState {
        EngineState {
            containers: self
                .containers
                .values()
                .filter(|container| container.owner() == owner)
                .map(|container| container.observed(now, rules))
                .collect(),
            images: self
                .images
                .iter()
                .map(|(name, image)| (name.clone(), image.id.clone()))
                .collect(),
            volumes: self
                .volumes
                .iter()
                .filter(|(of, _)| *of == owner)
                .map(|(_, volume)| volume.clone())
                .collect(),
        }
    }

    pub(super) fn container(
        &self,
        name_or_id: &str,
        owner: PlatformId,
        now: Instant,
        rules: &Rules,
    ) -> Option<ObservedContainer> {
        let found = self.find(name_or_id)?;
        (found.owner() == owner).then(|| found.observed(now, rules))
    }

    pub(super) fn all_observed(&self, now: Instant, rules: &Rules) -> Vec<ObservedContainer> {
        self.containers
            .values()
            .map(|container| container.observed(now, rules))
            .collect()
    }

    /// Finds a container by its name or id, as a real engine does.
    pub(super) fn find(&self, name_or_id: &str) -> Option<&Container> {
        self.containers
            .get(name_or_id)
            .or_else(|| self.containers.values().find(|c| *c.id.0 == *name_or_id))
    }

    pub(super) fn image(&self, name: &str, rules: &Rules) -> Option<ImageInfo> {
        let image = self.find_image(name)?;
        let mut exposed = image.exposed.clone();
        let mut has_healthcheck = image.has_healthcheck;
        if let Some(behaviour) = rules.behaviours.get(service_of(name)) {
            exposed.extend(behaviour.exposed.iter().copied());
            has_healthcheck |= behaviour.has_healthcheck;
        }
        Some(ImageInfo {
            id: image.id.clone(),
            exposed: exposed.into_iter().collect(),
            has_healthcheck,
        })
    }

    /// Finds an image by one of its names or by its id, as in real engines.
    pub(super) fn find_image(&self, name_or_id: &str) -> Option<&Image> {
        let by_id = || self.images.values().find(|image| image.id == name_or_id);
        self.images.get(name_or_id).or_else(by_id)
    }

    /// Gives an image another name; returns whether that changed anything.
    pub(super) fn tag_image(&mut self, image: &str, name: &str) -> Result<bool> {
        let found = self.find_image(image);
        let found = found.ok_or_else(|| Error::not_found(format!("image {image}")))?;
        let found = found.clone();
        let changed = self.images.get(name) != Some(&found);
        self.images.insert(name.to_owned(), found);
        Ok(changed)
    }

    pub(super) fn remove_image(&mut self, name: &str) -> bool {
        let Some(image) = self.images.get(name) else {
            return false;
        };
        let has_other_name = self.images.values().filter(|i| i.id == image.id).count() > 1;
        let used = self.containers.values().any(|c| c.image == image.id);
        (has_other_name || !used) && self.images.remove(name).is_some()
    }

    /// Returns a container by its name. Fails if the container belongs to another platform.
    fn owned(&self, name: &str, owner: PlatformId) -> Result<Option<&Container>> {
        match self.containers.get(name) {
            Some(container) if container.owner() != owner => Err(Error::Conflict {
                what: format!("container {name}"),
                why: "the container belongs to another platform".into(),
            }),
            found => Ok(found),
        }
    }

    /// Ends a running container.
    fn end(&mut self, name: &str, code: i64, at: Instant, here: Here<'_>, ledger: &mut Ledger) {
        let Some(container) = self.containers.get_mut(name) else {
            return;
        };
        container.phase = Phase::Exited { code, at };
        let (owner, id) = (container.owner(), container.id.clone());
        if let Some(key) = container.key() {
            ledger.ended(&key, &(here.number, name.to_owned()));
        }
        self.bound.retain(|_, by| by != name);
        self.record_event(owner, id, "die");
    }

    fn restart_by_itself(&mut self, name: &str, ended: Instant) {
        if let Some(container) = self.containers.get_mut(name)
            && container.spec.starts_with_engine
        {
            container.restart_at = Some(ended + ENGINE_RESTART);
        }
    }

    /// Returns how long a container takes to stop on request, and its exit code.
    pub(super) fn stopping(
        &self,
        name: &str,
        grace: Duration,
        here: Here<'_>,
        rules: &Rules,
    ) -> (Duration, i64) {
        let Some(container) = self.containers.get(name).filter(|c| c.is_running()) else {
            return (Duration::ZERO, 0);
        };
        let purpose = ["stop", here.node.as_str(), name];
        let span = rules.latencies.stop;
        let takes = rules.chance.between(span, &purpose, container.starts);
        if takes > grace {
            (grace, 137)
        } else {
            (takes, 143)
        }
    }

    /// Stops a container of this platform. Returns whether it was running; a missing container is
    /// no error.
    pub(super) fn stop(
        &mut self,
        name: &str,
        owner: PlatformId,
        code: i64,
        now: Instant,
        here: Here<'_>,
        ledger: &mut Ledger,
    ) -> Result<bool> {
        let Some(container) = self.owned(name, owner)? else {
            return Ok(false);
        };
        let runs = container.is_running();
        if let Some(container) = self.containers.get_mut(name) {
            container.stop_requested = true;
            container.restart_at = None;
        }
        if runs {
            self.end(name, code, now, here, ledger);
        }
        Ok(runs)
    }

    /// Kills the process of a container without a request from the platform.
    pub(super) fn kill(
        &mut self,
        name: &str,
        code: i64,
        now: Instant,
        here: Here<'_>,
        ledger: &mut Ledger,
    ) -> bool {
        let runs = self.containers.get(name).is_some_and(Container::is_running);
        if runs {
            self.end(name, code, now, here, ledger);
            self.restart_by_itself(name, now);
        }
        runs
    }

    /// Makes a running container stop answering and fail its health check.
    pub(super) fn make_unhealthy(&mut self, name: &str, now: Instant) -> bool {
        match self.containers.get_mut(name).map(|c| &mut c.phase) {
            Some(Phase::Running(run)) => {
                run.unready_at = Some(now);
                // Make sure that the change is reported as an event.
                run.health_reported = now.checked_sub(Duration::from_nanos(1)).unwrap_or(now);
                true
            }
            _ => false,
        }
    }

    pub(super) fn remove(
        &mut self,
        name: &str,
        owner: PlatformId,
        now: Instant,
        here: Here<'_>,
        ledger: &mut Ledger,
    ) -> Result<bool> {
        if self.owned(name, owner)?.is_none() {
            return Ok(false);
        }
        self.kill(name, 137, now, here, ledger);
        if let Some(removed) = self.containers.remove(name) {
            self.record_event(owner, removed.id, "destroy");
        }
        Ok(true)
    }

    pub(super) fn add_volume(&mut self, volume: &VolumeName, owner: PlatformId) {
        self.volumes.insert((owner, volume.clone()));
    }

    pub(super) fn remove_volume(&mut self, volume: &VolumeName, owner: PlatformId) -> Result<bool> {
        let user = self.containers.values().find(|container| {
            let mounts = &container.spec.template.volumes;
            container.owner() == owner && mounts.iter().any(|mount| mount.volume == *volume)
        });
        if let Some(user) = user {
            return Err(Error::Conflict {
                what: format!("volume {volume}"),
                why: format!("container {} uses the volume", user.spec.name),
            });
        }
        Ok(self.volumes.remove(&(owner, volume.clone())))
    }

    /// Returns whether something answers on a host port: a container that joins the network of the
    /// port's container, if it exposes the port, or else the port's container.
    pub(super) fn answers(&self, port: u16, protocol: Protocol, now: Instant) -> bool {
        let container = self.bound.get(&(port, protocol));
        let Some(container) = container.and_then(|name| self.containers.get(name)) else {
            return false;
        };
        let mut ports = container.host_ports.iter();
        let bound = ports.find(|bound| (bound.1, bound.2) == (protocol, port));
        let key = bound.map(|bound| (bound.0, bound.1));
        let mut all = self.containers.values();
        let listener = all.find(|other| {
            let joins = other.joins.as_ref() == Some(&container.id);
            joins && key.is_some_and(|key| other.spec.template.expose.contains(&key))
        });
        listener.unwrap_or(container).answers(now)
            && listener.is_none_or(|listener| listener.joined_run == container.starts)
    }

    /// Returns descriptions of a platform's remaining objects.
    pub(super) fn leftovers(&self, owner: PlatformId) -> Vec<String> {
        let containers = self
            .containers
            .values()
            .filter(|container| container.owner() == owner)
            .map(|container| format!("container {}", container.spec.name));
        let volumes = self
            .volumes
            .iter()
            .filter(|(of, _)| *of == owner)
            .map(|(_, volume)| format!("volume {volume}"));
        containers.chain(volumes).collect()
    }
}

/// Returns the name under which a test specifies the behavior of containers with this role.
fn service_in(role: &Role) -> &str {
    match role {
        Role::Instance(id) => id.service.as_str(),
        Role::Manager => "lifecycle-manager",
        Role::Agent => "lifecycle-agent",
    }
}

/// Returns the service in an image name `<platform>/<service>:<digest>`.
fn service_of(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split(':').next().unwrap_or(last)
}
