//! Reports events to the manager: connections that were reset while waiting, failures to listen,
//! and the number of open connections of draining instances.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, broadcast};
use tokio::time::{Instant, sleep};

use super::service::Backend;
use crate::model::{Epoch, Protocol, ServiceName};
use crate::network::{Report, ReportKind};

/// The number of reports that are kept for a slow subscriber.
const BEHIND: usize = 1024;

/// Events within this time are reported together.
const TOGETHER: Duration = Duration::from_millis(50);

/// The minimum interval between reports of reset connections, for each port of a service.
const RESETS_EVERY: Duration = Duration::from_secs(1);

/// Collects events and reports them at a bounded rate.
#[derive(Debug)]
pub(super) struct Reporter {
    /// Notified when there may be something to report.
    pub(super) wake: Arc<Notify>,
    listeners: broadcast::Sender<Report>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The name of this agent.
    agent: Option<String>,
    cannot_redirect: Option<String>,
    in_force: (Epoch, u64),
    reset: BTreeMap<(ServiceName, u16), ResetCount>,
    draining: Vec<Draining>,
    /// The open connections of draining containers through the previous agent.
    previous: BTreeMap<String, u64>,
    failed_listeners: BTreeMap<(SocketAddr, Protocol), FailedListener>,
}

#[derive(Debug, Default)]
struct ResetCount {
    connections: u64,
    reported: Option<Instant>,
}

/// An address on which listening failed.
#[derive(Debug)]
struct FailedListener {
    service: Option<ServiceName>,
    why: String,
    reported: bool,
}

#[derive(Debug)]
struct Draining {
    backend: Arc<Backend>,
    reported: Option<u64>,
}

impl Reporter {
    /// Creates a reporter for the agent with this name.
    pub(super) fn new(agent: Option<String>) -> Self {
        Self {
            wake: Arc::default(),
            listeners: broadcast::Sender::new(BEHIND),
            state: Mutex::new(State {
                agent,
                ..State::default()
            }),
        }
    }

    /// Records the open connections of a draining container through the previous agent.
    pub(super) fn previous(&self, container: String, open: u64) {
        self.state().previous.insert(container, open);
        self.wake.notify_one();
    }

    /// Records that the previous agent has ended, or no longer follows the tables.
    pub(super) fn forget_previous(&self) {
        self.state().previous.clear();
        self.wake.notify_one();
    }

    /// Passes on a report of the previous agent.
    pub(super) fn pass_on(&self, report: Report) {
        // Ignore the error: there is no subscriber.
        drop(self.listeners.send(report));
    }

    /// Subscribes to all future reports.
    pub(super) fn listen(&self) -> broadcast::Receiver<Report> {
        let listener = self.listeners.subscribe();
        self.wake.notify_one();
        listener
    }

    /// Records a connection that was reset because no endpoint became ready in time.
    pub(super) fn reset(&self, service: &ServiceName, port: u16) {
        let mut state = self.state();
        let key = (service.clone(), port);
        state.reset.entry(key).or_default().connections += 1;
        drop(state);
        self.wake.notify_one();
    }

    /// Records the active table and its draining backends.
    pub(super) fn in_force(&self, epoch: Epoch, version: u64, draining: Vec<Arc<Backend>>) {
        let mut state = self.state();
        state.in_force = (epoch, version);
        let before = std::mem::take(&mut state.draining);
        state.draining = draining
            .into_iter()
            .map(|backend| Draining {
                reported: before
                    .iter()
                    .find(|one| Arc::ptr_eq(&one.backend, &backend))
                    .and_then(|one| one.reported),
                backend,
            })
            .collect();
        drop(state);
        self.wake.notify_one();
    }

    /// Records why published ports cannot be redirected.
    pub(super) fn cannot_redirect(&self, why: String) {
        self.state().cannot_redirect = Some(why);
    }

    /// Creates a report with the epoch and version of the active table.
    pub(super) fn report(&self, kind: ReportKind) -> Report {
        self.state().report(kind)
    }

    /// Records that listening on an address failed. Returns whether this is the first failure on
    /// this address.
    pub(super) fn cannot_listen(
        &self,
        service: Option<&ServiceName>,
        at: SocketAddr,
        protocol: Protocol,
        error: &io::Error,
    ) -> bool {
        let mut state = self.state();
        let before = state.failed_listeners.len();
        state
            .failed_listeners
            .entry((at, protocol))
            .or_insert_with(|| FailedListener {
                service: service.cloned(),
                why: error.to_string(),
                reported: false,
            });
        let new = state.failed_listeners.len() > before;
        drop(state);
        if new {
            self.wake.notify_one();
        }
        new
    }

