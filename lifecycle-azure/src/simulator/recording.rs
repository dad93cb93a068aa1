//! Every request that came, so that tests can count writes, see who came too early after a 429,
//! and wait for a request instead of sleeping.

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

/// How many requests are kept; the oldest go first.
const KEPT: usize = 100_000;

/// One request and how it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its method.
    pub method: Method,
    /// Its path, as it was sent.
    pub path: String,
    /// Its query, without the question mark; empty if there is none.
    pub query: String,
    /// When it came, by the simulator's clock.
    pub at: DateTime<Utc>,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has not been answered yet, or its client went away before that.
    Open,
    /// It was answered.
    Answered {
        /// With this status.
        status: StatusCode,
        /// How long the client was asked to wait, by `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// Its connection was broken without an answer.
    Dropped,
}

impl Recorded {
    /// The status, if it was answered.
    pub fn status(&self) -> Option<StatusCode> {
        match self.outcome {
            Outcome::Answered { status, .. } => Some(status),
            Outcome::Open | Outcome::Dropped => None,
        }
    }

    /// Whether it meant to change something.
    pub fn is_write(&self) -> bool {
        self.method != Method::GET && self.method != Method::HEAD
    }
}

/// The last 100,000 requests, in the order in which they came. Cheap to clone; all clones are one list.
#[derive(Debug, Clone)]
pub struct Requests(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Arc<dyn Clock>,
    list: Mutex<VecDeque<Recorded>>,
    changed: watch::Sender<()>,
    /// Where each request is written that has ended, one to a line.
    file: Option<Mutex<File>>,
}

impl Requests {
    /// No requests yet; their times are those of `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with(clock, None)
    }

    /// The same; each request that has ended is also added to the file at `path`, before its client
    /// has the answer: a line of JSON with `at`, `method`, `path` and `status`, which is null if
    /// the connection was broken. Queries are left out, since some hold signatures.
    ///
    /// # Errors
    /// If the file cannot be opened.
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
            tracing::warn!(%error, "a request could not be written down");
        }
    }

    fn list(&self) -> MutexGuard<'_, VecDeque<Recorded>> {
        self.0.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them.
    pub fn all(&self) -> Vec<Recorded> {
        self.list().iter().cloned().collect()
    }

    /// Those that `selector` selects.
    pub fn matching(&self, selector: &Selector) -> Vec<Recorded> {
        self.list()
            .iter()
            .filter(|one| selector.selects(&one.method, &one.path))
            .cloned()
            .collect()
    }

    /// How many `selector` selects.
    pub fn count(&self, selector: &Selector) -> usize {
        self.matching(selector).len()
    }

    /// Those that meant to change something.
    pub fn writes(&self) -> Vec<Recorded> {
        let mut writes = self.all();
        writes.retain(Recorded::is_write);
        writes
    }

    /// Those of a method and path that had been told to wait (429 or 503 with `Retry-After`) and
    /// came again before that time was over.
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

    /// Waits until `selector` has selected `count` requests that have ended, and returns these.
    pub async fn ended(&self, selector: &Selector, count: usize) -> Vec<Recorded> {
        let mut changed = self.0.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let mut found = self.matching(selector);
            found.retain(|one| one.outcome != Outcome::Open);
            // The sender lives as long as `self`; if it were gone, nothing more would come.
            if found.len() >= count || changed.changed().await.is_err() {
                return found;
            }
        }
    }

    /// Forgets all requests so far, the open ones too.
    pub fn clear(&self) {
        self.list().clear();
    }

    fn begin(&self, request: &Request) -> Recorded {
        let recorded = Recorded {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
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
        // By value: positions change when the list is cleared.
        if let Some(found) = self.list().iter_mut().rev().find(|one| **one == open) {
            open.outcome = outcome;
            *found = open;
        }
        self.0.changed.send_replace(());
    }
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

/// The middleware.
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
