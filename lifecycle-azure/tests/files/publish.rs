//! Tests publishing code bases and reading them back.

use axum::http::Method;
use chrono::TimeDelta;
use futures_util::{StreamExt as _, TryStreamExt as _};
use lifecycle_azure::simulator::Selector;
use lifecycle_core::Error;
use lifecycle_core::code::{CodePublisher, CodeStore, read_file};
use tempfile::TempDir;

use crate::bench::{Bench, archive, local_archive, local_digest, pattern, sample, write};

#[tokio::test]
async fn a_published_code_base_has_the_digest_and_archive_of_its_source() {
    let (bench, root) = (Bench::start().await, sample());
    let store = bench.with_key();
    let published = store.publish("team/svc", root.path()).await.unwrap();
    assert_eq!(published.code.name, "team/svc");
    assert_eq!(published.code.digest, local_digest(root.path()).await);
    let other = bench.with_share_sas("rl");
    let code = other.digest("./team/svc").await.unwrap();
    assert_eq!(code, published.code);
    let read = archive(&other, &code).await;
    assert!(
        read == local_archive(root.path()).await,
        "the archives differ"
    );
    let docker = read_file(&other, &code, "Dockerfile", 100).await.unwrap();
    assert_eq!(docker.as_deref(), Some(b"FROM scratch\n".as_slice()));
    assert!(
        bench
            .service
            .files("devacct", "code")
            .values()
            .all(|size| *size <= 4 << 20)
    );
}

#[tokio::test]
async fn sends_only_changes() {
    let (bench, root) = (Bench::start().await, sample());
    let store = bench.with_key();
    let first = store.publish("svc", root.path()).await.unwrap();
    assert!(!first.unchanged && first.bytes_sent > 9 << 20, "{first:?}");
    bench.requests.clear();
    let again = bench.with_key().publish("svc", root.path()).await.unwrap();
    assert!(again.unchanged && again.bytes_sent == 0, "{again:?}");
    assert!(bench.requests.writes().is_empty());
    write(root.path(), &[("run.sh", b"#!/bin/sh\nexit 1\n")]);
    std::fs::rename(root.path().join("big.bin"), root.path().join("moved.bin")).unwrap();
    let changed = store.publish("svc", root.path()).await.unwrap();
    assert!(changed.bytes_sent < 10_000, "{changed:?}");
    assert_eq!(changed.code.digest, local_digest(root.path()).await);
    let read = archive(&store, &changed.code).await;
    assert!(read == local_archive(root.path()).await);
}

#[tokio::test]
async fn unchanged_contents_are_not_read_twice() {
    let (bench, root) = (Bench::start().await, sample());
    bench.with_key().publish("svc", root.path()).await.unwrap();
    let store = bench.with_key();
    bench.requests.clear();
    store.digest("svc").await.unwrap();
    assert_eq!(
        bench.downloads(),
        2,
        "only the record and its index must be read"
    );
    bench.requests.clear();
    store.digest("svc").await.unwrap();
    assert_eq!(bench.downloads(), 0);
    assert_eq!(bench.requests.all().len(), 2);
}

#[tokio::test]
async fn removes_superseded_versions_after_the_retention() {
    let (bench, root) = (Bench::start().await, sample());
    let store = bench.with_account_sas("rwdlc", TimeDelta::days(30));
    store.publish("svc", root.path()).await.unwrap();
    let old = store.digest("svc").await.unwrap();
    let reading = store.archive(&old).await.unwrap();
    std::fs::remove_file(root.path().join("big.bin")).unwrap();
    let second = store.publish("svc", root.path()).await.unwrap();
    assert_eq!(second.files_removed, 0);
    // A reader that started before the second publish must be able to finish.
    let parts: Vec<bytes::Bytes> = reading.try_collect().await.unwrap();
    assert!(parts.concat().len() > 9 << 20);

    bench.clock.advance(TimeDelta::hours(25));
    write(root.path(), &[("run.sh", b"#!/bin/sh\nexit 2\n")]);
    let third = store.publish("svc", root.path()).await.unwrap();
    // Seven files were removed: the first record, its index, and the five chunks of the big file.
    assert_eq!(third.files_removed, 7);
    let left: u64 = bench.service.files("devacct", "code").values().sum();
    assert!(left < 20_000, "{left} bytes are left");
    let read = archive(&store, &third.code).await;
    assert!(read == local_archive(root.path()).await);
}

