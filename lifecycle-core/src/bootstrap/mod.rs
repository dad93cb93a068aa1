//! The bootstrapper as a library call: sees to it that the manager's node runs, that the
//! manager runs on it, hands the declaration over, and follows until the platform is up.
//!
//! Every step looks first and changes only what is missing, so that a call that was broken off
//! anywhere goes on where it ended.

mod doctor;
mod down;
mod durations;
mod exit;
mod follow;
mod forecast;
mod former;
mod handover;
mod lock;
mod manager_container;
mod manager_image;
mod not_from_outside;
mod outdated;
mod prediction;
mod progress;
mod publish;
mod reach;
mod registry;
mod removal;
mod restart;
mod retry;
mod secrets;
mod wait;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use doctor::{Finding, Health};
pub use durations::{Durations, Timed, in_words};
pub use exit::ExitStatus;
pub use follow::{Outcome, ServiceFailure};
pub use forecast::Forecast;
pub use handover::{Handover, ManagerConfig, code_directory, handover_directory};
pub use lock::StateLock;
pub use manager_container::ManagerImage;
pub use manager_image::StaticBinary;
pub use progress::{Progress, Reporter};
pub use publish::publish;
pub use reach::{ReachManager, ThroughNode};
pub use removal::{Contents, Removal};
pub use secrets::{MemoryState, OperatorState, Placed, PlatformSecrets, StateDirectory};
pub use wait::Wait;

use self::not_from_outside::NotFromOutside;
use self::progress::Stage;
use self::wait::LoopWatch;
use crate::api::{ManagerApi, view};
use crate::cloud::{ObservedNode, Power, PreflightReport};
use crate::error::{Error, Result, Retry};
use crate::host::{HostCommand, HostFile, NodeHandle};
use crate::model::{Epoch, Generation, ImageSource, NodeName, NodeSpec, PlatformId};
use crate::platform::{Access, Declaration, ManagerEndpoint, RegistrySpec};
use crate::reconcile::declared::listed_name;
use crate::reconcile::placement::place;
use crate::reconcile::{
    Backends, Declared, Driver, DriverOptions, HeldBy, History, Observed, Target,
};
use crate::registry::{Databases, Registry};
use crate::runtime::ContainerRuntime;
use crate::secret::PlatformKey;

/// How long a manager that was just started may take to answer.
const MANAGER_ANSWERS_WITHIN: Duration = Duration::from_mins(2);

/// How long the cloud may take to answer one question, throttled ones included.
const CLOUD_ANSWERS_WITHIN: Duration = Duration::from_mins(5);

/// How long a connection to a node may take.
const CONNECTED_WITHIN: Duration = Duration::from_mins(2);

/// How long a node may take for short work.
const NODE_ANSWERS_WITHIN: Duration = Duration::from_mins(5);

/// How long a code base or an image may take to a node.
const SENT_WITHIN: Duration = Duration::from_hours(1);

/// How long a database may take.
const DATABASE_ANSWERS_WITHIN: Duration = Duration::from_mins(2);

/// How often is asked again while something is waited for.
const PACE: Duration = Duration::from_millis(200);

/// The bootstrapper of one platform.
#[derive(Debug, Clone)]
pub struct Bootstrapper {
    /// Cloud, nodes, time; its registry is a scratch one, never the platform's.
    pub backends: Backends,
    /// The operator's own container engine, whose images need not be pulled again.
    pub operator_engine: Option<Arc<dyn ContainerRuntime>>,
    /// What the operator's machine keeps.
    pub state: Arc<dyn OperatorState>,
    /// The platform's secrets.
    pub secrets: PlatformSecrets,
    /// How the manager's API is reached.
    pub reach: Arc<dyn ReachManager>,
    /// What the manager's image is made from.
    pub manager_image: Arc<dyn ManagerImage>,
    /// Who is told how far it is.
    pub reporter: Arc<dyn Reporter>,
    /// How the control loop works.
    pub driver: DriverOptions,
    /// Where the registry lies. Only `up` asks.
    pub registry: RegistrySpec,
    /// Where code bases are read from, and what the manager needs to log in. Only `up` asks.
    pub access: Access,
    /// Databases, should the registry or a part of it lie in one.
    pub databases: Arc<dyn Databases>,
}

