//! Replacement, stop-first, and the way back from a specification that fails.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::order::Dependencies;
use super::{Gate, Planning, Spot, Up};
use crate::model::{InstanceId, InstanceState, NodeName, SpecDigest, Subject};
use crate::reconcile::index::Seen;
use crate::reconcile::step::{Action, HeldBy, InstanceStatus, Reason, StepId};
use crate::registry::RejectedSpec;
use crate::runtime::ContainerState;

/// The containers of a replica, as one declaration sees them.
pub(super) struct Containers<'a> {
    /// The one that should run.
    pub(super) current: Option<Seen<'a>>,
    /// All others.
    pub(super) others: Vec<Seen<'a>>,
}

impl<'a> Containers<'a> {
    /// What comes back when the declared specification is given up: what runs on the node
    /// beside it, else what was started first there, since whatever gets ready removes all that
    /// was before it. What runs once and failed has no predecessor that would do its work.
    pub(super) fn predecessor(&self, spot: Spot<'a>) -> Option<Seen<'a>> {
        if spot.service.runs_once {
            return None;
        }
        let here = self.others.iter().filter(|seen| seen.node == spot.node);
        here.copied().min_by_key(|seen| {
            let started_at = seen.container.started_at;
            (!seen.is_running(), started_at.is_none(), started_at)
        })
    }
}

/// The way back from a specification that is given up.
pub(super) struct WayBack<'a> {
    pub(super) former: Seen<'a>,
    /// Since when the declared specification is given up.
    pub(super) since: DateTime<Utc>,
    pub(super) why: String,
}

impl<'a> Planning<'a> {
    /// The containers of a replica.
    pub(super) fn containers_of(&self, spot: Spot<'a>) -> Containers<'a> {
        let all = &self.index.seen[spot.at];
        // The name on its node is the compare-and-set, and the digest is what the name is made of.
        let is_current = |seen: &&Seen<'a>| {
            seen.node == spot.node && seen.container.digest == spot.service.digest
        };
        let current = all.iter().find(is_current).copied();
        let is_other = |seen: &&Seen<'a>| current.is_none_or(|current| current.id() != seen.id());
        Containers {
            current,
            others: all.iter().filter(is_other).copied().collect(),
        }
    }

    /// Stops a container, once in a plan whoever wants it stopped. Opens after that.
    pub(super) fn stop(
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
        let gate = self.propose(
            Action::StopInstance {
                instance: id.clone(),
                container: container.name.clone(),
                id: container.id.clone(),
                node: seen.node.clone(),
            },
            needs,
            reason.clone(),
        );
        self.stops.insert(&container.id, gate.clone());
        self.stop_order.push(&container.id);
        gate
    }

