//! Keeps containers that share a network together. A container that joins the network of another one
//! starts after it, stops before it, and is replaced and restarted together with it.

use std::collections::BTreeSet;

use super::dependencies::Dependencies;
use super::{Blocked, Gate, PlacedReplica, Planning};
use crate::model::{DependencyCondition, InstanceId, NodeName};
use crate::reconcile::index::Seen;
use crate::reconcile::step::{Action, HeldBy, Reason, StepId};
use crate::registry::RejectedSpec;
use crate::runtime::{ObservedContainer, Role};

impl<'a> Planning<'a> {
    /// Stops the containers that join the network of a container. Adds the steps to `needs`.
    pub(super) fn stop_joining(
        &mut self,
        id: &InstanceId,
        seen: Seen<'a>,
        needs: &mut BTreeSet<StepId>,
    ) -> Result<(), Blocked> {
        let index = self.index;
        let before = needs.clone();
        let reason = Reason::NetworkEnds {
            replica: id.clone(),
        };
        for joining in index.joining(seen.id()) {
            if let Role::Instance(of) = &joining.container.role {
                self.stop(of, *joining, &reason, before.clone())
                    .pass(needs)?;
            }
        }
        Ok(())
    }

    /// Returns whether the replica whose network this replica joins is still being replaced. Until
    /// then, earlier containers of both are kept for a rollback.
    pub(super) fn joined_is_replaced(&self, position: usize) -> bool {
        let joined = self.index.joined[position];
        joined.is_some_and(|joined| self.index.seen[joined].len() > 1)
    }

    /// Returns whether the container runs in a network that has ended, or will have ended once this
    /// plan has started the container that it joins again.
    pub(super) fn has_lost_network(&self, seen: &Seen<'a>) -> bool {
        seen.joined().is_some_and(|joined| {
            seen.container.has_lost_network(joined)
                || seen.is_running()
                    && !joined.state.is_running()
                    && self.start_of(seen.node, &joined.name).is_some()
        })
    }

    /// Returns the step of this plan that starts a container.
    fn start_of(&self, node: &NodeName, name: &str) -> Option<&StepId> {
        let mut steps = self.plan.steps.iter();
        let step = steps.find(|step| match &step.action {
            Action::StartInstance {
                container,
                node: on,
                ..
            } => container == name && on == node,
            _ => false,
        });
        step.map(|step| &step.id)
    }

    /// Returns the steps that must be done before an existing container can start.
    pub(super) fn needs_of_existing(
        &self,
        replica: PlacedReplica<'a>,
        seen: Seen<'a>,
        dependencies: &Dependencies,
    ) -> Dependencies {
        let mut needs = dependencies.clone()?;
        if seen.container.joins.is_some() {
            let joined = seen.joined().map(|joined| (seen.node, joined));
            needs.extend(self.network(replica, joined)?);
        }
        Ok(needs)
    }

    /// Returns the steps that must be done before a new container can start, and the name of the
    /// container whose network it joins.
    pub(super) fn needs_of_network(
        &self,
        replica: PlacedReplica<'a>,
        dependencies: &Dependencies,
    ) -> Result<(BTreeSet<StepId>, Option<String>), Blocked> {
        let mut needs = dependencies.clone()?;
        let Some(target) = self.index.joined[replica.position] else {
            return Ok((needs, None));
        };
        if let Some(start) = &self.starts[target] {
            let mut steps = self.plan.steps.iter();
            if let Some(Action::StartInstance { container, .. }) = steps
                .find(|step| step.id == *start)
                .map(|step| &step.action)
            {
                needs.insert(start.clone());
                return Ok((needs, Some(container.clone())));
            }
        }
        let joined = self.kept(target).filter(|seen| seen.node == replica.node);
        needs.extend(self.network(replica, joined.map(|seen| (seen.node, seen.container)))?);
        Ok((needs, joined.map(|seen| seen.container.name.clone())))
    }

    /// Returns the step that makes the network of a container available, if there has to be one.
    fn network(
        &self,
        replica: PlacedReplica<'a>,
        joined: Option<(&NodeName, &ObservedContainer)>,
    ) -> Result<Option<StepId>, Blocked> {
        if let Some((node, joined)) = joined {
            if let Some(start) = self.start_of(node, &joined.name) {
                return Ok(Some(start.clone()));
            }
            if joined.state.is_running() && !self.stops.contains_key(&joined.id) {
                return Ok(None);
            }
        }
        let target = self.index.joined[replica.position];
        let status = target.and_then(|target| self.statuses[target].as_ref());
        let service = replica.service.spec.container.connection.joins();
        let by = HeldBy::Dependency {
            service: service.unwrap_or(&replica.id.service).clone(),
            condition: DependencyCondition::ServiceStarted,
            failed: target.and_then(|target| self.failure_at(target)),
        };
        Err(Blocked::new(
            by,
            status.is_some_and(|status| status.settled),
        ))
    }

