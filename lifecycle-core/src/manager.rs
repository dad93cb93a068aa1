//! Implements the lifecycle manager as a library type. While a manager holds the lease, it is the
//! leader and reconciles the platform with its declaration. The manager also serves API requests.

mod adoption;
mod answers;
pub(crate) mod audit;
mod cancellation;
mod changes;
mod chunks;
mod declaration;
mod denials;
mod exec;
mod follow;
mod image_logins;
mod metrics;
mod operations;
mod output;
mod overrides;
mod preparation;
mod restart;
mod retry;
mod revisions;
mod rollout;
mod rotation;
pub(crate) mod scope;
mod tokens;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify, watch};

use crate::error::{Error, Result};
use crate::metrics::Recorder;
use crate::model::{
    Epoch, Event, EventKind, Generation, NewEvent, NodeName, Operation, OperationId, OperationKind,
    OperationState, PlatformId, PlatformName, ServiceName, Subject,
};
use crate::network::assign;
use crate::platform::{Declaration, ManagerEndpoint, Overrides};
use crate::reconcile::{
    Agents, Backends, Declared, Driver, DriverOptions, RecordedPlan, Round, ServiceApi, Target,
};
use crate::registry::{
    AnswerRecord, Batch, Change, EVENTS_KEPT, EVENTS_KEPT_FOR, EventPage, Lease, Mirrors, Snapshot,
};
use crate::runtime::ImageLogins;
use crate::secret::{PlatformKey, Sensitive};

use declaration::Cause;

pub use adoption::Adopted;
pub use answers::KeyedRequest;
pub use audit::Actor;
pub use changes::Changes;
pub use declaration::Applied;
pub use exec::{CommandInput, Conversation};
pub use output::{InstanceOutput, Output};
pub use revisions::RolledBack;
pub use tokens::{Caller, FirstToken, NewToken, Tokens};

/// The page size for reading the latest events.
const LATEST_PAGE: u32 = 500;

/// The maximum number of listed operations.
const OPERATIONS_LISTED: u32 = 500;

/// How long operations are stored after they have ended.
const ENDED_OPERATIONS_KEPT_FOR: chrono::TimeDelta = chrono::TimeDelta::days(30);

/// How long the deletion of a platform waits for the mirror databases to be up to date.
const LAST_COPIES: Duration = Duration::from_secs(10);

/// The options of a manager, which come from the bootstrapper's hand-over.
#[derive(Debug, Clone)]
pub struct ManagerOptions {
    pub name: PlatformName,
    pub platform: PlatformId,
    pub key: PlatformKey,
    pub endpoint: ManagerEndpoint,
    /// The image of this manager, which the agents also use. Without an image, there is no service
    /// network.
    pub image: Option<String>,
    /// The certificates of the authorities that services trust, in PEM. The first one signs the API's
    /// certificate.
    pub authority: String,
    /// The public SSH key of the nodes.
    pub ssh_public: String,
    /// The first token of the platform's operator. It is added to the tokens in the registry if
    /// `token_rotation` is higher than in the registry.
    pub admin_token: FirstToken,
    /// How often the operator's first token and the services' tokens were replaced.
    pub token_rotation: u64,
    /// The token that the services of the platform shared if an earlier version created the platform.
    pub read_token: Option<Sensitive>,
    /// The initial logins for the registries of images; used only if the registry contains none.
    pub image_logins: ImageLogins,
    /// The initial declaration; used only if the registry contains none.
    pub declaration: Option<Declaration>,
    /// The name under which this manager holds the lease.
    pub holder: String,
    /// The duration of the lease.
    pub lease: Duration,
    pub driver: DriverOptions,
    /// The mirror databases, if any are declared.
    pub mirrors: Option<Mirrors>,
}

/// When the manager accepts a request that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepted {
    /// Even before the end of the first round. Used to replace a wrong declaration and to delete
    /// the platform.
    Always,
    /// Only after the end of the first round.
    AfterFirstRound,
}

/// A write in progress.
#[derive(Debug)]
struct Write<'m> {
    epoch: Epoch,
    /// The record for the answer, if the request has a key.
    record: Option<AnswerRecord>,
    /// The answer to an earlier request with the same key.
    answered: Option<serde_json::Value>,
    _guard: MutexGuard<'m, Option<Epoch>>,
}

