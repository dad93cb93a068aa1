//! The bootstrapper as a library: ensures that the manager's node and the manager are running,
//! sends the declaration to the manager, and follows its progress until the platform is up.
//!
//! Every step first observes and then changes only what is missing, so an interrupted call can be
//! repeated.

mod builder;
mod doctor;
mod down;
mod durations;
mod estimate;
mod existing;
mod exit;
mod follow;
mod handover;
mod lock;
mod manager_container;
mod no_probe;
mod node_restart;
mod nodes;
mod operation;
mod outdated;
mod overrides;
mod preparation;
mod preview;
mod previous_manager;
mod progress;
mod public_ports;
mod publish;
mod reach;
mod registry;
mod removal;
mod restart;
mod retry;
mod revisions;
mod rollout;
mod rotation;
mod secrets;
mod token;
mod wait;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use builder::BootstrapperBuilder;
pub use doctor::{Finding, Health};
pub use durations::{Durations, Timed, describe_estimate};
pub use exit::ExitStatus;
pub use follow::{Outcome, ServiceFailure};
pub use handover::{Handover, ManagerConfig, code_directory, handover_directory};
pub use lock::StateLock;
pub use preview::Preview;
pub use progress::{Progress, Reporter};
pub use publish::publish;
pub use reach::{ReachManager, ThroughNode};
pub use removal::{Contents, Removal};
pub use rotation::{RotatedCredential, RotationStep};
pub use secrets::{
    ManagerPlacement, MemoryState, OperatorState, OperatorTokens, PlatformSecrets, Replacement,
    Rotation, StateDirectory,
};
pub use wait::Wait;

pub use crate::runtime::{ManagerImage, StaticBinary};

use tracing::Instrument as _;

use self::progress::Stage;
use crate::api::ManagerApi;
use crate::cloud::{ObservedNode, Power, PreflightReport};
use crate::error::{Error, Result, Retry};
use crate::host::{HostCommand, HostFile, NodeHandle};
use crate::model::{Chunks, Generation, ImageSource, NodeName, PlatformId};
use crate::platform::{Access, Declaration, ManagerEndpoint, RegistrySpec};
use crate::reconcile::declared::listed_name;
use crate::reconcile::placement::place;
use crate::reconcile::{Backends, Declared, DriverOptions, History, Observed};
use crate::registry::Databases;
use crate::runtime::ContainerRuntime;
use crate::secret::PlatformKey;

/// How long a newly started manager may take to answer.
const MANAGER_ANSWERS_WITHIN: Duration = Duration::from_mins(2);

/// How long a running manager may take to accept a request.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(30);

/// How long the cloud may take to answer one request, including throttled attempts and the time
/// until a new permission takes effect.
const CLOUD_ANSWERS_WITHIN: Duration = Duration::from_mins(15);

/// How long connecting to a node may take.
const CONNECTED_WITHIN: Duration = Duration::from_mins(2);

/// How long a short operation on a node may take.
const NODE_ANSWERS_WITHIN: Duration = Duration::from_mins(5);

/// How long sending one code base or image to a node may take.
const SENT_WITHIN: Duration = Duration::from_hours(1);

/// How long a database may take to answer.
const DATABASE_ANSWERS_WITHIN: Duration = Duration::from_mins(2);

/// The interval between polls.
const PACE: Duration = Duration::from_millis(100);

/// The bootstrapper of one platform.
#[derive(Debug, Clone)]
pub struct Bootstrapper {
    /// The backends. Their registry is a temporary one, never the platform's.
    pub backends: Backends,
    /// The container engine on this machine. The manager's node receives images from this engine
    /// instead of pulling them.
    pub operator_engine: Option<Arc<dyn ContainerRuntime>>,
    /// The state of the platform on this machine.
    pub state: Arc<dyn OperatorState>,
    pub secrets: PlatformSecrets,
    /// How the manager's API is reached.
    pub reach: Arc<dyn ReachManager>,
    /// The source of the manager's image.
    pub manager_image: Arc<dyn ManagerImage>,
    /// Receives progress reports.
    pub reporter: Arc<dyn Reporter>,
    /// Options of the control loop.
    pub driver: DriverOptions,
    /// The location of the registry. Only `up` uses it.
    pub registry: RegistrySpec,
    /// The code store, and the credentials that the manager receives. Only `up` uses this field.
    pub access: Access,
    /// Opens the databases of the registry. Not used for a registry in a file.
    pub databases: Arc<dyn Databases>,
}

