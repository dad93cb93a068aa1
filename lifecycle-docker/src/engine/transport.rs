//! Connects to the engine's API through a local socket or over SSH. Over SSH, the host's socket is
//! forwarded; if forwarding is forbidden, the engine's relay command is used.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use hyper::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use lifecycle_core::host::{Duplex, HostCommand, HostOutput, NodeAccess};
use lifecycle_core::{Error, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use super::credentials;
use crate::error::{self, LONGEST_CALL};
use crate::ssh::{Share, SshAccess};

/// The socket path of Debian's engine.
const SOCKET: &str = "/var/run/docker.sock";
/// The command that relays between the engine's socket and its own input and output.
const RELAY: &str = "docker system dial-stdio";
/// Time limit for a response from the engine through the relay.
const RELAY_ANSWERS_WITHIN: Duration = Duration::from_secs(15);
/// The maximum number of concurrent relays for calls; further calls wait. Each relay is a process
/// on the host.
const RELAYS: usize = 12;
/// The number of idle connections that are kept for later calls.
pub(super) const KEPT: usize = 4;
/// How long idle connections are kept: longer than the time between two observations of an idle
/// node.
const KEPT_FOR: Duration = Duration::from_secs(90);

/// How to reach one engine.
#[derive(Debug)]
pub(super) enum Route {
    Local(PathBuf),
    /// Over SSH. `found` contains the way that worked, and [`SshAccess::generation`] at that time.
    Ssh {
        access: Arc<SshAccess>,
        found: Mutex<Option<(Way, u64)>>,
        relays: Arc<Semaphore>,
    },
}

/// The ways to reach the engine over SSH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Stream-local forwarding of the engine's socket.
    Socket,
    /// The engine's relay, run as root.
    Relay,
}

impl Route {
    pub(super) fn over_ssh(access: Arc<SshAccess>) -> Self {
        Self::Ssh {
            access,
            found: Mutex::new(None),
            relays: Arc::new(Semaphore::new(RELAYS)),
        }
    }

    /// See [`SshAccess::generation`].
    fn generation(&self) -> u64 {
        match self {
            Self::Local(_) => 0,
            Self::Ssh { access, .. } => access.generation(),
        }
    }

    /// Runs a shell script as root on the engine's machine.
    pub(super) async fn run_on_host(&self, script: &str, limit: Duration) -> Result<HostOutput> {
        match self {
            Self::Local(_) => {
                let mut shell = tokio::process::Command::new("sh");
                let run = shell.args(["-c", script]).kill_on_drop(true).output();
                let what = "a command on this machine";
                let output = tokio::time::timeout(limit, run)
                    .await
                    .map_err(|_| Error::timed_out(what, limit))?
                    .map_err(|error| Error::io(what, error))?;
                Ok(HostOutput {
                    code: output
                        .status
                        .code()
                        .and_then(|c| c.try_into().ok())
                        .unwrap_or(255),
                    stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
                    stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
                })
            }
            Self::Ssh { access, .. } => {
                let command = HostCommand::new(script).as_root().within(limit);
                access.exec(command).await
            }
        }
    }

    async fn open(&self, share: Share) -> Result<Box<dyn Duplex>> {
        match self {
            Self::Local(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(Error::unreachable(
                    format!("the container engine at {}", path.display()),
                    Some(Box::new(error)),
                )),
            },
            Self::Ssh {
                access,
                found,
                relays,
            } => {
                let known = *found.lock().unwrap_or_else(PoisonError::into_inner);
                let generation = access.generation();
                if known != Some((Way::Relay, generation)) {
                    if let Some(stream) = access.unix_socket(SOCKET, share).await? {
                        remember(found, Some((Way::Socket, generation)));
                        return Ok(Box::new(stream));
                    }
                    // Either the account lacks permission, or no engine is listening. The relay
                    // runs as root, so its response shows which.
                    remember(found, None);
                    relay_answers(access).await?;
                    tracing::debug!(
                        host = access.host(),
                        "cannot forward the engine's socket; using its relay command"
                    );
                    remember(found, Some((Way::Relay, generation)));
                }
                if share == Share::Alone {
                    return Ok(Box::new(access.command_stream(RELAY, share).await?));
                }
                let permit = Arc::clone(relays).acquire_owned().await;
                let relay = access.command_stream(RELAY, share).await?;
                Ok(match permit {
                    Ok(permit) => Box::new(relay.holding(permit)),
                    Err(_) => Box::new(relay),
                })
            }
        }
    }
}

