//! The agent of the service network. It makes service addresses work on its node.
//!
//! The agent routes the platform's block of service addresses to its own network namespace on the
//! node. In that namespace, it answers DNS on the block's first address, and listens on each
//! service's address and ports. It forwards connections to ready endpoints on any node. The manager
//! sends the services and endpoints to the agent as [`Table`](crate::network::Table)s. The agent
//! saves the last table on disk, so names and traffic keep working while the manager is down, even
//! after a restart of the agent.
//!
//! | module | contents |
//! |---|---|
//! | `engine` | applies tables incrementally |
//! | `store` | the state directory: the lock, the last table |
//! | `handover`, `previous` | replacing an agent without cutting connections |
//! | `control`, `feed` | receiving tables and sending reports |
//! | `service` | the shared state of a service: its backends, its metrics, load balancing |
//! | `tcp`, `pump` | accepting, connecting, and waiting; copying bytes |
//! | `udp` | datagram sessions |
//! | `dns`, `resolvers` | service names, and the resolvers for all other names |
//! | `namespace`, `route` | the network namespace for service addresses, and the route to it |
//! | `redirect`, `nftables` | forwarding published ports of the node |
//! | `workers` | the threads that carry traffic |
//! | `report`, `metrics` | reports to the manager, and metrics for Prometheus |

mod control;
mod dns;
mod engine;
mod feed;
mod handover;
mod lines;
mod metrics;
mod namespace;
mod nftables;
mod previous;
mod pump;
mod redirect;
mod report;
mod resolvers;
mod route;
mod service;
mod socket;
mod store;
mod tcp;
mod udp;
mod workers;

use std::mem;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep};

pub use feed::{check, feed, serves};
pub use socket::raise_file_limit;

use crate::error::{Error, Result};
use engine::Engine;
use handover::{Inherited, Received};
use namespace::{Addresses, Namespace};
use report::Reporter;
use resolvers::Resolvers;
use store::{Lock, Store};
use workers::Workers;

/// The file in the state directory that is mounted as `/etc/resolv.conf` in containers.
pub const RESOLV_CONF: &str = "resolv.conf";

/// The unix socket in the state directory that receives tables.
pub const CONTROL_SOCKET: &str = "control.sock";

/// The unix socket in the state directory that serves metrics for Prometheus: `curl --unix-socket
/// metrics.sock http://agent/metrics`.
pub const METRICS_SOCKET: &str = "metrics.sock";

/// The options of an agent.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The agent's name, which is the name of its container. Only the agent that the manager has named
    /// in the state directory takes over from a running agent.
    pub name: Option<String>,
    /// The directory for the last table, the sockets, and the containers' `resolv.conf`.
    pub state: PathBuf,
    /// The `resolv.conf` with the node's own resolvers. The agent reads the file again when it
    /// changes.
    pub resolvers: PathBuf,
    /// The port on which the node's own resolvers listen.
    pub resolvers_port: u16,
    /// The port on which the agent serves DNS.
    pub dns_port: u16,
    /// Whether to create a network namespace for service addresses and route the platform's address
    /// block to it. This needs `NET_ADMIN` and `SYS_ADMIN`. It is unnecessary for a block within
    /// 127.0.0.0/8, because those addresses are always local.
    pub route: bool,
    /// The number of threads for traffic; by default, the number of processors.
    pub threads: Option<NonZeroUsize>,
    /// The maximum number of connections per service that wait for a ready endpoint. Further
    /// connections are reset immediately.
    pub waiting: usize,
    /// How long a backend may take to accept a connection before the next backend is tried. The
    /// kernel enforces this limit, with a precision of about a second.
    pub connect_within: Duration,
    /// How long a backend may leave data unacknowledged before it counts as gone.
    pub vanished_after: Duration,
    /// The maximum number of sessions per UDP port of a service. At the maximum, the session of a
    /// new client replaces the sessions that have been idle longest.
    pub udp_sessions: usize,
    /// The idle time after which a UDP session ends.
    pub udp_idle: Duration,
}

impl AgentOptions {
    /// Creates the default options for a node, with the state directory `state`.
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self {
            name: None,
            state: state.into(),
            resolvers: PathBuf::from("/etc/resolv.conf"),
            resolvers_port: 53,
            dns_port: 53,
            route: true,
            threads: None,
            waiting: 4096,
            connect_within: Duration::from_secs(2),
            vanished_after: Duration::from_mins(1),
            udp_sessions: 4096,
            udp_idle: Duration::from_secs(30),
        }
    }
}

/// Poll interval while another agent serves.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// The interval between requests for a handover, if the running agent does not answer.
const REQUEST_AGAIN: Duration = Duration::from_secs(1);

/// How an agent gets the right to serve.
enum Start {
    /// No other agent was running.
    Alone(Lock),
    /// Another agent is running, and passes its sockets.
    TakesOver(Received),
}

