//! Computes the effect of a batch before anything is written. The registries, the per-kind
//! databases, and the control loop's copy of the state then apply this effect.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};

use super::{AnswerRecord, Change, NodeRecord, RejectedSpec, Snapshot, VolumeRecord};
use crate::error::{Error, Result};
use crate::model::{
    ApiToken, Chunk, ChunkDigest, ContainerId, Epoch, Generation, InstanceId, InstanceRecord,
    InstanceState, NewEvent, NodeName, Operation, OperationId, OperationState, ServiceName,
    TokenId, VolumeName,
};
use crate::platform::{Declaration, ManagerEndpoint, RevisionNote};
use crate::secret::Sensitive;

/// The effect of a batch on the stored state. `None` in a map means that the entry is deleted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Effect {
    /// New generations, oldest first.
    pub declarations: Vec<(Generation, Declaration)>,
    /// What caused the new generations.
    pub notes: BTreeMap<Generation, RevisionNote>,
    pub chunks: BTreeMap<ChunkDigest, Chunk>,
    /// Unused chunks that were stored before this time are deleted.
    pub delete_unused_chunks: Option<DateTime<Utc>>,
    pub nodes: BTreeMap<NodeName, Option<NodeRecord>>,
    pub instances: BTreeMap<ContainerId, Option<InstanceRecord>>,
    pub rejected: BTreeMap<InstanceId, Option<RejectedSpec>>,
    pub volumes: BTreeMap<(NodeName, VolumeName), Option<VolumeRecord>>,
    pub operations: BTreeMap<OperationId, Operation>,
    /// The operations that ended before this time are deleted.
    pub delete_ended_operations: Option<DateTime<Utc>>,
    pub answers: BTreeMap<String, AnswerRecord>,
    /// The answers that were given before this time are deleted.
    pub delete_answers: Option<DateTime<Utc>>,
    pub credentials: BTreeMap<String, Sensitive>,
    pub tokens: BTreeMap<TokenId, Option<ApiToken>>,
    pub manager: Option<ManagerEndpoint>,
    pub addresses: Option<BTreeMap<ServiceName, Ipv4Addr>>,
    pub first_round_done: bool,
    /// The next epoch is later than this one.
    pub epoch_above: Option<Epoch>,
}

impl Effect {
    /// Computes the effect of `changes`, applied in order. `current` is the current declaration.
    pub(super) fn of(
        changes: impl IntoIterator<Item = Change>,
        current: Option<&(Generation, Declaration)>,
    ) -> Result<Self> {
        let mut effect = Self::default();
        for change in changes {
            effect.add(change, current)?;
        }
        Ok(effect)
    }

    fn add(&mut self, change: Change, current: Option<&(Generation, Declaration)>) -> Result<()> {
        match change {
            Change::Declare {
                expected,
                declaration,
                note,
            } => return self.declare(expected, *declaration, note, current),
            Change::PutChunk(chunk) => {
                self.chunks.insert(chunk.digest(), chunk);
            }
            Change::DeleteUnusedChunks { stored_before } => {
                self.delete_unused_chunks = self.delete_unused_chunks.max(Some(stored_before));
            }
            Change::DeleteEndedOperations { before } => {
                self.delete_ended_operations = self.delete_ended_operations.max(Some(before));
            }
            Change::PutNode(record) => {
                self.nodes.insert(record.name.clone(), Some(*record));
            }
            Change::DeleteNode(name) => {
                self.nodes.insert(name, None);
            }
            Change::PutInstance(record) => {
                self.instances
                    .insert(record.container.clone(), Some(*record));
            }
            Change::DeleteInstance(container) => {
                self.instances.insert(container, None);
            }
            Change::Reject(spec) => {
                self.rejected.insert(spec.id.clone(), Some(spec));
            }
            Change::ClearRejected(id) => {
                self.rejected.insert(id, None);
            }
            Change::PutVolume(record) => {
                let key = (record.node.clone(), record.volume.clone());
                self.volumes.insert(key, Some(record));
            }
            Change::DeleteVolume(node, volume) => {
                self.volumes.insert((node, volume), None);
            }
            Change::PutOperation(operation) => {
                self.operations.insert(operation.id, operation);
            }
            Change::PutAnswer(answer) => {
                self.answers.insert(answer.key.clone(), answer);
            }
            Change::DeleteAnswers { before } => {
                self.delete_answers = self.delete_answers.max(Some(before));
            }
            Change::PutCredential { name, credential } => {
                self.credentials.insert(name, credential);
            }
            Change::PutToken(token) => {
                self.tokens.insert(token.id.clone(), Some(*token));
            }
            Change::DeleteToken(id) => {
                self.tokens.insert(id, None);
            }
            Change::PutManager(endpoint) => self.manager = Some(endpoint),
            Change::PutAddresses(addresses) => self.addresses = Some(addresses),
            Change::MarkFirstRoundDone => self.first_round_done = true,
            Change::RaiseEpoch { above } => {
                self.epoch_above = self.epoch_above.max(Some(above));
            }
        }
        Ok(())
    }

