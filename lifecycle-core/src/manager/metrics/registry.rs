//! Measures the requests to the registry, and counts the events and the ended operations that they record.
//! Everything that a manager records passes through here, so no event can be missed. For the same reason,
//! subscribers are notified here when something was recorded.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Result;
use crate::metrics::{Metric, Recorder, SHORT};
use crate::model::{Chunk, ChunkDigest, Epoch, Generation, Operation, OperationId, OperationState};
use crate::platform::{Declaration, Revision};
use crate::reconcile::driver::measures::tag;
use crate::registry::{
    AnswerRecord, Batch, Change, Committed, EventPage, Lease, Registry, Snapshot, StoredTokens,
};
use crate::secret::Sensitive;

/// The metrics that are recorded here.
pub(super) static METRICS: [&Metric; 4] = [&REQUESTS, &LEASES, &EVENTS, &OPERATIONS_ENDED];

static REQUESTS: Metric = Metric::histogram(
    "lifecycle_registry_request_duration_seconds",
    &["request", "outcome"],
    SHORT,
    "How long requests to the registry take; `outcome` is `succeeded` or `failed`",
);

static LEASES: Metric = Metric::counter(
    "lifecycle_lease_requests_total",
    &["outcome"],
    "Attempts to acquire or renew the lease; `outcome` is `held`, `held-by-another` or `failed`",
);

static EVENTS: Metric = Metric::counter(
    "lifecycle_events_total",
    &["kind"],
    "Events that this manager has recorded",
);

static OPERATIONS_ENDED: Metric = Metric::counter(
    "lifecycle_operations_ended_total",
    &["kind", "state"],
    "Operations that have ended, `succeeded` or `failed`",
);

/// The kinds of operations whose counters exist before the first operation.
const KINDS: [&str; 6] = [
    "declare",
    "delete-platform",
    "prepare-node",
    "restart",
    "restart-node",
    "rollout",
];

/// Publishes the counters whose labels are known.
pub(super) fn begin(recorder: &Recorder) {
    for outcome in ["held", "held-by-another", "failed"] {
        recorder.add(&LEASES, &[outcome], 0);
    }
    for kind in KINDS {
        for state in ["succeeded", "failed"] {
            recorder.add(&OPERATIONS_ENDED, &[kind, state], 0);
        }
    }
}

/// A registry that records metrics.
#[derive(Debug)]
pub(super) struct Measured {
    registry: Arc<dyn Registry>,
    recorder: Arc<Recorder>,
    /// The number of commits.
    commits: watch::Sender<u64>,
}

impl Measured {
    pub(super) fn new(registry: Arc<dyn Registry>, recorder: Arc<Recorder>) -> Self {
        Self {
            registry,
            recorder,
            commits: watch::Sender::default(),
        }
    }

    /// Returns a receiver that is notified after each commit.
    pub(super) fn commits(&self) -> watch::Receiver<u64> {
        self.commits.subscribe()
    }

    /// Measures a request.
    async fn timed<T>(
        &self,
        request: &str,
        response: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let begun = Instant::now();
        let response = response.await;
        let outcome = if response.is_ok() {
            "succeeded"
        } else {
            "failed"
        };
        let labels = [request, outcome];
        self.recorder.observe(&REQUESTS, &labels, begun.elapsed());
        response
    }
}

/// Returns the kinds of a batch's events, and the kinds and states of its ended operations.
fn recorded(batch: &Batch) -> (Vec<String>, Vec<[String; 2]>) {
    let events = batch.events.iter().map(|event| tag(&event.kind, ""));
    let ended = batch.changes.iter().filter_map(|change| match change {
        Change::PutOperation(operation) if operation.state != OperationState::Running => {
            Some([tag(&operation.kind, "kind"), tag(&operation.state, "state")])
        }
        _ => None,
    });
    (events.collect(), ended.collect())
}

#[async_trait]
impl Registry for Measured {
    async fn acquire_lease(&self, holder: &str, ttl: Duration) -> Result<Lease> {
        let lease = self.registry.acquire_lease(holder, ttl);
        let lease = self.timed("acquire-lease", lease).await;
        let outcome = match &lease {
            Ok(Lease::Held(_)) => "held",
            Ok(Lease::HeldBy { .. }) => "held-by-another",
            Err(_) => "failed",
        };
        self.recorder.add(&LEASES, &[outcome], 1);
        lease
    }

    async fn release_lease(&self, holder: &str) -> Result<()> {
        let released = self.registry.release_lease(holder);
        self.timed("release-lease", released).await
    }

    async fn commit(&self, epoch: Epoch, batch: Batch) -> Result<Committed> {
        let (events, operations) = recorded(&batch);
        let committed = self.registry.commit(epoch, batch);
        let committed = self.timed("commit", committed).await;
        // A commit may have been recorded although its response was lost.
        self.commits.send_modify(|commits| *commits += 1);
        let committed = committed?;
        for kind in &events {
            self.recorder.add(&EVENTS, &[kind], 1);
        }
        for [kind, state] in &operations {
            self.recorder.add(&OPERATIONS_ENDED, &[kind, state], 1);
        }
        Ok(committed)
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        self.timed("snapshot", self.registry.snapshot()).await
    }

    async fn revisions(&self) -> Result<Vec<Revision>> {
        self.timed("revisions", self.registry.revisions()).await
    }

    async fn declaration(&self, generation: Generation) -> Result<Option<Declaration>> {
        let declaration = self.registry.declaration(generation);
        self.timed("declaration", declaration).await
    }

    async fn credential(&self, name: &str) -> Result<Option<Sensitive>> {
        let credential = self.registry.credential(name);
        self.timed("credential", credential).await
    }

    async fn tokens(&self) -> Result<StoredTokens> {
        self.timed("tokens", self.registry.tokens()).await
    }

    async fn chunk(&self, digest: ChunkDigest) -> Result<Option<Chunk>> {
        self.timed("chunk", self.registry.chunk(digest)).await
    }

    async fn missing_chunks(&self, of: BTreeSet<ChunkDigest>) -> Result<BTreeSet<ChunkDigest>> {
        let missing = self.registry.missing_chunks(of);
        self.timed("missing-chunks", missing).await
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>> {
        self.timed("operation", self.registry.operation(id)).await
    }

    async fn operations(&self, limit: u32) -> Result<Vec<Operation>> {
        let operations = self.registry.operations(limit);
        self.timed("operations", operations).await
    }

    async fn open_operations(&self) -> Result<Vec<Operation>> {
        let open = self.registry.open_operations();
        self.timed("open-operations", open).await
    }

    async fn answer(&self, key: &str) -> Result<Option<AnswerRecord>> {
        self.timed("answer", self.registry.answer(key)).await
    }

    async fn events(&self, after: u64, limit: u32) -> Result<EventPage> {
        let events = self.registry.events(after, limit);
        self.timed("events", events).await
    }

    async fn prune_events(&self, before: DateTime<Utc>, keep: u64) -> Result<()> {
        let pruned = self.registry.prune_events(before, keep);
        self.timed("prune-events", pruned).await
    }
}
