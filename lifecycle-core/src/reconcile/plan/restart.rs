//! Handles requested restarts: stops a container and starts the same container again. Replicas of a
//! service restart one at a time, so that the others continue to serve.

use super::dependencies::Dependencies;
use super::{Gate, PlacedReplica, Planning, status};
use crate::model::{InstanceId, Replica, Subject};
use crate::reconcile::index::Seen;
use crate::reconcile::state::Verdict;
use crate::reconcile::step::{Action, HeldBy, InstanceStatus, Reason};
use crate::runtime::ObservedContainer;

impl<'a> Planning<'a> {
    /// Returns whether the container is to be restarted: on request, or because it has lost its
    /// network.
    pub(super) fn is_to_restart(&self, id: &InstanceId, seen: &Seen<'a>) -> bool {
        self.is_requested(id, seen.container) || self.has_lost_network(seen)
    }

    /// Returns whether a restart was requested during this run of the container.
    fn is_requested(&self, id: &InstanceId, container: &ObservedContainer) -> bool {
        self.history.restarts.get(id).is_some_and(|run| {
            run.container == container.id && Some(run.started_at) == container.started_at
        })
    }

    pub(super) fn restart(
        &mut self,
        replica: PlacedReplica<'a>,
        seen: Seen<'a>,
        others: &[Seen<'a>],
        dependencies: &Dependencies,
    ) -> InstanceStatus {
        let container = seen.container;
        let is_requested = self.is_requested(replica.id, container);
        let reason = match self.index.joined[replica.position] {
            Some(joined) if !is_requested => Reason::NetworkRestarted {
                replica: self.index.replicas[joined].clone(),
            },
            _ => Reason::RestartRequested,
        };
        if !seen.is_running() {
            let (status, _) = self.start_again(replica, seen, others, dependencies, reason, None);
            return status;
        }
        let planned = |settled| status(replica, Some(&seen), Verdict::Open, settled);
        // Stop the container only if nothing prevents it from starting again.
        let mut needs = match self.needs_of_existing(replica, seen, dependencies) {
            Ok(needs) => needs,
            Err(blocked) => {
                self.hold(Subject::Instance(replica.id.clone()), blocked.by);
                return planned(blocked.settled);
            }
        };
        let earlier = self.restarts_before(replica);
        let earlier = earlier.or_else(|| self.replaced_meanwhile(replica.position));
        // Without a network, the container serves nobody.
        if let Some(earlier) = earlier.filter(|_| is_requested && self.serves(replica.position)) {
            let by = HeldBy::RestartsAfter { replica: earlier };
            self.hold(Subject::Instance(replica.id.clone()), by);
            return planned(false);
        }
        let stop = self.stop(replica.id, seen, &reason, needs.clone());
        if let Err(blocked) = stop.pass(&mut needs) {
            return planned(blocked.settled);
        }
        let start = self.propose(
            Action::StartInstance {
                instance: replica.id.clone(),
                container: container.name.clone(),
                node: replica.node.clone(),
                joins: seen.joined().map(|joined| joined.name.clone()),
            },
            needs,
            reason,
        );
        if let Gate::After(step) = start {
            self.starts[replica.position] = Some(step);
        }
        planned(false)
    }

    /// Returns the first replica that restarts before this one and is not up again yet.
    fn restarts_before(&self, replica: PlacedReplica<'a>) -> Option<InstanceId> {
        (1..replica.id.replica.0).find_map(|number| {
            let id = InstanceId {
                service: replica.id.service.clone(),
                replica: Replica(number),
            };
            if !self.history.restarts.contains_key(&id) {
                return None;
            }
            // Earlier replicas of the service have already been planned, so their state is known.
            let distance = replica.id.replica.0 - number;
            let position = replica.position.checked_sub(distance.into())?;
            let is_up = (self.up[position].ready || self.up[position].completed)
                && self.joiners_are_available(position);
            (!is_up || self.starts[position].is_some()).then_some(id)
        })
    }
}
