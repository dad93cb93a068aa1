//! Decides whether the old container of a replica is stopped before or after the new one starts.

use super::{PlacedReplica, Planning};
use crate::model::{NetworkMode, NodeName, Protocol, ReplacementOrder};
use crate::reconcile::index::Seen;
use crate::reconcile::observe::AgentView;

impl<'a> Planning<'a> {
    /// Returns whether the old container of a replica is stopped before or after the new container
    /// starts. `target` is the new container, if it exists.
    pub(super) fn order(
        &self,
        replica: PlacedReplica<'a>,
        target: Option<Seen<'a>>,
        others: &[Seen<'a>],
    ) -> ReplacementOrder {
        let container = &replica.service.spec.container;
        let index = self.index;
        if index.joined[replica.position].is_some() || !index.joiners[replica.position].is_empty() {
            // Two containers with the same network settings, such as two clients of a VPN with one
            // key, often cannot run at the same time.
            return ReplacementOrder::StopFirst;
        }
        let old: Vec<&Seen<'a>> = others
            .iter()
            .filter(|seen| seen.is_running() && seen.node == replica.node)
            .collect();
        let uses = |seen: &Seen<'a>, host_port: u16| {
            let mut ports = seen.container.ports.iter();
            ports.any(|(_, _, port)| *port == host_port)
        };
        let is_taken = |host_port| old.iter().any(|seen| uses(seen, host_port));
        let mut takes_port = false;
        let mut needs_port = false;
        for port in &container.ports {
            let Some(host_port) = port.host_port else {
                continue;
            };
            // Ports on a single address of the node are not observed.
            let has_address = port.host_ip.is_some();
            if !(is_taken(host_port) || has_address && !old.is_empty()) {
                continue;
            }
            takes_port = true;
            // A new container can start without the port, and the agent forwards it.
            needs_port |= has_address
                || port.protocol != Protocol::Tcp
                || !self.can_redirect(replica.node)
                || target.is_some_and(|target| !target.is_running() && uses(&target, host_port));
        }
        for choice in &container.port_choices {
            let has_address = choice.host_ip.is_some();
            let takes = choice.candidates.iter().any(|port| is_taken(*port));
            takes_port |= takes || has_address && !old.is_empty();
            // If all candidates may be in use, the new container gets only the port of the old one.
            let few = choice.candidates.len() <= usize::from(replica.service.spec.replicas);
            needs_port |= takes_port && few;
        }
        let shares_network = container.connection.mode == NetworkMode::Host && !old.is_empty();
        if needs_port || shares_network || replica.service.runs_once {
            return ReplacementOrder::StopFirst;
        }
        let writes = container.volumes.iter().any(|mount| !mount.read_only)
            || container.node_paths.iter().any(|mount| !mount.read_only);
        // Without a declared order, the engine keeps publishing the port, so that the server sees
        // the addresses of its clients.
        self.rollout.order().unwrap_or(if writes || takes_port {
            ReplacementOrder::StopFirst
        } else {
            ReplacementOrder::StartFirst
        })
    }

    /// Returns whether the node's agent can forward published ports. While the agent does not respond,
    /// it counts as able to, so that an order does not change during a rollout.
    fn can_redirect(&self, node: &NodeName) -> bool {
        let view = self.observed.agents.get(node);
        let cannot = matches!(
            view,
            Some(AgentView::UpToDate {
                cannot_redirect: Some(_),
                ..
            })
        );
        self.declared.agents.is_some() && !cannot
    }
}
