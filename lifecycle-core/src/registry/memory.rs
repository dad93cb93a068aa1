//! Implements the registry in memory, for tests and the simulation. This implementation is the
//! reference for the others. Its data is lost when the process ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::effect::{Effect, lease_end, merge, stored, stored_event};
use super::kind::{follows_another, is_central};
use super::{
    AnswerRecord, Batch, Change, Committed, EventPage, KindDatabase, Lease, Mirrored,
    REVISIONS_KEPT, Registry, RegistryId, Snapshot, StoredTokens,
};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::model::{
    ApiToken, Chunk, ChunkDigest, Epoch, Event, Generation, Operation, OperationId, OperationState,
    TokenId,
};
use crate::platform::{Declaration, ManagerEndpoint, Revision};
use crate::secret::{Sensitive, new_token};

/// A registry that keeps its data in memory.
#[derive(Debug)]
pub struct MemoryRegistry {
    clock: Arc<dyn Clock>,
    id: RegistryId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    epoch: Epoch,
    held: Option<Held>,
    snapshot: Snapshot,
    /// The latest generations.
    revisions: BTreeMap<Generation, (Revision, Declaration)>,
    operations: BTreeMap<OperationId, Operation>,
    answers: BTreeMap<String, AnswerRecord>,
    credentials: BTreeMap<String, Sensitive>,
    tokens: BTreeMap<TokenId, ApiToken>,
    /// The chunks, with the times at which they were stored.
    chunks: BTreeMap<ChunkDigest, (DateTime<Utc>, Chunk)>,
    events: VecDeque<Event>,
    /// The id of the latest deleted event; 0 if none was deleted.
    dropped: u64,
    follows: Option<RegistryId>,
}

#[derive(Debug)]
struct Held {
    holder: String,
    until: DateTime<Utc>,
}

impl MemoryRegistry {
    /// Creates an empty registry. `clock` determines when leases expire.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            id: RegistryId(new_token().expose().to_owned()),
            state: Mutex::default(),
        }
    }

    /// Returns the id of this registry.
    pub fn id(&self) -> RegistryId {
        self.id.clone()
    }

    /// Records the endpoint of the manager's API, regardless of the epoch.
    pub fn record_manager(&self, endpoint: ManagerEndpoint) {
        self.state().snapshot.manager = Some(endpoint);
    }

    /// Locks the state. Poisoning is ignored: every method changes the state only after all steps
    /// that can fail.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn apply(&mut self, mut effect: Effect, now: DateTime<Utc>) {
        self.operations.append(&mut effect.operations);
        if let Some(before) = effect.delete_ended_operations {
            let is_old = |operation: &Operation| operation.ended_at().is_some_and(|at| at < before);
            self.operations.retain(|_, operation| !is_old(operation));
        }
        self.answers.append(&mut effect.answers);
        if let Some(before) = effect.delete_answers {
            self.answers.retain(|_, answer| answer.at >= before);
        }
        self.credentials.append(&mut effect.credentials);
        merge(&mut self.tokens, std::mem::take(&mut effect.tokens));
        let put = std::mem::take(&mut effect.chunks).into_iter();
        let now = stored(now);
        self.chunks
            .extend(put.map(|(digest, chunk)| (digest, (now, chunk))));
        if let Some(above) = effect.epoch_above {
            self.epoch = self.epoch.max(above.next());
        }
        for (generation, declaration) in &effect.declarations {
            let revision = Revision {
                generation: *generation,
                at: now,
                note: effect.notes.remove(generation),
            };
            let entry = (revision, declaration.clone());
            self.revisions.insert(*generation, entry);
            let oldest = (generation.0 + 1).saturating_sub(REVISIONS_KEPT);
            self.revisions = self.revisions.split_off(&Generation(oldest));
        }
        let before = effect.delete_unused_chunks;
        self.snapshot.take(effect);
        if let Some(before) = before {
            let declarations = self.revisions.values();
            let used = declarations.flat_map(|(_, declaration)| declaration.chunks());
            let used: BTreeSet<ChunkDigest> = used.collect();
            self.chunks
                .retain(|digest, (at, _)| *at >= before || used.contains(digest));
        }
    }

    fn oldest_event(&self) -> u64 {
        self.dropped + 1
    }
}

#[async_trait]
impl Registry for MemoryRegistry {
    async fn acquire_lease(&self, holder: &str, ttl: Duration) -> Result<Lease> {
        let now = self.clock.now();
        let mut state = self.state();
        match &state.held {
            Some(held) if held.holder == holder => {}
            Some(held) if held.until > now => {
                return Ok(Lease::HeldBy {
                    holder: held.holder.clone(),
                    until: held.until,
                });
            }
            _ => state.epoch = state.epoch.next(),
        }
        state.held = Some(Held {
            holder: holder.to_owned(),
            until: lease_end(now, ttl),
        });
        Ok(Lease::Held(state.epoch))
    }

    async fn release_lease(&self, holder: &str) -> Result<()> {
        self.state().held.take_if(|held| held.holder == holder);
        Ok(())
    }

