//! Forwards datagrams. Each client has a session with one backend, so that responses reach the
//! client and come from the service's address. Without a ready endpoint, a datagram is dropped.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{Interest, ReadBuf};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::pump::with_buffer;
use super::service::{Backend, Counted, Service};
use crate::model::Protocol;

/// Limits the sessions of a port.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    pub(super) sessions: usize,
    pub(super) idle: Duration,
    /// Limits the number of sockets that the process opens.
    pub(super) room: Arc<Semaphore>,
    /// Cancelled when the next agent receives the datagrams.
    pub(super) closing: CancellationToken,
}

/// Serves one UDP port of a service until the future is dropped. If the next agent receives the
/// datagrams, returns once all sessions have ended: until then, responses of their backends still reach
/// the clients.
pub(super) async fn serve(
    socket: std::net::UdpSocket,
    service: Arc<Service>,
    port: u16,
    bounds: Bounds,
) {
    let socket = match UdpSocket::from_std(socket) {
        Ok(socket) => Arc::new(socket),
        Err(error) => {
            tracing::error!(%error, service = %service.name, port, "cannot receive datagrams");
            return;
        }
    };
    let closing = bounds.closing.clone();
    let mut clients = Clients {
        socket: Arc::clone(&socket),
        service,
        port,
        bounds,
        sessions: HashMap::new(),
        tasks: JoinSet::new(),
    };
    let receive = clients.receive(&socket);
    if closing.run_until_cancelled(receive).await.is_some() {
        return;
    }
    while clients.tasks.join_next().await.is_some() {}
}

struct Clients {
    socket: Arc<UdpSocket>,
    service: Arc<Service>,
    port: u16,
    bounds: Bounds,
    sessions: HashMap<SocketAddr, Session>,
    tasks: JoinSet<()>,
}

struct Session {
    socket: Arc<UdpSocket>,
    backend: Arc<Backend>,
    last: Arc<Last>,
    task: AbortHandle,
}

/// Records when a session was last used.
#[derive(Debug)]
struct Last {
    since: Instant,
    milliseconds: AtomicU64,
}

impl Last {
    fn touch(&self) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.milliseconds.store(now, Ordering::Relaxed);
    }

    fn at(&self) -> Instant {
        self.since + Duration::from_millis(self.milliseconds.load(Ordering::Relaxed))
    }
}

impl Clients {
    async fn receive(&mut self, socket: &UdpSocket) {
        loop {
            // Receive and forward a datagram in the same poll, because all tasks of the thread share
            // the buffer.
            let received = poll_fn(|cx| {
                let mut ended = false;
                while let Poll::Ready(Some(_)) = self.tasks.poll_join_next(cx) {
                    ended = true;
                }
                if ended {
                    self.sessions
                        .retain(|_, session| !session.task.is_finished());
                }
                with_buffer(|buffer| {
                    let mut buffer = ReadBuf::new(buffer);
                    let client = ready!(socket.poll_recv_from(cx, &mut buffer))?;
                    self.pass_on(client, buffer.filled());
                    Poll::Ready(io::Result::Ok(()))
                })
            })
            .await;
            if let Err(error) = received {
                // The error is an ICMP message about an earlier response that did not arrive.
                tracing::trace!(%error, "a datagram was lost");
            }
        }
    }

