//! Tests that earlier revisions are listed and restored, that a rollback keeps the current secrets and
//! all nodes, and that it happens once although the manager crashes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use lifecycle_core::Error;
use lifecycle_core::api::wire::{ChangeKindV1, NewNodeV1, RevisionV1, SecretV1};
use lifecycle_core::bootstrap::Outcome;
use lifecycle_core::model::{
    EventKind, FileContents, FileTree, Generation, ImageSource, NodeName, ServiceClass,
    ServiceName, ShippedFile, ShippedMount, Subject,
};
use lifecycle_core::platform::{OverrideChange, RestoredSecrets};
use lifecycle_core::registry::REVISIONS_KEPT;
use lifecycle_core::secret::Sensitive;
use lifecycle_core::sim::{Edge, Violation};

use crate::is_overlap;
use crate::stage::Stage;

use RestoredSecrets::{Current, Earlier};

const SECRET: &str = "/run/secrets/key";

fn service(name: &str) -> ServiceName {
    ServiceName::try_from(name).unwrap()
}

/// Sets the image, two variables and a secret of `db`. The variable `PASSWORD` is a secret.
fn set(stage: &mut Stage, image: &str, level: &str, secret: &str) {
    stage.world.publish_image(image);
    let db = stage.declaration.services.get_mut(&service("db")).unwrap();
    db.source = ImageSource::Image(image.into());
    let environment = &mut db.container.environment;
    environment.insert("LEVEL".into(), Sensitive::new(level));
    environment.insert("PASSWORD".into(), Sensitive::new(secret));
    db.secrets.variables = ["PASSWORD".to_owned()].into();
    db.container.files = vec![ShippedMount {
        target: SECRET.into(),
        tree: FileTree::File(ShippedFile {
            mode: 0o400,
            uid: 0,
            gid: 0,
            contents: FileContents::new(secret.as_bytes().to_vec()),
        }),
        chunks: Vec::new(),
    }];
    db.secrets.files = [SECRET.to_owned()].into();
}

/// Returns the image, the variables and the secret of the running container of `db`.
fn running(stage: &Stage) -> (String, BTreeMap<String, String>, String) {
    let mut nodes = stage.declaration.nodes.keys();
    let spec = nodes.find_map(|node| {
        let mut containers = stage.world.containers(node).into_iter();
        let db = containers.find(|container| container.name.contains("-db-1-"))?;
        stage.world.spec_of(node, &db.name)
    });
    let spec = spec.unwrap();
    let variables = spec.template.environment.iter();
    let variables = variables.map(|(name, value)| (name.clone(), value.expose().to_owned()));
    let secret = spec.template.files.first().unwrap();
    let FileTree::File(file) = &secret.tree else {
        panic!("{secret:?} is no file");
    };
    let FileContents::Text(secret) = &file.contents else {
        panic!("{:?} is no text", file.contents);
    };
    let variables = variables.collect();
    (spec.image, variables, secret.expose().to_owned())
}

fn expected(image: &str, level: &str, secret: &str) -> (String, BTreeMap<String, String>, String) {
    let variables = [("LEVEL", level), ("PASSWORD", secret)];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    (image.to_owned(), variables.into(), secret.to_owned())
}

async fn roll_back(stage: &Stage, to: u64, secrets: RestoredSecrets) -> Result<Outcome, Error> {
    let bootstrapper = stage.bootstrapper().await;
    let done = bootstrapper.rollback(stage.declaration.id, Generation(to), secrets);
    let within = tokio::time::timeout(Duration::from_hours(1), done).await;
    within.unwrap_or_else(|_| panic!("{}", stage.world.transcript()))
}

/// Returns the violations apart from updates that start the new container first.
fn unintended(stage: &Stage) -> Vec<Violation> {
    let violations = stage.world.violations().into_iter();
    violations.filter(|one| !is_overlap(one)).collect()
}

async fn revisions(stage: &Stage) -> Vec<RevisionV1> {
    stage.api().await.revisions().await.unwrap()
}

/// Starts a platform with two revisions of `db`.
async fn changed(seed: u64) -> Stage {
    let mut stage = Stage::new(seed).await;
    set(&mut stage, "db:1", "info", "leaked");
    stage.up().await.unwrap();
    set(&mut stage, "db:2", "debug", "renewed");
    stage.up().await.unwrap();
    stage
}

