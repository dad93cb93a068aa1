//! Helpers for writing declarations.

use std::collections::BTreeMap;

use lifecycle_core::code::CodeBaseRef;
use lifecycle_core::model::{
    BuildSource, Constraint, ConstraintOperator, DependencyCondition, Generation, ImageSource,
    InstanceId, NetworkMode, NodeName, NodeSpec, PlatformId, Protocol, PublishedPort, Replica,
    RestartPolicy, ServiceName, ServiceSpec, Starts,
};
use lifecycle_core::platform::{CloudSpec, Declaration, ManagerSpec};
use lifecycle_core::reconcile::Declared;
use lifecycle_core::secret::PlatformKey;

pub(crate) fn node_name(name: &str) -> NodeName {
    NodeName::try_from(name).unwrap()
}

pub(crate) fn service_name(name: &str) -> ServiceName {
    ServiceName::try_from(name).unwrap()
}

pub(crate) fn instance(service: &str, replica: u16) -> InstanceId {
    InstanceId {
        service: service_name(service),
        replica: Replica(replica),
    }
}

/// Returns a service that is built on `debian:12` from the code base with the same name.
pub(crate) fn service(name: &str) -> ServiceSpec {
    let source = ImageSource::Build(BuildSource {
        code: CodeBaseRef {
            name: name.to_owned(),
            digest: format!("{name}-1"),
        },
        dockerfile: "Dockerfile".to_owned(),
        args: BTreeMap::new(),
        bases: vec!["debian:12".to_owned()],
        exposes: std::collections::BTreeSet::new(),
        options: lifecycle_core::model::BuildOptions::default(),
    });
    ServiceSpec::new(service_name(name), source)
}

/// Methods that change a service and return it.
pub(crate) trait ServiceChanges: Sized {
    fn needs(self, other: &str, condition: DependencyCondition) -> Self;
    fn ready_after(self, other: &str) -> Self {
        self.needs(other, DependencyCondition::ServiceHealthy)
    }
    fn version(self, version: u32) -> Self;
    fn image(self, name: &str) -> Self;
    fn replicas(self, replicas: u16) -> Self;
    fn last(self) -> Self;
    fn on(self, node: &str) -> Self;
    fn host_port(self, port: u16) -> Self;
    fn restart(self, policy: RestartPolicy) -> Self;
    /// The service joins the network of another one.
    fn joins(self, other: &str) -> Self;
}

impl ServiceChanges for ServiceSpec {
    fn needs(mut self, other: &str, condition: DependencyCondition) -> Self {
        self.depends_on.insert(service_name(other), condition);
        self
    }

    fn version(mut self, version: u32) -> Self {
        match &mut self.source {
            ImageSource::Build(source) => {
                source.code.digest = format!("{}-{version}", source.code.name);
            }
            ImageSource::Image(_) => {
                self.container
                    .labels
                    .insert("version".into(), version.to_string());
            }
        }
        self
    }

    fn image(mut self, name: &str) -> Self {
        self.source = ImageSource::Image(name.to_owned());
        self
    }

    fn replicas(mut self, replicas: u16) -> Self {
        self.replicas = replicas;
        self
    }

    fn last(mut self) -> Self {
        self.starts = Starts::Last;
        self
    }

    fn on(mut self, node: &str) -> Self {
        self.constraints = vec![Constraint {
            key: "node.hostname".into(),
            operator: ConstraintOperator::Equal,
            value: node.to_owned(),
        }];
        self
    }

    fn host_port(mut self, port: u16) -> Self {
        self.container.ports.push(PublishedPort {
            host_port: Some(port),
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: None,
        });
        self
    }

    fn restart(mut self, policy: RestartPolicy) -> Self {
        self.restart = Some(policy);
        self
    }

    fn joins(mut self, other: &str) -> Self {
        let other = service_name(other);
        self.container.connection.mode = NetworkMode::Service(other.clone());
        self.depends_on
            .entry(other)
            .or_insert(DependencyCondition::ServiceStarted);
        self
    }
}

/// Returns a declaration. The manager runs on the first node.
pub(crate) fn declaration(nodes: Vec<NodeSpec>, services: Vec<ServiceSpec>) -> Declaration {
    Declaration {
        name: "shop".try_into().unwrap(),
        id: PlatformId::new(uuid::Uuid::from_u128(
            0xab12_cd34_0000_4000_8000_0000_0000_0000,
        )),
        manager: ManagerSpec {
            node: nodes[0].name.clone(),
            port: ManagerSpec::PORT,
        },
        cloud: CloudSpec::Local { subnet: None },
        nodes: nodes.into_iter().map(|n| (n.name.clone(), n)).collect(),
        services: services.into_iter().map(|s| (s.name.clone(), s)).collect(),
        volumes: std::collections::BTreeSet::new(),
        network: lifecycle_core::platform::NetworkSpec::default(),
        deadlines: lifecycle_core::cloud::CloudDeadlines::default(),
        overrides: lifecycle_core::platform::Overrides::default(),
    }
}

pub(crate) fn derived(declaration: &Declaration) -> lifecycle_core::Result<Declared> {
    let key = PlatformKey::from_hex(&"07".repeat(32))?;
    Declared::new(Generation(1), declaration, &key)
}

/// Returns a declaration of nodes and services, with the data that the planner derives from a
/// declaration.
pub(crate) fn declared(nodes: &[&str], services: Vec<ServiceSpec>) -> Declared {
    let nodes = nodes.iter().map(|n| NodeSpec::new(node_name(n))).collect();
    derived(&declaration(nodes, services)).unwrap()
}
