//! The SSH connections to one host, shared by all who talk to it.
//!
//! Two limits shape this. Stock sshd allows ten sessions (commands) per connection, so further
//! connections are opened at eight; and few unauthenticated dials at once, so dials are bounded.
//! A third comes from the client: while one channel's reader stalls, its whole connection
//! stalls. Hence whatever reads at its own pace gets a connection of its own ([`Share::Alone`]).

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lifecycle_core::host::{Duplex, ForwardTarget};
use russh::client::{self, Handle, Msg};
use russh::{AlgorithmKind, Channel, ChannelOpenFailure, Preferred};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout};

use super::credential::Credential;
use super::host_key::HostKeyCheck;
use super::jump::Jump;
use super::tunnel;
use super::watched::Watched;
use crate::error::SshError;

/// Stock sshd allows ten; two are left for sessions that it has not cleared away yet.
const SESSIONS_PER_CONNECTION: usize = 8;
/// Stock sshd begins to drop dials at ten that have not logged in yet.
const PARALLEL_DIALS: u32 = 4;
/// After so many refused channels a connection gets no further ones: the client queues a reply for
/// each, and nothing reads that queue once the login is over (russh 0.65.1, `Handle::receiver`).
const REFUSALS_PER_CONNECTION: usize = 64;
/// Further connections are given up after this long without use.
const IDLE: Duration = Duration::from_mins(1);
/// How long a channel that opens late is waited for, to close it: longer than a host tries to
/// connect to another that is silent.
const LATEST: Duration = Duration::from_mins(5);
/// Messages of a channel that may wait for its reader before the connection waits.
const CHANNEL_BUFFER: usize = 1024;
const WINDOW: u32 = 8 << 20;

/// How patient the connections to a host are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SshTimings {
    /// How long dialling and logging in may take.
    pub connect: Duration,
    /// How long nothing may come from the host before it is asked for a sign of life.
    pub keepalive: Duration,
    /// How many signs of life may fail to come before the connection is given up.
    pub keepalive_misses: usize,
}

impl Default for SshTimings {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            keepalive: Duration::from_secs(15),
            keepalive_misses: 3,
        }
    }
}

impl SshTimings {
    /// How long it takes at most until a silent host is given up.
    pub(super) fn silence(&self) -> Duration {
        let misses = u32::try_from(self.keepalive_misses).unwrap_or(u32::MAX);
        self.keepalive.saturating_mul(misses.saturating_add(1))
    }
}

/// What a channel is wanted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A command; counts against sshd's `MaxSessions`.
    Session,
    /// A connection that the host makes; does not.
    Forward(ForwardTarget),
}

impl Wanted {
    fn is_session(&self) -> bool {
        matches!(self, Self::Session)
    }

    async fn open(&self, handle: &Handle<HostKeyCheck>) -> Result<Channel<Msg>, SshError> {
        let opened = match self {
            Self::Session => handle.channel_open_session().await,
            Self::Forward(ForwardTarget::Tcp { host, port }) => {
                handle
                    .channel_open_direct_tcpip(host, u32::from(*port), "127.0.0.1", 0)
                    .await
            }
            Self::Forward(ForwardTarget::Unix { path }) => {
                handle.channel_open_direct_streamlocal(path).await
            }
        };
        opened.map_err(|error| match (error, self) {
            (russh::Error::ChannelOpenFailure(_), Self::Session)
            | (russh::Error::ChannelOpenFailure(ChannelOpenFailure::ResourceShortage), _) => {
                SshError::SessionRefused
            }
            (russh::Error::ChannelOpenFailure(why), Self::Forward(target)) => {
                SshError::ForwardRefused {
                    target: name(target),
                    why,
                }
            }
            (error, _) => error.into(),
        })
    }

    /// What it is called that the host did not open it in time.
    fn late(&self, after: Duration) -> SshError {
        match self {
            Self::Session => SshError::TimedOut(after),
            Self::Forward(target) => SshError::ForwardTimedOut {
                target: name(target),
                after,
            },
        }
    }
}

fn name(target: &ForwardTarget) -> String {
    match target {
        ForwardTarget::Tcp { host, port } => format!("{host}:{port}"),
        ForwardTarget::Unix { path } => path.clone(),
    }
}

/// Whether a channel may share its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// Its reader never stalls.
    Shared,
    /// Its reader may stall.
    Alone,
}

struct Connection {
    handle: Handle<HostKeyCheck>,
    sessions: AtomicUsize,
    channels: AtomicUsize,
    refusals: AtomicUsize,
    /// No further channels: it is broken, or the host holds on to a session of it.
    retired: AtomicBool,
    last_used: Mutex<Instant>,
}

