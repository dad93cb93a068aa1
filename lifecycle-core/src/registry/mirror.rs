//! Keeps a per-kind database up to date with the central registry.
//!
//! Each pass compares both databases and writes the difference. Therefore, nothing special is
//! needed after a crash, after days of unavailability, or for an empty database. Events are copied
//! in order and keep their ids, so a pass continues after the latest id in the database.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;

use super::{
    Batch, Databases, EVENTS_KEPT, EVENTS_KEPT_FOR, Effect, EventPage, KindDatabase, Mirrored,
    Registry, RegistryId, Snapshot,
};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::model::{
    Epoch, Event, EventKind, InstanceRecord, Kind, NewEvent, PlatformId, ServiceClass, ServiceName,
    Subject,
};
use crate::platform::Declaration;
use crate::secret::{PlatformKey, Sensitive};

/// The maximum number of events that are copied per transaction.
const EVENTS_PER_PASS: u32 = 1000;

/// The minimum interval between passes.
const PACE: Duration = Duration::from_millis(500);

/// The maximum interval between passes, while no notifications arrive.
const POLL_EVERY: Duration = Duration::from_secs(10);

/// The delay after the first failed pass. The delay doubles with each further failure.
const MIN_BACKOFF: Duration = Duration::from_secs(1);

/// The longest delay after a failed pass.
const MAX_BACKOFF: Duration = Duration::from_mins(1);

/// How often old events are deleted.
const DELETE_OLD_EVERY: Duration = Duration::from_mins(10);

/// The timeout of one pass.
const PASS_TIMEOUT: Duration = Duration::from_mins(2);

/// Copies the objects of some kinds from the central registry to a database.
#[derive(Debug, Clone)]
pub struct Mirror {
    kinds: BTreeSet<Kind>,
    registry: RegistryId,
    central: Arc<dyn Registry>,
}

/// The error of a failed pass. The variant shows which database caused the error.
#[derive(Debug)]
enum Failure {
    Central(Error),
    Kind(Error),
}

impl Mirror {
    /// Creates a mirror of the objects of `kinds`. `registry` is the id of `central`.
    pub fn new(kinds: BTreeSet<Kind>, registry: RegistryId, central: Arc<dyn Registry>) -> Self {
        Self {
            kinds,
            registry,
            central,
        }
    }

    /// Brings `database` up to date. Unchanged objects are not written again.
    pub async fn pass(&self, database: &dyn KindDatabase, epoch: Epoch) -> Result<()> {
        match self.copy(database, epoch).await {
            Ok(()) => Ok(()),
            Err(Failure::Central(error) | Failure::Kind(error)) => Err(error),
        }
    }

    async fn copy(
        &self,
        database: &dyn KindDatabase,
        epoch: Epoch,
    ) -> std::result::Result<(), Failure> {
        let follows = database.follows().await.map_err(Failure::Kind)?;
        let mut replace_all = follows.as_ref() != Some(&self.registry);
        let mut held = if replace_all {
            Snapshot::default()
        } else {
            database.snapshot().await.map_err(Failure::Kind)?
        };
        let central = self.central.snapshot().await.map_err(Failure::Central)?;
        if held.last_event > central.last_event {
            // The central registry was restored to an earlier state, so copy everything again.
            replace_all = true;
            held = Snapshot::default();
        }
        let part = Part {
            of: &self.kinds,
            central: &central,
            held: &held,
        };
        let desired = part.state();
        let mut position = held.last_event;
        loop {
            let (after, events, through) = self
                .events(position, central.last_event)
                .await
                .map_err(Failure::Central)?;
            let is_last = through == central.last_event;
            let changes = if is_last {
                difference(&held, &desired)
            } else {
                Effect::default()
            };
            let is_empty = changes == Effect::default() && through == position;
            let update = Mirrored {
                of: self.registry.clone(),
                replace_all,
                changes,
                after,
                events: events.into_iter().filter(|e| part.concerns(e)).collect(),
                through,
            };
            if replace_all || !is_empty {
                let done = database.mirror(epoch, update).await;
                done.map_err(Failure::Kind)?;
            }
            replace_all = false;
            position = through;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Returns the next events after `position`, up to `last`. The first returned id directly
    /// precedes the events. The second is the id up to which the events are complete.
    async fn events(&self, position: u64, last: u64) -> Result<(u64, Vec<Event>, u64)> {
        let mut after = position;
        loop {
            if after >= last {
                return Ok((after, Vec::new(), last));
            }
            match self.central.events(after, EVENTS_PER_PASS).await? {
                EventPage::Gone { oldest } => after = oldest - 1,
                EventPage::Events(mut events) => {
                    // Later events belong to the next pass.
                    events.retain(|event| event.id <= last);
                    let through = events.last().map_or(last, |event| event.id);
                    return Ok((after, events, through));
                }
            }
        }
    }
}

/// Selects the part of the central registry that belongs in one database.
struct Part<'a> {
    of: &'a BTreeSet<Kind>,
    central: &'a Snapshot,
    /// The previous contents of the database. They show whether a service that is no longer
    /// declared belongs in the database.
    held: &'a Snapshot,
}

impl Part<'_> {
    fn has(&self, kind: Kind) -> bool {
        self.of.contains(&kind)
    }