/// Options of `up`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpOptions {
    /// The chunks of the declaration's mounted files ([`Loaded::chunks`](crate::platform::Loaded)).
    /// Chunks that the manager has are not needed.
    pub chunks: Chunks,
    /// Wait until every declared node is created and prepared before the manager starts. Has no
    /// effect if the platform already has nodes.
    pub all_nodes: bool,
}

impl Bootstrapper {
    /// Starts or updates the platform, and returns when every service is ready or has failed.
    pub async fn up(&self, declaration: &Declaration, options: UpOptions) -> Result<Outcome> {
        let Declaration { id, name, .. } = declaration;
        let span = tracing::info_span!("up", platform = %name, %id);
        self.bring_up(declaration, options).instrument(span).await
    }

    async fn bring_up(&self, declaration: &Declaration, options: UpOptions) -> Result<Outcome> {
        self.preflight(declaration).await?;
        self.wait("the jump host", CONNECTED_WITHIN)
            .until(self.reject_unusable_jump_host())
            .await?;
        self.wait("the registry's databases", DATABASE_ANSWERS_WITHIN)
            .until(self.prepare_databases(declaration.id))
            .await?;
        // Store the cloud before taking machines over, so that `down` finds them.
        self.store_placement(declaration).await?;
        let mut declaration = declaration.clone();
        let new = self.take_over_machines(&mut declaration).await?;
        let declaration = &declaration;
        let reporter = self.reporter_with_estimates(declaration).await;
        let (reporter, clock) = (reporter.as_ref(), self.backends.clock.as_ref());
        let nodes = self
            .nodes(declaration, &new, options.all_nodes, (reporter, clock))
            .await?;
        let prepared = async {
            let machine = self.manager_machine(declaration).await?;
            let node = self.connect(&machine).await?;
            let sources = async {
                self.publish_code(&node, declaration).await?;
                self.send_images(&node, declaration).await
            };
            let image = self.manager_image(&node, declaration);
            let ((), image) = tokio::try_join!(sources, image)?;
            Ok((machine, node, image))
        };
        let ((machine, node, image), mut timed) = nodes.meanwhile(prepared).await?;
        let endpoint = endpoint(&machine, declaration)?;
        let client = self
            .manager(&machine, &node, declaration, &endpoint, &image)
            .await?;
        self.wait("the registry's database", DATABASE_ANSWERS_WITHIN)
            .until(self.record_manager(&endpoint))
            .await?;
        let logins = &self.access.credentials.images;
        self.wait(
            "the manager's acceptance of the logins for images",
            MANAGER_ANSWERS_WITHIN,
        )
        .repeat(|| client.set_image_logins(logins))
        .await?;
        let send_files = || self.send_files(client.as_ref(), declaration, &options.chunks);
        send_files().await?;
        let accepted = match self.apply(client.as_ref(), declaration).await {
            // The manager may have deleted chunks of an earlier `up` after it listed them.
            Err(Error::Conflict { .. }) if !declaration.chunks().is_empty() => {
                send_files().await?;
                self.apply(client.as_ref(), declaration).await
            }
            accepted => accepted,
        };
        let (cursor, applied) = accepted?;
        let file = Handover::declaration_file(declaration)?;
        self.wait("the declaration on the manager's node", NODE_ANSWERS_WITHIN)
            .until(node.host.put(file))
            .await?;
        let (outcome, more) =
            follow::follow(client.as_ref(), applied.generation, cursor, reporter, clock).await?;
        timed.extend(more);
        self.record_durations(declaration, &timed).await;
        self.wait("the removal of unused code bases", NODE_ANSWERS_WITHIN)
            .until(self.remove_unused_code(&node, declaration))
            .await?;
        self.forget_released_machines(declaration).await?;
        Ok(outcome)
    }