/// The lifecycle manager.
#[derive(Debug)]
pub struct Manager {
    backends: Backends,
    options: ManagerOptions,
    target: watch::Sender<Option<Target>>,
    rounds: watch::Sender<Arc<Round>>,
    /// The epoch, while this manager is the leader. A write holds this lock, so that no two writes
    /// get the same generation.
    epoch: Mutex<Option<Epoch>>,
    open: AtomicBool,
    tokens: Tokens,
    /// How often the tokens of services were replaced.
    token_rotation: AtomicU64,
    /// The operations that have not ended, as recorded in the registry, except for the deletion of the
    /// platform.
    operations: std::sync::Mutex<Vec<Operation>>,
    retries: std::sync::Mutex<retry::Retries>,
    /// Held while a machine is being adopted.
    adopting: Mutex<()>,
    /// Wakes `follow` when an operation is accepted, even if the round does not change.
    accepted: Notify,
    /// Becomes true when running commands must end. Each of them keeps a receiver.
    stopping: watch::Sender<bool>,
    recorder: Arc<Recorder>,
    commits: watch::Receiver<u64>,
    /// The epoch while this manager leads, otherwise 0; for metrics, which cannot wait for `epoch`.
    leads_under: AtomicU64,
}

impl Manager {
    /// Creates a manager. It does not try to lead until [`Manager::run`] is called.
    pub fn new(backends: Backends, options: ManagerOptions) -> Arc<Self> {
        let (backends, recorder, commits) = metrics::measured(backends);
        let tokens = Tokens::new(
            Arc::clone(&backends.registry),
            Arc::clone(&backends.clock),
            options.admin_token.clone(),
            options.read_token.as_ref(),
        );
        Arc::new(Self {
            backends,
            options,
            tokens,
            target: watch::Sender::new(None),
            rounds: watch::Sender::default(),
            epoch: Mutex::new(None),
            open: AtomicBool::new(false),
            token_rotation: AtomicU64::new(0),
            operations: std::sync::Mutex::default(),
            retries: std::sync::Mutex::default(),
            adopting: Mutex::default(),
            accepted: Notify::new(),
            stopping: watch::Sender::new(false),
            recorder,
            commits,
            leads_under: AtomicU64::new(0),
        })
    }

    /// Repeatedly acquires the lease and leads, until the future is dropped or the registry
    /// contains invalid data.
    pub async fn run(self: Arc<Self>) -> Error {
        loop {
            let attempt = self
                .backends
                .registry
                .acquire_lease(&self.options.holder, self.options.lease)
                .await;
            match attempt {
                Ok(Lease::Held(epoch)) => match self.lead(epoch).await {
                    error @ (Error::Corrupt { .. } | Error::Invalid { .. }) => return error,
                    error => {
                        tracing::warn!(error = %error.chain(), "this manager no longer leads");
                    }
                },
                Ok(Lease::HeldBy { holder, until }) => {
                    tracing::info!(%holder, %until, "another manager leads");
                }
                Err(error) => tracing::warn!(error = %error.chain(), "cannot acquire the lease"),
            }
            *self.epoch.lock().await = None;
            self.lead_ended();
            // The next leader may change the platform, so the latest round is out of date.
            self.rounds.send_replace(Arc::default());
            tokio::time::sleep(self.options.lease / 3).await;
        }
    }

    async fn lead(&self, epoch: Epoch) -> Error {
        let snapshot = match self.take_over(epoch).await {
            Ok(snapshot) => snapshot,
            Err(error) => return error,
        };
        self.lead_began(epoch);
        if snapshot.first_round_done {
            self.open.store(true, Ordering::SeqCst);
        }
        let driver = Driver::new(
            self.backends.clone(),
            self.options.driver.clone(),
            epoch,
            snapshot,
            self.target.subscribe(),
            self.rounds.clone(),
        );
        let driver = driver.recording_to(Arc::clone(&self.recorder));
        self.take_retries_for(driver.retries());
        tokio::select! {
            error = driver.run() => error,
            error = self.renew(epoch) => error,
            error = self.follow() => error,
            () = self.clean_up(epoch) => {
                Error::failed("deleting old records", "its task ended unexpectedly")
            }
            () = self.mirror(epoch) => {
                Error::failed("updating the mirror databases", "its task ended unexpectedly")
            }
        }
    }

    /// Keeps the mirror databases up to date. Never returns, so that the manager keeps leading
    /// while a mirror is unavailable.
    async fn mirror(&self, epoch: Epoch) {
        let Backends {
            registry, clock, ..
        } = &self.backends;
        match &self.options.mirrors {
            Some(mirrors) => mirrors.run(registry, epoch, clock.as_ref()).await,
            None => std::future::pending().await,
        }
    }

