//! Tests that a connection that cannot be opened is reported as such within seconds, and never as a
//! wrong secret: at the login, at Resource Manager, and at Azure Files.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use lifecycle_azure::simulator::{AzureSimulator, STORAGE_ACCOUNT, STORAGE_KEY, STORAGE_SHARE};
use lifecycle_azure::{Azure, AzureFiles, AzureOptions, FilesCredential};
use lifecycle_core::cloud::CloudProvider as _;
use lifecycle_core::code::CodeStore as _;
use lifecycle_core::{Error, Result};

use crate::support::{azure, options, spec};

/// How long a report may take.
const WITHIN: Duration = Duration::from_secs(5);

/// An address to which no connection can be opened, and parts of the error and of the hint.
struct Case {
    address: String,
    why: &'static str,
    hint: &'static str,
}

fn cases(other: &AzureSimulator) -> Vec<Case> {
    let closed = {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.local_addr().unwrap()
    };
    vec![
        Case {
            // Its certificate is from another authority, as with a proxy that inspects TLS.
            address: other.secure_endpoint(),
            why: "its TLS certificate is not trusted",
            hint: ".ca`",
        },
        Case {
            address: other.endpoint().replace("http://", "https://"),
            why: "it does not accept this TLS connection",
            hint: "proxy",
        },
        Case {
            // A label of a name has at most 63 characters.
            address: format!("https://{}.example", "x".repeat(64)),
            why: "its name cannot be resolved",
            hint: "name servers",
        },
        Case {
            // This domain has no names, according to RFC 6761.
            address: "https://azure.invalid".to_owned(),
            why: "its name cannot be resolved",
            hint: "name servers",
        },
        Case {
            address: format!("https://{closed}"),
            why: "it refused the connection",
            hint: "network",
        },
    ]
}

fn is_named<T: std::fmt::Debug>(outcome: Result<T>, took: Duration, case: &Case, setting: &str) {
    let error = outcome.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let (text, hint) = (error.chain(), error.hint().unwrap());
    assert!(text.contains(case.why), "{text}");
    assert!(hint.contains(case.hint), "{hint}");
    assert!(hint.contains(setting) || case.hint == ".ca`", "{hint}");
    for word in ["secret may", "az login", "AADSTS"] {
        assert!(
            !text.contains(word) && !hint.contains(word),
            "{text} {hint}"
        );
    }
    assert!(took < WITHIN, "{}: {took:?}", case.why);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_login_names_the_cause() {
    let (azure, other) = (azure().await, azure().await);
    for case in cases(&other) {
        let ours = Azure::new(AzureOptions {
            authority_host: Some(case.address.clone()),
            ..options(&azure, 1)
        });
        let begun = Instant::now();
        let outcome = ours.unwrap().preflight(&[spec("one")]).await;
        is_named(outcome, begun.elapsed(), &case, "`cloud.authority`");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn resource_manager_names_the_cause() {
    let (azure, other) = (azure().await, azure().await);
    for case in cases(&other) {
        let ours = Azure::new(AzureOptions {
            endpoint: case.address.clone(),
            ..options(&azure, 1)
        });
        let begun = Instant::now();
        let outcome = ours.unwrap().preflight(&[spec("one")]).await;
        is_named(outcome, begun.elapsed(), &case, "`cloud.endpoint`");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_files_names_the_cause() {
    let (azure, other) = (azure().await, azure().await);
    let mut cases = cases(&other);
    cases[0].address = other.secure_files_endpoint();
    cases[1].address = other.files_endpoint().replace("http://", "https://");
    for case in cases {
        let key = FilesCredential::SharedKey(STORAGE_KEY.to_owned().into());
        let store = AzureFiles::builder(STORAGE_ACCOUNT, STORAGE_SHARE, key)
            .endpoint(&case.address)
            .authority(&azure.authority_pem())
            .build()
            .unwrap();
        let begun = Instant::now();
        let outcome = store.list().await;
        is_named(outcome, begun.elapsed(), &case, "`code.endpoint`");
    }
}
