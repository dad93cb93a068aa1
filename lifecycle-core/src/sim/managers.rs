//! Simulates the processes of managers. A real [`Manager`] runs as a task for each running manager
//! container. It reads the files that the bootstrapper wrote to the node. A node's registry
//! outlives the managers on the node, as a real file would.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::databases::SimDatabases;
use super::engine::Image;
use super::world::SimWorld;
use crate::api::why::WhyV1;
use crate::api::wire::{
    AdoptedV1, AppliedV1, CreatedTokenV1, EndpointV1, EventsV1, ExportV1, NewMachineV1, NewNodeV1,
    NewTokenV1, NodeV1, OperationV1, OverrideV1, PlatformV1, ProgressV1, RestartNodeV1, RestartV1,
    RetriedV1, RevisionV1, RollbackPlanV1, RolledBackV1, ServiceLogLine, ServiceV1, TokenV1,
};
use crate::api::{LocalApi, ManagerApi};
use crate::bootstrap::{Handover, ManagerImage, ReachManager, code_directory, handover_directory};
use crate::clock::{SeededIds, TokioClock};
use crate::cloud::{ObservedNode, Power};
use crate::code::{CodeBaseRef, CodeStore, PublishedStore};
use crate::error::{Error, Result};
use crate::host::{ByteStream, NodeHandle};
use crate::manager::{Conversation, Manager};
use crate::model::{
    Chunk, ChunkDigest, ContainerId, Event, Generation, NodeName, NodeRequest, OperationId,
    PlatformId, RolloutRequest, ServiceClass, ServiceName,
};
use crate::platform::{Declaration, OverrideChange, RestoredSecrets};
use crate::reconcile::node_directory::node_directory;
use crate::reconcile::{Backends, DriverOptions, OwnImage, Plan, RecordedPlan, RetryOptions};
use crate::registry::{MemoryRegistry, Registry, RegistryId};
use crate::runtime::{ContainerState, ExecCommand, ImageLogins, LogOptions, Owner, Role};

/// The contents of a registry's file in an unknown, newer format.
const NEWER: &str = "a registry in a newer format";

/// How long a manager's process may run after its container has exited.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// The managers of a world: one for each running manager container.
#[derive(Debug, Clone)]
pub struct SimManagers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    world: SimWorld,
    driver: DriverOptions,
    databases: SimDatabases,
    registries: Mutex<BTreeMap<NodeName, Arc<MemoryRegistry>>>,
    /// The digests of images whose program changes the registry's file and then never answers.
    broken: Mutex<BTreeSet<String>>,
    processes: Mutex<BTreeMap<NodeName, Process>>,
    /// How many managers were started.
    starts: AtomicU64,
}

/// One run of a manager's process.
#[derive(Debug)]
struct Process {
    incarnation: u64,
    container: ContainerId,
    started_at: Option<DateTime<Utc>>,
    manager: Arc<Manager>,
    /// Is closed when the process ends.
    ended: watch::Receiver<()>,
    _task: JoinSet<()>,
}

impl SimManagers {
    /// Creates the managers of `world`. `driver` contains the options for their control loops.
    pub fn new(world: SimWorld, driver: DriverOptions) -> Self {
        let databases = SimDatabases::new(Arc::new(world.clock()));
        Self(Arc::new(Inner {
            world,
            driver,
            databases,
            registries: Mutex::default(),
            broken: Mutex::default(),
            processes: Mutex::default(),
            starts: AtomicU64::new(0),
        }))
    }

    /// Returns the databases that the managers use.
    pub fn databases(&self) -> SimDatabases {
        self.0.databases.clone()
    }

    /// Breaks the images with this digest: their program makes the registry's file unreadable for
    /// other programs, and then never answers.
    pub fn break_image(&self, digest: &str) {
        let mut broken = self.0.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.insert(digest.get(..12).unwrap_or(digest).to_owned());
    }

    /// Returns the registry that is stored on a node; `None` if no manager has run there.
    pub fn registry(&self, node: &NodeName) -> Option<Arc<MemoryRegistry>> {
        let registries = &self.0.registries;
        let registries = registries.lock().unwrap_or_else(PoisonError::into_inner);
        registries.get(node).cloned()
    }
}

