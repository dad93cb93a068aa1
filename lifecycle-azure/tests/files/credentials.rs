//! Tests wrong and expired credentials. The error must name the account and a solution, and must
//! not contain a secret.

use std::time::Duration;

use chrono::TimeDelta;
use lifecycle_azure::simulator::{
    AzureSimulator, Fault, STORAGE_ACCOUNT, STORAGE_KEY, STORAGE_SHARE, Selector, SimulatorOptions,
    When,
};
use lifecycle_azure::{AzureFiles, FilesCredential};
use lifecycle_core::Error;
use lifecycle_core::code::{CodePublisher as _, CodeStore as _};
use secrecy::{ExposeSecret as _, SecretString};

use crate::bench::{Bench, account, sample};

fn is_denied(error: &Error, hint: &str, secrets: &[&str]) {
    let shown = format!("{error} {error:?} {} {:?}", error.chain(), error.hint());
    assert!(matches!(error, Error::Denied { .. }), "{shown}");
    assert!(error.to_string().contains("`devacct`"), "{shown}");
    assert!(
        error.hint().is_some_and(|given| given.contains(hint)),
        "{shown}"
    );
    for secret in secrets {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[tokio::test]
async fn a_wrong_key_is_denied() {
    let bench = Bench::start().await;
    let wrong = "d3Jvbmcga2V5IG9mIGEgdGVzdA==";
    let key = FilesCredential::SharedKey(SecretString::from(wrong));
    let store = bench.builder(key).build().unwrap();
    let error = store.list().await.unwrap_err();
    is_denied(&error, "keys list", &[wrong]);
    assert_eq!(
        bench.requests.all().len(),
        1,
        "the request must not be retried"
    );
    let root = sample();
    let error = store.publish("svc", root.path()).await.unwrap_err();
    is_denied(&error, "clock", &[wrong]);
}

#[tokio::test]
async fn a_rotated_key_is_denied() {
    let bench = Bench::start().await;
    let store = bench.with_key();
    store.list().await.unwrap();
    let rotated = account("a2V5IHR3byBvZiBhIHRlc3Q=");
    bench.service.add(&rotated).unwrap();
    let error = store.list().await.unwrap_err();
    is_denied(&error, "keys list", &[bench.key.expose_secret()]);
}

#[tokio::test]
async fn a_wrong_clock_is_denied() {
    let bench = Bench::start().await;
    bench.clock.advance(TimeDelta::minutes(20));
    let error = bench.with_key().list().await.unwrap_err();
    is_denied(&error, "clock", &[bench.key.expose_secret()]);
}

#[tokio::test]
async fn an_expired_or_insufficient_signature_is_denied() {
    let bench = Bench::start().await;
    let root = sample();
    let store = bench.with_account_sas("rwdlc", TimeDelta::minutes(5));
    store.publish("svc", root.path()).await.unwrap();
    bench.clock.advance(TimeDelta::minutes(6));
    let error = store.digest("svc").await.unwrap_err();
    is_denied(
        &error,
        "the current signature expires at ",
        &["sig=", bench.key.expose_secret()],
    );

    let reader = bench.with_share_sas("rl");
    reader.digest("svc").await.unwrap();
    let error = reader.publish("other", root.path()).await.unwrap_err();
    is_denied(&error, "rcwdl", &["sig="]);
}

#[tokio::test]
async fn a_missing_share_is_an_error() {
    let bench = Bench::start().await;
    let key = FilesCredential::SharedKey(bench.key.clone());
    let store = lifecycle_azure::AzureFiles::builder("devacct", "absent", key)
        .endpoint(&bench.url())
        .build()
        .unwrap();
    let error = store.list().await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    assert!(
        error
            .hint()
            .is_some_and(|hint| hint.contains("share-rm create")),
        "{error:?}"
    );
}

#[tokio::test]
async fn trusts_only_the_configured_authority_over_https() {
    let azure = AzureSimulator::start(SimulatorOptions::default())
        .await
        .unwrap();
    let builder = || {
        let key = FilesCredential::SharedKey(SecretString::from(STORAGE_KEY));
        AzureFiles::builder(STORAGE_ACCOUNT, STORAGE_SHARE, key)
    };
    let secure = || builder().endpoint(&azure.secure_files_endpoint());
    let store = secure().authority(&azure.authority_pem()).build().unwrap();
    assert_eq!(store.list().await.unwrap(), Vec::<String>::new());
    let store = builder().endpoint(&azure.files_endpoint()).build().unwrap();
    assert_eq!(store.list().await.unwrap(), Vec::<String>::new());
    assert_eq!(azure.requests().all().len(), 2);
    let busy = Fault::server_busy(Duration::from_mins(9));
    azure.faults().add(When::next(Selector::any()), busy);
    let error = store.list().await.unwrap_err();
    assert!(matches!(error, Error::Throttled { .. }), "{error:?}");
    let error = secure().build().unwrap().list().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.chain().contains("certificate"), "{}", error.chain());
}
