//! Computes where agents forward connections to service addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use super::declared::{Agents, Declared};
use super::endpoints::internal;
use super::observe::{NodeView, Observed, Readiness};
use crate::model::{ContainerId, Epoch, ImageSource, Protocol, ServiceName};
use crate::network::{Backend, Redirect, ServiceEntry, Table};
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
            let template = declared.template(&id.service);
            let ports = container.ports.iter().map(|port| (port.0, port.1));
            entry.ports.extend(container.exposed.iter().copied());
            entry.ports.extend(ports);
            if is_ready(view, container) {
                entry.backends.push(Backend {
                    instance: id.clone(),
                    container: container.name.clone(),
                    endpoints: internal(view.machine.addresses.private, container, template)
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
        redirects: redirects(declared, observed, stopping),
        services,
    })
}

/// Returns the published ports that the agents forward: those of nodes that have a container of the
/// service, but none that is ready and has the port.
fn redirects(
    declared: &Declared,
    observed: &Observed,
    stopping: &BTreeSet<ContainerId>,
) -> Vec<Redirect> {
    let mut redirects = Vec::new();
    if declared.deleting {
        return redirects;
    }
    for (node, view) in &observed.nodes {
        let state = view.engine_state().into_iter();
        let mut containers: BTreeMap<&ServiceName, Vec<&ObservedContainer>> = BTreeMap::new();
        for container in state.flat_map(|state| &state.containers) {
            if let Role::Instance(id) = &container.role {
                containers.entry(&id.service).or_default().push(container);
            }
        }
        for (name, containers) in containers {
            let Some(service) = declared.services.get(name) else {
                continue;
            };
            for (port, container_port) in service.redirectable_ports() {
                let serves = |container: &&&ObservedContainer| {
                    let mut ports = container.ports.iter();
                    matches!(container.state, ContainerState::Running { .. })
                        && !stopping.contains(&container.id)
                        // Not checked yet, for example because the manager has just started.
                        && !matches!(
                            view.readiness.get(&container.id),
                            Some(Readiness::Waiting { .. })
                        )
                        && ports.any(|(_, protocol, host)| {
                            (*protocol, *host) == (Protocol::Tcp, port)
                        })
                };
                if containers.iter().find(serves).is_none() {
                    redirects.push(Redirect {
                        node: node.clone(),
                        port,
                        service: name.clone(),
                        container_port,
                    });
                }
            }
        }
    }
    redirects.sort();
    redirects
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
