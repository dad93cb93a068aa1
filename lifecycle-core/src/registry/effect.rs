//! What a batch does, worked out before anything is written: every registry applies the same
//! outcome, so that they cannot differ in when a version rises or an expectation fails.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};

use super::{Change, Credential, Expect, NodeRecord, RejectedSpec, Versioned};
use crate::error::{Error, Result};
use crate::model::{
    ContainerId, Generation, InstanceId, InstanceRecord, InstanceState, NewEvent, NodeName,
    Operation, OperationId, OperationState, ServiceName,
};
use crate::platform::{Declaration, ManagerEndpoint};

/// What a batch has to know of the state that it meets.
pub(super) trait Present {
    /// The declaration in force with its generation.
    fn declaration(&self) -> Option<(Generation, &Declaration)>;
    /// The version of a node's record.
    fn node(&self, name: &NodeName) -> Option<u64>;
    /// The version of an instance's record.
    fn instance(&self, container: &ContainerId) -> Option<u64>;
}

/// The outcome of a batch. `None` in a map means that the entry is forgotten.
#[derive(Debug, Default)]
pub(super) struct Effect {
    /// New generations, oldest first.
    pub(super) declarations: Vec<(Generation, Declaration)>,
    pub(super) nodes: BTreeMap<NodeName, Option<Versioned<NodeRecord>>>,
    pub(super) instances: BTreeMap<ContainerId, Option<Versioned<InstanceRecord>>>,
    pub(super) rejected: BTreeMap<InstanceId, Option<RejectedSpec>>,
    pub(super) operations: BTreeMap<OperationId, Operation>,
    pub(super) credentials: BTreeMap<String, Credential>,
    pub(super) manager: Option<ManagerEndpoint>,
    pub(super) addresses: Option<BTreeMap<ServiceName, Ipv4Addr>>,
    pub(super) converged: bool,
}

impl Effect {
    /// Works a batch's changes out, in their order, on top of `present`.
    pub(super) fn of(changes: Vec<Change>, present: &impl Present) -> Result<Self> {
        let mut effect = Self::default();
        for change in changes {
            effect.add(change, present)?;
        }
        Ok(effect)
    }

    fn add(&mut self, change: Change, present: &impl Present) -> Result<()> {
        match change {
            Change::Declare {
                expected,
                declaration,
            } => return self.declare(expected, *declaration, present),
            Change::PutNode {
                mut record,
                expected,
            } => {
                if let Some(unknown) = &mut record.unknown {
                    unknown.since = stored(unknown.since);
                }
                let there = match self.nodes.get(&record.name) {
                    Some(pending) => pending.as_ref().map(|put| put.version),
                    None => present.node(&record.name),
                };
                let version = next_version(expected, there, || format!("node {}", record.name))?;
                let put = Versioned {
                    value: *record,
                    version,
                };
                self.nodes.insert(put.value.name.clone(), Some(put));
            }
            Change::DeleteNode(name) => {
                self.nodes.insert(name, None);
            }
            Change::PutInstance {
                mut record,
                expected,
            } => {
                store_instance_times(&mut record);
                let there = match self.instances.get(&record.container) {
                    Some(pending) => pending.as_ref().map(|put| put.version),
                    None => present.instance(&record.container),
                };
                let version = next_version(expected, there, || {
                    format!("instance {} in container {}", record.id, record.container)
                })?;
                let put = Versioned {
                    value: *record,
                    version,
                };
                self.instances
                    .insert(put.value.container.clone(), Some(put));
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
            Change::MarkConverged => self.converged = true,
        }
        Ok(())
    }

    fn declare(
        &mut self,
        expected: Option<Generation>,
        declaration: Declaration,
        present: &impl Present,
    ) -> Result<()> {
        let in_force = match self.declarations.last() {
            Some((generation, pending)) => Some((*generation, pending)),
            None => present.declaration(),
        };
        // First of all: who repeats a call whose answer was lost gets the same answer.
        if in_force.is_some_and(|(_, same)| *same == declaration) {
            return Ok(());
        }
        let current = in_force.map(|(generation, _)| generation);
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

fn next_version(
    expected: Expect,
    there: Option<u64>,
    what: impl FnOnce() -> String,
) -> Result<u64> {
    let why = match (expected, there) {
        (Expect::Any, _) | (Expect::Absent, None) => None,
        (Expect::Version(wanted), Some(found)) if wanted == found => None,
        (Expect::Absent, Some(found)) => Some(format!("it exists already, at version {found}")),
        (Expect::Version(wanted), Some(found)) => {
            Some(format!("version {wanted} was expected, it is at {found}"))
        }
        (Expect::Version(wanted), None) => {
            Some(format!("version {wanted} was expected, it does not exist"))
        }
    };
    match why {
        None => Ok(there.map_or(1, |version| version + 1)),
        Some(why) => Err(Error::Conflict { what: what(), why }),
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
