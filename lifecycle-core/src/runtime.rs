//! The trait behind which one node's container engine lies.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;

use crate::error::Result;
use crate::model::{
    BuildOptions, ContainerId, ContainerTemplate, InstanceId, Protocol, SpecDigest, VolumeName,
};
use crate::secret::Sensitive;
use crate::stream::ByteStream;

pub use crate::model::Owner;

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineInfo {
    /// The engine's version, for example `20.10.24`.
    pub version: String,
    /// The version of its API.
    pub api_version: String,
    /// Its architecture, for example `amd64`.
    pub architecture: String,
    /// Processors and memory of the host.
    pub cpus: u64,
    /// Bytes of memory of the host.
    pub memory_bytes: u64,
}

/// An image on an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// The engine's id of it. Differs between engines' stores for one image.
    pub id: String,
    /// Ports that it declares.
    pub exposed: Vec<(u16, Protocol)>,
    /// Whether it declares a health check.
    pub has_healthcheck: bool,
}

/// What an image is built from.
pub struct BuildRequest {
    /// The name that it gets.
    pub tag: String,
    /// The Dockerfile's path within the context.
    pub dockerfile: String,
    /// Build arguments.
    pub args: BTreeMap<String, Sensitive>,
    /// What else the builder is told. A Dockerfile in it lies in the context already.
    pub options: BuildOptions,
    /// The context as an uncompressed tar archive.
    pub context: ByteStream,
}

impl Debug for BuildRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BuildRequest")
            .field("tag", &self.tag)
            .field("dockerfile", &self.dockerfile)
            .finish_non_exhaustive()
    }
}

/// What a container of ours is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It runs a replica of a service.
    Instance(InstanceId),
    /// It runs the lifecycle manager.
    Manager,
    /// It makes service addresses work on its node.
    Agent,
}

/// A container that should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Its name, deterministic: creating it is the compare-and-set at the engine.
    pub name: String,
    /// Whose it is.
    pub owner: Owner,
    /// What it is for.
    pub role: Role,
    /// The digest that it carries as a label.
    pub digest: SpecDigest,
    /// The image.
    pub image: String,
    /// What it is made from. Volume names are those of the declaration.
    pub template: ContainerTemplate,
    /// Host ports to bind, for `ports` and `expose` alike: host port by container port. What the
    /// template publishes beyond one port for all of the node's addresses is bound beside it.
    pub ports: BTreeMap<(u16, Protocol), PortBinding>,
    /// Directories of the node's own, for the manager and for credentials.
    pub binds: Vec<HostBind>,
    /// Whether it shares the node's network.
    pub host_network: bool,
    /// Whether the engine starts it by itself at boot and when it ends.
    pub starts_with_engine: bool,
}

/// The host port that a container port is published at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PortBinding {
    /// This one and no other.
    Fixed(u16),
    /// This one, or the next that is free in the platform's range.
    Preferred(u16),
}

/// A directory or file of the node in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostBind {
    /// The path on the node.
    pub source: String,
    /// The path in the container.
    pub target: String,
    /// Whether the container may only read.
    pub read_only: bool,
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Running.
    Running {
        /// What its health check says; `None` without one.
        health: Option<Health>,
    },
    /// Running, but suspended.
    Paused,
    /// Ended.
    Exited {
        /// With this code.
        code: i64,
        /// At this time, where the engine says.
        at: Option<DateTime<Utc>>,
    },
}

impl ContainerState {
    /// Whether its processes exist, suspended or not.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Paused)
    }
}

/// What a health check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Within its start period.
    Starting,
    /// Passed.
    Healthy,
    /// Failed as often as it may.
    Unhealthy,
}

/// A container as the engine sees it, read back from its labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedContainer {
    /// The engine's id.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// The digest in its label.
    pub digest: SpecDigest,
    /// The version of the digest's form in its label.
    pub digest_version: String,
    /// What it is doing.
    pub state: ContainerState,
    /// When it was last started, in whole microseconds.
    pub started_at: Option<DateTime<Utc>>,
    /// The host ports that it really has: container port, protocol, host port.
    pub ports: Vec<(u16, Protocol, u16)>,
    /// The ports that it (or its image) declares, published or not.
    pub exposed: Vec<(u16, Protocol)>,
    /// Whether the engine runs a health check on it.
    pub has_healthcheck: bool,
}

/// Everything of one platform on one engine, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineState {
    /// All containers of the platform, in the order of their names.
    pub containers: Vec<ObservedContainer>,
    /// The names (`repository:tag`) of all images on the engine.
    pub images: std::collections::BTreeSet<String>,
    /// The platform's volumes, by the declaration's names.
    pub volumes: std::collections::BTreeSet<VolumeName>,
}

/// Which lines of a container's output are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Only the last so many lines.
    pub tail: Option<u32>,
    /// Go on as new lines come.
    pub follow: bool,
    /// Only lines that were written at this moment or later.
    pub since: Option<DateTime<Utc>>,
    /// Say when each line was written.
    pub timestamps: bool,
}

impl LogOptions {
    /// The last so many lines that there are now.
    pub fn last(lines: u32) -> Self {
        Self {
            tail: Some(lines),
            ..Self::default()
        }
    }
}

/// A line of a container's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogLine {
    /// Whether it went to standard error.
    pub stderr: bool,
    /// The line without its end; not UTF-8 is replaced.
    pub text: String,
    /// When it was written, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
}

