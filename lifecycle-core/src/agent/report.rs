//! What the manager is told without having asked: connections that were given up, and how many
//! a draining instance still has.

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

/// How many reports a slow listener may be behind before it loses the oldest.
const BEHIND: usize = 1024;

/// What happens within this time is said together.
const TOGETHER: Duration = Duration::from_millis(50);

/// The shortest time between two reports of given up connections to one port of a service.
const GIVEN_UP_EVERY: Duration = Duration::from_secs(1);

/// Collects what there is to say and says it at a bounded rate.
#[derive(Debug)]
pub(super) struct Reporter {
    /// Woken when there may be something to say.
    pub(super) wake: Arc<Notify>,
    listeners: broadcast::Sender<Report>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_force: (Epoch, u64),
    given_up: BTreeMap<(ServiceName, u16), GivenUp>,
    draining: Vec<Draining>,
    silent: BTreeMap<(SocketAddr, Protocol), Silent>,
}

#[derive(Debug, Default)]
struct GivenUp {
    connections: u64,
    said: Option<Instant>,
}

/// An address at which nobody listens though somebody should.
#[derive(Debug)]
struct Silent {
    service: Option<ServiceName>,
    why: String,
    said: bool,
}

#[derive(Debug)]
struct Draining {
    backend: Arc<Backend>,
    said: Option<u64>,
}

impl Default for Reporter {
    fn default() -> Self {
        Self {
            wake: Arc::default(),
            listeners: broadcast::Sender::new(BEHIND),
            state: Mutex::default(),
        }
    }
}

impl Reporter {
    /// Listens to what is said from now on.
    pub(super) fn listen(&self) -> broadcast::Receiver<Report> {
        let listener = self.listeners.subscribe();
        self.wake.notify_one();
        listener
    }

    /// A connection was given up.
    pub(super) fn given_up(&self, service: &ServiceName, port: u16) {
        let mut state = self.state();
        let key = (service.clone(), port);
        state.given_up.entry(key).or_default().connections += 1;
        drop(state);
        self.wake.notify_one();
    }

    /// Another table is in force, in which these are draining.
    pub(super) fn in_force(&self, epoch: Epoch, version: u64, draining: Vec<Arc<Backend>>) {
        let mut state = self.state();
        state.in_force = (epoch, version);
        let before = std::mem::take(&mut state.draining);
        state.draining = draining
            .into_iter()
            .map(|backend| Draining {
                said: before
                    .iter()
                    .find(|one| Arc::ptr_eq(&one.backend, &backend))
                    .and_then(|one| one.said),
                backend,
            })
            .collect();
        drop(state);
        self.wake.notify_one();
    }

    /// A report under the table that is in force.
    pub(super) fn report(&self, kind: ReportKind) -> Report {
        self.state().report(kind)
    }

    /// Nobody listens at an address, since it is taken. Whether that is new.
    pub(super) fn cannot_listen(
        &self,
        service: Option<&ServiceName>,
        at: SocketAddr,
        protocol: Protocol,
        error: &io::Error,
    ) -> bool {
        let mut state = self.state();
        let before = state.silent.len();
        state
            .silent
            .entry((at, protocol))
            .or_insert_with(|| Silent {
                service: service.cloned(),
                why: error.to_string(),
                said: false,
            });
        let new = state.silent.len() > before;
        drop(state);
        if new {
            self.wake.notify_one();
        }
        new
    }

    /// Somebody listens there.
    pub(super) fn listens(&self, at: SocketAddr, protocol: Protocol) {
        self.state().silent.remove(&(at, protocol));
    }

    /// Of no others is it worth saying that nobody listens.
    pub(super) fn listening_is_wanted(&self, places: &BTreeSet<(SocketAddr, Protocol)>) {
        self.state()
            .silent
            .retain(|place, _| places.contains(place));
    }

    /// How things are, for one who just came: how many connections each draining instance has,
    /// and where nobody listens.
    pub(super) fn standing(&self) -> Vec<Report> {
        let state = self.state();
        let draining = state.draining.iter();
        let draining = draining.map(|one| state.draining(one.backend.open(), &one.backend));
        let silent = state.silent.iter();
        let silent = silent.map(|(place, silent)| state.silent(*place, silent));
        draining.chain(silent).collect()
    }

    /// Says what there is to say, for as long as the agent runs.
    pub(super) async fn keep_saying(self: Arc<Self>) {
        loop {
            self.wake.notified().await;
            if self.say() {
                self.wake.notify_one();
            }
            sleep(TOGETHER).await;
        }
    }

    /// Whether something is left to say later.
    fn say(&self) -> bool {
        // With nobody there it is kept.
        if self.listeners.receiver_count() == 0 {
            return false;
        }
        let mut state = self.state();
        let mut reports = Vec::new();
        for index in 0..state.draining.len() {
            let one = &state.draining[index];
            let open = one.backend.open();
            if one.said != Some(open) {
                reports.push(state.draining(open, &one.backend));
                state.draining[index].said = Some(open);
            }
        }
        let unsaid = state.silent.iter().filter(|(_, silent)| !silent.said);
        reports.extend(unsaid.map(|(place, silent)| state.silent(*place, silent)));
        for silent in state.silent.values_mut() {
            silent.said = true;
        }
        let now = Instant::now();
        let (epoch, version) = state.in_force;
        let mut left = false;
        state.given_up.retain(|(service, port), given_up| {
            let just_said = given_up
                .said
                .is_some_and(|said| now - said < GIVEN_UP_EVERY);
            if given_up.connections > 0 && !just_said {
                reports.push(Report {
                    epoch,
                    version,
                    kind: ReportKind::NoReadyEndpoint {
                        service: service.clone(),
                        port: *port,
                        connections: std::mem::take(&mut given_up.connections),
                    },
                });
                given_up.said = Some(now);
                return true;
            }
            left |= given_up.connections > 0;
            just_said
        });
        drop(state);
        for report in reports {
            // Fails if the last listener left just now: then nobody misses it.
            drop(self.listeners.send(report));
        }
        left
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn report(&self, kind: ReportKind) -> Report {
        let (epoch, version) = self.in_force;
        Report {
            epoch,
            version,
            kind,
        }
    }

    fn draining(&self, open: u64, backend: &Backend) -> Report {
        self.report(ReportKind::Draining {
            instance: backend.instance.clone(),
            container: backend.container.clone(),
            open,
        })
    }

    fn silent(&self, place: (SocketAddr, Protocol), silent: &Silent) -> Report {
        self.report(ReportKind::CannotListen {
            service: silent.service.clone(),
            address: place.0,
            protocol: place.1,
            why: silent.why.clone(),
        })
    }
}
