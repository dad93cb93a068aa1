//! Replaces the container of a replica by its successor. If the successor fails, restores the old
//! container.

use std::collections::BTreeSet;

use super::dependencies::Dependencies;
use super::rollout::Rejection;
use super::{Blocked, Gate, PlacedReplica, Planning, Up};
use crate::model::{InstanceId, InstanceState, ReplacementOrder, Subject};
use crate::reconcile::index::Seen;
use crate::reconcile::step::{Action, HeldBy, InstanceStatus, Reason, StepId};
use crate::registry::RejectedSpec;
use crate::runtime::ContainerState;

pub(super) struct Containers<'a> {
    /// The container on the replica's node that has the declared specification.
    pub(super) current: Option<Seen<'a>>,
    /// All other containers.
    pub(super) others: Vec<Seen<'a>>,
}

impl<'a> Containers<'a> {
    /// Returns the container to restore when the declared specification is rejected.
    ///
    /// Prefers containers on the replica's node, then running ones, then the container that was
    /// started first. Later ones never became ready, because a ready container's predecessors are
    /// removed. A service that runs once is not rolled back, nor is a container on a node that is no
    /// longer declared.
    pub(super) fn previous(&self, replica: PlacedReplica<'a>) -> Option<Seen<'a>> {
        if replica.service.runs_once {
            return None;
        }
        let others = self.others.iter();
        // A container whose network was removed cannot start again.
        let declared = others.filter(|seen| seen.node_position.is_some() && !seen.is_orphan());
        declared.copied().min_by_key(|seen| {
            let is_elsewhere = seen.node != replica.node;
            let started_at = seen.container.started_at;
            (
                is_elsewhere,
                !seen.is_running(),
                started_at.is_none(),
                started_at,
            )
        })
    }
}

/// The rollback to a previous specification, after the declared one was rejected.
pub(super) struct Rollback<'a> {
    pub(super) previous: Seen<'a>,
    pub(super) rejection: Rejection,
}

/// The numbers of steps, holds and stops in a plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    steps: usize,
    held: usize,
    stops: usize,
}

