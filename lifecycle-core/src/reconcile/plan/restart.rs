//! Restarts that were asked for: the same container is stopped and started again, one replica of
//! a service after the other, so that the others serve meanwhile.

use std::collections::BTreeSet;

use super::order::Dependencies;
use super::{Gate, Planning, Spot, Up, status};
use crate::model::{InstanceId, InstanceState, Replica, Subject};
use crate::reconcile::index::Seen;
use crate::reconcile::step::{Action, HeldBy, InstanceStatus, Reason};
use crate::runtime::ObservedContainer;

impl<'a> Planning<'a> {
    /// Whether this very run of the container is to end, or has ended, for another one.
    pub(super) fn is_to_restart(&self, id: &InstanceId, container: &ObservedContainer) -> bool {
        self.history.restarts.get(id).is_some_and(|run| {
            run.container == container.id && Some(run.started_at) == container.started_at
        })
    }

    pub(super) fn restart(
        &mut self,
        spot: Spot<'a>,
        seen: Seen<'a>,
        up: Up,
        others: &[Seen<'a>],
        dependencies: &Dependencies,
    ) -> InstanceStatus {
        let container = seen.container;
        if !container.state.is_running() {
            let reason = Reason::RestartRequested;
            let (status, _) = self.start_again(spot, seen, others, dependencies, reason, None);
            return status;
        }
        let serves = if up.ready {
            InstanceState::Ready
        } else {
            InstanceState::Starting
        };
        let stands = |settled| {
            let node = Some(spot.node.clone());
            status(node, Some(container), serves.clone(), settled)
        };
        // What could not be started again is not stopped.
        let needs = match dependencies {
            Dependencies::Met(steps) => steps.clone(),
            Dependencies::Unmet { by, settled } => {
                self.hold(Subject::Instance(spot.id.clone()), by.clone());
                return stands(*settled);
            }
        };
        if let Some(replica) = self.restarts_before(spot) {
            let by = HeldBy::RestartsAfter { replica };
            self.hold(Subject::Instance(spot.id.clone()), by);
            return stands(false);
        }
        let mut needs: BTreeSet<_> = needs;
        let stop = self.stop(spot.id, seen, &Reason::RestartRequested, needs.clone());
        if let Err((_, settled)) = stop.pass(&mut needs) {
            return stands(settled);
        }
        let start = self.propose(
            Action::StartInstance {
                instance: spot.id.clone(),
                container: container.name.clone(),
                node: spot.node.clone(),
            },
            needs,
            Reason::RestartRequested,
        );
        if let Gate::After(step) = start {
            self.starts[spot.at] = Some(step);
        }
        stands(false)
    }

    /// The replica of the same service that is restarted before this one and is not up again.
    fn restarts_before(&self, spot: Spot<'a>) -> Option<InstanceId> {
        (1..spot.id.replica.0).find_map(|number| {
            let id = InstanceId {
                service: spot.id.service.clone(),
                replica: Replica(number),
            };
            if !self.history.restarts.contains_key(&id) {
                return None;
            }
            // Replicas of a service stand in order, and those before this one are planned.
            let at = spot.at.checked_sub((spot.id.replica.0 - number).into())?;
            let is_up = self.up[at].ready || self.up[at].completed;
            (!is_up || self.starts[at].is_some()).then_some(id)
        })
    }
}