impl Inner {
    /// Returns the manager whose container runs on `node`; starts the manager's process if
    /// necessary. The receiver is closed when the process ends.
    fn manager(
        &self,
        node: &NodeName,
        platform: PlatformId,
    ) -> Result<(Arc<Manager>, watch::Receiver<()>)> {
        let unreachable = || Error::Unreachable {
            hint: None,
            what: "the manager's API".into(),
            source: None,
        };
        let machine = self.world.node(node).ok_or_else(unreachable)?;
        let container = self
            .world
            .containers(node)
            .into_iter()
            .find(|c| c.role == Role::Manager && matches!(c.state, ContainerState::Running { .. }))
            .filter(|_| machine.power == Power::Running);
        let mut processes = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(container) = container else {
            processes.remove(node);
            return Err(unreachable());
        };
        let incarnation = self.world.incarnation();
        if let Some(process) = processes.get(node)
            && process.incarnation == incarnation
            && process.container == container.id
            && process.started_at == container.started_at
        {
            return Ok((Arc::clone(&process.manager), process.ended.clone()));
        }
        processes.remove(node);
        let file = format!("{}/registry.db", node_directory(platform));
        if self.is_broken(node, &container.name) {
            self.world.write_file(node, &file, NEWER);
            return Err(unreachable());
        }
        match self.world.file(node, &file) {
            Some((_, form)) if form == NEWER => return Err(unreachable()),
            _ => self.world.write_file(node, &file, "a registry"),
        }
        let manager = self.start(node, platform)?;
        let mut task = JoinSet::new();
        let running = Arc::clone(&manager);
        let (runs, ended) = watch::channel(());
        let exit = container_ends(
            self.world.clone(),
            node.clone(),
            container.id.clone(),
            container.started_at,
        );
        task.spawn(async move {
            let _runs = runs;
            tokio::select! {
                error = running.run() => {
                    tracing::error!(error = %error.chain(), "a simulated manager ended");
                }
                () = exit => {}
            }
        });
        let process = Process {
            incarnation,
            container: container.id,
            started_at: container.started_at,
            manager: Arc::clone(&manager),
            ended: ended.clone(),
            _task: task,
        };
        processes.insert(node.clone(), process);
        Ok((manager, ended))
    }

    fn is_broken(&self, node: &NodeName, container: &str) -> bool {
        let spec = self.world.spec_of(node, container);
        let image = spec.map(|spec| spec.image).unwrap_or_default();
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.iter().any(|digest| image.ends_with(digest))
    }

    /// Returns the registry that a manager on `node` uses.
    fn registry(
        &self,
        handover: &Handover,
        node: &NodeName,
        clock: &Arc<TokioClock>,
    ) -> (RegistryId, Arc<dyn Registry>) {
        if let Some(url) = &handover.registry.central {
            let id = self.databases.at(url.expose()).id();
            return (id, self.databases.connect(url));
        }
        let mut registries = self
            .registries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let registry = registries
            .entry(node.clone())
            .or_insert_with(|| Arc::new(MemoryRegistry::new(Arc::clone(clock) as Arc<_>)));
        (registry.id(), Arc::clone(registry) as Arc<_>)
    }

