//! Opens the published ports of public services in the cloud's firewall, on the nodes of the
//! services' replicas, and closes all others. The firewall of a machine that the cloud does not know
//! is not changed.
//!
//! A port is open only while it belongs to a public service. It is opened only after other services
//! have released it, and a service that is not public gets an open port only after it was closed.

use std::collections::{BTreeMap, BTreeSet};

use super::{Gate, PlacedReplica, Planning};
use crate::cloud::Power;
use crate::model::{Existing, NodeName, PublicPort, PublicPorts, ServiceName};
use crate::reconcile::observe::NodeView;
use crate::reconcile::step::{Action, Reason, StepId};
use crate::runtime::{ObservedContainer, Role};

impl<'a> Planning<'a> {
    pub(super) fn public_ports(&mut self) {
        if !self.policy.opens_ports {
            return;
        }
        let placed = self.placed_public_ports();
        let observed = self.observed;
        let opens = |node: &NodeName| {
            let spec = self.declared.nodes.get(node);
            spec.is_none_or(|spec| spec.existing != Some(Existing::Host))
        };
        for (node, ports) in placed.iter().filter(|(node, _)| opens(node)) {
            // The port of a new node is opened after the node is ready for containers.
            if !observed.nodes.contains_key(*node)
                && let Some(Gate::After(step)) = self.node_gates.get(node).cloned()
            {
                let ports = ports.keys().copied().collect();
                self.set_public_ports(node, ports, BTreeSet::from([step]), PublicPorts::default());
            }
        }
        for (node, view) in observed.nodes.iter().filter(|(node, _)| opens(node)) {
            let machine = &view.machine;
            let is_stable = matches!(machine.power, Power::Running | Power::Stopped);
            // The deletion of a node also closes its ports.
            if !is_stable || self.unreachable_deletions.contains_key(node) {
                continue;
            }
            let mut ports = self.public_ports_of(view, placed.get(node));
            let is_declared = self.declared.nodes.contains_key(node);
            if view.may_run_unseen() || !is_declared {
                // Containers of other services may still have the ports. An undeclared node gets no
                // more open ports.
                ports.0.retain(|port| machine.open_ports.may_contain(port));
            }
            if machine.open_ports.are(&ports) {
                continue;
            }
            let open = &machine.open_ports;
            let open = open.open.0.union(&open.partly.0).copied().collect();
            self.set_public_ports(node, ports, BTreeSet::new(), open);
        }
    }

    fn set_public_ports(
        &mut self,
        node: &'a NodeName,
        ports: PublicPorts,
        needs: BTreeSet<StepId>,
        open: PublicPorts,
    ) {
        let action = Action::SetPublicPorts {
            ports,
            node: node.clone(),
        };
        let gate = self.propose(action, needs, Reason::PublicPortsDiffer { open });
        self.public_port_gates.insert(node, gate);
    }

    /// Returns a gate that opens when no host port of the replica is still open for another service.
    pub(super) fn closed_ports(&self, replica: PlacedReplica<'a>) -> Gate {
        let (Some(view), Some(gate)) = (
            self.observed.nodes.get(replica.node),
            self.public_port_gates.get(replica.node),
        ) else {
            return Gate::Open;
        };
        let spec = &replica.service.spec;
        let public: BTreeSet<PublicPort> = spec.public_ports().collect();
        let is_open = spec.container.ports.iter().any(|port| {
            port.host_port.is_some_and(|host_port| {
                let port = PublicPort {
                    port: host_port,
                    protocol: port.protocol,
                };
                !public.contains(&port) && view.machine.open_ports.may_contain(&port)
            })
        });
        if is_open { gate.clone() } else { Gate::Open }
    }

    /// Returns the ports of public services on the nodes of their replicas.
    fn placed_public_ports(&self) -> BTreeMap<&'a NodeName, BTreeMap<PublicPort, &'a ServiceName>> {
        let mut placed: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        if self.declared.deleting {
            return placed;
        }
        let replicas = self.index.replicas.iter().zip(&self.placement.nodes);
        for (replica, node) in replicas {
            let (Some(node), Some(service)) = (
                *node,
                self.declared.services.get_key_value(&replica.service),
            ) else {
                continue;
            };
            let (name, service) = service;
            for port in service.spec.public_ports() {
                placed.entry(node).or_default().insert(port, name);
            }
        }
        placed
    }

    /// Returns the ports to open on a node: those of the replicas that are placed on it, and those
    /// of containers that run on it until they are replaced elsewhere. Excludes ports that a running
    /// container of another service has.
    fn public_ports_of(
        &self,
        view: &NodeView,
        placed: Option<&BTreeMap<PublicPort, &'a ServiceName>>,
    ) -> PublicPorts {
        if self.declared.deleting {
            return PublicPorts::default();
        }
        let mut ports: BTreeMap<PublicPort, &ServiceName> = placed.cloned().unwrap_or_default();
        let state = view.engine_state();
        let containers = state.into_iter().flat_map(|state| &state.containers);
        let running = |container: &&ObservedContainer| container.state.is_running();
        let mut taken = BTreeSet::new();
        for container in containers.filter(running) {
            let Role::Instance(id) = &container.role else {
                continue;
            };
            let service = self.declared.services.get(&id.service);
            let public: BTreeSet<PublicPort> = service
                .into_iter()
                .flat_map(|service| service.spec.public_ports())
                .collect();
            for (_, protocol, port) in &container.ports {
                let port = PublicPort {
                    port: *port,
                    protocol: *protocol,
                };
                if public.contains(&port) {
                    ports.insert(port, &id.service);
                } else {
                    taken.insert(port);
                }
            }
        }
        ports
            .into_keys()
            .filter(|port| !taken.contains(port))
            .collect()
    }
}
