//! Helpers: declares a platform, and starts it with a bootstrapper in a simulated world.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lifecycle_core::Result;
use lifecycle_core::api::ManagerApi;
use lifecycle_core::bootstrap::{
    Bootstrapper, ManagerImage, MemoryState, OperatorState, Outcome, Removal, Reporter, UpOptions,
};
use lifecycle_core::clock::{IdSource, SeededIds};
use lifecycle_core::code::CodeStore;
use lifecycle_core::model::{
    BuildSource, Chunk, Chunks, Constraint, ConstraintOperator, DependencyCondition, FileContents,
    FileTree, ImageSource, NodeName, NodeSpec, PlatformId, PlatformName, ServiceName, ServiceSpec,
    ShippedFile, ShippedMount, Starts, TreeEntry,
};
use lifecycle_core::platform::{CloudSpec, Declaration, ManagerSpec, RegistrySpec};
use lifecycle_core::reconcile::DriverOptions;
use lifecycle_core::runtime::{ObservedContainer, Owner, ReadinessProbe, Role};
use lifecycle_core::sim::{SimDatabases, SimManagers, SimOptions, SimWorld};

pub(crate) struct Stage {
    pub(crate) world: SimWorld,
    pub(crate) managers: SimManagers,
    state: Arc<MemoryState>,
    pub(crate) declaration: Declaration,
    /// The chunks that `up` gets.
    pub(crate) chunks: Chunks,
    pub(crate) registry: RegistrySpec,
    /// The image of the manager, if it is not the default one.
    pub(crate) manager_image: Option<Arc<dyn ManagerImage>>,
    /// Receives the progress that the bootstrapper reports.
    pub(crate) reporter: Arc<dyn Reporter>,
}

/// The readiness prober on the operator's machine. That machine can reach nodes only over SSH, so
/// any direct probe panics.
#[derive(Debug)]
struct NoProbes;

#[async_trait]
impl ReadinessProbe for NoProbes {
    async fn tcp(&self, ip: IpAddr, port: u16, _: Duration) -> Result<(), String> {
        panic!("{ip}:{port} was probed from the operator's machine");
    }

    async fn http(&self, ip: IpAddr, port: u16, path: &str, _: Duration) -> Result<(), String> {
        panic!("{ip}:{port}{path} was probed from the operator's machine");
    }
}

fn node(name: &str) -> NodeName {
    NodeName::try_from(name).unwrap()
}

fn service(name: &str) -> ServiceName {
    ServiceName::try_from(name).unwrap()
}

impl Stage {
    /// Creates a platform with two nodes, one of them without an engine. Its services are `db`,
    /// `api` (two replicas, which wait until `db` is ready), and `monitoring`, which starts last.
    pub(crate) async fn new(seed: u64) -> Self {
        Self::of(SimOptions::seeded(seed)).await
    }

