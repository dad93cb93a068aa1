//! Applies the start order: services start after their dependencies, and services with `starts:
//! last` start after all others.

use std::collections::BTreeSet;

use super::{Blocked, Planning, Up};
use crate::model::{DependencyCondition, Starts};
use crate::reconcile::declared::DeclaredService;
use crate::reconcile::index::IndexedService;
use crate::reconcile::step::{HeldBy, StepId};

/// The steps to wait for, or the dependency that no step can bring up.
pub(super) type Dependencies = Result<BTreeSet<StepId>, Blocked>;

/// If there are more replicas than this, a step waits only for the last one, so that plans stay
/// small. The next plan waits for the remaining replicas.
const MANY_REPLICAS: usize = 16;

impl Planning<'_> {
    /// Returns the steps that the service's replicas must wait for.
    pub(super) fn dependencies(&self, service: &DeclaredService) -> Dependencies {
        let mut steps = BTreeSet::new();
        let joins = service.spec.container.connection.joins();
        for (name, condition) in &service.spec.depends_on {
            if joins == Some(name) && *condition == DependencyCondition::ServiceStarted {
                // Each replica needs only the replica whose network it joins.
                continue;
            }
            let is_up = |up: &Up| match condition {
                DependencyCondition::ServiceStarted => up.started,
                DependencyCondition::ServiceHealthy => up.ready,
                DependencyCondition::ServiceCompletedSuccessfully => up.completed,
            };
            let by = || HeldBy::Dependency {
                service: name.clone(),
                condition: *condition,
            };
            let dependency = self.index.service(name);
            let dependency = dependency.ok_or_else(|| Blocked::new(by(), true))?;
            self.await_service(dependency, &is_up, &by, &mut steps)?;
        }
        if service.spec.starts == Starts::Last {
            for other in &self.index.services {
                if other.service.spec.starts == Starts::Last {
                    continue;
                }
                let is_up = |up: &Up| up.ready || up.completed;
                let by = || HeldBy::StartsLast {
                    service: other.name.clone(),
                };
                self.await_service(other, &is_up, &by, &mut steps)?;
            }
        }
        Ok(steps)
    }

    /// Collects, in `steps`, the steps that bring `service` up.
    fn await_service(
        &self,
        service: &IndexedService<'_>,
        is_up: &dyn Fn(&Up) -> bool,
        by: &dyn Fn() -> HeldBy,
        steps: &mut BTreeSet<StepId>,
    ) -> Result<(), Blocked> {
        let mut awaited: Vec<&StepId> = Vec::new();
        for position in service.positions() {
            // If this plan starts the replica, wait for that step, even if the replica is up now.
            if let Some(step) = &self.starts[position] {
                awaited.push(step);
                continue;
            }
            if is_up(&self.up[position]) {
                continue;
            }
            let status = self.statuses[position].as_ref();
            return Err(Blocked::new(by(), status.is_some_and(|s| s.settled)));
        }
        if awaited.len() > MANY_REPLICAS {
            awaited.drain(..awaited.len() - 1);
        }
        steps.extend(awaited.into_iter().cloned());
        Ok(())
    }
}
