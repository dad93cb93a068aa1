//! Tests responses other than network faults: redirects, locks, disabled subscriptions, operations
//! that never end or have only a `Location`, and outdated lists.

use std::time::Duration;

use axum::Router;
use http::{Method, StatusCode};
use lifecycle_azure::simulator::{AzureSimulator, Fault, Selector, When};
use lifecycle_azure::{Azure, AzureOptions};
use lifecycle_core::cloud::{CloudProgress, CloudProvider as _, NodeChange, Power};
use lifecycle_core::model::NodeName;
use lifecycle_core::{Error, Result};
use serde_json::{Value, json};

use crate::raw::{self, is_whole};
use crate::steps;
use crate::support::{DEADLINE, azure, carry, get, options, provider, provision};

fn one() -> NodeName {
    NodeName::try_from("one").unwrap()
}

fn redirect(status: StatusCode, to: String) -> Fault {
    Fault::Answer {
        status,
        headers: vec![("location", to)],
        body: String::new(),
    }
}

/// Azure's response redirects to another server, which must not receive any request.
#[tokio::test(flavor = "multi_thread")]
async fn redirects_receive_no_secret_or_token() {
    let azure = azure().await;
    let elsewhere = azure
        .listen(Router::new().fallback(|| async { "{}" }))
        .await
        .unwrap();
    let to = || format!("{}/elsewhere", elsewhere.url());
    for status in [
        StatusCode::FOUND,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ] {
        azure
            .faults()
            .add(steps::TOKEN.when(), redirect(status, to()));
        let error = provider(&azure, 1).get(&one()).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error:?}");
        azure.faults().add(steps::VM.when(), redirect(status, to()));
        provider(&azure, 1).get(&one()).await.unwrap_err();
        assert_eq!(azure.faults().pending(), 0);
    }
    let there = azure.requests().count(&Selector::any().path("/elsewhere"));
    assert_eq!(there, 0);
}

/// A change to a node or to the shared resources.
type Act = fn(&Azure) -> futures_util::future::BoxFuture<'_, Result<()>>;

/// Each type of change, with the path and the method of the request that it sends.
const CHANGES: [(&str, Method, Act); 6] = [
    ("restart", Method::POST, |ours| {
        Box::pin(async {
            let boot_id = get(ours, "one").await.unwrap().boot_id.unwrap();
            let node = one();
            carry(ours, NodeChange::Restart { node, boot_id }).await
        })
    }),
    ("powerOff", Method::POST, |ours| {
        Box::pin(async { ours.fence(&one()).await.map(drop) })
    }),
    ("start", Method::POST, |ours| {
        Box::pin(carry(ours, NodeChange::Start { node: one() }))
    }),
    ("deallocate", Method::POST, |ours| {
        Box::pin(carry(ours, NodeChange::Stop { node: one() }))
    }),
    ("/virtualMachines/one", Method::DELETE, |ours| {
        Box::pin(carry(ours, NodeChange::Delete { node: one() }))
    }),
    ("/virtualNetworks/", Method::DELETE, |ours| {
        Box::pin(ours.delete_shared())
    }),
];

