//! Defines the registry, which is the central database of a platform.
//!
//! The registry must contain only declared data, data that can be observed again, history, and the
//! tokens of the API. A lost registry can then be rebuilt from the user's files, the cloud's tags and
//! the engines' labels; only the history, the tokens, and the overrides of the files are lost. The next
//! `up` sends the contents of mounted files again.
//!
//! [`MemoryRegistry`] loses its data when the process ends. `SqlRegistry` (feature `sql`) stores
//! its data in a SQLite file or in a PostgreSQL database. Both use the same code to compute the
//! effect of a batch. Kinds of objects can have separate databases that follow the central one
//! ([`KindDatabase`]).

mod effect;
mod kind;
mod memory;
mod mirror;
#[cfg(feature = "sql")]
mod sql;
mod subject;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::cloud::{CloudOperation, ObservedNode};
use crate::error::Result;
use crate::model::{
    ApiToken, Chunk, ChunkDigest, ContainerId, Epoch, Event, Generation, InstanceId,
    InstanceRecord, NewEvent, NodeName, Operation, ServiceName, SpecDigest, TokenId, VolumeName,
};
use crate::platform::{Declaration, ManagerEndpoint, Revision, RevisionNote};
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

/// How many generations a registry keeps.
pub const REVISIONS_KEPT: u64 = 50;

/// The stored state of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub name: NodeName,
    /// The node as the cloud last reported it.
    pub observed: Option<ObservedNode>,
    /// The engine as last observed; `None` until it has been ready once.
    pub engine: Option<EngineInfo>,
    /// The pinned SSH host keys, in OpenSSH format.
    pub host_keys: Vec<String>,
    /// The start and the reason of the outage, while the node does not respond.
    pub unknown: Option<Unknown>,
    /// The change to the node that is in progress in the cloud, if there is one.
    pub operation: Option<CloudOperation>,
}

impl NodeRecord {
    /// Creates a record that contains only the node's name.
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

/// Records when a node stopped responding, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unknown {
    pub since: DateTime<Utc>,
    /// The reason, for the user.
    pub why: String,
}

/// A specification with which an instance did not become ready. The manager does not retry it
/// until a different specification is declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RejectedSpec {
    pub id: InstanceId,
    /// The digest of the specification.
    pub digest: SpecDigest,
    pub at: DateTime<Utc>,
    pub why: String,
}

/// A named volume that an instance has used, on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRecord {
    pub node: NodeName,
    /// The volume's name in the declaration.
    pub volume: VolumeName,
    /// Whether the node's engine no longer has the volume.
    pub is_missing: bool,
}

/// The answer to a request that its client may repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerRecord {
    /// Identifies the client, and the key that it has chosen for the request.
    pub key: String,
    /// The digest of the request.
    pub request: String,
    pub answer: serde_json::Value,
    pub at: DateTime<Utc>,
}

