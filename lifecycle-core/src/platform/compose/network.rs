//! Reads `ports` and `expose`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::diagnostic::Report;
use super::super::tree::Field;
use super::keys::{self, supported_entries};
use super::value::{self, PortRange};
use crate::model::{ContainerTemplate, Protocol, PublishedPort};

/// The maximum number of ports of a service.
const MAX_PORTS: u32 = 1000;

/// Reads `ports` into the template.
pub(super) fn ports(field: &Field<'_>, container: &mut ContainerTemplate, report: &mut Report) {
    // The container ports without a declared host port.
    let mut picked = BTreeSet::new();
    let mut host_ports: BTreeSet<(u16, Protocol, Option<IpAddr>)> = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for item in field.items(report) {
        let mut found = if item.is_map() {
            long(&item, report)
        } else {
            short(&item, report)
        };
        // As in Compose, equal entries count once.
        found.retain(|port| {
            let port = (
                port.host_port,
                port.container_port,
                port.protocol,
                port.host_ip,
            );
            seen.insert(port)
        });
        if container.ports.len() + found.len() > MAX_PORTS as usize {
            item.problem_with_help(
                report,
                format!("a service may publish at most {MAX_PORTS} ports"),
                "publish fewer ports",
            );
            return;
        }
        for port in found {
            let Some(host_port) = port.host_port else {
                let inside = port.container_port;
                if picked.insert((inside, port.protocol)) {
                    container.ports.push(port);
                } else {
                    item.problem(
                        report,
                        format!("the container port {inside} is published twice"),
                    );
                }
                continue;
            };
            // A port on all addresses of the node conflicts with the same port on one address.
            let taken = host_ports.iter().any(|(host, protocol, ip)| {
                (*host, *protocol) == (host_port, port.protocol)
                    && (ip.is_none() || port.host_ip.is_none() || *ip == port.host_ip)
            });
            if taken {
                item.problem(report, format!("the host port {host_port} is used twice"));
            } else {
                host_ports.insert((host_port, port.protocol, port.host_ip));
                container.ports.push(port);
            }
        }
    }
}

fn pairs(
    host: Option<PortRange>,
    container: PortRange,
    protocol: Protocol,
    host_ip: Option<IpAddr>,
) -> Vec<PublishedPort> {
    let host_ip = host_ip.filter(|ip| !ip.is_unspecified());
    let hosts = host.map(|range| range.first..=range.last);
    (container.first..=container.last)
        .enumerate()
        .map(|(index, container_port)| PublishedPort {
            host_port: hosts.clone().and_then(|mut ports| ports.nth(index)),
            container_port,
            protocol,
            host_ip,
        })
        .collect()
}

fn short(item: &Field<'_>, report: &mut Report) -> Vec<PublishedPort> {
    let Some(port) = item.parse(report, value::short_port) else {
        return Vec::new();
    };
    if is_too_large(item, port.container, report) {
        return Vec::new();
    }
    pairs(port.host, port.container, port.protocol, port.host_ip)
}

fn long(item: &Field<'_>, report: &mut Report) -> Vec<PublishedPort> {
    let mut target = None;
    let mut published = None;
    let mut protocol = Some(Protocol::Tcp);
    let mut host_ip = None;
    for (key, field) in supported_entries(item, keys::PORT, report) {
        match key {
            "target" => target = field.parse(report, value::port_range),
            "published" => {
                published = if field.text(report) == Some("0") {
                    None
                } else {
                    field.parse(report, value::port_range)
                };
            }
            "host_ip" => {
                host_ip = field
                    .parse(report, |text| match text {
                        "" => Ok(None),
                        text => text
                            .parse::<IpAddr>()
                            .map(Some)
                            .map_err(|_| format!("`{text}` is not an IP address")),
                    })
                    .flatten();
            }
            "protocol" => protocol = field.parse(report, value::protocol),
            _ => {}
        }
    }
    if item.get("target").is_none() {
        item.problem(report, "`target` is missing");
    }
    let (Some(target), Some(protocol)) = (target, protocol) else {
        return Vec::new();
    };
    if published.is_some_and(|published| published.size() != target.size()) {
        item.problem_with_help(
            report,
            "`published` and `target` must have the same number of ports",
            "specify one host port for each container port",
        );
        return Vec::new();
    }
    if is_too_large(item, target, report) {
        return Vec::new();
    }
    pairs(published, target, protocol, host_ip)
}

fn is_too_large(item: &Field<'_>, range: PortRange, report: &mut Report) -> bool {
    let is_too_large = range.size() > MAX_PORTS;
    if is_too_large {
        item.problem_with_help(
            report,
            format!("{} ports exceed the limit for a service", range.size()),
            format!("use at most {MAX_PORTS} ports"),
        );
    }
    is_too_large
}

/// Reads `expose` into the template.
pub(super) fn expose(field: &Field<'_>, container: &mut ContainerTemplate, report: &mut Report) {
    let mut exposed = BTreeSet::new();
    for item in field.items(report) {
        if let Some((range, protocol)) = item.parse(report, value::exposed)
            && !is_too_large(&item, range, report)
        {
            exposed.extend((range.first..=range.last).map(|port| (port, protocol)));
        }
        if exposed.len() > MAX_PORTS as usize {
            item.problem_with_help(
                report,
                format!("a service may expose at most {MAX_PORTS} ports"),
                "expose fewer ports",
            );
            return;
        }
    }
    container.expose = exposed.into_iter().collect();
}

/// Removes exposed ports that are also published. Call this after both keys are read.
pub(super) fn remove_duplicates(container: &mut ContainerTemplate) {
    let published: BTreeSet<(u16, Protocol)> = container
        .ports
        .iter()
        .map(|port| (port.container_port, port.protocol))
        .collect();
    container.expose.retain(|port| !published.contains(port));
}
