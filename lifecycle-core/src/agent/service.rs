//! The shared state of a service: its backends, its metrics, and load balancing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use crate::model::{InstanceId, Protocol, ServiceName};

/// How long after a failed connection a backend is chosen last.
const SUSPECT_FOR: Duration = Duration::from_secs(5);

/// A service in the active table.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: ServiceName,
    pub(super) figures: Figures,
    /// The backends for new connections. Waiting connections watch this value.
    pub(super) targets: watch::Sender<Arc<Targets>>,
    /// Limits the number of waiting connections.
    pub(super) room_to_wait: Semaphore,
}

impl Service {
    pub(super) fn new(name: ServiceName, waiting: usize) -> Self {
        Self {
            name,
            figures: Figures::default(),
            targets: watch::Sender::default(),
            room_to_wait: Semaphore::new(waiting.min(Semaphore::MAX_PERMITS)),
        }
    }

    /// Chooses a backend for a new connection. Skips the backends in `tried`.
    pub(super) fn choose(&self, port: (u16, Protocol), tried: &[Arc<Backend>]) -> Option<Lease> {
        self.targets.borrow().choose(port, tried)
    }
}

/// The metrics of a service.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// Accepted connections.
    pub(super) accepted: AtomicU64,
    /// Connections that are open to a backend.
    pub(super) open: AtomicU64,
    /// Connections that wait for a ready endpoint.
    pub(super) waiting: AtomicU64,
    /// Connections that were reset because no endpoint became ready in time.
    pub(super) reset: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) datagrams_in: AtomicU64,
    pub(super) datagrams_out: AtomicU64,
    pub(super) datagrams_dropped: AtomicU64,
}

/// A backend, and its address for the requested port.
type Target = (Arc<Backend>, SocketAddr);

/// The backends for new connections to a service.
#[derive(Debug, Default)]
pub(super) struct Targets {
    /// How long a new connection waits if there are no backends.
    pub(super) wait: Duration,
    ports: BTreeMap<(u16, Protocol), Vec<Target>>,
    turn: AtomicUsize,
}

impl Targets {
    pub(super) fn new(wait: Duration) -> Self {
        Self {
            wait,
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, port: (u16, Protocol), backend: &Arc<Backend>, at: SocketAddr) {
        let targets = self.ports.entry(port).or_default();
        targets.push((Arc::clone(backend), at));
    }

    /// Chooses the backend with the fewest open connections. Backends that failed recently come
    /// last.
    fn choose(&self, port: (u16, Protocol), tried: &[Arc<Backend>]) -> Option<Lease> {
        let targets = self.ports.get(&port)?;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % targets.len();
        let (backend, address) = targets[turn..]
            .iter()
            .chain(&targets[..turn])
            .filter(|(backend, _)| !tried.iter().any(|other| Arc::ptr_eq(backend, other)))
            .min_by_key(|(backend, _)| (backend.is_suspect(), backend.open()))?;
        Some(Lease::of(backend, *address))
    }
}

/// A container that receives connections.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) instance: InstanceId,
    pub(super) container: String,
    /// Whether changes of `open` must be reported.
    pub(super) draining: AtomicBool,
    /// Whether the table lists this backend and does not mark it as draining.
    pub(super) ready: AtomicBool,
    open: AtomicU64,
    /// Whether the backend's node does not respond, so that open connections are reset.
    is_lost: AtomicBool,
    /// Notified when the backend is lost.
    lost: Notify,
    /// Notified when `open` decreases while the backend is draining.
    changed: Arc<Notify>,
    since: Instant,
    /// The time until which all other backends are preferred, in milliseconds after `since`; 0 if
    /// this backend never failed.
    suspect_until: AtomicU64,
}

