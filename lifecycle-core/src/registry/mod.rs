//! The registry: the central database, as a trait.
//!
//! Everything in the registry is declared, can be observed again, or is history: a lost registry is
//! rebuilt from the user's files, the cloud's tags and the engines' labels. Keep it that way.
//!
//! [`MemoryRegistry`] ends with its process; `SqlRegistry` (feature `sql`) is a SQLite file or a
//! PostgreSQL database. All of them use the same code to compute the effect of a batch. Kinds of
//! objects may have separate databases that follow the central one ([`KindDatabase`]).

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

/// The maximum number of events that a manager keeps.
pub(crate) const EVENTS_KEPT: u64 = 100_000;

/// The stored state of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub name: NodeName,
    /// The node as the cloud last reported it.
    pub observed: Option<ObservedNode>,
    /// The engine, once it was ready.
    pub engine: Option<EngineInfo>,
    /// The pinned SSH host keys, in OpenSSH format.
    pub host_keys: Vec<String>,
    /// Since when and why the node does not respond.
    pub unknown: Option<Unknown>,
    /// The change of the node that is in progress in the cloud.
    pub operation: Option<CloudOperation>,
}

impl NodeRecord {
    /// Creates a record of a node of which only the name is known.
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

/// Since when and why something cannot be observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unknown {
    pub since: DateTime<Utc>,
    /// The reason, for the user.
    pub why: String,
}

/// An instance's specification that did not become ready. It is not retried until another
/// specification is declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedSpec {
    pub id: InstanceId,
    /// The digest of the specification.
    pub digest: SpecDigest,
    pub at: DateTime<Utc>,
    pub why: String,
}

/// A stored credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// SHA-256 in hexadecimal; sufficient to verify a presented credential.
    Hash(String),
    /// The credential, encrypted with the platform key, because its value is needed.
    Sealed(Sensitive),
}

/// A change of the registry.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// Adds a new generation, which must be based on the generation `expected`.
    Declare {
        /// The generation that the declaration is based on; `None` if there was none.
        expected: Option<Generation>,
        declaration: Box<Declaration>,
    },
    /// Stores a node.
    PutNode(Box<NodeRecord>),
    /// Deletes a node. Ok if it does not exist.
    DeleteNode(NodeName),
    /// Stores an instance, keyed by its container. Exactly the endpoints in the record are
    /// published.
    PutInstance(Box<InstanceRecord>),
    /// Deletes an instance and its endpoints. Ok if it does not exist.
    DeleteInstance(ContainerId),
    /// Stores a rejected specification. Only the latest of an instance is kept.
    Reject(RejectedSpec),
    /// Deletes the rejected specification of an instance. Ok if there is none.
    ClearRejected(InstanceId),
    /// Stores an operation.
    PutOperation(Operation),
    /// Stores a credential.
    PutCredential {
        /// The name, for example `admin-token`.
        name: String,
        credential: Credential,
    },
    /// Stores the endpoint of the manager's API.
    PutManager(ManagerEndpoint),
    /// Stores the addresses of services; replaces all previous ones.
    PutAddresses(BTreeMap<ServiceName, Ipv4Addr>),
    /// Records that the first round after the first declaration has ended.
    MarkFirstRoundDone,
}

/// Changes and events that are recorded atomically.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// The changes, in order.
    pub changes: Vec<Change>,
    pub events: Vec<NewEvent>,
}

impl Batch {
    /// Creates a batch with one change.
    pub fn of(change: Change) -> Self {
        Self {
            changes: vec![change],
            events: Vec::new(),
        }
    }

    /// Adds an event.
    #[must_use]
    pub fn event(mut self, event: NewEvent) -> Self {
        self.events.push(event);
        self
    }

    /// Returns whether the batch contains neither changes nor events.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.events.is_empty()
    }
}

/// The result of a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// The events with their ids.
    pub events: Vec<Event>,
    /// The current generation after the commit.
    pub generation: Option<Generation>,
}

