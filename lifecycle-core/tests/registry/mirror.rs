//! Tests the per-kind databases in memory, in files, and in PostgreSQL. Each contains the central
//! registry's records of some kinds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use lifecycle_core::clock::SystemClock;
use lifecycle_core::model::{
    Chunk, ChunkDigest, Epoch, Event, Generation, InstanceRecord, Kind, NewEvent, Operation,
    OperationId, PlatformId, ServiceClass, ServiceName, Subject,
};
use lifecycle_core::platform::{Declaration, Revision};
use lifecycle_core::registry::{
    AnswerRecord, Batch, Change, Committed, Databases, EventPage, KindDatabase, Lease,
    MemoryRegistry, Mirror, Mirrored, Registry, RegistryId, Snapshot, SqlDatabases, SqlRegistry,
    StoredTokens,
};
use lifecycle_core::secret::{PlatformKey, Sensitive};
use lifecycle_core::{Error, Result};

use crate::clock::ManualClock;
use crate::platform::{PLANTED, declaration, event, instance, node, node_name};
use crate::postgres_server::PostgresServer;

const FIRST: Epoch = Epoch(1);

fn memory() -> Arc<MemoryRegistry> {
    Arc::new(MemoryRegistry::new(Arc::new(ManualClock::default())))
}

fn service(name: &str) -> ServiceName {
    ServiceName::try_from(name).unwrap()
}

/// Returns a declaration with one service of each class.
fn three_classes() -> Declaration {
    let mut declared = declaration(1);
    let model = declared.services.values().next().unwrap().clone();
    let classes = [
        ("web", ServiceClass::Microservice),
        ("shop", ServiceClass::Application),
        ("app", ServiceClass::Model),
    ];
    for (name, class) in classes {
        let mut spec = model.clone();
        spec.name = service(name);
        spec.class = class;
        declared.services.insert(service(name), spec);
    }
    declared
}

fn of(name: &str, container: &str, endpoints: u16) -> InstanceRecord {
    let mut record = instance(1, container, endpoints);
    record.id.service = service(name);
    record
}

fn about(subject: Subject, message: &str) -> NewEvent {
    NewEvent {
        subject,
        ..event(message)
    }
}

fn put(record: InstanceRecord) -> Change {
    Change::PutInstance(Box::new(record))
}

fn declare(expected: Option<u64>, declaration: Declaration) -> Change {
    Change::Declare {
        expected: expected.map(Generation),
        declaration: Box::new(declaration),
        note: None,
    }
}

/// Returns a central registry that contains records of each kind.
async fn central() -> Arc<MemoryRegistry> {
    let registry = memory();
    let ttl = Duration::from_hours(1);
    registry.acquire_lease("x", ttl).await.unwrap();
    let node_put = Change::PutNode(Box::new(node("vm1", None)));
    let mut changes = vec![declare(None, three_classes()), node_put];
    let mut events = vec![
        about(Subject::Platform, "the platform"),
        about(Subject::Node(node_name("vm1")), "vm1"),
    ];
    for name in ["web", "shop", "app"] {
        changes.push(put(of(name, name, 2)));
        events.push(about(Subject::Service(service(name)), name));
        events.push(about(Subject::Instance(of(name, name, 0).id), name));
    }
    let batch = Batch { changes, events };
    registry.commit(FIRST, batch).await.unwrap();
    registry
}

fn mirror(kinds: &[Kind], central: &Arc<MemoryRegistry>) -> Mirror {
    let kinds: BTreeSet<Kind> = kinds.iter().copied().collect();
    Mirror::new(kinds, central.id(), Arc::clone(central) as _)
}

async fn messages(database: &dyn KindDatabase) -> Vec<(u64, String)> {
    let first = match database.events(0, 10_000).await.unwrap() {
        EventPage::Events(events) => return text(events),
        EventPage::Gone { oldest } => oldest - 1,
    };
    match database.events(first, 10_000).await.unwrap() {
        EventPage::Events(events) => text(events),
        gone @ EventPage::Gone { .. } => panic!("{gone:?}"),
    }
}

fn text(events: Vec<Event>) -> Vec<(u64, String)> {
    let text = events.into_iter().map(|e| (e.id, e.event.message));
    text.collect()
}

/// Checks that the database contains the central registry's records with these names, and no
/// others.
async fn assert_copy(database: &dyn KindDatabase, central: &MemoryRegistry, names: &[&str]) {
    let held = database.snapshot().await.unwrap();
    let whole = central.snapshot().await.unwrap();
    let is_ours = |name: &ServiceName| names.contains(&name.as_str());
    let nodes = if names.contains(&"vm1") {
        whole.nodes
    } else {
        BTreeMap::new()
    };
    assert_eq!(held.nodes, nodes);
    let mut instances = whole.instances;
    instances.retain(|_, record| is_ours(&record.id.service));
    assert_eq!(held.instances, instances);
    let (generation, declared) = held.declaration.unwrap();
    let (whole_generation, mut services) = whole.declaration.unwrap();
    services.services.retain(|name, _| is_ours(name));
    assert_eq!(generation, whole_generation);
    assert_eq!(declared.services, services.services);
    assert_eq!((held.manager, held.first_round_done), (None, false));
    assert_eq!(held.last_event, whole.last_event);
}

