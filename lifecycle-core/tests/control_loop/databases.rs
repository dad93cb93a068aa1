//! Tests managers whose registry is in a database: two managers that share a database, and per-kind
//! databases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lifecycle_core::api::{LocalApi, ManagerApi};
use lifecycle_core::clock::SystemClock;
use lifecycle_core::error::Error;
use lifecycle_core::model::{Epoch, EventKind, Kind, ServiceClass, ServiceName};
use lifecycle_core::registry::{
    Batch, Change, MemoryRegistry, Mirrors, Registry, SqlDatabases, SqlRegistry,
};
use lifecycle_core::runtime::LogOptions;
use lifecycle_core::secret::Sensitive;
use lifecycle_core::sim::{SimDatabases, SimOptions};

use crate::platform::service;
use crate::postgres_server::PostgresServer;
use crate::stage::{LEASE, Stage, key};

/// The duration of a lease in tests that wait in real time until the lease expires.
const SHORT: Duration = Duration::from_secs(2);

const NODES: &str = "nodes";
const SERVICES: &str = "microservices";
const MODELS: &str = "applications and models";

/// Creates the shop, with `web` in the class `Application` and `db` in the class `Model`.
async fn shop_of_kinds(options: SimOptions) -> Stage {
    let mut stage = Stage::shop_without_manager(options).await;
    for (name, class) in [
        ("web", ServiceClass::Application),
        ("db", ServiceClass::Model),
    ] {
        let declared = stage.declaration.services.get_mut(&service(name));
        declared.unwrap().class = class;
    }
    stage
}

/// Starts the shop with simulated per-kind databases. Applications and models share a database.
async fn mirrored(seed: u64) -> (Stage, SimDatabases) {
    let mut stage = shop_of_kinds(SimOptions::seeded(seed)).await;
    let central = Arc::new(MemoryRegistry::new(Arc::new(stage.world.clock())));
    let databases = SimDatabases::new(Arc::new(stage.world.clock()));
    let urls = [
        (Kind::Nodes, NODES),
        (Kind::Microservices, SERVICES),
        (Kind::Applications, MODELS),
        (Kind::Models, MODELS),
    ];
    stage.mirrors = Some(Mirrors::new(
        central.id(),
        Arc::new(databases.clone()),
        stage.owner.id,
        key(),
        &urls.map(|(kind, url)| (kind, Sensitive::new(url))).into(),
    ));
    stage.registry = central;
    stage.start();
    (stage, databases)
}

/// Checks that each per-kind database contains exactly the central registry's records of its kinds.
async fn assert_copies(stage: &Stage, databases: &SimDatabases) {
    let whole = stage.registry.snapshot().await.unwrap();
    for (url, with_nodes, services) in [
        (NODES, true, &[][..]),
        (SERVICES, false, &["api", "migrate", "monitoring"][..]),
        (MODELS, false, &["db", "web"][..]),
    ] {
        let held = databases.at(url).snapshot().await.unwrap();
        let nodes = if with_nodes {
            whole.nodes.clone()
        } else {
            BTreeMap::new()
        };
        assert_eq!(held.nodes, nodes, "{url}");
        let mut instances = whole.instances.clone();
        instances.retain(|_, v| services.contains(&v.id.service.as_str()));
        assert_eq!(held.instances, instances, "{url}");
        let (_, declared) = held.declaration.unwrap();
        let declared: Vec<&str> = declared.services.keys().map(ServiceName::as_str).collect();
        assert_eq!(declared, services, "{url}");
        assert_eq!(held.last_event, whole.last_event, "{url}");
    }
}

#[tokio::test(start_paused = true)]
async fn copies_are_correct_after_outages_lost_instances_and_takeovers() {
    let (mut stage, databases) = mirrored(51).await;
    stage.settled().await;
    stage.pass(Duration::from_mins(1)).await;
    assert_copies(&stage, &databases).await;

    // An instance is lost and replaced while the database is unavailable.
    let cursor = stage.last_event().await;
    databases.set_unavailable(MODELS, true);
    let (node, container) = stage.place(&crate::platform::instance("web", 1));
    let faults = stage.world.faults();
    faults.remove_container(&node, &container.name).unwrap();
    stage.pass(Duration::from_mins(5)).await;
    stage.settled().await;
    let unavailable = stage.events(EventKind::DatabaseUnavailable, cursor).await;
    assert_eq!(unavailable.len(), 1, "{unavailable:#?}");
    assert!(
        unavailable[0].message.contains("applications and models"),
        "{unavailable:?}"
    );
    assert!(unavailable[0].data["since"].is_string(), "{unavailable:?}");
    databases.set_unavailable(MODELS, false);
    stage.pass(Duration::from_mins(2)).await;
    let back = stage.events(EventKind::DatabaseAvailable, cursor).await;
    assert_eq!(back.len(), 1, "{back:#?}");
    assert_copies(&stage, &databases).await;

    databases.lose(SERVICES);
    stage.pass(Duration::from_mins(1)).await;
    assert_copies(&stage, &databases).await;

    // Another manager takes over. It must update the copies.
    stage.abandon().await;
    stage.pass(LEASE * 2).await;
    stage.start();
    stage.settled().await;
    stage.pass(Duration::from_mins(1)).await;
    assert_copies(&stage, &databases).await;
    stage.assert_whole().await;
}

