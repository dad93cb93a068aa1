//! Defines the trait for the container engine of one node.

mod exit;
mod image_login;
mod log;
mod manager_image;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;

use crate::error::{Error, Result};
use crate::model::{
    BuildOptions, ContainerId, ContainerTemplate, InstanceId, PlatformId, Protocol, Replica,
    SpecDigest, VolumeName,
};
use crate::secret::Sensitive;
use crate::stream::ByteStream;

pub use exit::OutOfMemory;
pub(crate) use exit::exit_text;
pub use image_login::{ImageLogin, ImageLogins, ImageRegistry};
pub(crate) use log::LogPosition;
pub use log::{LogLine, LogOptions};
pub use manager_image::{ManagerImage, StaticBinary};

pub use crate::model::Owner;

/// Information about an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineInfo {
    /// The version, for example `20.10.24`.
    pub version: String,
    pub api_version: String,
    /// The architecture, for example `amd64`.
    pub architecture: String,
    /// The number of processors of the host.
    pub cpus: u64,
    /// The memory of the host, in bytes.
    pub memory_bytes: u64,
}

/// An image in an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// The engine's id of the image. Other engines may have another id for the same image.
    pub id: String,
    /// The ports that the image exposes.
    pub exposed: Vec<(u16, Protocol)>,
    /// Whether the image defines a health check.
    pub has_healthcheck: bool,
}

/// A request to build an image.
pub struct BuildRequest {
    /// The name of the new image.
    pub tag: String,
    /// The path of the Dockerfile in the context.
    pub dockerfile: String,
    /// The build arguments.
    pub args: BTreeMap<String, Sensitive>,
    /// Other options. If they contain an inline Dockerfile, the context contains it as a file.
    pub options: BuildOptions,
    /// The build context, an uncompressed tar archive.
    pub context: ByteStream,
    /// Ids of images on the same engine. If the result has the layers and the configuration of one
    /// of them, `tag` becomes another name of that image.
    pub earlier: Vec<String>,
    /// The logins for the registries of images that the build pulls. The engine uses them only for
    /// this build.
    pub logins: ImageLogins,
}

impl Debug for BuildRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BuildRequest")
            .field("tag", &self.tag)
            .field("dockerfile", &self.dockerfile)
            .finish_non_exhaustive()
    }
}

/// Returns the name of a built image until it has been compared with the earlier images.
pub fn uncompared(tag: &str) -> String {
    format!("{tag}-uncompared")
}

/// The role of a container of a platform.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A replica of a service.
    Instance(InstanceId),
    /// The lifecycle manager.
    Manager,
    /// The agent, which serves names and service addresses on its node.
    Agent,
}

/// The specification of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// The name. It includes the digest, so that creating a container by name is a compare-and-set.
    pub name: String,
    pub owner: Owner,
    pub role: Role,
    /// The digest, stored as a label.
    pub digest: SpecDigest,
    /// The digest of the specification without the image, stored as a label. `None` for a container
    /// that is replaced whenever the name of its image changes.
    pub template_digest: Option<SpecDigest>,
    pub image: String,
    /// The template. Its volume names are those of the declaration.
    pub template: ContainerTemplate,
    /// The volumes of the template that a container has used before. If one does not exist, the
    /// container is not created, because an empty volume would hide the loss of the data.
    pub used_volumes: BTreeSet<VolumeName>,
    /// The preferred host port of each container port in the template's `ports` and `expose`. If it
    /// is in use, the next free port in the platform's range is used. The host ports of the
    /// template's `ports` are bound in addition, and one of each of its `port_choices`.
    pub ports: BTreeMap<(u16, Protocol), u16>,
    /// Additional directories and files of the node that the container mounts.
    pub binds: Vec<HostBind>,
    pub host_network: bool,
    /// The name of the running container whose network the container joins. Then the host name,
    /// host entries, resolvers and ports of the template do not apply.
    pub joins: Option<String>,
    /// Whether the engine starts the container at boot and restarts it when it exits.
    pub starts_with_engine: bool,
}

