//! Host ports that pass from one replica to another. Who is to be replaced, or to go elsewhere,
//! gives its port up before the one that is declared to have it now starts; it need not wait
//! until its own successor may start, since that may wait for the other.

use std::collections::{BTreeMap, BTreeSet};

use super::{Gate, HostPort, Planning};
use crate::model::{InstanceId, NodeName, Subject};
use crate::reconcile::declared::{Declared, DeclaredService};
use crate::reconcile::observe::Observed;
use crate::reconcile::step::{HeldBy, Reason, StepId};
use crate::runtime::{ObservedContainer, Role};

/// Which running containers of declared replicas have host ports that are declared.
pub(super) fn holders<'a>(
    declared: &Declared,
    observed: &'a Observed,
) -> BTreeMap<HostPort<'a>, (&'a InstanceId, &'a ObservedContainer)> {
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
    for (node, view) in &observed.nodes {
        let containers = view.engine_state().map(|state| &state.containers);
        for container in containers.into_iter().flatten() {
            let Role::Instance(id) = &container.role else {
                continue;
            };
            if !container.state.is_running() || !declared.wants(id) {
                continue;
            }
            for (_, protocol, port) in &container.ports {
                if wanted.contains(port) {
                    holders.insert((node, *port, *protocol), (id, container));
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
        id: &InstanceId,
        service: &DeclaredService,
        node: &NodeName,
        mut needs: BTreeSet<StepId>,
    ) -> Result<BTreeSet<StepId>, (HeldBy, bool)> {
        let before = needs.clone();
        for port in &service.spec.container.ports {
            let Some(host_port) = port.host_port else {
                continue;
            };
            let key = (node, host_port, port.protocol);
            let gate = if let Some(gate) = self.leaving.get(&key) {
                gate.clone()
            } else if let Some((holder, container)) = self.holders_of_ports.get(&key).copied()
                && holder != id
            {
                if self.stays(holder, node, container) {
                    let by = HeldBy::Port {
                        port: host_port,
                        holder: holder.clone(),
                    };
                    self.hold(Subject::Instance(id.clone()), by.clone());
                    return Err((by, true));
                }
                let reason = Reason::PortPasses {
                    port: host_port,
                    to: id.clone(),
                };
                self.stop(holder, node, container, &reason, before.clone())
            } else {
                continue;
            };
            match gate {
                Gate::Open => {}
                Gate::After(step) => {
                    needs.insert(step);
                }
                Gate::Shut { by, settled } => {
                    self.hold(Subject::Instance(id.clone()), by.clone());
                    return Err((by, settled));
                }
            }
        }
        Ok(needs)
    }

    /// Whether a container is the one that its replica is to run in, under the declared
    /// specification or, if that was given up, under the one before.
    fn stays(&self, id: &InstanceId, node: &NodeName, container: &'a ObservedContainer) -> bool {
        let Some(service) = self.declared.services.get(&id.service) else {
            return false;
        };
        if self.placement.nodes.get(id) != Some(node) {
            return false;
        }
        if container.digest == service.digest {
            return true;
        }
        let rejected = self.observed.rejected.get(id);
        rejected.is_some_and(|r| r.digest == service.digest)
            && self
                .containers_of(id, service, node)
                .predecessor(service, node)
                .is_some_and(|former| former.id == container.id)
    }
}