/// Checks the requirements for per-kind databases. `shared` contains the records of two kinds.
async fn suite(nodes: &dyn KindDatabase, web: &dyn KindDatabase, shared: &dyn KindDatabase) {
    let central = central().await;
    let of_nodes = mirror(&[Kind::Nodes], &central);
    let of_web = mirror(&[Kind::Microservices], &central);
    let of_both = mirror(&[Kind::Applications, Kind::Models], &central);
    assert_eq!(nodes.follows().await.unwrap(), None);
    let pass = async || {
        of_nodes.pass(nodes, FIRST).await.unwrap();
        of_web.pass(web, FIRST).await.unwrap();
        of_both.pass(shared, FIRST).await.unwrap();
        // A second pass must succeed and change nothing.
        of_web.pass(web, FIRST).await.unwrap();
    };
    pass().await;
    assert_eq!(nodes.follows().await.unwrap(), Some(central.id()));
    assert_copy(nodes, &central, &["vm1"]).await;
    assert_copy(web, &central, &["web"]).await;
    assert_copy(shared, &central, &["shop", "app"]).await;
    assert_eq!(messages(nodes).await, [(2, "vm1".to_owned())]);
    let both = messages(web).await;
    assert_eq!(both, [(3, "web".to_owned()), (4, "web".to_owned())]);

    // Remove a service from the declaration, and its instance later. The service's events must be
    // copied until the instance has been removed.
    let mut without = three_classes();
    without.services.remove(&service("web"));
    let gone = |message: &str| about(Subject::Service(service("web")), message);
    let batch = Batch::of(declare(Some(1), without)).event(gone("undeclared"));
    central.commit(FIRST, batch).await.unwrap();
    pass().await;
    let (_, declared) = web.snapshot().await.unwrap().declaration.unwrap();
    assert!(declared.services.is_empty(), "{declared:?}");
    assert_eq!(web.snapshot().await.unwrap().instances.len(), 1);
    let delete = Change::DeleteInstance(of("web", "web", 0).container);
    let batch = Batch::of(delete).event(gone("removed"));
    central.commit(FIRST, batch).await.unwrap();
    let batch = Batch::of(put(of("app", "app-2", 1)));
    central.commit(FIRST, batch).await.unwrap();
    pass().await;
    assert_copy(web, &central, &[]).await;
    assert_copy(shared, &central, &["shop", "app"]).await;
    let last: Vec<String> = messages(web).await.into_iter().map(|(_, m)| m).collect();
    assert_eq!(last, ["web", "web", "undeclared", "removed"]);

    previous_manager_is_fenced(nodes, &central).await;
    lost_central_registry_replaces_the_copy(nodes).await;
}