    /// Records that listening on the address has succeeded.
    pub(super) fn listens(&self, at: SocketAddr, protocol: Protocol) {
        self.state().failed_listeners.remove(&(at, protocol));
    }

    /// Drops the failures on addresses that are not in `addresses`.
    pub(super) fn keep_only(&self, addresses: &BTreeSet<(SocketAddr, Protocol)>) {
        self.state()
            .failed_listeners
            .retain(|address, _| addresses.contains(address));
    }

    /// Returns the current state as reports, for a new subscriber.
    pub(super) fn current(&self) -> Vec<Report> {
        let state = self.state();
        let draining = state.draining.iter();
        let draining = draining.map(|one| state.draining(state.open(&one.backend), &one.backend));
        let failed_listener = state.failed_listeners.iter();
        let failed_listener =
            failed_listener.map(|(address, failed)| state.listener_report(*address, failed));
        draining.chain(failed_listener).collect()
    }

    pub(super) async fn run(self: Arc<Self>) {
        loop {
            self.wake.notified().await;
            if self.send_due() {
                self.wake.notify_one();
            }
            sleep(TOGETHER).await;
        }
    }

    /// Sends the reports that are due; returns whether some remain for later.
    fn send_due(&self) -> bool {
        // Keep the reports until there is a subscriber.
        if self.listeners.receiver_count() == 0 {
            return false;
        }
        let mut state = self.state();
        let mut reports = Vec::new();
        for index in 0..state.draining.len() {
            let one = &state.draining[index];
            let open = state.open(&one.backend);
            if one.reported != Some(open) {
                reports.push(state.draining(open, &one.backend));
                state.draining[index].reported = Some(open);
            }
        }
        let unreported = state
            .failed_listeners
            .iter()
            .filter(|(_, failed_listener)| !failed_listener.reported);
        reports.extend(unreported.map(|(address, failed)| state.listener_report(*address, failed)));
        for failed_listener in state.failed_listeners.values_mut() {
            failed_listener.reported = true;
        }
        let now = Instant::now();
        let (epoch, version) = state.in_force;
        let agent = state.agent.clone();
        let cannot_redirect = state.cannot_redirect.clone();
        let mut left = false;
        state.reset.retain(|(service, port), reset| {
            let just_reported = reset
                .reported
                .is_some_and(|reported| now - reported < RESETS_EVERY);
            if reset.connections > 0 && !just_reported {
                reports.push(Report {
                    epoch,
                    version,
                    agent: agent.clone(),
                    cannot_redirect: cannot_redirect.clone(),
                    kind: ReportKind::NoReadyEndpoint {
                        service: service.clone(),
                        port: *port,
                        connections: std::mem::take(&mut reset.connections),
                    },
                });
                reset.reported = Some(now);
                return true;
            }
            left |= reset.connections > 0;
            just_reported
        });
        drop(state);
        for report in reports {
            // Ignore the error: the last subscriber has just disconnected.
            drop(self.listeners.send(report));
        }
        left
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Ignore poisoning: even an update that panics leaves a valid state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn report(&self, kind: ReportKind) -> Report {
        let (epoch, version) = self.in_force;
        Report {
            epoch,
            version,
            agent: self.agent.clone(),
            cannot_redirect: self.cannot_redirect.clone(),
            kind,
        }
    }

    /// Returns the number of open connections of a draining container.
    fn open(&self, backend: &Backend) -> u64 {
        let previous = self.previous.get(&backend.container);
        backend.open() + previous.copied().unwrap_or_default()
    }

    fn draining(&self, open: u64, backend: &Backend) -> Report {
        self.report(ReportKind::Draining {
            instance: backend.instance.clone(),
            container: backend.container.clone(),
            open,
        })
    }

    fn listener_report(
        &self,
        address: (SocketAddr, Protocol),
        failed_listener: &FailedListener,
    ) -> Report {
        self.report(ReportKind::CannotListen {
            service: failed_listener.service.clone(),
            address: address.0,
            protocol: address.1,
            why: failed_listener.why.clone(),
        })
    }
}
