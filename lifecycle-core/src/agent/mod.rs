//! The agent of the service network: makes service addresses work on its node.
//!
//! It routes the block of service addresses to a network of its own on the node, answers DNS on
//! the block's first address there, and listens on each service's address and ports; connections go on to ready
//! endpoints, on whatever node. What exists and where, the manager tells it by
//! [`Table`](crate::network::Table)s. The last one is kept on disk: names and traffic go on while
//! the manager is away, and a restarted agent serves before anyone has fed it.
//!
//! | module | what it does |
//! |---|---|
//! | `engine` | puts tables in force, by difference |
//! | `store` | the state directory: the lock, the last table |
//! | `control`, `feed` | how tables come in and reports go out |
//! | `service` | what is shared about a service: its backends, its figures, who is chosen next |
//! | `tcp`, `pump` | accepting, connecting and waiting; carrying bytes |
//! | `udp` | sessions of datagrams |
//! | `dns`, `resolvers` | names, and who is asked about all others |
//! | `apart`, `route` | service addresses have a network of their own on the node, and lead there |
//! | `workers` | the threads that carry traffic |
//! | `report`, `metrics` | what the manager and Prometheus are told |

mod apart;
mod control;
mod dns;
mod engine;
mod feed;
mod lines;
mod metrics;
mod pump;
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
use apart::{Addresses, Apart};
use engine::Engine;
use report::Reporter;
use resolvers::Resolvers;
use store::Store;
use workers::Workers;

/// The file in the state directory that containers get as their `/etc/resolv.conf`.
pub const RESOLV_CONF: &str = "resolv.conf";

/// The unix socket in the state directory that tables are fed through.
pub const CONTROL_SOCKET: &str = "control.sock";

/// The unix socket in the state directory that answers with figures for Prometheus:
/// `curl --unix-socket metrics.sock http://agent/metrics`.
pub const METRICS_SOCKET: &str = "metrics.sock";

/// How an agent runs.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Where the last table, the sockets and the containers' `resolv.conf` are kept.
    pub state: PathBuf,
    /// The `resolv.conf` that names the node's own resolvers. Read again when it changes.
    pub resolvers: PathBuf,
    /// The port at which those resolvers are asked.
    pub resolvers_port: u16,
    /// The port at which DNS is answered.
    pub dns_port: u16,
    /// Whether service addresses have a network of their own on the node, to which the block is
    /// routed; needs `NET_ADMIN` and `SYS_ADMIN`. A block within 127.0.0.0/8 leads here anyway.
    pub route: bool,
    /// How many threads carry traffic. `None`: as many as there are processors.
    pub threads: Option<NonZeroUsize>,
    /// How many connections to one service may wait for a ready endpoint at a time. One more is
    /// reset at once.
    pub waiting: usize,
    /// How long a backend has to accept a connection before the next one is tried.
    pub connect_within: Duration,
    /// After how long a backend that acknowledges nothing any more counts as vanished.
    pub vanished_after: Duration,
    /// How many clients may have a session with one UDP port of one service at a time; those
    /// that were silent for longest make room for new ones.
    pub udp_sessions: usize,
    /// After how much silence a UDP session ends.
    pub udp_idle: Duration,
}

impl AgentOptions {
    /// What suits a node, with the state in `state`.
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

/// Runs an agent until the future is dropped. Waits while another one runs on the same state.
///
/// # Errors
/// [`Error::Io`] if the state directory cannot be used or no thread can be started. Whatever
/// goes wrong later is reported or logged, and tried again.
pub async fn run(options: AgentOptions) -> Result<()> {
    let options = Arc::new(options);
    socket::raise_limit();
    let store = Store::open(&options.state).await?;
    let control = store.listen(CONTROL_SOCKET)?;
    let metrics = store.listen(METRICS_SOCKET)?;
    let resolvers = Resolvers::read(&options.resolvers);
    let reporter = Arc::new(Reporter::default());
    let addresses = if options.route {
        Addresses::Apart(Apart::new()?)
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
    tasks.spawn(Arc::clone(&reporter).keep_saying());
    tasks.spawn(metrics::serve(metrics, view));
    tasks.spawn(control::serve(control, tables, reporter));
    tasks.spawn(engine.run(incoming));
    // None of them ends by itself.
    match tasks.join_next().await {
        Some(Err(error)) => Err(Error::Failed {
            what: "the agent".into(),
            why: "a part of it broke off".into(),
            source: Some(Box::new(error)),
        }),
        _ => Err(Error::failed("the agent", "a part of it ended")),
    }
}