    /// Returns the container that a replica keeps or is about to keep: the one of the declared
    /// specification or, if that was rejected, the previous one.
    fn kept(&self, position: usize) -> Option<Seen<'a>> {
        let id = &self.index.replicas[position];
        let indexed = self.index.service(&id.service)?;
        let replica = PlacedReplica {
            position,
            id,
            service: indexed.service,
            node: self.placement.nodes[position]?,
        };
        let containers = self.containers_of(replica);
        let is_rejected = self.rejection(indexed, position).is_some();
        let previous = containers.previous(replica).filter(|_| is_rejected);
        previous.or(containers.current)
    }

    /// Returns whether a container of the replica runs, has a network, and is not stopped by this
    /// plan.
    pub(super) fn serves(&self, position: usize) -> bool {
        self.serving_container(position).is_some()
    }

    fn serving_container(&self, position: usize) -> Option<Seen<'a>> {
        let mut seen = self.index.seen[position].iter();
        let serves = |seen: &&Seen<'a>| {
            seen.is_running()
                && !seen.is_orphan()
                && seen.joined().is_none_or(|joined| joined.state.is_running())
                && !self.has_lost_network(seen)
                && !self.stops.contains_key(seen.id())
        };
        seen.find(serves).copied()
    }

    /// Decides whether a replica is replaced now because the replica whose network it joins is
    /// replaced. Returns `false` if the replica is replaced alone, and an error if it waits for the
    /// other one.
    pub(super) fn follows_joined(&self, replica: PlacedReplica<'a>) -> Result<bool, Blocked> {
        let Some(target) = self.index.joined[replica.position] else {
            return Ok(false);
        };
        let id = &self.index.replicas[target];
        let status = self.statuses[target].as_ref();
        let is_settled = status.is_some_and(|status| status.settled);
        let waits = || {
            let by = HeldBy::ReplacedAfter {
                replica: id.clone(),
            };
            Blocked::new(by, is_settled)
        };
        let Some(serving) = self.serving_container(replica.position) else {
            let mut own = self.index.seen[replica.position].iter();
            return match self.kept(target) {
                // Without another network, the replica is replaced like any other one.
                Some(kept) => Ok(!own.all(|seen| seen.container.joins.as_ref() == Some(kept.id()))),
                // Until the joined replica is replaced, the earlier containers of both run.
                None if self.serving.contains(&target) && own.any(|seen| !seen.is_orphan()) => {
                    Err(waits())
                }
                None => Ok(true),
            };
        };
        let kept = self.kept(target).filter(Seen::is_running);
        // The container may still have the network of another service, or one of its own.
        let joined = serving.joined();
        let joined = joined.filter(|joined| joined.role == Role::Instance(id.clone()));
        if kept.is_some_and(|kept| joined.is_none_or(|joined| joined.id == *kept.id())) {
            return Ok(false);
        }
        Err(waits())
    }

    /// Returns whether all replicas that join the network of a replica are available.
    pub(super) fn joiners_are_available(&self, position: usize) -> bool {
        let mut joiners = self.index.joiners[position].iter();
        joiners.all(|(service, joiner)| {
            self.is_available(*joiner, self.index.services[*service].service)
        })
    }

    /// Brings the images of the replicas that join the replica's network to the node, so that they
    /// can be replaced together with it.
    pub(super) fn images_of_joiners(
        &mut self,
        replica: PlacedReplica<'a>,
        mut needs: BTreeSet<StepId>,
    ) -> Result<BTreeSet<StepId>, Blocked> {
        let index = self.index;
        for (service, position) in &index.joiners[replica.position] {
            let joiner = PlacedReplica {
                position: *position,
                id: &index.replicas[*position],
                service: index.services[*service].service,
                node: replica.node,
            };
            self.service_image(joiner).pass(&mut needs)?;
        }
        Ok(needs)
    }

    /// Removes containers that cannot start again, because the network that they join is gone, and
    /// those whose name the new container needs.
    pub(super) fn remove_unusable(
        &mut self,
        replica: PlacedReplica<'a>,
        others: &[Seen<'a>],
        reason: &Reason,
        mut needs: BTreeSet<StepId>,
    ) -> Result<BTreeSet<StepId>, Blocked> {
        let name = self
            .declared
            .container_name(replica.id, &replica.service.digest);
        let before = needs.clone();
        for other in others {
            if other.container.joins.is_none() || other.node != replica.node {
                continue;
            }
            let is_in_the_way = other.container.name == name;
            if is_in_the_way || other.is_orphan() {
                let reason = if is_in_the_way {
                    &Reason::NetworkGone
                } else {
                    reason
                };
                let gate: Gate = self.stop_and_remove(replica.id, *other, reason, before.clone());
                gate.pass(&mut needs)?;
            }
        }
        Ok(needs)
    }

    /// Returns the record that rejects the specification of a replica that is replaced and rolled
    /// back together with the given one: the replica whose network it joins, or a replica that
    /// joins its network, while it has a container to return to.
    pub(super) fn rejected_together(&self, id: &InstanceId) -> Option<&'a RejectedSpec> {
        let index = self.index;
        let position = index.replica(id)?;
        let of = |position: usize| {
            let id = &index.replicas[position];
            Some((id, index.service(&id.service)?.service))
        };
        if let Some(target) = index.joined[position] {
            let (id, service) = of(target)?;
            let own = self.rejected_alone(id, service);
            return own.or_else(|| self.rejected_together(id));
        }
        let (_, service) = of(position)?;
        let has_previous = index.seen[position]
            .iter()
            .any(|seen| !seen.is_current(service));
        if !has_previous {
            return None;
        }
        index.joiners[position].iter().find_map(|(_, joiner)| {
            let (id, service) = of(*joiner)?;
            self.rejected_alone(id, service)
        })
    }
}