/// What `up` is to do beyond the usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UpOptions {
    /// Provision and prepare every declared node before the manager starts. Acts only while no
    /// manager runs.
    pub all_nodes: bool,
}

impl Bootstrapper {
    /// Brings the platform up and follows until every service is ready or has failed.
    pub async fn up(&self, declaration: &Declaration, options: UpOptions) -> Result<Outcome> {
        self.preflight(declaration).await?;
        self.wait("the host that nodes are reached through", CONNECTED_WITHIN)
            .until(self.check_detour())
            .await?;
        self.wait("the registry's databases", DATABASE_ANSWERS_WITHIN)
            .until(self.prepare_databases(declaration.id))
            .await?;
        self.state
            .keep_placed(&Placed {
                cloud: declaration.cloud.clone(),
                manager: declaration.manager.clone(),
                deadlines: declaration.deadlines.clone(),
            })
            .await?;
        let mut seen = self.nodes(declaration, options).await?;
        let machine = self.manager_machine(declaration).await?;
        let node = self.connect(&machine).await?;
        self.publish_code(&node, declaration).await?;
        self.hand_on_images(&node, declaration).await?;
        let endpoint = endpoint(&machine, declaration)?;
        let client = self
            .manager(&machine, &node, declaration, &endpoint)
            .await?;
        self.wait("the registry's database", DATABASE_ANSWERS_WITHIN)
            .until(self.record_manager(&endpoint))
            .await?;
        let (cursor, applied) = self.apply(client.as_ref(), declaration).await?;
        let file = Handover::declaration_file(declaration)?;
        self.wait("the declaration on the manager's node", NODE_ANSWERS_WITHIN)
            .until(node.host.put(file))
            .await?;
        let (outcome, more) = follow::follow(
            client.as_ref(),
            applied.generation,
            cursor,
            self.expecting(declaration).await.as_ref(),
            self.backends.clock.as_ref(),
        )
        .await?;
        seen.extend(more);
        self.learn(declaration, &seen).await;
        self.wait("the removal of outdated code bases", NODE_ANSWERS_WITHIN)
            .until(self.remove_outdated_code(&node, declaration))
            .await?;
        Ok(outcome)
    }

