//! Restarts and stops nodes on request. The containers of a node are stopped first, in reverse start
//! order, so that their connections end in time. After a restart, they start again: the request also
//! lists their runs as restarts.

use std::collections::BTreeSet;

use super::replacement::stop_of;
use super::{Gate, PlacedReplica, Planning, Up, status};
use crate::model::{InstanceId, NodeName, RestartPolicy, Subject};
use crate::reconcile::index::Seen;
use crate::reconcile::observe::NodeView;
use crate::reconcile::state::Verdict;
use crate::reconcile::step::{Action, HeldBy, InstanceStatus, Reason};
use crate::runtime::ContainerState;

impl<'a> Planning<'a> {
    /// Returns the step that restarts a node, if a restart was requested during the node's current
    /// boot. A restart that failed for good is not repeated, so that the containers start again.
    pub(super) fn requested_restart(&self, node: &NodeName, view: &NodeView) -> Option<Action> {
        let requested = self.history.node_restarts.get(node);
        let boot_id = requested.filter(|_| !self.declared.deleting)?;
        let restart = Action::RestartNode {
            node: node.clone(),
            boot_id: boot_id.clone(),
        };
        let failure = self.history.failures.get(&restart.id());
        let has_failed = failure.is_some_and(|failure| self.policy.counts_as_failed(failure));
        (view.machine.boot_id.as_ref() == Some(boot_id) && !has_failed).then_some(restart)
    }

    /// Stops the containers on a node, and then restarts the node. Nothing starts on it until the
    /// restart has ended.
    pub(super) fn restart_node(&mut self, node: &'a NodeName, restart: Action) -> Gate {
        let running = self.running_on(node);
        let by = |replica| HeldBy::NodeRestartsAfter { replica };
        let reason = Reason::NodeRestarts { node: node.clone() };
        let requested = Reason::NodeRestartRequested;
        self.end_boot(node, &running, by, &reason, restart, requested)
    }

    /// Stops a node after its replicas have moved to other nodes, and those that fit on no other node
    /// have stopped.
    pub(super) fn stop_node(&mut self, node: &'a NodeName) -> Gate {
        let running = self.running_on(node);
        let by = |replica| HeldBy::NodeStopsAfter { replica };
        let index = self.index;
        let stays = |id: &InstanceId| {
            let position = index.replica(id);
            position.is_some_and(|position| self.placement.nodes[position] == Some(node))
        };
        if let Some((_, moving, _)) = running.iter().find(|(_, id, _)| !stays(id)) {
            // It is stopped when its successor is ready.
            let by = by((*moving).clone());
            self.hold(Subject::Node(node.clone()), by);
            return Gate::Open;
        }
        let stop = Action::StopNode { node: node.clone() };
        let reason = Reason::NodeStops { node: node.clone() };
        self.end_boot(node, &running, by, &reason, stop, Reason::NodeStopRequested)
    }

    /// Stops the running containers on a node, and then carries out `action`. Nothing starts on the node
    /// until the action has ended.
    fn end_boot(
        &mut self,
        node: &'a NodeName,
        running: &[((bool, u32), &'a InstanceId, Seen<'a>)],
        by: impl FnOnce(InstanceId) -> HeldBy,
        reason: &Reason,
        action: Action,
        requested: Reason,
    ) -> Gate {
        self.restarting.insert(node);
        if let Some((last, replica, _)) = running.last() {
            for (_, id, seen) in running.iter().filter(|(rank, ..)| rank == last) {
                self.stop_alone(id, *seen, reason, BTreeSet::new());
            }
            let by = by((*replica).clone());
            return Gate::Blocked(self.block(Subject::Node(node.clone()), by, false));
        }
        match self.propose(action, BTreeSet::new(), requested) {
            Gate::Open | Gate::After(_) => {
                Gate::blocked(HeldBy::Node { node: node.clone() }, false)
            }
            blocked @ Gate::Blocked(_) => blocked,
        }
    }

    /// Returns the running containers on a node, sorted by start order. Leaves out those whose stop has
    /// failed repeatedly, because a restart is often requested for a node that has such containers.
    fn running_on(&self, node: &NodeName) -> Vec<((bool, u32), &'a InstanceId, Seen<'a>)> {
        let index = self.index;
        let declared = index.services.iter().flat_map(|indexed| {
            let rank = indexed.start_rank();
            let replicas = indexed.positions();
            replicas.map(move |at| (rank, &index.replicas[at], &index.seen[at]))
        });
        // The services that are no longer declared stop first.
        let undeclared =
            { index.undeclared.iter() }.map(|(id, seen)| ((true, u32::MAX), *id, seen));
        let mut running: Vec<_> = declared
            .chain(undeclared)
            .flat_map(|(rank, id, seen)| seen.iter().map(move |seen| (rank, id, *seen)))
            .filter(|(_, id, seen)| {
                let failure = self.history.failures.get(&stop_of(id, *seen).id());
                let is_stuck = failure.is_some_and(|failure| failure.is_final || failure.times > 1);
                seen.node == node && seen.is_running() && !is_stuck
            })
            .collect();
        running.sort_by_key(|(rank, ..)| *rank);
        running
    }

    /// Returns the state of a replica with a container on a node that is about to be restarted.
    pub(super) fn before_restart(
        &self,
        replica: PlacedReplica<'a>,
    ) -> Option<(InstanceStatus, Up)> {
        if !self.restarting.contains(replica.node) {
            return None;
        }
        let seen = &self.index.seen[replica.position];
        let mut here = seen.iter().filter(|seen| seen.node == replica.node);
        let seen = { here.clone() }
            .find(|seen| seen.is_running())
            .or(here.next())?;
        let has_completed = matches!(seen.container.state, ContainerState::Exited { code: 0, .. })
            && !self.is_to_restart(replica.id, seen)
            && matches!(
                replica.service.restart,
                RestartPolicy::No | RestartPolicy::OnFailure { .. }
            );
        let verdict = if has_completed {
            Verdict::Completed
        } else {
            Verdict::Open
        };
        Some((
            status(replica, Some(seen), verdict, false),
            self.up_of(seen),
        ))
    }
}
