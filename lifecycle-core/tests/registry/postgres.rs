//! Tests the registry in PostgreSQL.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lifecycle_core::api::Authority;
use lifecycle_core::clock::{Clock as _, SystemClock};
use lifecycle_core::conformance::registry::{self, Backend};
use lifecycle_core::model::{Epoch, PlatformId};
use lifecycle_core::registry::{Batch, Change, Lease, Registry, SqlRegistry};
use lifecycle_core::secret::PlatformKey;
use lifecycle_core::{Error, Result};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sea_orm::{ConnectionTrait as _, Database, TransactionTrait as _};
use uuid::Uuid;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_lease_is_renewed_while_all_other_connections_are_in_use() {
    let postgres = Postgres::start();
    let (url, registry) = postgres.led().await;
    let registry = Arc::new(registry);
    // Every snapshot waits for this lock, with a connection of its own.
    let other = Database::connect(url).await.unwrap();
    let lock = other.begin().await.unwrap();
    let statement = "LOCK TABLE nodes IN ACCESS EXCLUSIVE MODE";
    lock.execute_unprepared(statement).await.unwrap();
    let snapshots: Vec<_> = (0..8)
        .map(|_| {
            let registry = Arc::clone(&registry);
            tokio::spawn(async move { registry.snapshot().await })
        })
        .collect();
    let waiting = "SELECT count(*) FROM pg_stat_activity \
                   WHERE wait_event_type = 'Lock' AND datname = current_database()";
    while postgres.server.query(waiting) != "8\n" {
        tokio::task::yield_now().await;
    }
    let ttl = Duration::from_mins(10);
    let renewed = registry.acquire_lease("x", ttl).await.unwrap();
    assert_eq!(renewed, Lease::Held(Epoch(1)));
    lock.rollback().await.unwrap();
    for snapshot in snapshots {
        snapshot.await.unwrap().unwrap();
    }
}

fn is_refused(opened: Result<SqlRegistry>, why: &str, hint: &str) {
    let error = opened.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    let text = error.chain();
    assert!(text.contains(why) && !text.contains(PASSWORD), "{text}");
    assert!(error.hint().is_some_and(|h| h.contains(hint)), "{error:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_refused_with_a_hint() {
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let (server, port) = PostgresServer::start_at(address, &[]);
    let key = PlatformKey::generate();
    server.create("registry");
    let url = PostgresServer::url_at(address, port, "registry");
    let open = |query: &str| {
        let url = format!("{url}{query}");
        let key = key.clone();
        async move { SqlRegistry::open(&url, key, Arc::new(SystemClock)).await }
    };
    for strict in ["verify-full", "verify-ca", "require"] {
        let opened = open(&format!("?sslmode={strict}")).await;
        is_refused(opened, "server does not support TLS", "sslmode=disable");
    }
    // At a loopback address, TLS is optional.
    for lax in ["", "?sslmode=disable"] {
        open(lax).await.unwrap().close().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_must_have_a_trusted_certificate_for_its_host() {
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let platform = PlatformId::new(Uuid::from_u128(1));
    let authority = Authority::generate(platform, SystemClock.now()).unwrap();
    let identity = authority.issue(platform, address, SystemClock.now());
    let identity = identity.unwrap();
    let pair = (&*identity.certificates, identity.key.expose());
    let (server, port) = PostgresServer::start_with_tls(address, pair);
    server.create("registry");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, &authority.certificate).unwrap();
    let trust = format!("sslrootcert={}", file.display());
    let key = PlatformKey::generate();
    let open = |host: &str, query: &str| {
        let url = PostgresServer::url_at(host, port, "registry");
        let (url, key) = (format!("{url}?{query}"), key.clone());
        async move { SqlRegistry::open(&url, key, Arc::new(SystemClock)).await }
    };
    let unknown = open("127.0.0.1", "sslmode=verify-full").await;
    is_refused(unknown, "not trusted", "sslrootcert=FILE");
    let query = format!("sslmode=verify-full&{trust}");
    let other_host = open("localhost", &query).await;
    is_refused(other_host, "not valid for the host", "verify-ca");
    let absent = open("127.0.0.1", "sslmode=verify-full&sslrootcert=/absent").await;
    let absent = absent.unwrap_err();
    assert!(absent.to_string().contains("`/absent`"), "{absent}");
    assert!(absent.hint().is_some(), "{absent:?}");

    let inline = utf8_percent_encode(&authority.certificate, NON_ALPHANUMERIC);
    for (host, query) in [
        ("127.0.0.1", query),
        (
            "127.0.0.1",
            format!("sslmode=verify-full&sslrootcert={inline}"),
        ),
        ("localhost", format!("sslmode=verify-ca&{trust}")),
        ("localhost", "sslmode=require".into()),
    ] {
        let opened = open(host, &query).await;
        let registry = opened.unwrap_or_else(|error| panic!("{query}: {error:?}"));
        let used = server.query_in(
            "registry",
            "SELECT bool_and(ssl) FROM pg_stat_ssl \
             JOIN pg_stat_activity USING (pid) WHERE application_name = 'lifecycle'",
        );
        assert_eq!(used, "t\n", "{query}");
        registry.close().await.unwrap();
    }
}