    /// Releases the lease, so that another manager need not wait until the lease expires. Call this
    /// method after dropping the future of [`Manager::run`].
    pub async fn resign(&self) -> Result<()> {
        *self.epoch.lock().await = None;
        self.leads_under.store(0, Ordering::SeqCst);
        let registry = &self.backends.registry;
        registry.release_lease(&self.options.holder).await
    }

    /// Records the new leader's credentials, endpoint and initial declaration, and sets the target.
    async fn take_over(&self, epoch: Epoch) -> Result<Snapshot> {
        let registry = &self.backends.registry;
        let now = self.backends.clock.now();
        let mut batch = Batch::default();
        batch.changes.extend(self.initial_token().await?);
        self.take_credentials(&mut batch).await?;
        batch
            .changes
            .push(Change::PutManager(self.options.endpoint.clone()));
        batch.changes.extend(self.initial_image_logins().await?);
        let mut snapshot = registry.snapshot().await?;
        let current = snapshot.declaration.as_ref().map(|(_, current)| current);
        if let Some(declaration) = current.or(self.options.declaration.as_ref()) {
            batch
                .changes
                .extend(self.service_tokens(declaration).await?);
        }
        if snapshot.declaration.is_none()
            && let Some(declaration) = &self.options.declaration
        {
            let declaration = declaration.clone().with_overrides(Overrides::lost());
            let cause = Cause {
                request: "apply".into(),
                subject: Subject::Platform,
                what: String::new(),
            };
            batch.changes.push(Change::Declare {
                expected: None,
                note: Some(cause.note(None, &declaration)),
                declaration: Box::new(declaration),
            });
        }
        batch.events.push(NewEvent {
            at: now,
            kind: EventKind::Leading,
            subject: Subject::Platform,
            message: format!("{} leads under epoch {epoch}", self.options.holder),
            data: serde_json::Value::Null,
        });
        registry.commit(epoch, batch).await?;
        snapshot = registry.snapshot().await?;
        registry
            .prune_events(now - EVENTS_KEPT_FOR, EVENTS_KEPT)
            .await?;
        if let Err(error) = self.delete_unused(epoch).await {
            tracing::warn!(error = %error.chain(), "cannot delete unused chunks and old operations");
        }
        let open = registry.open_operations().await?;
        let deletion = open.iter().find_map(deletes_platform);
        self.take_operations(open);
        self.aim(epoch, &snapshot, deletion).await?;
        *self.epoch.lock().await = Some(epoch);
        Ok(snapshot)
    }

    /// Sets the target of the control loop. `deletion` is the deletion of the platform, if it was
    /// requested.
    async fn aim(
        &self,
        epoch: Epoch,
        snapshot: &Snapshot,
        deletion: Option<Deletion>,
    ) -> Result<()> {
        let Some((generation, declaration)) = &snapshot.declaration else {
            return Ok(());
        };
        let is_recorded = |node: &NodeName| snapshot.nodes.contains_key(node);
        let overrides = &declaration.overrides;
        let adopted = overrides.adopted_machines(is_recorded, deletion.is_some());
        self.backends.cloud.set_adopted_machines(&adopted);
        let mut declared = self.resolve(*generation, declaration, &snapshot.addresses)?;
        // Record the addresses before the control loop sends them to agents.
        if let Some(agents) = &declared.agents
            && agents.addresses != snapshot.addresses
        {
            let record = Batch::of(Change::PutAddresses(agents.addresses.clone()));
            self.backends.registry.commit(epoch, record).await?;
        }
        if let Some(Deletion { volumes }) = deletion {
            declared = Declared {
                deletes_volumes: volumes,
                ..declared.emptied()
            };
        }
        self.target.send_replace(Some(Target {
            declared: Arc::new(declared),
            api: Some(ServiceApi {
                endpoint: self.options.endpoint.clone(),
                key: self.options.key.clone(),
                token_rotation: self.token_rotation(),
                authority: self.options.authority.clone(),
            }),
            restarts: self.runs_to_end(),
            node_restarts: self.boots_to_end(),
            preparations: self.preparations(),
            rollouts: self.rollout_requests(),
        }));
        Ok(())
    }

