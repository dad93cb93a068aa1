//! Databases of the simulated world: they outlive the managers and nodes that use them, can be
//! away for a while, and can be lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::model::{Epoch, Operation, OperationId, PlatformId};
use crate::platform::ManagerEndpoint;
use crate::registry::{
    Batch, Committed, Credential, Databases, EventPage, KindDatabase, Lease, MemoryRegistry,
    Mirrored, Registry, RegistryId, Snapshot,
};
use crate::secret::{PlatformKey, Sensitive};

/// All databases of a world. Each is there as soon as its URL is used.
#[derive(Debug, Clone)]
pub struct SimDatabases {
    clock: Arc<dyn Clock>,
    all: Arc<Mutex<BTreeMap<String, Database>>>,
}

#[derive(Debug)]
struct Database {
    registry: Arc<MemoryRegistry>,
    away: bool,
}

impl SimDatabases {
    /// Databases whose leases run out by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            all: Arc::default(),
        }
    }

    /// What is at a URL, whether it answers or not.
    pub fn at(&self, url: &str) -> Arc<MemoryRegistry> {
        self.with(url, |database| Arc::clone(&database.registry))
    }

    /// From now on nobody answers there; with `false`, somebody does again.
    pub fn set_away(&self, url: &str, away: bool) {
        self.with(url, |database| database.away = away);
    }

    /// What is at a URL, as a program reaches it: only while it answers.
    pub fn connect(&self, url: &Sensitive) -> Arc<dyn KindDatabase> {
        Arc::new(Connection {
            databases: self.clone(),
            url: url.clone(),
        })
    }

    /// Loses what is at a URL: it is empty from now on.
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
            away: false,
        });
        act(database)
    }

    fn answering(&self, url: &Sensitive) -> Result<Arc<MemoryRegistry>> {
        self.with(url.expose(), |database| {
            if database.away {
                return Err(Error::Unreachable {
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

/// A connection that finds at each call what is there then.
#[derive(Debug)]
struct Connection {
    databases: SimDatabases,
    url: Sensitive,
}

impl Connection {
    fn now(&self) -> Result<Arc<MemoryRegistry>> {
        self.databases.answering(&self.url)
    }
}

#[async_trait]
impl Registry for Connection {
    async fn acquire_lease(&self, holder: &str, ttl: Duration) -> Result<Lease> {
        self.now()?.acquire_lease(holder, ttl).await
    }

    async fn release_lease(&self, holder: &str) -> Result<()> {
        self.now()?.release_lease(holder).await
    }

    async fn commit(&self, epoch: Epoch, batch: Batch) -> Result<Committed> {
        self.now()?.commit(epoch, batch).await
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        self.now()?.snapshot().await
    }

    async fn credential(&self, name: &str) -> Result<Option<Credential>> {
        self.now()?.credential(name).await
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>> {
        self.now()?.operation(id).await
    }

    async fn open_operations(&self) -> Result<Vec<Operation>> {
        self.now()?.open_operations().await
    }

    async fn events(&self, after: u64, limit: u32) -> Result<EventPage> {
        self.now()?.events(after, limit).await
    }

    async fn prune_events(&self, before: DateTime<Utc>, keep: u64) -> Result<()> {
        self.now()?.prune_events(before, keep).await
    }
}

#[async_trait]
impl KindDatabase for Connection {
    async fn follows(&self) -> Result<Option<RegistryId>> {
        self.now()?.follows().await
    }

    async fn mirror(&self, epoch: Epoch, update: Mirrored) -> Result<()> {
        self.now()?.mirror(epoch, update).await
    }
}
