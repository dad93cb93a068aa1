//! Checks services against each other and against the nodes. All problems are reported before
//! anything is changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::compose::Draft;
use super::diagnostic::Report;
use super::tree::{Entry, Node, Position, Value};
use super::{CloudSpec, ManagerSpec};
use crate::model::{
    DependencyCondition, NetworkMode, NodeName, NodeSpec, Protocol, Resources, RestartPolicy,
    ServiceName, ServiceSpec, Starts,
};

/// The port of the SSH server on every node.
const SSH_PORT: u16 = 22;

/// The number of services of a dependency cycle that are named in a message.
const SHOWN_OF_CYCLE: usize = 10;

/// The maximum number of replicas of all services.
pub(super) const MAX_INSTANCES: usize = 100_000;

/// Returns the host ports that the platform uses on a node.
pub(super) fn platform_ports(manager: Option<&ManagerSpec>) -> BTreeSet<(u16, Protocol)> {
    let manager = manager.map_or(ManagerSpec::PORT, |manager| manager.port);
    BTreeSet::from([(SSH_PORT, Protocol::Tcp), (manager, Protocol::Tcp)])
}

/// Where services run.
pub(super) struct Place<'a> {
    pub(super) cloud: &'a CloudSpec,
    pub(super) nodes: &'a BTreeMap<NodeName, NodeSpec>,
    pub(super) manager: Option<&'a ManagerSpec>,
}

/// Checks all services of a Compose file against each other and against the nodes.
pub(super) fn check(
    root: &Node,
    services: &BTreeMap<ServiceName, Draft>,
    place: &Place<'_>,
    report: &mut Report,
) {
    let entries = match root.child("services").map(|node| &node.value) {
        Some(Value::Map(entries)) => entries.as_slice(),
        _ => &[],
    };
    let check = Check {
        root,
        entries: entries
            .iter()
            .map(|entry| (entry.key.as_str(), entry))
            .collect(),
        services,
        place,
    };
    check.size(report);
    check.cycles(report);
    check.dependencies(report);
    check.joined_networks(report);
    check.placement(report);
    check.host_ports(report);
    check.port_choices(report);
}

struct Check<'a> {
    root: &'a Node,
    /// The services in the tree, by name.
    entries: HashMap<&'a str, &'a Entry>,
    services: &'a BTreeMap<ServiceName, Draft>,
    place: &'a Place<'a>,
}

