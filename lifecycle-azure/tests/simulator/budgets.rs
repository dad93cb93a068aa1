//! Tests Azure's rate limits. Requests are always counted, but the limits are enforced only if a
//! test enables them.

use std::time::Duration;

use lifecycle_azure::simulator::SimulatorOptions;
use serde_json::json;

use super::azure::{Azure, vm};

async fn with_machine(enforce_budgets: bool) -> Azure {
    let options = SimulatorOptions {
        enforce_budgets,
        ..SimulatorOptions::default()
    };
    let azure = Azure::with(options).await;
    azure.prepare().await;
    let begun = azure.create("vm").await.is(201);
    azure.end(&begun).await;
    azure
}

#[tokio::test]
async fn responses_include_the_remaining_requests() {
    let azure = Azure::start().await;
    let read = azure.get("/locations").await;
    assert_eq!(
        read.header("x-ms-ratelimit-remaining-subscription-reads"),
        "249"
    );
    azure.prepare().await;
    let created = azure.create("vm").await.is(201);
    let left = created.header("x-ms-ratelimit-remaining-resource");
    assert_eq!(
        left,
        "Microsoft.Compute/PutVMSubscription;1499,Microsoft.Compute/PutVMResource;11"
    );
    assert!(!created.header("x-ms-request-id").is_empty());
}

#[tokio::test]
async fn a_vm_accepts_twelve_actions_at_once_and_four_per_minute() {
    let azure = with_machine(true).await;
    let mut taken = 0;
    // If requests are slow, the bucket refills in the meantime, and more than twelve requests
    // succeed.
    let refused = loop {
        let answer = azure.post(&vm("vm/start")).await;
        if answer.status != 202 {
            break answer.is(429);
        }
        taken += 1;
    };
    assert!(taken >= 12, "{taken}");
    assert_eq!(refused.body["details"][0]["code"], "TooManyRequests");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    // A separate limit applies to creating and changing the VM.
    azure.patch(&vm("vm"), &json!({"tags": {}})).await.is(200);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(wait)).await;
    tokio::time::resume();
    azure.post(&vm("vm/start")).await.is(202);
}

#[tokio::test]
async fn counts_requests_without_enforcing_limits() {
    let azure = with_machine(false).await;
    for _ in 0..15 {
        azure.post(&vm("vm/start")).await.is(202);
    }
    let readings = azure.simulator.budgets();
    let actions = readings
        .iter()
        .find(|one| one.name.starts_with("VMActions /subscriptions/"))
        .unwrap();
    assert_eq!((actions.requests, actions.left), (15, 0));
    // The number is lower if the bucket refills before the last request.
    assert!((1..=3).contains(&actions.beyond), "{actions:?}");
}

#[tokio::test]
async fn reads_are_also_limited() {
    let options = SimulatorOptions {
        enforce_budgets: true,
        ..SimulatorOptions::default()
    };
    let azure = Azure::with(options).await;
    // If requests are slow, the bucket refills in the meantime, and more requests than the limit
    // succeed.
    let refused = loop {
        let asked = (0..300).map(|_| azure.get("/locations"));
        let asked = futures_util::future::join_all(asked).await;
        if let Some(refused) = asked.into_iter().find(|answer| answer.status == 429) {
            break refused;
        }
    };
    assert_eq!(refused.code(), "SubscriptionRequestsThrottled");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
}
