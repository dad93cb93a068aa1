//! Implements [`ContainerRuntime`] with one node's Docker engine, restricted to one platform.

mod bound;
mod container;
mod credentials;
mod exec;
mod host_config;
mod image;
mod metadata;
mod output;
mod port;
mod spec;
mod transport;

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::query_parameters::{EventsOptionsBuilder, LogsOptionsBuilder};
use chrono::{DateTime, Utc};
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use lifecycle_core::host::ByteStream;
use lifecycle_core::model::{ContainerId, VolumeName};
use lifecycle_core::runtime::{
    BuildRequest, ContainerRuntime, ContainerSpec, EngineEvent, EngineInfo, EngineState,
    ExecCommand, ExecSession, ImageInfo, ImageLogin, LogLine, LogOptions, ObservedContainer, Owner,
    TerminalSize,
};
use lifecycle_core::{Error, Result};

pub(crate) use host_config::JOINED;
pub(crate) use metadata::UNBLOCK;

use crate::error;
use crate::ssh::{Share, SshAccess};
use bound::BoundAddress;
use metadata::Metadata;
use output::LogLines;
use transport::Route;

/// The requested events: those that may change a container's observed state. The engine matches by
/// prefix, so `health_status` covers all health results.
const CHANGES: [&str; 9] = [
    "create",
    "start",
    "die",
    "destroy",
    "pause",
    "unpause",
    "rename",
    "health_status",
    "oom",
];

/// Time limit for engine calls that only read or change metadata.
const QUICK: Duration = Duration::from_mins(1);

/// One node's Docker engine, restricted to one platform.
///
/// Calls share a few connections, but each stream (build, log, events, image) has its own
/// connection.
#[derive(Clone)]
pub struct DockerEngine {
    docker: Docker,
    streams: Docker,
    owner: Owner,
    bound: BoundAddress,
    metadata: Metadata,
    route: Arc<Route>,
}

impl fmt::Debug for DockerEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerEngine")
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

impl DockerEngine {
    /// Creates a client for the engine at a Unix socket of this machine. The socket need not exist
    /// yet.
    pub fn local(socket: impl Into<PathBuf>, owner: Owner) -> Result<Self> {
        Self::new(Route::Local(socket.into()), owner)
    }

    /// Creates a client that reaches a host's engine over SSH. The client forwards the engine's
    /// socket. If forwarding is forbidden or the account lacks permission, the client runs `docker
    /// system dial-stdio` as root instead.
    ///
    /// Before a container starts or an image is built, the client blocks the cloud's metadata service for the
    /// host's containers, except those whose template has
    /// [`metadata_service`](lifecycle_core::model::ContainerTemplate::metadata_service).
    pub fn over_ssh(access: Arc<SshAccess>, owner: Owner) -> Result<Self> {
        let metadata = Metadata::of(Arc::clone(&access));
        Ok(Self {
            metadata,
            ..Self::new(Route::over_ssh(access), owner)?
        })
    }

    fn new(route: Route, owner: Owner) -> Result<Self> {
        let route = Arc::new(route);
        Ok(Self {
            docker: transport::client(Arc::clone(&route), Share::Shared)?,
            streams: transport::client(Arc::clone(&route), Share::Alone)?,
            owner,
            bound: BoundAddress::default(),
            metadata: Metadata::default(),
            route,
        })
    }

    /// Binds the host ports that the platform chooses to `address` only, the address at which other
    /// nodes reach this node. By default, they are bound at all addresses. Declared host ports keep
    /// their declared address. If the host does not have `address`, because the network translates
    /// addresses, these ports are bound at all addresses.
    #[must_use]
    pub fn bound_to(mut self, address: Option<IpAddr>) -> Self {
        self.bound = BoundAddress::new(address);
        self
    }

    /// Waits for the response to a call, for at most `limit`.
    async fn within<T>(
        &self,
        limit: Duration,
        what: &str,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T> {
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer.map_err(|e| error::engine(what, e)),
            Err(_) => Err(Error::timed_out(what, limit)),
        }
    }
}

#[async_trait]
impl ContainerRuntime for DockerEngine {
    async fn info(&self) -> Result<EngineInfo> {
        let what = "querying the engine";
        let version = self.within(QUICK, what, self.docker.version()).await?;
        let info = self.within(QUICK, what, self.docker.info()).await?;
        let number = |value: Option<i64>| u64::try_from(value.unwrap_or_default()).unwrap_or(0);
        Ok(EngineInfo {
            version: version.version.unwrap_or_default(),
            api_version: version.api_version.unwrap_or_default(),
            architecture: version.arch.unwrap_or_default(),
            cpus: number(info.ncpu),
            memory_bytes: number(info.mem_total),
        })
    }

    async fn state(&self) -> Result<EngineState> {
        let (ids, images, volumes) =
            tokio::try_join!(self.container_ids(), self.images(), self.volumes())?;
        Ok(EngineState {
            containers: self.containers(ids).await?,
            images,
            volumes,
        })
    }

    async fn ping(&self) -> Result<()> {
        let ping = self.docker.ping();
        self.within(QUICK, "querying the engine", ping)
            .await
            .map(drop)
    }