    fn has_service(&self, service: &ServiceName) -> bool {
        let class = |snapshot: &Snapshot| -> Option<ServiceClass> {
            let (_, declaration) = snapshot.declaration.as_ref()?;
            declaration.services.get(service).map(|s| s.class)
        };
        if let Some(class) = class(self.central) {
            return self.has(Kind::of(class));
        }
        let its = |record: &InstanceRecord| record.id.service == *service;
        class(self.held).is_some() || self.held.instances.values().any(its)
    }

    /// Returns the part of the central registry that belongs in the database.
    fn state(&self) -> Snapshot {
        let declaration = self.central.declaration.as_ref();
        Snapshot {
            declaration: declaration.map(|(generation, d)| (*generation, self.declaration(d))),
            nodes: if self.has(Kind::Nodes) {
                self.central.nodes.clone()
            } else {
                BTreeMap::new()
            },
            instances: self
                .central
                .instances
                .iter()
                .filter(|(_, instance)| self.has_service(&instance.id.service))
                .map(|(container, instance)| (container.clone(), instance.clone()))
                .collect(),
            rejected: self
                .central
                .rejected
                .iter()
                .filter(|(id, _)| self.has_service(&id.service))
                .map(|(id, spec)| (id.clone(), spec.clone()))
                .collect(),
            ..Snapshot::default()
        }
    }

    fn declaration(&self, whole: &Declaration) -> Declaration {
        let mut its = whole.clone();
        its.services
            .retain(|_, service| self.has(Kind::of(service.class)));
        if !self.has(Kind::Nodes) {
            its.nodes.clear();
        }
        its.volumes.clear();
        its
    }

    /// Returns whether an event is copied to the database. Events about the platform as a whole are
    /// not copied.
    fn concerns(&self, event: &Event) -> bool {
        match &event.event.subject {
            Subject::Platform => false,
            Subject::Node(_) => self.has(Kind::Nodes),
            Subject::Service(service) => self.has_service(service),
            Subject::Instance(id) => self.has_service(&id.service),
        }
    }
}

/// Returns the changes from `held` to `desired`.
fn difference(held: &Snapshot, desired: &Snapshot) -> Effect {
    let declared = desired.declaration.clone();
    Effect {
        declarations: declared
            .filter(|_| desired.declaration != held.declaration)
            .into_iter()
            .collect(),
        nodes: changes(&held.nodes, &desired.nodes),
        instances: changes(&held.instances, &desired.instances),
        rejected: changes(&held.rejected, &desired.rejected),
        ..Effect::default()
    }
}

fn changes<K: Ord + Clone, V: PartialEq + Clone>(
    held: &BTreeMap<K, V>,
    desired: &BTreeMap<K, V>,
) -> BTreeMap<K, Option<V>> {
    let gone = held.keys().filter(|key| !desired.contains_key(*key));
    let put = desired
        .iter()
        .filter(|(key, value)| held.get(*key) != Some(*value));
    gone.map(|key| (key.clone(), None))
        .chain(put.map(|(key, value)| (key.clone(), Some(value.clone()))))
        .collect()
}

