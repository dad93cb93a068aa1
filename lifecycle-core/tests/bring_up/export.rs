//! Tests that `up` of exported files changes nothing that runs, and drops the overrides that the files
//! now declare.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;

use lifecycle_core::api::wire::{ExportV1, NewNodeV1};
use lifecycle_core::code::DirectoryStore;
use lifecycle_core::model::{NodeName, NodeRequest, PlatformId, ServiceClass, ServiceName};
use lifecycle_core::platform::{Declaration, OverrideChange, Sources, export, find, load};

use crate::stage::Stage;

const COMPOSE: &str = "services:\n  db:\n    image: debian:bookworm-slim\n    volumes: [data:/data]\n\
                       \x20 api: # two replicas\n    image: debian:bookworm-slim\n    scale: 2\n\
                       volumes:\n  data:\n";
const PLATFORM: &str = "name = \"demo\"\n\n[nodes.n1]\n\n[nodes.n2]\nimage = \"bare\"\n";
const CHAT: &str = r#"{"image": "debian:bookworm-slim", "volumes": ["chat-data:/data"],
                       "environment": {"A": "$B", "C": null}, "depends_on": ["db"]}"#;

fn service(name: &str) -> ServiceName {
    ServiceName::try_from(name).unwrap()
}

fn node(name: &str) -> NodeName {
    NodeName::try_from(name).unwrap()
}

fn found(directory: &Path) -> Sources {
    let mut sources = find(directory, &[]).unwrap();
    sources.environment.clear();
    sources
}

async fn declared(directory: &Path, id: PlatformId) -> Declaration {
    let code = DirectoryStore::new(directory.to_owned());
    let loaded = load(&found(directory), id, &code).await;
    loaded
        .unwrap_or_else(|problems| panic!("{problems}"))
        .declaration
}

/// Returns the containers on all nodes, with their ids and start times, and when each node booted.
fn running(stage: &Stage) -> BTreeSet<String> {
    let names = ["n1", "n2", "n3"].map(node);
    let nodes = names.iter().map(|name| {
        let machine = stage.world.node(name).unwrap();
        format!("{name}: {:?}", machine.boot_id)
    });
    let containers = names.iter().flat_map(|name| stage.world.containers(name));
    let containers = containers.map(|one| format!("{} {} {:?}", one.name, one.id, one.started_at));
    containers.chain(nodes).collect()
}

#[tokio::test(start_paused = true)]
async fn up_of_exported_files_changes_nothing_that_runs() {
    let mut stage = Stage::new(661).await;
    let id = stage.declaration.id;
    let directory = tempfile::TempDir::new().unwrap();
    let directory = directory.path();
    std::fs::write(directory.join("compose.yaml"), COMPOSE).unwrap();
    std::fs::write(directory.join("platform.toml"), PLATFORM).unwrap();
    stage.declaration = declared(directory, id).await;
    stage.up().await.unwrap();
    let bootstrapper = stage.bootstrapper().await;
    let new = NewNodeV1::new(node("n3"), Some("n2".to_owned()));
    bootstrapper.add_node(id, &new).await.unwrap();
    let (class, chat) = (ServiceClass::Application, service("chat"));
    bootstrapper
        .apply_service(id, class, &chat, CHAT)
        .await
        .unwrap();
    for (name, change) in [
        ("api", OverrideChange::Scale(4)),
        ("chat", OverrideChange::Scale(2)),
        ("db", OverrideChange::Stop),
    ] {
        bootstrapper
            .override_service(id, &service(name), change)
            .await
            .unwrap();
    }
    let api = stage.api().await;
    let cordoned = ["n2".to_owned()];
    api.change_nodes(&cordoned, NodeRequest::Cordon)
        .await
        .unwrap();
    stage.up().await.unwrap();
    let before = running(&stage);

    let found_overrides = bootstrapper.export(id).await.unwrap();
    let text = serde_json::to_string(&found_overrides).unwrap();
    let received: ExportV1 = serde_json::from_str(&text).unwrap();
    assert_eq!(received, found_overrides);
    let exported = export(&found(directory), id, received.into(), true).await;
    let exported = exported.unwrap();
    for file in &exported.files {
        std::fs::write(&file.path, file.text.expose()).unwrap();
    }
    let written: Vec<&String> = exported.files.iter().flat_map(|f| &f.overrides).collect();
    let expected = ["chat.added", "api.replicas", "chat.replicas", "n3.added"];
    assert_eq!(written, expected);
    stage.declaration = declared(directory, id).await;
    assert!(stage.declaration.nodes.contains_key(&node("n3")));
    assert_eq!(stage.declaration.services[&chat].replicas, 2);

    let plan = api.plan(&stage.declaration).await.unwrap();
    assert_eq!(plan.steps, []);
    for _ in 0..2 {
        assert_eq!(stage.removed_by_up().await, []);
        stage.up().await.unwrap();
        assert_eq!(running(&stage), before);
        let left = api.overrides().await.unwrap().into_iter();
        let left: Vec<String> = left.map(|one| one.id).collect();
        assert_eq!(left, ["db.stopped", "n2.scheduling"]);
    }
    assert_eq!(stage.world.violations(), []);
}
