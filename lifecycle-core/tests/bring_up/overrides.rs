//! Tests that services can be scaled, stopped and started at run time, that `up` keeps these changes
//! unless the files change the same value, and that each change is made once although a process
//! crashes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use lifecycle_core::Error;
use lifecycle_core::api::wire::{InstanceStateV1, NewNodeV1, OverrideKindV1};
use lifecycle_core::bootstrap::Outcome;
use lifecycle_core::model::{
    EventKind, NetworkMode, NodeName, NodeSpec, Protocol, PublishedPort, ServiceClass, ServiceName,
    Starts, VolumeMount, VolumeName, VolumeOptions,
};
use lifecycle_core::platform::OverrideChange;
use lifecycle_core::sim::{Edge, EffectOutcome};

use crate::stage::Stage;

use OverrideChange::{Scale, Start, Stop};

fn service(name: &str) -> ServiceName {
    ServiceName::try_from(name).unwrap()
}

fn node(name: &str) -> NodeName {
    NodeName::try_from(name).unwrap()
}

/// Returns a platform that is up, with one replica of `db` and two of `api`.
async fn running(seed: u64) -> Stage {
    let stage = Stage::new(seed).await;
    stage.up().await.unwrap();
    stage
}

async fn change(stage: &Stage, name: &str, change: OverrideChange) -> Result<Outcome, Error> {
    let (bootstrapper, name) = (stage.bootstrapper().await, service(name));
    let changed = bootstrapper.override_service(stage.declaration.id, &name, change);
    let within = tokio::time::timeout(Duration::from_hours(1), changed).await;
    within.unwrap_or_else(|_| panic!("{}", stage.world.transcript()))
}

/// Returns the number of ready replicas of each service. The replicas that are not declared any more
/// must have no container.
async fn ready(stage: &Stage) -> BTreeMap<String, usize> {
    let services = stage.api().await.services().await.unwrap();
    let mut declared = 0;
    let counts = services.iter().map(|service| {
        declared += service.instances.len();
        let instances = service.instances.iter();
        let ready = instances.filter(|one| one.state == InstanceStateV1::Ready);
        (service.name.to_string(), ready.count())
    });
    let counts = counts.collect();
    let instances = stage.names().into_iter();
    let instances = instances.filter(|name| {
        stage
            .declaration
            .services
            .keys()
            .any(|service| name.contains(&format!("-{service}-")))
    });
    assert_eq!(instances.count(), declared, "{:?}", stage.names());
    counts
}

fn counts(db: usize, api: usize) -> BTreeMap<String, usize> {
    BTreeMap::from([
        ("api".to_owned(), api),
        ("db".to_owned(), db),
        ("monitoring".to_owned(), 1),
    ])
}

/// Returns the ids of the overrides in force.
async fn ids(stage: &Stage) -> Vec<String> {
    let overrides = stage.api().await.overrides().await.unwrap();
    overrides.into_iter().map(|one| one.id).collect()
}