/// Checks that an error that only a person can resolve is reported immediately, without retries.
async fn is_refused(azure: &AzureSimulator, code: &str, message: &str, hint: &str) {
    let ours = provider(azure, 1);
    carry(&ours, provision("one")).await.unwrap();
    for (path, method, act) in CHANGES {
        let refused = Fault::error(StatusCode::CONFLICT, code, message);
        let when = When::request(method, path).always();
        azure.faults().add(when, refused);
        let outcome = tokio::time::timeout(DEADLINE, act(&ours)).await;
        let error = outcome.unwrap().unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{path}: {error:?}");
        assert!(error.chain().contains(message), "{}", error.chain());
        assert!(error.hint().unwrap().contains(hint), "{path}: {error:?}");
        azure.faults().clear();
        act(&ours).await.unwrap();
    }
    assert_eq!(raw::everything(azure).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_lock_without_retries() {
    let message = "The scope cannot perform the operation because following scope(s) are locked. \
                   Please remove the lock and try again.";
    is_refused(&azure().await, "ScopeLocked", message, "az lock list").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_disabled_subscription_without_retries() {
    let message = "The subscription is disabled and therefore marked as read only.";
    let code = "ReadOnlyDisabledSubscription";
    is_refused(&azure().await, code, message, "enable the subscription").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeats_the_request_for_a_failed_interface() {
    let azure = azure().await;
    let fails = Fault::OperationFails {
        code: "InternalServerError".to_owned(),
        message: "An error occurred.".to_owned(),
    };
    azure.faults().add(steps::FIX_NIC.when(), fails);
    let ours = provider(&azure, 1);
    carry(&ours, provision("one")).await.unwrap();
    let asked = azure.requests().count(&steps::FIX_NIC.selector());
    assert_eq!(asked, 2);
    let interfaces = raw::list(&azure, "Microsoft.Network/networkInterfaces").await;
    let text = |pointer: &str| interfaces[0].pointer(pointer).unwrap().as_str().unwrap();
    assert_eq!(text("/properties/provisioningState"), "Succeeded");
    let method = "/properties/ipConfigurations/0/properties/privateIPAllocationMethod";
    assert_eq!(text(method), "Static");
    is_whole(&azure).await;
}

/// The first provision waits until the shared resources are ready.
#[tokio::test]
async fn reports_a_network_that_stays_updating() {
    let azure = azure().await;
    let when = steps::MAKE_NETWORK.when();
    azure.faults().add(when, Fault::NeverEnds);
    let ours = Azure::new(AzureOptions {
        poll_every: Duration::from_mins(1),
        ..options(&azure, 1)
    });
    // While time is paused, tokio advances it whenever all tasks are waiting.
    tokio::time::pause();
    let error = ours.unwrap().begin(provision("one")).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    assert!(error.to_string().contains("/virtualNetworks/"), "{error}");
    assert!(azure.requests().count(&steps::POLL_NETWORK.selector()) > 2);
}

/// Runs an operation whose only link is a `Location`. Polls of the link receive 202 and then
/// `last`.
async fn of_older_form(last: Fault) -> (AzureSimulator, Result<()>) {
    let azure = azure().await;
    let ours = provider(&azure, 1);
    carry(&ours, provision("one")).await.unwrap();
    let url = format!(
        "{}/subscriptions/s/providers/Microsoft.Compute/locations/l/operationresults/older",
        azure.secure_endpoint()
    );
    let accepted = || redirect(StatusCode::ACCEPTED, url.clone());
    azure
        .faults()
        .add(When::request(Method::POST, "deallocate"), accepted());
    let asked = || When::request(Method::GET, "/operationresults/older");
    azure.faults().add(asked().times(2), accepted());
    azure.faults().add(asked().nth(3), last);
    let change = NodeChange::Stop { node: one() };
    let mut operation = ours.begin(change).await.unwrap();
    let mut token: Value = serde_json::from_str(&operation.token).unwrap();
    for _ in 0..2 {
        let progress = ours.poll(&operation).await.unwrap();
        let goes_on = matches!(progress, CloudProgress::Running { .. });
        assert!(goes_on, "{progress:?}");
    }
    // As if the operation had begun long ago.
    token["since"] = json!("2020-01-01T00:00:00Z");
    operation.token = token.to_string();
    let outcome = ours.poll(&operation).await;
    assert_eq!(azure.faults().pending(), 0);
    let is_done = |progress| assert_eq!(progress, CloudProgress::Done);
    (azure, outcome.map(is_done))
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_an_operation_with_only_a_location() {
    for status in [StatusCode::OK, StatusCode::NO_CONTENT] {
        let over = redirect(status, String::new());
        of_older_form(over).await.1.unwrap();
    }
    let message = "Allocation failed.";
    let failed = Fault::error(StatusCode::CONFLICT, "AllocationFailed", message);
    let error = of_older_form(failed).await.1.unwrap_err();
    assert!(matches!(error, Error::Exhausted { .. }), "{error:?}");
    // Azure forgets an operation only long after its end. The node's observation shows the result.
    let message = "The entity was not found.";
    let gone = Fault::error(StatusCode::NOT_FOUND, "NotFound", message);
    let (azure, outcome) = of_older_form(gone).await;
    outcome.unwrap();
    let node = get(&provider(&azure, 1), "one").await.unwrap();
    assert_eq!(
        node.power,
        Power::Running,
        "the simulator never received the stop request"
    );
}

/// Returns an outdated list of a group's resources: it still contains a disk that was deleted with
/// its VM.
fn lagging() -> Fault {
    let disk = json!({
        "id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/one_OsDisk_1",
        "name": "one_OsDisk_1",
        "type": "Microsoft.Compute/disks",
        "location": "westeurope",
    });
    Fault::json(StatusCode::OK, &json!({ "value": [disk] }))
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_a_group_whose_list_of_resources_is_outdated() {
    let azure = azure().await;
    let ours = provider(&azure, 1);
    let list = || When::next(Selector::method(Method::GET).path_end("/resources"));
    carry(&ours, provision("one")).await.unwrap();
    carry(&ours, NodeChange::Delete { node: one() })
        .await
        .unwrap();
    azure.faults().add(list().times(3), lagging());
    ours.delete_shared().await.unwrap();
    assert_eq!(azure.faults().pending(), 0);
    assert_eq!(raw::everything(&azure).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_a_group_until_it_is_empty() {
    let azure = azure().await;
    let ours = provider(&azure, 1);
    let list = || When::next(Selector::method(Method::GET).path_end("/resources"));
    carry(&ours, provision("one")).await.unwrap();
    carry(&ours, NodeChange::Delete { node: one() })
        .await
        .unwrap();
    azure.faults().add(list().always(), lagging());
    ours.delete_shared().await.unwrap();
    azure.faults().clear();
    assert_eq!(raw::everything(&azure).await, ["resourceGroups"]);
    ours.delete_shared().await.unwrap();
    assert_eq!(raw::everything(&azure).await, Vec::<String>::new());
}
