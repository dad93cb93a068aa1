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
    /// Returns whether a restart was requested during this run of the container.
    pub(super) fn is_to_restart(&self, id: &InstanceId, container: &ObservedContainer) -> bool {
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
        if !seen.is_running() {
            let reason = Reason::RestartRequested;
            let (status, _) = self.start_again(replica, seen, others, dependencies, reason, None);
            return status;
        }
        let planned = |settled| status(replica, Some(&seen), Verdict::Open, settled);
        // Stop the container only if nothing prevents it from starting again.
        let mut needs = match dependencies {
            Ok(steps) => steps.clone(),
            Err(blocked) => {
                self.hold(Subject::Instance(replica.id.clone()), blocked.by.clone());
                return planned(blocked.settled);
            }
        };
        let earlier = self.restarts_before(replica);
        if let Some(earlier) = earlier.or_else(|| self.replaced_meanwhile(replica.position)) {
            let by = HeldBy::RestartsAfter { replica: earlier };
            self.hold(Subject::Instance(replica.id.clone()), by);
            return planned(false);
        }
        let stop = self.stop(replica.id, seen, &Reason::RestartRequested, needs.clone());
        if let Err(blocked) = stop.pass(&mut needs) {
            return planned(blocked.settled);
        }
        let start = self.propose(
            Action::StartInstance {
                instance: replica.id.clone(),
                container: container.name.clone(),
                node: replica.node.clone(),
            },
            needs,
            Reason::RestartRequested,
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
            let is_up = self.up[position].ready || self.up[position].completed;
            (!is_up || self.starts[position].is_some()).then_some(id)
        })
    }
}
