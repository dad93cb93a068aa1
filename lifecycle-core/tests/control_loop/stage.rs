//! Helpers: starts, crashes, and restarts managers in a simulated world.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lifecycle_core::clock::{Clock, SeededIds};
use lifecycle_core::cloud::{CloudProvider, NodeChange, carry_out};
use lifecycle_core::manager::{FirstToken, Manager, ManagerOptions};
use lifecycle_core::model::{
    EventKind, InstanceId, InstanceRecord, InstanceState, NewEvent, NodeName, ServiceSpec,
};
use lifecycle_core::platform::{Declaration, ManagerEndpoint};
use lifecycle_core::reconcile::{Backends, DriverOptions, Policy, Round};
use lifecycle_core::registry::{EventPage, MemoryRegistry, Mirrors, Registry};
use lifecycle_core::runtime::{ContainerState, ImageLogins, ObservedContainer, Owner, Role};
use lifecycle_core::secret::{PlatformKey, Sensitive};
use lifecycle_core::sim::{SimOptions, SimWorld};
use tokio::task::JoinHandle;

use crate::platform::shop;

pub(crate) const ADMIN: &str = "the admin's token";
pub(crate) const READER: &str = "the reader's token";
pub(crate) const LEASE: Duration = Duration::from_secs(15);

/// The image of managers and agents.
const IMAGE: &str = "shop/lifecycle-manager:0123456789ab";

pub(crate) struct Stage {
    pub(crate) seed: u64,
    pub(crate) world: SimWorld,
    pub(crate) owner: Owner,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) declaration: Declaration,
    pub(crate) manager: Arc<Manager>,
    /// The cloud that managers use instead of the simulated world's cloud.
    pub(crate) cloud: Option<Arc<dyn CloudProvider>>,
    /// The per-kind databases, which managers keep up to date.
    pub(crate) mirrors: Option<Mirrors>,
    /// How long a manager's lease is valid without a renewal.
    pub(crate) lease: Duration,
    /// The image of managers and agents.
    pub(crate) image: Option<String>,
    runs: u64,
    task: Option<JoinHandle<()>>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        if std::thread::panicking() {
            println!("seed {}\n{}", self.seed, self.world.transcript());
        }
    }
}

impl Stage {
    /// Creates the shop with a manager that has just started.
    pub(crate) async fn shop(seed: u64) -> Self {
        let mut stage = Self::shop_without_manager(SimOptions::seeded(seed)).await;
        stage.start();
        stage
    }

    pub(crate) async fn shop_without_manager(options: SimOptions) -> Self {
        let seed = options.seed;
        let world = SimWorld::with_options(options);
        let owner = crate::platform::owner(1);
        let declaration = shop(&world, &owner).await;
        Self::of(seed, world, owner, declaration).await
    }

    /// Creates a world for a declaration. Only the manager's node exists, as after the
    /// bootstrapper's work.
    pub(crate) async fn of(
        seed: u64,
        world: SimWorld,
        owner: Owner,
        declaration: Declaration,
    ) -> Self {
        let spec = declaration.nodes[&declaration.manager.node].clone();
        carry_out(
            &world.cloud(&owner),
            NodeChange::Provision { spec },
            Duration::from_mins(30),
        )
        .await
        .unwrap();
        let registry: Arc<dyn Registry> = Arc::new(MemoryRegistry::new(Arc::new(world.clock())));
        Self {
            seed,
            manager: idle_manager(
                &world,
                &owner,
                &registry,
                &declaration,
                Setup::default(),
                seed,
            ),
            cloud: None,
            mirrors: None,
            lease: LEASE,
            image: None,
            world,
            owner,
            registry,
            declaration,
            runs: 0,
            task: None,
        }
    }

    /// Makes the managers that start from now on create an agent on each node.
    pub(crate) fn use_agents(&mut self) {
        self.world.preload_image(IMAGE);
        self.image = Some(IMAGE.into());
    }

    /// Creates a manager with a unique name, without starting it.
    pub(crate) fn next_manager(&mut self) -> Arc<Manager> {
        self.runs += 1;
        idle_manager(
            &self.world,
            &self.owner,
            &self.registry,
            &self.declaration,
            Setup {
                cloud: self.cloud.clone(),
                mirrors: self.mirrors.clone(),
                lease: self.lease,
                image: self.image.clone(),
            },
            self.seed ^ self.runs,
        )
    }

