//! Tests that mounted files reach the nodes as chunks, which are sent and stored apart from the
//! declaration.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::Duration;

use lifecycle_core::Error;
use lifecycle_core::host::{HostCommand, NodeConnector as _};
use lifecycle_core::model::{Chunk, ChunkDigest};
use lifecycle_core::platform::OverrideChange;
use lifecycle_core::reconcile::node_directory::node_directory;
use lifecycle_core::registry::{REVISIONS_KEPT, Registry as _};
use lifecycle_core::runtime::Owner;
use lifecycle_core::secret::Sensitive;
use lifecycle_core::sim::Edge;

use crate::stage::Stage;

const CENTRAL: &str = "postgres://lifecycle@db/registry";

/// Contents without repeated chunks.
fn contents(size: usize, start: u64) -> Vec<u8> {
    let numbers = (start..).flat_map(|number| format!("{number}\n").into_bytes());
    numbers.take(size).collect()
}

/// Returns the contents of the mounted files `data` on all nodes, by path.
fn mounted(stage: &Stage) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for node in stage.declaration.nodes.keys() {
        let files = stage.world.files(node).into_iter();
        for path in files.filter(|path| path.contains("/files/")) {
            let (_, contents) = stage.world.file(node, &path).unwrap();
            found.push((path, contents.to_vec()));
        }
    }
    found
}