impl ContainerSpec {
    /// Returns the replica that the container runs; 1 if it runs no service.
    pub fn replica(&self) -> Replica {
        match &self.role {
            Role::Instance(id) => id.replica,
            Role::Manager | Role::Agent => Replica(1),
        }
    }
}

/// Returns the error of [`ContainerRuntime::ensure_container`] for a used volume that does not exist.
pub fn vanished(volume: &VolumeName) -> Error {
    Error::conflict(
        format!("volume {volume}"),
        "it no longer exists on the node, and an empty volume would hide the loss of its data",
    )
}

/// A directory or file of the node that is mounted in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostBind {
    /// The path on the node.
    pub source: String,
    /// The path in the container.
    pub target: String,
    pub read_only: bool,
}

/// The state of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum ContainerState {
    /// The container was created, but never started.
    Created,
    Running {
        /// The result of the container's health check; `None` if it has none.
        health: Option<Health>,
    },
    /// The container is paused.
    Paused,
    Exited {
        code: i64,
        /// When the container exited, if the engine reports it.
        at: Option<DateTime<Utc>>,
    },
}

impl ContainerState {
    /// Returns whether the container's processes exist, paused or not.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Paused)
    }
}

/// The result of a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// The container is in its start period.
    Starting,
    Healthy,
    /// The health check failed too many times.
    Unhealthy,
}

/// A container as the engine reports it, with its labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedContainer {
    pub id: ContainerId,
    pub name: String,
    pub role: Role,
    /// The digest in the container's label.
    pub digest: SpecDigest,
    /// The format version of the digest's input, from the container's label.
    pub digest_version: String,
    /// The digest of the specification without the image, if the container has such a label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_digest: Option<SpecDigest>,
    /// The engine's id of the container's image.
    #[serde(default)]
    pub image: String,
    pub state: ContainerState,
    /// When the container was last started, in whole microseconds.
    pub started_at: Option<DateTime<Utc>>,
    /// The container whose network this container joins. It may have been removed or restarted
    /// since; then this container has no network until it is re-created or restarted, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joins: Option<ContainerId>,
    /// The ports that are bound, each as container port, protocol and host port. Empty if the
    /// container joins the network of another one.
    pub ports: Vec<(u16, Protocol, u16)>,
    /// The ports that the container or its image exposes, published or not.
    pub exposed: Vec<(u16, Protocol)>,
    /// Whether the engine runs a health check for the container.
    pub has_healthcheck: bool,
    /// How the last health check failed, with the end of its output. `None` if it passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_check: Option<String>,
    /// Set if a process of the last run was killed because memory was exhausted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_memory: Option<OutOfMemory>,
}

impl ObservedContainer {
    /// Returns whether a container with the labels of an instance also has the name of one. A container
    /// that was renamed, or created from the image or labels of another one, has not. Ignores the
    /// platform's name at the beginning of the container's name, because the platform may be renamed.
    pub fn has_name_of_instance(&self, platform: PlatformId) -> bool {
        let Role::Instance(id) = &self.role else {
            return true;
        };
        let (short, digest) = (platform.short(), self.digest.short());
        let end = format!("-{short}-{}-{}-{digest}", id.service, id.replica);
        self.name.ends_with(&end)
    }

    /// Returns whether the current or last run of this container joined an earlier run of the
    /// network of `joined`, and `joined` was started again before this run ended. Such a run has no
    /// network.
    pub fn has_lost_network(&self, joined: &Self) -> bool {
        let (Some(started_at), Some(joined_at)) = (self.started_at, joined.started_at) else {
            return false;
        };
        let has_ended_before = match self.state {
            ContainerState::Exited { at, .. } => at.is_none_or(|at| at < joined_at),
            ContainerState::Created => true,
            ContainerState::Running { .. } | ContainerState::Paused => false,
        };
        joined_at > started_at && !has_ended_before
    }
}