    pub(crate) fn start(&mut self) {
        self.manager = self.next_manager();
        let manager = Arc::clone(&self.manager);
        self.task = Some(tokio::spawn(async move {
            let error = manager.run().await;
            panic!("the manager ended: {}", error.chain());
        }));
    }

    /// Ends the manager as if its process crashed. Changes that the manager has started in the
    /// world continue.
    pub(crate) async fn crash(&mut self) {
        self.abandon().await;
        self.world.next_incarnation();
    }

    /// Ends the manager while other managers continue.
    pub(crate) async fn abandon(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            if let Err(error) = task.await {
                assert!(error.is_cancelled(), "seed {}: {error}", self.seed);
            }
        }
    }

    /// Waits until the status meets a condition. Panics after `limit` of simulated time.
    pub(crate) async fn until(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&Round) -> bool,
    ) -> Arc<Round> {
        let mut rounds = self.manager.rounds();
        let found = tokio::time::timeout(limit, async {
            let found = rounds.wait_for(|round| condition(round)).await;
            found.map(|round| Arc::clone(&round))
        })
        .await;
        let Ok(round) = found else {
            panic!(
                "seed {}: timed out after {limit:?}: {what}: {:#?}",
                self.seed,
                self.manager.round()
            );
        };
        round.unwrap()
    }

    /// Waits until the platform matches the declaration and no step is left.
    pub(crate) async fn settled(&self) -> Arc<Round> {
        self.until("settled", Duration::from_hours(2), |s| {
            s.settled && s.is_idle() && s.input.is_some()
        })
        .await
    }

    /// Lets simulated time pass.
    pub(crate) async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Returns the registry's record of each replica. Panics if a replica has two records.
    pub(crate) async fn records(&self) -> BTreeMap<InstanceId, InstanceRecord> {
        let snapshot = self.registry.snapshot().await.unwrap();
        let count = snapshot.instances.len();
        let records: BTreeMap<_, _> = snapshot
            .instances
            .into_values()
            .map(|v| (v.id.clone(), v))
            .collect();
        assert_eq!(records.len(), count, "seed {}: {records:#?}", self.seed);
        records
    }

    /// Returns the containers of this platform on all nodes.
    pub(crate) fn containers(&self) -> Vec<(NodeName, ObservedContainer)> {
        self.declaration
            .nodes
            .keys()
            .flat_map(|node| {
                let containers = self.world.containers(node);
                containers.into_iter().map(|c| (node.clone(), c))
            })
            .collect()
    }

    /// Returns the node and the container of a replica. Panics unless the replica has exactly one
    /// container.
    pub(crate) fn place(&self, id: &InstanceId) -> (NodeName, ObservedContainer) {
        let mut found = self
            .containers()
            .into_iter()
            .filter(|(_, c)| c.role == Role::Instance(id.clone()));
        let place = found.next().unwrap_or_else(|| {
            panic!("seed {}: {id} has no container", self.seed);
        });
        assert!(
            found.next().is_none(),
            "seed {}: {id} has two containers",
            self.seed
        );
        place
    }

    pub(crate) async fn events(&self, kind: EventKind, after: u64) -> Vec<NewEvent> {
        let page = self.registry.events(after, u32::MAX).await.unwrap();
        let EventPage::Events(events) = page else {
            panic!("seed {}: {page:?}", self.seed);
        };
        let events = events.into_iter().map(|e| e.event);
        events.filter(|e| e.kind == kind).collect()
    }

    pub(crate) async fn last_event(&self) -> u64 {
        self.registry.snapshot().await.unwrap().last_event
    }

    /// Checks that every declared replica has exactly one container, which is recorded and is ready
    /// or completed, and that no other objects exist.
    pub(crate) async fn assert_whole(&self) {
        let seed = self.seed;
        let violations = self.world.violations();
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
        let records = self.records().await;
        let containers = self.containers();
        let expected: usize = self
            .declaration
            .services
            .values()
            .map(|s| usize::from(s.replicas))
            .sum();
        assert_eq!(containers.len(), expected, "seed {seed}: {containers:#?}");
        assert_eq!(records.len(), expected, "seed {seed}: {records:#?}");
        for node in self.declaration.nodes.keys() {
            let here = containers.iter().filter(|(at, _)| at == node);
            let public = here
                .filter_map(|(_, container)| match &container.role {
                    Role::Instance(id) => self.declaration.services.get(&id.service),
                    Role::Agent | Role::Manager => None,
                })
                .flat_map(ServiceSpec::public_ports)
                .collect();
            let open = self.world.node(node).unwrap().open_ports;
            assert!(open.are(&public), "seed {seed}: {node}: {open:?}");
        }
        for (node, container) in containers {
            let Role::Instance(id) = &container.role else {
                panic!("seed {seed}: {container:?}");
            };
            let record = &records[id];
            assert_eq!(record.node, node, "seed {seed}: {id}");
            assert_eq!(record.container, container.id, "seed {seed}: {id}");
            assert_eq!(record.digest, container.digest, "seed {seed}: {id}");
            assert_eq!(record.started_at, container.started_at, "seed {seed}: {id}");
            if let ContainerState::Exited { code, .. } = container.state {
                assert_eq!(code, 0, "seed {seed}: {id}");
                assert_eq!(record.state, InstanceState::Completed, "seed {seed}: {id}");
                assert!(record.endpoints.is_empty(), "seed {seed}: {id}");
                continue;
            }
            assert_eq!(record.state, InstanceState::Ready, "seed {seed}: {id}");
            assert!(record.ready_at >= record.started_at, "seed {seed}: {id}");
            let endpoints = record.endpoints.iter();
            let published: BTreeSet<u16> = endpoints.map(|e| e.container_port).collect();
            let real: BTreeSet<u16> = container.ports.iter().map(|bound| bound.0).collect();
            if container.joins.is_none() {
                assert_eq!(published, real, "seed {seed}: {id}");
            }
            for endpoint in &record.endpoints {
                assert!(
                    self.world.answers(endpoint.ip, endpoint.port),
                    "seed {seed}: {id} at {endpoint:?}"
                );
            }
        }
    }
}

