//! Accepts connections to a service and finds a backend for each.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::report::Reporter;
use super::service::{Backend, Counted, Lease, Service};
use super::workers::Workers;
use super::{pump, socket};
use crate::model::Protocol;

/// The delay after a failed `accept`, for example if no file descriptors are left.
const PAUSE: Duration = Duration::from_millis(50);

/// The first and the longest pause before all backends are tried again.
const FIRST_AGAIN: Duration = Duration::from_millis(50);
const LONGEST_AGAIN: Duration = Duration::from_secs(1);

/// The shared state of all listeners.
#[derive(Debug)]
pub(super) struct Forwarding {
    pub(super) workers: Workers,
    pub(super) reporter: Arc<Reporter>,
    /// Limits the number of open connections.
    pub(super) room: Arc<Semaphore>,
    pub(super) connect_within: Duration,
    pub(super) vanished_after: Duration,
}

/// Accepts connections until `closing` is cancelled. At the limit of open connections, further
/// connections stay in the kernel's queue.
pub(super) async fn accept(
    listener: std::net::TcpListener,
    service: Arc<Service>,
    port: u16,
    forwarding: Arc<Forwarding>,
    closing: CancellationToken,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, service = %service.name, port, "cannot accept connections");
            return;
        }
    };
    let closed = closing.cancelled();
    tokio::pin!(closed);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut closed => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, _)) => {
                service.figures.accepted.fetch_add(1, Ordering::Relaxed);
                let Ok(permit) = Arc::clone(&forwarding.room).acquire_owned().await else {
                    return;
                };
                let connection = Connection {
                    service: Arc::clone(&service),
                    port,
                    forwarding: Arc::clone(&forwarding),
                    _permit: permit,
                };
                match forwarding.workers.less_busy() {
                    None => drop(tokio::spawn(connection.serve(client))),
                    // Register the socket with the other thread's reactor.
                    Some(other) => match client.into_std() {
                        Ok(client) => drop(other.spawn(connection.serve_moved(client))),
                        Err(error) => tracing::debug!(%error, "a connection was lost"),
                    },
                }
            }
            Err(error) => {
                tracing::debug!(%error, service = %service.name, port, "cannot accept a connection");
                sleep(PAUSE).await;
            }
        }
    }
}

struct Connection {
    service: Arc<Service>,
    port: u16,
    forwarding: Arc<Forwarding>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve_moved(self, client: std::net::TcpStream) {
        match TcpStream::from_std(client) {
            Ok(client) => self.serve(client).await,
            Err(error) => tracing::debug!(%error, "a connection was lost"),
        }
    }

    async fn serve(self, client: TcpStream) {
        let found = match self.attempt().await {
            Some(found) => Some(found),
            // Box the waiting future, so that only connections that wait use memory for it.
            None => Box::pin(self.wait(&client)).await,
        };
        let Some((backend, lease)) = found else {
            // Reset the connection: a client could mistake a normal close for an empty response.
            drop(client.set_zero_linger());
            return;
        };
        let _open = Counted::new(&self.service.figures.open);
        let vanished_after = self.forwarding.vanished_after;
        let backend = (backend, lease.backend.as_ref());
        pump::carry(client, backend, vanished_after, &self.service.figures).await;
    }

    /// Tries each backend once.
    async fn attempt(&self) -> Option<(TcpStream, Lease)> {
        let mut tried: Vec<Arc<Backend>> = Vec::new();
        loop {
            let lease = self.service.choose((self.port, Protocol::Tcp), &tried)?;
            let within = self.forwarding.connect_within;
            let error = match socket::connect(lease.address, within).await {
                Ok(stream) => return Some((stream, lease)),
                Err(error) => error,
            };
            tracing::debug!(
                container = lease.backend.container, address = %lease.address, %error,
                "a backend did not accept a connection"
            );
            lease.backend.suspect();
            tried.push(Arc::clone(&lease.backend));
        }
    }

    /// Waits for a backend that accepts the connection, but no longer than the table allows.
    async fn wait(&self, client: &TcpStream) -> Option<(TcpStream, Lease)> {
        let started = Instant::now();
        let mut targets = self.service.targets.subscribe();
        // Also notice a change that happened after the first attempt.
        targets.mark_changed();
        let mut again = FIRST_AGAIN;
        let found = match self.service.room_to_wait.try_acquire() {
            Err(_) => None,
            Ok(_room) => {
                let _waiting = Counted::new(&self.service.figures.waiting);
                loop {
                    let deadline = started + targets.borrow_and_update().wait;
                    if Instant::now() >= deadline {
                        break None;
                    }
                    if let Some(found) = self.attempt().await {
                        break Some(found);
                    }
                    tokio::select! {
                        changed = targets.changed() => match changed {
                            Ok(()) => again = FIRST_AGAIN,
                            // The service was removed from the table.
                            Err(_) => break None,
                        },
                        () = sleep(again) => again = (again * 2).min(LONGEST_AGAIN),
                        () = sleep_until(deadline) => {}
                        // The client has closed the connection; nothing needs to be reported.
                        _ = client.ready(Interest::ERROR) => return None,
                    }
                }
            }
        };
        if found.is_none() {
            self.service.figures.reset.fetch_add(1, Ordering::Relaxed);
            self.forwarding
                .reporter
                .reset(&self.service.name, self.port);
        }
        found
    }
}
