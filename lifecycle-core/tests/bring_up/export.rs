//! Tests that `up` of exported files changes nothing that runs, and drops the overrides that the files
//! now declare.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;

use lifecycle_core::api::wire::{ExportV1, NewMachineV1, NewNodeV1};
use lifecycle_core::code::DirectoryStore;
use lifecycle_core::model::{
    NodeName, NodeRequest, NodeSpec, PlatformId, ServiceClass, ServiceName,
};
use lifecycle_core::platform::{Declaration, OverrideChange, Sources, export, find, load};
use lifecycle_core::secret::Sensitive;

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

/// A platform of machines, to which another machine is added.
#[tokio::test(start_paused = true)]
async fn up_of_exported_files_keeps_an_adopted_machine() {
    let mut stage = Stage::new(662).await;
    let id = stage.declaration.id;
    let directory = tempfile::TempDir::new().unwrap();
    let directory = directory.path();
    let table = |name: &str| {
        let machine = NodeSpec::new(node(name));
        stage.world.add_machine(&machine);
        format!("[nodes.{name}]\naddress = \"{name}.example\"\nuser = \"ops\"\n")
    };
    let tables = ["n1", "n2"].map(table).concat();
    table("n3");
    let platform = format!("name = \"demo\"\n[cloud]\nprovider = \"hosts\"\n{tables}");
    std::fs::write(directory.join("compose.yaml"), COMPOSE).unwrap();
    std::fs::write(directory.join("platform.toml"), platform).unwrap();
    stage.declaration = declared(directory, id).await;
    stage.up().await.unwrap();
    let bootstrapper = stage.bootstrapper().await;
    let mut machine = NewMachineV1::new(node("n3"), "n3.example".into(), "ops".into());
    machine.password = Some(Sensitive::new("ops-password"));
    machine.private_address = Some([10, 0, 0, 3].into());
    machine.port = Some(2222);
    machine.labels = [("zone".to_owned(), "b".to_owned())].into();
    let (_, host_keys) = bootstrapper.adopt_node(id, &machine).await.unwrap();
    stage.up().await.unwrap();
    // The hand-over of the manager contains the machines, so its container is replaced.
    let services = |stage: &Stage| {
        let mut running = running(stage);
        running.retain(|one| !one.contains("-lifecycle-manager-"));
        running
    };
    let before = services(&stage);

    let found_overrides = bootstrapper.export(id).await.unwrap();
    let text = serde_json::to_string(&found_overrides).unwrap();
    let received: ExportV1 = serde_json::from_str(&text).unwrap();
    let exported = export(&found(directory), id, received.into(), true).await;
    let exported = exported.unwrap();
    assert_eq!(exported.left, []);
    for file in &exported.files {
        std::fs::write(&file.path, file.text.expose()).unwrap();
    }
    let text = std::fs::read_to_string(directory.join("platform.toml")).unwrap();
    assert!(text.contains(&host_keys[0]), "{text}");
    assert!(!text.contains("password"), "{text}");
    stage.declaration = declared(directory, id).await;
    let host = stage.declaration.cloud.host(&node("n3")).unwrap();
    assert_eq!((host.port, &host.host_keys), (2222, &host_keys));

    let plan = stage.api().await.plan(&stage.declaration).await.unwrap();
    assert_eq!(plan.steps, []);
    for _ in 0..2 {
        assert_eq!(stage.removed_by_up().await, []);
        stage.up().await.unwrap();
        assert_eq!(services(&stage), before);
        assert_eq!(stage.api().await.overrides().await.unwrap(), []);
    }
    stage.down().await.unwrap();
    assert_eq!(stage.leftovers(), ["volume data on n1"]);
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