    /// A wait that is reported with the progress.
    pub fn wait(&self, what: impl Into<String>, limit: Duration) -> Wait<'_> {
        let (reporter, clock) = (self.reporter.as_ref(), self.backends.clock.as_ref());
        Wait::new(reporter, clock, what, limit)
    }

    fn stage(&self, what: String, limit: Duration) -> Stage<'_> {
        let (reporter, clock) = (self.reporter.as_ref(), self.backends.clock.as_ref());
        Stage::begin(reporter, clock, what, limit)
    }

    async fn connect(&self, machine: &ObservedNode) -> Result<NodeHandle> {
        self.wait(format!("SSH to node {}", machine.name), CONNECTED_WITHIN)
            .until(self.backends.connector.connect(machine))
            .await
    }

    /// What the cloud shows of a node.
    async fn look_up(&self, node: &NodeName) -> Result<Option<ObservedNode>> {
        self.wait(
            format!("the cloud's answer about node {node}"),
            CLOUD_ANSWERS_WITHIN,
        )
        .until(self.backends.cloud.get(node))
        .await
    }

    async fn list_nodes(&self) -> Result<Vec<ObservedNode>> {
        self.wait("the cloud's list of nodes", CLOUD_ANSWERS_WITHIN)
            .until(self.backends.cloud.list())
            .await
    }

    /// A client of the running manager, through its node.
    pub async fn client(&self, platform: PlatformId) -> Result<Arc<dyn ManagerApi>> {
        let placed = self.state.placed().await?.ok_or_else(not_up)?;
        let machine = self
            .look_up(&placed.manager.node)
            .await?
            .ok_or_else(not_up)?;
        if machine.power != Power::Running {
            return Err(Error::Unreachable {
                what: format!("the manager (its node {} does not run)", machine.name),
                source: None,
            });
        }
        let node = self.connect(&machine).await?;
        self.wait("the way to the manager", CONNECTED_WITHIN)
            .until(
                self.reach
                    .reach(&machine, &node, platform, placed.manager.port),
            )
            .await
    }

    /// Refuses what can never be carried out. Changes and keeps nothing. Says what will be
    /// otherwise than was wished first, and how long new nodes will take.
    pub async fn preflight(&self, declaration: &Declaration) -> Result<PreflightReport> {
        if let Some(placed) = self.state.placed().await? {
            placed.manager.check_change(&declaration.manager)?;
        }
        let nodes: Vec<_> = declaration.nodes.values().cloned().collect();
        let mut report = self.cloud_preflight(&nodes).await?;
        let mut problems = std::mem::take(&mut report.problems);
        let declared = Declared::new(Generation::default(), declaration, &self.secrets.key)?;
        let placement = place(&declared, &Observed::default(), &History::default());
        let unplaceable = placement.unplaceable.iter();
        problems.extend(unplaceable.map(|(id, why)| format!("{id} fits on no node: {why}")));
        if problems.is_empty() {
            self.wait("the registry's database", DATABASE_ANSWERS_WITHIN)
                .until(self.check_registry(declaration.id))
                .await?;
            report.predicted = self.predict(declaration, report.predicted).await;
            return Ok(report);
        }
        Err(Error::Invalid {
            what: "what is declared".into(),
            why: problems.join("; "),
            hint: "fix this first; nothing was changed".into(),
        })
    }

    /// Why nothing can be done with this platform from here, if its nodes exist and this machine
    /// does not have its secrets: new ones would open none of these nodes. `kept_in` is where they
    /// are expected. Changes and keeps nothing.
    ///
    /// # Errors
    /// Those of the cloud that is asked for the nodes.
    pub async fn lacks_secrets(&self, kept_in: &Path) -> Result<Option<Error>> {
        if self.state.secrets().await?.is_some() {
            return Ok(None);
        }
        let nodes = self.list_nodes().await?;
        if nodes.is_empty() {
            return Ok(None);
        }
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        Ok(Some(Error::Denied {
            what: "access to the platform's nodes".into(),
            why: format!(
                "its nodes exist ({}), and this machine does not have the platform's secrets: \
                 they are expected in {}",
                names.join(", "),
                kept_in.display()
            ),
            hint: format!(
                "copy {} from the machine that brought the platform up, readable by you only; if \
                 the secrets are lost, delete these nodes at their provider, and `bootstrapper up` \
                 creates them again; nothing was touched",
                kept_in.display()
            ),
        }))
    }

    async fn cloud_preflight(&self, nodes: &[NodeSpec]) -> Result<PreflightReport> {
        self.wait(
            "the cloud's answer whether nodes can be created",
            CLOUD_ANSWERS_WITHIN,
        )
        .until(self.backends.cloud.preflight(nodes))
        .await
    }

    /// Refuses a detour that lets nobody through, before nodes are made that nothing reaches. One
    /// that does not answer may be made after the nodes' network, and is waited for later.
    async fn check_detour(&self) -> Result<()> {
        match self.backends.connector.detour().await {
            Some((_, Err(error @ (Error::Denied { .. } | Error::Invalid { .. })))) => Err(error),
            _ => Ok(()),
        }
    }

    /// The manager's node, or all nodes: there, running, with Docker. The same planner and
    /// control loop as the manager's, over a platform without services.
    async fn nodes(&self, declaration: &Declaration, options: UpOptions) -> Result<Vec<Timed>> {
        let mut wanted = declaration.clone();
        wanted.services.clear();
        if !options.all_nodes || self.manager_answers(declaration).await {
            wanted
                .nodes
                .retain(|name, _| *name == declaration.manager.node);
        }
        let mut backends = self.backends.clone();
        backends.probe = Arc::new(NotFromOutside);
        let epoch = scratch_epoch(backends.registry.as_ref()).await?;
        let declared = Declared::new(Generation(1), &wanted, &self.secrets.key)?;
        let target = Some(Target::without_api(declared));
        let (_keep, target) = tokio::sync::watch::channel(target);
        let mut options = self.driver.clone();
        options.policy.spares_manager_node = false;
        options.policy.only_nodes = true;
        options.policy.provisions = self.backends.cloud.capabilities().provisions;
        let snapshot = backends.registry.snapshot().await?;
        let published = tokio::sync::watch::Sender::default();
        let mut rounds = published.subscribe();
        let driver = Driver::new(backends, options, epoch, snapshot, target, published);
        let reporter = self.expecting(declaration).await;
        let clock = Arc::clone(&self.backends.clock);
        let mut shown = progress::StepLines::new(reporter.as_ref(), clock.as_ref());
        let mut waits = LoopWatch::new(reporter.as_ref(), clock.as_ref());
        let watch = async {
            loop {
                let now = Arc::clone(&rounds.borrow_and_update());
                if now.generation() == Generation(1) {
                    shown.show(&now);
                    if now.is_idle() {
                        return Ok(());
                    }
                    if now.settled {
                        return Err(nodes_failed(&now.plan));
                    }
                }
                waits.see(&now.running, &view::waits(&now.plan))?;
                tokio::select! {
                    changed = rounds.changed() => if changed.is_err() {
                        return Err(Error::failed("the control loop", "it ended"));
                    },
                    () = tokio::time::sleep_until(waits.next_report()) => {}
                }
            }
        };
        tokio::select! {
            result = watch => result?,
            error = driver.run() => return Err(error),
        }
        Ok(shown.took)
    }

    async fn manager_answers(&self, declaration: &Declaration) -> bool {
        match self.client(declaration.id).await {
            Ok(client) => client.health().await.is_ok(),
            Err(_) => false,
        }
    }

    async fn manager_machine(&self, declaration: &Declaration) -> Result<ObservedNode> {
        let name = &declaration.manager.node;
        self.look_up(name)
            .await?
            .ok_or_else(|| Error::not_found(format!("node {name}")))
    }

    /// Copies the code bases that services are built from to the manager's node, which reads
    /// only that copy. Named by their content, so what is there is never sent again. What lies in
    /// a store that the manager reaches, it reads by itself.
    async fn publish_code(&self, node: &NodeHandle, declaration: &Declaration) -> Result<()> {
        if !self.access.code.is_default() {
            return Ok(());
        }
        let directory = code_directory(declaration.id);
        let listing = format!("ls -1 '{directory}' 2>/dev/null || true");
        let present = self
            .wait(
                "the list of code bases on the manager's node",
                NODE_ANSWERS_WITHIN,
            )
            .until(node.host.exec(HostCommand::new(listing).as_root()))
            .await?
            .success("listing the code bases on the manager's node")?;
        let mut sent = std::collections::BTreeSet::new();
        for service in declaration.services.values() {
            let ImageSource::Build(source) = &service.source else {
                continue;
            };
            let file = format!("{}.tar", source.code.digest);
            if present.lines().any(|line| line == file) || !sent.insert(file.clone()) {
                continue;
            }
            let stage = self.stage(format!("send code base {}", source.code.name), SENT_WITHIN);
            let transfer = async {
                let contents = self.backends.code.archive(&source.code).await?;
                let file = HostFile {
                    path: format!("{directory}/{file}"),
                    mode: 0o400,
                    contents,
                };
                node.host.put(file).await
            };
            stage.run(transfer).await?;
        }
        Ok(())
    }

    /// Streams images that the platform needs and the operator's engine has to the manager's
    /// node; the manager hands them on. What neither has, the manager pulls.
    async fn hand_on_images(&self, node: &NodeHandle, declaration: &Declaration) -> Result<()> {
        let Some(operator) = &self.operator_engine else {
            return Ok(());
        };
        let mut names = std::collections::BTreeSet::new();
        for service in declaration.services.values() {
            match &service.source {
                ImageSource::Image(name) => {
                    names.insert(listed_name(name));
                }
                ImageSource::Build(source) => {
                    names.extend(source.bases.iter().map(|base| listed_name(base)));
                }
            }
        }
        for name in names {
            // A digest is no name that survives the way; who needs such an image pulls it.
            if name.contains('@') {
                continue;
            }
            let is_there = self
                .wait(
                    format!("what is known of image {name}"),
                    NODE_ANSWERS_WITHIN,
                )
                .until(node.runtime.image(&name))
                .await?
                .is_some();
            if is_there {
                continue;
            }
            let asked = self
                .wait(
                    "the answer of the engine on this machine",
                    NODE_ANSWERS_WITHIN,
                )
                .until(operator.image(&name))
                .await;
            match asked {
                Ok(Some(_)) => {}
                Ok(None) => continue,
                // An engine that is switched off has nothing to give, and need not run.
                Err(error) => {
                    tracing::debug!(error = %error.chain(), "the operator's engine is not asked");
                    return Ok(());
                }
            }
            let what = format!("send image {name} to the manager's node");
            let send = async {
                let archive = operator.export_image(&name).await?;
                node.runtime.import_image(archive).await
            };
            self.stage(what, SENT_WITHIN).run(send).await?;
        }
        Ok(())
    }

    /// Hands the declaration to the manager, as soon as it takes it. Gives also the cursor from
    /// which on events belong to this run.
    async fn apply(
        &self,
        client: &dyn ManagerApi,
        declaration: &Declaration,
    ) -> Result<(u64, crate::api::wire::AppliedV1)> {
        let attempt = || async {
            // A manager that has just begun has no history: all of it belongs to this run.
            let is_new = !client.progress(false).await?.open;
            let cursor = if is_new {
                0
            } else {
                client.last_event().await?
            };
            Ok((cursor, client.apply(declaration).await?))
        };
        self.wait(
            "the manager's acceptance of the declaration",
            MANAGER_ANSWERS_WITHIN,
        )
        .repeat(attempt)
        .await
    }
}

