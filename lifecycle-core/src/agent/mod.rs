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
mod lines;
mod metrics;
mod namespace;
mod nftables;
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

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

pub use feed::{check, feed};

use crate::error::{Error, Result};
use engine::Engine;
use namespace::{Addresses, Namespace};
use report::Reporter;
use resolvers::Resolvers;
use store::Store;
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

/// Runs an agent until the future is dropped. Waits while another agent uses the same state
/// directory.
///
/// # Errors
/// [`Error::Io`] if the state directory cannot be used or no thread can be started. Later failures
/// are reported or logged, and retried.
pub async fn run(options: AgentOptions) -> Result<()> {
    let options = Arc::new(options);
    socket::raise_limit();
    let store = Store::open(&options.state).await?;
    let control = store.listen(CONTROL_SOCKET)?;
    let metrics = store.listen(METRICS_SOCKET)?;
    let resolvers = Resolvers::read(&options.resolvers);
    let reporter = Arc::new(Reporter::default());
    let addresses = if options.route {
        Addresses::Namespace(Namespace::new()?)
    } else {
        Addresses::OnNode
    };
    let (workers, _stop) = Workers::start(options.threads)?;
    let watched = resolvers.watch();
    let (engine, view) = Engine::start(
        options,
        store,
        addresses,
        workers,
        Arc::clone(&reporter),
        watched,
    )
    .await;
    let (tables, incoming) = tokio::sync::mpsc::channel(1);
    let mut tasks = JoinSet::new();
    tasks.spawn(resolvers.keep_reading());
    tasks.spawn(Arc::clone(&reporter).run());
    tasks.spawn(metrics::serve(metrics, view));
    tasks.spawn(control::serve(control, tables, reporter));
    tasks.spawn(engine.run(incoming));
    // None of the tasks is expected to end.
    match tasks.join_next().await {
        Some(Err(error)) => Err(Error::Failed {
            what: "the agent".into(),
            why: "one of its tasks panicked".into(),
            source: Some(Box::new(error)),
        }),
        _ => Err(Error::failed(
            "the agent",
            "one of its tasks ended unexpectedly",
        )),
    }
}