/// A change to the registry.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// Adds a new generation. Rejected if the current generation is not `expected`.
    Declare {
        /// The generation that the declaration is based on; `None` if there was none.
        expected: Option<Generation>,
        declaration: Box<Declaration>,
        /// What caused the generation, if it is known.
        note: Option<RevisionNote>,
    },
    /// Stores a chunk of mounted files. If it is already stored, only its time is renewed.
    PutChunk(Chunk),
    /// Deletes the chunks that were stored before this time and that no stored declaration refers
    /// to.
    DeleteUnusedChunks { stored_before: DateTime<Utc> },
    /// Deletes the operations that ended before this time.
    DeleteEndedOperations { before: DateTime<Utc> },
    /// Stores a node.
    PutNode(Box<NodeRecord>),
    /// Deletes a node. Succeeds if the node does not exist.
    DeleteNode(NodeName),
    /// Stores an instance, keyed by its container. The endpoints in the record replace all
    /// endpoints of the instance.
    PutInstance(Box<InstanceRecord>),
    /// Deletes an instance and its endpoints. Succeeds if the instance does not exist.
    DeleteInstance(ContainerId),
    /// Stores a rejected specification, which replaces the previous one of the same instance.
    Reject(RejectedSpec),
    /// Deletes the rejected specification of an instance. Succeeds if there is none.
    ClearRejected(InstanceId),
    /// Stores a used volume, keyed by its node and its name.
    PutVolume(VolumeRecord),
    /// Deletes the record of a volume. Succeeds if there is none.
    DeleteVolume(NodeName, VolumeName),
    /// Stores an operation.
    PutOperation(Operation),
    /// Stores an answer, keyed by its `key`.
    PutAnswer(AnswerRecord),
    /// Deletes the answers that were given before this time.
    DeleteAnswers { before: DateTime<Utc> },
    /// Stores a credential, encrypted with the platform key.
    PutCredential {
        /// The name, for example `read-token`.
        name: String,
        credential: Sensitive,
    },
    /// Stores a token of the manager's API, keyed by its id.
    PutToken(Box<ApiToken>),
    /// Deletes a token. Succeeds if there is none.
    DeleteToken(TokenId),
    /// Stores the endpoint of the manager's API.
    PutManager(ManagerEndpoint),
    /// Stores the addresses of services, which replace all previous addresses.
    PutAddresses(BTreeMap<ServiceName, Ipv4Addr>),
    /// Records that the first round after the first declaration has ended.
    MarkFirstRoundDone,
    /// Ends the current epoch. The holder of the lease continues with the epoch after `above`, or with
    /// the current epoch if that is later.
    RaiseEpoch { above: Epoch },
}

/// Changes and events that a registry records atomically.
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
    /// The events of the batch, with their assigned ids.
    pub events: Vec<Event>,
    /// The current generation after the commit.
    pub generation: Option<Generation>,
}

/// The current state of the registry, without its history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The current declaration with its generation.
    pub declaration: Option<(Generation, Declaration)>,
    pub nodes: BTreeMap<NodeName, NodeRecord>,
    /// The instances, by container.
    pub instances: BTreeMap<ContainerId, InstanceRecord>,
    /// The rejected specifications.
    pub rejected: BTreeMap<InstanceId, RejectedSpec>,
    /// The named volumes that instances have used.
    pub volumes: BTreeMap<(NodeName, VolumeName), VolumeRecord>,
    pub manager: Option<ManagerEndpoint>,
    /// The addresses of services.
    pub addresses: BTreeMap<ServiceName, Ipv4Addr>,
    /// Whether the first round after the first declaration has ended.
    pub first_round_done: bool,
    /// The id of the latest event; 0 if there are none.
    pub last_event: u64,
}

/// The result of an attempt to acquire the lease.
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

/// The stored tokens of the manager's API.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredTokens {
    /// The tokens, oldest first.
    pub tokens: Vec<ApiToken>,
    /// The number of tokens that only a later version can read. They are not valid.
    pub unreadable: usize,
}

impl StoredTokens {
    /// Sorts `tokens` by their creation.
    pub(crate) fn of(mut tokens: Vec<ApiToken>, unreadable: usize) -> Self {
        tokens.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Self { tokens, unreadable }
    }

    /// Returns whether no token is stored.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.unreadable == 0
    }
}

/// A page of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventPage {
    /// The events after the cursor, oldest first.
    Events(Vec<Event>),
    /// Events after the cursor were deleted, or this registry has never assigned the cursor's id.
    Gone {
        /// The id of the oldest stored event. If no event is stored, the id of the next event.
        oldest: u64,
    },
}