    fn start(&self, node: &NodeName, platform: PlatformId) -> Result<Arc<Manager>> {
        let directory = handover_directory(platform);
        let handover = Handover::read_with(|name| {
            let file = self.world.file(node, &format!("{directory}/{name}"));
            file.map(|(_, contents)| String::from_utf8_lossy(&contents).into_owned())
        })?;
        let clock = Arc::new(self.world.clock());
        let (id, registry) = self.registry(&handover, node, &clock);
        let owner = Owner {
            id: platform,
            name: handover.config.name.clone(),
        };
        // Each process has other ids, also within an incarnation. In particular, each process gets an
        // epoch of its own.
        let starts = self.starts.fetch_add(1, Ordering::Relaxed);
        let ids = SeededIds::new(self.world.incarnation().wrapping_add(starts << 32));
        let mirrors = handover.mirrors(id, Arc::new(self.databases.clone()));
        let own_image = handover.config.image.clone().map(|name| OwnImage {
            name,
            source: Arc::new(SimManagerImage),
        });
        let options = handover.into_options(&ids, self.driver.clone(), mirrors);
        let backends = Backends {
            registry,
            cloud: Arc::new(self.world.cloud(&owner)),
            connector: Arc::new(self.world.connector(&owner)),
            preparer: Arc::new(self.world.preparer()),
            probe: Arc::new(self.world.probe()),
            code: Arc::new(CodeOnNode {
                world: self.world.clone(),
                node: node.clone(),
                directory: code_directory(platform),
            }),
            clock,
            ids: Arc::new(ids),
            own_image,
        };
        Ok(Manager::new(backends, options))
    }
}

/// Waits until a container has exited or was restarted. If the machine stops, its containers exit
/// too.
async fn container_ends(
    world: SimWorld,
    node: NodeName,
    container: ContainerId,
    started_at: Option<DateTime<Utc>>,
) {
    let runs = || {
        let found = world.containers(&node).into_iter();
        let mut same = found.filter(|c| c.id == container && c.started_at == started_at);
        same.any(|c| matches!(c.state, ContainerState::Running { .. }))
    };
    while runs() {
        tokio::time::sleep(ENDS_WITHIN).await;
    }
}

#[async_trait]
impl ReachManager for SimManagers {
    async fn reach(
        &self,
        machine: &ObservedNode,
        _: &NodeHandle,
        platform: PlatformId,
        _: u16,
    ) -> Result<Arc<dyn ManagerApi>> {
        Ok(Arc::new(SimApi {
            managers: Arc::clone(&self.0),
            node: machine.name.clone(),
            platform,
        }))
    }
}

/// An API client for a node. It forwards each call to whichever manager is running on the node at
/// that moment.
#[derive(Debug)]
struct SimApi {
    managers: Arc<Inner>,
    node: NodeName,
    platform: PlatformId,
}

impl SimApi {
    /// Returns the running manager, unless a test scheduled a failure of this request.
    fn current(&self, request: &str) -> Result<LocalApi> {
        let (manager, _) = self.process(request)?;
        Ok(LocalApi::new(manager))
    }

    fn process(&self, request: &str) -> Result<(Arc<Manager>, watch::Receiver<()>)> {
        let title = format!("{}: manager: {request}", self.node);
        if let Some(error) = self.managers.world.lock().faults.failure(&title) {
            return Err(error);
        }
        self.managers.manager(&self.node, self.platform)
    }
}

#[async_trait]
impl ManagerApi for SimApi {
    async fn health(&self) -> Result<()> {
        self.current("health")?.health().await
    }

    async fn platform(&self) -> Result<PlatformV1> {
        self.current("platform")?.platform().await
    }

    async fn nodes(&self) -> Result<Vec<NodeV1>> {
        self.current("nodes")?.nodes().await
    }

    async fn services(&self) -> Result<Vec<ServiceV1>> {
        self.current("services")?.services().await
    }

    async fn progress(&self, with_plan: bool) -> Result<ProgressV1> {
        self.current("progress")?.progress(with_plan).await
    }

    async fn events(&self, after: u64) -> Result<EventsV1> {
        self.current("events")?.events(after).await
    }