    fn declare(
        &mut self,
        expected: Option<Generation>,
        declaration: Declaration,
        note: Option<RevisionNote>,
        current: Option<&(Generation, Declaration)>,
    ) -> Result<()> {
        let current = self.declarations.last().or(current);
        // Compare with the current declaration before checking `expected`: the caller may repeat a
        // call that succeeded but whose response was lost.
        if current.is_some_and(|(_, same)| *same == declaration) {
            return Ok(());
        }
        let current = current.map(|(generation, _)| *generation);
        if current != expected {
            let word = |generation: Option<Generation>| match generation {
                Some(number) => format!("generation {number}"),
                None => "no generation".into(),
            };
            return Err(Error::Conflict {
                what: "the declaration was rejected".into(),
                why: format!(
                    "it is based on {}, but the current one is {}",
                    word(expected),
                    word(current)
                ),
            });
        }
        let next = Generation(current.map_or(1, |generation| generation.0 + 1));
        self.declarations.push((next, declaration));
        self.notes.extend(note.map(|note| (next, note)));
        Ok(())
    }
}

impl Snapshot {
    /// Applies the changes of a batch that a registry has accepted.
    ///
    /// # Errors
    /// [`Error::Conflict`] if a declaration is not based on the current generation.
    pub(crate) fn apply(&mut self, changes: Vec<Change>) -> Result<()> {
        let effect = Effect::of(changes, self.declaration.as_ref())?;
        self.take(effect);
        Ok(())
    }

    /// Applies an effect, except for earlier generations, operations, answers, credentials, tokens, chunks and the
    /// epoch, which a snapshot does not contain.
    pub(super) fn take(&mut self, effect: Effect) {
        if let Some(declared) = effect.declarations.into_iter().next_back() {
            self.declaration = Some(declared);
        }
        merge(&mut self.nodes, effect.nodes);
        merge(&mut self.instances, effect.instances);
        merge(&mut self.rejected, effect.rejected);
        merge(&mut self.volumes, effect.volumes);
        if effect.manager.is_some() {
            self.manager = effect.manager;
        }
        if let Some(addresses) = effect.addresses {
            self.addresses = addresses;
        }
        self.first_round_done |= effect.first_round_done;
    }
}

pub(super) fn merge<K: Ord, V>(into: &mut BTreeMap<K, V>, changes: BTreeMap<K, Option<V>>) {
    for (key, change) in changes {
        match change {
            Some(value) => into.insert(key, value),
            None => into.remove(&key),
        };
    }
}

impl Change {
    /// Returns the change with its times truncated to the precision of registries.
    pub(super) fn stored(mut self) -> Self {
        match &mut self {
            Self::PutNode(record) => {
                if let Some(unknown) = &mut record.unknown {
                    unknown.since = stored(unknown.since);
                }
            }
            Self::PutInstance(record) => store_instance_times(record),
            Self::Reject(spec) => spec.at = stored(spec.at),
            Self::DeleteUnusedChunks {
                stored_before: time,
            }
            | Self::DeleteEndedOperations { before: time }
            | Self::DeleteAnswers { before: time } => *time = stored(*time),
            Self::PutAnswer(answer) => answer.at = stored(answer.at),
            Self::PutOperation(operation) => {
                operation.requested_at = stored(operation.requested_at);
                match &mut operation.state {
                    OperationState::Running => {}
                    OperationState::Succeeded { at }
                    | OperationState::Failed { at, .. }
                    | OperationState::Cancelled { at } => {
                        *at = stored(*at);
                    }
                }
            }
            Self::PutToken(token) => {
                token.created_at = stored(token.created_at);
                for time in [
                    &mut token.expires_at,
                    &mut token.revoked_at,
                    &mut token.last_used_at,
                ] {
                    *time = time.map(stored);
                }
            }
            Self::Declare { .. }
            | Self::PutChunk(_)
            | Self::DeleteNode(_)
            | Self::DeleteInstance(_)
            | Self::ClearRejected(_)
            | Self::PutVolume(_)
            | Self::DeleteVolume(..)
            | Self::PutCredential { .. }
            | Self::DeleteToken(_)
            | Self::PutManager(_)
            | Self::PutAddresses(_)
            | Self::MarkFirstRoundDone
            | Self::RaiseEpoch { .. } => {}
        }
        self
    }
}
/// Truncates a time to microseconds, the precision of PostgreSQL, so that all registries store the
/// same time.
pub(super) fn stored(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(6)
}

/// The longest lease: a hundred years. This limit ensures that every registry can store the time at
/// which a lease expires.
pub(super) const MAX_LEASE: Duration = Duration::from_hours(100 * 365 * 24);

/// Returns the time at which a lease that is acquired at `now` expires.
pub(super) fn lease_end(now: DateTime<Utc>, ttl: Duration) -> DateTime<Utc> {
    stored(now + ttl.min(MAX_LEASE))
}

/// Truncates the time of an event to the precision of registries.
pub(super) fn stored_event(mut event: NewEvent) -> NewEvent {
    event.at = stored(event.at);
    event
}

fn store_instance_times(record: &mut InstanceRecord) {
    record.started_at = record.started_at.map(stored);
    record.ready_at = record.ready_at.map(stored);
    if let InstanceState::Unknown { since, .. } = &mut record.state {
        *since = stored(*since);
    }
}
