//! Assigns host ports: the declared ones, and free ports that the engine chooses.

use std::collections::BTreeSet;

use super::{Container, Engine};
use crate::error::{Error, Result};
use crate::model::Protocol;

/// The range of automatically chosen host ports.
const CHOSEN: std::ops::RangeInclusive<u16> = 20_000..=29_999;

/// A container port with its protocol and one of its host ports.
pub(super) type BoundPort = (u16, Protocol, u16);

impl Engine {
    /// Returns the ports that a container gets if it starts now.
    pub(super) fn ports_for(&self, container: &Container) -> Result<BTreeSet<BoundPort>> {
        let spec = &container.spec;
        if container.joins.is_some() {
            return Ok(BTreeSet::new());
        }
        let is_free = |host: u16, protocol: Protocol| {
            let by = self.bound.get(&(host, protocol));
            by.is_none_or(|by| *by == spec.name)
        };
        let conflict = |host: u16, protocol: Protocol| Error::Conflict {
            what: format!("host port {host}/{protocol}"),
            why: format!(
                "the port is in use, so container {} cannot use it",
                spec.name
            ),
        };
        let fixed: BTreeSet<BoundPort> = if spec.host_network {
            let exposed = container.exposed.iter();
            exposed
                .map(|(port, protocol)| (*port, *protocol, *port))
                .collect()
        } else {
            let published = spec
                .template
                .ports
                .iter()
                .filter(|port| port.host_ip.is_none());
            published
                .filter_map(|port| Some((port.container_port, port.protocol, port.host_port?)))
                .collect()
        };
        for (_, protocol, host) in &fixed {
            if !is_free(*host, *protocol) {
                return Err(conflict(*host, *protocol));
            }
        }
        let mut ports = fixed;
        for choice in spec.template.port_choices.iter().filter(|choice| {
            // Ports at a single address are not simulated.
            choice.host_ip.is_none() && !spec.host_network
        }) {
            let (port, protocol) = (choice.container_port, choice.protocol);
            let before = container.host_ports.iter().map(|bound| bound.2);
            let before = before.filter(|host| choice.candidates.contains(host));
            let host = before
                .chain(choice.preferred(spec.replica()))
                .find(|host| {
                    let mut taken = ports.iter();
                    is_free(*host, protocol)
                        && !taken.any(|bound| (bound.1, bound.2) == (protocol, *host))
                })
                .ok_or_else(|| {
                    let first = choice.candidates.first().copied();
                    conflict(first.unwrap_or_default(), protocol)
                })?;
            ports.insert((port, protocol, host));
        }
        let declared = ports.clone();
        for ((port, protocol), first) in spec.ports.iter().filter(|_| !spec.host_network) {
            let before = container.host_ports.iter().filter(|bound| {
                (bound.0, bound.1) == (*port, *protocol) && !declared.contains(*bound)
            });
            let start = (*first).clamp(*CHOSEN.start(), *CHOSEN.end());
            let host = before
                .map(|bound| bound.2)
                .chain([*first])
                .chain(start..=*CHOSEN.end())
                .chain(*CHOSEN.start()..start)
                .find(|host| {
                    let mut taken = ports.iter();
                    is_free(*host, *protocol)
                        && !taken.any(|bound| (bound.1, bound.2) == (*protocol, *host))
                })
                .ok_or_else(|| conflict(*first, *protocol))?;
            ports.insert((*port, *protocol, host));
        }
        Ok(ports)
    }
}