impl<'a> Planning<'a> {
    pub(super) fn containers_of(&self, replica: PlacedReplica<'a>) -> Containers<'a> {
        let all = &self.index.seen[replica.position];
        let service = replica.service;
        let here = || {
            let current = all.iter().filter(|seen| seen.is_current(service));
            current.filter(|seen| seen.node == replica.node)
        };
        // Of several current containers, the one of exactly the declared specification is kept.
        let exact = here().find(|seen| seen.container.digest == service.digest);
        let current = exact.or_else(|| here().next());
        let current = current.copied();
        let is_other = |seen: &&Seen<'a>| current.is_none_or(|current| current.id() != seen.id());
        Containers {
            current,
            others: all.iter().filter(is_other).copied().collect(),
        }
    }

    /// Stops a container, once per plan, after those that join its network. The returned gate opens
    /// when the container has stopped.
    pub(super) fn stop(
        &mut self,
        id: &InstanceId,
        seen: Seen<'a>,
        reason: &Reason,
        mut needs: BTreeSet<StepId>,
    ) -> Gate {
        if let Some(gate) = self.stops.get(seen.id()) {
            return gate.clone();
        }
        match self.stop_joining(id, seen, &mut needs) {
            Ok(()) => self.stop_alone(id, seen, reason, needs),
            Err(blocked) => Gate::Blocked(blocked),
        }
    }

    /// Stops a container, once per plan, but not those that join its network.
    pub(super) fn stop_alone(
        &mut self,
        id: &InstanceId,
        seen: Seen<'a>,
        reason: &Reason,
        needs: BTreeSet<StepId>,
    ) -> Gate {
        let container = seen.container;
        if let Some(gate) = self.stops.get(&container.id) {
            return gate.clone();
        }
        let gate = self.propose(stop_of(id, seen), needs, reason.clone());
        self.stops.insert(&container.id, gate.clone());
        self.stop_order.push(&container.id);
        gate
    }

    /// If an old container is ready, removes the stopped containers, so that a rollback cannot pick
    /// them.
    pub(super) fn remove_stopped(
        &mut self,
        id: &InstanceId,
        others: &[Seen<'a>],
        reason: &Reason,
        mut needs: BTreeSet<StepId>,
    ) -> Result<BTreeSet<StepId>, Blocked> {
        // If no old container is ready, keep the stopped ones: a rollback may need them.
        let is_ready = |seen: &Seen<'a>| self.up_of(seen).ready;
        if !others.iter().any(is_ready) {
            return Ok(needs);
        }
        for other in others.iter().filter(|seen| !seen.is_running()) {
            self.stop_and_remove(id, *other, reason, BTreeSet::new())
                .pass(&mut needs)?;
        }
        Ok(needs)
    }

    /// Stops the running containers among `containers`.
    pub(super) fn stop_all<'s>(
        &mut self,
        id: &InstanceId,
        containers: impl Iterator<Item = &'s Seen<'a>>,
        reason: &Reason,
    ) where
        'a: 's,
    {
        for seen in containers.filter(|seen| seen.is_running()) {
            self.stop(id, *seen, reason, BTreeSet::new());
        }
    }

    /// Stops the running containers among `others`. Returns the steps that must be done before a
    /// successor may start.
    pub(super) fn stop_running(
        &mut self,
        id: &InstanceId,
        others: &[Seen<'a>],
        reason: &Reason,
        mut needs: BTreeSet<StepId>,
    ) -> Result<BTreeSet<StepId>, Blocked> {
        let before = needs.clone();
        for other in others.iter().filter(|seen| seen.is_running()) {
            self.stop(id, *other, reason, before.clone())
                .pass(&mut needs)?;
        }
        Ok(needs)
    }

    /// Returns the current numbers of steps, holds and stops in the plan.
    pub(super) fn extent(&self) -> Extent {
        Extent {
            steps: self.plan.steps.len(),
            held: self.plan.held.len(),
            stops: self.stop_order.len(),
        }
    }

    /// Rejects the declared specification of a replica, and rolls the replica back. Undoes what was
    /// planned for the replica after `before`.
    pub(super) fn reject(
        &mut self,
        replica: PlacedReplica<'a>,
        containers: &Containers<'a>,
        previous: Seen<'a>,
        why: String,
        before: Extent,
        dependencies: &Dependencies,
    ) -> (InstanceStatus, Up) {
        self.plan.steps.truncate(before.steps);
        self.plan.held.truncate(before.held);
        for id in self.stop_order.drain(before.stops..) {
            self.stops.remove(id);
        }
        self.starts[replica.position] = None;
        self.plan.rejects.push(RejectedSpec {
            id: replica.id.clone(),
            digest: replica.service.digest.clone(),
            at: self.now,
            why: why.clone(),
        });
        let since = self.now;
        let rollback = Rollback {
            previous,
            rejection: Rejection { since, why },
        };
        self.roll_back(replica, containers, &rollback, dependencies)
    }

    /// Keeps the current container running. If it is ready, stops the containers that it replaces;
    /// if it fails, rolls back.
    pub(super) fn keep(
        &mut self,
        replica: PlacedReplica<'a>,
        current: Seen<'a>,
        containers: &Containers<'a>,
        dependencies: &Dependencies,
    ) -> (InstanceStatus, Up) {
        let others = &containers.others;
        if others.is_empty() {
            return self.keep_running(replica, current, others, dependencies, None);
        }
        let order = self.order(replica, Some(current), others);
        if let Err(blocked) = self.turn(replica, order) {
            return self.wait_for_turn(replica, containers, dependencies, &blocked);
        }
        let before = self.extent();
        let (mut status, mut up) = self.keep_running(replica, current, others, dependencies, None);
        if let Some(why) = self.ended_early(replica, current, others) {
            status.state = InstanceState::Failed { why };
        }
        let ready = others.iter().filter(|seen| self.up_of(seen).ready);
        let ready: Vec<Seen<'a>> = ready.copied().collect();
        let is_ready = |seen: &Seen<'a>| ready.iter().any(|other| other.id() == seen.id());
        match (&status.state, containers.previous(replica)) {
            (InstanceState::Ready | InstanceState::Completed, _) => {
                if self.rollout.is_final() && !self.joined_is_replaced(replica.position) {
                    self.remove_all(replica.id, others, &Reason::Superseded);
                } else {
                    // Keep the stopped containers: a rollback may need them.
                    self.stop_all(replica.id, others.iter(), &Reason::Superseded);
                }
                if self.is_monitored(replica, current) {
                    status.settled = false;
                }
            }
            (InstanceState::Failed { why }, Some(previous))
                if current.container.state != ContainerState::Paused =>
            {
                let why = why.clone();
                return self.reject(replica, containers, previous, why, before, dependencies);
            }
            _ if current.is_running() => {
                // A container that is ready serves until its successor is ready.
                for other in others.iter().filter(|other| !is_ready(other)) {
                    let reason = replaced(other, replica);
                    self.stop_all(replica.id, std::iter::once(other), &reason);
                }
            }
            _ => {}
        }
        if !up.ready
            && let Some(serving) = ready.first()
        {
            up = self.up_of(serving);
            self.serving.insert(replica.position);
        }
        (status, up)
    }

    /// Starts the previous container again, then stops the rejected one but keeps it, so that its
    /// output can be read.
    pub(super) fn roll_back(
        &mut self,
        replica: PlacedReplica<'a>,
        containers: &Containers<'a>,
        rollback: &Rollback<'a>,
        dependencies: &Dependencies,
    ) -> (InstanceStatus, Up) {
        let Rollback {
            previous,
            rejection: Rejection { since, why },
        } = rollback;
        let reason = Reason::RolledBack { why: why.clone() };
        let replica = PlacedReplica {
            node: previous.node,
            ..replica
        };
        let is_other = |seen: &&Seen<'a>| seen.id() != previous.id();
        let earlier: Vec<Seen<'a>> = containers.others.iter().filter(is_other).copied().collect();
        let others: Vec<Seen<'a>> = earlier.iter().copied().chain(containers.current).collect();
        let order = self.order(replica, Some(*previous), &others);
        if let Err(blocked) = self.turn(replica, order)
            && let Some(current) = containers.current
        {
            let (mut status, up) = self.keep_running(replica, current, &[], dependencies, None);
            self.hold(Subject::Instance(replica.id.clone()), blocked.by);
            status.state = InstanceState::Failed { why: why.clone() };
            status.settled = blocked.settled;
            return (status, up);
        }
        let restoring = (!others.is_empty()).then_some(reason.clone());
        let (mut status, up) =
            self.keep_running(replica, *previous, &others, dependencies, restoring);
        if self.is_monitored(replica, *previous) {
            status.settled = false;
        }
        let why = if previous.is_running() {
            self.remove_all(replica.id, &earlier, &reason);
            let rejected: Vec<Seen<'a>> = containers.current.into_iter().collect();
            if self.has_passed(*since, self.policy.rejected_kept_for) {
                self.remove_all(replica.id, &rejected, &reason);
            } else if up.ready || order == ReplacementOrder::StopFirst {
                self.stop_all(replica.id, rejected.iter(), &reason);
            } else {
                let unready = rejected.iter().filter(|seen| !self.up_of(seen).ready);
                let unready: Vec<Seen<'a>> = unready.copied().collect();
                self.stop_all(replica.id, unready.iter(), &reason);
            }
            let why = format!("{why}; the previous specification runs again");
            let by = HeldBy::Failed { why: why.clone() };
            self.hold(Subject::Instance(replica.id.clone()), by);
            why
        } else {
            why.clone()
        };
        status.state = InstanceState::Failed { why };
        (status, up)
    }
}

/// Returns the action that stops a container.
pub(super) fn stop_of(id: &InstanceId, seen: Seen<'_>) -> Action {
    Action::StopInstance {
        instance: id.clone(),
        container: seen.container.name.clone(),
        id: seen.container.id.clone(),
        node: seen.node.clone(),
    }
}

/// Returns why a container of the declared specification replaces `other`.
pub(super) fn replaced(other: &Seen<'_>, replica: PlacedReplica<'_>) -> Reason {
    if other.node == replica.node {
        Reason::SpecChanged {
            from: other.container.digest.short().to_owned(),
            to: replica.service.digest.short().to_owned(),
        }
    } else {
        Reason::Moved {
            from: other.node.clone(),
        }
    }
}
