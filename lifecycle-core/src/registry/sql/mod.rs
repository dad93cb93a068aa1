//! Implements the registry in a database: SQLite for one manager, PostgreSQL for several managers
//! and for services that query the database directly. Both have the same tables.
//!
//! Each write is one transaction that first locks the row of the lease. This lock serializes all
//! writes, so that event ids follow the order of commits. It also prevents another manager from
//! taking over between the check of the epoch and the write. The effect of a batch is computed in
//! memory and then written with few statements.
//!
//! Other services may rely on the view `endpoints(service, class, replica, node, ip, port,
//! protocol, ready_since)`. Everything else may change between versions.

mod databases;
mod entity;
mod error;
mod lease;
mod location;
mod migration;
mod read;
mod session;
mod take;
mod write;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sea_orm::{
    AccessMode, DatabaseConnection, DbErr, IsolationLevel, SqliteTransactionMode,
    TransactionOptions, TransactionTrait,
};
use tokio::sync::{Mutex, MutexGuard};

pub use self::databases::SqlDatabases;
use self::entity::{damaged, unsigned};
use self::error::at;
use self::location::{Connected, FileLock, Location};
use self::read::Reader;
use self::session::Session;
use self::take::Use;
use self::write::Writer;
use super::effect::Effect;
use super::{
    AnswerRecord, Batch, Change, Committed, EventPage, Lease, Registry, RegistryId, Snapshot,
    StoredTokens,
};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::model::{Chunk, ChunkDigest, Epoch, Generation, Operation, OperationId};
use crate::platform::{Declaration, Revision};
use crate::secret::{PlatformKey, Sensitive};

/// The timeout of a call to a server that stops responding.
const CALL: Duration = Duration::from_mins(2);

/// A registry in SQLite or PostgreSQL.
pub struct SqlRegistry {
    connection: DatabaseConnection,
    /// The connection for the lease alone. It does not wait for the other connections, so that the
    /// lease is renewed even while all of them are in use.
    lease: DatabaseConnection,
    key: PlatformKey,
    clock: Arc<dyn Clock>,
    location: String,
    id: RegistryId,
    /// Used only for SQLite: serves waiting writers in order, so that no writer starves.
    writers: Option<Mutex<()>>,
    /// Used only for SQLite. Declared last, so that the lock is released after everything else.
    lock: Option<FileLock>,
}

impl fmt::Debug for SqlRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlRegistry")
            .field("location", &self.location)
            .finish_non_exhaustive()
    }
}

/// A session that writes.
struct Write<'a> {
    session: Session,
    _turn: Option<MutexGuard<'a, ()>>,
}

impl SqlRegistry {
    /// Opens the registry at `url` and migrates its tables.
    ///
    /// - `sqlite:///path/registry.db?mode=rwc`: a file, created with mode 0600. Without `mode=rwc`,
    ///   the file must exist. Until the returned value is dropped, a lock file next to the database
    ///   excludes other processes. Opening the file releases the previous lease, so the next leader
    ///   gets a new epoch. Leases expire by `clock`.
    /// - `postgres://user:password@host:port/database`: leases expire by the server's clock. Unless
    ///   the URL contains an `sslmode`, the server must have a trusted certificate for the host
    ///   (`sslmode=verify-full`), except at a local socket or a loopback address. `sslrootcert` is
    ///   the path of a file with further trusted authorities, or their certificates in PEM.
    ///
    /// # Errors
    /// - [`Error::Conflict`] if another process uses the file
    /// - [`Error::Invalid`] if the URL is invalid, or a newer version has changed the tables
    /// - [`Error::Denied`] if `key` belongs to another platform, or the server's identity cannot be
    ///   verified
    /// - [`Error::Unreachable`] if the server does not answer
    pub async fn open(url: &str, key: PlatformKey, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::open_for(Use::Central, url, key, clock).await
    }

