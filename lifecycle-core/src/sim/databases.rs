//! Simulates databases. They outlive the managers and nodes that use them. A test can make a
//! database unavailable, or lose its data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::model::{Chunk, ChunkDigest, Epoch, Generation, Operation, OperationId, PlatformId};
use crate::platform::{Declaration, ManagerEndpoint, Revision};
use crate::registry::{
    AnswerRecord, Batch, Committed, Databases, EventPage, KindDatabase, Lease, MemoryRegistry,
    Mirrored, Registry, RegistryId, Snapshot, StoredTokens,
};
use crate::secret::{PlatformKey, Sensitive};

/// All databases of a world. A database is created when its URL is first used.
#[derive(Debug, Clone)]
pub struct SimDatabases {
    clock: Arc<dyn Clock>,
    all: Arc<Mutex<BTreeMap<String, Database>>>,
}

#[derive(Debug)]
struct Database {
    registry: Arc<MemoryRegistry>,
    unavailable: bool,
}

impl SimDatabases {
    /// Creates databases that use `clock` for the expiry of leases.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            all: Arc::default(),
        }
    }

    /// Returns the database at a URL, even if the database is unavailable.
    pub fn at(&self, url: &str) -> Arc<MemoryRegistry> {
        self.with(url, |database| Arc::clone(&database.registry))
    }

    /// Makes the database at a URL unavailable, or available again.
    pub fn set_unavailable(&self, url: &str, unavailable: bool) {
        self.with(url, |database| database.unavailable = unavailable);
    }

    /// Returns a connection to the database at a URL. The connection works only while the database
    /// is available.
    pub fn connect(&self, url: &Sensitive) -> Arc<dyn KindDatabase> {
        Arc::new(Connection {
            databases: self.clone(),
            url: url.clone(),
        })
    }

    /// Replaces the database at a URL with an empty one.
    pub fn lose(&self, url: &str) {
        let empty = self.empty();
        self.with(url, |database| database.registry = empty);
    }

    fn empty(&self) -> Arc<MemoryRegistry> {
        Arc::new(MemoryRegistry::new(Arc::clone(&self.clock)))
    }

    fn with<T>(&self, url: &str, act: impl FnOnce(&mut Database) -> T) -> T {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let database = all.entry(url.to_owned()).or_insert_with(|| Database {
            registry: self.empty(),
            unavailable: false,
        });
        act(database)
    }

    fn answering(&self, url: &Sensitive) -> Result<Arc<MemoryRegistry>> {
        self.with(url.expose(), |database| {
            if database.unavailable {
                return Err(Error::Unreachable {
                    hint: None,
                    what: "a simulated database".into(),
                    source: None,
                });
            }
            Ok(Arc::clone(&database.registry))
        })
    }
}

#[async_trait]
impl Databases for SimDatabases {
    async fn check(&self, url: &Sensitive, _: PlatformId, _: &PlatformKey) -> Result<()> {
        self.answering(url).map(drop)
    }

    async fn prepare(&self, url: &Sensitive, _: PlatformId, _: &PlatformKey) -> Result<()> {
        self.answering(url).map(drop)
    }

    async fn record_manager(
        &self,
        url: &Sensitive,
        _: &PlatformKey,
        endpoint: &ManagerEndpoint,
    ) -> Result<()> {
        self.answering(url)?.record_manager(endpoint.clone());
        Ok(())
    }

    async fn kind(
        &self,
        url: &Sensitive,
        _: PlatformId,
        _: &PlatformKey,
    ) -> Result<Arc<dyn KindDatabase>> {
        self.answering(url)?;
        Ok(self.connect(url))
    }
}

/// A connection that looks up the current database at each call.
#[derive(Debug)]
struct Connection {
    databases: SimDatabases,
    url: Sensitive,
}

impl Connection {
    fn current(&self) -> Result<Arc<MemoryRegistry>> {
        self.databases.answering(&self.url)
    }
}

#[async_trait]
impl Registry for Connection {
    async fn acquire_lease(&self, holder: &str, ttl: Duration) -> Result<Lease> {
        self.current()?.acquire_lease(holder, ttl).await
    }

    async fn release_lease(&self, holder: &str) -> Result<()> {
        self.current()?.release_lease(holder).await
    }

    async fn commit(&self, epoch: Epoch, batch: Batch) -> Result<Committed> {
        self.current()?.commit(epoch, batch).await
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        self.current()?.snapshot().await
    }

    async fn revisions(&self) -> Result<Vec<Revision>> {
        self.current()?.revisions().await
    }

    async fn declaration(&self, generation: Generation) -> Result<Option<Declaration>> {
        self.current()?.declaration(generation).await
    }

    async fn credential(&self, name: &str) -> Result<Option<Sensitive>> {
        self.current()?.credential(name).await
    }

    async fn tokens(&self) -> Result<StoredTokens> {
        self.current()?.tokens().await
    }

    async fn chunk(&self, digest: ChunkDigest) -> Result<Option<Chunk>> {
        self.current()?.chunk(digest).await
    }

    async fn missing_chunks(&self, of: BTreeSet<ChunkDigest>) -> Result<BTreeSet<ChunkDigest>> {
        self.current()?.missing_chunks(of).await
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>> {
        self.current()?.operation(id).await
    }

    async fn operations(&self, limit: u32) -> Result<Vec<Operation>> {
        self.current()?.operations(limit).await
    }

    async fn open_operations(&self) -> Result<Vec<Operation>> {
        self.current()?.open_operations().await
    }

    async fn answer(&self, key: &str) -> Result<Option<AnswerRecord>> {
        self.current()?.answer(key).await
    }

    async fn events(&self, after: u64, limit: u32) -> Result<EventPage> {
        self.current()?.events(after, limit).await
    }

    async fn prune_events(&self, before: DateTime<Utc>, keep: u64) -> Result<()> {
        self.current()?.prune_events(before, keep).await
    }
}

#[async_trait]
impl KindDatabase for Connection {
    async fn follows(&self) -> Result<Option<RegistryId>> {
        self.current()?.follows().await
    }

    async fn mirror(&self, epoch: Epoch, update: Mirrored) -> Result<()> {
        self.current()?.mirror(epoch, update).await
    }
}
