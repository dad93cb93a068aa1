//! Reads `networks`, `network_mode`, `links` and other keys for the connections of a container.
//!
//! A platform has one network, in which each service is reachable by name from every node. The
//! networks in a Compose file only give services additional names.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::super::diagnostic::Report;
use super::super::tree::{Field, Position, Value};
use super::keys::{self, supported_entries};
use super::{Declared, Draft, Names};
use crate::model::{
    Connection, ContainerTemplate, DependencyCondition, NetworkMode, PublishedPort, ServiceName,
    ServiceSpec,
};

/// An additional name for a service.
pub(super) struct Alias {
    /// The service that gets the name.
    pub(super) service: ServiceName,
    pub(super) name: String,
    pub(super) at: Position,
    pub(super) path: String,
}

/// The aliases and networks of a service.
#[derive(Default)]
pub(super) struct Connected<'a> {
    pub(super) aliases: Vec<Alias>,
    /// The networks that the service lists; `None` if it lists none.
    pub(super) networks: Option<BTreeSet<&'a str>>,
}

/// Reads the top-level networks. Only their names are used; other settings are reported as having
/// no effect.
pub(super) fn declared<'a>(field: &Field<'a>, report: &mut Report) -> Names<'a> {
    let mut names = Vec::new();
    for (name, network) in field.entries(report) {
        names.push(name);
        if network.is_null() {
            continue;
        }
        for (key, field) in network.entries(report) {
            // These values request what the platform does anyway, so they are not reported.
            let is_default = match key {
                "driver" => field.text(report) == Some("bridge"),
                "internal" | "external" | "enable_ipv6" if !field.is_map() => {
                    field.boolean(report) == Some(false)
                }
                "enable_ipv4" => field.boolean(report) == Some(true),
                _ => false,
            };
            if !is_default {
                keys::is_supported(key, &field, keys::NETWORK, report);
            }
        }
    }
    names.into_iter().collect()
}

/// Reads the value of a key that this module supports. Returns `false` for any other key.
pub(super) fn read<'a>(
    key: &str,
    field: &Field<'a>,
    spec: &mut ServiceSpec,
    declared: &Declared<'_>,
    connected: &mut Connected<'a>,
    report: &mut Report,
) -> bool {
    let connection = &mut spec.container.connection;
    match key {
        "network_mode" => connection.mode = mode(field, &spec.name, declared, report),
        "networks" => service_networks(field, &spec.name, declared, connected, report),
        "links" => links(field, spec, declared, connected, report),
        "container_name" => {
            let name = field.parse(report, dns_name);
            if let Some(name) = name.filter(|name| name != spec.name.as_str()) {
                report.warning(
                    field.at,
                    &field.path,
                    "the platform chooses the names of containers; this name becomes an additional \
                     name for the service",
                );
                connected.aliases.push(Alias {
                    service: spec.name.clone(),
                    name,
                    at: field.at,
                    path: field.path.clone(),
                });
            }
        }
        "hostname" => connection.hostname = field.parse(report, dns_name),
        "domainname" => connection.domainname = field.parse(report, dns_name),
        "extra_hosts" => connection.extra_hosts = hosts(field, report),
        "dns" => {
            connection.dns = resolvers(field, report);
            if !connection.dns.is_empty() {
                report.warning(
                    field.at,
                    &field.path,
                    "a container with its own resolvers cannot resolve the names of other \
                     services",
                );
            }
        }
        "dns_search" => connection.dns_search = texts_or_one(field, report),
        "dns_opt" => connection.dns_options = field.texts(report),
        _ => return false,
    }
    true
}

fn mode(
    field: &Field<'_>,
    service: &ServiceName,
    declared: &Declared<'_>,
    report: &mut Report,
) -> NetworkMode {
    let Some(text) = field.text(report) else {
        return NetworkMode::Platform;
    };
    if let Some(joined) = text.strip_prefix("service:") {
        return joined_network(field, joined, service, declared, report);
    }
    match text {
        "host" => NetworkMode::Host,
        "none" => NetworkMode::None,
        "bridge" | "default" => NetworkMode::Platform,
        _ if text.starts_with("container:") => {
            field.problem_with_help(
                report,
                format!(
                    "`{text}`: a service cannot join the network of a container, because the \
                     platform chooses the names of containers"
                ),
                "write `service:` and the name of a service",
            );
            NetworkMode::Platform
        }
        _ => {
            field.problem_with_help(
                report,
                format!("unknown network mode `{text}`"),
                "write `host`, `none`, `bridge` or `service:` and the name of a service; named \
                 networks belong under `networks`",
            );
            NetworkMode::Platform
        }
    }
}

