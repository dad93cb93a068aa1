//! Host ports of containers. Each container port has a host port that the engine or the manager
//! chose, which the agents and the readiness checks use. A container port that the declaration
//! publishes at a host port has this host port, too, unless the agent forwards it
//! ([`super::traffic`]).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;

use super::execute::PICKED_PORTS;
use crate::model::{ContainerTemplate, Endpoint, NetworkMode, Protocol};
use crate::runtime::{EngineState, ObservedContainer};

/// Returns whether a container has no network, because the container whose network it joins is not
/// running, was removed, or was started again.
pub(super) fn has_no_network(state: &EngineState, container: &ObservedContainer) -> bool {
    let has_network = |joined: &ObservedContainer| {
        joined.state.is_running() && !container.has_lost_network(joined)
    };
    container.joins.is_some() && !state.joined_by(container).is_some_and(has_network)
}

/// Returns a container with the ports at which it can be reached. A container that joins the network
/// of another one can be reached at the ports of that container, of which it gets those that it
/// exposes.
pub(super) fn reachable<'c>(
    state: &EngineState,
    container: &'c ObservedContainer,
) -> Cow<'c, ObservedContainer> {
    let Some(joined) = state.joined_by(container) else {
        return Cow::Borrowed(container);
    };
    if has_no_network(state, container) {
        return Cow::Borrowed(container);
    }
    let ports = joined.ports.iter().copied();
    let exposed = ports.filter(|port| container.exposed.contains(&(port.0, port.1)));
    Cow::Owned(ObservedContainer {
        ports: exposed.collect(),
        ..container.clone()
    })
}

/// Returns the endpoints for other services and for readiness checks: one for each container port.
/// `ip` is the node's private address.
pub(super) fn internal(
    ip: Option<IpAddr>,
    container: &ObservedContainer,
    template: Option<&ContainerTemplate>,
) -> Vec<Endpoint> {
    endpoints(ip, container, |key, ports| {
        let declared = declared_ports(template, key, &ports);
        let chosen = ports.iter().min_by_key(|port| {
            let is_declared = declared.contains(*port);
            (is_declared, !PICKED_PORTS.contains(*port), **port)
        });
        chosen.into_iter().copied().collect()
    })
}

/// Returns the endpoints for users: the declared host ports, or else the ones that are bound. Declared
/// ports that the container does not have are forwarded to it.
pub(super) fn published(
    ip: Option<IpAddr>,
    container: &ObservedContainer,
    template: Option<&ContainerTemplate>,
) -> Vec<Endpoint> {
    endpoints(ip, container, |key, ports| {
        let declared = declared_ports(template, key, &ports);
        if !declared.is_empty() {
            return declared;
        }
        // Host ports of an earlier declaration.
        let earlier = ports.iter().filter(|port| !PICKED_PORTS.contains(*port));
        let earlier: BTreeSet<u16> = earlier.copied().collect();
        if earlier.is_empty() { ports } else { earlier }
    })
}

/// Returns the TCP ports of a container that have another host port besides the chosen one, so that
/// connections reach them without an agent.
pub(super) fn published_ports(container: &ObservedContainer) -> BTreeSet<u16> {
    let tcp = || {
        container
            .ports
            .iter()
            .filter(|port| port.1 == Protocol::Tcp)
    };
    let has_another = |port: &u16| {
        let hosts: BTreeSet<u16> = tcp().filter(|b| b.0 == *port).map(|b| b.2).collect();
        hosts.len() > 1 || hosts.iter().any(|host| !PICKED_PORTS.contains(host))
    };
    tcp().map(|port| port.0).filter(has_another).collect()
}

fn endpoints(
    ip: Option<IpAddr>,
    container: &ObservedContainer,
    select: impl Fn((u16, Protocol), BTreeSet<u16>) -> BTreeSet<u16>,
) -> Vec<Endpoint> {
    let Some(ip) = ip else {
        return Vec::new();
    };
    let ports = container.ports.iter();
    let keys: BTreeSet<(u16, Protocol)> = ports.map(|port| (port.0, port.1)).collect();
    let mut endpoints = Vec::new();
    for (container_port, protocol) in keys {
        let ports = container.ports.iter();
        let bound = ports.filter(|port| (port.0, port.1) == (container_port, protocol));
        let bound = bound.map(|port| port.2).collect();
        let selected = select((container_port, protocol), bound);
        endpoints.extend(selected.into_iter().map(|port| Endpoint {
            ip,
            port,
            container_port,
            protocol,
        }));
    }
    endpoints.sort();
    endpoints
}

