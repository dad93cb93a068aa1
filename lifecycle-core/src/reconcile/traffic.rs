//! Computes where agents forward connections to service addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use super::declared::{Agents, Declared};
use super::observe::{NodeView, Observed, Readiness};
use super::record::endpoints;
use crate::model::{ContainerId, Epoch, ImageSource, Protocol, ServiceName};
use crate::network::{Backend, ServiceEntry, Table};
use crate::runtime::{ContainerState, ObservedContainer, Role};

/// Returns the current table, in which containers in `stopping` get no new connections. Returns
/// `None` if the platform has no agents.
pub(super) fn table(
    declared: &Declared,
    observed: &Observed,
    stopping: &BTreeSet<ContainerId>,
) -> Option<Table> {
    let agents = declared.agents.as_ref()?;
    let mut services: BTreeMap<ServiceName, ServiceEntry> = agents
        .addresses
        .iter()
        .map(|(name, address)| (name.clone(), entry(declared, name, *address)))
        .collect();
    for view in observed.nodes.values() {
        let state = view.engine_state().into_iter();
        for container in state.flat_map(|state| &state.containers) {
            let Role::Instance(id) = &container.role else {
                continue;
            };
            let Some(entry) = services.get_mut(&id.service) else {
                continue;
            };
            let ports = container.ports.iter().map(|port| (port.0, port.1));
            entry.ports.extend(container.exposed.iter().copied());
            entry.ports.extend(ports);
            if is_ready(view, container) {
                entry.backends.push(Backend {
                    instance: id.clone(),
                    container: container.name.clone(),
                    endpoints: endpoints(view, container)
                        .into_iter()
                        .map(|e| {
                            let key = (e.container_port, e.protocol);
                            (key, SocketAddr::new(e.ip, e.port))
                        })
                        .collect(),
                    draining: stopping.contains(&container.id),
                });
            }
        }
    }
    for entry in services.values_mut() {
        let key = |b: &Backend| (b.instance.clone(), b.container.clone());
        entry.backends.sort_by_cached_key(key);
    }
    let Agents { network, .. } = agents;
    Some(Table {
        epoch: Epoch::default(),
        version: 0,
        platform: declared.owner.name.clone(),
        block: network.block,
        wait: network.wait,
        services,
    })
}

/// Returns the entry of a service, without backends.
fn entry(declared: &Declared, name: &ServiceName, address: Ipv4Addr) -> ServiceEntry {
    let mut ports: BTreeSet<(u16, Protocol)> = BTreeSet::new();
    let mut aliases: BTreeSet<String> = BTreeSet::new();
    if let Some(service) = declared.services.get(name) {
        aliases.clone_from(&service.spec.aliases);
        let container = &service.spec.container;
        let published = container.ports.iter();
        ports.extend(published.map(|port| (port.container_port, port.protocol)));
        ports.extend(container.expose.iter().copied());
        if let ImageSource::Build(build) = &service.spec.source {
            ports.extend(build.exposes.iter().copied());
        }
        ports.extend(service.spec.ready.iter().map(|r| (r.port, Protocol::Tcp)));
    }
    ServiceEntry {
        address,
        aliases,
        ports,
        backends: Vec::new(),
    }
}

fn is_ready(view: &NodeView, container: &ObservedContainer) -> bool {
    matches!(container.state, ContainerState::Running { .. })
        && matches!(
            view.readiness.get(&container.id),
            Some(Readiness::Ready { .. })
        )
}

/// Returns whether `new` has names, addresses or ports that `old` does not have. New containers
/// must not start without them.
pub(super) fn adds_names(old: &Table, new: &Table) -> bool {
    old.block != new.block
        || new.services.iter().any(|(name, service)| {
            old.services.get(name).is_none_or(|known| {
                known.address != service.address
                    || !service.aliases.is_subset(&known.aliases)
                    || !service.ports.is_subset(&known.ports)
            })
        })
}