/// Reads the name of the service whose network a service joins.
fn joined_network(
    field: &Field<'_>,
    joined: &str,
    service: &ServiceName,
    declared: &Declared<'_>,
    report: &mut Report,
) -> NetworkMode {
    if joined == service.as_str() {
        field.problem_with_help(
            report,
            "a service cannot join its own network",
            "remove `network_mode`, or write the name of another service",
        );
        return NetworkMode::Platform;
    }
    let known = declared.services.contains(joined);
    if let Some(name) = ServiceName::try_from(joined).ok().filter(|_| known) {
        report.warning(
            field.value_at(),
            &field.path,
            format!(
                "`{joined}` and the services that join its network do not use the platform's \
                 resolver, so they cannot resolve the names of other services"
            ),
        );
        return NetworkMode::Service(name);
    }
    report.unknown_name(
        field.value_at(),
        &field.path,
        format!("the service `{joined}` is not declared"),
        joined,
        declared.services.iter(),
    );
    NetworkMode::Platform
}

/// Rejects the keys that belong to the service whose network is joined, as the engine does.
fn check_joining(field: &Field<'_>, joined: &ServiceName, report: &mut Report) {
    let given = |key: &str| {
        let is_empty = |field: &Field<'_>| match &field.node.value {
            Value::List(items) => items.is_empty(),
            _ => field.is_null(),
        };
        field.get(key).filter(|field| !is_empty(field))
    };
    for key in [
        "ports",
        "networks",
        "hostname",
        "dns",
        "extra_hosts",
        "links",
    ] {
        if let Some(field) = given(key) {
            let help = match key {
                "ports" => format!(
                    "publish the ports of `{joined}`; list a port under `expose` if other services \
                     need it under the name of this service"
                ),
                _ => format!("move `{key}` to `{joined}`"),
            };
            field.problem_with_help(
                report,
                format!(
                    "`{key}` cannot be combined with `network_mode: service:{joined}`, because \
                     the service has the network of `{joined}`"
                ),
                help,
            );
        }
    }
    for key in ["domainname", "dns_opt", "dns_search"] {
        if let Some(field) = given(key) {
            let consequence = "the service has the network settings of the service that it joins";
            report.unsupported(field.at, &field.path, consequence, true);
        }
    }
}

/// Completes the services that join the network of another one: they depend on it, and have as
/// many replicas unless they declare their number.
pub(super) fn join(
    services: &mut BTreeMap<ServiceName, Draft>,
    with_replicas: &BTreeSet<ServiceName>,
) {
    // A service that joins a network itself is rejected later.
    let with_networks = services
        .iter()
        .filter(|(_, draft)| draft.spec.container.connection.joins().is_none());
    let replicas: BTreeMap<ServiceName, u16> = with_networks
        .map(|(name, draft)| (name.clone(), draft.spec.replicas))
        .collect();
    for draft in services.values_mut() {
        let spec = &mut draft.spec;
        let Some(joined) = spec.container.connection.joins().cloned() else {
            continue;
        };
        let Some(replicas) = replicas.get(&joined) else {
            continue;
        };
        if !with_replicas.contains(&spec.name) {
            spec.replicas = *replicas;
        }
        spec.depends_on
            .entry(joined)
            .or_insert(DependencyCondition::ServiceStarted);
    }
}

fn service_networks<'a>(
    field: &Field<'a>,
    service: &ServiceName,
    declared: &Declared<'_>,
    connected: &mut Connected<'a>,
    report: &mut Report,
) {
    let mut names = BTreeSet::new();
    let mut known = |name: &'a str, field: &Field<'_>, report: &mut Report| {
        if name == "default" || declared.networks.contains(name) {
            names.insert(name);
        } else {
            report.unknown_name(
                field.at,
                &field.path,
                format!("the network `{name}` is not declared under `networks`"),
                name,
                declared.networks.iter(),
            );
        }
    };
    if field.is_list() {
        for item in field.items(report) {
            if let Some(name) = item.text(report) {
                known(name, &item, report);
            }
        }
        // A null value counts as an absent key.
        connected.networks = Some(names).filter(|names| !names.is_empty());
        return;
    }
    if !field.is_map() {
        field.wrong_kind(report, "a list or a mapping");
        return;
    }
    for (name, entry) in field.entries(report) {
        known(name, &entry, report);
        if entry.is_null() {
            continue;
        }
        for (_, field) in supported_entries(&entry, keys::SERVICE_NETWORK, report) {
            if field.is_null() {
                continue;
            }
            for item in field.items(report) {
                connected
                    .aliases
                    .extend(item.parse(report, dns_name).map(|name| Alias {
                        service: service.clone(),
                        name,
                        at: item.value_at(),
                        path: item.path.clone(),
                    }));
            }
        }
    }
    connected.networks = Some(names).filter(|names| !names.is_empty());
}

