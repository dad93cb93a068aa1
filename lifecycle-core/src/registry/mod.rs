//! The central database behind one trait.
//!
//! Everything in it is declared, observable again, or history: a lost registry is rebuilt from
//! the user's files, the cloud's tags and the engines' labels. Keep it that way.
//!
//! [`MemoryRegistry`] ends with its process; `SqlRegistry` (feature `sql`) lies in one file of
//! SQLite or in PostgreSQL. What a batch does is worked out in one place for all of them. Kinds
//! of objects may each have a database that follows the central one ([`KindDatabase`]).

mod effect;
mod kind;
mod memory;
mod mirror;
#[cfg(feature = "sql")]
mod sql;
mod subject;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::cloud::{CloudOperation, ObservedNode};
use crate::error::Result;
use crate::model::{
    ContainerId, Epoch, Event, Generation, InstanceId, InstanceRecord, NewEvent, NodeName,
    Operation, ServiceName, SpecDigest,
};
use crate::platform::{Declaration, ManagerEndpoint};
use crate::runtime::EngineInfo;
use crate::secret::Sensitive;

pub use effect::Effect;
pub use kind::{Databases, KindDatabase, Mirrored, RegistryId};
pub use memory::MemoryRegistry;
pub use mirror::{Mirror, Mirrors};
#[cfg(feature = "sql")]
pub use sql::{SqlDatabases, SqlRegistry};

/// How long a manager keeps events.
pub(crate) const EVENTS_KEPT_FOR: chrono::TimeDelta = chrono::TimeDelta::days(7);

/// How many events a manager keeps.
pub(crate) const EVENTS_KEPT: u64 = 100_000;

/// What the registry keeps of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its name.
    pub name: NodeName,
    /// What the cloud last said of it.
    pub observed: Option<ObservedNode>,
    /// Its engine, once it was ready.
    pub engine: Option<EngineInfo>,
    /// The SSH host keys it is pinned to, in OpenSSH form.
    pub host_keys: Vec<String>,
    /// Since when and why it cannot be asked.
    pub unknown: Option<Unknown>,
    /// A change at the cloud that is under way.
    pub operation: Option<CloudOperation>,
}

impl NodeRecord {
    /// A node of which nothing is known but its name.
    pub fn new(name: NodeName) -> Self {
        Self {
            name,
            observed: None,
            engine: None,
            host_keys: Vec::new(),
            unknown: None,
            operation: None,
        }
    }
}

/// Since when and why something cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unknown {
    /// Since when.
    pub since: DateTime<Utc>,
    /// Why, in words for the user.
    pub why: String,
}

/// A specification of an instance that did not become ready, so that it is not tried again
/// until another is declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedSpec {
    /// Which replica of which service.
    pub id: InstanceId,
    /// The digest that failed.
    pub digest: SpecDigest,
    /// When it was given up.
    pub at: DateTime<Utc>,
    /// Why.
    pub why: String,
}

/// A credential that the registry keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// SHA-256 in hexadecimal; enough to check what is presented.
    Hash(String),
    /// Sealed with the platform key, since it is handed on.
    Sealed(Sensitive),
}

/// One change to the registry.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// The next generation. `expected` is the one that it was made from.
    Declare {
        /// The generation in force when this one was made; `None` if there was none.
        expected: Option<Generation>,
        /// What is declared.
        declaration: Box<Declaration>,
    },
    /// Writes a node.
    PutNode(Box<NodeRecord>),
    /// Forgets a node. Absent is Ok.
    DeleteNode(NodeName),
    /// Writes an instance, keyed by its container; its endpoints are published exactly as
    /// the record lists them.
    PutInstance(Box<InstanceRecord>),
    /// Forgets an instance and withdraws its endpoints. Absent is Ok.
    DeleteInstance(ContainerId),
    /// Remembers a specification that failed. One per instance: the latest.
    Reject(RejectedSpec),
    /// Forgets what was rejected for an instance. Absent is Ok.
    ClearRejected(InstanceId),
    /// Writes an operation.
    PutOperation(Operation),
    /// Keeps a credential under a name.
    PutCredential {
        /// Its name, for example `admin-token`.
        name: String,
        /// The credential.
        credential: Credential,
    },
    /// Records where the manager's API is.
    PutManager(ManagerEndpoint),
    /// Keeps the services' addresses: these and no others.
    PutAddresses(BTreeMap<ServiceName, Ipv4Addr>),
    /// Remembers that the first round after the first declaration has ended.
    MarkFirstRoundDone,
}

/// Changes and events that are recorded together or not at all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// What is told of them.
    pub events: Vec<NewEvent>,
}