    /// Resolves a declaration and assigns addresses to services. While the platform is being
    /// deleted, no service is declared, and running services keep their addresses.
    fn resolve(
        &self,
        generation: Generation,
        declaration: &Declaration,
        before: &BTreeMap<ServiceName, Ipv4Addr>,
    ) -> Result<Declared> {
        let key = &self.options.key;
        let declared = Declared::new(generation, declaration, key)?;
        let Some(image) = &self.options.image else {
            return Ok(declared);
        };
        let network = declaration.network.clone();
        let addresses = if declaration.services.is_empty() {
            before.clone()
        } else {
            assign(network.block, declaration.services.keys(), before)?
        };
        let agents = Agents::new(image.clone(), network, addresses, key)?;
        Ok(declared.with_agents(agents))
    }

    /// Renews the lease. Returns only when the lease is lost, or could not be renewed before it expired.
    async fn renew(&self, epoch: Epoch) -> Error {
        let mut renewed = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(self.options.lease / 3).await;
            let requested = tokio::time::Instant::now();
            let registry = &self.backends.registry;
            match registry
                .acquire_lease(&self.options.holder, self.options.lease)
                .await
            {
                Ok(Lease::Held(now)) if now == epoch => renewed = requested,
                Ok(Lease::Held(now)) => {
                    return Error::StaleEpoch {
                        ours: epoch,
                        current: now,
                    };
                }
                Ok(Lease::HeldBy { holder, .. }) => {
                    return Error::Conflict {
                        what: "renewing the lease failed".into(),
                        why: format!("{holder} holds the lease"),
                    };
                }
                // Keep leading while the lease is valid. After that time, another manager may lead.
                Err(error) if renewed.elapsed() >= self.options.lease => return error,
                Err(error) => tracing::warn!(error = %error.chain(), "cannot renew the lease"),
            }
        }
    }

    /// From time to time, deletes old events, old operations and unused chunks, and records the uses of
    /// tokens, and requests without a valid token. Separate from the renewal of the lease, because a busy
    /// registry may delay a deletion for longer than the lease is valid.
    async fn clean_up(&self, epoch: Epoch) {
        let registry = &self.backends.registry;
        let mut chunks_deleted = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(self.options.lease / 3).await;
            let before = self.backends.clock.now() - EVENTS_KEPT_FOR;
            if let Err(error) = registry.prune_events(before, EVENTS_KEPT).await {
                tracing::warn!(error = %error.chain(), "cannot delete old events");
            }
            if let Err(error) = self.record_token_uses(epoch).await {
                tracing::warn!(error = %error.chain(), "cannot record the use of tokens");
            }
            if let Err(error) = self.record_denials(epoch).await {
                tracing::warn!(error = %error.chain(), "cannot record requests without a valid token");
            }
            // Not while a declaration that refers to the chunks is being recorded.
            if chunks_deleted.elapsed() >= chunks::UNUSED_KEPT_FOR
                && let Ok(_writes) = self.epoch.try_lock()
            {
                chunks_deleted = tokio::time::Instant::now();
                if let Err(error) = self.delete_unused(epoch).await {
                    tracing::warn!(error = %error.chain(), "cannot delete unused chunks and old operations");
                }
            }
        }
    }

    /// Follows the control loop. Opens the API after the first round, and records the end of
    /// operations.
    async fn follow(&self) -> Error {
        let mut rounds = self.rounds();
        loop {
            let now = Arc::clone(&rounds.borrow_and_update());
            self.open_after(&now);
            if let Err(error) = self.end_restarts(&now).await {
                return error;
            }
            if let Err(error) = self.end_preparations(&now).await {
                return error;
            }
            if let Err(error) = self.follow_rollouts(&now).await {
                return error;
            }
            if let Err(error) = self.end_declared(&now).await {
                return error;
            }
            let is_aimed_at = |target: &Target| {
                target.declared.deleting && target.declared.generation == now.generation()
            };
            let deleted = now.is_deleting()
                && now.is_idle()
                && self.target.borrow().as_ref().is_some_and(is_aimed_at);
            if let Some(mirrors) = &self.options.mirrors {
                mirrors.notify();
            }
            // Nothing was ever declared, so there is nothing to remove.
            let undeclared = self.target.borrow().is_none();
            if (deleted || undeclared)
                && let Err(error) = self.end_platform_deletion().await
            {
                return error;
            }
            tokio::select! {
                biased;
                changed = rounds.changed() => if changed.is_err() {
                    return Error::failed("the control loop", "its task ended unexpectedly");
                },
                () = self.accepted.notified() => {}
            }
        }
    }

    /// Records an empty declaration, and then the end of the operation. If the manager restarts
    /// between these two writes, it finds the open operation and ends it. If the manager restarts
    /// after both writes, the empty declaration prevents it from creating anything.
    async fn end_platform_deletion(&self) -> Result<()> {
        let registry = &self.backends.registry;
        let epoch = self.epoch.lock().await;
        let Some(epoch) = *epoch else { return Ok(()) };
        let open = registry.open_operations().await?;
        if !open.iter().any(is_platform_deletion) {
            return Ok(());
        }
        if let Some((generation, declaration)) = registry.snapshot().await?.declaration {
            let empty = Change::Declare {
                expected: Some(generation),
                declaration: Box::new(emptied(declaration)),
                note: None,
            };
            registry.commit(epoch, Batch::of(empty)).await?;
        }
        // Update the mirrors now, because the client deletes this node next.
        if let Some(mirrors) = &self.options.mirrors {
            mirrors.caught_up(LAST_COPIES).await;
        }
        let mut batch = Batch::default();
        for mut operation in open {
            let at = self.backends.clock.now();
            operation.state = if is_platform_deletion(&operation) {
                OperationState::Succeeded { at }
            } else {
                let why = "the platform was deleted".into();
                OperationState::Failed { at, why }
            };
            batch.changes.push(Change::PutOperation(operation));
        }
        registry.commit(epoch, batch).await?;
        self.take_operations(Vec::new());
        self.aim_operations();
        Ok(())
    }

    /// Returns the tokens that the API accepts.
    pub fn tokens(&self) -> Tokens {
        self.tokens.clone()
    }

    /// Returns the platform's name and id.
    pub fn platform(&self) -> (&PlatformName, PlatformId) {
        (&self.options.name, self.options.platform)
    }

    /// Starts a request that writes. Blocks other writes until the result is dropped.
    ///
    /// Every method that writes calls this method first. A retry does not: it writes nothing, and
    /// the first round may depend on the retry.
    ///
    /// # Errors
    /// - [`Error::NotReady`] while another manager leads, or if the request must wait for the end of
    ///   the first round
    /// - [`Error::Invalid`] if another request had the same key
    async fn begin_write(&self, accepted: Accepted) -> Result<Write<'_>> {
        if accepted == Accepted::AfterFirstRound && !self.is_open() {
            return Err(Error::not_ready(
                "the manager",
                "its first round after the start is not complete; until then, it accepts only \
                 `up`, `down`, `rollback`, `retry`, `exec` and `token`",
            ));
        }
        let guard = self.epoch.lock().await;
        let epoch = (*guard).ok_or_else(not_leading)?;
        let (record, answered) = self.recorded_answer().await?;
        Ok(Write {
            epoch,
            record,
            answered,
            _guard: guard,
        })
    }

    /// Returns whether the first round has ended, so that the manager accepts all changes.
    pub fn is_open(&self) -> bool {
        // A caller that has seen the end of the first round must find the API open.
        self.open_after(&self.round());
        self.open.load(Ordering::SeqCst)
    }

    fn open_after(&self, round: &Round) {
        if round.settled && !round.is_deleting() && round.input.is_some() {
            self.open.store(true, Ordering::SeqCst);
        }
    }

    /// Subscribes to the latest round. While this manager is not the leader, the round has its
    /// default value. A receiver is notified when the plan or the running steps change, and when
    /// the round ends.
    pub fn rounds(&self) -> watch::Receiver<Arc<Round>> {
        self.rounds.subscribe()
    }

    /// Returns the latest round.
    pub fn round(&self) -> Arc<Round> {
        Arc::clone(&self.rounds.borrow())
    }

    /// Returns the state in the registry.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        self.backends.registry.snapshot().await
    }

    /// Returns the latest plan and its input.
    ///
    /// # Errors
    /// [`Error::NotReady`] until every node has been observed once.
    pub fn recorded_plan(&self) -> Result<RecordedPlan> {
        let round = self.round();
        match &round.input {
            Some(input) => Ok(RecordedPlan {
                input: Arc::clone(input),
                plan: Arc::clone(&round.plan),
            }),
            None => Err(Error::not_ready(
                "the manager",
                "it has not observed every node yet",
            )),
        }
    }

    /// Starts to delete the whole platform. A repeated call returns the same operation.
    pub async fn delete_platform(&self, volumes: bool) -> Result<Operation> {
        let write = self.begin_write(Accepted::Always).await?;
        let epoch = write.epoch;
        let registry = &self.backends.registry;
        let answered = self.answered_operation(&write).await?;
        let open = registry.open_operations().await?;
        let open = open.into_iter().find(is_platform_deletion);
        let operation = if let Some(operation) = answered {
            operation
        } else if let Some(operation) = open {
            self.join(&write, &operation).await?
        } else {
            let snapshot = registry.snapshot().await?;
            reject_stopped(snapshot.declaration.as_ref().map(|(_, d)| d))?;
            let operation = Operation {
                id: OperationId(self.backends.ids.uuid()),
                kind: OperationKind::DeletePlatform { volumes },
                state: OperationState::Running,
                requested_at: self.backends.clock.now(),
            };
            let with = if volumes { " with volumes" } else { "" };
            let request = format!("{}{with}", audit::DELETE);
            let mut batch = Batch::of(Change::PutOperation(operation.clone()));
            batch.changes.extend(write.answer(&operation.id)?);
            let audit = self.audit(&request, Subject::Platform);
            registry.commit(epoch, batch.event(audit)).await?;
            operation
        };
        // Set the target for an open operation too: an earlier call may have recorded the operation
        // and then failed.
        if operation.state == OperationState::Running {
            let deletion = deletes_platform(&operation);
            self.aim(epoch, &registry.snapshot().await?, deletion)
                .await?;
            self.accepted.notify_one();
        }
        Ok(operation)
    }

    /// Returns the latest operations, oldest first, also those that have ended in the last 30 days.
    pub async fn operations(&self) -> Result<Vec<Operation>> {
        self.backends.registry.operations(OPERATIONS_LISTED).await
    }

    /// Reads an operation.
    pub async fn operation(&self, id: OperationId) -> Result<Operation> {
        self.backends
            .registry
            .operation(id)
            .await?
            .ok_or_else(|| Error::not_found(format!("operation {id}")))
    }

    /// Returns the latest events, oldest first.
    pub async fn latest_events(&self, count: u64) -> Result<Vec<Event>> {
        let last = self.backends.registry.snapshot().await?.last_event;
        let mut after = last.saturating_sub(count);
        let mut events = Vec::new();
        while after < last {
            match self.events(after, LATEST_PAGE).await? {
                EventPage::Events(page) => {
                    let Some(latest) = page.last() else { break };
                    after = latest.id;
                    events.extend(page);
                }
                EventPage::Gone { oldest } => after = oldest.max(after + 1) - 1,
            }
        }
        Ok(events)
    }

    /// Reads the events after a cursor.
    pub async fn events(&self, after: u64, limit: u32) -> Result<EventPage> {
        self.backends.registry.events(after, limit).await
    }
}

