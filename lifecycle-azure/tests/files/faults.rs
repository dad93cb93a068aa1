//! What happens when requests fail, and when a publisher dies at any point.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use lifecycle_azure::AzureFiles;
use lifecycle_azure::simulator::{Fault, Selector, When};
use lifecycle_core::code::CodeStore;
use lifecycle_core::{Error, Retry};
use tempfile::TempDir;

use crate::bench::{Bench, any, archive, local_archive, local_digest, write};

fn two() -> (TempDir, TempDir) {
    let (old, new) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    write(old.path(), &[("Dockerfile", b"FROM scratch\n"), ("run.sh", b"old"), ("gone", b"x")]);
    write(new.path(), &[("Dockerfile", b"FROM scratch\n"), ("run.sh", b"new"), ("more", b"y")]);
    (old, new)
}

fn busy() -> Fault {
    Fault::Answer {
        status: StatusCode::SERVICE_UNAVAILABLE,
        headers: vec![("x-ms-error-code", "ServerBusy".to_owned()), ("retry-after", "1".to_owned())],
        body: String::new(),
    }
}

/// Whether the outcome of a publish was success.
async fn broken_at(bench: &Bench, n: usize, fault: Fault, store: &AzureFiles, new: &TempDir) -> bool {
    bench.faults.add(When::next(any()).nth(n).always(), fault);
    let outcome = store.publish("svc", new.path()).await;
    bench.faults.clear();
    if let Err(error) = &outcome {
        assert!(matches!(error.retry(), Retry::After(_)), "request {n}: {error:?}");
    }
    outcome.is_ok()
}

#[tokio::test]
async fn a_publish_that_breaks_at_any_request_leaves_the_old_or_the_new() {
    let (old, new) = two();
    let digests = [local_digest(old.path()).await, local_digest(new.path()).await];
    for fault in [Fault::Dropped, Fault::AnswerLost] {
        let mut seen = [false; 2];
        for n in 1.. {
            let bench = Bench::start().await;
            let store = bench.with_key();
            store.publish("svc", old.path()).await.unwrap();
            let ended = broken_at(&bench, n, fault.clone(), &store, &new).await;
            for reader in [bench.with_key(), bench.with_share_sas("rl")] {
                let code = reader.digest("svc").await.unwrap();
                let found = digests.iter().position(|one| *one == code.digest);
                let found = found.unwrap_or_else(|| panic!("request {n}: neither"));
                seen[found] = true;
                let source = [&old, &new][found];
                assert!(archive(&reader, &code).await == local_archive(source.path()).await);
            }
            // And the next publish has it all again.
            let again = store.publish("svc", new.path()).await.unwrap();
            assert_eq!(again.code.digest, digests[1]);
            if ended {
                break;
            }
        }
        assert_eq!(seen, [true; 2]);
    }
}

#[tokio::test]
async fn a_first_publish_that_breaks_leaves_nothing_that_could_be_taken_for_a_code_base() {
    let (_, new) = two();
    for n in 1.. {
        let bench = Bench::start().await;
        let store = bench.with_key();
        let ended = broken_at(&bench, n, Fault::Dropped, &store, &new).await;
        match bench.with_key().digest("svc").await {
            Ok(code) => assert_eq!(code.digest, local_digest(new.path()).await),
            Err(Error::NotFound { .. } | Error::Conflict { .. }) => assert!(!ended),
            Err(error) => panic!("request {n}: {error:?}"),
        }
        store.publish("svc", new.path()).await.unwrap();
        if ended {
            break;
        }
    }
}

#[tokio::test]
async fn single_faults_heal_at_every_request() {
    let (old, new) = two();
    let count = {
        let bench = Bench::start().await;
        let store = bench.with_key();
        store.publish("svc", old.path()).await.unwrap();
        bench.requests.clear();
        store.publish("svc", new.path()).await.unwrap();
        let code = store.digest("svc").await.unwrap();
        archive(&store, &code).await;
        bench.requests.all().len()
    };
    let bench = Bench::start().await;
    for n in 1..=count {
        let store = bench.with_key();
        store.publish("svc", old.path()).await.unwrap();
        let fault = match n % 2 {
            0 => Fault::Dropped,
            _ => Fault::AnswerLost,
        };
        bench.faults.add(When::next(any()).nth(n), fault);
        store.publish("svc", new.path()).await.unwrap();
        let code = store.digest("svc").await.unwrap();
        assert!(archive(&store, &code).await == local_archive(new.path()).await);
        bench.faults.clear();
    }
}

#[tokio::test]
async fn a_busy_share_is_given_the_time_that_it_asks_for() {
    let (bench, (old, _)) = (Bench::start().await, two());
    let store = bench.with_key();
    bench.faults.add(When::next(Selector::method(Method::PUT)), busy());
    store.publish("svc", old.path()).await.unwrap();
    assert_eq!(bench.requests.too_early(), []);
    assert_eq!(bench.faults.pending(), 0);

    let wait = Duration::from_secs(600);
    let throttled = Fault::Throttled { retry_after: wait };
    bench.faults.add(When::next(any()), throttled);
    let error = store.digest("svc").await.unwrap_err();
    assert!(matches!(error, Error::Throttled { .. }), "{error:?}");
    assert_eq!(error.retry(), Retry::After(wait), "longer waits are the caller's");
}

#[tokio::test]
async fn a_share_that_does_not_answer_in_time_is_told_as_such() {
    let bench = Bench::start().await;
    let key = lifecycle_azure::FilesCredential::SharedKey(bench.key.clone());
    let limit = Duration::from_millis(100);
    let store = bench.builder(key).timeout(limit).build().unwrap();
    let slow = Fault::SlowAnswer(Duration::from_secs(60));
    bench.faults.add(When::next(any()).always(), slow);
    let error = store.list().await.unwrap_err();
    assert!(matches!(&error, Error::TimedOut { after, .. } if *after == limit), "{error:?}");
}

#[tokio::test]
async fn nobody_at_the_address_is_unreachable() {
    let bench = Bench::start().await;
    let store = bench.with_key();
    drop(bench);
    let error = store.list().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("`devacct`"), "{error}");
}