/// Reads `db`, or `db:database`; the linked service starts first.
fn links<'a>(
    field: &Field<'a>,
    spec: &mut ServiceSpec,
    declared: &Declared<'_>,
    connected: &mut Connected<'a>,
    report: &mut Report,
) {
    for item in field.items(report) {
        let Some(text) = item.text(report) else {
            continue;
        };
        let (name, alias) = match text.split_once(':') {
            Some((name, alias)) => (name, Some(alias)),
            None => (text, None),
        };
        if !declared.services.contains(name) {
            report.unknown_name(
                item.value_at(),
                &item.path,
                format!("the service `{name}` is not declared"),
                name,
                declared.services.iter(),
            );
            continue;
        }
        let Ok(service) = ServiceName::try_from(name) else {
            continue;
        };
        if let Some(alias) = alias.filter(|alias| *alias != name)
            && let Some(alias) = item.parse_as(alias, report, dns_name)
        {
            connected.aliases.push(Alias {
                service: service.clone(),
                name: alias,
                at: item.value_at(),
                path: item.path.clone(),
            });
        }
        if service != spec.name {
            spec.depends_on
                .entry(service)
                .or_insert(DependencyCondition::ServiceStarted);
        }
    }
}

/// Parses a DNS name: labels of letters, digits, `-` and `_`.
fn dns_name(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && label.chars().all(inner)
    };
    if text.len() <= 253 && text.split('.').all(label) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not a valid DNS name: use letters, digits, `-`, `_` and `.`"
        ))
    }
}

/// Reads `name:address`, `name=address`, or a mapping.
pub(super) fn hosts(field: &Field<'_>, report: &mut Report) -> Vec<String> {
    let mut hosts = Vec::new();
    let mut add = |name: &str, address: &str, field: &Field<'_>, report: &mut Report| {
        let bare = address
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(address);
        if bare != "host-gateway" && bare.parse::<IpAddr>().is_err() {
            field.problem(
                report,
                format!("`{address}` is neither an IP address nor `host-gateway`"),
            );
        } else if field.parse_as(name, report, dns_name).is_some() {
            hosts.push(format!("{name}:{bare}"));
        }
    };
    if field.is_list() {
        for item in field.items(report) {
            let Some(text) = item.text(report) else {
                continue;
            };
            match text.split_once('=').or_else(|| text.split_once(':')) {
                Some((name, address)) => add(name, address, &item, report),
                None => item.problem(
                    report,
                    format!("`{text}` is not in the format `name=address`"),
                ),
            }
        }
    } else {
        for (name, entry) in field.entries(report) {
            for item in entry.items_or_one(report) {
                if let Some(address) = item.text(report) {
                    add(name, address, &item, report);
                }
            }
        }
    }
    hosts
}

fn resolvers(field: &Field<'_>, report: &mut Report) -> Vec<String> {
    let items = field.items_or_one(report);
    let parse = |text: &str| match text.parse::<IpAddr>() {
        Ok(ip) => Ok(ip.to_string()),
        Err(_) => Err(format!("`{text}` is not an IP address")),
    };
    items
        .iter()
        .filter_map(|item| item.parse(report, parse))
        .collect()
}

fn texts_or_one(field: &Field<'_>, report: &mut Report) -> Vec<String> {
    let items = field.items_or_one(report);
    items
        .iter()
        .filter_map(|item| item.text(report).map(str::to_owned))
        .collect()
}

