//! Generates platforms of any size, and observations of their settled state, as input for the
//! benchmarks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use lifecycle_core::Result;
use lifecycle_core::cloud::{ObservedNode, OpenPorts, Power, SshAddress};
use lifecycle_core::error::Error;
use lifecycle_core::model::{
    Addresses, ContainerId, DependencyCondition, Generation, ImageSource, NodeName, NodeSpec,
    PlatformId, PlatformName, Protocol, ServiceName, ServiceSpec, SpecDigest,
};
use lifecycle_core::platform::{CloudSpec, Declaration, ManagerSpec};
use lifecycle_core::reconcile::placement::place;
use lifecycle_core::reconcile::{
    Declared, EngineView, History, NodeView, Observed, PlanningInput, Readiness,
};
use lifecycle_core::runtime::{ContainerState, EngineInfo, EngineState, ObservedContainer, Role};
use lifecycle_core::secret::PlatformKey;

/// Selects how a platform's replicas are distributed over services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Services with ten replicas each. Each row of ten services depends on the previous row.
    Rows,
    /// One service with all replicas.
    OneService,
    /// One service for each replica.
    OneReplicaEach,
}

/// Returns the current time for all plans.
pub fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

/// Returns a platform with the given numbers of nodes and replicas.
///
/// # Errors
/// Fails if one service cannot have this number of replicas.
pub fn declared(nodes: u32, replicas: u32, shape: Shape) -> Result<Declared> {
    let nodes: Vec<NodeSpec> = (1..=nodes)
        .map(|n| Ok(NodeSpec::new(node_name(n)?)))
        .collect::<Result<_>>()?;
    let (services, each) = match shape {
        Shape::Rows => (replicas / 10, 10),
        Shape::OneService => (1, replicas),
        Shape::OneReplicaEach => (replicas, 1),
    };
    let each = u16::try_from(each).map_err(invalid)?;
    let services: Vec<ServiceSpec> = (1..=services)
        .map(|n| {
            let image = ImageSource::Image("worker:1".into());
            let mut spec = ServiceSpec::new(service_name(n)?, image);
            spec.replicas = each;
            spec.container.expose = vec![(80, Protocol::Tcp)];
            if shape == Shape::Rows && n % 10 != 1 {
                let before = service_name(n - 1)?;
                let condition = DependencyCondition::ServiceHealthy;
                spec.depends_on.insert(before, condition);
            }
            Ok(spec)
        })
        .collect::<Result<_>>()?;
    let declaration = Declaration {
        name: PlatformName::try_from("bench").map_err(invalid)?,
        id: PlatformId::new(uuid::Uuid::from_u128(1 << 104)),
        manager: ManagerSpec {
            node: node_name(1)?,
            port: ManagerSpec::PORT,
        },
        cloud: CloudSpec::Local { subnet: None },
        nodes: nodes.into_iter().map(|n| (n.name.clone(), n)).collect(),
        services: services.into_iter().map(|s| (s.name.clone(), s)).collect(),
        volumes: BTreeSet::new(),
        network: lifecycle_core::platform::NetworkSpec::default(),
        deadlines: lifecycle_core::cloud::CloudDeadlines::default(),
        overrides: lifecycle_core::platform::Overrides::default(),
    };
    let key = PlatformKey::from_hex(&"07".repeat(32))?;
    Declared::new(Generation(1), &declaration, &key)
}

/// Returns the planner's input for a settled platform: all replicas are ready on their nodes.
pub fn settled(declared: &Arc<Declared>) -> PlanningInput {
    let placed = place(declared, &Observed::default(), &History::default()).nodes;
    let mut containers: BTreeMap<&NodeName, Vec<ObservedContainer>> = BTreeMap::new();
    let mut observed = Observed::default();
    for (number, (id, service)) in declared.instances().enumerate() {
        let Some(node) = placed.get(&id) else {
            continue;
        };
        let container = ContainerId(format!("{number:064x}").into());
        containers.entry(node).or_default().push(ObservedContainer {
            id: container,
            name: declared.container_name(&id, &service.digest),
            role: Role::Instance(id),
            digest: service.digest.clone(),
            digest_version: SpecDigest::VERSION.into(),
            template_digest: Some(service.template_digest.clone()),
            image: format!("sha256:{}", service.image),
            started_at: Some(now()),
            state: ContainerState::Running { health: None },
            ports: vec![(80, Protocol::Tcp, 20_080)],
            exposed: Vec::new(),
            has_healthcheck: false,
            failed_check: None,
            out_of_memory: None,
            joins: None,
        });
    }
    let images: BTreeMap<String, String> = declared
        .services
        .values()
        .map(|s| (s.image.clone(), format!("sha256:{}", s.image)))
        .collect();
    for (name, number) in declared.nodes.keys().zip(1_u32..) {
        let state = EngineState {
            containers: containers.remove(name).unwrap_or_default(),
            images: images.clone(),
            volumes: BTreeSet::new(),
        };
        let view = Arc::new(view(name, number, state));
        observed.nodes.insert(name.clone(), view);
    }
    PlanningInput {
        observed: Arc::new(observed),
        history: History {
            last_seen: Arc::new(placed),
            ..History::default()
        },
        ..PlanningInput::new(Arc::clone(declared), now())
    }
}

fn view(name: &NodeName, number: u32, state: EngineState) -> NodeView {
    let private = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number);
    NodeView {
        machine: ObservedNode {
            name: name.clone(),
            provider_id: name.to_string(),
            power: Power::Running,
            addresses: Addresses {
                private: Some(IpAddr::V4(private)),
                public: None,
            },
            ssh: SshAddress {
                user: "root".into(),
                port: 22,
                host_keys: Vec::new(),
            },
            boot_id: Some("1".into()),
            created: true,
            open_ports: OpenPorts::default(),
        },
        cut_off: false,
        strangers: Vec::new(),
        readiness: state
            .containers
            .iter()
            .map(|c| (c.id.clone(), Readiness::Ready { at: now() }))
            .collect(),
        changing_since: None,
        not_responding: None,
        engine: EngineView::Known {
            info: EngineInfo {
                version: "20.10.24".into(),
                api_version: "1.41".into(),
                architecture: "amd64".into(),
                cpus: 2,
                memory_bytes: 4 << 30,
            },
            state,
        },
    }
}

fn node_name(number: u32) -> Result<NodeName> {
    NodeName::try_from(format!("node-{number}")).map_err(invalid)
}

fn service_name(number: u32) -> Result<ServiceName> {
    ServiceName::try_from(format!("service-{number}")).map_err(invalid)
}

fn invalid(error: impl std::error::Error) -> Error {
    Error::invalid(
        "the benchmark's platform",
        error.to_string(),
        "use fewer replicas",
    )
}