    async fn watch_events(&self, after: u64) -> Result<BoxStream<'static, Result<Event>>> {
        let (manager, ended) = self.process("watch_events")?;
        let events = LocalApi::new(manager).watch_events(after).await?;
        Ok(until_ended(events, ended))
    }

    async fn watch_endpoints(
        &self,
        service: &ServiceName,
    ) -> Result<BoxStream<'static, Result<Vec<EndpointV1>>>> {
        let (manager, ended) = self.process("watch_endpoints")?;
        let endpoints = LocalApi::new(manager).watch_endpoints(service).await?;
        Ok(until_ended(endpoints, ended))
    }

    async fn last_event(&self) -> Result<u64> {
        self.current("last_event")?.last_event().await
    }

    async fn apply(&self, declaration: &Declaration) -> Result<AppliedV1> {
        self.current("apply")?.apply(declaration).await
    }

    async fn missing_chunks(&self, of: &BTreeSet<ChunkDigest>) -> Result<BTreeSet<ChunkDigest>> {
        self.current("missing_chunks")?.missing_chunks(of).await
    }

    async fn put_chunk(&self, chunk: &Chunk) -> Result<()> {
        self.current("put_chunk")?.put_chunk(chunk).await
    }

    async fn set_image_logins(&self, logins: &ImageLogins) -> Result<()> {
        self.current("set_image_logins")?
            .set_image_logins(logins)
            .await
    }

    async fn plan(&self, declaration: &Declaration) -> Result<Plan> {
        self.current("plan")?.plan(declaration).await
    }

    async fn recorded_plan(&self) -> Result<RecordedPlan> {
        self.current("recorded_plan")?.recorded_plan().await
    }

    async fn delete_platform(&self, volumes: bool) -> Result<OperationV1> {
        self.current("delete_platform")?
            .delete_platform(volumes)
            .await
    }

    async fn restart(&self, name: &str, replaces: Option<RestartV1>) -> Result<OperationV1> {
        self.current("restart")?.restart(name, replaces).await
    }

    async fn restart_node(&self, name: &str, request: &RestartNodeV1) -> Result<OperationV1> {
        self.current("restart_node")?
            .restart_node(name, request)
            .await
    }

    async fn prepare_node(&self, name: &str) -> Result<OperationV1> {
        self.current("prepare_node")?.prepare_node(name).await
    }

    async fn add_node(&self, node: &NewNodeV1) -> Result<AppliedV1> {
        self.current("add_node")?.add_node(node).await
    }

    async fn adopt_node(&self, machine: &NewMachineV1) -> Result<AdoptedV1> {
        self.current("adopt_node")?.adopt_node(machine).await
    }

    async fn remove_node(&self, name: &str, volumes: bool) -> Result<AppliedV1> {
        self.current("remove_node")?
            .remove_node(name, volumes)
            .await
    }

    async fn apply_service(
        &self,
        class: ServiceClass,
        name: &ServiceName,
        text: &str,
    ) -> Result<AppliedV1> {
        self.current("apply_service")?
            .apply_service(class, name, text)
            .await
    }

    async fn plan_service(
        &self,
        class: ServiceClass,
        name: &ServiceName,
        text: &str,
    ) -> Result<Plan> {
        self.current("plan_service")?
            .plan_service(class, name, text)
            .await
    }

    async fn remove_service(&self, class: ServiceClass, name: &str) -> Result<AppliedV1> {
        self.current("remove_service")?
            .remove_service(class, name)
            .await
    }

    async fn change_nodes(&self, names: &[String], request: NodeRequest) -> Result<AppliedV1> {
        self.current("schedule_nodes")?
            .change_nodes(names, request)
            .await
    }

    async fn override_service(&self, service: &str, change: OverrideChange) -> Result<AppliedV1> {
        self.current("override_service")?
            .override_service(service, change)
            .await
    }

    async fn overrides(&self) -> Result<Vec<OverrideV1>> {
        self.current("overrides")?.overrides().await
    }

    async fn export(&self) -> Result<ExportV1> {
        self.current("export")?.export().await
    }

    async fn remove_override(&self, id: &str) -> Result<AppliedV1> {
        self.current("remove_override")?.remove_override(id).await
    }

    async fn revisions(&self) -> Result<Vec<RevisionV1>> {
        self.current("revisions")?.revisions().await
    }

    async fn rollback(&self, to: Generation, secrets: RestoredSecrets) -> Result<RolledBackV1> {
        self.current("rollback")?.rollback(to, secrets).await
    }

    async fn plan_rollback(
        &self,
        to: Generation,
        secrets: RestoredSecrets,
    ) -> Result<RollbackPlanV1> {
        self.current("plan_rollback")?
            .plan_rollback(to, secrets)
            .await
    }

    async fn rollout(&self, service: &str, request: RolloutRequest) -> Result<OperationV1> {
        self.current("rollout")?.rollout(service, request).await
    }

    async fn retry(&self, name: &str, options: RetryOptions) -> Result<RetriedV1> {
        self.current("retry")?.retry(name, options).await
    }

    async fn operations(&self) -> Result<Vec<OperationV1>> {
        self.current("operations")?.operations().await
    }

    async fn operation(&self, id: OperationId) -> Result<OperationV1> {
        self.current("operation")?.operation(id).await
    }

    async fn cancel(&self, id: OperationId) -> Result<OperationV1> {
        self.current("cancel")?.cancel(id).await
    }

    async fn create_token(&self, new: &NewTokenV1) -> Result<CreatedTokenV1> {
        self.current("create_token")?.create_token(new).await
    }

    async fn tokens(&self) -> Result<Vec<TokenV1>> {
        self.current("tokens")?.tokens().await
    }

    async fn revoke_token(&self, name: &str) -> Result<TokenV1> {
        self.current("revoke_token")?.revoke_token(name).await
    }

    async fn why(&self, name: &str) -> Result<WhyV1> {
        self.current("why")?.why(name).await
    }

    async fn exec(&self, name: &str, command: ExecCommand) -> Result<Conversation> {
        self.current("exec")?.exec(name, command).await
    }

    async fn logs(
        &self,
        service: &ServiceName,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<ServiceLogLine>>> {
        let (manager, ended) = self.process("logs")?;
        let lines = LocalApi::new(manager).logs(service, options).await?;
        Ok(until_ended(lines, ended))
    }
}