    /// While one of these is ready, what does not run is wanted back by nobody: it goes before the
    /// one that is ready is stopped, so that nothing else could be taken for the way back.
    pub(super) fn clear_stopped(
        &mut self,
        id: &InstanceId,
        others: &[Seen<'a>],
        reason: &Reason,
        mut needs: BTreeSet<StepId>,
    ) -> Result<BTreeSet<StepId>, (HeldBy, bool)> {
        // One that was never ready is no better than what it replaced.
        let is_ready = |seen: &Seen<'a>| Self::up_of(seen).ready;
        if !others.iter().any(is_ready) {
            return Ok(needs);
        }
        for other in others.iter().filter(|seen| !seen.is_running()) {
            self.stop_and_remove(id, *other, reason, BTreeSet::new())
                .pass(&mut needs)?;
        }
        Ok(needs)
    }

    /// Stops all of these that run, stop-first. Gives what must be done before a successor may
    /// start, or what holds a stop up.
    pub(super) fn stop_running(
        &mut self,
        id: &InstanceId,
        others: &[Seen<'a>],
        reason: &Reason,
        mut needs: BTreeSet<StepId>,
    ) -> Result<BTreeSet<StepId>, (HeldBy, bool)> {
        let before = needs.clone();
        for other in others.iter().filter(|seen| seen.is_running()) {
            self.stop(id, *other, reason, before.clone())
                .pass(&mut needs)?;
        }
        Ok(needs)
    }

    /// The declared specification has its container: it is kept alive, and once it is ready,
    /// what it replaces goes. If it fails, what it replaces comes back.
    pub(super) fn keep(
        &mut self,
        spot: Spot<'a>,
        current: Seen<'a>,
        containers: &Containers<'a>,
        dependencies: &Dependencies,
    ) -> (InstanceStatus, Up) {
        let (steps, held) = (self.plan.steps.len(), self.plan.held.len());
        let stopped = self.stop_order.len();
        let others = &containers.others;
        let (status, up) = self.alive(spot, current, others, dependencies, None);
        if others.is_empty() {
            return (status, up);
        }
        match (&status.state, containers.predecessor(spot)) {
            (InstanceState::Ready | InstanceState::Completed, _) => {
                self.supersede(spot.id, others, &Reason::Superseded);
            }
            (InstanceState::Failed { why }, Some(former))
                if current.container.state != ContainerState::Paused =>
            {
                self.plan.steps.truncate(steps);
                self.plan.held.truncate(held);
                for id in self.stop_order.drain(stopped..) {
                    self.stops.remove(id);
                }
                self.starts[spot.at] = None;
                self.plan.rejects.push(RejectedSpec {
                    id: spot.id.clone(),
                    digest: current.container.digest.clone(),
                    at: self.now,
                    why: why.clone(),
                });
                let way_back = WayBack {
                    former,
                    since: self.now,
                    why: why.clone(),
                };
                return self.roll_back(spot, containers, &way_back, dependencies);
            }
            _ if current.is_running() => {
                for other in others {
                    let reason = replaced(other, spot.node, &current.container.digest);
                    // What holds a stop up is said by itself.
                    let _ = self.stop_running(spot.id, &[*other], &reason, BTreeSet::new());
                }
            }
            _ => {}
        }
        (status, up)
    }

    /// The declared specification was given up and its predecessor is there: it comes back, and
    /// once it runs, what it replaced goes. What failed is kept a while, stopped: its output
    /// tells why.
    pub(super) fn roll_back(
        &mut self,
        spot: Spot<'a>,
        containers: &Containers<'a>,
        way_back: &WayBack<'a>,
        dependencies: &Dependencies,
    ) -> (InstanceStatus, Up) {
        let WayBack { former, since, why } = way_back;
        let reason = Reason::RolledBack { why: why.clone() };
        let is_other = |seen: &&Seen<'a>| seen.id() != former.id();
        let older: Vec<Seen<'a>> = containers.others.iter().filter(is_other).copied().collect();
        let others: Vec<Seen<'a>> = older.iter().copied().chain(containers.current).collect();
        let restoring = (!others.is_empty()).then_some(reason.clone());
        let (mut standing, up) = self.alive(spot, *former, &others, dependencies, restoring);
        let why = if former.is_running() {
            self.supersede(spot.id, &older, &reason);
            let failed: Vec<Seen<'a>> = containers.current.into_iter().collect();
            if self.is_over(*since, self.policy.given_up_kept_for) {
                self.supersede(spot.id, &failed, &reason);
            } else {
                // What holds a stop up is said by itself.
                let _ = self.stop_running(spot.id, &failed, &reason, BTreeSet::new());
            }
            let why = format!("{why}; the former specification runs again");
            let by = HeldBy::Failed { why: why.clone() };
            self.hold(Subject::Instance(spot.id.clone()), by);
            why
        } else {
            why.clone()
        };
        standing.state = InstanceState::Failed { why };
        (standing, up)
    }
}

/// Why `other` gives way to a container of `digest` on `node`.
pub(super) fn replaced(other: &Seen<'_>, node: &NodeName, digest: &SpecDigest) -> Reason {
    if other.node == node {
        Reason::SpecChanged {
            from: other.container.digest.short().to_owned(),
            to: digest.short().to_owned(),
        }
    } else {
        Reason::Moved {
            from: other.node.clone(),
        }
    }
}