#[tokio::test(start_paused = true)]
async fn a_rollback_restores_services_but_not_secrets() {
    let stage = changed(101).await;
    let api = stage.api().await;
    assert_eq!(running(&stage), expected("db:2", "debug", "renewed"));
    let kept = [(Some("PASSWORD"), None), (None, Some(SECRET))];
    let is_kept = |found: &[SecretV1]| {
        let found = found.iter();
        found
            .map(|kept| (kept.variable.as_deref(), kept.file.as_deref()))
            .eq(kept)
    };
    let planned = api.plan_rollback(Generation(1), Current).await.unwrap();
    assert!(is_kept(&planned.kept), "{:?}", planned.kept);
    assert_eq!(planned.without_current, []);
    let steps = planned.plan.to_string();
    assert!(steps.contains("db-1"), "{steps}");
    assert_eq!(revisions(&stage).await.len(), 2, "a plan changed something");

    let cursor = api.last_event().await.unwrap();
    let outcome = roll_back(&stage, 1, Current).await.unwrap();
    assert_eq!(outcome.failures, []);
    assert_eq!(running(&stage), expected("db:1", "info", "renewed"));
    // A repeated request changes nothing.
    let again = api.rollback(Generation(1), Current).await.unwrap();
    assert!(!again.changed && again.generation == 3, "{again:?}");
    let events = api.events(cursor).await.unwrap().events;
    let audits = events
        .iter()
        .filter(|one| one.event.kind == EventKind::Audit);
    let audits: Vec<_> = audits.map(|one| &one.event).collect();
    assert_eq!(audits.len(), 1, "{audits:?}");
    assert_eq!(audits[0].data["request"], "rollback to 1");

    roll_back(&stage, 1, Earlier).await.unwrap();
    assert_eq!(running(&stage), expected("db:1", "info", "leaked"));
    roll_back(&stage, 2, Earlier).await.unwrap();
    assert_eq!(running(&stage), expected("db:2", "debug", "renewed"));

    let listed = revisions(&stage).await;
    let requests: Vec<_> = { listed.iter() }
        .map(|one| (one.generation, one.request.as_deref().unwrap()))
        .collect();
    let requested = [
        (1, "apply"),
        (2, "apply"),
        (3, "rollback to 1"),
        (4, "rollback to 1"),
        (5, "rollback to 2"),
    ];
    assert_eq!(requests, requested);
    let changes: Vec<String> = listed[1].changes.iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["db (image, environment, files)"]);
    let first: Vec<String> = listed[0].changes.iter().map(ToString::to_string).collect();
    let added = ["api added", "db added", "monitoring added", "node n2 added"];
    assert_eq!(first, added);
    // Nothing that is listed contains a secret.
    let text = serde_json::to_string(&(&listed, &planned.kept, &events)).unwrap();
    assert!(
        !text.contains("leaked") && !text.contains("renewed"),
        "{text}"
    );
    assert_eq!(unintended(&stage), []);

    // The files are applied by the next `up`.
    stage.up().await.unwrap();
    assert_eq!(revisions(&stage).await.len(), 5);
}

/// A value that may be a secret and has no current value is restored, and reported.
#[tokio::test(start_paused = true)]
async fn restored_secrets_are_reported() {
    let mut stage = changed(106).await;
    stage.declaration.services.remove(&service("api"));
    let db = stage.declaration.services.remove(&service("db"));
    stage.up().await.unwrap();
    let api = stage.api().await;
    let planned = api.plan_rollback(Generation(2), Current).await.unwrap();
    assert_eq!(planned.kept, []);
    let named: Vec<String> = planned
        .without_current
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(named, ["PASSWORD of db", "/run/secrets/key of db"]);
    // Also if only the variable is gone.
    let mut db = db.unwrap();
    db.container.environment.remove("PASSWORD");
    stage.declaration.services.insert(db.name.clone(), db);
    stage.up().await.unwrap();
    let done = stage
        .api()
        .await
        .rollback(Generation(2), Current)
        .await
        .unwrap();
    let named: Vec<String> = done
        .without_current
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        (named, done.kept),
        (vec!["PASSWORD of db".to_owned()], vec![])
    );
}

