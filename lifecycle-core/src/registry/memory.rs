//! The registry in memory: for tests, for the simulation, and as the model that the others
//! are compared with. It keeps the same promises, except that it ends with its process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::effect::{Effect, Present, lease_end, stored, stored_event};
use super::{Batch, Committed, Credential, EventPage, Lease, Registry, Snapshot};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::model::{
    ContainerId, Epoch, Event, Generation, NodeName, Operation, OperationId, OperationState,
};
use crate::platform::Declaration;

/// A registry in memory.
#[derive(Debug)]
pub struct MemoryRegistry {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    epoch: Epoch,
    held: Option<Held>,
    snapshot: Snapshot,
    operations: BTreeMap<OperationId, Operation>,
    credentials: BTreeMap<String, Credential>,
    events: VecDeque<Event>,
}

#[derive(Debug)]
struct Held {
    holder: String,
    until: DateTime<Utc>,
}

impl MemoryRegistry {
    /// An empty registry whose leases run out by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            state: Mutex::default(),
        }
    }

    /// A panic elsewhere leaves the state whole: it is changed only after nothing can fail.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present for Snapshot {
    fn declaration(&self) -> Option<(Generation, &Declaration)> {
        self.declaration
            .as_ref()
            .map(|(generation, declaration)| (*generation, declaration))
    }

    fn node(&self, name: &NodeName) -> Option<u64> {
        self.nodes.get(name).map(|found| found.version)
    }

    fn instance(&self, container: &ContainerId) -> Option<u64> {
        self.instances.get(container).map(|found| found.version)
    }
}

impl State {
    fn apply(&mut self, effect: Effect) {
        if let Some(declared) = effect.declarations.into_iter().next_back() {
            self.snapshot.declaration = Some(declared);
        }
        merge(&mut self.snapshot.nodes, effect.nodes);
        merge(&mut self.snapshot.instances, effect.instances);
        merge(&mut self.snapshot.rejected, effect.rejected);
        self.operations.extend(effect.operations);
        self.credentials.extend(effect.credentials);
        if effect.manager.is_some() {
            self.snapshot.manager = effect.manager;
        }
        self.snapshot.converged |= effect.converged;
    }

    fn oldest_event(&self) -> u64 {
        self.events
            .front()
            .map_or(self.snapshot.last_event + 1, |event| event.id)
    }
}

fn merge<K: Ord, V>(into: &mut BTreeMap<K, V>, changes: BTreeMap<K, Option<V>>) {
    for (key, change) in changes {
        match change {
            Some(value) => into.insert(key, value),
            None => into.remove(&key),
        };
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
            _ => state.epoch.0 += 1,
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
        let effect = Effect::of(batch.changes, &state.snapshot)?;
        state.apply(effect);
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
            generation: state.snapshot.declaration().map(|(number, _)| number),
        })
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        Ok(self.state().snapshot.clone())
    }

    async fn credential(&self, name: &str) -> Result<Option<Credential>> {
        Ok(self.state().credentials.get(name).cloned())
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>> {
        Ok(self.state().operations.get(&id).cloned())
    }

    async fn open_operations(&self) -> Result<Vec<Operation>> {
        let mut open: Vec<Operation> = self
            .state()
            .operations
            .values()
            .filter(|operation| matches!(operation.state, OperationState::Running))
            .cloned()
            .collect();
        open.sort_by_key(|operation| (operation.requested_at, operation.id));
        Ok(open)
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
            if oldest.id > too_many && oldest.event.at >= before {
                break;
            }
            state.events.pop_front();
        }
        Ok(())
    }
}
