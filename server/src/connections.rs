//! Accepts the connections to the API. Limits how many connections are open, in all and from each
//! address, and closes the connections that send no request in time, or read no response. Serves only
//! HTTP/1.1: an HTTP/2 connection can carry many requests at once, so the limits would not apply to it.

mod unread;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, TRANSFER_ENCODING};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::auth::Peer;

use unread::{Unlimited, Unread};

/// The only protocol that the server offers in the TLS handshake.
pub(crate) const PROTOCOL: &[u8] = b"http/1.1";

/// How long to wait after a failed attempt to accept a connection, for example because too many
/// files are open.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// When and how often an idle client is asked whether it is still there: after 30 s, and three times at
/// intervals of 10 s.
const IDLE: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_secs(10);
const ASK: u32 = 3;

/// How many bytes the kernel buffers for a client that does not read. By default, it buffers megabytes.
const SEND_BUFFER: usize = 128 << 10;

/// How many bytes of a request's head, and of a response, are buffered.
const BUFFER: usize = 64 << 10;

/// The limits for connections. `docs/api.md` lists the defaults.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The number of open connections in all.
    pub(crate) connections: usize,
    /// The number of open connections from one address. It is smaller than the number in all, so
    /// that one address cannot lock out the others.
    pub(crate) per_address: usize,
    /// How long a TLS handshake may take.
    pub(crate) handshake: Duration,
    /// How long a client may take to send the head of a request, from the handshake or from the end
    /// of the previous request.
    pub(crate) request: Duration,
    /// How long a client may leave the next part of a response unread. Does not apply to commands, whose
    /// output a user may stop and continue.
    pub(crate) unread: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2048,
            per_address: 512,
            handshake: Duration::from_secs(10),
            request: Duration::from_secs(30),
            unread: Duration::from_mins(1),
        }
    }
}

/// Serves the routes on the connections that it accepts.
#[derive(Debug)]
pub(crate) struct Server {
    router: Router,
    tls: watch::Receiver<Arc<ServerConfig>>,
    limits: Limits,
    open: Arc<Mutex<Open>>,
    /// Each connection has a receiver. A notification makes the connection end after its request.
    stopping: watch::Sender<()>,
}

impl Server {
    /// Creates a server. New connections use the latest configuration of `tls`.
    pub(crate) fn new(
        router: Router,
        tls: watch::Receiver<Arc<ServerConfig>>,
        limits: Limits,
    ) -> Self {
        Self {
            router,
            tls,
            limits,
            open: Arc::default(),
            stopping: watch::Sender::new(()),
        }
    }

    /// Accepts connections until the future is dropped.
    pub(crate) async fn accept(&self, listener: &TcpListener) -> Infallible {
        // Accepted connections inherit the option. Without it, a stream whose client vanished would
        // keep its place until it has something to send.
        let keepalive = TcpKeepalive::new().with_time(IDLE).with_interval(ASK_EVERY);
        if let Err(error) = SockRef::from(listener).set_tcp_keepalive(&keepalive.with_retries(ASK))
        {
            tracing::warn!(%error, "vanished clients will not be noticed");
        }
        if let Err(error) = SockRef::from(listener).set_send_buffer_size(SEND_BUFFER) {
            tracing::warn!(%error, "clients that do not read will occupy more memory");
        }
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    if let Some(place) = self.admit(peer.ip()) {
                        self.serve(stream, place);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    /// Waits until the open requests have ended, but not longer than `within`.
    pub(crate) async fn finish(self, within: Duration) {
        self.stopping.send_replace(());
        // Requests that are still open after this time are cut off.
        drop(tokio::time::timeout(within, self.stopping.closed()).await);
    }

    /// Returns a place for a connection, unless a limit is reached.
    fn admit(&self, address: IpAddr) -> Option<Place> {
        let mut open = lock(&self.open);
        let here = open.per_address.get(&address).copied().unwrap_or_default();
        if open.total >= self.limits.connections || here >= self.limits.per_address {
            open.refused += 1;
            // A flood of connections must not flood the log.
            if open.refused.is_power_of_two() {
                tracing::warn!(
                    %address,
                    from_address = here,
                    in_all = open.total,
                    refused = open.refused,
                    "too many connections are open; refusing new ones"
                );
            }
            return None;
        }
        open.total += 1;
        *open.per_address.entry(address).or_default() += 1;
        Some(Place {
            open: Arc::clone(&self.open),
            address,
        })
    }

    fn serve(&self, stream: TcpStream, place: Place) {
        let tls = TlsAcceptor::from(Arc::clone(&self.tls.borrow()));
        let peer = Peer(place.address);
        let routes = TowerToHyperService::new(self.router.clone());
        let is_unlimited = Unlimited::default();
        let limits = self.limits;
        drop(stream.set_nodelay(true));
        let stream = Unread::new(stream, limits.unread, is_unlimited.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            let has_chunks = request.headers().contains_key(TRANSFER_ENCODING);
            let response = routes.call(request);
            let is_unlimited = is_unlimited.clone();
            async move {
                let mut response = response.await?;
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    is_unlimited.set();
                } else if has_chunks {
                    // The request may also have contained a length (RFC 9112, 6.1), according to which
                    // the rest of the body would be another request.
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                Ok::<_, Infallible>(response)
            }
        });
        let mut stopping = self.stopping.subscribe();
        tokio::spawn(async move {
            // An upgraded connection gives its place back; its number is limited per token.
            let _place = place;
            let handshake = tokio::time::timeout(limits.handshake, tls.accept(stream));
            let stream = tokio::select! {
                done = handshake => match done {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "a TLS handshake failed");
                        return;
                    }
                    Err(_) => return,
                },
                _ = stopping.changed() => return,
            };
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .max_buf_size(BUFFER)
                .header_read_timeout(limits.request)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            tokio::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                _ = stopping.changed() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended with an error");
            }
        });
    }
}

/// The numbers of open connections.
#[derive(Debug, Default)]
struct Open {
    total: usize,
    per_address: HashMap<IpAddr, usize>,
    /// The number of refused connections since the start.
    refused: u64,
}

/// The place of an open connection. Dropping the value makes room for another connection.
#[derive(Debug)]
struct Place {
    open: Arc<Mutex<Open>>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        open.total -= 1;
        if let Some(here) = open.per_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                open.per_address.remove(&self.address);
            }
        }
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}