/// The state of the registry, except history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The current declaration with its generation.
    pub declaration: Option<(Generation, Declaration)>,
    pub nodes: BTreeMap<NodeName, NodeRecord>,
    /// The instances, by container.
    pub instances: BTreeMap<ContainerId, InstanceRecord>,
    /// The rejected specifications.
    pub rejected: BTreeMap<InstanceId, RejectedSpec>,
    pub manager: Option<ManagerEndpoint>,
    /// The addresses of services.
    pub addresses: BTreeMap<ServiceName, Ipv4Addr>,
    /// Whether the first round has ended.
    pub first_round_done: bool,
    /// The id of the latest event; 0 if there are none.
    pub last_event: u64,
}

/// The result of acquiring the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    /// The caller is the leader, with this epoch.
    Held(Epoch),
    /// Another process is the leader.
    HeldBy {
        holder: String,
        /// When the lease expires, unless it is renewed.
        until: DateTime<Utc>,
    },
}

impl Lease {
    /// Returns the epoch of the caller.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] if another process is the leader.
    pub fn epoch(self) -> Result<Epoch> {
        match self {
            Self::Held(epoch) => Ok(epoch),
            Self::HeldBy { holder, until } => Err(crate::Error::Conflict {
                what: "acquiring the lease failed".into(),
                why: format!("{holder} holds the lease until {until}"),
            }),
        }
    }
}

/// A page of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventPage {
    /// The events after the cursor, oldest first.
    Events(Vec<Event>),
    /// Events after the cursor were deleted, or this registry never assigned the cursor.
    Gone {
        /// The oldest stored id, or the id of the next event if there are none.
        oldest: u64,
    },
}

/// The central database.
///
/// # Guarantees
/// - `commit` is one transaction: either the whole batch with its events, or nothing. Event ids
///   increase by one in the order of commits, without gaps.
/// - A `commit` with an epoch that is not the current one is rejected with
///   [`crate::Error::StaleEpoch`]; a `Declare` that expects a generation other than the current
///   one, with [`crate::Error::Conflict`]. Both change nothing.
/// - `Declare` with a declaration that equals the current one creates no generation, regardless of
///   `expected`, so that a call whose response was lost can be repeated.
/// - Times are stored with microsecond precision.
/// - Each read returns a consistent state.
/// - Declarations, encrypted credentials and other data that may be secret cannot be read without
///   the platform key.
///
/// # Errors
/// A database that does not answer is [`crate::Error::Unreachable`].
#[async_trait]
pub trait Registry: Debug + Send + Sync + 'static {
    /// Tries to become the leader as `holder` for `ttl`. The current holder keeps its epoch and
    /// extends its lease, even after the lease has expired if no other process has taken over; a
    /// new holder gets the next epoch. Therefore, `holder` must identify one run of one process.
    async fn acquire_lease(&self, holder: &str, ttl: Duration) -> Result<Lease>;

    /// Releases the lease; the epoch ends when the next holder acquires it. Does nothing if another
    /// process holds the lease.
    async fn release_lease(&self, holder: &str) -> Result<()>;

    /// Records a batch.
    async fn commit(&self, epoch: Epoch, batch: Batch) -> Result<Committed>;

    /// Returns the current state.
    async fn snapshot(&self) -> Result<Snapshot>;

    /// Returns a stored credential.
    async fn credential(&self, name: &str) -> Result<Option<Credential>>;

    /// Returns the operation with this id, if it exists.
    async fn operation(&self, id: crate::model::OperationId) -> Result<Option<Operation>>;

    /// Returns all operations that have not ended, oldest first.
    async fn open_operations(&self) -> Result<Vec<Operation>>;

    /// Returns at most `limit` events with ids greater than `after`; [`EventPage::Gone`] if some of
    /// them were deleted, or if this registry never assigned the id `after`.
    async fn events(&self, after: u64, limit: u32) -> Result<EventPage>;

    /// Deletes the oldest events: those before `before`, and all but the latest `keep`. The ids of
    /// the remaining events have no gaps.
    async fn prune_events(&self, before: DateTime<Utc>, keep: u64) -> Result<()>;
}
