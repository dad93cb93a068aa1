//! Counts the requests of the clients.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Notify;

/// A request that takes longer has failed.
pub(crate) const LONGEST: Duration = Duration::from_secs(30);

/// How many failures are reported with their reason.
const SHOWN: usize = 20;

/// The two kinds of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    New,
    KeepAlive,
}

/// The results of the requests since the last report.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    connections: u64,
    requests: u64,
    failed: u64,
    late: u64,
    /// How many idle connections the server closed before the client sent another request.
    closed: u64,
    /// How many requests were repeated because the connection was closed before the first byte of
    /// the response.
    repeated: u64,
    longest: Duration,
    versions: BTreeMap<String, u64>,
    failures: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    started: Instant,
    state: RefCell<State>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    pending: BTreeSet<u64>,
    counts: BTreeMap<Kind, Counts>,
}

/// A request that has begun.
#[derive(Debug)]
pub(crate) struct Begun {
    number: u64,
    kind: Kind,
    at: Instant,
}

/// An event that is counted besides requests.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Happened {
    Connected,
    Closed,
    Repeated,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            state: RefCell::default(),
            ended: Notify::new(),
        }
    }

    pub(crate) fn begin(&self, kind: Kind) -> Begun {
        let mut state = self.state.borrow_mut();
        let number = state.next;
        state.next += 1;
        state.pending.insert(number);
        Begun {
            number,
            kind,
            at: Instant::now(),
        }
    }

    pub(crate) fn count(&self, kind: Kind, happened: Happened) {
        let mut state = self.state.borrow_mut();
        let counts = state.counts.entry(kind).or_default();
        let counter = match happened {
            Happened::Connected => &mut counts.connections,
            Happened::Closed => &mut counts.closed,
            Happened::Repeated => &mut counts.repeated,
        };
        *counter += 1;
    }

    /// Records the end of a request: the version of the server that answered it, or why it failed.
    pub(crate) fn end(&self, begun: &Begun, outcome: io::Result<String>) {
        let took = begun.at.elapsed();
        let mut state = self.state.borrow_mut();
        state.pending.remove(&begun.number);
        let counts = state.counts.entry(begun.kind).or_default();
        counts.requests += 1;
        counts.longest = counts.longest.max(took);
        match outcome {
            Ok(version) => *counts.versions.entry(version).or_default() += 1,
            Err(error) => {
                counts.failed += 1;
                counts.late += u64::from(error.kind() == io::ErrorKind::TimedOut);
                if counts.failures.len() < SHOWN {
                    let since = begun.at.duration_since(self.started);
                    counts
                        .failures
                        .push(format!("{error}; began after {since:.3?}, took {took:.3?}"));
                }
            }
        }
        drop(state);
        self.ended.notify_waiters();
    }

    /// Returns the counts since the last report, after all requests that have begun until now have
    /// ended.
    pub(crate) async fn report(&self) -> Value {
        let next = self.state.borrow().next;
        loop {
            let ended = self.ended.notified();
            if let Some(counts) = self.take_before(next) {
                let shown = |kind| counts.get(&kind).unwrap_or(&Counts::default()).shown();
                return json!({
                    "new": shown(Kind::New),
                    "keep_alive": shown(Kind::KeepAlive),
                    "at": format!("{:.3?}", self.started.elapsed()),
                });
            }
            ended.await;
        }
    }

    /// Takes the counts if all requests before the request `next` have ended.
    fn take_before(&self, next: u64) -> Option<BTreeMap<Kind, Counts>> {
        let mut state = self.state.borrow_mut();
        let has_ended = state.pending.first().is_none_or(|first| *first >= next);
        has_ended.then(|| std::mem::take(&mut state.counts))
    }
}

impl Counts {
    fn shown(&self) -> Value {
        json!({
            "connections": self.connections,
            "requests": self.requests,
            "failed": self.failed,
            "late": self.late,
            "closed": self.closed,
            "repeated": self.repeated,
            "longest_ms": u64::try_from(self.longest.as_millis()).unwrap_or(u64::MAX),
            "versions": self.versions,
            "failures": self.failures,
        })
    }
}
