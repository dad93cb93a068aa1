//! Host ports that pass from one replica to another. Who is to be replaced, or to go elsewhere,
//! gives its port up before the one that is declared to have it now starts; it need not wait
//! until its own successor may start, since that may wait for the other.

use std::collections::{BTreeMap, BTreeSet};

use super::{Gate, HostPort, Planning, Spot};
use crate::model::Subject;
use crate::reconcile::declared::Declared;
use crate::reconcile::index::{Index, Seen};
use crate::reconcile::step::{HeldBy, Reason, StepId};

/// Which running containers of declared replicas have host ports that are declared.
pub(super) fn holders<'a>(
    declared: &'a Declared,
    index: &Index<'a>,
) -> BTreeMap<HostPort<'a>, (usize, Seen<'a>)> {
    let wanted: BTreeSet<u16> = declared
        .services
        .values()
        .flat_map(|service| &service.spec.container.ports)
        .filter_map(|port| port.host_port)
        .collect();
    let mut holders = BTreeMap::new();
    if wanted.is_empty() {
        return holders;
    }
    for (at, all) in index.seen.iter().enumerate() {
        for seen in all.iter().filter(|seen| seen.is_running()) {
            for (_, protocol, port) in &seen.container.ports {
                if wanted.contains(port) {
                    holders.insert((seen.node, *port, *protocol), (at, *seen));
                }
            }
        }
    }
    holders
}

impl<'a> Planning<'a> {
    /// Has all that holds a host port which the replica is about to take stopped. Gives what must
    /// be done before it may start, or what holds it up and whether that is for good.
    pub(super) fn free_ports(
        &mut self,
        spot: Spot<'a>,
        mut needs: BTreeSet<StepId>,
    ) -> Result<BTreeSet<StepId>, (HeldBy, bool)> {
        let before = needs.clone();
        for port in &spot.service.spec.container.ports {
            let Some(host_port) = port.host_port else {
                continue;
            };
            let key = (spot.node, host_port, port.protocol);
            let gate = if let Some(gate) = self.leaving.get(&key) {
                gate.clone()
            } else if let Some((at, seen)) = self.holders_of_ports.get(&key).copied()
                && at != spot.at
            {
                let holder = &self.index.replicas[at];
                if self.stays(at, seen) {
                    let by = HeldBy::Port {
                        port: host_port,
                        holder: holder.clone(),
                    };
                    self.hold(Subject::Instance(spot.id.clone()), by.clone());
                    return Err((by, true));
                }
                let reason = Reason::PortPasses {
                    port: host_port,
                    to: spot.id.clone(),
                };
                self.stop(holder, seen, &reason, before.clone())
            } else {
                continue;
            };
            match gate {
                Gate::Open => {}
                Gate::After(step) => {
                    needs.insert(step);
                }
                Gate::Shut { by, settled } => {
                    self.hold(Subject::Instance(spot.id.clone()), by.clone());
                    return Err((by, settled));
                }
            }
        }
        Ok(needs)
    }

    /// Whether a container is the one that its replica is to run in, under the declared
    /// specification or, if that was given up, under the one before.
    fn stays(&self, at: usize, seen: Seen<'a>) -> bool {
        let id = &self.index.replicas[at];
        let Some(service) = self.index.service(&id.service).map(|s| s.service) else {
            return false;
        };
        let Some(node) = self.placed.nodes[at].filter(|node| *node == seen.node) else {
            return false;
        };
        if seen.container.digest == service.digest {
            return true;
        }
        let spot = Spot {
            at,
            id,
            service,
            node,
        };
        let rejected = self.history.rejected.get(id);
        rejected.is_some_and(|r| r.digest == service.digest)
            && self
                .containers_of(spot)
                .predecessor(spot)
                .is_some_and(|former| former.id() == seen.id())
    }
}
