//! Tests that tokens are sent only to Azure, and are replaced if Azure rejects them.

use http::{Method, StatusCode};
use lifecycle_azure::simulator::{Fault, Selector, When};
use lifecycle_core::Error;
use lifecycle_core::cloud::CloudProvider as _;
use serde_json::json;

use crate::support::{azure, carry, get, provider, provision, spec};

/// Tests the lists of both clients, this crate's and the generated one. Both clients follow the
/// links in lists.
#[tokio::test(flavor = "multi_thread")]
async fn does_not_follow_a_list_to_another_host() {
    let azure = azure().await;
    let ours = provider(&azure, 1);
    carry(&ours, provision("one")).await.unwrap();
    for list in ["Microsoft.Compute/virtualMachines", "networkInterfaces"] {
        let page = json!({ "value": [], "nextLink": "https://elsewhere.example/more?page=2" });
        azure.faults().add(
            When::next(Selector::method(Method::GET).path(list)),
            Fault::json(StatusCode::OK, &page),
        );
        let error = ours.list().await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{list}: {error:?}");
        assert!(
            error.chain().contains("elsewhere.example"),
            "{}",
            error.chain()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replaces_a_rejected_token() {
    let azure = azure().await;
    let ours = provider(&azure, 1);
    assert!(get(&ours, "one").await.is_none());
    let tokens = || {
        azure
            .requests()
            .count(&Selector::any().path("oauth2/v2.0/token"))
    };
    let before = tokens();
    let expired = Fault::error(
        StatusCode::UNAUTHORIZED,
        "ExpiredAuthenticationToken",
        "The access token expiry UTC time is earlier than current UTC time.",
    );
    azure
        .faults()
        .add(When::next(Selector::any().path("virtualMachines")), expired);
    ours.list().await.unwrap();
    assert_eq!(azure.faults().pending(), 0);
    assert_eq!(tokens(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_rejected_login_after_trying_two_tokens() {
    let azure = azure().await;
    let ours = provider(&azure, 1);
    let refused = Fault::error(
        StatusCode::UNAUTHORIZED,
        "InvalidAuthenticationToken",
        "The access token is from the wrong issuer.",
    );
    let arm = || Selector::any().path("/subscriptions/");
    azure.faults().add(When::next(arm()).always(), refused);
    let error = ours.preflight(&[spec("one")]).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert!(error.chain().contains("wrong issuer"), "{}", error.chain());
    assert_eq!(azure.requests().count(&arm()), 2);
}
