//! Applies the start order: services start after their dependencies, and services with `starts:
//! last` start after all others.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::{Blocked, Planning, Up};
use crate::model::{DependencyCondition, InstanceState, ServiceName, Starts, Subject};
use crate::reconcile::declared::DeclaredService;
use crate::reconcile::step::{FailedReplica, HeldBy, StepId};

/// The steps to wait for, or the dependency that no step can bring up.
pub(super) type Dependencies = Result<BTreeSet<StepId>, Blocked>;

/// If there are more replicas than this, a step waits only for the last one, so that plans stay
/// small. The next plan waits for the remaining replicas.
const MANY_REPLICAS: usize = 16;

impl Planning<'_> {
    /// Returns the steps that the service's replicas must wait for, except those of
    /// [`dependencies_of`](Self::dependencies_of).
    pub(super) fn dependencies(&mut self, service: &DeclaredService) -> Dependencies {
        let index = self.index;
        let mut steps = BTreeSet::new();
        let joins = service.spec.container.connection.joins();
        for (name, condition) in &service.spec.depends_on {
            if joins == Some(name) {
                continue;
            }
            let by = |failed| dependency(name, *condition, failed);
            let service = index.service(name);
            let service = service.ok_or_else(|| Blocked::new(by(None), true))?;
            let is_up = |up: &Up| is_met(*condition, *up);
            self.await_replicas(service.positions(), &is_up, &by, &mut steps)?;
        }
        if service.spec.starts == Starts::Last {
            for other in &index.services {
                if other.service.spec.starts == Starts::Last {
                    continue;
                }
                let is_up = |up: &Up| up.ready || up.completed;
                let by = |failed| HeldBy::StartsLast {
                    service: other.name.clone(),
                    failed,
                };
                self.await_replicas(other.positions(), &is_up, &by, &mut steps)?;
            }
        }
        Ok(steps)
    }

    /// Returns the steps that a replica must wait for: those of its service and, if it joins the
    /// network of another replica, those of that replica only. Both are replaced as a pair, so it
    /// must not wait for other pairs.
    pub(super) fn dependencies_of(
        &mut self,
        position: usize,
        service: &DeclaredService,
        dependencies: &Dependencies,
    ) -> Dependencies {
        let mut steps = dependencies.clone()?;
        let joined = self.index.joined[position].zip(service.spec.container.connection.joins());
        if let Some((target, name)) = joined
            && let Some(condition) = service.spec.depends_on.get(name)
            && *condition != DependencyCondition::ServiceStarted
        {
            let by = |failed| dependency(name, *condition, failed);
            self.await_replicas([target], &|up| is_met(*condition, *up), &by, &mut steps)?;
        }
        Ok(steps)
    }

    /// Collects, in `steps`, the steps that bring these replicas up.
    fn await_replicas(
        &mut self,
        positions: impl IntoIterator<Item = usize>,
        is_up: &dyn Fn(&Up) -> bool,
        by: &dyn Fn(Option<FailedReplica>) -> HeldBy,
        steps: &mut BTreeSet<StepId>,
    ) -> Result<(), Blocked> {
        let mut awaited: Vec<StepId> = Vec::new();
        for position in positions {
            // If this plan starts the replica, wait for that step, even if the replica is up now.
            if let Some(step) = &self.starts[position] {
                awaited.push(step.clone());
                continue;
            }
            if is_up(&self.up[position]) {
                continue;
            }
            let by = by(self.failure_at(position));
            let settled = match self.runs_since(position, &by) {
                Some(since) => self.has_passed(since, self.policy.completes_within),
                None => self.statuses[position].as_ref().is_some_and(|s| s.settled),
            };
            return Err(Blocked::new(by, settled));
        }
        if awaited.len() > MANY_REPLICAS {
            awaited.drain(..awaited.len() - 1);
        }
        steps.extend(awaited);
        Ok(())
    }
}

impl Planning<'_> {
    /// Returns since when the replica has been running, if its completion is awaited and nothing has
    /// failed.
    fn runs_since(&self, position: usize, by: &HeldBy) -> Option<DateTime<Utc>> {
        let HeldBy::Dependency {
            condition: DependencyCondition::ServiceCompletedSuccessfully,
            failed: None,
            ..
        } = by
        else {
            return None;
        };
        let mut seen = self.index.seen[position].iter();
        let running = seen.find(|seen| self.up_of(seen).started && seen.is_running())?;
        running.container.started_at
    }

    /// Returns until when the round waits for the completion of a service that is running.
    pub(super) fn completes_until(&self, by: &HeldBy) -> Option<DateTime<Utc>> {
        let service = self.index.service(by.dependency()?)?;
        let mut replicas = service.positions();
        let since = replicas.find_map(|position| self.runs_since(position, by))?;
        let limit = chrono::Duration::from_std(self.policy.completes_within).ok()?;
        since.checked_add_signed(limit)
    }

    /// Returns why a replica that was planned is not up, if it failed, or if one that it waits for
    /// failed.
    pub(super) fn failure_at(&self, position: usize) -> Option<FailedReplica> {
        let replica = &self.index.replicas[position];
        let status = self.statuses[position].as_ref()?;
        if let InstanceState::Failed { why } = &status.state {
            return Some(FailedReplica {
                replica: replica.clone(),
                why: why.clone(),
            });
        }
        if !status.settled {
            return None;
        }
        let subject = Subject::Instance(replica.clone());
        let mut held = self.plan.held.iter().filter(|held| held.subject == subject);
        held.find_map(|held| held.by.failed_dependency().cloned())
    }
}

fn is_met(condition: DependencyCondition, up: Up) -> bool {
    match condition {
        DependencyCondition::ServiceStarted => up.started,
        DependencyCondition::ServiceHealthy => up.ready,
        DependencyCondition::ServiceCompletedSuccessfully => up.completed,
    }
}

fn dependency(
    service: &ServiceName,
    condition: DependencyCondition,
    failed: Option<FailedReplica>,
) -> HeldBy {
    HeldBy::Dependency {
        service: service.clone(),
        condition,
        failed,
    }
}