/// The central database.
///
/// # Guarantees
/// - `commit` is one transaction: it records either the whole batch with its events, or nothing.
///   Event ids increase by one in the order of commits, without gaps.
/// - A `commit` whose epoch is not the current epoch fails with [`crate::Error::StaleEpoch`] and
///   changes nothing. A `commit` with a `Declare` that does not expect the current generation fails
///   with [`crate::Error::Conflict`] and changes nothing.
/// - After a `RaiseEpoch`, only the new epoch is current. The holder of the lease gets it when it
///   renews the lease.
/// - The latest [`REVISIONS_KEPT`] generations can be read.
/// - A `Declare` with a declaration that equals the current one succeeds and creates no generation,
///   regardless of `expected`. A call whose response was lost can therefore be repeated.
/// - Times are stored with microsecond precision.
/// - Each read returns a consistent state.
/// - Declarations, chunks, credentials and other data that may be secret cannot be read without the
///   platform key. A token that was not stored with this key does not exist. No stored data contains
///   the digest of a chunk, from which the contents could be guessed.
/// - A chunk is stored at the time of its latest `PutChunk`. A declaration may refer to chunks that are
///   not stored.
///
/// # Errors
/// Every method returns [`crate::Error::Unreachable`] if the database does not answer.
#[async_trait]
pub trait Registry: Debug + Send + Sync + 'static {
    /// Tries to acquire the lease for `holder`, or to renew it, for `ttl` from now. A new holder
    /// gets the next epoch. A holder that renews the lease keeps its epoch. It can also renew an
    /// expired lease, unless another process has acquired the lease.
    ///
    /// `holder` must be different for each run of a process, so that a restarted process gets a new
    /// epoch.
    async fn acquire_lease(&self, holder: &str, ttl: Duration) -> Result<Lease>;

    /// Releases the lease, if `holder` holds it. The epoch ends when the next holder acquires the
    /// lease.
    async fn release_lease(&self, holder: &str) -> Result<()>;

    /// Records a batch.
    async fn commit(&self, epoch: Epoch, batch: Batch) -> Result<Committed>;

    /// Returns the current state.
    async fn snapshot(&self) -> Result<Snapshot>;

    /// Returns the stored generations, oldest first, without their declarations.
    async fn revisions(&self) -> Result<Vec<Revision>>;

    /// Returns the declaration of a generation, if it is stored.
    async fn declaration(&self, generation: Generation) -> Result<Option<Declaration>>;

    /// Returns a stored credential.
    async fn credential(&self, name: &str) -> Result<Option<Sensitive>>;

    /// Returns all tokens of the manager's API, also those that are no longer valid.
    async fn tokens(&self) -> Result<StoredTokens>;

    /// Returns the chunk with this digest, if it is stored.
    async fn chunk(&self, digest: ChunkDigest) -> Result<Option<Chunk>>;

    /// Returns which of these chunks are not stored.
    async fn missing_chunks(&self, of: BTreeSet<ChunkDigest>) -> Result<BTreeSet<ChunkDigest>>;

    /// Returns the operation with this id, if it exists.
    async fn operation(&self, id: crate::model::OperationId) -> Result<Option<Operation>>;

    /// Returns the latest `limit` operations, oldest first, also those that have ended. Operations that
    /// only a later version can read are left out.
    async fn operations(&self, limit: u32) -> Result<Vec<Operation>>;

    /// Returns all operations that have not ended, oldest first. Operations that only a later version
    /// can read are left out.
    async fn open_operations(&self) -> Result<Vec<Operation>>;

    /// Returns the answer with this key, if it is stored.
    async fn answer(&self, key: &str) -> Result<Option<AnswerRecord>>;

    /// Returns at most `limit` events with ids greater than `after`. Returns [`EventPage::Gone`] if
    /// some of these events were deleted, or if this registry has never assigned the id `after`.
    async fn events(&self, after: u64, limit: u32) -> Result<EventPage>;

    /// Deletes the oldest events, until at most `keep` remain and the first of these happened at
    /// `before` or later. The ids of the remaining events have no gaps.
    async fn prune_events(&self, before: DateTime<Utc>, keep: u64) -> Result<()>;
}