/// All mirrors of one platform. Only the leader runs them.
#[derive(Debug, Clone)]
pub struct Mirrors {
    registry: RegistryId,
    databases: Arc<dyn Databases>,
    platform: PlatformId,
    key: PlatformKey,
    copies: Arc<[Copied]>,
    /// The number of notifications so far.
    changes: watch::Sender<u64>,
}

/// One database, and the progress of copying to it.
#[derive(Debug)]
struct Copied {
    url: Sensitive,
    /// The kinds whose objects are copied to this database.
    kinds: BTreeSet<Kind>,
    reached: watch::Sender<Reached>,
}

/// The progress of a copy.
#[derive(Debug, Clone, Copy, Default)]
struct Reached {
    /// The number of the latest notification that a pass has processed.
    change: u64,
    /// Whether the database currently cannot be written.
    unavailable: bool,
}

impl Mirrors {
    /// Creates the mirrors of the central registry `registry`. `kinds` contains the URL of the
    /// database for each kind.
    pub fn new(
        registry: RegistryId,
        databases: Arc<dyn Databases>,
        platform: PlatformId,
        key: PlatformKey,
        kinds: &BTreeMap<Kind, Sensitive>,
    ) -> Self {
        let mut copies: Vec<Copied> = Vec::new();
        for (kind, url) in kinds {
            if let Some(known) = copies.iter_mut().find(|known| known.url == *url) {
                known.kinds.insert(*kind);
            } else {
                copies.push(Copied {
                    url: url.clone(),
                    kinds: BTreeSet::from([*kind]),
                    reached: watch::Sender::default(),
                });
            }
        }
        Self {
            registry,
            databases,
            platform,
            key,
            copies: copies.into(),
            changes: watch::Sender::default(),
        }
    }

    /// Notifies the mirrors of a change in the central registry. Without this call, the mirrors
    /// notice the change later.
    pub fn notify(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Waits until every available database has the current state of the central registry, but at
    /// most for `within`.
    pub async fn caught_up(&self, within: Duration) {
        self.notify();
        let change = *self.changes.borrow();
        let all = self.copies.iter().map(|copy| async move {
            let mut reached = copy.reached.subscribe();
            // Waiting cannot fail, because the sender exists as long as `self`.
            drop(
                reached
                    .wait_for(|r| r.unavailable || r.change >= change)
                    .await,
            );
        });
        let all = futures_util::future::join_all(all);
        if tokio::time::timeout(within, all).await.is_err() {
            tracing::warn!("some databases for nodes or service classes are not up to date");
        }
    }

    /// Copies changes until the future is dropped. An unavailable database does not delay copying
    /// to the other databases.
    pub async fn run(&self, central: &Arc<dyn Registry>, epoch: Epoch, clock: &dyn Clock) {
        let kept = self.copies.iter().map(|copy| {
            let kinds = copy.kinds.clone();
            let keeper = Copier {
                mirrors: self,
                copy,
                mirror: Mirror::new(kinds, self.registry.clone(), Arc::clone(central)),
                epoch,
                clock,
                database: None,
                unavailable: None,
                dropped: None,
            };
            keeper.run(self.changes.subscribe())
        });
        futures_util::future::join_all(kept).await;
        // This line is reached only without mirrors. Wait until the future is dropped.
        std::future::pending::<()>().await;
    }
}

/// Keeps one database up to date.
struct Copier<'a> {
    mirrors: &'a Mirrors,
    copy: &'a Copied,
    mirror: Mirror,
    epoch: Epoch,
    clock: &'a dyn Clock,
    database: Option<Arc<dyn KindDatabase>>,
    unavailable: Option<Unavailable>,
    /// When old events were last deleted from the database.
    dropped: Option<tokio::time::Instant>,
}

struct Unavailable {
    since: DateTime<Utc>,
    /// Whether the central registry has an event about the unavailability.
    recorded: bool,
}