/// Opens a separate connection to the database, as each manager does.
async fn connection(url: &str) -> Arc<SqlRegistry> {
    let registry = SqlRegistry::open(url, key(), Arc::new(SystemClock)).await;
    Arc::new(registry.unwrap())
}

fn quick(seed: u64) -> SimOptions {
    SimOptions {
        pace_percent: 1,
        ..SimOptions::seeded(seed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standby_manager_on_postgres_responds_and_takes_over() {
    let server = PostgresServer::start();
    let url = server.database();
    let mut stage = Stage::shop_without_manager(quick(52)).await;
    stage.lease = SHORT;
    stage.registry = connection(&url).await;
    stage.start();
    stage.settled().await;

    stage.registry = connection(&url).await;
    let follower = stage.next_manager();
    let follows = tokio::spawn(Arc::clone(&follower).run());
    let api = LocalApi::new(Arc::clone(&follower));
    let leads = LocalApi::new(Arc::clone(&stage.manager));
    stage.pass(SHORT * 2).await;
    let leading = stage.events(EventKind::Leading, 0).await;
    assert_eq!(leading.len(), 1, "{leading:#?}");
    // The standby manager answers reads with the same data as the leader.
    let (ours, theirs) = (
        api.platform().await.unwrap(),
        leads.platform().await.unwrap(),
    );
    assert_eq!(ours, theirs);
    assert_eq!(api.nodes().await.unwrap(), leads.nodes().await.unwrap());
    assert_eq!(
        api.services().await.unwrap(),
        leads.services().await.unwrap()
    );
    let last = leads.last_event().await.unwrap();
    assert_eq!(api.last_event().await.unwrap(), last);
    assert!(!api.events(last - 1).await.unwrap().events.is_empty());
    let web = service("web");
    assert!(api.logs(&web, LogOptions::last(1)).await.is_ok());
    // The standby manager must reject requests that only the leader may serve.
    let declaration = &stage.declaration;
    for refused in [
        api.apply(declaration).await.err(),
        api.plan(declaration).await.err(),
        api.delete_platform(false).await.err(),
    ] {
        assert!(
            matches!(refused, Some(Error::NotReady { .. })),
            "{refused:?}"
        );
    }

    let containers: BTreeSet<_> = started(&stage);
    stage.abandon().await;
    let leads_now = async || stage.events(EventKind::Leading, 0).await.len() == 2;
    while !leads_now().await {
        stage.pass(Duration::from_millis(50)).await;
    }
    stage.manager = follower;
    stage.settled().await;
    assert_eq!(started(&stage), containers, "a container was replaced");
    stage.assert_whole().await;
    assert!(api.apply(&stage.declaration).await.is_ok());
    let write = Batch::of(Change::MarkFirstRoundDone);
    let refused = stage.registry.commit(Epoch(1), write).await;
    assert!(
        matches!(refused, Err(Error::StaleEpoch { .. })),
        "{refused:?}"
    );
    follows.abort();
}

fn started(stage: &Stage) -> BTreeSet<(String, String)> {
    let containers = stage.containers().into_iter();
    let run = containers.map(|(_, c)| (c.id.to_string(), format!("{:?}", c.started_at)));
    run.collect()
}

/// A manager releases its lease when it is asked to stop, so that its successor need not wait.
#[tokio::test(start_paused = true)]
async fn stopped_manager_is_replaced_immediately() {
    let mut stage = Stage::shop(53).await;
    stage.settled().await;
    let leader = Arc::clone(&stage.manager);
    stage.abandon().await;
    leader.resign().await.unwrap();
    stage.start();
    stage.pass(Duration::from_secs(1)).await;
    assert_eq!(stage.events(EventKind::Leading, 0).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_each_kind_can_have_its_own_database() {
    let server = PostgresServer::start();
    let mut stage = shop_of_kinds(quick(54)).await;
    let central = connection(&server.database()).await;
    let urls: Vec<String> = (0..2).map(|_| server.database()).collect();
    let kinds = [(Kind::Nodes, 0), (Kind::Models, 1)];
    stage.mirrors = Some(Mirrors::new(
        central.id(),
        Arc::new(SqlDatabases::new(Arc::new(SystemClock))),
        stage.owner.id,
        key(),
        &kinds
            .map(|(kind, n)| (kind, Sensitive::new(&*urls[n])))
            .into(),
    ));
    stage.registry = central;
    stage.start();
    stage.settled().await;
    let mirrors = stage.mirrors.clone().unwrap();
    mirrors.caught_up(Duration::from_secs(20)).await;
    let record = &stage.records().await[&crate::platform::instance("db", 1)];
    let endpoint = record.endpoints[0];
    let shown = format!(
        "db|model|1|{}|{}|{}\n",
        record.node, endpoint.ip, endpoint.port
    );
    let query = "SELECT service, class, replica, node, ip, port FROM endpoints";
    assert_eq!(server.query_in("registry_2", query), shown);
    assert_eq!(
        server.query_in("registry_2", "SELECT count(*) FROM nodes"),
        "0\n"
    );
    assert_eq!(server.query_in("registry_1", query), "");
    assert_eq!(
        server.query_in("registry_1", "SELECT count(*) FROM nodes"),
        "3\n"
    );
}