#[tokio::test(start_paused = true)]
async fn a_rollback_keeps_nodes_and_restores_what_was_requested_at_run_time() {
    let stage = Stage::new(102).await;
    stage.up().await.unwrap();
    let (api, bootstrapper) = (stage.api().await, stage.bootstrapper().await);
    let (id, web) = (stage.declaration.id, service("api"));
    let scaled = bootstrapper.override_service(id, &web, OverrideChange::Scale(3));
    scaled.await.unwrap();
    let before = revisions(&stage).await.last().unwrap().generation;
    let n3 = NodeName::try_from("n3").unwrap();
    let node = NewNodeV1::new(n3.clone(), None);
    bootstrapper.add_node(id, &node).await.unwrap();
    let (class, chat) = (ServiceClass::Application, service("chat"));
    let text = "{image: 'debian:bookworm-slim', expose: ['80']}";
    let added = bootstrapper.apply_service(id, class, &chat, text);
    added.await.unwrap();
    let with_chat = revisions(&stage).await.last().unwrap().clone();
    assert_eq!(with_chat.subject, Some(Subject::Service(chat.clone())));
    assert_eq!(with_chat.changes[0].kind, ChangeKindV1::Added);
    let stopped = bootstrapper.override_service(id, &web, OverrideChange::Stop);
    stopped.await.unwrap();

    let ids = async || {
        let overrides = api.overrides().await.unwrap().into_iter();
        overrides.map(|one| one.id).collect::<Vec<_>>()
    };
    roll_back(&stage, before, Current).await.unwrap();
    assert_eq!(ids().await, ["api.replicas", "n3.added"]);
    assert!(stage.world.node(&n3).is_some(), "a node was deleted");
    let services = api.services().await.unwrap();
    let of = |name: &str| services.iter().find(|one| one.name.as_str() == name);
    assert_eq!(of("api").unwrap().instances.len(), 3);
    assert!(of("chat").is_none());
    // An added service comes back, and a later `up` keeps it.
    roll_back(&stage, with_chat.generation, Current)
        .await
        .unwrap();
    stage.up().await.unwrap();
    assert_eq!(ids().await, ["api.replicas", "chat.added", "n3.added"]);
    assert_eq!(unintended(&stage), []);
}

#[tokio::test(start_paused = true)]
async fn a_bad_declaration_is_rolled_back() {
    let mut stage = changed(103).await;
    stage.command("db", "exit 3");
    assert_ne!(stage.up().await.unwrap().failures, []);
    stage.world.next_incarnation();
    let outcome = roll_back(&stage, 2, Current).await.unwrap();
    assert_eq!(outcome.failures, []);
    assert_eq!(running(&stage), expected("db:2", "debug", "renewed"));
}

#[tokio::test(start_paused = true)]
async fn only_the_latest_revisions_can_be_restored() {
    let stage = changed(104).await;
    let api = stage.api().await;
    for number in 0..REVISIONS_KEPT {
        let replicas = u16::try_from(number % 2 + 3).unwrap();
        let change = OverrideChange::Scale(replicas);
        assert!(api.override_service("api", change).await.unwrap().changed);
    }
    let stored = revisions(&stage).await;
    assert_eq!(stored.len() as u64, REVISIONS_KEPT);
    for to in [0, 1, 2, 1000, u64::MAX] {
        let unknown = api.rollback(Generation(to), Current).await.unwrap_err();
        assert!(matches!(unknown, Error::NotFound { .. }), "{to}: {unknown}");
        let unknown = api
            .plan_rollback(Generation(to), Current)
            .await
            .unwrap_err();
        assert!(matches!(unknown, Error::NotFound { .. }), "{to}: {unknown}");
    }
    let oldest = stored[0].generation;
    roll_back(&stage, oldest, Current).await.unwrap();
    assert_eq!(running(&stage), expected("db:2", "debug", "renewed"));
}

/// Crashes the manager before and after each effect of a rollback. The client then repeats the request.
#[tokio::test(start_paused = true)]
async fn a_rollback_happens_once_although_the_manager_crashes() {
    let whole = changed(105).await;
    let begin = whole.world.effects().len();
    roll_back(&whole, 1, Current).await.unwrap();
    let end = whole.world.effects().len();
    assert!(end >= begin + 2, "{}", whole.world.transcript());
    for effect in begin + 1..=end {
        for edge in [Edge::Before, Edge::After] {
            let stage = changed(105).await;
            let number = u64::try_from(effect).unwrap();
            stage.world.faults().crash_at(number, edge);
            tokio::select! {
                biased;
                () = stage.world.crashed() => {}
                ended = roll_back(&stage, 1, Current) => {
                    panic!("effect {effect} {edge:?} did not occur: {ended:?}");
                }
            }
            stage.world.next_incarnation();
            let context = || format!("effect {effect} {edge:?}\n{}", stage.world.transcript());
            // The new manager may not lead yet.
            while roll_back(&stage, 1, Current).await.is_err() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            let found = running(&stage);
            assert_eq!(found, expected("db:1", "info", "renewed"), "{}", context());
            assert_eq!(revisions(&stage).await.len(), 3, "{}", context());
            assert_eq!(unintended(&stage), [], "{}", context());
        }
    }
}
