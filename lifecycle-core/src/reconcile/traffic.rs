//! Computes where agents forward connections to service addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use super::declared::{Agents, Declared};
use super::endpoints::{internal, reachable};
use super::observe::{NodeView, Observed, Readiness};
use crate::cloud::Power;
use crate::model::{ContainerId, Epoch, ImageSource, NodeName, Protocol, ServiceName};
use crate::network::{Backend, Redirect, ServiceEntry, Table};
use crate::runtime::{ContainerState, EngineState, ObservedContainer, Role};

/// The containers that were ready when their node was last observed, by name.
pub(super) type Served = BTreeMap<String, NodeName>;

/// Updates the containers of the nodes that can be observed now.
pub(super) fn note_served(served: &mut Served, observed: &Observed) {
    let is_observed = |node: &NodeName| {
        let view = observed.nodes.get(node);
        view.is_some_and(|view| view.engine_state().is_some())
    };
    served.retain(|_, node| !is_observed(node));
    for (node, view) in &observed.nodes {
        let state = view.engine_state().into_iter();
        for container in state.flat_map(|state| &state.containers) {
            if is_ready(view, container) {
                served.insert(container.name.clone(), node.clone());
            }
        }
    }
}

/// Returns the current table, in which containers in `stopping` get no new connections. `previous` is
/// the table before. Returns `None` if the platform has no agents.
pub(super) fn table(
    declared: &Declared,
    observed: &Observed,
    stopping: &BTreeSet<ContainerId>,
    served: &Served,
    previous: Option<&Table>,
) -> Option<Table> {
    let agents = declared.agents.as_ref()?;
    let mut services: BTreeMap<ServiceName, ServiceEntry> = agents
        .addresses
        .iter()
        .map(|(name, address)| (name.clone(), entry(declared, name, *address)))
        .collect();
    for view in observed.nodes.values() {
        let state = view.engine_state().into_iter();
        let containers = state.flat_map(|state| {
            let containers = state.containers.iter();
            containers.map(|container| reachable(state, container))
        });
        for container in containers {
            let container = container.as_ref();
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
        redirects: redirects(declared, observed, stopping, previous),
        lost: lost(observed, served),
        services,
    })
}

/// Returns the containers whose nodes are cut off, stopped or deleted, and cannot close the
/// connections to them.
fn lost(observed: &Observed, served: &Served) -> BTreeMap<String, NodeName> {
    let is_lost = |node: &NodeName| match observed.nodes.get(node) {
        Some(view) => view.cut_off || view.machine.power == Power::Stopped,
        None => observed.cloud_unknown.is_none(),
    };
    let lost = served.iter().filter(|(_, node)| is_lost(node));
    lost.map(|(container, node)| (container.clone(), node.clone()))
        .collect()
}

/// Returns the published ports that the agents forward: those of a service that has a container on
/// the node, but none that is ready, is not being stopped, and has the port. While a node cannot be
/// observed, it keeps the redirects of `previous`.
fn redirects(
    declared: &Declared,
    observed: &Observed,
    stopping: &BTreeSet<ContainerId>,
    previous: Option<&Table>,
) -> Vec<Redirect> {
    let mut redirects = Vec::new();
    if declared.deleting {
        return redirects;
    }
    for (node, view) in &observed.nodes {
        let Some(state) = view.engine_state() else {
            let previous = previous.into_iter().flat_map(|table| &table.redirects);
            let kept = previous.filter(|redirect| {
                redirect.node == *node && declared.services.contains_key(&redirect.service)
            });
            redirects.extend(kept.cloned());
            continue;
        };
        redirects.extend(of_node(declared, node, view, state, stopping));
    }
    redirects.sort();
    redirects
}

