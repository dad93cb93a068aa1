//! What a batch does, worked out before anything is written: every registry applies the same
//! outcome, so that they cannot differ in which generation a declaration becomes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};

use super::{Change, Credential, NodeRecord, RejectedSpec};
use crate::error::{Error, Result};
use crate::model::{
    ContainerId, Generation, InstanceId, InstanceRecord, InstanceState, NewEvent, NodeName,
    Operation, OperationId, OperationState, ServiceName,
};
use crate::platform::{Declaration, ManagerEndpoint};

/// The outcome of a batch. `None` in a map means that the entry is forgotten.
#[derive(Debug, Default)]
pub(super) struct Effect {
    /// New generations, oldest first.
    pub(super) declarations: Vec<(Generation, Declaration)>,
    pub(super) nodes: BTreeMap<NodeName, Option<NodeRecord>>,
    pub(super) instances: BTreeMap<ContainerId, Option<InstanceRecord>>,
    pub(super) rejected: BTreeMap<InstanceId, Option<RejectedSpec>>,
    pub(super) operations: BTreeMap<OperationId, Operation>,
    pub(super) credentials: BTreeMap<String, Credential>,
    pub(super) manager: Option<ManagerEndpoint>,
    pub(super) addresses: Option<BTreeMap<ServiceName, Ipv4Addr>>,
    pub(super) first_round_done: bool,
}

impl Effect {
    /// Works a batch's changes out, in their order, on top of the declaration `in_force`.
    pub(super) fn of(
        changes: Vec<Change>,
        in_force: Option<&(Generation, Declaration)>,
    ) -> Result<Self> {
        let mut effect = Self::default();
        for change in changes {
            effect.add(change, in_force)?;
        }
        Ok(effect)
    }

    fn add(&mut self, change: Change, in_force: Option<&(Generation, Declaration)>) -> Result<()> {
        match change {
            Change::Declare {
                expected,
                declaration,
            } => return self.declare(expected, *declaration, in_force),
            Change::PutNode(mut record) => {
                if let Some(unknown) = &mut record.unknown {
                    unknown.since = stored(unknown.since);
                }
                self.nodes.insert(record.name.clone(), Some(*record));
            }
            Change::DeleteNode(name) => {
                self.nodes.insert(name, None);
            }
            Change::PutInstance(mut record) => {
                store_instance_times(&mut record);
                self.instances
                    .insert(record.container.clone(), Some(*record));
            }
            Change::DeleteInstance(container) => {
                self.instances.insert(container, None);
            }
            Change::Reject(mut spec) => {
                spec.at = stored(spec.at);
                self.rejected.insert(spec.id.clone(), Some(spec));
            }
            Change::ClearRejected(id) => {
                self.rejected.insert(id, None);
            }
            Change::PutOperation(mut operation) => {
                operation.requested_at = stored(operation.requested_at);
                match &mut operation.state {
                    OperationState::Running => {}
                    OperationState::Succeeded { at } | OperationState::Failed { at, .. } => {
                        *at = stored(*at);
                    }
                }
                self.operations.insert(operation.id, operation);
            }
            Change::PutCredential { name, credential } => {
                self.credentials.insert(name, credential);
            }
            Change::PutManager(endpoint) => self.manager = Some(endpoint),
            Change::PutAddresses(addresses) => self.addresses = Some(addresses),
            Change::MarkFirstRoundDone => self.first_round_done = true,
        }
        Ok(())
    }

    fn declare(
        &mut self,
        expected: Option<Generation>,
        declaration: Declaration,
        in_force: Option<&(Generation, Declaration)>,
    ) -> Result<()> {
        let in_force = self.declarations.last().or(in_force);
        // First of all: who repeats a call whose answer was lost gets the same answer.
        if in_force.is_some_and(|(_, same)| *same == declaration) {
            return Ok(());
        }
        let current = in_force.map(|(generation, _)| *generation);
        if current != expected {
            let word = |generation: Option<Generation>| match generation {
                Some(number) => format!("generation {number}"),
                None => "no generation".into(),
            };
            return Err(Error::Conflict {
                what: "declaration".into(),
                why: format!(
                    "it was made from {}, but {} is in force",
                    word(expected),
                    word(current)
                ),
            });
        }
        let next = Generation(current.map_or(1, |generation| generation.0 + 1));
        self.declarations.push((next, declaration));
        Ok(())
    }
}

/// Times are kept to the microsecond, in every registry: it is what PostgreSQL keeps.
pub(super) fn stored(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(6)
}

/// The longest lease: a hundred years, so that its end is a time that all registries can keep.
pub(super) const LONGEST_LEASE: Duration = Duration::from_hours(100 * 365 * 24);

/// When a lease that is taken now ends.
pub(super) fn lease_end(now: DateTime<Utc>, ttl: Duration) -> DateTime<Utc> {
    stored(now + ttl.min(LONGEST_LEASE))
}

/// An event as it is kept.
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