#[tokio::test]
async fn concurrent_publishers_do_not_mix() {
    let (bench, one, two) = (Bench::start().await, sample(), sample());
    write(
        two.path(),
        &[("big.bin", &vec![7; 3 << 20]), ("only", b"two")],
    );
    let digests = [
        local_digest(one.path()).await,
        local_digest(two.path()).await,
    ];
    for _ in 0..4 {
        let (a, b) = (bench.with_key(), bench.with_share_sas("rcwdl"));
        let (a, b) = tokio::join!(a.publish("svc", one.path()), b.publish("svc", two.path()));
        let outcomes = [a, b];
        assert!(outcomes.iter().any(Result::is_ok), "{outcomes:?}");
        for outcome in &outcomes {
            if let Err(error) = outcome {
                assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
            }
        }
        let store = bench.with_key();
        let code = store.digest("svc").await.unwrap();
        assert!(digests.contains(&code.digest));
        let winner = if code.digest == digests[0] {
            &one
        } else {
            &two
        };
        assert!(archive(&store, &code).await == local_archive(winner.path()).await);
        store.remove("svc").await.unwrap();
        assert!(bench.paths().is_empty());
    }
}

#[tokio::test]
async fn rejects_a_directory_with_plain_files() {
    let (bench, root) = (Bench::start().await, sample());
    let store = bench.with_key();
    let wire = crate::wire::Wire::new(&bench);
    wire.put("svc/Dockerfile", b"FROM scratch\n").await;
    for error in [
        store.publish("svc", root.path()).await.unwrap_err(),
        store.remove("svc").await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    }
    store.publish("other", root.path()).await.unwrap();
    wire.put("other/stray", b"x").await;
    let error = store.digest("other").await.unwrap_err();
    assert!(error.to_string().contains("`other/stray`"), "{error}");
    store.remove("absent").await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_buffers_only_a_few_pieces() {
    let bench = Bench::start().await;
    let root = TempDir::new().unwrap();
    let big = pattern(32 << 20, (2 << 20) + 1);
    write(root.path(), &[("big", &big)]);
    let store = bench.with_key();
    let code = store.publish("svc", root.path()).await.unwrap().code;
    let mut stream = store.archive(&code).await.unwrap();
    bench.requests.clear();
    let head = stream.next().await.unwrap().unwrap();
    let piece = stream.next().await.unwrap().unwrap();
    assert_eq!((head.len(), piece.len()), (512, 2 << 20));
    assert!(bench.downloads() <= 9, "{}", bench.downloads());
    let rest: Vec<bytes::Bytes> = stream.try_collect().await.unwrap();
    assert!(rest.iter().all(|part| part.len() <= 2 << 20));
    assert_eq!(bench.downloads(), 16);
}

#[tokio::test]
async fn a_canceled_publish_leaves_the_old_version_current() {
    let (bench, root) = (Bench::start().await, sample());
    let store = bench.with_key();
    let old = store.publish("svc", root.path()).await.unwrap().code;
    write(
        root.path(),
        &[("big.bin", &vec![9; 8 << 20]), ("run.sh", b"new")],
    );
    let chunks = Selector::method(Method::PUT).path("/chunks/");
    bench.requests.clear();
    tokio::select! {
        outcome = store.publish("svc", root.path()) => panic!("the publish ended: {outcome:?}"),
        _ = bench.requests.ended(&chunks, 2) => {}
    }
    assert_eq!(store.digest("svc").await.unwrap(), old);
    let new = store.publish("svc", root.path()).await.unwrap();
    assert!(archive(&store, &new.code).await == local_archive(root.path()).await);
}

#[tokio::test]
async fn a_missing_directory_is_not_found() {
    let bench = Bench::start().await;
    let nowhere = TempDir::new().unwrap().path().join("absent");
    let error = bench.with_key().publish("svc", &nowhere).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    assert!(bench.requests.all().is_empty());
}

#[tokio::test]
async fn the_root_can_be_a_code_base_that_has_other_code_bases_below_it() {
    let (bench, top, below) = (Bench::start().await, sample(), sample());
    write(below.path(), &[("run.sh", b"#!/bin/sh\nexit 3\n")]);
    let store = bench.with_key();
    for (name, root) in [("team/api", &below), (".", &top), ("web", &below)] {
        let published = store.publish(name, root.path()).await.unwrap();
        assert_eq!(published.code.name, name);
    }
    let reader = bench.with_share_sas("rl");
    for (name, root) in [("./", &top), ("team/api", &below), ("web", &below)] {
        let code = reader.digest(name).await.unwrap();
        assert_eq!(code.digest, local_digest(root.path()).await, "{name}");
        assert!(archive(&reader, &code).await == local_archive(root.path()).await);
    }
    // A directory that contains only code bases is not a code base itself.
    let error = reader.digest("team").await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains("publish team"), "{hint}");
    store.remove(".").await.unwrap();
    assert!(reader.digest("team/api").await.is_ok());
    store.remove("team/api").await.unwrap();
    store.remove("web").await.unwrap();
    assert_eq!(bench.paths(), Vec::<String>::new());
}

