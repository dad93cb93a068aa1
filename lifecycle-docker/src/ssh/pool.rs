//! The pool of SSH connections to one host.
//!
//! An sshd with stock configuration imposes two limits. It allows ten sessions (commands) per
//! connection. Another connection is opened after eight, because sshd may still count two sessions
//! that have just ended. It also drops new connections while too
//! many are not yet authenticated, so parallel connection attempts are limited. The client adds a
//! third limit: if one channel's reader stalls, the whole connection stalls. Every channel that is
//! read at the caller's pace therefore gets its own connection ([`Share::Alone`]).

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lifecycle_core::host::{Duplex, ForwardTarget};
use russh::client::{self, Handle, Msg};
use russh::{AlgorithmKind, Channel, ChannelOpenFailure, Preferred, cipher};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout};

use super::credential::Credential;
use super::host_key::HostKeyCheck;
use super::jump::Jump;
use super::tunnel;
use super::watched::Watched;
use crate::error::SshError;

/// The maximum number of sessions per connection. Stock sshd allows ten; two of them are reserved
/// for sessions that sshd has not cleaned up yet.
const SESSIONS_PER_CONNECTION: usize = 8;
/// The number of parallel connection attempts. Stock sshd starts to drop connections when ten are
/// not yet authenticated.
const PARALLEL_DIALS: u32 = 4;
/// After this many refused channels, a connection gets no further channels. For each refusal, russh
/// 0.65.1 queues a reply that nothing reads (`Handle::receiver`).
const REFUSALS_PER_CONNECTION: usize = 64;
/// All connections except the first are closed after this idle time.
const IDLE: Duration = Duration::from_mins(1);
/// How long to wait for a late channel, in order to close it. Longer than a host's own timeout for
/// connecting to an unreachable target.
const LATEST: Duration = Duration::from_mins(5);
/// The number of messages that are buffered per channel before the connection waits for the reader.
const CHANNEL_BUFFER: usize = 1024;
const WINDOW: u32 = 8 << 20;

/// The timeouts of the connections to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SshTimings {
    /// Time limit for connecting and authenticating.
    pub connect: Duration,
    /// The idle time after which a keepalive request is sent.
    pub keepalive: Duration,
    /// The number of unanswered keepalive requests after which the connection is closed.
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
    /// Returns the longest time until an unresponsive host is detected.
    pub(super) fn detection_time(&self) -> Duration {
        let misses = u32::try_from(self.keepalive_misses).unwrap_or(u32::MAX);
        self.keepalive.saturating_mul(misses.saturating_add(1))
    }
}

/// The requested type of channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ChannelKind {
    /// A command; counts toward sshd's `MaxSessions`.
    Session,
    /// A forwarded connection; does not count toward `MaxSessions`.
    Forward(ForwardTarget),
}

impl ChannelKind {
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

    /// Returns the error for a channel that the host did not open in time.
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

/// The ciphers in order of preference. With the processor's instructions for AES, the first one is the
/// cheapest, which matters when images are copied.
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_256_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];

/// Selects whether a channel may share its connection with other channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// The reader never stalls.
    Shared,
    /// The reader may stall.
    Alone,
}

struct Connection {
    handle: Handle<HostKeyCheck>,
    sessions: AtomicUsize,
    channels: AtomicUsize,
    refusals: AtomicUsize,
    /// Set if no further channel may be opened: the connection is broken, or the host keeps one of
    /// its sessions.
    retired: AtomicBool,
    last_used: Mutex<Instant>,
}

impl Connection {
    fn is_usable(&self) -> bool {
        !self.retired.load(Ordering::Acquire) && !self.handle.is_closed()
    }

    /// Prevents further channels on this connection.
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

/// A reserved slot for one channel on a connection, released when dropped.
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

    /// Returns whether no other channel uses this connection.
    pub(super) fn is_alone(&self) -> bool {
        self.share == Share::Alone
    }

    /// Prevents further channels on this connection.
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

/// The host that the pool connects to, and its account.
#[derive(Clone)]
pub(super) struct Peer {
    /// The host's name or address.
    pub(super) host: String,
    pub(super) port: u16,
    /// The jump host to connect through; `None` for a direct connection.
    pub(super) through: Option<Arc<Jump>>,
    pub(super) user: String,
    pub(super) host_keys: Vec<String>,
    pub(super) credential: Credential,
    pub(super) timings: SshTimings,
}

pub(super) struct Pool {
    peer: Peer,
    connections: Mutex<Vec<Arc<Connection>>>,
    /// Increases each time all connections are replaced.
    generation: AtomicU64,
    dials: Semaphore,
    /// The time and error of the latest failed connection attempt, for the callers that waited for
    /// it.
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

    /// Prevents further channels on the existing connections. Each connection ends with its last
    /// channel.
    pub(super) fn renew(&self) {
        for connection in self.lock().drain(..) {
            connection.retire();
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Checks that the host responds and accepts the credential.
    pub(super) async fn check(&self) -> Result<(), Arc<SshError>> {
        self.lease(false, Share::Shared).await.map(drop)
    }

    /// Opens a channel. Replaces a connection once if it is broken or has reached the host's
    /// session limit.
    pub(super) async fn open(
        &self,
        kind: &ChannelKind,
        share: Share,
    ) -> Result<(Channel<Msg>, Lease), Arc<SshError>> {
        let mut replaced = false;
        loop {
            let lease = self.lease(kind.is_session(), share).await?;
            let patience = self.peer.timings.connect;
            match open(Arc::clone(&lease.connection), kind.clone(), patience).await {
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
        // Let only one caller open the first connection: the other callers can usually share it.
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

    /// Reserves a free slot on the first connection in the list that has one. Connections at the
    /// end of the list thus become idle and can be closed.
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

    /// Opens the stream for a connection to the host, directly or through the jump host.
    async fn stream(&self) -> Result<Box<dyn Duplex>, SshError> {
        let Peer { host, port, .. } = &self.peer;
        // No timeout is needed here: the jump host has its own.
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
        preferred.cipher = Cow::Borrowed(CIPHERS);
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
        let (stream, login) = Watched::new(self.stream().await?, peer.timings.detection_time());
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
                        offered: format!("keys of other types ({})", theirs.join(", ")),
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

/// Opens a channel. A channel that opens too late is closed again. If the host also does not answer
/// a ping in time, the connection is retired.
async fn open(
    connection: Arc<Connection>,
    kind: ChannelKind,
    patience: Duration,
) -> Result<Channel<Msg>, SshError> {
    let late = kind.late(patience);
    let (answer, answered) = oneshot::channel();
    tokio::spawn(async move {
        let opening = kind.open(&connection.handle);
        tokio::pin!(opening);
        if let Ok(opened) = timeout(patience, &mut opening).await {
            if let Err(Ok(channel)) = answer.send(opened) {
                // If the connection is gone, there is nothing to close.
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
