//! Assigns host ports: fixed ports, and free ports that the engine chooses.

use std::collections::BTreeMap;

use super::{Container, Engine};
use crate::error::{Error, Result};
use crate::model::Protocol;
use crate::runtime::PortBinding;

/// The range of automatically chosen host ports.
const CHOSEN: std::ops::RangeInclusive<u16> = 20_000..=29_999;

impl Engine {
    /// Returns the host ports that a container gets if it starts now.
    pub(super) fn ports_for(
        &self,
        container: &Container,
    ) -> Result<BTreeMap<(u16, Protocol), u16>> {
        let name = &container.spec.name;
        let mut ports: BTreeMap<(u16, Protocol), u16> = BTreeMap::new();
        let requested: BTreeMap<(u16, Protocol), PortBinding> = if container.spec.host_network {
            container
                .exposed
                .iter()
                .map(|(port, protocol)| ((*port, *protocol), PortBinding::Fixed(*port)))
                .collect()
        } else {
            container.spec.ports.clone()
        };
        for ((port, protocol), binding) in requested {
            let is_free = |host: u16| {
                self.bound
                    .get(&(host, protocol))
                    .is_none_or(|by| by == name)
                    && !ports
                        .iter()
                        .any(|((_, p), taken)| *p == protocol && *taken == host)
            };
            let conflict = |host: u16| Error::Conflict {
                what: format!("host port {host}/{protocol}"),
                why: format!("the port is in use, so container {name} cannot use it"),
            };
            let host = match binding {
                PortBinding::Fixed(host) if is_free(host) => host,
                PortBinding::Fixed(host) => return Err(conflict(host)),
                PortBinding::Preferred(first) => {
                    let before = container.host_ports.get(&(port, protocol)).copied();
                    let start = first.clamp(*CHOSEN.start(), *CHOSEN.end());
                    before
                        .into_iter()
                        .chain([first])
                        .chain(start..=*CHOSEN.end())
                        .chain(*CHOSEN.start()..start)
                        .find(|host| is_free(*host))
                        .ok_or_else(|| conflict(first))?
                }
            };
            ports.insert((port, protocol), host);
        }
        Ok(ports)
    }
}