/// All objects of one platform in one engine, at one point in time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineState {
    /// All containers of the platform, sorted by name.
    pub containers: Vec<ObservedContainer>,
    /// The engine's ids of all images, by name (`repository:tag`).
    pub images: BTreeMap<String, String>,
    /// The volumes of the platform, by their names in the declaration.
    pub volumes: BTreeSet<VolumeName>,
}

impl EngineState {
    /// Returns the container whose network `container` joins, if it still exists.
    pub fn joined_by(&self, container: &ObservedContainer) -> Option<&ObservedContainer> {
        let joined = container.joins.as_ref()?;
        self.containers.iter().find(|other| other.id == *joined)
    }
}

/// A command to run in a running container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecCommand {
    /// The program and its arguments. Must not contain secrets, because process lists show them.
    pub command: Vec<String>,
    /// The user; by default, the container's user.
    pub user: Option<String>,
    /// The working directory; by default, the container's working directory.
    pub working_dir: Option<String>,
    /// If set, allocates a terminal of this size; all output is then standard output.
    pub terminal: Option<TerminalSize>,
}

impl ExecCommand {
    /// Creates a command without a terminal.
    pub fn new<W: Into<String>>(command: impl IntoIterator<Item = W>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TerminalSize {
    pub columns: u16,
    pub rows: u16,
}

impl TerminalSize {
    /// The size of a terminal whose size is unknown.
    pub const DEFAULT: Self = Self {
        columns: 80,
        rows: 24,
    };

    /// Replaces zeros, which terminals report if they do not know their size: engines reject them.
    #[must_use]
    pub fn or_default(self) -> Self {
        let known = |number: u16, default| if number == 0 { default } else { number };
        Self {
            columns: known(self.columns, Self::DEFAULT.columns),
            rows: known(self.rows, Self::DEFAULT.rows),
        }
    }
}

/// Output of a command in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    /// A chunk of standard output.
    Stdout(Bytes),
    /// A chunk of standard error.
    Stderr(Bytes),
    /// The exit code. Always the last item.
    Exit(i64),
}

/// A running command in a container. Dropping this value closes the command's input and output;
/// the command keeps running until it ends by itself, or until [`ContainerRuntime::end_exec`].
pub struct ExecSession {
    /// The engine's id of the session, for [`ContainerRuntime::resize_exec`] and
    /// [`ContainerRuntime::end_exec`].
    pub id: String,
    /// The standard input; shutting it down signals end of input.
    pub input: Box<dyn AsyncWrite + Send + Unpin>,
    /// The output, up to the exit code.
    pub output: BoxStream<'static, Result<ExecOutput>>,
}

impl Debug for ExecSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecSession")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// An event of a container. [`ContainerRuntime::container`] returns the container's new state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineEvent {
    pub container: ContainerId,
    /// The engine's name of the event, for example `die`.
    pub action: String,
}

