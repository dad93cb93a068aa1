//! Generates random declarations and mishaps.

use std::time::Duration;

use lifecycle_core::model::{
    Connection, DependencyCondition, NodeSpec, OnFailure, Replacement, ReplacementOrder, Resources,
    RestartPolicy, Scheduling, ServiceSpec, Starts, UpdatePolicy,
};
use lifecycle_core::reconcile::Declared;
use proptest::prelude::*;
use proptest::sample::Index;

use super::builder::{ServiceChanges, declaration, derived, node_name, service};

/// Service names in an order that is not alphabetical. Services depend on services earlier in this
/// list, so the start order differs from the order of the names.
const NAMES: [&str; 12] = [
    "kiln", "bee", "yak", "oak", "zinc", "ant", "mole", "elm", "tin", "cow", "ivy", "rye",
];

#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "proptest generates each flag independently"
)]
pub(crate) struct ServiceDraft {
    present: bool,
    replicas: u16,
    depends_on: Vec<(Index, u8)>,
    last: bool,
    on: Option<usize>,
    host_port: Option<u16>,
    reserves: u64,
    version: u32,
    named_image: bool,
    on_failure: bool,
    update: UpdatePolicy,
    /// An earlier service whose network the service joins.
    joins: Option<Index>,
    public: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct PlatformDraft {
    /// One flag for each of the nodes n2 to n8: whether the node is declared. The node n1 is always
    /// declared.
    nodes: Vec<bool>,
    /// One value for each of these nodes.
    scheduling: Vec<Scheduling>,
    stopped: Vec<bool>,
    capacity: Option<u64>,
    services: Vec<ServiceDraft>,
}

pub(crate) fn update_policy() -> impl Strategy<Value = UpdatePolicy> {
    let one = || prop::option::of(replacement());
    (one(), one()).prop_map(|(update, rollback)| UpdatePolicy { update, rollback })
}

fn replacement() -> impl Strategy<Value = Replacement> {
    let order = prop_oneof![
        Just(None),
        Just(Some(ReplacementOrder::StartFirst)),
        Just(Some(ReplacementOrder::StopFirst)),
    ];
    let on_failure = prop_oneof![
        Just(None),
        Just(Some(OnFailure::Pause)),
        Just(Some(OnFailure::Continue)),
        Just(Some(OnFailure::Rollback)),
    ];
    let seconds = || prop::option::of((0_u64..2).prop_map(Duration::from_secs));
    (
        prop::option::of(0_u32..3),
        order,
        on_failure,
        (seconds(), seconds()),
        prop::option::of(0_u32..1_000_000),
    )
        .prop_map(
            |(parallelism, order, on_failure, (delay, monitor), max_failure_millionths)| {
                Replacement {
                    parallelism,
                    delay,
                    monitor,
                    order,
                    on_failure,
                    max_failure_millionths,
                }
            },
        )
}

fn service_draft() -> impl Strategy<Value = ServiceDraft> {
    (
        (prop::bool::weighted(0.75), 1_u16..4),
        prop::collection::vec((any::<Index>(), 0_u8..3), 0..3),
        prop::bool::weighted(0.15),
        prop::option::weighted(0.2, 0_usize..8),
        prop::option::weighted(0.2, 8080_u16..8082),
        0_u64..3,
        (
            0_u32..3,
            any::<bool>(),
            any::<bool>(),
            update_policy(),
            prop::option::weighted(0.25, any::<Index>()),
            any::<bool>(),
        ),
    )
        .prop_map(
            |((present, replicas), depends_on, last, on, host_port, reserves, rest)| ServiceDraft {
                present,
                replicas,
                depends_on,
                last,
                on,
                host_port,
                reserves,
                version: rest.0,
                named_image: rest.1,
                on_failure: rest.2,
                update: rest.3,
                joins: rest.4,
                public: rest.5,
            },
        )
}

fn scheduling() -> impl Strategy<Value = Scheduling> {
    prop_oneof![
        8 => Just(Scheduling::Open),
        1 => Just(Scheduling::Cordoned),
        1 => Just(Scheduling::Drained),
    ]
}

pub(crate) fn platform() -> impl Strategy<Value = PlatformDraft> {
    (
        prop::collection::vec(any::<bool>(), 7),
        prop::collection::vec(scheduling(), 7),
        prop::collection::vec(prop::bool::weighted(0.1), 7),
        prop::option::weighted(0.4, 4_u64..12),
        prop::collection::vec(service_draft(), 0..=NAMES.len()),
    )
        .prop_map(
            |(nodes, scheduling, stopped, capacity, services)| PlatformDraft {
                nodes,
                scheduling,
                stopped,
                capacity,
                services,
            },
        )
}

impl PlatformDraft {
    fn node_specs(&self) -> Vec<NodeSpec> {
        (1..=8)
            .filter(|n| *n == 1 || self.nodes[*n - 2])
            .map(|n| {
                let mut node = NodeSpec::new(node_name(&format!("n{n}")));
                if n > 1 {
                    node.scheduling = self.scheduling[n - 2];
                    node.stopped = self.stopped[n - 2];
                }
                node.capacity = self.capacity.map(|cpu_millis| Resources {
                    cpu_millis,
                    memory_bytes: 0,
                });
                node
            })
            .collect()
    }

