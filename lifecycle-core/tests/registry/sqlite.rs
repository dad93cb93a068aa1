//! Tests the registry in an SQLite file.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lifecycle_core::conformance::registry::{self, Backend};
use lifecycle_core::model::Epoch;
use lifecycle_core::registry::{Batch, Lease, Registry, SqlRegistry};
use lifecycle_core::secret::PlatformKey;
use lifecycle_core::{Error, Result};
use sea_orm::ConnectionTrait;
use tempfile::TempDir;

use crate::clock::ManualClock;
use crate::platform::{PLANTED, chunk, everything, instance};

#[derive(Debug)]
struct Sqlite {
    directory: TempDir,
    made: AtomicU32,
    latest: Mutex<PathBuf>,
    key: PlatformKey,
    clock: Arc<ManualClock>,
}

impl Sqlite {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            made: AtomicU32::new(0),
            latest: Mutex::default(),
            key: PlatformKey::generate(),
            clock: Arc::default(),
        }
    }

    async fn open(&self, path: &Path) -> Result<Arc<dyn Registry>> {
        Ok(Arc::new(open(path, &self.key, &self.clock).await?))
    }
}

fn url(path: &Path) -> String {
    format!("sqlite://{}?mode=rwc", path.display())
}

async fn open(path: &Path, key: &PlatformKey, clock: &Arc<ManualClock>) -> Result<SqlRegistry> {
    SqlRegistry::open(&url(path), key.clone(), Arc::clone(clock) as _).await
}

#[async_trait]
impl Backend for Sqlite {
    async fn fresh(&self) -> Result<Arc<dyn Registry>> {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.path().join(format!("registry-{n}.db"));
        self.latest.lock().unwrap().clone_from(&path);
        self.open(&path).await
    }

    async fn reopen(&self, registry: Arc<dyn Registry>) -> Result<Option<Arc<dyn Registry>>> {
        drop(registry);
        let path = self.latest.lock().unwrap().clone();
        self.open(&path).await.map(Some)
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(10)
    }

