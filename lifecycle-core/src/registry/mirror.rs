//! Keeps a kind's database what the central registry holds of that kind.
//!
//! One pass compares both and writes the difference, so it does not matter what was missed: a
//! pass after a crash, after days without the database or against an empty one is the same
//! pass. Events go with their ids in the order of the central registry, so the database's
//! latest event is how far it has come, and nothing else keeps count.

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

/// How many events are copied at once.
const EVENTS_AT_ONCE: u32 = 1000;

/// How soon one pass follows another.
const PACE: Duration = Duration::from_millis(500);

/// How long it takes at most until a change is seen that nobody told of.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// How long is paused after a database was away; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// How often old events are dropped.
const DROP_OLD: Duration = Duration::from_mins(10);

/// How long one pass may take against a database that stopped answering.
const PASS: Duration = Duration::from_mins(2);

/// What is copied into one database.
#[derive(Debug, Clone)]
pub struct Mirror {
    kinds: BTreeSet<Kind>,
    registry: RegistryId,
    central: Arc<dyn Registry>,
}

/// Whose fault it is that a pass ended early.
#[derive(Debug)]
enum Failure {
    Central(Error),
    Kind(Error),
}

impl Mirror {
    /// What the central registry `registry` holds of `kinds`.
    pub fn new(kinds: BTreeSet<Kind>, registry: RegistryId, central: Arc<dyn Registry>) -> Self {
        Self {
            kinds,
            registry,
            central,
        }
    }

    /// Brings `database` up to date. What it holds already is not written again.
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
        let mut anew = follows.as_ref() != Some(&self.registry);
        let mut held = if anew {
            Snapshot::default()
        } else {
            database.snapshot().await.map_err(Failure::Kind)?
        };
        let central = self.central.snapshot().await.map_err(Failure::Central)?;
        if held.last_event > central.last_event {
            // The central registry was put back to an earlier state.
            anew = true;
            held = Snapshot::default();
        }
        let part = Part {
            of: &self.kinds,
            central: &central,
            held: &held,
        };
        let wanted = part.state();
        let mut position = held.last_event;
        loop {
            let (after, events, through) = self
                .events(position, central.last_event)
                .await
                .map_err(Failure::Central)?;
            let is_last = through == central.last_event;
            let changes = if is_last {
                difference(&held, &wanted)
            } else {
                Effect::default()
            };
            let is_empty = changes == Effect::default() && through == position;
            let update = Mirrored {
                of: self.registry.clone(),
                anew,
                changes,
                after,
                events: events.into_iter().filter(|e| part.concerns(e)).collect(),
                through,
            };
            if anew || !is_empty {
                let done = database.mirror(epoch, update).await;
                done.map_err(Failure::Kind)?;
            }
            anew = false;
            position = through;
            if is_last {
                return Ok(());
            }
        }
    }

    /// The next events behind `position` up to `last`: behind which id they begin, and up to
    /// which id nothing is missing.
    async fn events(&self, position: u64, last: u64) -> Result<(u64, Vec<Event>, u64)> {
        let mut after = position;
        loop {
            if after >= last {
                return Ok((after, Vec::new(), last));
            }
            match self.central.events(after, EVENTS_AT_ONCE).await? {
                EventPage::Gone { oldest } => after = oldest - 1,
                EventPage::Events(mut events) => {
                    // What was told after the snapshot belongs to the next pass.
                    events.retain(|event| event.id <= last);
                    let through = events.last().map_or(last, |event| event.id);
                    return Ok((after, events, through));
                }
            }
        }
    }
}

/// What belongs to which kind.
struct Part<'a> {
    of: &'a BTreeSet<Kind>,
    central: &'a Snapshot,
    /// What the database held before: it knows the class of a service that is declared no more
    /// and still has instances.
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

    /// The part of the central registry that the database should hold.
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

    /// Whether the database is told of an event. What concerns the platform as a whole is the
    /// central registry's alone.
    fn concerns(&self, event: &Event) -> bool {
        match &event.event.subject {
            Subject::Platform => false,
            Subject::Node(_) => self.has(Kind::Nodes),
            Subject::Service(service) => self.has_service(service),
            Subject::Instance(id) => self.has_service(&id.service),
        }
    }
}

/// What makes `wanted` of `held`.
fn difference(held: &Snapshot, wanted: &Snapshot) -> Effect {
    let declared = wanted.declaration.clone();
    Effect {
        declarations: declared
            .filter(|_| wanted.declaration != held.declaration)
            .into_iter()
            .collect(),
        nodes: changes(&held.nodes, &wanted.nodes),
        instances: changes(&held.instances, &wanted.instances),
        rejected: changes(&held.rejected, &wanted.rejected),
        ..Effect::default()
    }
}

fn changes<K: Ord + Clone, V: PartialEq + Clone>(
    held: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
) -> BTreeMap<K, Option<V>> {
    let gone = held.keys().filter(|key| !wanted.contains_key(*key));
    let put = wanted
        .iter()
        .filter(|(key, value)| held.get(*key) != Some(*value));
    gone.map(|key| (key.clone(), None))
        .chain(put.map(|(key, value)| (key.clone(), Some(value.clone()))))
        .collect()
}