    async fn store_placement(&self, declaration: &Declaration) -> Result<()> {
        let placed = ManagerPlacement {
            cloud: declaration.cloud.clone(),
            manager: declaration.manager.clone(),
            deadlines: declaration.deadlines.clone(),
        };
        self.state.store_placement(&placed).await
    }

    /// Starts a wait that is reported as progress.
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

    /// Returns the node as the cloud reports it.
    async fn look_up(&self, node: &NodeName) -> Result<Option<ObservedNode>> {
        self.wait(
            format!("the cloud's response about node {node}"),
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

    /// Creates a client of the running manager, connected through the manager's node.
    pub async fn client(&self, platform: PlatformId) -> Result<Arc<dyn ManagerApi>> {
        let (machine, node, port) = self.manager_node().await?;
        self.wait("the connection to the manager", CONNECTED_WITHIN)
            .until(self.reach.reach(&machine, &node, platform, port))
            .await
    }

    /// Connects to the manager's node. Returns the node, and the port of the manager's API.
    async fn manager_node(&self) -> Result<(ObservedNode, NodeHandle, u16)> {
        let placed = self.state.placement().await?.ok_or_else(not_running)?;
        let machine = self
            .look_up(&placed.manager.node)
            .await?
            .ok_or_else(not_running)?;
        if machine.power != Power::Running {
            return Err(Error::Unreachable {
                hint: None,
                what: "the manager".into(),
                source: Some(format!("its node {} is not running", machine.name).into()),
            });
        }
        let node = self.connect(&machine).await?;
        Ok((machine, node, placed.manager.port))
    }

    /// Rejects a declaration that cannot work, without changing or storing anything. The report
    /// contains remarks, and how long creating new nodes will take.
    pub async fn preflight(&self, declaration: &Declaration) -> Result<PreflightReport> {
        if let Some(placed) = self.state.placement().await? {
            placed.manager.check_change(&declaration.manager)?;
        }
        let mut report = self.cloud_preflight(declaration).await?;
        let mut problems = std::mem::take(&mut report.problems);
        let declared = Declared::new(Generation::default(), declaration, &self.secrets.key)?;
        let placement = place(&declared, &Observed::default(), &History::default());
        let unplaceable = placement.unplaceable.iter();
        problems.extend(unplaceable.map(|(id, why)| format!("no node can run {id}: {why}")));
        if problems.is_empty() {
            self.wait("the registry's database", DATABASE_ANSWERS_WITHIN)
                .until(self.check_registry(declaration.id))
                .await?;
            report.predicted = self.estimate_new_nodes(declaration, report.predicted).await;
            return Ok(report);
        }
        Err(Error::Invalid {
            what: "the declaration".into(),
            why: problems.join("; "),
            hint: "fix the files, then run the command again; nothing was changed".into(),
        })
    }

    /// Returns an error if the platform's nodes exist but this machine does not have the secrets.
    /// Call this before creating secrets, because new secrets give no access to existing nodes.
    /// `kept_in` is the directory in which the secrets are expected.
    ///
    /// # Errors
    /// The error of the cloud if the nodes cannot be listed.
    pub async fn missing_secrets(&self, kept_in: &Path) -> Result<Option<Error>> {
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
                "the nodes exist ({}), but this machine does not have the platform's secrets, \
                 which are expected in {}",
                names.join(", "),
                kept_in.display()
            ),
            hint: format!(
                "copy {} from the machine that started the platform, and make it readable only by \
                 you; if the secrets are lost, delete the nodes that the platform created in the \
                 cloud, remove the tags `lifecycle.*` and the account `lifecycle` from others, then \
                 run `bootstrapper up`; nothing was changed",
                kept_in.display()
            ),
        }))
    }

    async fn cloud_preflight(&self, declaration: &Declaration) -> Result<PreflightReport> {
        let nodes: Vec<_> = declaration.nodes.values().cloned().collect();
        let mut report = self
            .wait(
                "the cloud's check that nodes can be created",
                CLOUD_ANSWERS_WITHIN,
            )
            .until(self.backends.cloud.preflight(&nodes))
            .await?;
        let remark = public_ports::remark(declaration, &self.backends.cloud.capabilities());
        report.remarks.extend(remark);
        Ok(report)
    }

    /// Fails if the jump host rejects this client. A jump host that does not answer may be created
    /// later.
    async fn reject_unusable_jump_host(&self) -> Result<()> {
        match self.backends.connector.jump_host().await {
            Some((_, Err(error @ (Error::Denied { .. } | Error::Invalid { .. })))) => Err(error),
            _ => Ok(()),
        }
    }

    async fn manager_machine(&self, declaration: &Declaration) -> Result<ObservedNode> {
        let name = &declaration.manager.node;
        self.look_up(name)
            .await?
            .ok_or_else(|| Error::not_found(format!("node {name}")))
    }

    /// Copies missing code bases to the manager's node, unless the manager reads them from a shared
    /// store.
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

    /// Streams images from the engine on this machine to the manager's node. The manager pulls
    /// missing images.
    async fn send_images(&self, node: &NodeHandle, declaration: &Declaration) -> Result<()> {
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
            // Skip images that are referenced by digest, because an exported archive does not
            // contain the digest.
            if name.contains('@') {
                continue;
            }
            let is_there = self
                .wait(format!("the lookup of image {name}"), NODE_ANSWERS_WITHIN)
                .until(node.runtime.image(&name))
                .await?
                .is_some();
            if is_there {
                continue;
            }
            let lookup = self
                .wait(
                    "the response of the engine on this machine",
                    NODE_ANSWERS_WITHIN,
                )
                .until(operator.image(&name))
                .await;
            match lookup {
                Ok(Some(_)) => {}
                Ok(None) => continue,
                // A local engine that is not running is no error: the manager pulls the images.
                Err(error) => {
                    tracing::debug!(error = %error.chain(), "the local engine is not available");
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

    /// Sends the mounted files that the manager does not have.
    async fn send_files(
        &self,
        client: &dyn ManagerApi,
        declaration: &Declaration,
        chunks: &Chunks,
    ) -> Result<()> {
        let needed = declaration.chunks();
        if needed.is_empty() {
            return Ok(());
        }
        let missing = self
            .wait(
                "the manager's list of mounted files",
                MANAGER_ANSWERS_WITHIN,
            )
            .repeat(|| client.missing_chunks(&needed))
            .await?;
        if missing.is_empty() {
            return Ok(());
        }
        let send = async {
            for digest in &missing {
                let chunk = chunks.get(digest).ok_or_else(|| {
                    Error::not_found_with_hint(
                        "the contents of the mounted files",
                        "pass the chunks that were read with the declaration (`Loaded::chunks`)",
                    )
                })?;
                self.wait("the manager's acceptance of files", MANAGER_ANSWERS_WITHIN)
                    .repeat(|| client.put_chunk(chunk))
                    .await?;
            }
            Ok(())
        };
        self.stage("send the mounted files".into(), SENT_WITHIN)
            .run(send)
            .await
    }

    /// Sends the declaration until the manager accepts it. Returns the response, and the cursor
    /// before the first event.
    async fn apply(
        &self,
        client: &dyn ManagerApi,
        declaration: &Declaration,
    ) -> Result<(u64, crate::api::wire::AppliedV1)> {
        let attempt = || async {
            // A new manager has no history, so all its events belong to this bring-up.
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

/// Sleeps if the call can be retried and the deadline has not passed. Otherwise, returns the error.
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
            "the cloud reports no private address for the node",
        )
    })?;
    Ok(ManagerEndpoint {
        node: machine.name.clone(),
        ip,
        port: declaration.manager.port,
    })
}

fn not_running() -> Error {
    Error::Invalid {
        what: "the platform".into(),
        why: "it is not running, because the manager's node does not exist".into(),
        hint: "start the platform with `bootstrapper up`".into(),
    }
}

/// Computes a digest of `form` that is keyed with the platform key.
fn own_digest(key: &PlatformKey, form: &impl serde::Serialize) -> Result<String> {
    let bytes = serde_json::to_vec(form)
        .map_err(|error| Error::failed("serializing the manager's settings", error.to_string()))?;
    Ok(key.sign("manager digest", &bytes))
}