/// Ends a stream with an error when the manager's process ends, because the connection ends, too.
fn until_ended<T: Send + 'static>(
    stream: BoxStream<'static, Result<T>>,
    ended: watch::Receiver<()>,
) -> BoxStream<'static, Result<T>> {
    let stream = stream::unfold(Some((stream, ended)), async |state| {
        let (mut stream, mut ended) = state?;
        tokio::select! {
            item = stream.next() => item.map(|item| (item, Some((stream, ended)))),
            Err(source) = ended.changed() => {
                let what = "the connection to the manager".into();
                let source = Some(Box::new(source) as _);
                Some((Err(Error::Interrupted { what, source }), None))
            }
        }
    });
    stream.boxed()
}

/// The code bases that the bootstrapper copied to the manager's node.
#[derive(Debug)]
struct CodeOnNode {
    world: SimWorld,
    node: NodeName,
    directory: String,
}

#[async_trait]
impl CodeStore for CodeOnNode {
    async fn list(&self) -> Result<Vec<String>> {
        Err(Error::Unsupported {
            what: "listing code bases by name".into(),
            backend: "the copy on the manager's node".into(),
        })
    }

    async fn digest(&self, name: &str) -> Result<CodeBaseRef> {
        Err(Error::not_found(format!(
            "a copy of code base {name} without a digest"
        )))
    }

    async fn archive(&self, code: &CodeBaseRef) -> Result<ByteStream> {
        let file = PublishedStore::file_name(code)?;
        let path = format!("{}/{file}", self.directory);
        let (_, contents) = self
            .world
            .file(&self.node, &path)
            .ok_or_else(|| Error::not_found(format!("code base {}", code.name)))?;
        Ok(Box::pin(futures_util::stream::once(
            async move { Ok(contents) },
        )))
    }
}

/// The manager's image in the simulation. The program in the image is never started.
#[derive(Debug, Clone, Copy, Default)]
pub struct SimManagerImage;

#[async_trait]
impl ManagerImage for SimManagerImage {
    async fn digest(&self) -> Result<String> {
        Ok(hex::encode(Sha256::digest("a manager")))
    }

    async fn archive(&self, name: &str) -> Result<ByteStream> {
        let archive = Image::of_program(name).archive(name)?;
        Ok(Box::pin(futures_util::stream::once(
            async move { Ok(archive) },
        )))
    }
}
