//! What the parts of the agent share about a service: its backends, its figures, and whose turn
//! it is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use crate::model::{InstanceId, Protocol, ServiceName};

/// For how long a backend that did not accept a connection is asked last.
const SUSPECT_FOR: Duration = Duration::from_secs(5);

/// A service, for as long as its name is in the table.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: ServiceName,
    pub(super) figures: Figures,
    /// Where new connections go. Waiting ones watch it.
    pub(super) targets: watch::Sender<Arc<Targets>>,
    /// How many connections may still begin to wait.
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

    /// Chooses the backend of a new connection, passing over those that were tried.
    pub(super) fn choose(&self, port: (u16, Protocol), tried: &[Arc<Backend>]) -> Option<Lease> {
        self.targets.borrow().choose(port, tried)
    }
}

/// What is counted of a service.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// Connections that were accepted.
    pub(super) accepted: AtomicU64,
    /// Connections that are open to a backend.
    pub(super) open: AtomicU64,
    /// Connections that wait for a ready endpoint.
    pub(super) waiting: AtomicU64,
    /// Connections that were given up, since no endpoint got ready.
    pub(super) given_up: AtomicU64,
    /// Bytes from clients to backends.
    pub(super) bytes_in: AtomicU64,
    /// Bytes from backends to clients.
    pub(super) bytes_out: AtomicU64,
    /// Datagrams from clients to backends.
    pub(super) datagrams_in: AtomicU64,
    /// Datagrams from backends to clients.
    pub(super) datagrams_out: AtomicU64,
    /// Datagrams that went nowhere.
    pub(super) datagrams_dropped: AtomicU64,
}

/// A backend, and where it answers at the port in question.
type Target = (Arc<Backend>, SocketAddr);

/// Where new connections to a service go.
#[derive(Debug, Default)]
pub(super) struct Targets {
    /// How long a connection waits while there are none.
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

    /// The one with the fewest open connections; among equals they take turns. One that failed
    /// just now comes last, however few it has: it may have few because it fails.
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

/// A container that connections go to, for as long as the table or a connection knows it.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) instance: InstanceId,
    pub(super) container: String,
    /// Whether changes of `open` are of interest.
    pub(super) draining: AtomicBool,
    /// Whether the table has it, and not as draining.
    pub(super) ready: AtomicBool,
    open: AtomicU64,
    /// Woken when `open` falls while it is draining.
    changed: Arc<Notify>,
    since: Instant,
    /// Milliseconds after `since`; 0 if it never failed.
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
            changed,
            since: Instant::now(),
            suspect_until: AtomicU64::new(0),
        }
    }

    /// How many connections are open or being opened.
    pub(super) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether new connections may go to it.
    pub(super) fn takes_new(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// It did not accept a connection.
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

/// A connection's claim on its backend, counted until it is dropped.
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

/// Counts something for as long as it is held.
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
    fn the_fewest_open_connections_win_and_equals_take_turns() {
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
    fn one_that_failed_comes_last_and_one_that_was_tried_not_at_all() {
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