    async fn open_for(
        usage: Use,
        url: &str,
        key: PlatformKey,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let mut registry = Self::connect(url, key, clock).await?;
        let taken = registry.bounded(registry.prepare(usage)).await?;
        taken.commit().await.map_err(registry.failed())?;
        registry.id = registry.bounded(registry.read_id()).await?;
        Ok(registry)
    }

    /// Checks that a database can be opened for `usage`, without changing the database.
    async fn check_for(
        usage: Use,
        url: &str,
        key: PlatformKey,
        clock: Arc<dyn Clock>,
    ) -> Result<()> {
        let registry = Self::connect(url, key, clock).await?;
        let taken = registry.bounded(registry.prepare(usage)).await?;
        taken.rollback().await.map_err(registry.failed())?;
        registry.close().await
    }

    async fn connect(url: &str, key: PlatformKey, clock: Arc<dyn Clock>) -> Result<Self> {
        let location = Location::of(url)?;
        let Connected {
            connection,
            lease,
            lock,
        } = location.connect(url).await?;
        Ok(Self {
            connection,
            lease,
            key,
            clock,
            location: location.to_string(),
            id: RegistryId(String::new()),
            writers: lock.is_some().then(Mutex::default),
            lock,
        })
    }

    /// Returns the id of this registry, which per-kind databases use to recognize the registry.
    pub fn id(&self) -> RegistryId {
        self.id.clone()
    }

    /// Closes all connections, and then releases the lock of a SQLite file.
    pub async fn close(self) -> Result<()> {
        let Self {
            connection,
            lease,
            location,
            lock,
            ..
        } = self;
        lease.close().await.map_err(at(&location))?;
        connection.close().await.map_err(at(&location))?;
        drop(lock);
        Ok(())
    }

    /// Migrates the tables and prepares the database for `usage`. The changes take effect when the
    /// caller commits the returned session.
    async fn prepare(&self, usage: Use) -> Result<Session> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let transaction = self
            .connection
            .begin_with_options(options)
            .await
            .map_err(self.failed())?;
        migration::up(&transaction, &self.location).await?;
        let session = Session::new(transaction);
        self.take(usage, &session).await?;
        if self.lock.is_some() {
            // This process has locked the file, so the previous holder of the lease has ended.
            lease::release(&session, None)
                .await
                .map_err(self.failed())?;
        }
        Ok(session)
    }

    /// Reads the id of this registry. The id is empty for a per-kind database.
    async fn read_id(&self) -> Result<RegistryId> {
        let session = self.read().await?;
        let found = self.reader(&session).platform().await?;
        session.rollback().await.map_err(self.failed())?;
        Ok(RegistryId(found.registry.unwrap_or_default()))
    }

    fn failed(&self) -> impl Fn(DbErr) -> Error {
        at(&self.location)
    }

    fn reader<'a>(&'a self, session: &'a Session) -> Reader<'a> {
        Reader {
            session,
            key: &self.key,
            location: &self.location,
        }
    }

    fn writer<'a>(&'a self, session: &'a Session) -> Writer<'a> {
        Writer {
            session,
            key: &self.key,
            location: &self.location,
            now: self.clock.now(),
        }
    }

    /// Starts a session that reads a consistent state.
    async fn read(&self) -> Result<Session> {
        let options = if self.lock.is_some() {
            TransactionOptions::default()
        } else {
            TransactionOptions {
                isolation_level: Some(IsolationLevel::RepeatableRead),
                access_mode: Some(AccessMode::ReadOnly),
                ..TransactionOptions::default()
            }
        };
        let transaction = self.connection.begin_with_options(options).await;
        transaction.map(Session::new).map_err(self.failed())
    }

    /// Starts a session that writes.
    async fn write(&self) -> Result<Write<'_>> {
        self.write_on(&self.connection).await
    }

    async fn write_on(&self, connection: &DatabaseConnection) -> Result<Write<'_>> {
        let turn = match &self.writers {
            Some(writers) => Some(writers.lock().await),
            None => None,
        };
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let transaction = connection.begin_with_options(options).await;
        Ok(Write {
            session: transaction.map(Session::new).map_err(self.failed())?,
            _turn: turn,
        })
    }

    /// Limits the duration of a call, because a server may stop responding.
    async fn bounded<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        if self.lock.is_some() {
            return call.await;
        }
        match tokio::time::timeout(CALL, call).await {
            Ok(result) => result,
            Err(elapsed) => Err(Error::Unreachable {
                hint: None,
                what: self.location.clone(),
                source: Some(Box::new(elapsed)),
            }),
        }
    }
}