    /// Returns the services. If `ordered` is false, no service waits for another.
    fn service_specs(&self, nodes: &[NodeSpec], ordered: bool) -> Vec<ServiceSpec> {
        let mut specs: Vec<ServiceSpec> = Vec::new();
        for (draft, name) in self.services.iter().zip(NAMES) {
            if !draft.present {
                continue;
            }
            let mut spec = service(name)
                .version(draft.version)
                .replicas(draft.replicas);
            if draft.named_image {
                spec = spec.image("postgres:15").version(draft.version);
            }
            if let Some(on) = draft.on {
                spec = spec.on(nodes[on % nodes.len()].name.as_str());
            }
            if let Some(port) = draft.host_port {
                spec = spec.host_port(port);
            }
            if draft.on_failure {
                spec = spec.restart(RestartPolicy::OnFailure { max_retries: None });
            }
            if draft.last && ordered {
                spec = spec.last();
            }
            spec.reserves.cpu_millis = draft.reserves;
            spec.update = draft.update.clone();
            spec.public = draft.public;
            for (index, condition) in draft.depends_on.iter().filter(|_| ordered) {
                if specs.is_empty() {
                    continue;
                }
                let other = index.index(specs.len());
                if specs[other].starts == Starts::Last && spec.starts != Starts::Last {
                    continue;
                }
                let condition = match condition {
                    0 => DependencyCondition::ServiceStarted,
                    1 => DependencyCondition::ServiceHealthy,
                    _ => DependencyCondition::ServiceCompletedSuccessfully,
                };
                let other = specs[other].name.clone();
                spec.depends_on.insert(other, condition);
            }
            if let Some(index) = draft.joins.filter(|_| ordered && !specs.is_empty()) {
                let other = &specs[index.index(specs.len())];
                let joins = other.container.connection.joins().is_some();
                if !joins && (other.starts != Starts::Last || spec.starts == Starts::Last) {
                    // Several replicas that also wait for other services may hold the replacement
                    // of their networks, see the decision 0040.
                    if other.replicas > 1 {
                        spec.depends_on.retain(|name, _| *name == other.name);
                        spec.starts = other.starts;
                    }
                    spec = spec.joins(other.name.as_str()).replicas(other.replicas);
                    spec.container.ports.clear();
                    spec.update = other.update.clone();
                }
            }
            specs.push(spec);
        }
        // If one service waits for another to complete, the other is a job. All services that
        // depend on a job must wait for its completion.
        for n in 0..specs.len() {
            let name = specs[n].name.clone();
            let awaited = |s: &ServiceSpec| {
                s.depends_on.get(&name) == Some(&DependencyCondition::ServiceCompletedSuccessfully)
            };
            if specs.iter().any(awaited) {
                specs[n].restart = None;
                for spec in &mut specs {
                    if let Some(condition) = spec.depends_on.get_mut(&name) {
                        *condition = DependencyCondition::ServiceCompletedSuccessfully;
                    }
                }
            }
        }
        for spec in &mut specs {
            // A network exists only while its container runs.
            let joined = spec.container.connection.joins();
            let condition = joined.and_then(|joined| spec.depends_on.get(joined));
            if condition == Some(&DependencyCondition::ServiceCompletedSuccessfully) {
                spec.container.connection = Connection::default();
            }
        }
        specs
    }

    pub(crate) fn declared(&self) -> Declared {
        let nodes = self.node_specs();
        let services = self.service_specs(&nodes, true);
        derived(&declaration(nodes, services)).unwrap()
    }

    /// Returns the declaration without a start order.
    pub(crate) fn unordered(&self) -> Declared {
        let nodes = self.node_specs();
        let services = self.service_specs(&nodes, false);
        derived(&declaration(nodes, services)).unwrap()
    }
}

/// A change to the world that does not come from the planner.
#[derive(Debug, Clone)]
pub(crate) enum Mishap {
    NodeStops(Index),
    NodeIsLost(Index),
    NodeRestartIsRequested(Index),
    ContainerEnds(Index),
    ContainerIsRemoved(Index),
    ContainerWasOnlyCreated(Index),
    ImageIsRemoved(Index, Index),
    /// A container with an unknown specification, for a declared or an unknown service.
    Leftover(Index, Index, bool),
}

pub(crate) fn mishaps() -> impl Strategy<Value = Vec<Mishap>> {
    use Mishap::{
        ContainerEnds, ContainerIsRemoved, ContainerWasOnlyCreated, ImageIsRemoved, Leftover,
        NodeIsLost, NodeRestartIsRequested, NodeStops,
    };
    let one = prop_oneof![
        any::<Index>().prop_map(NodeStops),
        any::<Index>().prop_map(NodeIsLost),
        any::<Index>().prop_map(NodeRestartIsRequested),
        any::<Index>().prop_map(ContainerEnds),
        any::<Index>().prop_map(ContainerIsRemoved),
        any::<Index>().prop_map(ContainerWasOnlyCreated),
        (any::<Index>(), any::<Index>()).prop_map(|(a, b)| ImageIsRemoved(a, b)),
        (any::<Index>(), any::<Index>(), any::<bool>()).prop_map(|(a, b, c)| Leftover(a, b, c)),
    ];
    prop::collection::vec(one, 0..6)
}
