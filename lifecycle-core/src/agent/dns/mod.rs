//! Serves DNS on the first address of the platform's address block. The agent answers queries for
//! names of services itself. It forwards all other queries to the node's own resolvers and returns
//! their responses unchanged.

mod forward;
mod zone;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

pub(super) use forward::Forwarder;
use zone::{Verdict, failure};
pub(super) use zone::{Zone, domain};

/// The maximum size of a query over UDP. Real queries are far shorter.
const LONGEST_QUERY: usize = 4096;

/// The maximum number of UDP queries that wait for a resolver. Further queries are dropped; clients
/// repeat them.
const FORWARDED: usize = 1024;

/// The maximum number of open TCP connections, and the idle time after which a connection is
/// closed.
const CONNECTIONS: usize = 256;
const IDLE_FOR: Duration = Duration::from_secs(10);

/// The delay after a failed `accept`, for example if no file descriptors are left.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers DNS queries from the zone, or forwards them.
#[derive(Debug)]
pub(super) struct Answerer {
    pub(super) zone: watch::Receiver<Arc<Zone>>,
    pub(super) forwarder: Forwarder,
    room: Arc<Semaphore>,
}

#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) datagrams: std::net::UdpSocket,
    pub(super) streams: std::net::TcpListener,
}

impl Sockets {
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            datagrams: super::socket::datagrams(address)?,
            streams: super::socket::listen(address)?,
        })
    }

    /// Returns further descriptors of the sockets.
    pub(super) fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        let datagrams = self.datagrams.try_clone()?;
        let streams = self.streams.try_clone()?;
        Ok(vec![datagrams.into(), streams.into()])
    }
}

impl Answerer {
    pub(super) fn new(zone: watch::Receiver<Arc<Zone>>, forwarder: Forwarder) -> Self {
        Self {
            zone,
            forwarder,
            room: Arc::new(Semaphore::new(FORWARDED)),
        }
    }

    /// Serves until `closing` is cancelled and all pending queries are answered.
    pub(super) async fn serve(self: Arc<Self>, sockets: Sockets, closing: CancellationToken) {
        let served = async {
            let datagrams = UdpSocket::from_std(sockets.datagrams)?;
            let streams = TcpListener::from_std(sockets.streams)?;
            let both = (
                Arc::clone(&self).serve_datagrams(datagrams, &closing),
                self.serve_streams(streams, &closing),
            );
            tokio::join!(both.0, both.1);
            io::Result::Ok(())
        };
        if let Err(error) = served.await {
            tracing::error!(%error, "cannot serve DNS");
        }
    }

    async fn serve_datagrams(self: Arc<Self>, socket: UdpSocket, closing: &CancellationToken) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; LONGEST_QUERY];
        let mut forwarded = JoinSet::new();
        loop {
            tokio::select! {
                () = closing.cancelled() => break,
                received = socket.recv_from(&mut buffer) => {
                    let Ok((length, client)) = received else {
                        // Ignore the error: it is an ICMP message about an earlier response that
                        // did not arrive.
                        continue;
                    };
                    let query = &buffer[..length];
                    match self.judge(query) {
                        Verdict::Answer(answer) => drop(socket.try_send_to(&answer, client)),
                        Verdict::Ignore => {}
                        Verdict::Forward => {
                            let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
                                continue;
                            };
                            let (this, socket) = (Arc::clone(&self), Arc::clone(&socket));
                            let query = query.to_vec();
                            forwarded.spawn(async move {
                                let _permit = permit;
                                let answer = this.forwarder.ask(&query, false).await;
                                let answer = answer.or_else(|| failure(&query));
                                if let Some(answer) = answer {
                                    drop(socket.send_to(&answer, client).await);
                                }
                            });
                        }
                    }
                }
                Some(_) = forwarded.join_next() => {}
            }
        }
        while forwarded.join_next().await.is_some() {}
    }

    async fn serve_streams(self: Arc<Self>, listener: TcpListener, closing: &CancellationToken) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = async {
                let permit = Arc::clone(&room).acquire_owned().await;
                (permit, listener.accept().await)
            };
            let Some((Ok(permit), accepted)) = closing.run_until_cancelled(accepted).await else {
                break;
            };
            match accepted {
                Ok((stream, _)) => {
                    let this = Arc::clone(&self);
                    connections.spawn(async move {
                        let _permit = permit;
                        // Ignore the error: the client was idle or sent an invalid message.
                        drop(this.serve_stream(stream).await);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a DNS connection");
                    sleep(PAUSE).await;
                }
            }
        }
        while connections.join_next().await.is_some() {}
    }

    async fn serve_stream(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let query = timeout(IDLE_FOR, read_framed(&mut stream)).await??;
            let answer = match self.judge(&query) {
                Verdict::Answer(answer) => Some(answer),
                Verdict::Ignore => None,
                Verdict::Forward => {
                    let answer = self.forwarder.ask(&query, true).await;
                    answer.or_else(|| failure(&query))
                }
            };
            let Some(answer) = answer else {
                return Ok(());
            };
            timeout(IDLE_FOR, write_framed(&mut stream, &answer)).await??;
        }
    }

    fn judge(&self, query: &[u8]) -> Verdict {
        let zone = Arc::clone(&self.zone.borrow());
        zone.judge(query)
    }
}

/// Reads a DNS message over TCP: its length, then the message.
async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}
