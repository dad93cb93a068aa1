//! A registry in which one commit fails, either before it takes effect, or after it has taken
//! effect but before the response arrives.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use lifecycle_core::error::{Error, Result};
use lifecycle_core::model::{Chunk, ChunkDigest, Epoch, Generation, Operation, OperationId};
use lifecycle_core::platform::{Declaration, Revision};
use lifecycle_core::registry::{
    AnswerRecord, Batch, Committed, EventPage, Lease, Registry, Snapshot, StoredTokens,
};
use lifecycle_core::secret::Sensitive;
use lifecycle_core::sim::Edge;
use tokio::sync::watch;

/// Selects how the commit fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The commit never returns: the process crashes.
    Crash(Edge),
    /// The commit returns an error.
    Error(Edge),
}

#[derive(Debug)]
pub(crate) struct FaultyRegistry {
    inner: Arc<dyn Registry>,
    commits: AtomicU64,
    at: AtomicU64,
    fault: Fault,
    over: AtomicBool,
    busy: AtomicBool,
    silent: AtomicBool,
    failed: watch::Sender<bool>,
}

impl FaultyRegistry {
    pub(crate) fn new(inner: Arc<dyn Registry>, at: u64, fault: Fault) -> Arc<Self> {
        Arc::new(Self {
            inner,
            commits: AtomicU64::new(0),
            at: AtomicU64::new(at),
            fault,
            over: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            failed: watch::Sender::new(false),
        })
    }

    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }

    /// Makes the next commit fail.
    pub(crate) fn fail_next(&self) {
        self.at.store(self.commits() + 1, Ordering::SeqCst);
    }

    /// Makes the deletion of old events take forever from now on.
    pub(crate) fn keep_busy(&self) {
        self.busy.store(true, Ordering::SeqCst);
    }

    /// Sets whether a read of the tokens takes forever.
    pub(crate) fn keep_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }

    pub(crate) async fn failed(&self) {
        let _ = self.failed.subscribe().wait_for(|failed| *failed).await;
    }

    /// Lets the next process use the registry after a crash.
    pub(crate) fn next_process(&self) {
        self.over.store(false, Ordering::SeqCst);
    }

    async fn alive(&self) {
        if self.over.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

fn lost() -> Error {
    Error::interrupted("the registry", None)
}

#[async_trait]
impl Registry for FaultyRegistry {
    async fn acquire_lease(&self, holder: &str, ttl: Duration) -> Result<Lease> {
        self.alive().await;
        self.inner.acquire_lease(holder, ttl).await
    }

    async fn release_lease(&self, holder: &str) -> Result<()> {
        self.inner.release_lease(holder).await
    }

    async fn commit(&self, epoch: Epoch, batch: Batch) -> Result<Committed> {
        self.alive().await;
        let number = self.commits.fetch_add(1, Ordering::SeqCst) + 1;
        if number != self.at.load(Ordering::SeqCst) {
            return self.inner.commit(epoch, batch).await;
        }
        let (Fault::Crash(edge) | Fault::Error(edge)) = self.fault;
        if edge == Edge::After {
            self.inner.commit(epoch, batch).await?;
        }
        if matches!(self.fault, Fault::Crash(_)) {
            self.over.store(true, Ordering::SeqCst);
        }
        self.failed.send_replace(true);
        self.alive().await;
        Err(lost())
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        self.inner.snapshot().await
    }

    async fn revisions(&self) -> Result<Vec<Revision>> {
        self.inner.revisions().await
    }

    async fn declaration(&self, generation: Generation) -> Result<Option<Declaration>> {
        self.inner.declaration(generation).await
    }

    async fn credential(&self, name: &str) -> Result<Option<Sensitive>> {
        self.inner.credential(name).await
    }

    async fn tokens(&self) -> Result<StoredTokens> {
        if self.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.inner.tokens().await
    }

    async fn chunk(&self, digest: ChunkDigest) -> Result<Option<Chunk>> {
        self.inner.chunk(digest).await
    }

    async fn missing_chunks(&self, of: BTreeSet<ChunkDigest>) -> Result<BTreeSet<ChunkDigest>> {
        self.inner.missing_chunks(of).await
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>> {
        self.inner.operation(id).await
    }

    async fn operations(&self, limit: u32) -> Result<Vec<Operation>> {
        self.inner.operations(limit).await
    }

    async fn open_operations(&self) -> Result<Vec<Operation>> {
        self.inner.open_operations().await
    }

    async fn answer(&self, key: &str) -> Result<Option<AnswerRecord>> {
        self.inner.answer(key).await
    }

    async fn events(&self, after: u64, limit: u32) -> Result<EventPage> {
        self.inner.events(after, limit).await
    }

    async fn prune_events(&self, before: DateTime<Utc>, keep: u64) -> Result<()> {
        if self.busy.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.inner.prune_events(before, keep).await
    }
}
