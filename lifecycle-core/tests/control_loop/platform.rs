//! Builds the declarations that the tests use.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lifecycle_core::code::CodeStore;
use lifecycle_core::model::{
    BuildSource, DependencyCondition, ImageSource, InstanceId, NodeName, NodeSpec, PlatformId,
    PlatformName, Protocol, PublishedPort, Replica, ServiceName, ServiceSpec, Starts, VolumeMount,
    VolumeName,
};
use lifecycle_core::platform::{CloudSpec, Declaration, ManagerSpec};
use lifecycle_core::runtime::Owner;
use lifecycle_core::sim::SimWorld;
use uuid::Uuid;

pub(crate) fn node(name: &str) -> NodeName {
    NodeName::try_from(name).unwrap()
}

pub(crate) fn service(name: &str) -> ServiceName {
    ServiceName::try_from(name).unwrap()
}

pub(crate) fn instance(name: &str, replica: u16) -> InstanceId {
    InstanceId {
        service: service(name),
        replica: Replica(replica),
    }
}

/// Returns the owner with this number. All platforms are named `demo` and differ only in their ids.
pub(crate) fn owner(number: u128) -> Owner {
    Owner {
        id: PlatformId::new(Uuid::from_u128(number << 104)),
        name: PlatformName::try_from("demo").unwrap(),
    }
}

/// Returns a node on which no engine is installed.
pub(crate) fn bare(name: &str) -> NodeSpec {
    NodeSpec {
        image: Some("bare".into()),
        ..NodeSpec::new(node(name))
    }
}

/// Returns a platform with these nodes and no services. Its manager is on the first node.
pub(crate) fn empty(owner: &Owner, nodes: Vec<NodeSpec>) -> Declaration {
    Declaration {
        name: owner.name.clone(),
        id: owner.id,
        manager: ManagerSpec {
            node: nodes[0].name.clone(),
            port: ManagerSpec::PORT,
        },
        cloud: CloudSpec::Local { subnet: None },
        nodes: nodes.into_iter().map(|n| (n.name.clone(), n)).collect(),
        services: BTreeMap::new(),
        volumes: BTreeSet::new(),
        network: lifecycle_core::platform::NetworkSpec::default(),
        deadlines: lifecycle_core::cloud::CloudDeadlines::default(),
        overrides: lifecycle_core::platform::Overrides::default(),
    }
}

/// Returns a service that listens on `port`. Its image can be pulled.
pub(crate) fn named(world: &SimWorld, name: &str, port: u16) -> ServiceSpec {
    let image = format!("{name}-image:1");
    world.publish_image(&image);
    let mut spec = ServiceSpec::new(service(name), ImageSource::Image(image));
    spec.container.expose = vec![(port, Protocol::Tcp)];
    spec
}

/// Returns a service that listens on `port`. Its image is built from a code base with the same
/// name.
pub(crate) async fn built(world: &SimWorld, name: &str, port: u16, content: &str) -> ServiceSpec {
    world.publish_image("base:1");
    let code = world.code();
    let dockerfile = format!("FROM base:1\nCOPY main /main\nEXPOSE {port}\n");
    code.put(name, &[("Dockerfile", &dockerfile), ("main", content)]);
    let source = ImageSource::Build(BuildSource {
        code: code.digest(name).await.unwrap(),
        dockerfile: "Dockerfile".into(),
        args: BTreeMap::new(),
        bases: vec!["base:1".into()],
        exposes: std::collections::BTreeSet::new(),
        options: lifecycle_core::model::BuildOptions::default(),
    });
    ServiceSpec::new(service(name), source)
}

pub(crate) fn after(spec: &mut ServiceSpec, other: &str, condition: DependencyCondition) {
    spec.depends_on.insert(service(other), condition);
}

/// Returns a platform with three nodes, one of them without an engine. Its services start in this
/// order: `db`, `migrate`, `api` (two replicas), `web`, and `monitoring`.
pub(crate) async fn shop(world: &SimWorld, owner: &Owner) -> Declaration {
    use DependencyCondition::{ServiceCompletedSuccessfully, ServiceHealthy};
    let nodes = vec![
        NodeSpec::new(node("n1")),
        NodeSpec::new(node("n2")),
        bare("n3"),
    ];
    let mut declaration = empty(owner, nodes);
    let data = VolumeName::try_from("data").unwrap();
    declaration.volumes.insert(data.clone());

    let mut db = named(world, "db", 5432);
    db.container.volumes = vec![VolumeMount {
        volume: data,
        target: "/data".into(),
        read_only: false,
        options: lifecycle_core::model::VolumeOptions::default(),
    }];
    let mut migrate = named(world, "migrate", 1);
    migrate.container.expose.clear();
    migrate.container.command = Some(vec!["sh".into(), "-c".into(), "sleep 2".into()]);
    after(&mut migrate, "db", ServiceHealthy);
    let mut api = built(world, "api", 8080, "first").await;
    api.replicas = 2;
    api.ready_within = Duration::from_mins(2);
    after(&mut api, "db", ServiceHealthy);
    after(&mut api, "migrate", ServiceCompletedSuccessfully);
    let mut web = built(world, "web", 80, "first").await;
    web.container.ports = vec![PublishedPort {
        host_port: Some(8000),
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
    }];
    web.public = true;
    after(&mut web, "api", ServiceHealthy);
    let mut monitoring = named(world, "monitoring", 9090);
    monitoring.starts = Starts::Last;
    for spec in [db, migrate, api, web, monitoring] {
        declaration.services.insert(spec.name.clone(), spec);
    }
    declaration
}
