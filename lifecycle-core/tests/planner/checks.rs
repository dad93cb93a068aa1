//! Checks the properties that every plan must have, and chooses the steps that may run.

use std::collections::BTreeSet;

use lifecycle_core::model::{ContainerId, InstanceId, Subject};
use lifecycle_core::reconcile::{Action, Declared, Plan, Readiness, Reason, Step};

use super::model::{World, has_no_network, is_running};

impl World {
    /// Returns whether one of a replica's containers is ready.
    pub(crate) fn is_ready(&self, id: &InstanceId, except: &BTreeSet<ContainerId>) -> bool {
        self.of(id).any(|(node, container)| {
            let readiness = self.readiness.get(&container.id);
            is_running(container)
                && !has_no_network(&self.machines[node].state, container)
                && matches!(readiness, Some(Readiness::Ready { .. }))
                && !except.contains(&container.id)
        })
    }

    /// Asserts that the stops of a plan leave enough replicas of each service ready. Stops that
    /// pass a host port to another service, or precede the restart or stop of a node, are not
    /// counted.
    pub(crate) fn assert_available(&self, declared: &Declared, plan: &Plan) {
        let passing: BTreeSet<&InstanceId> = plan
            .steps
            .iter()
            .filter(|step| matches!(step.reason, Reason::PortPasses { .. }))
            .filter_map(|step| match &step.action {
                Action::StopInstance { instance, .. } => Some(instance),
                _ => None,
            })
            .collect();
        let stops = plan.steps.iter().filter_map(|step| {
            let Action::StopInstance { instance, id, .. } = &step.action else {
                return None;
            };
            let is_counted = match &step.reason {
                Reason::PortPasses { .. }
                | Reason::NodeRestarts { .. }
                | Reason::NodeStops { .. } => false,
                // A service that leaves a network does not keep it.
                Reason::NetworkEnds { replica } => {
                    let service = declared.services.get(&instance.service);
                    let connection = service.map(|service| &service.spec.container.connection);
                    connection.and_then(|connection| connection.joins()) == Some(&replica.service)
                        && !passing.contains(replica)
                }
                _ => true,
            };
            is_counted.then(|| id.clone())
        });
        let stops: BTreeSet<ContainerId> = stops.collect();
        for service in declared.services.values().filter(|s| !s.runs_once) {
            let ready = |except: &BTreeSet<ContainerId>| {
                service
                    .replicas()
                    .filter(|id| self.is_ready(id, except))
                    .count()
            };
            let settings = [&service.spec.update.update, &service.spec.update.rollback];
            let parallelism = settings.map(|settings| {
                match settings.as_ref().and_then(|settings| settings.parallelism) {
                    None => 1,
                    Some(0) => usize::MAX,
                    Some(parallelism) => usize::try_from(parallelism).unwrap(),
                }
            });
            let replicas = usize::from(service.spec.replicas);
            let least = replicas.saturating_sub(parallelism[0].max(parallelism[1]));
            let before = ready(&BTreeSet::new());
            assert!(
                ready(&stops) >= least.min(before),
                "{} of {replicas} replicas of {} would be ready, of {before} that are\n{:#?}",
                ready(&stops),
                service.spec.name,
                plan.steps,
            );
        }
    }
}

/// Returns the steps that the driver would start immediately: steps without dependencies, at most
/// one for each instance.
pub(crate) fn may_run(plan: &Plan) -> Vec<Step> {
    let mut busy = BTreeSet::new();
    plan.steps
        .iter()
        .filter(|step| step.needs.is_empty())
        .filter(|step| match step.action.subject() {
            subject @ Subject::Instance(_) => busy.insert(subject),
            _ => true,
        })
        .cloned()
        .collect()
}

/// Asserts the properties that every plan must have.
pub(crate) fn assert_sound(plan: &Plan) {
    let mut before = BTreeSet::new();
    for step in &plan.steps {
        for need in &step.needs {
            assert!(
                before.contains(need),
                "{} needs {need}, which is not earlier in the plan",
                step.id
            );
        }
        assert_eq!(step.id, step.action.id());
        assert!(
            before.insert(step.id.clone()),
            "{} is in the plan twice",
            step.id
        );
    }
}