/// Pauses if the call may be repeated before the deadline.
async fn retry_or(error: Error, deadline: tokio::time::Instant) -> Result<()> {
    match error.retry() {
        Retry::After(after) if tokio::time::Instant::now() < deadline => {
            tokio::time::sleep(after.max(PACE)).await;
            Ok(())
        }
        _ => Err(error),
    }
}

fn endpoint(machine: &ObservedNode, declaration: &Declaration) -> Result<ManagerEndpoint> {
    let ip = machine.addresses.private.ok_or_else(|| {
        Error::failed(
            format!("reaching node {}", machine.name),
            "the cloud tells no private address of it",
        )
    })?;
    Ok(ManagerEndpoint {
        node: machine.name.clone(),
        ip,
        port: declaration.manager.port,
    })
}

async fn scratch_epoch(registry: &dyn Registry) -> Result<Epoch> {
    registry
        .acquire_lease("bootstrapper", Duration::from_hours(24))
        .await?
        .epoch()
}

fn nodes_failed(plan: &crate::reconcile::Plan) -> Error {
    let whys: Vec<String> = plan
        .held
        .iter()
        .map(|held| match &held.by {
            HeldBy::Backoff { why, .. } => format!("{}: {why}", held.subject),
            by => format!("{}: {by}", held.subject),
        })
        .collect();
    Error::failed("making the nodes ready", whys.join("; "))
}

fn not_up() -> Error {
    Error::Invalid {
        what: "the platform".into(),
        why: "it is not up: there is no node with its manager".into(),
        hint: "bring it up with `bootstrapper up`".into(),
    }
}

/// The digest of something of the bootstrapper's own under the platform key.
fn own_digest(key: &PlatformKey, form: &impl serde::Serialize) -> Result<String> {
    let bytes = serde_json::to_vec(form)
        .map_err(|error| Error::failed("writing the form of a digest", error.to_string()))?;
    Ok(key.sign("manager digest", &bytes))
}