    pub(crate) async fn of(options: SimOptions) -> Self {
        let seed = options.seed;
        let world = SimWorld::with_options(options);
        world.publish_image("debian:bookworm-slim");
        let id = PlatformId::new(SeededIds::new(seed).uuid());
        let mut bare = NodeSpec::new(node("n2"));
        bare.image = Some("bare".into());
        let nodes = [NodeSpec::new(node("n1")), bare];
        let mut db = ServiceSpec::new(
            service("db"),
            ImageSource::Image("debian:bookworm-slim".into()),
        );
        db.container.expose = vec![(5432, lifecycle_core::model::Protocol::Tcp)];
        let build = ImageSource::Build(BuildSource {
            code: lifecycle_core::code::CodeBaseRef {
                name: "api".into(),
                digest: String::new(),
            },
            dockerfile: "Dockerfile".into(),
            args: std::collections::BTreeMap::new(),
            bases: vec!["debian:bookworm-slim".into()],
            exposes: std::collections::BTreeSet::new(),
            options: lifecycle_core::model::BuildOptions::default(),
        });
        let mut api = ServiceSpec::new(service("api"), build);
        api.replicas = 2;
        api.depends_on
            .insert(service("db"), DependencyCondition::ServiceHealthy);
        let mut monitoring = ServiceSpec::new(
            service("monitoring"),
            ImageSource::Image("debian:bookworm-slim".into()),
        );
        monitoring.starts = Starts::Last;
        let declaration = Declaration {
            name: PlatformName::try_from("demo").unwrap(),
            id,
            manager: ManagerSpec {
                node: node("n1"),
                port: ManagerSpec::PORT,
            },
            cloud: CloudSpec::Local { subnet: None },
            nodes: nodes.into_iter().map(|n| (n.name.clone(), n)).collect(),
            services: [db, api, monitoring]
                .into_iter()
                .map(|s| (s.name.clone(), s))
                .collect(),
            volumes: BTreeSet::new(),
            network: lifecycle_core::platform::NetworkSpec::default(),
            deadlines: lifecycle_core::cloud::CloudDeadlines::default(),
            overrides: lifecycle_core::platform::Overrides::default(),
        };
        let mut stage = Self {
            managers: SimManagers::new(world.clone(), DriverOptions::default()),
            world,
            state: Arc::default(),
            declaration,
            chunks: Chunks::default(),
            registry: RegistrySpec::default(),
            manager_image: None,
            reporter: Arc::new(()),
        };
        stage.change_code("api", "first").await;
        stage
    }

    pub(crate) async fn change_code(&mut self, name: &str, contents: &str) {
        let store = self.world.code();
        store.put(
            name,
            &[
                (
                    "Dockerfile",
                    "FROM debian:bookworm-slim\nCOPY main /main\nEXPOSE 80\n",
                ),
                ("main", contents),
            ],
        );
        let code = store.digest(name).await.unwrap();
        let spec = self.declaration.services.get_mut(&service(name)).unwrap();
        let ImageSource::Build(source) = &mut spec.source else {
            panic!("{name} is not built");
        };
        source.code = code;
    }

    /// Changes the command of a service.
    pub(crate) fn command(&mut self, name: &str, line: &str) {
        let spec = self.declaration.services.get_mut(&service(name)).unwrap();
        spec.container.command = Some(["sh", "-c", line].map(str::to_owned).into());
    }

    /// Mounts a directory with the file `data` in a service.
    pub(crate) fn mount(&mut self, name: &str, contents: &[u8]) {
        let chunks = contents.chunks(Chunk::SIZE).map(|part| {
            let chunk = Chunk::new(part.to_vec().into()).unwrap();
            let digest = chunk.digest();
            self.chunks.insert(chunk);
            digest
        });
        let chunks = chunks.collect();
        let file = ShippedFile {
            mode: 0o644,
            uid: 0,
            gid: 0,
            contents: FileContents::Chunked(contents.len() as u64),
        };
        let entries = BTreeMap::from([("data".to_owned(), TreeEntry::File(file))]);
        let spec = self.declaration.services.get_mut(&service(name)).unwrap();
        spec.container.files = vec![ShippedMount {
            target: "/srv".into(),
            tree: FileTree::Directory(entries),
            chunks,
        }];
    }

    pub(crate) fn pin(&mut self, name: &str, host: &str) {
        let spec = self.declaration.services.get_mut(&service(name)).unwrap();
        spec.constraints.push(Constraint {
            key: "node.hostname".into(),
            operator: ConstraintOperator::Equal,
            value: host.into(),
        });
    }

    /// Removes a node from the declaration.
    pub(crate) fn drop_node(&mut self, name: &str) {
        self.declaration.nodes.remove(&node(name));
    }

    /// Returns the nodes that the next `up` would delete.
    pub(crate) async fn removed_by_up(&self) -> Vec<Removal> {
        let bootstrapper = self.bootstrapper().await;
        bootstrapper.removed_by_up(&self.declaration).await.unwrap()
    }