/// The container engine of one node, as one platform sees it.
///
/// # Guarantees
/// - `ensure_*` may be repeated with the same name and digest. Existing objects do not change,
///   except that a stopped container is started. `stop` and `remove_*` return Ok for a missing
///   object.
/// - `state` returns the complete state or an error. The state contains all images of the engine,
///   but only this platform's containers and volumes.
/// - Containers, networks and volumes are labeled with the platform's id when they are created.
/// - A container that joins the network of another one keeps the id of that container: it joins
///   the current network of that container at each start, and cannot start while that container is
///   not running or was removed.
/// - A canceled call can be repeated: the new call continues from the resulting state.
///
/// # Errors
/// Calls return [`crate::Error::Conflict`] if an object of another platform has the name, or if a
/// host port of the template is in use. They return
/// [`crate::Error::Unreachable`] if the engine does not answer.
#[async_trait]
pub trait ContainerRuntime: Debug + Send + Sync + 'static {
    /// Returns information about the engine. The call can be slow.
    async fn info(&self) -> Result<EngineInfo>;

    /// Checks that the engine answers, as cheaply as possible.
    async fn ping(&self) -> Result<()>;

    /// Returns all objects of the platform.
    async fn state(&self) -> Result<EngineState>;

    /// Returns a container of the platform by its name or id, in the form that `state` returns;
    /// `None` if the container does not exist.
    async fn container(&self, container: &str) -> Result<Option<ObservedContainer>>;

    /// Returns an image by its name, if the engine has it.
    async fn image(&self, name: &str) -> Result<Option<ImageInfo>>;

    /// Builds an image; each output line of the engine is passed to `progress`. The tag appears, or
    /// moves from an older image, only when the build is complete and `earlier` was compared. Until
    /// then, the image may have the name [`uncompared`], also after a crash, but is never unnamed.
    async fn build_image(
        &self,
        request: BuildRequest,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<ImageInfo>;

    /// Pulls an image from its registry. The engine uses the login only for this call. Returns
    /// [`crate::Error::Denied`] if the registry rejects the login, or requires one.
    async fn pull_image(&self, name: &str, login: Option<&ImageLogin>) -> Result<ImageInfo>;

    /// Exports an image as an archive for `import_image`.
    async fn export_image(&self, name: &str) -> Result<ByteStream>;

    /// Imports an archive in the format of `docker save`, for example from `export_image`.
    async fn import_image(&self, archive: ByteStream) -> Result<()>;

    /// Gives an image, identified by its id or by one of its names, another name.
    async fn tag_image(&self, image: &str, name: &str) -> Result<()>;

    /// Removes an image's name. Returns Ok if the image does not exist, or if a container uses the
    /// image; in the latter case, the image is kept.
    async fn remove_image(&self, name: &str) -> Result<()>;

    /// Ensures that the container and its volumes exist, and that the container is running. Returns
    /// [`crate::Error::Conflict`] and creates nothing if the container does not exist and one of its
    /// `used_volumes` does not exist.
    async fn ensure_container(&self, spec: &ContainerSpec) -> Result<ObservedContainer>;

    /// Starts an existing container.
    async fn start_container(&self, name: &str) -> Result<()>;

    /// Stops a container: signals it, waits for `grace` (by default, the engine's grace period),
    /// then kills it.
    async fn stop_container(&self, name: &str, grace: Option<Duration>) -> Result<()>;

    /// Removes a container of the platform, running or not, with its anonymous volumes.
    async fn remove_container(&self, name: &str) -> Result<()>;

    /// Removes a named volume of the platform.
    async fn remove_volume(&self, volume: &VolumeName) -> Result<()>;

    /// Returns the output of the container with this name or id.
    async fn logs(
        &self,
        container: &str,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>>;

    /// Runs a command in a running container. Returns [`crate::Error::Conflict`] if the container
    /// is not running. If the program does not exist, the exit code is 126 or 127, as in a shell.
    /// The call is never retried automatically: only the caller knows whether a command may run
    /// twice.
    async fn exec(&self, container: &str, command: &ExecCommand) -> Result<ExecSession>;

    /// Sets the size of a command's terminal. Returns Ok if the command has ended.
    async fn resize_exec(&self, id: &str, size: TerminalSize) -> Result<()>;

    /// Ends the processes of a command and of its session: signals them as if their terminal was
    /// closed, and kills those that do not end. Returns Ok if the command has ended.
    async fn end_exec(&self, id: &str) -> Result<()>;

    /// Returns the events of the platform's containers from now on; the stream ends when the engine
    /// stops.
    async fn events(&self) -> Result<BoxStream<'static, Result<EngineEvent>>>;
}

/// Checks whether an address is ready, as seen from the manager's process.
///
/// # Guarantees
/// A check changes nothing, and ends within `timeout`.
///
/// # Errors
/// Why the check failed, in a few words for the user: for example `connection refused`, or that
/// there was no response within `timeout`.
#[async_trait]
pub trait ReadinessProbe: Debug + Send + Sync + 'static {
    /// Checks that a TCP connection can be opened.
    async fn tcp(&self, ip: IpAddr, port: u16, timeout: Duration) -> Result<(), String>;

    /// Checks that `GET path` returns a status from 200 to 399.
    async fn http(
        &self,
        ip: IpAddr,
        port: u16,
        path: &str,
        timeout: Duration,
    ) -> Result<(), String>;
}
