//! Replacement, stop-first, and the way back from a specification that fails.

use std::collections::BTreeSet;

use super::order::Dependencies;
use super::{Gate, Planning, Up};
use crate::model::{InstanceId, InstanceState, NodeName, SpecDigest};
use crate::reconcile::declared::DeclaredService;
use crate::reconcile::step::{Action, HeldBy, InstanceStatus, Reason, StepId};
use crate::runtime::{ContainerState, ObservedContainer};

/// The containers of a replica, as one declaration sees them.
pub(super) struct Containers<'a> {
    /// The one that should run.
    pub(super) current: Option<&'a ObservedContainer>,
    /// All others, with their nodes.
    pub(super) others: Vec<(&'a NodeName, &'a ObservedContainer)>,
}

impl<'a> Containers<'a> {
    /// What comes back when the declared specification is given up: what runs on the node
    /// beside it, else what was started first there, since whatever gets ready removes all that
    /// was before it. What runs once and failed has no predecessor that would do its work.
    pub(super) fn predecessor(
        &self,
        service: &DeclaredService,
        node: &NodeName,
    ) -> Option<&'a ObservedContainer> {
        if service.runs_once {
            return None;
        }
        self.others
            .iter()
            .filter(|(at, _)| *at == node)
            .map(|(_, c)| *c)
            .min_by_key(|c| (!c.state.is_running(), c.started_at.is_none(), c.started_at))
    }
}

/// The way back from a specification that is given up.
pub(super) struct WayBack<'a> {
    pub(super) former: &'a ObservedContainer,
    pub(super) why: String,
}

impl<'a> Planning<'a> {
    /// The containers of a replica that is placed on `node`.
    pub(super) fn containers_of(
        &self,
        id: &InstanceId,
        service: &DeclaredService,
        node: &NodeName,
    ) -> Containers<'a> {
        let all = self.containers.get(id).map_or(&[][..], Vec::as_slice);
        // The name on its node is the compare-and-set; the digest is what the name is made from.
        let current = all
            .iter()
            .find(|(n, c)| *n == node && c.digest == service.digest)
            .map(|(_, c)| *c);
        let others = all
            .iter()
            .filter(|(_, c)| current.is_none_or(|current| current.id != c.id))
            .copied()
            .collect();
        Containers { current, others }
    }

    /// Stops a container, once in a plan whoever wants it stopped. Opens after that.
    pub(super) fn stop(
        &mut self,
        id: &InstanceId,
        node: &NodeName,
        container: &'a ObservedContainer,
        reason: &Reason,
        needs: BTreeSet<StepId>,
    ) -> Gate {
        if let Some(gate) = self.stops.get(&container.id) {
            return gate.clone();
        }
        let gate = self.propose(
            Action::StopInstance {
                instance: id.clone(),
                container: container.name.clone(),
                id: container.id.clone(),
                node: node.clone(),
            },
            needs,
            reason.clone(),
        );
        self.stops.insert(&container.id, gate.clone());
        gate
    }

    /// Stops all of these that run, stop-first. Gives what must be done before a successor may
    /// start, or what holds a stop up.
    pub(super) fn stop_running(
        &mut self,
        id: &InstanceId,
        others: &[(&NodeName, &'a ObservedContainer)],
        reason: &Reason,
        mut needs: BTreeSet<StepId>,
    ) -> Result<BTreeSet<StepId>, (HeldBy, bool)> {
        let before = needs.clone();
        for (at, other) in others {
            if !other.state.is_running() {
                continue;
            }
            match self.stop(id, at, other, reason, before.clone()) {
                Gate::Open => {}
                Gate::After(step) => {
                    needs.insert(step);
                }
                Gate::Shut { by, settled } => return Err((by, settled)),
            }
        }
        Ok(needs)
    }

    /// The declared specification has its container: it is kept alive, and once it is ready,
    /// what it replaces goes. If it fails, what it replaces comes back.
    pub(super) fn keep(
        &mut self,
        id: &InstanceId,
        service: &DeclaredService,
        node: &NodeName,
        current: &'a ObservedContainer,
        containers: &Containers<'a>,
        dependencies: &Dependencies,
    ) -> (InstanceStatus, Up) {
        let (steps, held, stops) = (
            self.plan.steps.len(),
            self.plan.held.len(),
            self.stops.len(),
        );
        let others = &containers.others;
        let (status, up) = self.alive(id, service, node, current, others, dependencies, None);
        match (&status.state, containers.predecessor(service, node)) {
            (InstanceState::Ready | InstanceState::Completed, _) => {
                self.supersede(id, others, &Reason::Superseded);
            }
            (InstanceState::Failed { why }, Some(former))
                if current.state != ContainerState::Paused =>
            {
                self.plan.steps.truncate(steps);
                self.plan.held.truncate(held);
                self.stops.truncate(stops);
                self.starts.remove(id);
                self.plan.rejects.push(crate::registry::RejectedSpec {
                    id: id.clone(),
                    digest: current.digest.clone(),
                    at: self.now,
                    why: why.clone(),
                });
                let way_back = WayBack {
                    former,
                    why: why.clone(),
                };
                return self.roll_back(id, service, node, containers, &way_back, dependencies);
            }
            _ if current.state.is_running() => {
                for (at, other) in others {
                    let reason = replaced(at, other, node, &current.digest);
                    // What holds a stop up is said by itself.
                    let _ = self.stop_running(id, &[(*at, *other)], &reason, BTreeSet::new());
                }
            }
            _ => {}
        }
        (status, up)
    }

    /// The declared specification was given up and its predecessor is there: it comes back, and
    /// once it runs, what it replaced goes.
    pub(super) fn roll_back(
        &mut self,
        id: &InstanceId,
        service: &DeclaredService,
        node: &NodeName,
        containers: &Containers<'a>,
        way_back: &WayBack<'a>,
        dependencies: &Dependencies,
    ) -> (InstanceStatus, Up) {
        let WayBack { former, why } = way_back;
        let reason = Reason::RolledBack { why: why.clone() };
        let mut others: Vec<_> = containers
            .others
            .iter()
            .filter(|(_, c)| c.id != former.id)
            .copied()
            .collect();
        let current = containers.current.and_then(|current| {
            let all = self.containers.get(id)?;
            all.iter().find(|(_, c)| c.id == current.id).copied()
        });
        others.extend(current);
        let restoring = (!others.is_empty()).then_some(reason.clone());
        let (mut standing, up) =
            self.alive(id, service, node, former, &others, dependencies, restoring);
        let why = if former.state.is_running() {
            self.supersede(id, &others, &reason);
            format!("{why}; the former specification runs again")
        } else {
            why.clone()
        };
        standing.state = InstanceState::Failed { why };
        (standing, up)
    }
}

/// Why `other` on `from` gives way to a container of `digest` on `node`.
pub(super) fn replaced(
    from: &NodeName,
    other: &ObservedContainer,
    node: &NodeName,
    digest: &SpecDigest,
) -> Reason {
    if from == node {
        Reason::SpecChanged {
            from: other.digest.short().to_owned(),
            to: digest.short().to_owned(),
        }
    } else {
        Reason::Moved { from: from.clone() }
    }
}