/// The mirrors of one platform, kept up to date while its manager leads.
#[derive(Debug, Clone)]
pub struct Mirrors {
    registry: RegistryId,
    databases: Arc<dyn Databases>,
    platform: PlatformId,
    key: PlatformKey,
    copies: Arc<[Copied]>,
    /// How often something was told to be new.
    changes: watch::Sender<u64>,
}

/// One database, and how far it is.
#[derive(Debug)]
struct Copied {
    url: Sensitive,
    /// Kinds that share a database are copied together.
    kinds: BTreeSet<Kind>,
    reached: watch::Sender<Reached>,
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, Default)]
struct Reached {
    /// The change that it has seen.
    change: u64,
    /// It cannot be written at the moment.
    away: bool,
}

impl Mirrors {
    /// Mirrors of the central registry `registry`, each kind at its URL.
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

    /// Tells that the central registry may hold something new. Without it a change is seen
    /// too, only later.
    pub fn look(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Waits until every database that can be written has what the central registry holds now,
    /// at most for `within`.
    pub async fn caught_up(&self, within: Duration) {
        self.look();
        let change = *self.changes.borrow();
        let all = self.copies.iter().map(|copy| async move {
            let mut reached = copy.reached.subscribe();
            // The sender lives as long as `self`.
            drop(reached.wait_for(|r| r.away || r.change >= change).await);
        });
        let all = futures_util::future::join_all(all);
        if tokio::time::timeout(within, all).await.is_err() {
            tracing::warn!("not all databases of kinds are up to date");
        }
    }

    /// Copies what changes as long as the future is not dropped. A database that is away holds
    /// up nobody, not even the other mirrors.
    pub async fn run(&self, central: &Arc<dyn Registry>, epoch: Epoch, clock: &dyn Clock) {
        let kept = self.copies.iter().map(|copy| {
            let kinds = copy.kinds.clone();
            let keeper = Keeper {
                mirrors: self,
                copy,
                mirror: Mirror::new(kinds, self.registry.clone(), Arc::clone(central)),
                epoch,
                clock,
                database: None,
                away: None,
                dropped: None,
            };
            keeper.run(self.changes.subscribe())
        });
        futures_util::future::join_all(kept).await;
        // Without a mirror there is nothing that could end.
        std::future::pending::<()>().await;
    }
}

/// One database, kept up to date.
struct Keeper<'a> {
    mirrors: &'a Mirrors,
    copy: &'a Copied,
    mirror: Mirror,
    epoch: Epoch,
    clock: &'a dyn Clock,
    database: Option<Arc<dyn KindDatabase>>,
    away: Option<Away>,
    /// When old events were dropped there.
    dropped: Option<tokio::time::Instant>,
}

struct Away {
    since: DateTime<Utc>,
    /// Whether the central registry has an event of it.
    told: bool,
}

impl Keeper<'_> {
    async fn run(mut self, mut changed: watch::Receiver<u64>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let change = *changed.borrow_and_update();
            match self.pass().await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    let away = false;
                    self.copy.reached.send_replace(Reached { change, away });
                    self.is_back().await;
                    tokio::time::sleep(PACE).await;
                    // A sender that is gone tells of nothing any more; time still does.
                    drop(tokio::time::timeout(LOOK_AGAIN, changed.changed()).await);
                }
                Err(failure) => {
                    match failure {
                        Failure::Central(error) => {
                            let error = error.chain();
                            tracing::warn!(%error, "cannot read the registry for its mirror");
                        }
                        Failure::Kind(error) => self.is_away(&error).await,
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
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
        let mut outcome = match tokio::time::timeout(PASS, copy).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Kind(Error::TimedOut {
                what: format!("copying into the database of {}", self.names()),
                after: PASS,
            })),
        };
        if outcome.is_ok() {
            outcome = self.drop_old(database.as_ref()).await;
        }
        if matches!(outcome, Err(Failure::Kind(_))) {
            // Perhaps it is another one by the next time, without tables.
            self.database = None;
        }
        outcome
    }

    /// A copy keeps events no longer than the central registry does.
    async fn drop_old(&mut self, database: &dyn KindDatabase) -> std::result::Result<(), Failure> {
        if self.dropped.is_some_and(|at| at.elapsed() < DROP_OLD) {
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

    async fn is_away(&mut self, error: &Error) {
        let why = error.chain();
        let names = self.names();
        let away = self.away.get_or_insert(Away {
            since: self.clock.now(),
            told: false,
        });
        let since = away.since;
        self.copy.reached.send_modify(|reached| reached.away = true);
        tracing::warn!(database = %names, %since, %why, "a kind's database cannot be written");
        if !away.told {
            let message = format!("the database of {names} cannot be written: {why}");
            self.tell(EventKind::DatabaseUnavailable, since, message).await;
        }
    }

    async fn is_back(&mut self) {
        let Some(away) = self.away.take() else { return };
        let names = self.names();
        let since = away.since;
        tracing::info!(database = %names, %since, "a kind's database is up to date again");
        if away.told {
            let message = format!("the database of {names} is up to date again");
            self.tell(EventKind::DatabaseAvailable, since, message).await;
        }
    }

    async fn tell(&mut self, kind: EventKind, since: DateTime<Utc>, message: String) {
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
                if let Some(away) = &mut self.away {
                    away.told = true;
                }
            }
            // The log has said it; the next attempt tells again.
            Err(error) => tracing::warn!(error = %error.chain(), "cannot record an event"),
        }
    }
}