impl Backend {
    pub(super) fn new(instance: InstanceId, container: String, changed: Arc<Notify>) -> Self {
        Self {
            instance,
            container,
            draining: AtomicBool::new(false),
            ready: AtomicBool::new(true),
            open: AtomicU64::new(0),
            is_lost: AtomicBool::new(false),
            lost: Notify::new(),
            changed,
            since: Instant::now(),
            suspect_until: AtomicU64::new(0),
        }
    }

    /// Returns the number of connections that are open or being opened.
    pub(super) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns whether the backend may receive new connections.
    pub(super) fn takes_new(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Resets the open connections, because the backend's node does not respond.
    pub(super) fn lose(&self) {
        self.is_lost.store(true, Ordering::Relaxed);
        self.lost.notify_waiters();
    }

    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    /// Returns a future that is woken when the backend is lost.
    pub(super) fn lost(&self) -> Notified<'_> {
        self.lost.notified()
    }

    /// Records that the backend did not accept a connection.
    pub(super) fn suspect(&self) {
        let until = self.since.elapsed() + SUSPECT_FOR;
        let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        self.suspect_until.store(until, Ordering::Relaxed);
    }

    fn is_suspect(&self) -> bool {
        let until = self.suspect_until.load(Ordering::Relaxed);
        until != 0 && self.since.elapsed() < Duration::from_millis(until)
    }
}

/// Counts as one open connection of a backend until this value is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) backend: Arc<Backend>,
    pub(super) address: SocketAddr,
}

impl Lease {
    fn of(backend: &Arc<Backend>, address: SocketAddr) -> Self {
        backend.open.fetch_add(1, Ordering::Relaxed);
        Self {
            backend: Arc::clone(backend),
            address,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.backend.open.fetch_sub(1, Ordering::Relaxed);
        if self.backend.draining.load(Ordering::Relaxed) {
            self.backend.changed.notify_one();
        }
    }
}

/// Increments a counter for as long as this value is held.
#[derive(Debug)]
pub(super) struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    pub(super) fn new(gauge: &'a AtomicU64) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Replica;

    const PORT: (u16, Protocol) = (80, Protocol::Tcp);

    fn targets(count: u16) -> (Targets, Vec<Arc<Backend>>) {
        let service = ServiceName::try_from("web").unwrap();
        let mut targets = Targets::default();
        let backends: Vec<_> = (1..=count)
            .map(|number| {
                let instance = InstanceId {
                    service: service.clone(),
                    replica: Replica(number),
                };
                let backend = Backend::new(instance, format!("web-{number}"), Arc::default());
                Arc::new(backend)
            })
            .collect();
        for backend in &backends {
            targets.add(PORT, backend, SocketAddr::from(([127, 0, 0, 1], 80)));
        }
        (targets, backends)
    }

    #[test]
    fn chooses_the_fewest_connections_and_breaks_ties_in_turn() {
        let (targets, backends) = targets(3);
        let leases: Vec<_> = (0..9).map(|_| targets.choose(PORT, &[]).unwrap()).collect();
        assert!(backends.iter().all(|backend| backend.open() == 3));
        let freed = Arc::clone(&leases[4].backend);
        drop(
            leases
                .into_iter()
                .filter(|l| Arc::ptr_eq(&l.backend, &freed))
                .collect::<Vec<_>>(),
        );
        for backend in &backends {
            assert_eq!(backend.open(), 0);
        }
    }

    #[test]
    fn chooses_failed_backends_last_and_skips_tried_ones() {
        let (targets, backends) = targets(2);
        backends[0].suspect();
        let leases: Vec<_> = (0..5).map(|_| targets.choose(PORT, &[]).unwrap()).collect();
        assert_eq!(backends[1].open(), 5);
        let last = targets.choose(PORT, &backends[1..]).unwrap();
        assert!(Arc::ptr_eq(&last.backend, &backends[0]));
        assert!(targets.choose(PORT, &backends).is_none());
        assert!(targets.choose((81, Protocol::Tcp), &[]).is_none());
        drop(leases);
    }
}