pub(crate) fn key() -> PlatformKey {
    PlatformKey::from_hex(&"5a".repeat(32)).unwrap()
}

/// The settings in which managers differ.
struct Setup {
    cloud: Option<Arc<dyn CloudProvider>>,
    mirrors: Option<Mirrors>,
    lease: Duration,
    image: Option<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            cloud: None,
            mirrors: None,
            lease: LEASE,
            image: None,
        }
    }
}

fn idle_manager(
    world: &SimWorld,
    owner: &Owner,
    registry: &Arc<dyn Registry>,
    declaration: &Declaration,
    setup: Setup,
    seed: u64,
) -> Arc<Manager> {
    let backends = Backends {
        registry: Arc::clone(registry),
        cloud: setup.cloud.unwrap_or_else(|| Arc::new(world.cloud(owner))),
        connector: Arc::new(world.connector(owner)),
        preparer: Arc::new(world.preparer()),
        probe: Arc::new(world.probe()),
        code: Arc::new(world.code()),
        clock: Arc::new(world.clock()),
        ids: Arc::new(SeededIds::new(seed)),
        own_image: None,
    };
    let node = declaration.manager.node.clone();
    let ip = world.node(&node).unwrap().addresses.private.unwrap();
    let options = ManagerOptions {
        name: owner.name.clone(),
        platform: owner.id,
        key: key(),
        image: setup.image,
        endpoint: ManagerEndpoint {
            node,
            ip,
            port: declaration.manager.port,
        },
        authority: "the authority".into(),
        ssh_public: String::new(),
        admin_token: FirstToken::of(&Sensitive::new(ADMIN)),
        token_rotation: 0,
        read_token: Some(Sensitive::new(READER)),
        image_logins: ImageLogins::new(),
        declaration: Some(declaration.clone()),
        holder: format!("manager {seed} of {}", world.clock().now()),
        lease: setup.lease,
        driver: DriverOptions {
            policy: Policy {
                spares_manager_node: true,
                ..Policy::default()
            },
            ..DriverOptions::default()
        },
        mirrors: setup.mirrors,
    };
    Manager::new(backends, options)
}