#[tokio::test(start_paused = true)]
async fn a_service_is_scaled_stopped_and_started() {
    let stage = running(81).await;
    let outcome = change(&stage, "api", Scale(5)).await.unwrap();
    assert_eq!(outcome.failures, []);
    assert_eq!(ready(&stage).await, counts(1, 5));
    change(&stage, "api", Stop).await.unwrap();
    assert_eq!(ready(&stage).await, counts(1, 0));
    let why = stage.api().await.why("api").await.unwrap();
    assert!(
        why.answer.contains("`bootstrapper start api` starts it"),
        "{why:?}"
    );
    // The number of replicas of a stopped service can be changed.
    change(&stage, "api", Scale(3)).await.unwrap();
    assert_eq!(ready(&stage).await, counts(1, 0));
    assert_eq!(ids(&stage).await, ["api.replicas", "api.stopped"]);
    change(&stage, "api", Start).await.unwrap();
    assert_eq!(ready(&stage).await, counts(1, 3));
    let overrides = stage.api().await.overrides().await.unwrap();
    let kind = OverrideKindV1::Replicas {
        replicas: 3,
        declared: 2,
    };
    assert_eq!(overrides[0].kind, kind);
    let bootstrapper = stage.bootstrapper().await;
    let id = stage.declaration.id;
    bootstrapper
        .remove_override(id, "api.replicas")
        .await
        .unwrap();
    assert_eq!(ready(&stage).await, counts(1, 2));
    assert_eq!(ids(&stage).await, [""; 0]);
    bootstrapper
        .remove_override(id, "api.replicas")
        .await
        .unwrap();
    let unknown = bootstrapper.remove_override(id, "none.replicas").await;
    assert!(
        matches!(unknown, Err(Error::NotFound { .. })),
        "{unknown:?}"
    );
    assert_eq!(stage.world.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_change_changes_nothing() {
    let stage = running(82).await;
    let api = stage.api().await;
    let cursor = api.last_event().await.unwrap();
    for change in [Start, Scale(2)] {
        let applied = api.override_service("api", change).await.unwrap();
        assert!(!applied.changed, "{change}");
    }
    for (index, change) in [Stop, Stop, Scale(4), Scale(4)].into_iter().enumerate() {
        let applied = api.override_service("api", change).await.unwrap();
        assert_eq!(applied.changed, index % 2 == 0, "{change}");
    }
    let first = api.overrides().await.unwrap();
    tokio::time::sleep(Duration::from_mins(1)).await;
    api.override_service("api", Scale(4)).await.unwrap();
    assert_eq!(api.overrides().await.unwrap(), first);
    let events = api.events(cursor).await.unwrap().events.into_iter();
    let audit = events.filter(|event| event.event.kind == EventKind::Audit);
    let audit: Vec<String> = audit.map(|event| event.event.message).collect();
    let who = "the program that runs the manager";
    assert_eq!(
        audit,
        [
            format!("{who}: stop, service api"),
            format!("{who}: scale to 4, service api")
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn up_keeps_changes_unless_the_files_change_the_same_value() {
    let mut stage = running(83).await;
    change(&stage, "api", Scale(3)).await.unwrap();
    change(&stage, "db", Stop).await.unwrap();
    stage.up().await.unwrap();
    assert_eq!(ready(&stage).await, counts(0, 3));
    // Another value of the same services.
    stage.command("api", "echo second; sleep infinity");
    stage.command("db", "echo second; sleep infinity");
    stage.up().await.unwrap();
    assert_eq!(ready(&stage).await, counts(0, 3));
    assert_eq!(ids(&stage).await, ["api.replicas", "db.stopped"]);

    stage
        .declaration
        .services
        .get_mut(&service("api"))
        .unwrap()
        .replicas = 1;
    stage.up().await.unwrap();
    assert_eq!(ready(&stage).await, counts(0, 1));
    assert_eq!(ids(&stage).await, ["db.stopped"]);
    // The plan of unchanged files contains the overrides.
    let plan = stage.api().await.plan(&stage.declaration).await.unwrap();
    assert_eq!(plan.steps, []);

    // The overrides of a service end with its declaration.
    let db = stage.declaration.services.remove(&service("db")).unwrap();
    let api = stage.declaration.services.get_mut(&service("api")).unwrap();
    let depends_on = std::mem::take(&mut api.depends_on);
    stage.up().await.unwrap();
    assert_eq!(ids(&stage).await, [""; 0]);
    let api = stage.declaration.services.get_mut(&service("api")).unwrap();
    api.depends_on = depends_on;
    stage.declaration.services.insert(service("db"), db);
    stage.up().await.unwrap();
    assert_eq!(ready(&stage).await, counts(1, 1));
}

#[tokio::test(start_paused = true)]
async fn services_that_share_a_network_are_changed_together() {
    let mut stage = Stage::new(84).await;
    let monitoring = stage.declaration.services.get_mut(&service("monitoring"));
    let connection = &mut monitoring.unwrap().container.connection;
    connection.mode = NetworkMode::Service(service("db"));
    stage.up().await.unwrap();
    change(&stage, "monitoring", Scale(2)).await.unwrap();
    assert_eq!(ids(&stage).await, ["db.replicas", "monitoring.replicas"]);
    change(&stage, "db", Stop).await.unwrap();
    assert_eq!(ready(&stage).await.values().sum::<usize>(), 2);
    change(&stage, "monitoring", Start).await.unwrap();
    assert_eq!(ready(&stage).await.values().sum::<usize>(), 6);
    assert_eq!(stage.world.violations(), []);
}

async fn add(stage: &Stage, name: &str, like: Option<&str>) -> Result<Outcome, Error> {
    let bootstrapper = stage.bootstrapper().await;
    let node = NewNodeV1::new(node(name), like.map(str::to_owned));
    let added = bootstrapper.add_node(stage.declaration.id, &node);
    let within = tokio::time::timeout(Duration::from_hours(1), added).await;
    within.unwrap_or_else(|_| panic!("{}", stage.world.transcript()))
}

async fn remove(stage: &Stage, name: &str, volumes: bool) -> Result<Outcome, Error> {
    let bootstrapper = stage.bootstrapper().await;
    let removed = bootstrapper.remove_node(stage.declaration.id, name, volumes);
    let within = tokio::time::timeout(Duration::from_hours(1), removed).await;
    within.unwrap_or_else(|_| panic!("{}", stage.world.transcript()))
}

/// Publishes a port of `db`, so that each node can run only one replica.
fn publish(stage: &mut Stage) {
    let db = stage.declaration.services.get_mut(&service("db")).unwrap();
    db.container.ports = vec![PublishedPort {
        host_port: Some(5432),
        container_port: 5432,
        protocol: Protocol::Tcp,
        host_ip: None,
    }];
}

/// The third replica of `db` fits only on the node that is added.
#[tokio::test(start_paused = true)]
async fn a_node_is_added_and_removed() {
    let mut stage = Stage::new(88).await;
    publish(&mut stage);
    stage.up().await.unwrap();
    let outcome = change(&stage, "db", Scale(3)).await.unwrap();
    let failed = outcome.failures.iter().map(|one| one.instance.as_str());
    assert_eq!(failed.collect::<Vec<_>>(), ["db-3"]);
    // A node without an engine, which must be prepared.
    let outcome = add(&stage, "n3", Some("n2")).await.unwrap();
    assert_eq!(outcome.nodes.len(), 3);
    let place = |container: &str| {
        let containers = stage.world.containers(&node("n3")).into_iter();
        containers
            .filter(|one| one.name.contains(container))
            .count()
    };
    assert_eq!((place("-db-3-"), place("-lifecycle-agent-")), (1, 1));
    let services = stage.api().await.services().await.unwrap();
    let mut instances = services.iter().flat_map(|service| &service.instances);
    assert!(
        instances.all(|one| one.state == InstanceStateV1::Ready),
        "{services:#?}"
    );
    for _ in 0..2 {
        assert_eq!(stage.removed_by_up().await, []);
        stage.up().await.unwrap();
        assert!(stage.world.node(&node("n3")).is_some());
    }
    // Repeated in the same way, and in another way.
    add(&stage, "n3", Some("n2")).await.unwrap();
    let other = add(&stage, "n3", None).await.unwrap_err();
    assert!(matches!(other, Error::Conflict { .. }), "{other:?}");
    let unknown = add(&stage, "n4", Some("n9")).await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound { .. }), "{unknown:?}");

    let declared = remove(&stage, "n2", false).await.unwrap_err();
    assert!(matches!(declared, Error::Invalid { .. }), "{declared:?}");
    let by_id = stage.api().await.remove_override("n3.added").await;
    assert!(matches!(by_id, Err(Error::Invalid { .. })), "{by_id:?}");
    change(&stage, "db", Scale(1)).await.unwrap();
    let outcome = remove(&stage, "n3", false).await.unwrap();
    assert_eq!(outcome.nodes.len(), 2);
    assert!(stage.world.node(&node("n3")).is_none());
    assert_eq!(ids(&stage).await, [""; 0]);
    assert_eq!(ready(&stage).await, counts(1, 2));
    assert_eq!(stage.world.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn the_files_can_take_over_an_added_node() {
    let mut stage = running(89).await;
    add(&stage, "n3", None).await.unwrap();
    let machine = stage.world.node(&node("n3")).unwrap();
    let spec = NodeSpec::new(node("n3"));
    stage.declaration.nodes.insert(node("n3"), spec);
    stage.up().await.unwrap();
    assert_eq!(ids(&stage).await, [""; 0]);
    assert_eq!(
        stage.world.node(&node("n3")).unwrap().boot_id,
        machine.boot_id
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_with_volumes_is_removed_only_on_request() {
    let mut stage = Stage::new(90).await;
    publish(&mut stage);
    let db = stage.declaration.services.get_mut(&service("db")).unwrap();
    db.container.volumes.push(VolumeMount {
        volume: VolumeName::try_from("data").unwrap(),
        target: "/data".into(),
        read_only: false,
        options: VolumeOptions::default(),
    });
    stage.up().await.unwrap();
    add(&stage, "n3", None).await.unwrap();
    change(&stage, "db", Scale(3)).await.unwrap();
    let kept = remove(&stage, "n3", false).await.unwrap_err();
    assert!(
        kept.to_string()
            .contains("its volumes would be deleted: data"),
        "{kept}"
    );
    assert!(stage.world.node(&node("n3")).is_some());
    // Its replica fits on no other node.
    let used = remove(&stage, "n3", true).await.unwrap_err();
    assert!(used.to_string().contains("still in use"), "{used}");
    // The removal was accepted, and continues.
    change(&stage, "db", Scale(1)).await.unwrap();
    let deleted = async {
        while stage.world.node(&node("n3")).is_some() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let within = tokio::time::timeout(Duration::from_mins(10), deleted).await;
    within.unwrap_or_else(|_| panic!("{}", stage.world.transcript()));
}

async fn apply(stage: &Stage, name: &str, text: &str) -> Result<Outcome, Error> {
    let (bootstrapper, name) = (stage.bootstrapper().await, service(name));
    let applied =
        bootstrapper.apply_service(stage.declaration.id, ServiceClass::Application, &name, text);
    let within = tokio::time::timeout(Duration::from_hours(1), applied).await;
    within.unwrap_or_else(|_| panic!("{}", stage.world.transcript()))
}

const CHAT: &str = "
image: debian:bookworm-slim
command: [sleep, infinity]
depends_on: {db: {condition: service_healthy}}
volumes: ['chat-data:/data']
expose: ['80']
";

#[tokio::test(start_paused = true)]
async fn an_application_is_added_replaced_and_removed() {
    let mut stage = running(92).await;
    let api = stage.api().await;
    let class = ServiceClass::Application;
    let chat = service("chat");
    let plan = api.plan_service(class, &chat, CHAT).await.unwrap();
    assert!(
        plan.steps
            .iter()
            .any(|step| step.action.to_string().contains("chat-1"))
    );
    assert_eq!(ids(&stage).await, [""; 0], "a plan changed something");
    let chats = async || {
        let services = stage.api().await.services().await.unwrap();
        let found = services.into_iter().find(|one| one.name == chat);
        found.map(|one| {
            let instances = one.instances.iter();
            let ready = instances.filter(|one| one.state == InstanceStateV1::Ready);
            (one.class, ready.count())
        })
    };
    for _ in 0..2 {
        let outcome = apply(&stage, "chat", CHAT).await.unwrap();
        assert_eq!(outcome.failures, []);
        assert_eq!(chats().await, Some((class, 1)));
        stage.up().await.unwrap();
        assert_eq!(ids(&stage).await, ["chat.added"]);
    }
    // Added services are scaled like others, and replaced by another text.
    change(&stage, "chat", Scale(3)).await.unwrap();
    let second = CHAT.replace("infinity", "1000000");
    apply(&stage, "chat", &second).await.unwrap();
    assert_eq!(chats().await, Some((class, 3)));
    assert_eq!(ids(&stage).await, ["chat.replicas", "chat.added"]);
    let generation = api.apply_service(class, &chat, &second).await.unwrap();
    assert!(!generation.changed);
    change(&stage, "chat", Stop).await.unwrap();
    assert_eq!(chats().await, Some((class, 0)));
    stage.up().await.unwrap();
    change(&stage, "chat", Start).await.unwrap();
    assert_eq!(chats().await, Some((class, 3)));

    let other = api.remove_service(ServiceClass::Model, "chat").await;
    assert!(matches!(other, Err(Error::NotFound { .. })), "{other:?}");
    let bootstrapper = stage.bootstrapper().await;
    let id = stage.declaration.id;
    bootstrapper
        .remove_service(id, class, "chat")
        .await
        .unwrap();
    assert_eq!(chats().await, None);
    assert_eq!(ids(&stage).await, [""; 0]);
    assert_eq!(ready(&stage).await, counts(1, 2));

    // The files take a service over.
    apply(&stage, "chat", CHAT).await.unwrap();
    let mut declared = stage.declaration.services[&service("db")].clone();
    declared.name = chat.clone();
    stage.declaration.services.insert(chat.clone(), declared);
    stage.up().await.unwrap();
    assert_eq!(ids(&stage).await, [""; 0]);
    let in_files = apply(&stage, "chat", CHAT).await.unwrap_err();
    assert!(
        in_files
            .to_string()
            .contains("declared in the Compose file"),
        "{in_files}"
    );
}

#[tokio::test(start_paused = true)]
async fn wrong_services_are_rejected() {
    let mut stage = Stage::new(93).await;
    publish(&mut stage);
    stage.up().await.unwrap();
    for (text, why) in [
        ("", "the service has no image"),
        ("[]", "this is not a service"),
        ("image: [", "invalid YAML"),
        ("imag: x", "unknown key"),
        ("{image: x, depends_on: [dbb]}", "dbb"),
        ("{image: x, depends_on: [chat]}", "depend on each other"),
        ("{image: x, env_file: /etc/passwd}", "files cannot be read"),
        (
            "{image: x, label_file: /etc/passwd}",
            "files cannot be read",
        ),
        ("{build: .}", "files cannot be read"),
        ("{image: x, secrets: [key]}", "files cannot be read"),
        ("{image: x, volumes: ['./etc:/x']}", "files cannot be read"),
        (
            "{image: x, volumes: [{type: bind, source: etc/x, target: /x}]}",
            "files cannot be read",
        ),
        (
            "{image: x, security_opt: ['seccomp=/etc/passwd']}",
            "files cannot be read",
        ),
        (
            "{image: x, security_opt: ['seccomp:/etc/passwd']}",
            "files cannot be read",
        ),
        ("{image: x, x-lifecycle: {code: api}}", "cannot be built"),
        (
            "{image: x, x-lifecycle: {class: model}}",
            "the request is for the class application",
        ),
        (
            "{image: x, deploy: {replicas: 2}, network_mode: 'service:db'}",
            "same number",
        ),
        ("{image: x, ports: ['22:22']}", "22"),
        ("{image: x, scale: 2, ports: ['5432:80']}", "5432"),
        (
            "{image: x, volumes: [{type: bind, source: conf, target: /x}]}",
            "files cannot be read",
        ),
        (
            "{image: x, links: ['db:database']}",
            "names of other services",
        ),
        ("{image: x, depends_on: [monitoring]}", "monitoring"),
    ] {
        let error = apply(&stage, "chat", text).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{text}: {error:?}");
        assert!(error.to_string().contains(why), "{text}: {error}");
        assert!(!error.to_string().contains("root:"), "{text}: {error}");
    }
    // A character of several bytes.
    let odd = "{image: 'debian:bookworm-slim', security_opt: ['seccompé']}";
    let api = stage.api().await;
    drop(
        api.plan_service(ServiceClass::Model, &service("odd"), odd)
            .await,
    );
    let needed = apply(&stage, "chat", "image: debian:bookworm-slim").await;
    needed.unwrap();
    let user = "{image: 'debian:bookworm-slim', depends_on: [chat]}";
    apply(&stage, "user", user).await.unwrap();
    let api = stage.api().await;
    let kept = api.remove_service(ServiceClass::Application, "chat").await;
    assert!(matches!(kept, Err(Error::Conflict { .. })), "{kept:?}");
    let in_files = api.remove_service(ServiceClass::Microservice, "db").await;
    assert!(
        matches!(in_files, Err(Error::Invalid { .. })),
        "{in_files:?}"
    );
}

/// Crashes the manager before and after each effect of the addition of a node.
#[tokio::test(start_paused = true)]
async fn a_node_is_added_once_although_the_manager_crashes() {
    let whole = running(91).await;
    let begin = whole.world.effects().len();
    add(&whole, "n3", Some("n2")).await.unwrap();
    let end = whole.world.effects().len();
    assert!(end >= begin + 4, "{}", whole.world.transcript());
    for effect in begin + 1..=end {
        for edge in [Edge::Before, Edge::After] {
            let stage = running(91).await;
            let number = u64::try_from(effect).unwrap();
            stage.world.faults().crash_at(number, edge);
            tokio::select! {
                biased;
                () = stage.world.crashed() => {}
                ended = add(&stage, "n3", Some("n2")) => {
                    panic!("effect {effect} {edge:?} did not occur: {ended:?}");
                }
            }
            stage.world.next_incarnation();
            let context = || format!("effect {effect} {edge:?}\n{}", stage.world.transcript());
            // The new manager may not lead yet.
            while add(&stage, "n3", Some("n2")).await.is_err() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            let agents = stage.agents(&node("n3")).len();
            assert_eq!(agents, 1, "{}", context());
            let effects = stage.world.effects();
            let provisions = effects.iter().filter(|one| {
                one.node == Some(node("n3"))
                    && one.what == "provision"
                    && one.outcome == EffectOutcome::Changed
            });
            assert_eq!(provisions.count(), 1, "{}", context());
            assert_eq!(stage.world.violations(), [], "{}", context());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn impossible_changes_are_rejected() {
    let stage = running(85).await;
    let unknown = change(&stage, "apy", Stop).await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound { .. }), "{unknown:?}");
    assert!(unknown.hint().unwrap().contains("`api`"), "{unknown:?}");
    let many = change(&stage, "api", Scale(u16::MAX)).await.unwrap_err();
    assert!(matches!(many, Error::Invalid { .. }), "{many:?}");
    assert_eq!(ids(&stage).await, [""; 0]);
    assert_eq!(ready(&stage).await, counts(1, 2));
}

/// An added service that the files make impossible: `up` must be rejected, because no manager could
/// start with such a declaration.
#[tokio::test(start_paused = true)]
async fn up_is_rejected_if_an_override_makes_the_declaration_impossible() {
    let mut stage = running(94).await;
    let text = "{image: 'debian:bookworm-slim', depends_on: [api]}";
    apply(&stage, "chat", text).await.unwrap();
    let api = stage.declaration.services.get_mut(&service("api")).unwrap();
    api.starts = Starts::Last;
    let rejected = stage.up().await.unwrap_err();
    assert!(
        rejected.hint().unwrap().contains("chat.added"),
        "{rejected:?}"
    );
    stage.world.next_incarnation();
    let api = stage.declaration.services.get_mut(&service("api")).unwrap();
    api.starts = Starts::InOrder;
    assert_eq!(stage.up().await.unwrap().failures, []);
    assert_eq!(ids(&stage).await, ["chat.added"]);
}

#[tokio::test(start_paused = true)]
async fn an_added_service_keeps_the_number_of_the_service_that_it_joins() {
    let mut stage = running(95).await;
    let text = "{image: 'debian:bookworm-slim', network_mode: 'service:api'}";
    let count = async |stage: &Stage| {
        let services = stage.api().await.services().await.unwrap();
        let of = |name: &str| services.iter().find(|one| one.name.as_str() == name);
        (
            of("api").unwrap().instances.len(),
            of("side").unwrap().instances.len(),
        )
    };
    apply(&stage, "side", text).await.unwrap();
    assert_eq!(count(&stage).await, (2, 2));
    change(&stage, "api", Scale(3)).await.unwrap();
    apply(&stage, "side", text).await.unwrap();
    assert_eq!(count(&stage).await, (3, 3));
    stage
        .declaration
        .services
        .get_mut(&service("api"))
        .unwrap()
        .replicas = 1;
    stage.up().await.unwrap();
    assert_eq!(count(&stage).await, (1, 1));
    assert_eq!(ids(&stage).await, ["side.added"]);
}

/// Crashes the manager before and after each effect of a change. The client then repeats the request.
#[tokio::test(start_paused = true)]
async fn a_change_is_made_once_although_the_manager_crashes() {
    for (seed, wanted, expected) in [(86, Scale(4), counts(1, 4)), (87, Stop, counts(1, 0))] {
        let whole = running(seed).await;
        let begin = whole.world.effects().len();
        change(&whole, "api", wanted).await.unwrap();
        let end = whole.world.effects().len();
        assert!(end >= begin + 2, "{}", whole.world.transcript());
        for effect in begin + 1..=end {
            for edge in [Edge::Before, Edge::After] {
                let stage = running(seed).await;
                let number = u64::try_from(effect).unwrap();
                stage.world.faults().crash_at(number, edge);
                tokio::select! {
                    biased;
                    () = stage.world.crashed() => {}
                    ended = change(&stage, "api", wanted) => {
                        panic!("effect {effect} {edge:?} did not occur: {ended:?}");
                    }
                }
                stage.world.next_incarnation();
                let context = || format!("effect {effect} {edge:?}\n{}", stage.world.transcript());
                // The new manager may not lead yet.
                while change(&stage, "api", wanted).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                assert_eq!(ready(&stage).await, expected, "{}", context());
                assert_eq!(ids(&stage).await.len(), 1, "{}", context());
                assert_eq!(stage.world.violations(), [], "{}", context());
            }
        }
    }
}