impl Write<'_> {
    async fn commit(self) -> std::result::Result<(), DbErr> {
        self.session.commit().await
    }
}

#[async_trait]
impl Registry for SqlRegistry {
    async fn acquire_lease(&self, holder: &str, ttl: Duration) -> Result<Lease> {
        self.bounded(async {
            let write = self.write_on(&self.lease).await?;
            let now = self.clock.now();
            let row = lease::acquire(&write.session, holder, ttl, now)
                .await
                .map_err(self.failed())?;
            write.commit().await.map_err(self.failed())?;
            match (row.holder, row.until) {
                (Some(ours), Some(_)) if ours == holder => {
                    Ok(Lease::Held(Epoch(unsigned("epoch", row.epoch)?)))
                }
                (Some(holder), Some(until)) => Ok(Lease::HeldBy { holder, until }),
                _ => Err(damaged(
                    "lease",
                    "it has no holder after an attempt to acquire it",
                )),
            }
        })
        .await
    }

    async fn release_lease(&self, holder: &str) -> Result<()> {
        self.bounded(async {
            let write = self.write_on(&self.lease).await?;
            lease::release(&write.session, Some(holder))
                .await
                .map_err(self.failed())?;
            write.commit().await.map_err(self.failed())
        })
        .await
    }

    async fn commit(&self, epoch: Epoch, batch: Batch) -> Result<Committed> {
        self.bounded(async {
            let write = self.write().await?;
            let session = &write.session;
            let lease = lease::lock(session).await.map_err(self.failed())?;
            let current = Epoch(unsigned("epoch", lease.epoch)?);
            if epoch != current {
                return Err(Error::StaleEpoch {
                    ours: epoch,
                    current,
                });
            }
            let reader = self.reader(session);
            let generation = reader.platform().await?.generation()?;
            let is_declaration = |change: &Change| matches!(change, Change::Declare { .. });
            let in_force = match generation {
                Some(number) if batch.changes.iter().any(is_declaration) => {
                    Some((number, reader.current_declaration(number).await?))
                }
                _ => None,
            };
            let effect = Effect::of(
                batch.changes.into_iter().map(Change::stored),
                in_force.as_ref(),
            )?;
            let output = self.writer(session);
            output.write(&effect).await?;
            let events = output.events(batch.events).await?;
            write.commit().await.map_err(self.failed())?;
            let declared = effect.declarations.last().map(|(number, _)| *number);
            Ok(Committed {
                events,
                generation: declared.or(generation),
            })
        })
        .await
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        self.bounded(async {
            let session = self.read().await?;
            let snapshot = self.reader(&session).snapshot().await?;
            session.rollback().await.map_err(self.failed())?;
            Ok(snapshot)
        })
        .await
    }

    async fn revisions(&self) -> Result<Vec<Revision>> {
        self.bounded(async {
            let session = self.read().await?;
            let revisions = self.reader(&session).revisions().await?;
            session.rollback().await.map_err(self.failed())?;
            Ok(revisions)
        })
        .await
    }

    async fn declaration(&self, generation: Generation) -> Result<Option<Declaration>> {
        self.bounded(async {
            let session = self.read().await?;
            let declaration = self.reader(&session).declaration(generation).await?;
            session.rollback().await.map_err(self.failed())?;
            Ok(declaration)
        })
        .await
    }

