//! Reads `ports` and `expose`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::diagnostic::Report;
use super::super::tree::Field;
use super::keys::{self, supported_entries};
use super::value::{self, PortRange};
use super::{Draft, MAX_ALL_PORTS, ProjectContext, take};
use crate::model::{ContainerTemplate, PortChoice, Protocol, PublishedPort, ServiceName};

/// The maximum number of ports of a service. Also, only as many ports of a range of host ports are
/// used.
const MAX_PORTS: u32 = 1000;

/// The ports in one entry of `ports`.
enum Entry {
    /// Each container port has its own host port.
    Ports(Vec<PublishedPort>),
    /// A container port is published at one of several host ports.
    Choice(PortChoice),
}

/// Reads `ports` into the template.
pub(super) fn ports(
    field: &Field<'_>,
    project: &ProjectContext<'_>,
    container: &mut ContainerTemplate,
    report: &mut Report,
) {
    // The container ports without a declared host port.
    let mut picked = BTreeSet::new();
    let mut host_ports: BTreeMap<(u16, Protocol), Vec<Option<IpAddr>>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut candidates = 0;
    for item in field.items(report) {
        let entry = if item.is_map() {
            long(&item, report)
        } else {
            short(&item, report)
        };
        let mut found = match entry {
            Some(Entry::Ports(found)) => found,
            Some(Entry::Choice(choice)) => {
                candidates += choice.candidates.len();
                if !has_room(&item, choice.candidates.len(), project, report) {
                    return;
                }
                if container.port_choices.contains(&choice) {
                    continue;
                }
                if candidates > MAX_PORTS as usize {
                    too_many(&item, report);
                    return;
                }
                container.port_choices.push(choice);
                continue;
            }
            None => continue,
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
        if !has_room(&item, found.len(), project, report) {
            return;
        }
        if container.ports.len() + found.len() > MAX_PORTS as usize {
            too_many(&item, report);
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
            let addresses = host_ports.entry((host_port, port.protocol)).or_default();
            let taken = addresses
                .iter()
                .any(|ip| ip.is_none() || port.host_ip.is_none() || *ip == port.host_ip);
            if taken {
                item.problem(report, format!("the host port {host_port} is used twice"));
            } else {
                addresses.push(port.host_ip);
                container.ports.push(port);
            }
        }
    }
}

/// Counts ports of the platform. Reports a problem if there are too many.
fn has_room(
    item: &Field<'_>,
    ports: usize,
    project: &ProjectContext<'_>,
    report: &mut Report,
) -> bool {
    let left = &project.left.ports;
    if left.get() == 0 {
        // The problem was already reported.
        return false;
    }
    let has_room = take(left, ports);
    if !has_room {
        let message = format!("up to this line, all services have more than {MAX_ALL_PORTS} ports");
        item.problem_with_help(report, message, "publish and expose fewer ports");
    }
    has_room
}

fn too_many(item: &Field<'_>, report: &mut Report) {
    item.problem_with_help(
        report,
        format!("a service may publish at most {MAX_PORTS} ports"),
        "publish fewer ports",
    );
}

fn entry(
    host: Option<PortRange>,
    container: PortRange,
    protocol: Protocol,
    host_ip: Option<IpAddr>,
) -> Entry {
    let host_ip = host_ip.filter(|ip| !ip.is_unspecified());
    if let Some(host) = host.filter(|host| host.size() > container.size()) {
        return Entry::Choice(PortChoice {
            candidates: (host.first..=host.last).take(MAX_PORTS as usize).collect(),
            container_port: container.first,
            protocol,
            host_ip,
        });
    }
    let hosts = host.map(|range| range.first..=range.last);
    let ports = (container.first..=container.last)
        .enumerate()
        .map(|(index, container_port)| PublishedPort {
            host_port: hosts.clone().and_then(|mut ports| ports.nth(index)),
            container_port,
            protocol,
            host_ip,
        });
    Entry::Ports(ports.collect())
}

fn short(item: &Field<'_>, report: &mut Report) -> Option<Entry> {
    let port = item.parse_number(report, value::short_port)?;
    if is_too_large(item, port.container, report) {
        return None;
    }
    Some(entry(
        port.host,
        port.container,
        port.protocol,
        port.host_ip,
    ))
}

fn long(item: &Field<'_>, report: &mut Report) -> Option<Entry> {
    let mut target = None;
    let mut published = None;
    let mut protocol = Some(Protocol::Tcp);
    let mut host_ip = None;
    for (key, field) in supported_entries(item, keys::PORT, report) {
        match key {
            "target" => target = field.parse_number(report, value::port_range),
            "published" => {
                published = if matches!(field.text(report), Some("" | "0")) {
                    None
                } else {
                    field.parse_number(report, value::port_range)
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
    let (target, protocol) = (target?, protocol?);
    let differs = |published: PortRange| published.size() != target.size() && target.size() > 1;
    if published.is_some_and(differs) {
        item.problem_with_help(
            report,
            "`published` and `target` must have the same number of ports",
            "specify one host port for each container port",
        );
        return None;
    }
    if is_too_large(item, target, report) {
        return None;
    }
    Some(entry(published, target, protocol, host_ip))
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
pub(super) fn expose(
    field: &Field<'_>,
    project: &ProjectContext<'_>,
    container: &mut ContainerTemplate,
    report: &mut Report,
) {
    let mut exposed = BTreeSet::new();
    for item in field.items(report) {
        if let Some((range, protocol)) = item.parse_number(report, value::exposed)
            && !is_too_large(&item, range, report)
        {
            if !has_room(&item, range.size() as usize, project, report) {
                return;
            }
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

/// Removes exposed ports that are also published, and exposes those that are published at one of
/// several host ports. Call this after both keys are read.
pub(super) fn settle_exposed(container: &mut ContainerTemplate) {
    let choices = container.port_choices.iter();
    let chosen = choices.map(|choice| (choice.container_port, choice.protocol));
    let exposed: BTreeSet<_> = container.expose.iter().copied().chain(chosen).collect();
    container.expose = exposed.into_iter().collect();
    let published: BTreeSet<(u16, Protocol)> = container
        .ports
        .iter()
        .map(|port| (port.container_port, port.protocol))
        .collect();
    container.expose.retain(|port| !published.contains(port));
}

/// Removes the host ports that a service declares, or that are used by the platform, from the
/// choices of all services.
pub(in super::super) fn reserve_ports(
    services: &mut BTreeMap<ServiceName, Draft>,
    mut used: BTreeSet<(u16, Protocol)>,
) {
    for draft in services.values().filter(|draft| draft.spec.replicas > 0) {
        let ports = draft.spec.container.ports.iter();
        used.extend(ports.filter_map(|port| Some((port.host_port?, port.protocol))));
    }
    let drafts = services.values_mut();
    for choice in drafts.flat_map(|draft| &mut draft.spec.container.port_choices) {
        let protocol = choice.protocol;
        choice
            .candidates
            .retain(|port| !used.contains(&(*port, protocol)));
    }
}
