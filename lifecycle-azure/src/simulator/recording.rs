//! Records every request. Tests can then count writes, detect clients that retry too early after a
//! 429, and wait for a request instead of sleeping.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use chrono::{DateTime, Utc};
use lifecycle_core::clock::Clock;
use lifecycle_core::{Error, Result};
use serde_json::json;
use tokio::sync::watch;

use super::listener::BreakConnection;
use super::selector::Selector;

/// The maximum number of requests that are kept. The oldest requests are dropped first.
const KEPT: usize = 100_000;

/// A request and its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    pub method: Method,
    /// The path as it was sent.
    pub path: String,
    /// The query, without the question mark. Contains `…` instead of a signature. Empty if the
    /// request has no query.
    pub query: String,
    /// The time at which the request arrived, by the simulator's clock.
    pub at: DateTime<Utc>,
    pub outcome: Outcome,
}

/// The outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There is no response yet, or the client disconnected before the response.
    Open,
    Answered {
        status: StatusCode,
        /// The wait that the response requested with `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The connection was closed without a response.
    Dropped,
}

impl Recorded {
    /// Returns the status of the response, or `None` if there was no response.
    pub fn status(&self) -> Option<StatusCode> {
        match self.outcome {
            Outcome::Answered { status, .. } => Some(status),
            Outcome::Open | Outcome::Dropped => None,
        }
    }

    /// Returns whether the request's method is a write.
    pub fn is_write(&self) -> bool {
        self.method != Method::GET && self.method != Method::HEAD
    }
}

/// The last 100,000 requests, in order of arrival. Cloning is cheap, and all clones share the same
/// list.
#[derive(Debug, Clone)]
pub struct Requests(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Arc<dyn Clock>,
    list: Mutex<VecDeque<Recorded>>,
    changed: watch::Sender<()>,
    /// The file to which each finished request is appended, one request per line.
    file: Option<Mutex<File>>,
}

impl Requests {
    /// Creates an empty list, which reads times from `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with(clock, None)
    }

    /// Creates an empty list that also appends each finished request to the file at `path`, before
    /// the client receives the response.
    ///
    /// Each request is a line of JSON with `at`, `method`, `path`, and `status`. The status is null
    /// if the connection was closed. Queries are omitted because they may contain signatures.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened.
    pub fn written_to(clock: Arc<dyn Clock>, path: &Path) -> Result<Self> {
        let file = File::options().append(true).create(true).open(path);
        let file = file.map_err(|error| Error::io(format!("opening {}", path.display()), error))?;
        Ok(Self::with(clock, Some(Mutex::new(file))))
    }

    fn with(clock: Arc<dyn Clock>, file: Option<Mutex<File>>) -> Self {
        Self(Arc::new(Shared {
            clock,
            list: Mutex::default(),
            changed: watch::Sender::new(()),
            file,
        }))
    }

    fn write(&self, one: &Recorded) {
        let Some(file) = &self.0.file else {
            return;
        };
        let line = json!({
            "at": one.at,
            "method": one.method.as_str(),
            "path": one.path,
            "status": one.status().map(|status| status.as_u16()),
        });
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(format!("{line}\n").as_bytes()) {
            tracing::warn!(%error, "a request could not be recorded");
        }
    }

    fn list(&self) -> MutexGuard<'_, VecDeque<Recorded>> {
        self.0.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns all recorded requests.
    pub fn all(&self) -> Vec<Recorded> {
        self.list().iter().cloned().collect()
    }

    /// Returns the requests that `selector` selects.
    pub fn matching(&self, selector: &Selector) -> Vec<Recorded> {
        self.list()
            .iter()
            .filter(|one| selector.selects(&one.method, &one.path))
            .cloned()
            .collect()
    }

    /// Returns the number of requests that `selector` selects.
    pub fn count(&self, selector: &Selector) -> usize {
        self.matching(selector).len()
    }

    /// Returns the requests whose method is a write.
    pub fn writes(&self) -> Vec<Recorded> {
        let mut writes = self.all();
        writes.retain(Recorded::is_write);
        writes
    }

    /// Returns the requests that were sent too early. An earlier request with the same method and
    /// path had received a 429 or 503, and the `Retry-After` had not passed yet.
    pub fn too_early(&self) -> Vec<Recorded> {
        let mut waits: HashMap<(Method, String), DateTime<Utc>> = HashMap::new();
        let mut early = Vec::new();
        for one in self.all() {
            let key = (one.method.clone(), one.path.clone());
            if waits.get(&key).is_some_and(|until| one.at < *until) {
                early.push(one.clone());
            }
            if let Outcome::Answered {
                status: StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE,
                retry_after: Some(wait),
            } = one.outcome
            {
                waits.insert(key, one.at + wait);
            }
        }
        early
    }

    /// Waits until at least `count` requests that `selector` selects have finished. Returns these
    /// requests.
    pub async fn ended(&self, selector: &Selector, count: usize) -> Vec<Recorded> {
        let mut changed = self.0.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let mut found = self.matching(selector);
            found.retain(|one| one.outcome != Outcome::Open);
            // `changed` cannot fail here: the sender lives as long as `self`.
            if found.len() >= count || changed.changed().await.is_err() {
                return found;
            }
        }
    }

    /// Removes all recorded requests, including those without a response.
    pub fn clear(&self) {
        self.list().clear();
    }

    fn begin(&self, request: &Request) -> Recorded {
        let recorded = Recorded {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            query: unsigned(request.uri().query().unwrap_or_default()),
            at: self.0.clock.now(),
            outcome: Outcome::Open,
        };
        let mut list = self.list();
        if list.len() >= KEPT {
            list.pop_front();
        }
        list.push_back(recorded.clone());
        drop(list);
        recorded
    }

    fn end(&self, mut open: Recorded, outcome: Outcome) {
        self.write(&Recorded {
            outcome,
            ..open.clone()
        });
        // Search by value: indexes change when the list is cleared.
        if let Some(found) = self.list().iter_mut().rev().find(|one| **one == open) {
            open.outcome = outcome;
            *found = open;
        }
        self.0.changed.send_replace(());
    }
}

/// Hides the signature in a query, because a signature is a credential.
fn unsigned(query: &str) -> String {
    let shown = |part: &str| {
        let is_signature = part
            .split_once('=')
            .is_some_and(|(name, _)| name.eq_ignore_ascii_case("sig"));
        let shown = if is_signature { "sig=…" } else { part };
        shown.to_owned()
    };
    query.split('&').map(shown).collect::<Vec<_>>().join("&")
}

fn outcome(response: &Response) -> Outcome {
    if response.extensions().get::<BreakConnection>().is_some() {
        return Outcome::Dropped;
    }
    let seconds = |header: &axum::http::HeaderValue| header.to_str().ok()?.parse().ok();
    Outcome::Answered {
        status: response.status(),
        retry_after: response
            .headers()
            .get(RETRY_AFTER)
            .and_then(seconds)
            .map(Duration::from_secs),
    }
}

pub(crate) async fn record(
    State(requests): State<Requests>,
    request: Request,
    next: Next,
) -> Response {
    let open = requests.begin(&request);
    let response = next.run(request).await;
    requests.end(open, outcome(&response));
    response
}