#[tokio::test(start_paused = true)]
async fn a_large_mount_is_sent_apart_from_the_declaration() {
    let mut stage = Stage::new(31).await;
    let data = contents(5 * Chunk::SIZE / 2, 0);
    stage.mount("db", &data);
    let outcome = stage.up().await.unwrap();
    assert_eq!(outcome.failures, [], "{}", stage.world.transcript());
    let files = mounted(&stage);
    let [(path, on_node)] = files.as_slice() else {
        panic!("only the files of db-1 must remain: {:?}", files.len());
    };
    assert!(path.ends_with("/0/data"), "{path}");
    assert!(*on_node == data, "the contents differ");

    // The copy of the declaration on the manager's node contains no contents.
    let manager_node = &stage.declaration.manager.node;
    let paths = stage.world.files(manager_node);
    let handover = paths.iter().find(|path| path.ends_with("declaration.json"));
    let (_, handover) = stage.world.file(manager_node, handover.unwrap()).unwrap();
    assert!(handover.len() < 20_000, "{} bytes", handover.len());

    let before = stage.containers();
    let effects = stage.world.effects().len();
    stage.up().await.unwrap();
    assert_eq!(stage.containers(), before);
    let all = stage.world.effects();
    assert!(!all[effects..].iter().any(|e| e.what.contains("/files/")));
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_replaces_only_the_services_that_mount_it() {
    let mut stage = Stage::new(32).await;
    let data = contents(2 * Chunk::SIZE, 0);
    stage.mount("db", &data);
    stage.mount("monitoring", &data);
    stage.up().await.unwrap();
    let before = stage.containers();
    // Only the second chunk changes.
    let changed = [&data[..Chunk::SIZE], b"changed"].concat();
    stage.chunks = lifecycle_core::model::Chunks::default();
    stage.mount("monitoring", &changed);
    let outcome = stage.up().await.unwrap();
    assert_eq!(outcome.failures, [], "{}", stage.world.transcript());
    let after = stage.containers();
    assert_eq!(after.len(), before.len());
    assert_eq!(before.intersection(&after).count(), before.len() - 1);
    let files = mounted(&stage);
    let found: BTreeSet<&[u8]> = files.iter().map(|(_, data)| &data[..]).collect();
    assert!(found == BTreeSet::from([&data[..], &changed[..]]));
    assert_eq!(files.len(), 2, "the files of the old container remain");
}

#[tokio::test(start_paused = true)]
async fn a_declaration_without_its_chunks_is_rejected() {
    let mut stage = Stage::new(33).await;
    stage.mount("db", &contents(Chunk::SIZE + 1, 0));
    let chunks = std::mem::take(&mut stage.chunks);
    let error = stage.up().await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    let api = stage.api().await;
    let error = api.apply(&stage.declaration).await.unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
    assert!(error.to_string().contains("2 chunks"), "{error}");
    assert_eq!(api.platform().await.unwrap().generation, 0);

    // Some of the chunks are not enough.
    let mut digests = stage.declaration.chunks().into_iter();
    let first = chunks.get(&digests.next().unwrap()).unwrap();
    api.put_chunk(first).await.unwrap();
    let declared = stage.declaration.chunks();
    let missing = api.missing_chunks(&declared).await.unwrap();
    assert_eq!(missing, digests.collect::<BTreeSet<ChunkDigest>>());
    assert!(api.apply(&stage.declaration).await.is_err());

    stage.chunks = chunks;
    let outcome = stage.up().await.unwrap();
    assert_eq!(outcome.failures, [], "{}", stage.world.transcript());
}

#[tokio::test(start_paused = true)]
async fn interrupted_requests_and_transfers_are_repeated() {
    let mut stage = Stage::new(37).await;
    let data = contents(3 * Chunk::SIZE, 0);
    stage.mount("db", &data);
    let lost = || Error::interrupted("the connection", None);
    for call in [
        "missing_chunks",
        "put_chunk",
        "put_chunk",
        "manager: apply",
        "/files/",
    ] {
        stage.world.faults().fail_next(call, lost());
    }
    let outcome = stage.up().await.unwrap();
    assert_eq!(outcome.failures, [], "{}", stage.world.transcript());
    let files = mounted(&stage);
    assert!(matches!(&*files, [(_, on_node)] if *on_node == data));
}

#[tokio::test(start_paused = true)]
async fn unused_chunks_are_deleted_later() {
    let mut stage = Stage::new(34).await;
    stage.mount("db", &contents(Chunk::SIZE, 0));
    stage.up().await.unwrap();
    let old = stage.declaration.chunks();
    stage.mount("db", &contents(Chunk::SIZE, 7));
    let new = stage.declaration.chunks();
    stage.up().await.unwrap();
    let node = &stage.declaration.manager.node;
    let registry = stage.managers.registry(node).unwrap();
    let missing = async |of: &BTreeSet<ChunkDigest>| registry.missing_chunks(of.clone()).await;
    tokio::time::sleep(Duration::from_hours(3)).await;
    // A rollback needs them while the revision is stored.
    assert_eq!(missing(&old).await.unwrap().len(), 0);
    let api = stage.api().await;
    for number in 0..REVISIONS_KEPT {
        let replicas = u16::try_from(number % 2 + 3).unwrap();
        let change = OverrideChange::Scale(replicas);
        assert!(api.override_service("api", change).await.unwrap().changed);
    }
    tokio::time::sleep(Duration::from_hours(3)).await;
    assert_eq!(missing(&old).await.unwrap(), old);
    assert_eq!(missing(&new).await.unwrap().len(), 0);
}

/// Removes a container and its files from its node.
async fn remove_with_files(stage: &Stage, name: &str) {
    let owner = Owner {
        id: stage.declaration.id,
        name: stage.declaration.name.clone(),
    };
    for node in stage.declaration.nodes.keys() {
        let node = stage.world.node(node).unwrap();
        let handle = stage.world.connector(&owner).connect(&node).await.unwrap();
        let containers = stage.world.containers(&node.name).into_iter();
        for container in containers.filter(|container| container.name.contains(name)) {
            let runtime = &handle.runtime;
            runtime.remove_container(&container.name).await.unwrap();
            let directory = node_directory(owner.id);
            let script = format!("rm -rf '{directory}/files/{}'", container.name);
            handle.host.exec(HostCommand::new(script)).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_registry_gets_the_chunks_with_the_next_up() {
    let mut stage = Stage::new(35).await;
    stage.registry.central = Some(Sensitive::new(CENTRAL));
    stage.mount("db", &contents(Chunk::SIZE + 5, 0));
    stage.up().await.unwrap();
    let before = stage.containers();
    stage.databases().lose(CENTRAL);
    stage.world.next_incarnation();
    // The manager continues with the declaration of the hand-over.
    let api = stage.api().await;
    while !api.platform().await.is_ok_and(|it| it.generation > 0) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let declared = stage.declaration.chunks();
    assert_eq!(api.missing_chunks(&declared).await.unwrap(), declared);
    assert_eq!(stage.containers(), before);

    // A container with mounts cannot be created again until the chunks are sent.
    remove_with_files(&stage, "-db-1-").await;
    let reported = async {
        loop {
            let events = api.events(0).await.unwrap().events.into_iter();
            let mut messages = events.map(|event| event.event.message);
            if messages.any(|message| message.contains("contents of the mounted files")) {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(5), reported)
        .await
        .unwrap_or_else(|_| panic!("{}", stage.world.transcript()));
    let outcome = stage.up().await.unwrap();
    assert_eq!(outcome.failures, [], "{}", stage.world.transcript());
    assert_eq!(stage.containers().len(), before.len());
    assert_eq!(mounted(&stage).len(), 1);
    let missing = api.missing_chunks(&declared).await.unwrap();
    assert_eq!(missing.len(), 0);
}

/// Crashes the bootstrapper and the manager together at each effect that concerns the files of a
/// container.
#[tokio::test(start_paused = true)]
async fn files_are_complete_after_a_crash_at_any_effect() {
    let data = contents(Chunk::SIZE + 1, 0);
    let whole = {
        let mut stage = Stage::new(36).await;
        stage.mount("db", &data);
        stage.up().await.unwrap();
        stage
    };
    let effects = whole.world.effects();
    let put = effects.iter().position(|e| e.what.contains("/files/"));
    let put = put.unwrap() as u64 + 1;
    // The search for the files, the archive, its unpacking, and the container.
    for effect in put - 1..=put + 2 {
        for edge in [Edge::Before, Edge::After] {
            let mut stage = Stage::new(36).await;
            stage.mount("db", &data);
            stage.world.faults().crash_at(effect, edge);
            tokio::select! {
                biased;
                () = stage.world.crashed() => {}
                ended = stage.up() => panic!("effect {effect} {edge:?} did not occur: {ended:?}"),
            }
            stage.world.next_incarnation();
            let outcome = stage.up().await.unwrap();
            let context = || format!("effect {effect} {edge:?}\n{}", stage.world.transcript());
            assert_eq!(outcome.failures, [], "{}", context());
            let files = mounted(&stage);
            assert!(
                matches!(&*files, [(_, on_node)] if *on_node == data),
                "{}",
                context()
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_platform_whose_declaration_was_never_accepted_is_removed_at_once() {
    let mut stage = Stage::new(38).await;
    stage.mount("db", &contents(Chunk::SIZE, 0));
    stage.chunks = lifecycle_core::model::Chunks::default();
    stage.up().await.unwrap_err();
    let began = tokio::time::Instant::now();
    stage.down().await.unwrap();
    let took = began.elapsed();
    assert!(took < Duration::from_mins(5), "{took:?}");
    let mut nodes = stage.declaration.nodes.keys();
    assert!(nodes.all(|node| stage.world.node(node).is_none()));
}
