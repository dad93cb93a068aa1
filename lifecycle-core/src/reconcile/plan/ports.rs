//! Passes host ports from one replica to another: stops the container that uses the port, then
//! starts the replica that gets the port. The stop does not wait for the container's own successor,
//! which may depend on that replica.

use std::collections::{BTreeMap, BTreeSet};

use super::{Blocked, HostPort, PlacedReplica, Planning};
use crate::model::Subject;
use crate::reconcile::declared::Declared;
use crate::reconcile::index::{Index, Seen};
use crate::reconcile::step::{HeldBy, Reason, StepId};

/// Returns the declared host ports in use, each with its container and the replica's position.
pub(super) fn holders<'a>(
    declared: &'a Declared,
    index: &Index<'a>,
) -> BTreeMap<HostPort<'a>, (usize, Seen<'a>)> {
    let declared_ports = declared.host_ports();
    let mut holders = BTreeMap::new();
    if declared_ports.is_empty() {
        return holders;
    }
    for (position, all) in index.seen.iter().enumerate() {
        for seen in all.iter().filter(|seen| seen.is_running()) {
            for (_, protocol, port) in &seen.container.ports {
                if declared_ports.contains(port) {
                    holders.insert((seen.node, *port, *protocol), (position, *seen));
                }
            }
        }
    }
    holders
}

impl<'a> Planning<'a> {
    /// Stops the containers that use host ports of the replica. Returns the steps that must be done
    /// before the replica may start.
    pub(super) fn free_ports(
        &mut self,
        replica: PlacedReplica<'a>,
        mut needs: BTreeSet<StepId>,
    ) -> Result<BTreeSet<StepId>, Blocked> {
        let before = needs.clone();
        let subject = || Subject::Instance(replica.id.clone());
        for port in &replica.service.spec.container.ports {
            let Some(host_port) = port.host_port else {
                continue;
            };
            let key = (replica.node, host_port, port.protocol);
            let gate = if let Some(gate) = self.undeclared_ports.get(&key) {
                gate.clone()
            } else if let Some((position, seen)) = self.port_holders.get(&key).copied()
                && position != replica.position
            {
                let holder = &self.index.replicas[position];
                let serves = self.serving.contains(&position);
                if serves || self.keeps_running(position, seen) {
                    let by = HeldBy::Port {
                        port: host_port,
                        holder: holder.clone(),
                    };
                    let holder = self.statuses[position].as_ref().filter(|_| serves);
                    let settled = holder.is_none_or(|holder| holder.settled);
                    return Err(self.block(subject(), by, settled));
                }
                let reason = Reason::PortPasses {
                    port: host_port,
                    to: replica.id.clone(),
                };
                self.stop(holder, seen, &reason, before.clone())
            } else {
                continue;
            };
            if let Err(blocked) = gate.pass(&mut needs) {
                return Err(self.block(subject(), blocked.by, blocked.settled));
            }
        }
        Ok(needs)
    }

    /// Returns whether the replica keeps this container: the container has the declared
    /// specification or, if that was rejected, the previous one.
    fn keeps_running(&self, position: usize, seen: Seen<'a>) -> bool {
        let id = &self.index.replicas[position];
        let Some(indexed) = self.index.service(&id.service) else {
            return false;
        };
        let service = indexed.service;
        let Some(node) = self.placement.nodes[position].filter(|node| *node == seen.node) else {
            return false;
        };
        if seen.is_current(service) {
            return true;
        }
        let replica = PlacedReplica {
            position,
            id,
            service,
            node,
        };
        self.rejection(indexed, position).is_some()
            && self
                .containers_of(replica)
                .previous(replica)
                .is_some_and(|previous| previous.id() == seen.id())
    }
}
