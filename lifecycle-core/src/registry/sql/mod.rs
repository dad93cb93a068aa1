//! The registry in a database: SQLite for one manager, PostgreSQL for several and for services
//! that read it directly. The same tables in both.
//!
//! A write is one transaction that first locks the row of the lease. That puts all writes in
//! one order, which is the order of event ids, and lets no take-over in between the check of
//! the epoch and what is written under it. The outcome of a batch is worked out in memory from
//! the few rows that it meets, then written with few statements.
//!
//! The view `endpoints(service, class, replica, node, ip, port, protocol, ready_since)` is what
//! other services may rely on; everything else may change with the version.

mod databases;
mod entity;
mod error;
mod lease;
mod migration;
mod place;
mod read;
mod session;
mod take;
mod write;

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
use self::place::{FileLock, Place};
use self::read::Reader;
use self::session::Session;
use self::take::Use;
use self::write::Writer;
use super::effect::Effect;
use super::{
    Batch, Change, Committed, Credential, EventPage, Lease, Registry, RegistryId, Snapshot,
};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::model::{Epoch, Operation, OperationId};
use crate::secret::PlatformKey;

/// How long one call may take against a server that stopped answering.
const CALL: Duration = Duration::from_mins(2);

/// A registry in SQLite or PostgreSQL.
pub struct SqlRegistry {
    connection: DatabaseConnection,
    key: PlatformKey,
    clock: Arc<dyn Clock>,
    place: String,
    id: RegistryId,
    /// On SQLite: writers queue here, in the order of their coming. Its own waiting is a
    /// polling without order, and can leave one out for long.
    writers: Option<Mutex<()>>,
    /// On SQLite; declared last, so that it is let go of last.
    lock: Option<FileLock>,
}

impl fmt::Debug for SqlRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlRegistry")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// A session that writes.
struct Write<'a> {
    session: Session,
    _turn: Option<MutexGuard<'a, ()>>,
}

impl SqlRegistry {
    /// Opens the registry at `url` and brings its tables up to date.
    ///
    /// - `sqlite:///path/registry.db?mode=rwc`: one file, made with mode 0600; without
    ///   `mode=rwc` it has to be there. A lock beside it keeps other processes out for as
    ///   long as this value lives, so every open is the start of a new epoch; leases run out
    ///   by `clock`.
    /// - `postgres://user:password@host:port/database`: leases run out by the server's clock.
    ///
    /// # Errors
    /// [`Error::Conflict`] if another process has the file, [`Error::Invalid`] for a URL that
    /// cannot be used or tables of a newer version, [`Error::Denied`] for another platform's
    /// key, [`Error::Unreachable`] if nobody answers.
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
        registry.id = registry.bounded(registry.named()).await?;
        Ok(registry)
    }

    /// Whether a database can be opened so, without leaving a trace in it.
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
        let place = Place::of(url)?;
        let (connection, lock) = place.connect(url).await?;
        Ok(Self {
            connection,
            key,
            clock,
            place: place.to_string(),
            id: RegistryId(String::new()),
            writers: lock.is_some().then(Mutex::default),
            lock,
        })
    }

    /// Names this registry, so that its kinds' databases know it again.
    pub fn id(&self) -> RegistryId {
        self.id.clone()
    }

    /// Waits until all connections are closed, and lets go of the file.
    pub async fn close(self) -> Result<()> {
        let Self {
            connection,
            place,
            lock,
            ..
        } = self;
        connection.close().await.map_err(at(&place))?;
        drop(lock);
        Ok(())
    }

    /// Brings the tables up to date and takes the database into use; to be committed.
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
        migration::up(&transaction, &self.place).await?;
        let session = Session::new(transaction);
        self.take(usage, &session).await?;
        if self.lock.is_some() {
            // Who held it does not run any more, or the file would still be locked.
            lease::release(&session, None)
                .await
                .map_err(self.failed())?;
        }
        Ok(session)
    }

    /// The name of this registry; empty for the database of a kind.
    async fn named(&self) -> Result<RegistryId> {
        let session = self.read().await?;
        let found = self.reader(&session).platform().await?;
        session.rollback().await.map_err(self.failed())?;
        Ok(RegistryId(found.registry.unwrap_or_default()))
    }

    fn failed(&self) -> impl Fn(DbErr) -> Error {
        at(&self.place)
    }

    fn reader<'a>(&'a self, session: &'a Session) -> Reader<'a> {
        Reader {
            session,
            key: &self.key,
            place: &self.place,
        }
    }

    fn writer<'a>(&'a self, session: &'a Session) -> Writer<'a> {
        Writer {
            session,
            key: &self.key,
            place: &self.place,
            now: self.clock.now(),
        }
    }

    /// A session that sees one moment.
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

    /// A session that writes.
    async fn write(&self) -> Result<Write<'_>> {
        let turn = match &self.writers {
            Some(writers) => Some(writers.lock().await),
            None => None,
        };
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let transaction = self.connection.begin_with_options(options).await;
        Ok(Write {
            session: transaction.map(Session::new).map_err(self.failed())?,
            _turn: turn,
        })
    }

    /// A server that went away without a word must not hold the caller for ever.
    async fn bounded<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        if self.lock.is_some() {
            return call.await;
        }
        match tokio::time::timeout(CALL, call).await {
            Ok(result) => result,
            Err(elapsed) => Err(Error::Unreachable {
                what: self.place.clone(),
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
            let write = self.write().await?;
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
                _ => Err(damaged("lease", "it was neither taken nor refused")),
            }
        })
        .await
    }

    async fn release_lease(&self, holder: &str) -> Result<()> {
        self.bounded(async {
            let write = self.write().await?;
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
            let declares = |change: &Change| matches!(change, Change::Declare { .. });
            let in_force = match generation {
                Some(number) if batch.changes.iter().any(declares) => {
                    Some((number, reader.declaration(number).await?))
                }
                _ => None,
            };
            let effect = Effect::of(
                batch.changes.into_iter().map(Change::stored),
                in_force.as_ref(),
            )?;
            let writer = self.writer(session);
            writer.write(&effect).await?;
            let events = writer.events(batch.events).await?;
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

    async fn credential(&self, name: &str) -> Result<Option<Credential>> {
        self.bounded(async {
            let session = self.read().await?;
            let credential = self.reader(&session).credential(name).await?;
            session.rollback().await.map_err(self.failed())?;
            Ok(credential)
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

    async fn open_operations(&self) -> Result<Vec<Operation>> {
        self.bounded(async {
            let session = self.read().await?;
            let operations = self.reader(&session).open_operations().await?;
            session.rollback().await.map_err(self.failed())?;
            Ok(operations)
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
            // As for a commit: the counter is one's own until the session ends.
            lease::lock(&write.session).await.map_err(self.failed())?;
            self.writer(&write.session)
                .prune_events(before, keep)
                .await?;
            write.commit().await.map_err(self.failed())
        })
        .await
    }
}