/// Runs an agent. While another agent uses the same state directory, this agent takes over from it
/// if the manager has named this agent there, and otherwise waits. Returns after another agent has
/// taken over and all connections have ended. If the future is dropped, the connections are cut.
///
/// # Errors
/// [`Error::Io`] if the state directory cannot be used or no thread can be started;
/// [`Error::Failed`] if the handover from the running agent is interrupted, or if the lock or the
/// control socket is removed: the agent must then be started again. Later failures are reported or
/// logged, and retried.
pub async fn run(options: AgentOptions) -> Result<()> {
    let options = Arc::new(options);
    raise_file_limit();
    let store = Store::open(&options.state)?;
    let mut start = begin(&options, &store).await?;
    let (namespace, sockets) = match &mut start {
        Start::Alone(_) => (None, Inherited::default()),
        Start::TakesOver(received) => (received.namespace.take(), mem::take(&mut received.sockets)),
    };
    let resolvers = Resolvers::read(&options.resolvers);
    let reporter = Arc::new(Reporter::new(options.name.clone()));
    let addresses = match namespace {
        _ if !options.route => Addresses::OnNode,
        Some((network, linked)) => Addresses::Namespace(Namespace::of_previous(network, linked)?),
        None => Addresses::Namespace(Namespace::new()?),
    };
    let (workers, _stop) = Workers::start(options.threads)?;
    let watched = resolvers.watch();
    let (mut engine, view) = Engine::start(
        options,
        store.clone(),
        addresses,
        workers,
        Arc::clone(&reporter),
        watched,
        sockets,
    )
    .await;
    let mut background = JoinSet::new();
    background.spawn(Arc::clone(&reporter).run());
    let lock = match start {
        Start::Alone(lock) => lock,
        Start::TakesOver(received) => {
            if !engine.has_resumed() {
                let why = "the stored table cannot be applied";
                return Err(Error::failed("taking over from the running agent", why));
            }
            let (lock, stream) = received.confirm().await?;
            tracing::info!("took over from the running agent");
            engine.succeed(stream).await;
            lock
        }
    };
    let (tables, incoming) = mpsc::channel(1);
    let (requests, next) = mpsc::channel(1);
    let control = store.listen(CONTROL_SOCKET)?;
    let metrics = store.listen(METRICS_SOCKET)?;
    let handover = store.listen(handover::SOCKET)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(resolvers.keep_reading());
    tasks.spawn(metrics::serve(metrics, view));
    tasks.spawn(control::serve(control, tables, Arc::clone(&reporter)));
    tasks.spawn(handover::serve(handover, requests));
    let (engine, mut stream) = tokio::select! {
        handed_over = engine.run(incoming, next, &lock) => handed_over,
        ended = tasks.join_next() => return Err(unexpected_end(ended)),
        ended = background.join_next() => return Err(unexpected_end(ended)),
        () = store.removed(CONTROL_SOCKET) => {
            let why = "another process has removed files from its state directory";
            return Err(Error::failed("the agent", why));
        }
    };
    tasks.shutdown().await;
    drop(lock);
    tracing::info!("another agent has taken over; finishing the open connections");
    if let Err(error) = handover::stopped(&mut stream).await {
        tracing::warn!(%error, "cannot confirm the handover");
    }
    let (tables, incoming) = mpsc::channel(1);
    let feeder = control::Feeder { tables, reporter };
    background.spawn(async move {
        if let Err(error) = feeder.serve(stream).await {
            tracing::debug!(%error, "the connection to the next agent broke");
        }
    });
    engine.finish(incoming).await;
    Ok(())
}

/// Waits until this agent may serve.
async fn begin(options: &AgentOptions, store: &Store) -> Result<Start> {
    let mut request_at = Instant::now();
    let mut is_logged = false;
    loop {
        if let Some(lock) = store.try_lock()? {
            return Ok(Start::Alone(lock));
        }
        let is_current = |name| store.is_current(name);
        if Instant::now() >= request_at && options.name.as_deref().is_some_and(is_current) {
            match Received::request(store).await {
                Ok(received) => return Ok(Start::TakesOver(received)),
                Err(error) => {
                    tracing::warn!(%error, "the running agent does not pass its sockets");
                }
            }
            request_at = Instant::now() + REQUEST_AGAIN;
        }
        if !is_logged {
            tracing::warn!(directory = %options.state.display(), "another agent is running");
            is_logged = true;
        }
        sleep(ASK_AGAIN).await;
    }
}

/// Returns the error for a task that ended, because none is expected to end.
fn unexpected_end(ended: Option<std::result::Result<(), JoinError>>) -> Error {
    match ended {
        Some(Err(error)) => Error::Failed {
            what: "the agent".into(),
            why: "one of its tasks panicked".into(),
            source: Some(Box::new(error)),
        },
        _ => Error::failed("the agent", "one of its tasks ended unexpectedly"),
    }
}