impl Connection {
    fn is_usable(&self) -> bool {
        !self.retired.load(Ordering::Acquire) && !self.handle.is_closed()
    }

    /// Lets nobody open a further channel.
    fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Counts a channel that the host refused.
    fn was_refused(&self) {
        if self.refusals.fetch_add(1, Ordering::AcqRel) + 1 >= REFUSALS_PER_CONNECTION {
            self.retire();
        }
    }

    fn is_idle(&self) -> bool {
        let last = *self
            .last_used
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.channels.load(Ordering::Acquire) == 0 && last.elapsed() > IDLE
    }
}

/// A place for one channel on a connection; given back when dropped.
pub(super) struct Lease {
    connection: Arc<Connection>,
    is_session: bool,
    share: Share,
}

impl Lease {
    fn new(connection: Arc<Connection>, is_session: bool, share: Share) -> Self {
        connection.channels.fetch_add(1, Ordering::AcqRel);
        if is_session {
            connection.sessions.fetch_add(1, Ordering::AcqRel);
        }
        Self {
            connection,
            is_session,
            share,
        }
    }

    /// Whether no other channel uses this connection.
    pub(super) fn is_alone(&self) -> bool {
        self.share == Share::Alone
    }

    /// Lets nobody open a further channel on this connection.
    pub(super) fn retire(&self) {
        self.connection.retire();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_session {
            self.connection.sessions.fetch_sub(1, Ordering::AcqRel);
        }
        self.connection.channels.fetch_sub(1, Ordering::AcqRel);
        *self
            .connection
            .last_used
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// Whom the pool connects to, and as whom.
#[derive(Clone)]
pub(super) struct Peer {
    /// Its name or address.
    pub(super) host: String,
    pub(super) port: u16,
    /// The jump host that connects to it, if not we ourselves do.
    pub(super) through: Option<Arc<Jump>>,
    pub(super) user: String,
    pub(super) host_keys: Vec<String>,
    pub(super) credential: Credential,
    pub(super) timings: SshTimings,
}

pub(super) struct Pool {
    peer: Peer,
    connections: Mutex<Vec<Arc<Connection>>>,
    /// Rises each time that all connections are replaced.
    generation: AtomicU64,
    dials: Semaphore,
    /// The latest failed dial, so that many who wait for one dead host wait for one dial.
    failed: Mutex<Option<(Instant, Arc<SshError>)>>,
}

impl Pool {
    pub(super) fn new(peer: Peer) -> Self {
        Self {
            peer,
            connections: Mutex::new(Vec::new()),
            generation: AtomicU64::new(0),
            dials: Semaphore::new(PARALLEL_DIALS as usize),
            failed: Mutex::new(None),
        }
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Opens no further channel on the connections that exist; they end with their last channel.
    pub(super) fn renew(&self) {
        for connection in self.lock().drain(..) {
            connection.retire();
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Makes sure that the host answers and lets us in.
    pub(super) async fn check(&self) -> Result<(), Arc<SshError>> {
        self.lease(false, Share::Shared).await.map(drop)
    }

    /// Opens a channel. A connection that turns out to be broken, or to hold all the sessions
    /// that the host allows, is replaced once.
    pub(super) async fn open(
        &self,
        wanted: &Wanted,
        share: Share,
    ) -> Result<(Channel<Msg>, Lease), Arc<SshError>> {
        let mut replaced = false;
        loop {
            let lease = self.lease(wanted.is_session(), share).await?;
            let patience = self.peer.timings.connect;
            match open(Arc::clone(&lease.connection), wanted.clone(), patience).await {
                Ok(channel) => return Ok((channel, lease)),
                Err(error) if error.breaks_connection() => {
                    lease.retire();
                    if replaced || matches!(error, SshError::TimedOut(_)) {
                        return Err(Arc::new(error));
                    }
                    replaced = true;
                }
                Err(error) => {
                    if matches!(error, SshError::ForwardRefused { .. }) {
                        lease.connection.was_refused();
                    }
                    return Err(Arc::new(error));
                }
            }
        }
    }

    async fn lease(&self, is_session: bool, share: Share) -> Result<Lease, Arc<SshError>> {
        if share == Share::Shared
            && let Some(lease) = self.take(is_session)
        {
            return Ok(lease);
        }
        let asked = Instant::now();
        // The first dial is made alone: whoever waits for it most likely needs no second one.
        let permits = if self.is_empty() { PARALLEL_DIALS } else { 1 };
        let _permit = self
            .dials
            .acquire_many(permits)
            .await
            .map_err(|_| Arc::new(SshError::EndedEarly))?;
        if share == Share::Shared
            && let Some(lease) = self.take(is_session)
        {
            return Ok(lease);
        }
        if let Some(error) = self.failed_since(asked) {
            return Err(error);
        }
        match self.dial().await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                if share == Share::Shared {
                    self.lock().push(Arc::clone(&connection));
                }
                Ok(Lease::new(connection, is_session, share))
            }
            Err(error) => {
                let error = Arc::new(error);
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some((Instant::now(), Arc::clone(&error)));
                Err(error)
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Connection>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn is_empty(&self) -> bool {
        self.lock().iter().all(|c| !c.is_usable())
    }

    fn failed_since(&self, asked: Instant) -> Option<Arc<SshError>> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match &*failed {
            Some((at, error)) if *at >= asked => Some(Arc::clone(error)),
            _ => None,
        }
    }

    /// A place on a connection that exists, the first with room, so that later ones run dry.
    fn take(&self, is_session: bool) -> Option<Lease> {
        let mut connections = self.lock();
        connections.retain(|c| c.is_usable());
        let mut kept = 0;
        connections.retain(|c| {
            kept += 1;
            kept == 1 || !c.is_idle()
        });
        connections
            .iter()
            .find(|c| !is_session || c.sessions.load(Ordering::Acquire) < SESSIONS_PER_CONNECTION)
            .map(|c| Lease::new(Arc::clone(c), is_session, Share::Shared))
    }

    /// A stream to the host, over which nothing was said yet.
    async fn stream(&self) -> Result<Box<dyn Duplex>, SshError> {
        let Peer { host, port, .. } = &self.peer;
        // A jump host keeps its own time: what is late there is late by its name.
        if let Some(jump) = &self.peer.through {
            return jump.reach(host, *port).await;
        }
        let limit = self.peer.timings.connect;
        let connected = timeout(limit, TcpStream::connect((host.as_str(), *port))).await;
        let stream = connected.map_err(|_| SshError::TimedOut(limit))??;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    async fn dial(&self) -> Result<Connection, SshError> {
        let peer = &self.peer;
        let check = HostKeyCheck::new(&peer.host_keys)?;
        let pinned = check.pinned();
        let mut preferred = Preferred::DEFAULT;
        if let Some(algorithms) = check.algorithms() {
            preferred.key = Cow::Owned(algorithms);
        }
        let config = client::Config {
            nodelay: true,
            keepalive_interval: Some(peer.timings.keepalive),
            keepalive_max: peer.timings.keepalive_misses,
            inactivity_timeout: None,
            window_size: match &peer.through {
                Some(_) => tunnel::WINDOW,
                None => WINDOW,
            },
            channel_buffer_size: CHANNEL_BUFFER,
            preferred,
            ..client::Config::default()
        };
        let (stream, login) = Watched::new(self.stream().await?, peer.timings.silence());
        let dial = async {
            let connected = client::connect_stream(Arc::new(config), stream, check).await;
            let mut handle = match connected {
                Err(SshError::Protocol(russh::Error::NoCommonAlgo {
                    kind: AlgorithmKind::Key,
                    theirs,
                    ..
                })) if !pinned.is_empty() => {
                    return Err(SshError::HostKeyChanged {
                        pinned,
                        offered: format!("keys of other kinds ({})", theirs.join(", ")),
                    });
                }
                connected => connected?,
            };
            peer.credential
                .authenticate(&mut handle, &peer.user)
                .await?;
            Ok(handle)
        };
        let handle = timeout(peer.timings.connect, dial)
            .await
            .map_err(|_| SshError::TimedOut(peer.timings.connect))??;
        login.succeeded();
        Ok(Connection {
            handle,
            sessions: AtomicUsize::new(0),
            channels: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            last_used: Mutex::new(Instant::now()),
        })
    }
}

/// Opens a channel. One that opens after nobody waits for it any more is closed again, and a
/// connection that does not even answer a question then gets no further channel.
async fn open(
    connection: Arc<Connection>,
    wanted: Wanted,
    patience: Duration,
) -> Result<Channel<Msg>, SshError> {
    let late = wanted.late(patience);
    let (answer, answered) = oneshot::channel();
    tokio::spawn(async move {
        let opening = wanted.open(&connection.handle);
        tokio::pin!(opening);
        if let Ok(opened) = timeout(patience, &mut opening).await {
            if let Err(Ok(channel)) = answer.send(opened) {
                // The connection may be gone; then there is nothing to close.
                let _ = channel.close().await;
            }
            return;
        }
        drop(answer);
        let alive = timeout(patience, connection.handle.send_ping()).await;
        if alive.is_err() {
            connection.retire();
        }
        if let Ok(Ok(channel)) = timeout(LATEST, opening).await {
            let _ = channel.close().await;
        }
    });
    answered.await.unwrap_or(Err(late))
}
