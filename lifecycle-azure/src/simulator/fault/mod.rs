//! Injects faults either into selected requests (for example the third request that a selector
//! selects), or into a fraction of all requests. A seed determines which requests fail.
//!
//! The middleware in this module applies the faults that affect the request itself. Faults that
//! affect the operation that the request starts, such as a VM's allocation, are attached to the
//! request.

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

/// A fault that affects one request.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The response is 429 with `Retry-After`, in the format of the service that the path belongs
    /// to. The request has no effect.
    Throttled {
        /// The requested wait, in whole seconds.
        retry_after: Duration,
    },
    /// The simulator sends this response. The request has no effect.
    Answer {
        status: StatusCode,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// The connection is closed before the request has an effect.
    Dropped,
    /// The request is processed, but the connection is closed before the response is sent.
    AnswerLost,
    /// The response is delayed by this duration.
    SlowAnswer(Duration),
    /// The operation that the request starts takes this much longer.
    SlowOperation(Duration),
    /// The operation that the request starts ends as `Failed`. It has no further effect.
    OperationFails { code: String, message: String },
    /// There is no capacity for the VM that the request creates or starts. The operation ends as
    /// `Failed` with `AllocationFailed`.
    AllocationFailed,
    /// The request, which creates a VM, is rejected because it exceeds a quota.
    QuotaExceeded,
    /// The operation that the request starts never ends. For example, a created VM stays
    /// `Creating`.
    NeverEnds,
}

impl Fault {
    /// Returns a fault whose response is an error in Resource Manager's format.
    pub fn error(status: StatusCode, code: &str, message: &str) -> Self {
        let body = serde_json::json!({"error": {"code": code, "message": message}});
        Self::json(status, &body)
    }

    /// Returns a fault with Azure Storage's response to overload: 503 with `Retry-After`.
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

    /// Returns a fault whose response has a JSON body.
    pub fn json(status: StatusCode, body: &Value) -> Self {
        Self::Answer {
            status,
            headers: vec![("content-type", "application/json; charset=utf-8".into())],
            body: body.to_string(),
        }
    }
}

/// The faults that affect the operation that a request starts. Stored as an extension of the
/// request.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Injected {
    pub(crate) slow: Duration,
    pub(crate) fails: Option<(String, String)>,
    pub(crate) allocation_fails: bool,
    pub(crate) quota_exceeded: bool,
    pub(crate) never_ends: bool,
}

/// A fault that was added, with its remaining counts.
#[derive(Debug)]
struct Planned {
    selector: Selector,
    /// The number of selected requests that pass before the first one is affected.
    pass: usize,
    /// The number of selected requests that will still be affected. `None` if there is no limit.
    strikes: Option<usize>,
    fault: Fault,
}

/// Determines which requests a fault affects. By default, the fault affects only the next request
/// that the selector selects.
#[derive(Debug, Clone)]
pub struct When {
    selector: Selector,
    pass: usize,
    strikes: Option<usize>,
}

impl When {
    /// Affects only the next request that `selector` selects.
    pub fn next(selector: Selector) -> Self {
        Self {
            selector,
            pass: 0,
            strikes: Some(1),
        }
    }

    /// Affects only the next request with this method and with a path that contains `part`.
    pub fn request(method: Method, part: &str) -> Self {
        Self::next(Selector::method(method).path(part))
    }

    /// Affects the `n`-th selected request after the fault is added, counted from 1.
    #[must_use]
    pub fn nth(mut self, n: usize) -> Self {
        self.pass = n.saturating_sub(1);
        self
    }

    /// Affects this many selected requests in a row.
    #[must_use]
    pub fn times(mut self, count: usize) -> Self {
        self.strikes = Some(count);
        self
    }

    /// Also affects all later selected requests.
    #[must_use]
    pub fn always(mut self) -> Self {
        self.strikes = None;
        self
    }
}

/// The faults of a simulator. Cloning is cheap, and all clones share the same faults.
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

    /// Adds a fault. If several faults affect the same request, they apply in the order in which
    /// they were added.
    pub fn add(&self, when: When, fault: Fault) {
        self.state().planned.push(Planned {
            selector: when.selector,
            pass: when.pass,
            strikes: when.strikes,
            fault,
        });
    }

    /// Makes a fraction of all requests fail. The seed determines which requests fail.
    ///
    /// Whether a request fails depends on the seed, on the request's method and path, and on the
    /// number of earlier requests with the same method and path. It does not depend on how requests
    /// with different paths interleave. A new seed replaces the previous one.
    pub fn seed(&self, seed: u64, rates: FaultRates) {
        self.state().seeded = Some(Seeded::new(seed, rates));
    }

    /// Removes all faults.
    pub fn clear(&self) {
        *self.state() = State::default();
    }

    /// Returns how many more times the added faults will occur. Zero means that all faults of a
    /// test have occurred. Faults with [`When::always`] are not counted.
    pub fn pending(&self) -> usize {
        self.state()
            .planned
            .iter()
            .filter_map(|planned| planned.strikes)
            .sum()
    }

    /// Returns the faults that affect this request, and counts each of them as used.
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
    fn a_fault_affects_the_selected_request() {
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
    fn a_fault_can_occur_several_times_or_always() {
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