/// Returns the host ports at which a service publishes a container port, at all addresses of the
/// node: the fixed ones, and those in `bound` that the engine chose from the declared ones.
fn declared_ports(
    template: Option<&ContainerTemplate>,
    (container_port, protocol): (u16, Protocol),
    bound: &BTreeSet<u16>,
) -> BTreeSet<u16> {
    let template = template.filter(|t| t.connection.mode != NetworkMode::Host);
    let ports = template.into_iter().flat_map(|template| &template.ports);
    let ports = ports.filter(|port| {
        port.container_port == container_port && port.protocol == protocol && port.host_ip.is_none()
    });
    let choices = template.into_iter().flat_map(|t| &t.port_choices);
    let choices = choices.filter(|choice| {
        let key = (choice.container_port, choice.protocol);
        key == (container_port, protocol) && choice.host_ip.is_none()
    });
    let candidates = choices.flat_map(|choice| choice.candidates.iter().copied());
    ports
        .filter_map(|port| port.host_port)
        .chain(candidates.filter(|port| bound.contains(port)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ContainerId, PublishedPort, SpecDigest};
    use crate::runtime::{ContainerState, Role};

    fn template(host_ports: &[u16]) -> ContainerTemplate {
        let published = host_ports.iter().map(|host_port| PublishedPort {
            host_port: Some(*host_port),
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: None,
        });
        ContainerTemplate {
            ports: published.collect(),
            ..ContainerTemplate::default()
        }
    }

    fn ports(bound: &[(u16, u16)], declared: &[u16]) -> (Vec<u16>, Vec<u16>) {
        let bound = bound
            .iter()
            .map(|(port, host)| (*port, Protocol::Tcp, *host));
        let container = ObservedContainer {
            id: ContainerId("c1".into()),
            name: "demo-web-1".into(),
            role: Role::Agent,
            digest: SpecDigest::from_hex("ab"),
            digest_version: SpecDigest::VERSION.to_owned(),
            template_digest: None,
            image: "nginx".into(),
            state: ContainerState::Running { health: None },
            started_at: None,
            ports: bound.collect(),
            exposed: Vec::new(),
            has_healthcheck: false,
            failed_check: None,
            out_of_memory: None,
            joins: None,
        };
        let ip = Some([10, 0, 0, 4].into());
        let template = template(declared);
        let hosts = |endpoints: Vec<Endpoint>| endpoints.iter().map(|at| at.port).collect();
        (
            hosts(published(ip, &container, Some(&template))),
            hosts(internal(ip, &container, Some(&template))),
        )
    }

    #[test]
    fn users_get_the_declared_port_and_agents_another() {
        for (bound, declared, expected) in [
            (
                &[(80, 8080), (80, 23_000)][..],
                &[8080][..],
                (&[8080][..], 23_000),
            ),
            // Without a declared host port, both use the chosen one.
            (&[(80, 23_000)], &[], (&[23_000], 23_000)),
            // The agent forwards the declared port.
            (&[(80, 23_000)], &[8080], (&[8080], 23_000)),
            // A declared port in the range of chosen ports.
            (
                &[(80, 20_080), (80, 23_000)],
                &[20_080],
                (&[20_080], 23_000),
            ),
            (
                &[(80, 8080), (80, 8081), (80, 23_000)],
                &[8080, 8081],
                (&[8080, 8081], 23_000),
            ),
            // A container of an earlier declaration, and one of an earlier version of the manager.
            (&[(80, 9090), (80, 23_000)], &[8080], (&[8080], 23_000)),
            (&[(80, 9090), (80, 23_000)], &[], (&[9090], 23_000)),
            (&[(80, 8080)], &[8080], (&[8080], 8080)),
        ] {
            let (published, internal) = ports(bound, declared);
            assert_eq!(published, expected.0, "{bound:?} {declared:?}");
            assert_eq!(internal, [expected.1], "{bound:?} {declared:?}");
        }
    }
}
