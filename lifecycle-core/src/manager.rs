//! The lifecycle manager as a library object: leads while it holds the lease, drives the
//! platform to what is declared, and answers who asks.

mod exec;
mod output;
mod restart;
mod retry;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify, watch};

use crate::error::{Error, Result};
use crate::model::{
    Epoch, Event, EventKind, Generation, NewEvent, Operation, OperationId, OperationKind,
    OperationState, PlatformId, PlatformName, ServiceName, Subject,
};
use crate::network::assign;
use crate::platform::{Declaration, ManagerEndpoint, ManagerSpec};
use crate::reconcile::{
    Agents, Backends, Declared, Driver, DriverOptions, Plan, PlanningInput, RecordedPlan, Round,
    ServiceApi, Target, plan,
};
use crate::registry::{
    Batch, Change, Credential, EVENTS_KEPT, EVENTS_KEPT_FOR, EventPage, Lease, Mirrors, Snapshot,
};
use crate::secret::{PlatformKey, Sensitive, token_hash};

pub use exec::{CommandInput, Conversation};
pub use output::{InstanceOutput, Output};

/// The name under which the registry keeps the hash of the token that changes things.
const ADMIN_TOKEN: &str = "admin-token";

/// The name under which the registry keeps the token that reads.
const READ_TOKEN: &str = "read-token";

/// How many events are read at a time when the latest are looked for.
const LATEST_PAGE: u32 = 500;

/// How long the end of a platform waits for the databases of kinds.
const LAST_COPIES: Duration = Duration::from_secs(10);

/// What a manager is started with; the bootstrapper hands it over.
#[derive(Debug, Clone)]
pub struct ManagerOptions {
    /// The platform's name.
    pub name: PlatformName,
    /// The platform's identity.
    pub platform: PlatformId,
    /// The platform's key.
    pub key: PlatformKey,
    /// Where this manager's API is reached.
    pub endpoint: ManagerEndpoint,
    /// The image that it runs from, and agents with it; no service network without one.
    pub image: Option<String>,
    /// The authority that signed its certificate, in PEM.
    pub authority: String,
    /// The hash of the token that changes things.
    pub admin_token_hash: String,
    /// The token that reads.
    pub read_token: Sensitive,
    /// What to start with, if the registry holds no declaration.
    pub declaration: Option<Declaration>,
    /// How it calls itself among several managers.
    pub holder: String,
    /// How long it leads without renewing.
    pub lease: Duration,
    /// How the control loop works.
    pub driver: DriverOptions,
    /// The databases of kinds, if there are any.
    pub mirrors: Option<Mirrors>,
}

/// What a credential allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Looking up and watching.
    Read,
    /// Everything.
    Admin,
}

/// The tokens that an API accepts, as their hashes.
#[derive(Debug, Clone)]
pub struct Tokens {
    admin: String,
    read: String,
}

impl Tokens {
    /// The admin token by its hash, and the read token.
    pub fn new(admin_hash: String, read: &Sensitive) -> Self {
        Self {
            admin: admin_hash,
            read: token_hash(read),
        }
    }

    /// The access that a token gives. [`None`] for an unknown one.
    pub fn access(&self, token: &Sensitive) -> Option<Access> {
        // The time of a comparison of hashes reveals nothing about a token.
        let hash = token_hash(token);
        if hash == self.admin {
            Some(Access::Admin)
        } else if hash == self.read {
            Some(Access::Read)
        } else {
            None
        }
    }
}

/// What an apply did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The generation in force.
    pub generation: Generation,
    /// Whether the declaration differed from the one before.
    pub changed: bool,
}

/// When a request that changes something is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepted {
    /// Also before the end of the first round: a declaration, since it may correct a bad one, and
    /// the end of the platform.
    Always,
    /// Only after the end of the first round.
    AfterFirstRound,
}

/// A write in progress.
#[derive(Debug)]
struct Write<'m> {
    epoch: Epoch,
    _guard: MutexGuard<'m, Option<Epoch>>,
}