/// Returns the declaration of a deleted platform, which contains only the manager's node.
fn emptied(declaration: Declaration) -> Declaration {
    let manager_node = declaration.manager.node.clone();
    let mut nodes = declaration.nodes;
    nodes.retain(|name, _| *name == manager_node);
    Declaration {
        nodes,
        services: std::collections::BTreeMap::new(),
        volumes: std::collections::BTreeSet::new(),
        overrides: Overrides::default(),
        ..declaration
    }
}

/// Rejects the deletion of a platform while a machine that was not created for it is stopped: its
/// containers could not be removed.
fn reject_stopped(declaration: Option<&Declaration>) -> Result<()> {
    let nodes = declaration.into_iter().flat_map(|d| d.nodes.values());
    let mut stopped = nodes.filter(|node| node.existing.is_some() && node.stopped);
    let Some(node) = stopped.next() else {
        return Ok(());
    };
    Err(Error::Conflict {
        what: "deleting the platform".into(),
        why: format!(
            "containers on the stopped node {0} could not be removed; start it with `bootstrapper node \
             start {0}` first",
            node.name
        ),
    })
}

/// A requested deletion of the platform.
#[derive(Debug, Clone, Copy)]
struct Deletion {
    /// Whether named volumes are deleted, too.
    volumes: bool,
}

fn deletes_platform(operation: &Operation) -> Option<Deletion> {
    match operation.kind {
        OperationKind::DeletePlatform { volumes } => Some(Deletion { volumes }),
        _ => None,
    }
}

fn is_platform_deletion(operation: &Operation) -> bool {
    deletes_platform(operation).is_some()
}

fn not_leading() -> Error {
    Error::not_ready("the manager", "it is not the leader at the moment")
}