    async fn container(&self, container: &str) -> Result<Option<ObservedContainer>> {
        self.observe(container).await
    }

    async fn image(&self, name: &str) -> Result<Option<ImageInfo>> {
        self.find_image(name).await
    }

    async fn build_image(
        &self,
        request: BuildRequest,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<ImageInfo> {
        self.build(request, progress).await
    }

    async fn pull_image(&self, name: &str, login: Option<&ImageLogin>) -> Result<ImageInfo> {
        self.pull(name, login).await
    }

    async fn export_image(&self, name: &str) -> Result<ByteStream> {
        self.export(name).await
    }

    async fn import_image(&self, archive: ByteStream) -> Result<()> {
        self.import(archive).await
    }

    async fn tag_image(&self, image: &str, name: &str) -> Result<()> {
        self.tag(image, name).await
    }

    async fn remove_image(&self, name: &str) -> Result<()> {
        self.forget_image(name).await
    }

    async fn ensure_container(&self, spec: &ContainerSpec) -> Result<ObservedContainer> {
        self.ensure(spec).await
    }

    async fn start_container(&self, name: &str) -> Result<()> {
        self.start_existing(name).await
    }

    async fn stop_container(&self, name: &str, grace: Option<Duration>) -> Result<()> {
        self.stop(name, grace).await
    }

    async fn remove_container(&self, name: &str) -> Result<()> {
        self.delete(name).await
    }

    async fn remove_volume(&self, volume: &VolumeName) -> Result<()> {
        self.delete_volume(volume).await
    }

    async fn logs(
        &self,
        container: &str,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        self.existing(container).await?;
        let tail = options.tail.map_or("all".to_owned(), |n| n.to_string());
        // The engine filters only by whole seconds, so the lines are filtered again by their
        // timestamps.
        let stamped = options.timestamps || options.since.is_some();
        let mut query = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .follow(options.follow)
            .timestamps(stamped)
            .tail(&tail);
        if let Some(since) = options.since {
            query = query.since(i32::try_from(since.timestamp()).unwrap_or(i32::MAX));
        }
        let query = query.build();
        let what = format!("reading the output of container {container}");
        let pieces = self.streams.logs(container, Some(query));
        // The final `None` flushes the remaining partial line.
        let pieces = pieces.map(Some).chain(stream::once(async { None }));
        let lines = pieces.scan(LogLines::new(stamped), move |lines, piece| {
            let cut: Vec<Result<LogLine>> = match piece {
                Some(Ok(output)) => {
                    let cut = match &output {
                        LogOutput::StdErr { message } => lines.push(true, message),
                        LogOutput::Console { message } => lines.push_terminal(message),
                        output => lines.push(false, output.as_ref()),
                    };
                    cut.into_iter().map(Ok).collect()
                }
                Some(Err(error)) => {
                    lines.forget();
                    vec![Err(error::engine(&what, error))]
                }
                None => lines.finish().into_iter().map(Ok).collect(),
            };
            async move { Some(stream::iter(cut)) }
        });
        let since = options.since.filter(|_| stamped);
        let lines = lines.flatten().try_filter_map(move |line| async move {
            let is_recent = since.is_none_or(|since| line.at.is_none_or(|at| at >= since));
            Ok(is_recent.then(|| LogLine {
                at: line.at.filter(|_| options.timestamps),
                ..line
            }))
        });
        Ok(lines.boxed())
    }

    async fn exec(&self, container: &str, command: &ExecCommand) -> Result<ExecSession> {
        self.run(container, command).await
    }

    async fn resize_exec(&self, id: &str, size: TerminalSize) -> Result<()> {
        self.resize(id, size).await
    }

    async fn end_exec(&self, id: &str) -> Result<()> {
        self.end(id).await
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<EngineEvent>>> {
        // Start the stream at the engine's current time: the request is sent only when the stream
        // is first polled.
        let info = self.within(QUICK, "reading the engine's clock", self.docker.info());
        let mut filters = self.filter();
        filters.insert("type".to_owned(), vec!["container".to_owned()]);
        filters.insert("event".to_owned(), CHANGES.map(str::to_owned).to_vec());
        let mut query = EventsOptionsBuilder::default().filters(&filters);
        if let Some(since) = info.await?.system_time.as_deref().and_then(unix_time) {
            query = query.since(&since);
        }
        let events = self.streams.events(Some(query.build()));
        Ok(events
            .map(|event| {
                let event = event.map_err(|e| error::engine("reading the engine's events", e))?;
                let container = event.actor.and_then(|actor| actor.id);
                Ok(EngineEvent {
                    container: ContainerId(container.unwrap_or_default().into()),
                    action: event.action.unwrap_or_default(),
                })
            })
            .boxed())
    }
}

/// Converts a time to the format of the engine's queries: seconds and nanoseconds since 1970.
fn unix_time(rfc3339: &str) -> Option<String> {
    let time = DateTime::parse_from_rfc3339(rfc3339)
        .ok()?
        .with_timezone(&Utc);
    Some(format!(
        "{}.{:09}",
        time.timestamp(),
        time.timestamp_subsec_nanos()
    ))
}