    fn owner(&self) -> Owner {
        Owner {
            id: self.declaration.id,
            name: self.declaration.name.clone(),
        }
    }

    /// Creates a new bootstrapper. It shares only the state directory with previous bootstrappers.
    pub(crate) async fn bootstrapper(&self) -> Bootstrapper {
        let mut bootstrapper = self.world.bootstrapper(&self.declaration).unwrap();
        match self.state.secrets().await.unwrap() {
            Some(secrets) => bootstrapper.secrets = secrets,
            None => self
                .state
                .store_secrets(&bootstrapper.secrets)
                .await
                .unwrap(),
        }
        bootstrapper.backends.probe = Arc::new(NoProbes);
        bootstrapper.state = Arc::clone(&self.state) as Arc<dyn OperatorState>;
        bootstrapper.reach = Arc::new(self.managers.clone());
        bootstrapper.registry = self.registry.clone();
        bootstrapper.reporter = Arc::clone(&self.reporter);
        bootstrapper.databases = Arc::new(self.databases());
        if let Some(image) = &self.manager_image {
            bootstrapper.manager_image = Arc::clone(image);
        }
        bootstrapper
    }

    pub(crate) fn databases(&self) -> SimDatabases {
        self.managers.databases()
    }

    pub(crate) async fn up(&self) -> Result<Outcome> {
        let bootstrapper = self.bootstrapper().await;
        let options = UpOptions {
            chunks: self.chunks.clone(),
            ..UpOptions::default()
        };
        bootstrapper.up(&self.declaration, options).await
    }

    pub(crate) async fn restart(&self, name: &str) -> Result<Vec<String>> {
        let bootstrapper = self.bootstrapper().await;
        bootstrapper.restart(self.declaration.id, name).await
    }

    /// Creates a client of the manager's API.
    pub(crate) async fn api(&self) -> Arc<dyn ManagerApi> {
        let bootstrapper = self.bootstrapper().await;
        bootstrapper.client(self.declaration.id).await.unwrap()
    }

    pub(crate) async fn down(&self) -> Result<()> {
        let bootstrapper = self.bootstrapper().await;
        bootstrapper.down(self.declaration.id, false).await
    }

    /// Returns the agents on a node.
    pub(crate) fn agents(&self, node: &NodeName) -> Vec<ObservedContainer> {
        let containers = self.world.containers(node).into_iter();
        containers.filter(|c| c.role == Role::Agent).collect()
    }

    /// Waits until each node has one agent.
    pub(crate) async fn agents_finish(&self) {
        let nodes = || self.declaration.nodes.keys();
        let finished = async {
            while nodes().any(|node| self.agents(node).len() != 1) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let finished = tokio::time::timeout(Duration::from_mins(5), finished).await;
        assert!(finished.is_ok(), "{}", self.world.transcript());
    }

    /// Returns the manager's images that are on the manager's node.
    pub(crate) fn manager_images(&self) -> Vec<String> {
        let images = self
            .world
            .images(&self.declaration.manager.node)
            .into_iter();
        images
            .filter(|i| i.contains("/lifecycle-manager:"))
            .collect()
    }

    /// Returns the name, id, and start time of every container.
    pub(crate) fn containers(&self) -> BTreeSet<(String, String, String)> {
        self.declaration
            .nodes
            .keys()
            .flat_map(|node| self.world.containers(node))
            .map(|c| (c.name, c.id.to_string(), format!("{:?}", c.started_at)))
            .collect()
    }

    /// Returns the names of all containers.
    pub(crate) fn names(&self) -> Vec<String> {
        let containers = self.containers();
        // Leave out the digest at the end of each name. It depends on the platform's key, which
        // differs between runs.
        let name = |name: String| name.rsplit_once('-').map(|(stem, _)| stem.to_owned());
        containers
            .into_iter()
            .filter_map(|(full, _, _)| name(full))
            .collect()
    }

    pub(crate) fn leftovers(&self) -> Vec<String> {
        self.world.leftovers(&self.owner())
    }
}