#[tokio::test]
async fn rejects_names_that_differ_only_in_case() {
    let (bench, root) = (Bench::start().await, sample());
    let store = bench.with_key();
    store.publish("team/api", root.path()).await.unwrap();
    for other in ["team/API", "Team/web"] {
        let error = store.publish(other, root.path()).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
        assert!(error.to_string().contains("case-insensitive"), "{error}");
    }
    // A code base in a subdirectory of a plain code base would be part of the plain code base.
    let wire = crate::wire::Wire::new(&bench);
    wire.put("plain/Dockerfile", b"FROM scratch\n").await;
    let plain = store.digest("plain").await.unwrap();
    let error = store.publish("plain/in", root.path()).await.unwrap_err();
    assert!(error.to_string().contains("`plain`"), "{error}");
    assert_eq!(store.digest("plain").await.unwrap(), plain);
}

#[tokio::test]
async fn sends_removed_chunks_again() {
    let (bench, root) = (Bench::start().await, sample());
    let store = bench.with_key();
    let first = store.publish("svc", root.path()).await.unwrap();
    let wire = crate::wire::Wire::new(&bench);
    let is_big = |path: &String| path.contains("/chunks/") && !path.ends_with('/');
    let sizes = bench.service.files("devacct", "code");
    let big: Vec<&String> = sizes
        .iter()
        .filter(|(path, size)| is_big(path) && **size == 2 << 20)
        .map(|(path, _)| path)
        .collect();
    for path in &big[..2] {
        wire.delete(path).await;
    }
    let again = store.publish("svc", root.path()).await.unwrap();
    assert!(!again.unchanged, "{again:?}");
    assert!((4 << 20..5 << 20).contains(&again.bytes_sent), "{again:?}");
    assert_eq!(again.code, first.code);
    assert!(archive(&store, &again.code).await == local_archive(root.path()).await);
    // Remove all chunks, including those of the index.
    wire.remove_tree("svc/.lifecycle/chunks").await;
    let store = bench.with_key();
    let error = store.digest("svc").await.unwrap_err();
    assert!(
        error.to_string().contains("publish the code base again"),
        "{error}"
    );
    let again = store.publish("svc", root.path()).await.unwrap();
    assert!(archive(&store, &again.code).await == local_archive(root.path()).await);
}

#[tokio::test]
async fn a_version_with_removed_chunks_is_not_current() {
    let (bench, root) = (Bench::start().await, sample());
    let store = bench.with_key();
    let old = store.publish("svc", root.path()).await.unwrap().code;
    let wire = crate::wire::Wire::new(&bench);
    let before = bench.paths();
    write(
        root.path(),
        &[("run.sh", b"#!/bin/sh\nexit 4\n"), ("new", &[4; 3000])],
    );
    bench.requests.clear();
    let mut publishing = std::pin::pin!(store.publish("svc", root.path()));
    let record = Selector::method(Method::PUT).path("/versions/");
    tokio::select! {
        biased;
        // Writing the record takes two requests: one creates the file, and one writes its contents.
        _ = bench.requests.ended(&record, 2) => {}
        outcome = &mut publishing => panic!("the publish ended: {outcome:?}"),
    }
    let sizes = bench.service.files("devacct", "code");
    let (new, _) = sizes
        .iter()
        .find(|(path, size)| !before.contains(path) && **size == 3000)
        .unwrap();
    wire.delete(new).await;
    let error = publishing.await.unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
    let reader = bench.with_key();
    assert_eq!(reader.digest("svc").await.unwrap(), old);
    let new = store.publish("svc", root.path()).await.unwrap().code;
    assert!(archive(&reader, &new).await == local_archive(root.path()).await);
}