    async fn commit(&self, epoch: Epoch, batch: Batch) -> Result<Committed> {
        let mut state = self.state();
        if epoch != state.epoch {
            return Err(Error::StaleEpoch {
                ours: epoch,
                current: state.epoch,
            });
        }
        let effect = Effect::of(
            batch.changes.into_iter().map(Change::stored),
            state.snapshot.declaration.as_ref(),
        )?;
        state.apply(effect, self.clock.now());
        let mut events = Vec::with_capacity(batch.events.len());
        for event in batch.events {
            state.snapshot.last_event += 1;
            events.push(Event {
                id: state.snapshot.last_event,
                event: stored_event(event),
            });
        }
        state.events.extend(events.iter().cloned());
        Ok(Committed {
            events,
            generation: state
                .snapshot
                .declaration
                .as_ref()
                .map(|(number, _)| *number),
        })
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        Ok(self.state().snapshot.clone())
    }

    async fn revisions(&self) -> Result<Vec<Revision>> {
        let state = self.state();
        let revisions = state.revisions.values();
        Ok(revisions.map(|(revision, _)| revision.clone()).collect())
    }

    async fn declaration(&self, generation: Generation) -> Result<Option<Declaration>> {
        let state = self.state();
        let stored = state.revisions.get(&generation);
        Ok(stored.map(|(_, declaration)| declaration.clone()))
    }

    async fn credential(&self, name: &str) -> Result<Option<Sensitive>> {
        Ok(self.state().credentials.get(name).cloned())
    }

    async fn tokens(&self) -> Result<StoredTokens> {
        let tokens = self.state().tokens.values().cloned().collect();
        Ok(StoredTokens::of(tokens, 0))
    }

    async fn chunk(&self, digest: ChunkDigest) -> Result<Option<Chunk>> {
        let state = self.state();
        Ok(state.chunks.get(&digest).map(|(_, chunk)| chunk.clone()))
    }

    async fn missing_chunks(&self, of: BTreeSet<ChunkDigest>) -> Result<BTreeSet<ChunkDigest>> {
        let state = self.state();
        let is_missing = |digest: &ChunkDigest| !state.chunks.contains_key(digest);
        Ok(of.into_iter().filter(is_missing).collect())
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>> {
        Ok(self.state().operations.get(&id).cloned())
    }

    async fn operations(&self, limit: u32) -> Result<Vec<Operation>> {
        let mut all: Vec<Operation> = self.state().operations.values().cloned().collect();
        all.sort_by_key(|operation| (operation.requested_at, operation.id));
        let first = all
            .len()
            .saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(all.split_off(first))
    }

    async fn open_operations(&self) -> Result<Vec<Operation>> {
        let mut open = self.operations(u32::MAX).await?;
        open.retain(|operation| operation.state == OperationState::Running);
        Ok(open)
    }

    async fn answer(&self, key: &str) -> Result<Option<AnswerRecord>> {
        Ok(self.state().answers.get(key).cloned())
    }

    async fn events(&self, after: u64, limit: u32) -> Result<EventPage> {
        let state = self.state();
        let oldest = state.oldest_event();
        if after < oldest - 1 || after > state.snapshot.last_event {
            return Ok(EventPage::Gone { oldest });
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let first = state.events.partition_point(|event| event.id <= after);
        Ok(EventPage::Events(
            state.events.range(first..).take(limit).cloned().collect(),
        ))
    }

    async fn prune_events(&self, before: DateTime<Utc>, keep: u64) -> Result<()> {
        let before = stored(before);
        let mut state = self.state();
        let too_many = state.snapshot.last_event.saturating_sub(keep);
        while let Some(oldest) = state.events.front() {
            let id = oldest.id;
            if id > too_many && oldest.event.at >= before {
                break;
            }
            state.dropped = id;
            state.events.pop_front();
        }
        Ok(())
    }
}

#[async_trait]
impl KindDatabase for MemoryRegistry {
    async fn follows(&self) -> Result<Option<RegistryId>> {
        Ok(self.state().follows.clone())
    }

    async fn mirror(&self, epoch: Epoch, update: Mirrored) -> Result<()> {
        let mut state = self.state();
        if state.follows.is_none() && state.epoch != Epoch::default() {
            return Err(is_central("registry in memory"));
        }
        let follows_it = state.follows.as_ref() == Some(&update.of);
        if follows_it && epoch < state.epoch {
            return Err(Error::StaleEpoch {
                ours: epoch,
                current: state.epoch,
            });
        }
        if !follows_it && !update.replace_all {
            return Err(follows_another("registry in memory"));
        }
        if update.replace_all {
            *state = State::default();
        }
        state.follows = Some(update.of);
        state.epoch = epoch;
        state.apply(update.changes, self.clock.now());
        if update.after > state.snapshot.last_event {
            state.events.clear();
            state.dropped = update.after;
        }
        state.events.extend(update.events);
        state.snapshot.last_event = update.through;
        Ok(())
    }
}
