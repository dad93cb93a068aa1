//! The start order: a service after those that it depends on, `starts: last` after all others.

use std::collections::BTreeSet;

use super::{Planning, Up};
use crate::model::{DependencyCondition, Starts};
use crate::reconcile::declared::DeclaredService;
use crate::reconcile::index::IndexedService;
use crate::reconcile::step::{HeldBy, StepId};

/// What a service's dependencies say.
pub(super) enum Dependencies {
    /// All are up once these steps are done.
    Met(BTreeSet<StepId>),
    /// One is not.
    Unmet {
        /// Which one.
        by: HeldBy,
        /// Whether nothing of this round will change that.
        settled: bool,
    },
}

/// From how many replicas on the last one stands for the others that a dependent awaits: the
/// plan is made anew after each step, so one that is left holds the dependent as well as all,
/// and a plan for thousands of replicas stays as small as they are many.
const MANY_REPLICAS: usize = 16;

impl Planning<'_> {
    /// What a service waits for before its replicas may start.
    pub(super) fn dependencies(&self, service: &DeclaredService) -> Dependencies {
        let mut steps = BTreeSet::new();
        for (name, condition) in &service.spec.depends_on {
            let up = |up: &Up| match condition {
                DependencyCondition::ServiceStarted => up.started,
                DependencyCondition::ServiceHealthy => up.ready,
                DependencyCondition::ServiceCompletedSuccessfully => up.completed,
            };
            let by = || HeldBy::Dependency {
                service: name.clone(),
                condition: *condition,
            };
            let other = self.index.service(name);
            if let Some(unmet) = self.await_service(other, &up, &by, &mut steps) {
                return unmet;
            }
        }
        if service.spec.starts == Starts::Last {
            for other in &self.index.services {
                if other.service.spec.starts == Starts::Last {
                    continue;
                }
                let up = |up: &Up| up.ready || up.completed;
                let by = || HeldBy::StartsLast {
                    service: other.name.clone(),
                };
                if let Some(unmet) = self.await_service(Some(other), &up, &by, &mut steps) {
                    return unmet;
                }
            }
        }
        Dependencies::Met(steps)
    }

    /// Collects the steps after which `service` is up, or says what keeps it down.
    fn await_service(
        &self,
        service: Option<&IndexedService<'_>>,
        is_up: &dyn Fn(&Up) -> bool,
        by: &dyn Fn() -> HeldBy,
        steps: &mut BTreeSet<StepId>,
    ) -> Option<Dependencies> {
        let Some(service) = service else {
            return Some(Dependencies::Unmet {
                by: by(),
                settled: true,
            });
        };
        let mut awaited: Vec<&StepId> = Vec::new();
        for at in service.places() {
            // What is replaced by this plan is awaited in its new form.
            if let Some(step) = &self.starts[at] {
                awaited.push(step);
                continue;
            }
            if is_up(&self.up[at]) {
                continue;
            }
            let settled = self.statuses[at].as_ref().is_some_and(|s| s.settled);
            return Some(Dependencies::Unmet { by: by(), settled });
        }
        if awaited.len() > MANY_REPLICAS {
            awaited.drain(..awaited.len() - 1);
        }
        steps.extend(awaited.into_iter().cloned());
        None
    }
}