fn of_node(
    declared: &Declared,
    node: &NodeName,
    view: &NodeView,
    state: &EngineState,
    stopping: &BTreeSet<ContainerId>,
) -> Vec<Redirect> {
    let mut containers: BTreeMap<&ServiceName, Vec<&ObservedContainer>> = BTreeMap::new();
    // The service whose running container has each TCP port of the node.
    let mut holders: BTreeMap<u16, &ServiceName> = BTreeMap::new();
    for container in &state.containers {
        let Role::Instance(id) = &container.role else {
            continue;
        };
        containers.entry(&id.service).or_default().push(container);
        if container.state.is_running() && !stopping.contains(&container.id) {
            let tcp = container
                .ports
                .iter()
                .filter(|port| port.1 == Protocol::Tcp);
            holders.extend(tcp.map(|port| (port.2, &id.service)));
        }
    }
    let mut redirects: BTreeMap<u16, (bool, Redirect)> = BTreeMap::new();
    for (name, containers) in containers {
        let Some(service) = declared.services.get(name) else {
            continue;
        };
        for (port, container_port) in service.redirectable_ports() {
            let serves = |container: &&ObservedContainer| {
                let mut ports = container.ports.iter();
                matches!(container.state, ContainerState::Running { .. })
                    && !stopping.contains(&container.id)
                    // Not checked yet, for example because the manager has just started.
                    && !matches!(
                        view.readiness.get(&container.id),
                        Some(Readiness::Waiting { .. })
                    )
                    && ports.any(|bound| (bound.1, bound.2) == (Protocol::Tcp, port))
            };
            let is_of_other = holders.get(&port).is_some_and(|holder| *holder != name);
            if is_of_other || containers.iter().any(serves) {
                continue;
            }
            // Two services can have this port on a node while one of them moves to another node.
            let runs = containers
                .iter()
                .any(|container| container.state.is_running());
            if redirects
                .get(&port)
                .is_some_and(|(other_runs, _)| *other_runs || !runs)
            {
                continue;
            }
            let redirect = Redirect {
                node: node.clone(),
                port,
                service: name.clone(),
                container_port,
            };
            redirects.insert(port, (runs, redirect));
        }
    }
    redirects
        .into_values()
        .map(|(_, redirect)| redirect)
        .collect()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cloud::{ObservedNode, OpenPorts, SshAddress};
    use crate::model::{
        Addresses, Generation, InstanceId, NodeSpec, PlatformId, PublishedPort, Replica,
        ServiceSpec, SpecDigest,
    };
    use crate::platform::{CloudSpec, Declaration, ManagerSpec, NetworkSpec};
    use crate::reconcile::observe::EngineView;
    use crate::registry::Unknown;
    use crate::runtime::EngineInfo;
    use crate::secret::PlatformKey;

    const NODE: &str = "n1";

    fn node() -> NodeName {
        NodeName::try_from(NODE).unwrap()
    }

    /// Declares services that publish container port 80 at these host ports.
    fn declared(services: &[(&str, u16)]) -> Declared {
        let services = services.iter().map(|(name, host_port)| {
            let name = ServiceName::try_from(*name).unwrap();
            let mut spec = ServiceSpec::new(name.clone(), ImageSource::Image("nginx".into()));
            spec.container.ports = vec![PublishedPort {
                host_port: Some(*host_port),
                container_port: 80,
                protocol: Protocol::Tcp,
                host_ip: None,
            }];
            (name, spec)
        });
        let declaration = Declaration {
            name: "demo".parse().unwrap(),
            id: PlatformId::new(uuid::Uuid::nil()),
            manager: ManagerSpec {
                node: node(),
                port: ManagerSpec::PORT,
            },
            cloud: CloudSpec::Local { subnet: None },
            nodes: [(node(), NodeSpec::new(node()))].into(),
            services: services.collect(),
            volumes: BTreeSet::new(),
            network: NetworkSpec::default(),
            deadlines: crate::cloud::CloudDeadlines::default(),
            overrides: crate::platform::Overrides::default(),
        };
        let key = PlatformKey::from_hex(&"5a".repeat(32)).unwrap();
        Declared::new(Generation(1), &declaration, &key).unwrap()
    }

    /// Returns a container of a service that has host ports of the node; `ready` is `None` if it has
    /// exited.
    fn container(service: &str, hosts: &[u16], ready: Option<bool>) -> (ObservedContainer, bool) {
        let state = match ready {
            Some(_) => ContainerState::Running { health: None },
            None => ContainerState::Exited { code: 0, at: None },
        };
        let container = ObservedContainer {
            id: ContainerId(format!("{service}-{hosts:?}-{ready:?}").into()),
            name: format!("demo-{service}-1-{hosts:?}"),
            role: Role::Instance(InstanceId {
                service: ServiceName::try_from(service).unwrap(),
                replica: Replica(1),
            }),
            digest: SpecDigest::from_hex("ab"),
            digest_version: SpecDigest::VERSION.to_owned(),
            template_digest: None,
            image: "nginx".into(),
            state,
            started_at: None,
            ports: hosts
                .iter()
                .map(|host| (80, Protocol::Tcp, *host))
                .collect(),
            exposed: Vec::new(),
            has_healthcheck: false,
            failed_check: None,
            out_of_memory: None,
            joins: None,
        };
        (container, ready == Some(true))
    }

    fn observed(containers: Option<&[(ObservedContainer, bool)]>) -> Observed {
        let since = chrono::DateTime::UNIX_EPOCH;
        let mut view = NodeView::not_asked(ObservedNode {
            name: node(),
            provider_id: "1".into(),
            power: Power::Running,
            addresses: Addresses::default(),
            ssh: SshAddress::new("root"),
            boot_id: None,
            created: true,
            open_ports: OpenPorts::default(),
        });
        view.engine = match containers {
            None => EngineView::Unknown(Unknown {
                since,
                why: "no route".into(),
            }),
            Some(containers) => EngineView::Known {
                info: EngineInfo {
                    version: "20.10.24".into(),
                    api_version: "1.41".into(),
                    architecture: "amd64".into(),
                    cpus: 2,
                    memory_bytes: 1,
                },
                state: EngineState {
                    containers: containers.iter().map(|(one, _)| one.clone()).collect(),
                    ..EngineState::default()
                },
            },
        };
        for (container, is_ready) in containers.into_iter().flatten() {
            let readiness = if *is_ready {
                Readiness::Ready { at: since }
            } else {
                Readiness::starting(since)
            };
            view.readiness.insert(container.id.clone(), readiness);
        }
        Observed {
            nodes: [(node(), Arc::new(view))].into(),
            ..Observed::default()
        }
    }

    /// Returns the redirects as `<port>-><service>`.
    fn redirected(
        services: &[(&str, u16)],
        containers: &[(ObservedContainer, bool)],
        stopping: Option<&ContainerId>,
    ) -> Vec<String> {
        let stopping = stopping.into_iter().cloned().collect();
        let observed = observed(Some(containers));
        let redirects = redirects(&declared(services), &observed, &stopping, None);
        let shown = redirects.iter();
        shown
            .map(|one| format!("{}->{}", one.port, one.service))
            .collect()
    }

    #[test]
    fn a_port_is_redirected_unless_a_ready_container_has_it() {
        let web: &[(&str, u16)] = &[("web", 8080)];
        let ready = container("web", &[8080, 23_000], Some(true));
        let forwarded = ["8080->web"];
        assert!(redirected(web, std::slice::from_ref(&ready), None).is_empty());
        assert_eq!(
            redirected(web, std::slice::from_ref(&ready), Some(&ready.0.id)),
            forwarded
        );
        let waiting = container("web", &[8080, 23_000], Some(false));
        assert_eq!(redirected(web, &[waiting], None), forwarded);
        let ended = container("web", &[8080, 23_000], None);
        assert_eq!(redirected(web, &[ended], None), forwarded);
        let without = container("web", &[23_000], Some(true));
        assert_eq!(
            redirected(web, std::slice::from_ref(&without), None),
            forwarded
        );
        assert!(redirected(web, &[without, ready.clone()], None).is_empty());
        // A node without a container of the service, and a service that is no longer declared.
        assert!(redirected(web, &[], None).is_empty());
        let stopping = Some(&ready.0.id);
        assert!(redirected(&[("api", 8080)], std::slice::from_ref(&ready), stopping).is_empty());
    }

    #[test]
    fn a_port_of_another_service_is_not_redirected() {
        let both: &[(&str, u16)] = &[("a", 8081), ("b", 8080)];
        let a = container("a", &[8080, 23_000], Some(true));
        let b = container("b", &[24_000], Some(true));
        // `a` keeps the port of its earlier declaration.
        assert_eq!(redirected(both, &[a.clone(), b.clone()], None), ["8081->a"]);
        let stopping = Some(&a.0.id);
        let passed = ["8080->b", "8081->a"];
        assert_eq!(redirected(both, &[a.clone(), b], stopping), passed);
        // Two services have the same port while they swap nodes.
        let same: &[(&str, u16)] = &[("a", 8080), ("b", 8080)];
        let moved = container("a", &[8080, 23_000], None);
        let starts = container("b", &[8080, 24_000], Some(false));
        assert_eq!(
            redirected(same, &[moved.clone(), starts], None),
            ["8080->b"]
        );
        let starts = container("a", &[8080, 24_000], Some(false));
        let moved = container("b", &[8080, 23_000], None);
        assert_eq!(redirected(same, &[starts, moved], None), ["8080->a"]);
    }

    #[test]
    fn a_node_that_cannot_be_observed_keeps_its_redirects() {
        let declared = declared(&[("web", 8080)]);
        let stopping = BTreeSet::new();
        let without = [container("web", &[23_000], Some(true))];
        let known = observed(Some(&without));
        let redirects_of = |observed, previous: Option<&Table>| {
            redirects(&declared, observed, &stopping, previous)
        };
        let before = redirects_of(&known, None);
        assert_eq!(before.len(), 1);
        let previous = Table {
            epoch: Epoch::default(),
            version: 1,
            platform: "demo".parse().unwrap(),
            block: crate::network::DEFAULT_BLOCK,
            wait: std::time::Duration::from_secs(30),
            services: BTreeMap::new(),
            redirects: before.clone(),
            lost: BTreeMap::new(),
        };
        let unknown = observed(None);
        assert_eq!(redirects_of(&unknown, Some(&previous)), before);
        assert!(redirects_of(&unknown, None).is_empty());
        assert_eq!(previous.for_node(&node()).redirects, before);
        let other = NodeName::try_from("n2").unwrap();
        assert!(previous.for_node(&other).redirects.is_empty());
    }

    #[test]
    fn containers_on_a_node_that_is_gone_are_lost_until_it_responds() {
        let runs = [container("web", &[23_000], Some(true))];
        let change = |change: fn(&mut NodeView)| {
            let mut observed = observed(None);
            let view = observed.nodes.get_mut(&node()).unwrap();
            change(Arc::make_mut(view));
            observed
        };
        let known = observed(Some(&runs));
        let hangs = change(|_| ());
        let cut_off = change(|view| view.cut_off = true);
        let stopping = change(|view| view.machine.power = Power::Stopping);
        let stopped = change(|view| view.machine.power = Power::Stopped);
        let deleted = Observed::default();
        let cloud_unknown = Observed {
            cloud_unknown: Some(Unknown {
                since: chrono::DateTime::UNIX_EPOCH,
                why: "no route".into(),
            }),
            ..Observed::default()
        };
        let mut served = Served::new();
        let mut is_lost = |observed: &Observed| {
            note_served(&mut served, observed);
            !lost(observed, &served).is_empty()
        };
        for (step, (observed, expected)) in [
            (&cut_off, false),
            (&known, false),
            // The engine hangs, but its containers may still serve.
            (&hangs, false),
            (&cut_off, true),
            (&cut_off, true),
            (&known, false),
            (&stopping, false),
            (&stopped, true),
            (&known, false),
            (&cloud_unknown, false),
            (&deleted, true),
            (&known, false),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(is_lost(observed), expected, "step {step}");
        }
    }
}