    async fn credential(&self, name: &str) -> Result<Option<Sensitive>> {
        self.bounded(async {
            let session = self.read().await?;
            let credential = self.reader(&session).credential(name).await?;
            session.rollback().await.map_err(self.failed())?;
            Ok(credential)
        })
        .await
    }

    async fn tokens(&self) -> Result<StoredTokens> {
        self.bounded(async {
            let session = self.read().await?;
            let tokens = self.reader(&session).tokens().await?;
            session.rollback().await.map_err(self.failed())?;
            Ok(tokens)
        })
        .await
    }

    async fn chunk(&self, digest: ChunkDigest) -> Result<Option<Chunk>> {
        self.bounded(async {
            let session = self.read().await?;
            let chunk = self.reader(&session).chunk(digest).await?;
            session.rollback().await.map_err(self.failed())?;
            Ok(chunk)
        })
        .await
    }

    async fn missing_chunks(&self, of: BTreeSet<ChunkDigest>) -> Result<BTreeSet<ChunkDigest>> {
        self.bounded(async {
            let session = self.read().await?;
            let missing = self.reader(&session).missing_chunks(of).await?;
            session.rollback().await.map_err(self.failed())?;
            Ok(missing)
        })
        .await
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>> {
        self.bounded(async {
            let session = self.read().await?;
            let operation = self.reader(&session).operation(id).await?;
            session.rollback().await.map_err(self.failed())?;
            Ok(operation)
        })
        .await
    }

    async fn operations(&self, limit: u32) -> Result<Vec<Operation>> {
        self.bounded(async {
            let session = self.read().await?;
            let operations = self.reader(&session).operations(limit).await?;
            session.rollback().await.map_err(self.failed())?;
            Ok(operations)
        })
        .await
    }

    async fn open_operations(&self) -> Result<Vec<Operation>> {
        self.bounded(async {
            let session = self.read().await?;
            let operations = self.reader(&session).open_operations().await?;
            session.rollback().await.map_err(self.failed())?;
            Ok(operations)
        })
        .await
    }

    async fn answer(&self, key: &str) -> Result<Option<AnswerRecord>> {
        self.bounded(async {
            let session = self.read().await?;
            let answer = self.reader(&session).answer(key).await?;
            session.rollback().await.map_err(self.failed())?;
            Ok(answer)
        })
        .await
    }

    async fn events(&self, after: u64, limit: u32) -> Result<EventPage> {
        self.bounded(async {
            let session = self.read().await?;
            let page = self.reader(&session).events(after, limit).await?;
            session.rollback().await.map_err(self.failed())?;
            Ok(page)
        })
        .await
    }

    async fn prune_events(&self, before: DateTime<Utc>, keep: u64) -> Result<()> {
        self.bounded(async {
            let write = self.write().await?;
            // Lock out other writers, which would change the event counter.
            lease::lock(&write.session).await.map_err(self.failed())?;
            self.writer(&write.session)
                .prune_events(before, keep)
                .await?;
            write.commit().await.map_err(self.failed())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn the_lease_is_renewed_while_all_other_connections_are_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.db");
        let url = format!("sqlite://{}?mode=rwc", path.display());
        let key = PlatformKey::generate();
        let registry = SqlRegistry::open(&url, key, Arc::new(SystemClock));
        let registry = registry.await.unwrap();
        let ttl = Duration::from_mins(1);
        let held = registry.acquire_lease("x", ttl).await.unwrap();
        let mut sessions = Vec::new();
        for _ in 0..location::SQLITE_CONNECTIONS {
            sessions.push(registry.read().await.unwrap());
        }
        assert_eq!(registry.acquire_lease("x", ttl).await.unwrap(), held);
        registry.release_lease("x").await.unwrap();
        drop(sessions);
        registry.close().await.unwrap();
    }
}