    async fn pass(&self, time: Duration) {
        self.clock.forward(time);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sqlite_passes_the_suite() {
    registry::all(&Sqlite::new()).await.unwrap();
}

struct Files {
    directory: TempDir,
    key: PlatformKey,
    clock: Arc<ManualClock>,
}

impl Files {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            key: PlatformKey::generate(),
            clock: Arc::default(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("registry.db")
    }

    async fn open(&self) -> Result<SqlRegistry> {
        open(&self.path(), &self.key, &self.clock).await
    }
}

#[tokio::test]
async fn second_process_learns_which_process_uses_the_file() {
    let files = Files::new();
    let first = files.open().await.unwrap();
    let link = files.directory.path().join("link.db");
    std::os::unix::fs::symlink(files.path(), &link).unwrap();
    for path in [files.path(), link] {
        let error = open(&path, &files.key, &files.clock).await.unwrap_err();
        let Error::Conflict { why, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(
            *why,
            format!("process {} is using the registry", std::process::id())
        );
    }
    first.close().await.unwrap();
    files.open().await.unwrap();
}

#[tokio::test]
async fn each_open_starts_a_new_epoch_even_after_a_crash() {
    let files = Files::new();
    let ttl = Duration::from_mins(10);
    for epoch in 1..4 {
        let registry = files.open().await.unwrap();
        for _ in 0..2 {
            let lease = registry.acquire_lease("manager", ttl).await.unwrap();
            assert_eq!(lease, Lease::Held(Epoch(epoch)));
        }
        registry
            .commit(Epoch(epoch), Batch::default())
            .await
            .unwrap();
        drop(registry);
    }
}

#[tokio::test]
async fn only_the_owner_can_read_the_files() {
    let files = Files::new();
    std::fs::write(files.path(), "").unwrap();
    std::fs::set_permissions(files.path(), PermissionsExt::from_mode(0o644)).unwrap();
    let registry = files.open().await.unwrap();
    registry.acquire_lease("x", Duration::ZERO).await.unwrap();
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(files.directory.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
        seen.push(entry.file_name().into_string().unwrap());
    }
    seen.sort();
    let expected = ["", "-shm", "-wal", ".lock"].map(|end| format!("registry.db{end}"));
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn no_file_contains_a_plain_secret() {
    let files = Files::new();
    let registry = files.open().await.unwrap();
    registry
        .acquire_lease("x", Duration::from_mins(1))
        .await
        .unwrap();
    registry.commit(Epoch(1), everything()).await.unwrap();
    let search = || {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(files.directory.path()).unwrap() {
            all.extend(std::fs::read(entry.unwrap().path()).unwrap());
        }
        all
    };
    let holds = |all: &[u8], text: &str| all.windows(text.len()).any(|w| w == text.as_bytes());
    let open = search();
    assert!(
        holds(&open, "plain text"),
        "the search does not find a value that exists"
    );
    registry.close().await.unwrap();
    let closed = search();
    assert!(holds(&closed, "plain text"));
    let digest = chunk().digest().to_string();
    for planted in PLANTED.into_iter().chain([&*digest]) {
        assert!(
            !holds(&open, planted) && !holds(&closed, planted),
            "{planted}"
        );
    }
}

#[tokio::test]
async fn key_of_another_platform_is_refused() {
    let files = Files::new();
    files.open().await.unwrap().close().await.unwrap();
    let other = PlatformKey::generate();
    let error = open(&files.path(), &other, &files.clock).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    files.open().await.unwrap();
}

#[tokio::test]
async fn tables_of_a_newer_version_are_not_changed() {
    let files = Files::new();
    files.open().await.unwrap().close().await.unwrap();
    let raw = sea_orm::Database::connect(url(&files.path()))
        .await
        .unwrap();
    raw.execute_unprepared(
        "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_future', 0)",
    )
    .await
    .unwrap();
    raw.close().await.unwrap();
    let error = files.open().await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    assert!(error.to_string().contains("m9999_future"), "{error}");
}

#[tokio::test]
async fn missing_and_invalid_files_have_different_errors() {
    let files = Files::new();
    let path = files.path();
    let only_existing = format!("sqlite://{}", path.display());
    let opened = SqlRegistry::open(&only_existing, files.key.clone(), files.clock.clone()).await;
    let error = opened.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    assert!(!path.exists());
    std::fs::write(
        &path,
        "not a database, but long enough to be read as one".repeat(50),
    )
    .unwrap();
    let error = files.open().await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
    let nowhere = files.directory.path().join("absent/registry.db");
    let error = open(&nowhere, &files.key, &files.clock).await.unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
}

#[tokio::test]
async fn other_services_read_endpoints_in_sql() {
    let files = Files::new();
    let registry = files.open().await.unwrap();
    registry
        .acquire_lease("x", Duration::from_mins(1))
        .await
        .unwrap();
    registry.commit(Epoch(1), everything()).await.unwrap();
    registry.close().await.unwrap();
    let raw = sea_orm::Database::connect(url(&files.path()))
        .await
        .unwrap();
    let rows = raw
        .query_all_raw(sea_orm::Statement::from_string(
            sea_orm::DatabaseBackend::Sqlite,
            "SELECT service || ' ' || class || ' ' || replica || ' ' || node || ' ' || ip || ' ' \
             || port || ' ' || protocol || ' ' || ready_since AS line FROM endpoints ORDER BY port",
        ))
        .await
        .unwrap();
    let lines: Vec<String> = rows
        .iter()
        .map(|row| row.try_get("", "line").unwrap())
        .collect();
    assert_eq!(
        lines,
        [
            "app model 1 vm1 10.0.0.5 20000 tcp 2024-10-04T00:00:02.000000Z",
            "app model 1 vm1 10.0.0.5 20001 tcp 2024-10-04T00:00:02.000000Z",
        ]
    );
}

#[tokio::test]
async fn cancelled_commit_leaves_no_changes_and_no_locks() {
    use lifecycle_core::registry::Change;

    let files = Files::new();
    let registry = files.open().await.unwrap();
    registry
        .acquire_lease("x", Duration::from_mins(1))
        .await
        .unwrap();
    let batch = |from: u16| Batch {
        changes: (from..from + 2000)
            .map(|n| Change::PutInstance(Box::new(instance(n, &format!("c{n}"), 1))))
            .collect(),
        events: Vec::new(),
    };
    let cut = tokio::time::timeout(
        Duration::from_millis(20),
        registry.commit(Epoch(1), batch(0)),
    )
    .await;
    assert!(
        cut.is_err(),
        "the commit finished before it could be cancelled"
    );
    registry.commit(Epoch(1), batch(2000)).await.unwrap();
    assert_eq!(registry.snapshot().await.unwrap().instances.len(), 2000);
}