/// A command to be run in a container that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecCommand {
    /// The program and its arguments. Holds no secret: process lists show it.
    pub command: Vec<String>,
    /// The user that it runs as; the container's own without one.
    pub user: Option<String>,
    /// The directory that it starts in; the container's own without one.
    pub working_dir: Option<String>,
    /// Gives it a terminal of this size; then all output is standard output.
    pub terminal: Option<TerminalSize>,
}

impl ExecCommand {
    /// A command without a terminal.
    pub fn new<W: Into<String>>(command: impl IntoIterator<Item = W>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// How wide it is.
    pub columns: u16,
    /// How high it is.
    pub rows: u16,
}

/// What a command in a container says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    /// A piece of its standard output.
    Stdout(Bytes),
    /// A piece of its standard error.
    Stderr(Bytes),
    /// It ended with this code. Always the last.
    Exit(i64),
}

/// A command that runs in a container. Dropping it closes the command's input and output; a
/// command that heeds neither goes on.
pub struct ExecSession {
    /// The engine's id of it, for [`ContainerRuntime::resize_exec`].
    pub id: String,
    /// What the command reads; shutting it down ends the command's input.
    pub input: Box<dyn AsyncWrite + Send + Unpin>,
    /// What it says, up to its end.
    pub output: BoxStream<'static, Result<ExecOutput>>,
}

impl Debug for ExecSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecSession")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Something that happened to a container; [`ContainerRuntime::container`] returns its new state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineEvent {
    /// The engine's id of the container.
    pub container: ContainerId,
    /// The engine's word, for example `die`.
    pub action: String,
}

/// The container engine of one node, as one platform sees it.
///
/// # Guarantees
/// - `ensure_*` may be repeated: same name and digest, same thing; what exists is not touched
///   beyond being started. `stop`, `remove_*` of what is absent are Ok.
/// - `state` is complete or an error, never partial, and shows this platform's objects only
///   (images: all).
/// - Containers, networks and volumes carry the platform's id from their creation.
/// - A future that is dropped leaves a state from which the same call goes on.
///
/// # Errors
/// A name taken by something of another platform is [`crate::Error::Conflict`]; a host port
/// that is taken is [`crate::Error::Conflict`] too, unless it was only preferred; an engine
/// that does not answer is [`crate::Error::Unreachable`].
#[async_trait]
pub trait ContainerRuntime: Debug + Send + Sync + 'static {
    /// The engine's description of itself. Engines may start processes to answer it.
    async fn info(&self) -> Result<EngineInfo>;

    /// Whether the engine answers, at the least cost.
    async fn ping(&self) -> Result<()>;

    /// All that is the platform's.
    async fn state(&self) -> Result<EngineState>;

    /// A container of the platform as `state` shows it, by its name or id; `None` if there is none.
    async fn container(&self, container: &str) -> Result<Option<ObservedContainer>>;

    /// An image by its name, if the engine has it.
    async fn image(&self, name: &str) -> Result<Option<ImageInfo>>;

    /// Builds an image; each line that the engine says goes to `progress`.
    async fn build_image(
        &self,
        request: BuildRequest,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<ImageInfo>;

    /// Pulls an image from where its name says.
    async fn pull_image(&self, name: &str) -> Result<ImageInfo>;

    /// An image as an archive that `import_image` takes.
    async fn export_image(&self, name: &str) -> Result<ByteStream>;

    /// Loads an archive that `export_image` gave.
    async fn import_image(&self, archive: ByteStream) -> Result<()>;

    /// Removes an image's name. Absent is Ok, and so is one that a container still uses:
    /// it stays.
    async fn remove_image(&self, name: &str) -> Result<()>;

    /// Makes sure that the container exists and runs, its volumes made before it.
    async fn ensure_container(&self, spec: &ContainerSpec) -> Result<ObservedContainer>;

    /// Starts a container that exists.
    async fn start_container(&self, name: &str) -> Result<()>;

    /// Stops a container: asks it, waits for `grace` (the engine's default without one), kills.
    async fn stop_container(&self, name: &str, grace: Option<Duration>) -> Result<()>;

    /// Removes a container that is ours, running or not, with its anonymous volumes.
    async fn remove_container(&self, name: &str) -> Result<()>;

    /// Removes a named volume of the platform.
    async fn remove_volume(&self, volume: &VolumeName) -> Result<()>;

    /// The output of a container, given by its name or the engine's id.
    async fn logs(
        &self,
        container: &str,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>>;

    /// Runs a command in a container that runs. One that does not run is
    /// [`crate::Error::Conflict`], and a program that it lacks is an exit code (126, 127), as
    /// a shell has it. Not repeated by anybody: whether a command may run twice is for who asks.
    async fn exec(&self, container: &str, command: &ExecCommand) -> Result<ExecSession>;

    /// Tells a command's terminal its new size. A command that has ended is Ok.
    async fn resize_exec(&self, id: &str, size: TerminalSize) -> Result<()>;

    /// What happens to the platform's containers from now on; ends when the engine does.
    async fn events(&self) -> Result<BoxStream<'static, Result<EngineEvent>>>;
}

/// A check that an address answers, made from where the manager runs.
///
/// # Guarantees
/// Changes nothing; ends within `timeout`.
#[async_trait]
pub trait ReadinessProbe: Debug + Send + Sync + 'static {
    /// Whether a TCP connection can be opened.
    async fn tcp(&self, ip: IpAddr, port: u16, timeout: Duration) -> bool;

    /// Whether `GET path` answers with 200–399.
    async fn http(&self, ip: IpAddr, port: u16, path: &str, timeout: Duration) -> bool;
}
