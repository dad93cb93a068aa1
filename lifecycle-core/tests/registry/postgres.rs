//! Tests the registry in PostgreSQL.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lifecycle_core::clock::SystemClock;
use lifecycle_core::conformance::registry::{self, Backend};
use lifecycle_core::model::Epoch;
use lifecycle_core::registry::{Batch, Change, Lease, Registry, SqlRegistry};
use lifecycle_core::secret::PlatformKey;
use lifecycle_core::{Error, Result};

use crate::platform::{PLANTED, chunk, event, everything, node};
use crate::postgres_server::{PASSWORD, PostgresServer};

#[derive(Debug)]
struct Postgres {
    server: PostgresServer,
    latest: Mutex<String>,
    key: PlatformKey,
}

impl Postgres {
    fn start() -> Self {
        Self {
            server: PostgresServer::start(),
            latest: Mutex::default(),
            key: PlatformKey::generate(),
        }
    }

    async fn open(&self, url: &str) -> Result<SqlRegistry> {
        SqlRegistry::open(url, self.key.clone(), Arc::new(SystemClock)).await
    }

    /// Creates a registry whose lease `x` holds, with epoch 1. Returns the registry's URL and the
    /// registry.
    async fn led(&self) -> (String, SqlRegistry) {
        let url = self.server.database();
        let registry = self.open(&url).await.unwrap();
        let ttl = Duration::from_mins(10);
        registry.acquire_lease("x", ttl).await.unwrap();
        (url, registry)
    }
}

#[async_trait]
impl Backend for Postgres {
    async fn fresh(&self) -> Result<Arc<dyn Registry>> {
        let url = self.server.database();
        self.latest.lock().unwrap().clone_from(&url);
        Ok(Arc::new(self.open(&url).await?))
    }

    async fn reopen(&self, registry: Arc<dyn Registry>) -> Result<Option<Arc<dyn Registry>>> {
        drop(registry);
        let url = self.latest.lock().unwrap().clone();
        Ok(Some(Arc::new(self.open(&url).await?)))
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(2)
    }

    async fn pass(&self, time: Duration) {
        // The server uses its own clock, so the test has to wait.
        tokio::time::sleep(time).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn postgres_passes_the_suite() {
    registry::all(&Postgres::start()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_managers_share_one_registry() {
    let postgres = Postgres::start();
    let url = postgres.server.database();
    // Open the empty database twice at the same time. Both calls must succeed, although only one of
    // them can create the tables.
    let (first, second) = tokio::join!(postgres.open(&url), postgres.open(&url));
    let (first, second) = (first.unwrap(), second.unwrap());
    let ttl = Duration::from_secs(1);
    let lease = first.acquire_lease("first", ttl).await.unwrap();
    assert_eq!(lease, Lease::Held(Epoch(1)));
    let lease = second.acquire_lease("second", ttl).await.unwrap();
    assert!(
        matches!(lease, Lease::HeldBy { ref holder, .. } if holder == "first"),
        "{lease:?}"
    );

    let batch = |name: &str| {
        let put = Change::PutNode(Box::new(node(name, None)));
        Batch::of(put).event(event(name))
    };
    first.commit(Epoch(1), batch("a")).await.unwrap();
    assert_eq!(second.snapshot().await.unwrap().nodes.len(), 1);

    // The first manager keeps writing while its lease expires and the second one takes over. The
    // registry must contain every write of the first manager that returned success, and none from
    // after the takeover.
    let writer = async {
        let mut written = 1;
        loop {
            match first.commit(Epoch(1), batch(&format!("n{written}"))).await {
                Ok(made) => {
                    written += 1;
                    assert_eq!(made.events[0].id, written);
                }
                Err(Error::StaleEpoch { current, .. }) => {
                    assert_eq!(current, Epoch(2));
                    return written;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    let successor = async {
        loop {
            if second.acquire_lease("second", ttl).await.unwrap() == Lease::Held(Epoch(2)) {
                return second.commit(Epoch(2), batch("b")).await.unwrap().events[0].id;
            }
        }
    };
    let (written, taken) = tokio::join!(writer, successor);
    assert_eq!(taken, written + 1);
    let nodes = first.snapshot().await.unwrap().nodes.len() as u64;
    assert_eq!(nodes, written + 1);
}

#[tokio::test]
async fn no_dump_contains_a_plain_secret() {
    let postgres = Postgres::start();
    let (_, registry) = postgres.led().await;
    registry.commit(Epoch(1), everything()).await.unwrap();
    let dump = postgres.server.dump();
    assert!(dump.contains("plain text"), "{dump}");
    let digest = chunk().digest().to_string();
    for planted in PLANTED.into_iter().chain([&*digest]) {
        let hex = hex::encode(planted);
        assert!(!dump.contains(planted) && !dump.contains(&hex), "{planted}");
    }
}

#[tokio::test]
async fn other_services_read_endpoints_in_sql() {
    let postgres = Postgres::start();
    let (_, registry) = postgres.led().await;
    registry.commit(Epoch(1), everything()).await.unwrap();
    let shown = postgres.server.query(
        "SET timezone = 'UTC'; SET datestyle = ISO; \
         SELECT service, class, replica, node, ip, port, protocol, ready_since FROM endpoints \
         ORDER BY port",
    );
    let rows: Vec<&str> = shown.lines().filter(|line| *line != "SET").collect();
    assert_eq!(
        rows,
        [
            "app|model|1|vm1|10.0.0.5|20000|tcp|2024-10-04 00:00:02+00",
            "app|model|1|vm1|10.0.0.5|20001|tcp|2024-10-04 00:00:02+00",
        ]
    );
}

#[tokio::test]
async fn text_with_a_nul_does_not_stop_a_commit() {
    let postgres = Postgres::start();
    let (_, registry) = postgres.led().await;
    let mut message = event("an engine said \0");
    message.data = serde_json::json!({"log": "\0"});
    let batch = Batch::default().event(message);
    registry.commit(Epoch(1), batch).await.unwrap();
    let shown = postgres
        .server
        .query("SELECT message, data->>'log' FROM events");
    assert_eq!(shown, "an engine said \u{fffd}|\u{fffd}\n");
}

#[tokio::test]
async fn lost_server_is_unreachable_and_its_password_not_shown() {
    let postgres = Postgres::start();
    let (url, registry) = postgres.led().await;
    let shown = |error: &Error| {
        let text = format!("{error:?} {}", error.chain());
        assert!(!text.contains(PASSWORD), "{text}");
    };

    let wrong = postgres.server.url("another-password", "registry_0");
    let error = postgres.open(&wrong).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    let absent = postgres.server.url(PASSWORD, "absent");
    let error = postgres.open(&absent).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    shown(&error);
    let other = SqlRegistry::open(&url, PlatformKey::generate(), Arc::new(SystemClock));
    let error = other.await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert!(!format!("{registry:?}").contains(PASSWORD));

    postgres.server.stop();
    for error in [
        registry.snapshot().await.unwrap_err(),
        registry
            .commit(Epoch(1), Batch::default())
            .await
            .unwrap_err(),
        postgres.open(&url).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        shown(&error);
    }
}