/// The lifecycle manager.
#[derive(Debug)]
pub struct Manager {
    backends: Backends,
    options: ManagerOptions,
    target: watch::Sender<Option<Target>>,
    rounds: watch::Sender<Arc<Round>>,
    /// The epoch while it leads. Held during writes that the API asks for, so that two of
    /// them do not race for a generation.
    epoch: Mutex<Option<Epoch>>,
    open: AtomicBool,
    /// The restarts that have not ended, as the registry has them.
    restarts: std::sync::Mutex<Vec<Operation>>,
    retries: std::sync::Mutex<retry::Retries>,
    /// An operation was accepted; the control loop's status may be the same as before.
    accepted: Notify,
}

impl Manager {
    /// A manager that does nothing yet; [`Manager::run`] makes it lead.
    pub fn new(backends: Backends, options: ManagerOptions) -> Arc<Self> {
        Arc::new(Self {
            backends,
            options,
            target: watch::Sender::new(None),
            rounds: watch::Sender::default(),
            epoch: Mutex::new(None),
            open: AtomicBool::new(false),
            restarts: std::sync::Mutex::default(),
            retries: std::sync::Mutex::default(),
            accepted: Notify::new(),
        })
    }

    /// Leads whenever it can, until the future is dropped or the registry is damaged.
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
                        tracing::warn!(error = %error.chain(), "does not lead any more");
                    }
                },
                Ok(Lease::HeldBy { holder, until }) => {
                    tracing::info!(%holder, %until, "another manager leads");
                }
                Err(error) => tracing::warn!(error = %error.chain(), "cannot ask for the lease"),
            }
            *self.epoch.lock().await = None;
            // Whoever leads now may have changed what was observed.
            self.rounds.send_replace(Arc::default());
            tokio::time::sleep(self.options.lease / 3).await;
        }
    }

    async fn lead(&self, epoch: Epoch) -> Error {
        let snapshot = match self.take_over(epoch).await {
            Ok(snapshot) => snapshot,
            Err(error) => return error,
        };
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
        self.take_retries_for(driver.retries());
        tokio::select! {
            error = driver.run() => error,
            error = self.renew(epoch) => error,
            error = self.follow() => error,
            () = self.mirror(epoch) => Error::failed("the mirrors of the registry", "they ended"),
        }
    }

    /// Keeps the databases of kinds up to date. Never ends: they hold up nobody.
    async fn mirror(&self, epoch: Epoch) {
        let Backends {
            registry, clock, ..
        } = &self.backends;
        match &self.options.mirrors {
            Some(mirrors) => mirrors.run(registry, epoch, clock.as_ref()).await,
            None => std::future::pending().await,
        }
    }

    /// Gives the lease up, so that another manager need not wait until it runs out. For a
    /// manager whose [`Manager::run`] was dropped.
    pub async fn resign(&self) -> Result<()> {
        *self.epoch.lock().await = None;
        let registry = &self.backends.registry;
        registry.release_lease(&self.options.holder).await
    }

    /// Writes what a new leader brings with it, and sets the target.
    async fn take_over(&self, epoch: Epoch) -> Result<Snapshot> {
        let registry = &self.backends.registry;
        let now = self.backends.clock.now();
        let mut batch = Batch::default();
        batch.changes.push(Change::PutCredential {
            name: ADMIN_TOKEN.into(),
            credential: Credential::Hash(self.options.admin_token_hash.clone()),
        });
        batch.changes.push(Change::PutCredential {
            name: READ_TOKEN.into(),
            credential: Credential::Sealed(self.options.read_token.clone()),
        });
        batch
            .changes
            .push(Change::PutManager(self.options.endpoint.clone()));
        let mut snapshot = registry.snapshot().await?;
        if snapshot.declaration.is_none()
            && let Some(declaration) = &self.options.declaration
        {
            batch.changes.push(Change::Declare {
                expected: None,
                declaration: Box::new(declaration.clone()),
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
        let open = registry.open_operations().await?;
        let deleting = open.iter().any(is_platform_deletion);
        self.take_restarts(open);
        self.aim(epoch, &snapshot, deleting).await?;
        *self.epoch.lock().await = Some(epoch);
        Ok(snapshot)
    }

    /// Sets what the control loop works towards.
    async fn aim(&self, epoch: Epoch, snapshot: &Snapshot, deleting: bool) -> Result<()> {
        let Some((generation, declaration)) = &snapshot.declaration else {
            return Ok(());
        };
        let mut declared = self.meant(*generation, declaration, &snapshot.addresses)?;
        // Kept before anybody is told of them.
        if let Some(agents) = &declared.agents
            && agents.addresses != snapshot.addresses
        {
            let kept = Batch::of(Change::PutAddresses(agents.addresses.clone()));
            self.backends.registry.commit(epoch, kept).await?;
        }
        if deleting {
            declared = declared.emptied();
        }
        self.target.send_replace(Some(Target {
            declared: Arc::new(declared),
            api: Some(ServiceApi {
                endpoint: self.options.endpoint.clone(),
                token: self.options.read_token.clone(),
                authority: self.options.authority.clone(),
            }),
            restarts: self.runs_to_end(),
        }));
        Ok(())
    }

    /// What a declaration means, with each service's address where there is a service network.
    /// While the platform is deleted there are no services, and those that still run keep
    /// their addresses.
    fn meant(
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

    /// Keeps the lease; returns when it is lost, or may be.
    async fn renew(&self, epoch: Epoch) -> Error {
        let mut renewed = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(self.options.lease / 3).await;
            let asked = tokio::time::Instant::now();
            let registry = &self.backends.registry;
            match registry
                .acquire_lease(&self.options.holder, self.options.lease)
                .await
            {
                Ok(Lease::Held(now)) if now == epoch => renewed = asked,
                Ok(Lease::Held(now)) => {
                    return Error::StaleEpoch {
                        ours: epoch,
                        current: now,
                    };
                }
                Ok(Lease::HeldBy { holder, .. }) => {
                    return Error::Conflict {
                        what: "the lease".into(),
                        why: format!("{holder} took it"),
                    };
                }
                // A registry that is away for a moment does not end the lead; one that is away
                // for longer does, since another manager may lead by now.
                Err(error) if renewed.elapsed() >= self.options.lease => return error,
                Err(error) => tracing::warn!(error = %error.chain(), "cannot renew the lease"),
            }
            let before = self.backends.clock.now() - EVENTS_KEPT_FOR;
            if let Err(error) = registry.prune_events(before, EVENTS_KEPT).await {
                tracing::warn!(error = %error.chain(), "cannot drop old events");
            }
        }
    }

    /// Follows the control loop: opens the API after the first round, and ends operations that
    /// are done.
    async fn follow(&self) -> Error {
        let mut rounds = self.rounds();
        loop {
            let now = Arc::clone(&rounds.borrow_and_update());
            self.open_after(&now);
            if let Err(error) = self.end_restarts(&now).await {
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
            if deleted && let Err(error) = self.end_platform_deletion().await {
                return error;
            }
            tokio::select! {
                biased;
                changed = rounds.changed() => if changed.is_err() {
                    return Error::failed("the control loop", "it ended");
                },
                () = self.accepted.notified() => {}
            }
        }
    }

    /// Ends the declaration, and then the operation: a manager that starts again after this has
    /// nothing to bring back, and one that starts in between ends the operation.
    async fn end_platform_deletion(&self) -> Result<()> {
        let registry = &self.backends.registry;
        let epoch = self.epoch.lock().await;
        let Some(epoch) = *epoch else { return Ok(()) };
        let open = registry.open_operations().await?;
        if !open.iter().any(is_platform_deletion) {
            return Ok(());
        }
        if let Some((generation, declaration)) = registry.snapshot().await?.declaration {
            let nothing = Change::Declare {
                expected: Some(generation),
                declaration: Box::new(emptied(declaration)),
            };
            registry.commit(epoch, Batch::of(nothing)).await?;
        }
        // Who asked for it deletes this node next, and with it whoever could tell the copies.
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
        Ok(())
    }

    /// The tokens that the API accepts.
    pub fn tokens(&self) -> Tokens {
        Tokens::new(
            self.options.admin_token_hash.clone(),
            &self.options.read_token,
        )
    }

    /// The platform's name and identity.
    pub fn platform(&self) -> (&PlatformName, PlatformId) {
        (&self.options.name, self.options.platform)
    }

    /// Begins a request that writes: the registry's epoch, which no other request has until the
    /// result is dropped.
    ///
    /// Every method that writes begins here, so that an embedded manager and one behind HTTP reject
    /// the same requests. A retry writes nothing, and the first round may wait for it.
    ///
    /// # Errors
    /// [`Error::NotReady`] while another manager leads, and before the end of the first round for a
    /// request that must wait for it.
    async fn begin_write(&self, accepted: Accepted) -> Result<Write<'_>> {
        if accepted == Accepted::AfterFirstRound && !self.is_open() {
            return Err(Error::not_ready(
                "the manager",
                "the first round after the start has not ended; until then it accepts only a \
                 declaration, a retry, `down` and `exec`",
            ));
        }
        let guard = self.epoch.lock().await;
        let epoch = (*guard).ok_or_else(not_leading)?;
        Ok(Write {
            epoch,
            _guard: guard,
        })
    }

    /// Whether the manager accepts all changes: the first round has ended.
    pub fn is_open(&self) -> bool {
        // Whoever has seen the end of the round finds the API open.
        self.open_after(&self.round());
        self.open.load(Ordering::SeqCst)
    }

    fn open_after(&self, round: &Round) {
        if round.settled && !round.is_deleting() && round.input.is_some() {
            self.open.store(true, Ordering::SeqCst);
        }
    }

    /// The latest round; a default one as long as this manager does not lead. Subscribers are
    /// notified when its plan, the steps under way or its end change.
    pub fn rounds(&self) -> watch::Receiver<Arc<Round>> {
        self.rounds.subscribe()
    }

    /// The latest round.
    pub fn round(&self) -> Arc<Round> {
        Arc::clone(&self.rounds.borrow())
    }

    /// What the registry holds.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        self.backends.registry.snapshot().await
    }

    /// Declares the platform again. An identical declaration changes nothing; what failed is tried
    /// again at once.
    pub async fn apply(&self, declaration: Declaration) -> Result<Applied> {
        let write = self.begin_write(Accepted::Always).await?;
        let epoch = write.epoch;
        self.check(&declaration)?;
        let registry = &self.backends.registry;
        if registry
            .open_operations()
            .await?
            .iter()
            .any(is_platform_deletion)
        {
            return Err(Error::Conflict {
                what: "the declaration".into(),
                why: "the platform is being deleted".into(),
            });
        }
        let former = registry.snapshot().await?.declaration;
        let changed = former.as_ref().is_none_or(|(_, d)| *d != declaration);
        let former = former.map(|(generation, _)| generation);
        let mut batch = Batch::of(Change::Declare {
            expected: former,
            declaration: Box::new(declaration),
        });
        if changed {
            let next = Generation(former.unwrap_or_default().0 + 1);
            batch.events.push(NewEvent {
                at: self.backends.clock.now(),
                kind: EventKind::Declared,
                subject: Subject::Platform,
                message: format!("{} declared anew: generation {next}", self.options.name),
                data: serde_json::Value::Null,
            });
        }
        let committed = registry.commit(epoch, batch).await?;
        let generation = committed.generation.unwrap_or_default();
        // Not only if it changed: an earlier call may have been recorded and its answer lost.
        let is_aimed_at =
            |target: &Target| !target.declared.deleting && target.declared.generation == generation;
        if !self.target.borrow().as_ref().is_some_and(is_aimed_at) {
            self.aim(epoch, &registry.snapshot().await?, false).await?;
        }
        // Between two leads there is no control loop, and no failure that it could repeat.
        drop(self.request_retry(Subject::Platform, None));
        Ok(Applied {
            generation,
            changed,
        })
    }

    /// What a declaration would change, by what is observed now. Changes nothing.
    ///
    /// # Errors
    /// [`Error::NotReady`] until every node was observed once: a plan from an incomplete observation
    /// would create what already exists.
    pub fn plan(&self, candidate: &Declaration) -> Result<Plan> {
        self.check(candidate)?;
        let latest = self.recorded_plan()?.input;
        Ok(plan(&PlanningInput {
            declared: Arc::new(self.derive(candidate)?),
            now: self.backends.clock.now(),
            ..latest.as_ref().clone()
        }))
    }

    /// The latest plan, and what it was made from.
    ///
    /// # Errors
    /// [`Error::NotReady`] until every node was observed once: a plan from an incomplete observation
    /// would create what already exists.
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

    /// A declaration that is not of this platform, or that can never be carried out.
    fn check(&self, declaration: &Declaration) -> Result<()> {
        if declaration.id != self.options.platform {
            return Err(Error::Invalid {
                what: "the declaration".into(),
                why: format!(
                    "it is of platform {}, this manager is of {}",
                    declaration.id, self.options.platform
                ),
                hint: "hand it to its own platform's manager".into(),
            });
        }
        if declaration.name != self.options.name {
            return Err(Error::Invalid {
                what: "the platform's name".into(),
                why: format!(
                    "it is {}, and this manager's platform is {}",
                    declaration.name, self.options.name
                ),
                hint: "a platform keeps its name; take it down first to name it anew".into(),
            });
        }
        let ManagerEndpoint { node, port, .. } = self.options.endpoint.clone();
        ManagerSpec { node, port }.check_change(&declaration.manager)?;
        // Whatever cannot be derived must be refused before it is recorded, or no manager could
        // start again.
        self.derive(declaration).map(drop)
    }

    /// What a declaration that is not in force would mean.
    fn derive(&self, candidate: &Declaration) -> Result<Declared> {
        let target = self.target.borrow().clone();
        let agents = target.as_ref().and_then(|t| t.declared.agents.as_ref());
        let before = agents.map(|agents| agents.addresses.clone());
        self.meant(
            Generation::default(),
            candidate,
            &before.unwrap_or_default(),
        )
    }

    /// Begins to take the whole platform down. Asked again, the same operation is meant.
    pub async fn delete_platform(&self, volumes: bool) -> Result<Operation> {
        let write = self.begin_write(Accepted::Always).await?;
        let epoch = write.epoch;
        let registry = &self.backends.registry;
        let under_way = registry.open_operations().await?;
        let under_way = under_way.into_iter().find(is_platform_deletion);
        let operation = if let Some(operation) = under_way {
            operation
        } else {
            let operation = Operation {
                id: OperationId(self.backends.ids.uuid()),
                kind: OperationKind::DeletePlatform { volumes },
                state: OperationState::Running,
                requested_at: self.backends.clock.now(),
            };
            registry
                .commit(epoch, Batch::of(Change::PutOperation(operation.clone())))
                .await?;
            operation
        };
        // An earlier call may have been recorded and its answer lost, so aiming is repeated too.
        self.aim(epoch, &registry.snapshot().await?, true).await?;
        self.accepted.notify_one();
        Ok(operation)
    }

    /// An operation.
    pub async fn operation(&self, id: OperationId) -> Result<Operation> {
        self.backends
            .registry
            .operation(id)
            .await?
            .ok_or_else(|| Error::not_found(format!("operation {id}")))
    }

    /// The latest events, oldest first.
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

    /// Events after a cursor.
    pub async fn events(&self, after: u64, limit: u32) -> Result<EventPage> {
        self.backends.registry.events(after, limit).await
    }
}

/// What is declared once a platform was deleted: its manager's node, and nothing on it.
fn emptied(declaration: Declaration) -> Declaration {
    let manager_node = declaration.manager.node.clone();
    let mut nodes = declaration.nodes;
    nodes.retain(|name, _| *name == manager_node);
    Declaration {
        nodes,
        services: std::collections::BTreeMap::new(),
        volumes: std::collections::BTreeSet::new(),
        ..declaration
    }
}

fn is_platform_deletion(operation: &Operation) -> bool {
    matches!(operation.kind, OperationKind::DeletePlatform { .. })
}

fn not_leading() -> Error {
    Error::not_ready("the manager", "it does not lead at the moment")
}