impl<'a> Check<'a> {
    fn specs(&self) -> impl Iterator<Item = &'a ServiceSpec> {
        self.services.values().map(|draft| &draft.spec)
    }

    /// Returns the position and path of a service's key, or of the key's nearest existing parent.
    fn locate(&self, service: &ServiceName, keys: &[&str]) -> (Position, String) {
        let mut path = vec!["services", service.as_str()];
        path.extend(keys);
        let entry = self.entries.get(service.as_str());
        let has = |entry: &Entry| {
            keys.first()
                .is_some_and(|key| entry.node.child(key).is_some())
        };
        let at = match entry {
            Some(entry) if has(entry) => entry.node.position_of(keys),
            Some(entry) => entry.at,
            None => self.root.position_of(&path),
        };
        (at, path.join("."))
    }

    /// Rejects an excessive number of replicas, which is most likely a typing error.
    fn size(&self, report: &mut Report) {
        let mut instances = 0;
        for spec in self.specs() {
            instances += usize::from(spec.replicas);
            if instances > MAX_INSTANCES {
                let (at, path) = self.locate(&spec.name, &["deploy", "replicas"]);
                report.problem_with_help(
                    at,
                    &path,
                    format!("more than {MAX_INSTANCES} replicas are declared up to this line"),
                    "declare fewer replicas",
                );
                return;
            }
        }
    }

    /// Reports each dependency cycle once, starting at the service that comes first by name.
    fn cycles(&self, report: &mut Report) {
        let mut done: BTreeSet<&ServiceName> = BTreeSet::new();
        for start in self.services.keys() {
            // Each level contains a service and its unvisited dependencies.
            let mut stack: Vec<(&ServiceName, Vec<&ServiceName>)> = Vec::new();
            let mut levels: HashMap<&ServiceName, usize> = HashMap::new();
            if !done.contains(start) {
                levels.insert(start, stack.len());
                stack.push((start, self.needs(start)));
            }
            while let Some((service, rest)) = stack.last_mut() {
                let service: &ServiceName = service;
                let Some(next) = rest.pop() else {
                    done.insert(service);
                    levels.remove(service);
                    stack.pop();
                    continue;
                };
                if let Some(first) = levels.get(next) {
                    let cycle = stack.iter().skip(*first).map(|(name, _)| name.as_str());
                    let mut names: Vec<&str> = cycle.take(SHOWN_OF_CYCLE).collect();
                    if stack.len() - first > names.len() {
                        names.push("…");
                    }
                    names.push(next.as_str());
                    let (at, path) = self.locate(service, &["depends_on", next.as_str()]);
                    report.problem_with_help(
                        at,
                        &path,
                        format!("services depend on each other: {}", names.join(" → ")),
                        "remove one of these dependencies",
                    );
                } else if !done.contains(next) {
                    levels.insert(next, stack.len());
                    stack.push((next, self.needs(next)));
                }
            }
        }
    }

    fn needs(&self, service: &ServiceName) -> Vec<&'a ServiceName> {
        self.services
            .get(service)
            .map(|draft| draft.spec.depends_on.keys().rev().collect())
            .unwrap_or_default()
    }

    fn dependencies(&self, report: &mut Report) {
        for spec in self.specs() {
            for (needed, condition) in &spec.depends_on {
                let Some(needed) = self.services.get(needed).map(|draft| &draft.spec) else {
                    continue;
                };
                let (at, path) = self.locate(&spec.name, &["depends_on", needed.name.as_str()]);
                let awaits_end = *condition == DependencyCondition::ServiceCompletedSuccessfully;
                let restarts = matches!(
                    needed.restart,
                    Some(RestartPolicy::Always | RestartPolicy::UnlessStopped)
                );
                if awaits_end && restarts {
                    report.problem_with_help(
                        at,
                        &path,
                        format!(
                            "`{}` never completes, because it is always restarted",
                            needed.name
                        ),
                        format!(
                            "remove `restart` from `{}`, or set it to `on-failure`",
                            needed.name
                        ),
                    );
                }
                if needed.starts == Starts::Last && spec.starts != Starts::Last {
                    report.problem_with_help(
                        at,
                        &path,
                        format!(
                            "`{}` starts last, so services that start earlier cannot depend on it",
                            needed.name
                        ),
                        "remove the dependency, or start this service last, too",
                    );
                }
            }
        }
    }

    /// Checks the services that join the network of another service.
    fn joined_networks(&self, report: &mut Report) {
        for spec in self.specs() {
            let joined = spec.container.connection.joins();
            let joined = joined.and_then(|joined| self.services.get(joined));
            let Some(joined) = joined.map(|draft| &draft.spec) else {
                continue;
            };
            let (at, path) = self.locate(&spec.name, &["network_mode"]);
            let name = &joined.name;
            let obstacle = match &joined.container.connection.mode {
                NetworkMode::Platform => None,
                NetworkMode::Service(other) if *other == spec.name => Some((
                    format!("`{name}` joins the network of this service"),
                    "remove `network_mode` from one of the two services".to_owned(),
                )),
                NetworkMode::Service(other) => Some((
                    format!("`{name}` joins the network of `{other}` itself"),
                    format!("write `service:{other}`, which is the same network"),
                )),
                NetworkMode::Host => Some((
                    format!("`{name}` has the network of its node"),
                    "write `network_mode: host` here, too".to_owned(),
                )),
                NetworkMode::None => Some((
                    format!("`{name}` has no network"),
                    "write `network_mode: none` here, too".to_owned(),
                )),
            };
            if let Some((message, help)) = obstacle {
                report.problem_with_help(at, &path, message, help);
                continue;
            }
            if spec.replicas != joined.replicas {
                let (at, path) = self.locate(&spec.name, &["deploy", "replicas"]);
                let message = format!(
                    "each replica joins the network of a replica of `{name}`, so both services \
                     need the same number of replicas: {} and {} are declared",
                    spec.replicas, joined.replicas
                );
                let help = "declare the number only for the service whose network is joined";
                report.problem_with_help(at, &path, message, help);
            }
            let nodes = (self.allowed_nodes(spec), self.allowed_nodes(joined));
            // `placement` reports a service that has no node at all.
            if !nodes.0.is_empty() && !nodes.1.is_empty() && nodes.0.is_disjoint(&nodes.1) {
                report.problem_with_help(
                    at,
                    &path,
                    format!("no node satisfies the constraints of both this service and `{name}`"),
                    "change the constraints: both services run on the same node",
                );
            }
        }
    }

    fn allowed_nodes(&self, spec: &ServiceSpec) -> BTreeSet<&'a NodeName> {
        self.place
            .nodes
            .values()
            .filter(|node| {
                spec.constraints
                    .iter()
                    .all(|constraint| constraint.holds(node))
            })
            .map(|node| &node.name)
            .collect()
    }

    /// Returns whether a service must not run on the manager's node because it is on the node's network.
    fn is_kept_from_manager(&self, spec: &ServiceSpec) -> bool {
        let on_azure = matches!(self.place.cloud, CloudSpec::Azure(_));
        on_azure && spec.container.connection.mode == NetworkMode::Host
    }

    fn placement(&self, report: &mut Report) {
        if self.place.nodes.is_empty() {
            return;
        }
        for spec in self.specs() {
            if self.allowed_nodes(spec).is_empty() && spec.container.metadata_service {
                let (at, path) = self.locate(&spec.name, &["x-lifecycle", "metadata"]);
                report.problem_with_help(
                    at,
                    &path,
                    "no node that satisfies the constraints of the service may run it: the \
                     manager's node does not give services access to the metadata service, because \
                     its identity controls the platform",
                    "add a node, or change the constraints",
                );
            } else if self.allowed_nodes(spec).is_empty() && self.is_kept_from_manager(spec) {
                let (at, path) = self.locate(&spec.name, &["network_mode"]);
                report.problem_with_help(
                    at,
                    &path,
                    "no node that satisfies the constraints of the service may run it: on Azure, \
                     services on the node's network never run on the manager's node, whose identity \
                     controls the platform",
                    "add a node, change the constraints, or remove `network_mode`",
                );
            } else if self.allowed_nodes(spec).is_empty() {
                let (at, path) = self.locate(&spec.name, &["deploy", "placement", "constraints"]);
                let nodes: Vec<&str> = self.place.nodes.keys().map(NodeName::as_str).collect();
                report.problem_with_help(
                    at,
                    &path,
                    format!(
                        "no node satisfies these constraints; the nodes are {}",
                        some_of(&nodes)
                    ),
                    "change the constraints, or add the labels to a node",
                );
            } else if let Some(most) = spec.max_per_node
                && usize::from(spec.replicas) > self.allowed_nodes(spec).len() * usize::from(most)
            {
                let keys = ["deploy", "placement", "max_replicas_per_node"];
                let (at, path) = self.locate(&spec.name, &keys);
                report.problem_with_help(
                    at,
                    &path,
                    format!(
                        "{} replicas do not fit: the number of allowed nodes is {}, and the limit \
                         for each is {most}",
                        spec.replicas,
                        self.allowed_nodes(spec).len()
                    ),
                    "declare fewer replicas, raise the limit, or add nodes",
                );
            } else if spec.replicas > 0 && !self.has_room(spec) {
                let (at, path) = self.locate(&spec.name, &["deploy", "resources", "reservations"]);
                report.problem_with_help(
                    at,
                    &path,
                    "no node that the service may run on has enough capacity",
                    "reserve less, or declare a larger `capacity` for a node",
                );
            }
        }
    }

    /// Returns whether an allowed node, if empty, has enough resources for the service.
    fn has_room(&self, spec: &ServiceSpec) -> bool {
        self.allowed_nodes(spec).into_iter().any(|name| {
            let capacity = self.place.nodes.get(name).and_then(|node| node.capacity);
            capacity.is_none_or(|capacity| spec.reserves.fits_with(Resources::default(), capacity))
        })
    }

    /// Checks host ports: only one instance per node can use a host port.
    fn host_ports(&self, report: &mut Report) {
        let mut users: BTreeMap<(u16, Protocol), Vec<Use<'_>>> = BTreeMap::new();
        for spec in self.specs().filter(|spec| spec.replicas > 0) {
            for port in &spec.container.ports {
                if let Some(host_port) = port.host_port {
                    users
                        .entry((host_port, port.protocol))
                        .or_default()
                        .push((port.host_ip, spec));
                }
            }
        }
        for ((port, protocol), uses) in users {
            if port == SSH_PORT && protocol == Protocol::Tcp {
                for (_, spec) in uses {
                    let (at, path) = self.locate(&spec.name, &["ports"]);
                    let message = format!("the host port {port} is used by SSH on every node");
                    report.problem(at, &path, message);
                }
                continue;
            }
            let mut at_all = Vec::new();
            let mut single: BTreeMap<IpAddr, Vec<&ServiceSpec>> = BTreeMap::new();
            for (address, spec) in uses {
                match address {
                    None => at_all.push(spec),
                    Some(address) => single.entry(address).or_default().push(spec),
                }
            }
            // A port at all addresses conflicts with the same port at each single one.
            if self.host_port(port, protocol, &at_all, report) {
                for mut specs in single.into_values() {
                    specs.extend(&at_all);
                    self.host_port(port, protocol, &specs, report);
                }
            }
        }
    }

    /// Checks that each replica can get one of the host ports.
    fn port_choices(&self, report: &mut Report) {
        for spec in self.specs().filter(|spec| spec.replicas > 0) {
            let nodes = self.allowed_nodes(spec).len();
            for choice in &spec.container.port_choices {
                let places = choice.candidates.len() * nodes;
                if nodes == 0 || usize::from(spec.replicas) <= places {
                    continue;
                }
                let (at, path) = self.locate(&spec.name, &["ports"]);
                let message = format!(
                    "only {} host ports of the range are free on each of {nodes} nodes, which are \
                     too few for {}",
                    choice.candidates.len(),
                    replicas_of(spec)
                );
                let help = "publish a larger range, or let the platform choose free ports \
                            (`- \"80\"`)";
                report.problem_with_help(at, &path, message, help);
            }
        }
    }

    /// Checks a host port that each of these services uses at the same address. Returns false if
    /// there are too few nodes.
    fn host_port(
        &self,
        port: u16,
        protocol: Protocol,
        specs: &[&ServiceSpec],
        report: &mut Report,
    ) -> bool {
        let manager = self.place.manager;
        let taken_by_manager = manager
            .filter(|manager| manager.port == port && protocol == Protocol::Tcp)
            .map(|manager| &manager.node);
        let mut all_nodes: BTreeSet<&NodeName> = BTreeSet::new();
        let mut instances = 0_usize;
        let mut fits = true;
        for spec in specs {
            let mut nodes = self.allowed_nodes(spec);
            if nodes.is_empty() {
                // `placement` has already reported this problem.
                continue;
            }
            if let Some(node) = taken_by_manager {
                nodes.remove(node);
            }
            let required = usize::from(spec.replicas);
            if required > nodes.len() {
                fits = false;
                let who = replicas_of(spec);
                self.too_many(spec, port, protocol, &who, nodes.len(), manager, report);
            }
            instances += required;
            all_nodes.extend(nodes);
        }
        if let (true, Some(last)) = (fits, specs.last())
            && instances > all_nodes.len()
        {
            fits = false;
            let each: Vec<String> = specs.iter().map(|spec| replicas_of(spec)).collect();
            let who = each.join(" and ");
            self.too_many(last, port, protocol, &who, all_nodes.len(), manager, report);
        }
        fits
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "both callers create the same message"
    )]
    fn too_many(
        &self,
        spec: &ServiceSpec,
        port: u16,
        protocol: Protocol,
        who: &str,
        nodes: usize,
        manager: Option<&ManagerSpec>,
        report: &mut Report,
    ) {
        let (at, path) = self.locate(&spec.name, &["ports"]);
        let places = match nodes {
            0 => "no node is".to_owned(),
            1 => "only 1 node is".to_owned(),
            more => format!("only {more} nodes are"),
        };
        let help = if manager.is_some_and(|manager| manager.port == port) {
            "publish another port, because the manager uses this one on its node"
        } else {
            "publish other host ports, let the platform choose free ports (`- \"80\"`), or declare \
             more nodes: `bootstrapper init` writes a platform.toml with enough nodes"
        };
        report.problem_with_help(
            at,
            &path,
            format!("{places} available for the host port {port}/{protocol}, used by {who}"),
            help,
        );
    }
}

/// The address at which a service uses a host port; `None` for all addresses.
type Use<'a> = (Option<IpAddr>, &'a ServiceSpec);

/// Describes the replicas of a service, for a message.
fn replicas_of(spec: &ServiceSpec) -> String {
    let noun = if spec.replicas == 1 {
        "replica"
    } else {
        "replicas"
    };
    format!("{} {noun} of `{}`", spec.replicas, spec.name)
}

/// Joins names for a message, up to a readable number.
fn some_of(names: &[&str]) -> String {
    const MOST: usize = 8;
    let shown: Vec<String> = names
        .iter()
        .take(MOST)
        .map(|name| format!("`{name}`"))
        .collect();
    let more = names.len().saturating_sub(MOST);
    if more == 0 {
        shown.join(", ")
    } else {
        format!("{} and {more} more", shown.join(", "))
    }
}