fn remember(found: &Mutex<Option<(Way, u64)>>, way: Option<(Way, u64)>) {
    *found.lock().unwrap_or_else(PoisonError::into_inner) = way;
}

/// Checks through the relay that the engine responds. The relay's session opens even without a
/// `docker` command, so only a response proves that there is an engine.
async fn relay_answers(access: &SshAccess) -> Result<()> {
    let what = || format!("the container engine of {}", access.host());
    let ask = async {
        let mut relay = access.command_stream(RELAY, Share::Shared).await?;
        let unreachable = |error: io::Error| Error::unreachable(what(), Some(Box::new(error)));
        relay
            .write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            .await
            .map_err(unreachable)?;
        let mut status = [0; 12];
        match relay.read_exact(&mut status).await {
            Ok(_) if status.starts_with(b"HTTP/1.") && status.ends_with(b" 200") => Ok(()),
            Ok(_) => Err(unreachable(io::Error::other(
                "the engine's relay returned an unexpected response",
            ))),
            Err(_) => Err(unreachable(io::Error::other(
                "no engine responds on the node; the engine is not installed or not running",
            ))),
        }
    };
    match tokio::time::timeout(RELAY_ANSWERS_WITHIN, ask).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::timed_out(what(), RELAY_ANSWERS_WITHIN)),
    }
}

/// Creates the engine's client for a route. With [`Share::Alone`], each request has its own
/// connection.
pub(super) fn client(route: Arc<Route>, share: Share) -> Result<Docker> {
    let kept = Kept {
        current: Mutex::new((route.generation(), http_client(&route, share))),
        route,
        share,
    };
    let kept = Arc::new(kept);
    Docker::connect_with_custom_transport(
        move |mut request: BollardRequest| {
            credentials::correct_encoding(request.headers_mut());
            let client = kept.current();
            async move { client.request(request).await.map_err(Into::into) }
        },
        Some("http://docker"),
        LONGEST_CALL.as_secs(),
        API_DEFAULT_VERSION,
    )
    .map_err(|e| error::engine("creating the engine's client", e))
}

/// Names the body type of bollard's requests. Bollard does not export that type.
trait WithBody {
    type Body;
}

impl<B> WithBody for hyper::Request<B> {
    type Body = B;
}

type HttpClient = Client<Connector, <BollardRequest as WithBody>::Body>;

/// A client with its idle connections, and the [`Route::generation`] at their creation.
struct Kept {
    route: Arc<Route>,
    share: Share,
    current: Mutex<(u64, Arc<HttpClient>)>,
}

impl Kept {
    fn current(&self) -> Arc<HttpClient> {
        let generation = self.route.generation();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != generation {
            *current = (generation, http_client(&self.route, self.share));
        }
        Arc::clone(&current.1)
    }
}

fn http_client(route: &Arc<Route>, share: Share) -> Arc<HttpClient> {
    let kept = if share == Share::Alone { 0 } else { KEPT };
    let connector = Connector {
        route: Arc::clone(route),
        share,
    };
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(KEPT_FOR)
        .pool_max_idle_per_host(kept)
        .build(connector);
    Arc::new(client)
}

#[derive(Clone)]
struct Connector {
    route: Arc<Route>,
    share: Share,
}

impl tower_service::Service<Uri> for Connector {
    type Response = EngineStream;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<EngineStream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { route, share } = self.clone();
        Box::pin(async move { Ok(EngineStream(TokioIo::new(route.open(share).await?))) })
    }
}

/// Adapts an engine connection to the traits of the HTTP client.
struct EngineStream(TokioIo<Box<dyn Duplex>>);

impl fmt::Debug for EngineStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineStream")
    }
}

impl Connection for EngineStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for EngineStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for EngineStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
