//! Tests failing requests, and publishers that die at any point.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::http::Method;
use futures_util::{StreamExt as _, stream};
use lifecycle_azure::AzureFiles;
use lifecycle_azure::simulator::{Fault, Selector, When};
use lifecycle_core::code::{CodePublisher as _, CodeStore};
use lifecycle_core::{Error, Retry};
use tempfile::TempDir;

use crate::bench::{Bench, any, archive, local_archive, local_digest, write};

/// The number of concurrent cases. High, because cases mostly wait.
const AT_ONCE: usize = 32;

fn two() -> (TempDir, TempDir) {
    let (old, new) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    write(
        old.path(),
        &[
            ("Dockerfile", b"FROM scratch\n"),
            ("run.sh", b"old"),
            ("gone", b"x"),
        ],
    );
    write(
        new.path(),
        &[
            ("Dockerfile", b"FROM scratch\n"),
            ("run.sh", b"new"),
            ("more", b"y"),
        ],
    );
    (old, new)
}

/// Returns how many requests a publish of `new` sends. If `old` is specified, publishes it first.
async fn requests_of(old: Option<&TempDir>, new: &TempDir) -> usize {
    let bench = Bench::start().await;
    let store = bench.with_key();
    if let Some(old) = old {
        store.publish("svc", old.path()).await.unwrap();
    }
    bench.requests.clear();
    store.publish("svc", new.path()).await.unwrap();
    bench.requests.all().len()
}

/// Runs a publisher that dies at its `n`-th request.
async fn broken_at(bench: &Bench, n: usize, fault: Fault, store: &AzureFiles, new: &TempDir) {
    bench.faults.add(When::next(any()).nth(n).always(), fault);
    let outcome = store.publish("svc", new.path()).await;
    bench.faults.clear();
    if let Err(error) = &outcome {
        assert!(
            matches!(error.retry(), Retry::After(_)),
            "request {n}: {error:?}"
        );
    }
}

#[tokio::test]
async fn an_interrupted_publish_leaves_the_old_or_the_new_version() {
    let (old, new) = &two();
    let digests = &[
        local_digest(old.path()).await,
        local_digest(new.path()).await,
    ];
    let count = requests_of(Some(old), new).await;
    let cases = (1..=count).flat_map(|n| [(n, Fault::Dropped), (n, Fault::AnswerLost)]);
    let found: Vec<usize> = stream::iter(cases)
        .map(|(n, fault)| async move {
            let bench = Bench::start().await;
            let store = bench.with_key();
            store.publish("svc", old.path()).await.unwrap();
            broken_at(&bench, n, fault, &store, new).await;
            let reader = bench.with_share_sas("rl");
            let code = reader.digest("svc").await.unwrap();
            let found = digests.iter().position(|one| *one == code.digest);
            let found = found.unwrap_or_else(|| {
                panic!("request {n}: the digest is neither the old nor the new one")
            });
            let source = [old, new][found];
            assert!(archive(&reader, &code).await == local_archive(source.path()).await);
            assert_eq!(store.digest("svc").await.unwrap(), code, "request {n}");
            // The next publish must restore everything.
            let again = store.publish("svc", new.path()).await.unwrap();
            assert_eq!(again.code.digest, digests[1]);
            found
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    assert!(found.contains(&0) && found.contains(&1), "{found:?}");
}

#[tokio::test]
async fn an_interrupted_first_publish_leaves_no_code_base() {
    let (_, new) = &two();
    let count = requests_of(None, new).await;
    let mut cases = stream::iter(1..=count)
        .map(|n| async move {
            let bench = Bench::start().await;
            let store = bench.with_key();
            broken_at(&bench, n, Fault::Dropped, &store, new).await;
            match bench.with_key().digest("svc").await {
                Ok(code) => assert_eq!(code.digest, local_digest(new.path()).await),
                Err(Error::NotFound { .. } | Error::Conflict { .. }) => {}
                Err(error) => panic!("request {n}: {error:?}"),
            }
            store.publish("svc", new.path()).await.unwrap();
        })
        .buffer_unordered(AT_ONCE);
    while cases.next().await.is_some() {}
}

#[tokio::test]
async fn recovers_from_a_single_fault_at_every_request() {
    let (old, new) = &two();
    // Reading the code base takes four more requests.
    let count = requests_of(Some(old), new).await + 4;
    let mut cases = stream::iter(1..=count)
        .map(|n| async move {
            let bench = Bench::start().await;
            let store = bench.with_key();
            store.publish("svc", old.path()).await.unwrap();
            let fault = [Fault::Dropped, Fault::AnswerLost][n % 2].clone();
            bench.faults.add(When::next(any()).nth(n), fault);
            store.publish("svc", new.path()).await.unwrap();
            let code = store.digest("svc").await.unwrap();
            assert!(archive(&store, &code).await == local_archive(new.path()).await);
            assert_eq!(bench.faults.pending(), 0, "request {n} was not sent");
            // No file may be created twice, even if requests are repeated: a late request would
            // overwrite the file with zeros.
            let made = bench.requests.matching(&Selector::method(Method::PUT));
            let made = made.iter().filter(|one| one.query.is_empty());
            let made: Vec<&String> = made.map(|one| &one.path).collect();
            let different: BTreeSet<&&String> = made.iter().collect();
            assert_eq!(different.len(), made.len(), "request {n}: {made:?}");
        })
        .buffer_unordered(AT_ONCE);
    while cases.next().await.is_some() {}
}

#[tokio::test]
async fn waits_as_long_as_a_busy_share_requests() {
    let (bench, (old, _)) = (Bench::start().await, two());
    let store = bench.with_key();
    // Delay the write of the record: no other request runs concurrently with this write.
    let record = Selector::method(Method::PUT).path("/versions");
    bench.faults.add(
        When::next(record),
        Fault::server_busy(Duration::from_secs(1)),
    );
    store.publish("svc", old.path()).await.unwrap();
    assert_eq!(bench.requests.too_early(), []);
    assert_eq!(bench.faults.pending(), 0);

    let wait = Duration::from_mins(10);
    let throttled = Fault::Throttled { retry_after: wait };
    bench.faults.add(When::next(any()), throttled);
    let error = store.digest("svc").await.unwrap_err();
    assert!(matches!(error, Error::Throttled { .. }), "{error:?}");
    assert_eq!(
        error.retry(),
        Retry::After(wait),
        "the caller must decide about longer waits"
    );
    let asked = bench.requests.all().len();
    let error = store.digest("svc").await.unwrap_err();
    assert!(matches!(error, Error::Throttled { .. }), "{error:?}");
    assert_eq!(
        bench.requests.all().len(),
        asked,
        "no request must be sent before the wait has passed"
    );
}

#[tokio::test]
async fn reports_a_share_that_does_not_respond_in_time() {
    let bench = Bench::start().await;
    let key = lifecycle_azure::FilesCredential::SharedKey(bench.key.clone());
    let limit = Duration::from_millis(100);
    let store = bench.builder(key).timeout(limit).build().unwrap();
    let slow = Fault::SlowAnswer(Duration::from_mins(1));
    bench.faults.add(When::next(any()).always(), slow);
    let error = store.list().await.unwrap_err();
    assert!(
        matches!(&error, Error::TimedOut { after, .. } if *after == limit),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_closed_address_is_unreachable() {
    let bench = Bench::start().await;
    let store = bench.with_key();
    drop(bench);
    let error = store.list().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("`devacct`"), "{error}");
}