/// Applies the network mode to the ports. Call this after both keys are read.
pub(super) fn settle(field: &Field<'_>, container: &mut ContainerTemplate, report: &mut Report) {
    let connection = &mut container.connection;
    if let NetworkMode::Service(joined) = &connection.mode {
        check_joining(field, joined, report);
        *connection = Connection {
            mode: connection.mode.clone(),
            ..Connection::default()
        };
        container.ports.clear();
        return;
    }
    if !connection.has_own_resolvers() {
        for key in ["dns_opt", "dns_search"] {
            if let Some(field) = field.get(key).filter(|field| !field.is_null()) {
                let consequence = "the platform's resolver does not support this key; set `dns`, \
                                   too";
                report.unsupported(field.at, &field.path, consequence, true);
            }
        }
    }
    let mode = connection.mode.clone();
    if mode == NetworkMode::Platform {
        return;
    }
    if let Some(networks) = field.get("networks").filter(|field| !field.is_null()) {
        networks.problem_with_help(
            report,
            "`networks` and `network_mode` cannot be combined",
            "keep only one of the two",
        );
    }
    if mode == NetworkMode::None {
        let publishes = !(container.ports.is_empty() && container.port_choices.is_empty());
        if let Some(ports) = field.get("ports").filter(|_| publishes) {
            let consequence = "a container without a network has no reachable ports";
            report.unsupported(ports.at, &ports.path, consequence, true);
        }
        container.ports.clear();
        container.port_choices.clear();
        container.expose.clear();
        return;
    }
    let chooses = !container.port_choices.is_empty();
    let maps = container.ports.iter().any(|port| {
        port.host_ip.is_some()
            || port
                .host_port
                .is_some_and(|host| host != port.container_port)
    });
    if let Some(ports) = field.get("ports").filter(|_| maps || chooses) {
        let consequence = "with the node's network, ports are not mapped: the process opens its \
                           ports directly on the node";
        report.unsupported(ports.at, &ports.path, consequence, true);
    }
    let published = container
        .ports
        .iter()
        .map(|port| (port.container_port, port.protocol));
    let choices = container.port_choices.iter();
    let choices = choices.map(|choice| (choice.container_port, choice.protocol));
    let exposed = container.expose.iter().copied();
    let all: BTreeSet<_> = published.chain(choices).chain(exposed).collect();
    container.expose.clear();
    container.port_choices.clear();
    container.ports = all
        .into_iter()
        .map(|(port, protocol)| PublishedPort {
            host_port: Some(port),
            container_port: port,
            protocol,
            host_ip: None,
        })
        .collect();
}

/// Adds the aliases to the services. Two services cannot have the same alias.
pub(super) fn add_aliases(
    services: &mut BTreeMap<ServiceName, Draft>,
    aliases: Vec<Alias>,
    report: &mut Report,
) {
    let mut owners: BTreeMap<String, ServiceName> = BTreeMap::new();
    let lower = |name: &ServiceName| (name.as_str().to_ascii_lowercase(), name.clone());
    let names: HashMap<String, ServiceName> = services.keys().map(lower).collect();
    for alias in aliases {
        if alias.name == alias.service.as_str() {
            continue;
        }
        let taken = names.get(&alias.name.to_ascii_lowercase());
        if let Some(taken) = taken.filter(|taken| **taken != alias.service) {
            report.problem_with_help(
                alias.at,
                &alias.path,
                format!("`{taken}` is already the name of a service"),
                "choose another name",
            );
            continue;
        }
        let lower = alias.name.to_ascii_lowercase();
        let owner = owners.entry(lower).or_insert_with(|| alias.service.clone());
        if *owner != alias.service {
            let consequence = "another service already has this name, and a name belongs to \
                               one service only";
            report.unsupported(alias.at, &alias.path, consequence, true);
            continue;
        }
        if let Some(draft) = services.get_mut(&alias.service) {
            draft.spec.aliases.insert(alias.name);
        }
    }
}

/// Warns if two services have no network in common. In Compose, such services cannot reach each
/// other, but here they can.
pub(super) fn warn_about_isolation(
    field: Option<&Field<'_>>,
    memberships: &[BTreeSet<&str>],
    report: &mut Report,
) {
    let Some(field) = field else { return };
    // Most services have the same networks.
    let memberships: BTreeSet<&BTreeSet<&str>> = memberships.iter().collect();
    let mut common = memberships
        .first()
        .map(|one| (*one).clone())
        .unwrap_or_default();
    for one in &memberships {
        common.retain(|network| one.contains(network));
    }
    let apart = common.is_empty()
        && memberships.iter().enumerate().any(|(index, one)| {
            let mut others = memberships.iter().take(index);
            others.any(|other| one.is_disjoint(other))
        });
    if apart {
        let message = "separate networks do not isolate services, whether on one node or between \
                       nodes: every service can reach every other service by name";
        report.warning(field.at, &field.path, message);
    }
}