impl Batch {
    /// A batch of one change.
    pub fn of(change: Change) -> Self {
        Self {
            changes: vec![change],
            events: Vec::new(),
        }
    }

    /// The same with an event.
    #[must_use]
    pub fn event(mut self, event: NewEvent) -> Self {
        self.events.push(event);
        self
    }

    /// Whether there is nothing to record.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.events.is_empty()
    }
}

/// What a commit made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// The events with their ids.
    pub events: Vec<Event>,
    /// The generation in force after it.
    pub generation: Option<Generation>,
}

/// Everything that the registry knows except history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The declaration in force, its generation as its version.
    pub declaration: Option<(Generation, Declaration)>,
    /// The nodes.
    pub nodes: BTreeMap<NodeName, NodeRecord>,
    /// The instances, by container.
    pub instances: BTreeMap<ContainerId, InstanceRecord>,
    /// What was rejected.
    pub rejected: BTreeMap<InstanceId, RejectedSpec>,
    /// The manager's endpoint.
    pub manager: Option<ManagerEndpoint>,
    /// The services' addresses.
    pub addresses: BTreeMap<ServiceName, Ipv4Addr>,
    /// Whether the first round has ended.
    pub first_round_done: bool,
    /// The id of the latest event; 0 before the first.
    pub last_event: u64,
}

/// How an attempt to lead ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    /// We lead, with this epoch.
    Held(Epoch),
    /// Someone else does.
    HeldBy {
        /// Who.
        holder: String,
        /// Until when, unless it renews.
        until: DateTime<Utc>,
    },
}

impl Lease {
    /// The epoch under which we lead.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] if someone else leads.
    pub fn epoch(self) -> Result<Epoch> {
        match self {
            Self::Held(epoch) => Ok(epoch),
            Self::HeldBy { holder, until } => Err(crate::Error::Conflict {
                what: "the lease".into(),
                why: format!("{holder} holds it until {until}"),
            }),
        }
    }
}

/// A page of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventPage {
    /// The events after the cursor, oldest first.
    Events(Vec<Event>),
    /// Events after the cursor are kept no more, or the cursor is none of this registry's.
    Gone {
        /// The oldest id that is kept, or that the next event will get if none is.
        oldest: u64,
    },
}

/// The central database.
///
/// # Guarantees
/// - `commit` is one transaction: all of the batch, its events included, or nothing. Event ids
///   rise by one in the order of commits, without gaps that a reader could step over.
/// - A `commit` under an epoch that is not the current one is refused with
///   [`crate::Error::StaleEpoch`]; a `Declare` that expects another generation than the one in
///   force, with [`crate::Error::Conflict`]; both change nothing.
/// - `Declare` with a declaration equal to the one in force makes no generation, whatever it
///   expects: a call that is repeated since its answer was lost ends well.
/// - Times are kept to the microsecond.
/// - What a reader gets is one moment's state.
/// - Declarations, sealed credentials and everything that may hold a secret are unreadable
///   without the platform key.
///
/// # Errors
/// A database that does not answer is [`crate::Error::Unreachable`].
#[async_trait]
pub trait Registry: Debug + Send + Sync + 'static {
    /// Tries to lead as `holder` for `ttl`. Who holds the lease already keeps its epoch and
    /// gets more time, even if its time ran out and nobody took over; a new holder gets the
    /// next epoch. So `holder` names one run of one process.
    async fn acquire_lease(&self, holder: &str, ttl: Duration) -> Result<Lease>;

    /// Gives the lease up; the epoch ends with the next holder. Someone else's is left alone.
    async fn release_lease(&self, holder: &str) -> Result<()>;

    /// Records a batch.
    async fn commit(&self, epoch: Epoch, batch: Batch) -> Result<Committed>;

    /// The present state.
    async fn snapshot(&self) -> Result<Snapshot>;

    /// A kept credential.
    async fn credential(&self, name: &str) -> Result<Option<Credential>>;

    /// An operation.
    async fn operation(&self, id: crate::model::OperationId) -> Result<Option<Operation>>;

    /// All operations that have not ended, oldest first.
    async fn open_operations(&self) -> Result<Vec<Operation>>;

    /// At most `limit` events with an id greater than `after`. [`EventPage::Gone`] if some of
    /// these are kept no more, or if `after` is an id that this registry never gave.
    async fn events(&self, after: u64, limit: u32) -> Result<EventPage>;

    /// Drops events beyond what is kept, from the oldest on: those before `before`, and all but
    /// the latest `keep`. What is kept has no holes.
    async fn prune_events(&self, before: DateTime<Utc>, keep: u64) -> Result<()>;
}
