//! Faults on demand: by request (the n-th that a selector selects) or by a seed (a share of all).
//!
//! Some act on the request itself, in the middleware here; others act on what it begins
//! (a VM's allocation, an operation's end) and travel with the request to whoever carries it out.

mod middleware;
mod seeded;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde_json::Value;

use super::selector::Selector;

pub(crate) use middleware::{inject, throttled_body};
pub use seeded::FaultRates;
use seeded::Seeded;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// 429 with `Retry-After`, in the form of the service that the path names; nothing is done.
    Throttled {
        /// How long the client is asked to wait, in whole seconds.
        retry_after: Duration,
    },
    /// Any answer; nothing is done.
    Answer {
        /// Its status.
        status: StatusCode,
        /// Its headers.
        headers: Vec<(&'static str, String)>,
        /// Its body.
        body: String,
    },
    /// The connection breaks before anything is done.
    Dropped,
    /// The request is carried out, then the connection breaks: the answer is lost.
    AnswerLost,
    /// The answer comes this much later than it was ready.
    SlowAnswer(Duration),
    /// The operation that the request begins takes this much longer.
    SlowOperation(Duration),
    /// The operation that the request begins ends as `Failed` and changes nothing more.
    OperationFails {
        /// Azure's code.
        code: String,
        /// Azure's message.
        message: String,
    },
    /// The VM that the request creates or starts finds no capacity: its operation ends as
    /// `Failed` with `AllocationFailed`.
    AllocationFailed,
    /// The request that creates a VM is refused for want of quota.
    QuotaExceeded,
    /// The operation that the request begins never ends: a created VM stays `Creating`.
    NeverEnds,
}

impl Fault {
    /// The fault as an answer with an error of ARM's form.
    pub fn error(status: StatusCode, code: &str, message: &str) -> Self {
        let body = serde_json::json!({"error": {"code": code, "message": message}});
        Self::json(status, &body)
    }

    /// The fault as Azure Storage's answer when it has too much to do: 503 with `Retry-After`.
    pub fn server_busy(retry_after: Duration) -> Self {
        Self::Answer {
            status: StatusCode::SERVICE_UNAVAILABLE,
            headers: vec![
                ("content-type", "application/xml".into()),
                ("x-ms-error-code", "ServerBusy".into()),
                ("retry-after", retry_after.as_secs().to_string()),
            ],
            body: "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>ServerBusy</Code>\
                   <Message>The server is busy.</Message></Error>"
                .into(),
        }
    }

    /// The fault as an answer with a body of JSON.
    pub fn json(status: StatusCode, body: &Value) -> Self {
        Self::Answer {
            status,
            headers: vec![("content-type", "application/json; charset=utf-8".into())],
            body: body.to_string(),
        }
    }
}

/// Faults that act on what the request begins; put among its extensions.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Injected {
    pub(crate) slow: Duration,
    pub(crate) fails: Option<(String, String)>,
    pub(crate) allocation_fails: bool,
    pub(crate) quota_exceeded: bool,
    pub(crate) never_ends: bool,
}

/// A fault that waits for its request.
#[derive(Debug)]
struct Planned {
    selector: Selector,
    /// How many requests it lets pass first.
    pass: usize,
    /// How many it still strikes; none: all.
    strikes: Option<usize>,
    fault: Fault,
}

/// When a fault strikes: at the first request that a selector selects, unless said otherwise.
#[derive(Debug, Clone)]
pub struct When {
    selector: Selector,
    pass: usize,
    strikes: Option<usize>,
}

impl When {
    /// At the next request that `selector` selects, once.
    pub fn next(selector: Selector) -> Self {
        Self {
            selector,
            pass: 0,
            strikes: Some(1),
        }
    }

    /// At the next request with this method and a path that has `part` in it, once.
    pub fn request(method: Method, part: &str) -> Self {
        Self::next(Selector::method(method).path(part))
    }

    /// At the `n`-th such request from now on, counted from 1.
    #[must_use]
    pub fn nth(mut self, n: usize) -> Self {
        self.pass = n.saturating_sub(1);
        self
    }

    /// At this many such requests, one after the other.
    #[must_use]
    pub fn times(mut self, count: usize) -> Self {
        self.strikes = Some(count);
        self
    }

    /// At every such request from then on.
    #[must_use]
    pub fn always(mut self) -> Self {
        self.strikes = None;
        self
    }
}

/// The faults of a simulator. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    planned: Vec<Planned>,
    seeded: Option<Seeded>,
}

impl Faults {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans a fault. Several may strike one request, in the order in which they were added.
    pub fn add(&self, when: When, fault: Fault) {
        self.state().planned.push(Planned {
            selector: when.selector,
            pass: when.pass,
            strikes: when.strikes,
            fault,
        });
    }

    /// Lets a share of all requests fail, as the seed determines: a request's fate depends on the
    /// seed, its method, its path, and how many like it came before, never on how requests of
    /// different paths interleave. Replaces an earlier seed.
    pub fn seed(&self, seed: u64, rates: FaultRates) {
        self.state().seeded = Some(Seeded::new(seed, rates));
    }

    /// Takes all faults back.
    pub fn clear(&self) {
        *self.state() = State::default();
    }

    /// How many planned faults have yet to strike: 0 once a test has had all that it planned.
    /// Those that strike always are not counted.
    pub fn pending(&self) -> usize {
        self.state()
            .planned
            .iter()
            .filter_map(|planned| planned.strikes)
            .sum()
    }

    /// The faults that strike this request; each is thereby spent.
    fn strike(&self, method: &Method, path: &str) -> Vec<Fault> {
        let mut state = self.state();
        let mut faults = Vec::new();
        for planned in &mut state.planned {
            if !planned.selector.selects(method, path) {
                continue;
            }
            if planned.pass > 0 {
                planned.pass -= 1;
                continue;
            }
            if let Some(strikes) = &mut planned.strikes {
                *strikes = strikes.saturating_sub(1);
            }
            faults.push(planned.fault.clone());
        }
        state.planned.retain(|planned| planned.strikes != Some(0));
        if let Some(seeded) = &mut state.seeded {
            faults.extend(seeded.strike(method, path));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropped(faults: &Faults, path: &str) -> bool {
        faults.strike(&Method::GET, path) == [Fault::Dropped]
    }

    #[test]
    fn a_fault_strikes_the_request_that_was_meant() {
        let faults = Faults::default();
        faults.add(When::request(Method::GET, "/VMs/").nth(2), Fault::Dropped);
        assert_eq!(faults.pending(), 1);
        assert!(!dropped(&faults, "/networks/a"));
        assert!(!dropped(&faults, "/vms/a"));
        assert!(faults.strike(&Method::PUT, "/vms/a").is_empty());
        assert!(dropped(&faults, "/vms/a"));
        assert!(!dropped(&faults, "/vms/a"));
        assert_eq!(faults.pending(), 0);
    }

    #[test]
    fn a_fault_may_strike_several_times_or_always() {
        let faults = Faults::default();
        faults.add(When::request(Method::GET, "/a").times(2), Fault::Dropped);
        faults.add(When::request(Method::GET, "/b").always(), Fault::Dropped);
        let struck = |path| (0..4).map(|_| dropped(&faults, path)).collect::<Vec<_>>();
        assert_eq!(struck("/a"), [true, true, false, false]);
        assert_eq!(struck("/b"), [true; 4]);
        faults.clear();
        assert_eq!(struck("/b"), [false; 4]);
    }
}