    fn pass_on(&mut self, client: SocketAddr, datagram: &[u8]) {
        let session = self.session(client);
        // Send directly and not through the reactor. The reactor does not know yet that a new
        // socket is writable.
        let sent = session.is_some_and(|socket| SockRef::from(&*socket).send(datagram).is_ok());
        let figures = &self.service.figures;
        if sent {
            figures.datagrams_in.fetch_add(1, Ordering::Relaxed);
            figures
                .bytes_in
                .fetch_add(datagram.len() as u64, Ordering::Relaxed);
        } else {
            figures.datagrams_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the socket of a client's session. If the session's backend accepts no new
    /// connections, the client gets another session, if possible. The old session remains for data
    /// in flight.
    fn session(&mut self, client: SocketAddr) -> Option<Arc<UdpSocket>> {
        if let Some(session) = self.sessions.get(&client)
            && !session.task.is_finished()
        {
            let stays = session.backend.takes_new()
                || self
                    .service
                    .choose((self.port, Protocol::Udp), &[])
                    .is_none();
            if stays {
                session.last.touch();
                return Some(Arc::clone(&session.socket));
            }
        }
        self.begin(client)
    }

    fn begin(&mut self, client: SocketAddr) -> Option<Arc<UdpSocket>> {
        let lease = self.service.choose((self.port, Protocol::Udp), &[])?;
        let permit = Arc::clone(&self.bounds.room).try_acquire_owned().ok()?;
        let socket = connected(lease.address)
            .inspect_err(|error| tracing::debug!(%error, "cannot start a datagram session"))
            .ok()?;
        let socket = Arc::new(socket);
        if self.sessions.len() >= self.bounds.sessions {
            self.make_room();
        }
        let last = Arc::new(Last {
            since: Instant::now(),
            milliseconds: AtomicU64::new(0),
        });
        let backend = Arc::clone(&lease.backend);
        let answers = Answers {
            from: Arc::clone(&socket),
            to: Arc::clone(&self.socket),
            client,
            last: Arc::clone(&last),
        };
        let (service, idle) = (Arc::clone(&self.service), self.bounds.idle);
        let task = self.tasks.spawn(async move {
            let _permit = permit;
            let _open = Counted::new(&service.figures.open);
            if answers.carry(&service, idle).await.is_err() {
                lease.backend.suspect();
            }
        });
        self.service
            .figures
            .accepted
            .fetch_add(1, Ordering::Relaxed);
        let session = Session {
            socket: Arc::clone(&socket),
            backend,
            last,
            task,
        };
        self.sessions.insert(client, session);
        Some(socket)
    }

    /// Ends the quarter of the sessions that have been idle longest, so that not every new client
    /// causes this work.
    fn make_room(&mut self) {
        let mut by_age: Vec<_> = self
            .sessions
            .iter()
            .map(|(client, session)| (session.last.at(), *client))
            .collect();
        by_age.sort_unstable();
        by_age.truncate(by_age.len() / 4 + 1);
        for (_, client) in by_age {
            if let Some(session) = self.sessions.remove(&client) {
                session.task.abort();
            }
        }
    }
}

fn connected(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: std::net::IpAddr = if address.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.connect(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Forwards the responses of a session.
struct Answers {
    from: Arc<UdpSocket>,
    to: Arc<UdpSocket>,
    client: SocketAddr,
    last: Arc<Last>,
}

impl Answers {
    /// Forwards responses until the session has been idle for `idle`. Returns an error if the
    /// backend is not reachable.
    async fn carry(&self, service: &Service, idle: Duration) -> io::Result<()> {
        loop {
            let idle_until = self.last.at() + idle;
            tokio::select! {
                carried = self.carry_one(service) => carried?,
                // The backend's port is closed: the backend's node sent an ICMP error.
                ready = self.from.ready(Interest::ERROR) => {
                    ready?;
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                () = sleep_until(idle_until) => {
                    if Instant::now() >= self.last.at() + idle {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn carry_one(&self, service: &Service) -> io::Result<()> {
        poll_fn(|cx| {
            with_buffer(|buffer| {
                let mut buffer = ReadBuf::new(buffer);
                ready!(self.from.poll_recv(cx, &mut buffer))?;
                let datagram = buffer.filled();
                self.last.touch();
                let figures = &service.figures;
                if self.to.try_send_to(datagram, self.client).is_ok() {
                    figures.datagrams_out.fetch_add(1, Ordering::Relaxed);
                    figures
                        .bytes_out
                        .fetch_add(datagram.len() as u64, Ordering::Relaxed);
                } else {
                    figures.datagrams_dropped.fetch_add(1, Ordering::Relaxed);
                }
                Poll::Ready(Ok(()))
            })
        })
        .await
    }
}