impl Copier<'_> {
    async fn run(mut self, mut changed: watch::Receiver<u64>) {
        let mut pause = MIN_BACKOFF;
        loop {
            let change = *changed.borrow_and_update();
            match self.pass().await {
                Ok(()) => {
                    pause = MIN_BACKOFF;
                    let unavailable = false;
                    self.copy.reached.send_replace(Reached {
                        change,
                        unavailable,
                    });
                    self.set_available().await;
                    tokio::time::sleep(PACE).await;
                    // An error means that no more notifications arrive. Polling continues.
                    drop(tokio::time::timeout(POLL_EVERY, changed.changed()).await);
                }
                Err(failure) => {
                    match failure {
                        Failure::Central(error) => {
                            let error = error.chain();
                            tracing::warn!(%error, "cannot read the central registry");
                        }
                        Failure::Kind(error) => self.set_unavailable(&error).await,
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_BACKOFF);
                }
            }
        }
    }

    async fn pass(&mut self) -> std::result::Result<(), Failure> {
        let database = if let Some(database) = &self.database {
            Arc::clone(database)
        } else {
            let Mirrors { platform, key, .. } = self.mirrors;
            let opened = self
                .mirrors
                .databases
                .kind(&self.copy.url, *platform, key)
                .await;
            Arc::clone(self.database.insert(opened.map_err(Failure::Kind)?))
        };
        let copy = self.mirror.copy(database.as_ref(), self.epoch);
        let mut outcome = match tokio::time::timeout(PASS_TIMEOUT, copy).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Kind(Error::TimedOut {
                what: format!("copying records to the database for {}", self.names()),
                after: PASS_TIMEOUT,
            })),
        };
        if outcome.is_ok() {
            outcome = self.drop_old(database.as_ref()).await;
        }
        if matches!(outcome, Err(Failure::Kind(_))) {
            // Open the database again before the next pass. It may have been replaced by an empty
            // one.
            self.database = None;
        }
        outcome
    }

    /// Deletes old events, so that the copy keeps events no longer than the central registry does.
    async fn drop_old(&mut self, database: &dyn KindDatabase) -> std::result::Result<(), Failure> {
        if self
            .dropped
            .is_some_and(|at| at.elapsed() < DELETE_OLD_EVERY)
        {
            return Ok(());
        }
        let before = self.clock.now() - EVENTS_KEPT_FOR;
        let dropped = database.prune_events(before, EVENTS_KEPT).await;
        dropped.map_err(Failure::Kind)?;
        self.dropped = Some(tokio::time::Instant::now());
        Ok(())
    }

    fn names(&self) -> String {
        let words: Vec<&str> = self.mirror.kinds.iter().map(|kind| kind.word()).collect();
        words.join(" and ")
    }

    async fn set_unavailable(&mut self, error: &Error) {
        let why = error.chain();
        let names = self.names();
        let unavailable = self.unavailable.get_or_insert(Unavailable {
            since: self.clock.now(),
            recorded: false,
        });
        let since = unavailable.since;
        self.copy
            .reached
            .send_modify(|reached| reached.unavailable = true);
        tracing::warn!(database = %names, %since, %why,
            "cannot write to a database for nodes or service classes");
        if !unavailable.recorded {
            let message = format!("cannot write to the database for {names}: {why}");
            self.record(EventKind::DatabaseUnavailable, since, message)
                .await;
        }
    }

    async fn set_available(&mut self) {
        let Some(unavailable) = self.unavailable.take() else {
            return;
        };
        let names = self.names();
        let since = unavailable.since;
        tracing::info!(database = %names, %since,
            "a database for nodes or service classes is up to date again");
        if unavailable.recorded {
            let message = format!("the database for {names} is up to date again");
            self.record(EventKind::DatabaseAvailable, since, message)
                .await;
        }
    }

    async fn record(&mut self, kind: EventKind, since: DateTime<Utc>, message: String) {
        let event = NewEvent {
            at: self.clock.now(),
            kind,
            subject: Subject::Platform,
            message,
            data: serde_json::json!({ "kinds": self.mirror.kinds, "since": since }),
        };
        let central = Arc::clone(&self.mirror.central);
        match central
            .commit(self.epoch, Batch::default().event(event))
            .await
        {
            Ok(_) => {
                if let Some(unavailable) = &mut self.unavailable {
                    unavailable.recorded = true;
                }
            }
            // `set_unavailable` tries again after the next failed pass.
            Err(error) => tracing::warn!(error = %error.chain(), "cannot record an event"),
        }
    }
}