/// Checks that the previous manager cannot write after another manager has taken over.
async fn previous_manager_is_fenced(nodes: &dyn KindDatabase, central: &Arc<MemoryRegistry>) {
    let mirror = mirror(&[Kind::Nodes], central);
    mirror.pass(nodes, Epoch(3)).await.unwrap();
    let batch = Batch::default().event(about(Subject::Node(node_name("vm1")), "written by 3"));
    central.commit(FIRST, batch).await.unwrap();
    mirror.pass(nodes, Epoch(3)).await.unwrap();
    let batch = Batch::default().event(about(Subject::Node(node_name("vm1")), "never written"));
    central.commit(FIRST, batch).await.unwrap();
    let refused = mirror.pass(nodes, Epoch(2)).await;
    assert!(
        matches!(
            refused,
            Err(Error::StaleEpoch {
                ours: Epoch(2),
                current: Epoch(3),
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(messages(nodes).await.last().unwrap().1, "written by 3");
}

/// Replaces the central registry with a new one, as after a loss. The epochs and event numbers of
/// the new registry start from the beginning.
async fn lost_central_registry_replaces_the_copy(nodes: &dyn KindDatabase) {
    let other = central().await;
    mirror(&[Kind::Nodes], &other)
        .pass(nodes, FIRST)
        .await
        .unwrap();
    assert_eq!(nodes.follows().await.unwrap(), Some(other.id()));
    assert_copy(nodes, &other, &["vm1"]).await;
    assert_eq!(messages(nodes).await, [(2, "vm1".to_owned())]);
    // The central registry may prune events before a copy is created. A reader of the copy must
    // then get an error instead of missing the events.
    let third = central().await;
    third
        .prune_events(DateTime::<Utc>::MIN_UTC, 2)
        .await
        .unwrap();
    mirror(&[Kind::Models], &third)
        .pass(nodes, FIRST)
        .await
        .unwrap();
    let gone = nodes.events(0, 10).await.unwrap();
    assert_eq!(gone, EventPage::Gone { oldest: 7 });
    let both = messages(nodes).await;
    assert_eq!(both, [(7, "app".to_owned()), (8, "app".to_owned())]);
}

#[tokio::test]
async fn in_memory() {
    suite(&*memory(), &*memory(), &*memory()).await;
}

#[tokio::test]
async fn central_registry_is_never_overwritten() {
    let central = central().await;
    let other = self::central().await;
    let before = other.snapshot().await.unwrap();
    let refused = mirror(&[Kind::Nodes], &central)
        .pass(&*other, Epoch(9))
        .await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    assert_eq!(other.snapshot().await.unwrap(), before);
}

const PLATFORM: PlatformId = PlatformId::new(uuid::Uuid::from_u128(7));

async fn kind(url: &str, key: &PlatformKey) -> Result<Arc<dyn KindDatabase>> {
    let databases = SqlDatabases::new(Arc::new(SystemClock));
    databases.kind(&Sensitive::new(url), PLATFORM, key).await
}

#[tokio::test]
async fn in_files() {
    let directory = tempfile::tempdir().unwrap();
    let key = PlatformKey::generate();
    let mut databases = Vec::new();
    for name in ["nodes", "web", "shared"] {
        let path = directory.path().join(name);
        let url = format!("sqlite://{}?mode=rwc", path.display());
        databases.push(kind(&url, &key).await.unwrap());
    }
    suite(&*databases[0], &*databases[1], &*databases[2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() {
    let server = PostgresServer::start();
    let key = PlatformKey::generate();
    let urls: Vec<String> = (0..3).map(|_| server.database()).collect();
    let mut databases = Vec::new();
    for url in &urls {
        databases.push(kind(url, &key).await.unwrap());
    }
    suite(&*databases[0], &*databases[1], &*databases[2]).await;
    // The latest database, which `query` uses, is the one for applications and models.
    let query = "SELECT DISTINCT service, class FROM endpoints ORDER BY service";
    assert_eq!(server.query(query), "app|model\nshop|application\n");
    assert_eq!(server.query("SELECT count(*) FROM nodes"), "0\n");
    let dump = server.dump();
    for planted in PLANTED {
        let hex = hex::encode(planted);
        assert!(!dump.contains(planted) && !dump.contains(&hex), "{planted}");
    }

    // A per-kind database cannot be opened as the central database, and vice versa.
    let clock = Arc::new(SystemClock);
    let refused = SqlRegistry::open(&urls[2], key.clone(), Arc::clone(&clock) as _).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    let url = server.database();
    let central = SqlRegistry::open(&url, key.clone(), clock).await.unwrap();
    let refused = kind(&url, &key).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    central.close().await.unwrap();

    // A copy that is encrypted with a deleted key must be created again.
    let new_key = PlatformKey::generate();
    let renewed = kind(&urls[2], &new_key).await.unwrap();
    assert_eq!(renewed.follows().await.unwrap(), None);
    assert_eq!(renewed.snapshot().await.unwrap(), Snapshot::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_platform_reuses_its_database_with_a_new_key() {
    let server = PostgresServer::start();
    let url = Sensitive::new(server.database());
    let clock: Arc<SystemClock> = Arc::default();
    let databases = SqlDatabases::new(Arc::clone(&clock) as _);
    let (old, new) = (PlatformKey::generate(), PlatformKey::generate());
    databases.prepare(&url, PLATFORM, &old).await.unwrap();
    let open = async |key: &PlatformKey| {
        SqlRegistry::open(url.expose(), key.clone(), Arc::clone(&clock) as _).await
    };
    let registry = open(&old).await.unwrap();
    let ttl = Duration::from_mins(10);
    registry.acquire_lease("x", ttl).await.unwrap();
    let up = Batch::of(declare(None, three_classes())).event(event("up"));
    registry.commit(FIRST, up).await.unwrap();

    // While the platform exists, another key must be rejected.
    let refused = databases.prepare(&url, PLATFORM, &new).await;
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    let mut nothing = three_classes();
    nothing.services.clear();
    let down = Batch::of(declare(Some(1), nothing)).event(event("down"));
    registry.commit(FIRST, down).await.unwrap();
    // After the removal, the id of another platform must still be rejected.
    let other = PlatformId::new(uuid::Uuid::from_u128(8));
    let refused = databases.prepare(&url, other, &new).await;
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    databases.prepare(&url, PLATFORM, &new).await.unwrap();

    let again = open(&new).await.unwrap();
    assert_eq!(again.id(), registry.id(), "the registry was replaced");
    let snapshot = again.snapshot().await.unwrap();
    assert_eq!(snapshot.declaration, None);
    assert_eq!(snapshot.last_event, 2, "the events were deleted");
    again.release_lease("x").await.unwrap();
    let lease = again.acquire_lease("y", ttl).await.unwrap();
    assert_eq!(lease, Lease::Held(Epoch(2)), "the epochs started again");
    let refused = open(&old).await;
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
}

/// A database in which one write fails, either before it takes effect, or after it has taken effect
/// but before the response arrives.
#[derive(Debug)]
struct Failing {
    inner: Arc<MemoryRegistry>,
    writes: AtomicU64,
    at: u64,
    after: bool,
}

#[async_trait]
impl KindDatabase for Failing {
    async fn follows(&self) -> Result<Option<RegistryId>> {
        self.inner.follows().await
    }

    async fn mirror(&self, epoch: Epoch, update: Mirrored) -> Result<()> {
        let strikes = self.writes.fetch_add(1, Ordering::SeqCst) + 1 == self.at;
        if !strikes || self.after {
            self.inner.mirror(epoch, update).await?;
        }
        if strikes {
            return Err(Error::failed("a write", "the process crashed"));
        }
        Ok(())
    }
}

#[async_trait]
impl Registry for Failing {
    async fn acquire_lease(&self, holder: &str, ttl: Duration) -> Result<Lease> {
        self.inner.acquire_lease(holder, ttl).await
    }
    async fn release_lease(&self, holder: &str) -> Result<()> {
        self.inner.release_lease(holder).await
    }
    async fn commit(&self, epoch: Epoch, batch: Batch) -> Result<Committed> {
        self.inner.commit(epoch, batch).await
    }
    async fn snapshot(&self) -> Result<Snapshot> {
        self.inner.snapshot().await
    }
    async fn revisions(&self) -> Result<Vec<Revision>> {
        self.inner.revisions().await
    }
    async fn declaration(&self, generation: Generation) -> Result<Option<Declaration>> {
        self.inner.declaration(generation).await
    }
    async fn credential(&self, name: &str) -> Result<Option<Sensitive>> {
        self.inner.credential(name).await
    }
    async fn tokens(&self) -> Result<StoredTokens> {
        self.inner.tokens().await
    }

    async fn chunk(&self, digest: ChunkDigest) -> Result<Option<Chunk>> {
        self.inner.chunk(digest).await
    }

    async fn missing_chunks(&self, of: BTreeSet<ChunkDigest>) -> Result<BTreeSet<ChunkDigest>> {
        self.inner.missing_chunks(of).await
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>> {
        self.inner.operation(id).await
    }
    async fn operations(&self, limit: u32) -> Result<Vec<Operation>> {
        self.inner.operations(limit).await
    }

    async fn open_operations(&self) -> Result<Vec<Operation>> {
        self.inner.open_operations().await
    }
    async fn answer(&self, key: &str) -> Result<Option<AnswerRecord>> {
        self.inner.answer(key).await
    }
    async fn events(&self, after: u64, limit: u32) -> Result<EventPage> {
        self.inner.events(after, limit).await
    }
    async fn prune_events(&self, before: DateTime<Utc>, keep: u64) -> Result<()> {
        self.inner.prune_events(before, keep).await
    }
}

/// Returns a registry with so many events that copying them takes several writes.
async fn long_history() -> Arc<MemoryRegistry> {
    let central = central().await;
    for n in 0..2_500 {
        let subject = match n % 3 {
            0 => Subject::Node(node_name("vm1")),
            1 => Subject::Service(service("web")),
            _ => Subject::Platform,
        };
        let batch = Batch::default().event(about(subject, &format!("event {n}")));
        central.commit(FIRST, batch).await.unwrap();
    }
    central
}

#[tokio::test]
async fn crash_between_any_two_writes_is_repaired() {
    let central = long_history().await;
    let mirror = mirror(&[Kind::Nodes], &central);
    let whole = memory();
    mirror.pass(&*whole, FIRST).await.unwrap();
    assert_copy(&*whole, &central, &["vm1"]).await;
    let (snapshot, history) = (whole.snapshot().await.unwrap(), messages(&*whole).await);
    assert_eq!(history.len(), 835);
    for at in 1..=3 {
        for after in [false, true] {
            let failing = Failing {
                inner: memory(),
                writes: AtomicU64::new(0),
                at,
                after,
            };
            mirror.pass(&failing, FIRST).await.unwrap_err();
            mirror.pass(&failing, Epoch(2)).await.unwrap();
            assert_eq!(failing.snapshot().await.unwrap(), snapshot, "{at} {after}");
            assert_eq!(messages(&failing).await, history, "{at} {after}");
        }
    }
}
