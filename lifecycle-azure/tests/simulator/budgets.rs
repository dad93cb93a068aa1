//! Azure's budgets: counted always, enforced when asked for.

use std::time::Duration;

use lifecycle_azure::simulator::SimulatorOptions;
use serde_json::json;

use super::azure::{Azure, machine};

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
async fn answers_say_what_is_left() {
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
async fn a_vm_takes_twelve_actions_at_once_and_four_a_minute() {
    let azure = with_machine(true).await;
    for _ in 0..12 {
        azure.post(&machine("vm/start")).await.is(202);
    }
    let refused = azure.post(&machine("vm/start")).await.is(429);
    assert_eq!(refused.body["details"][0]["code"], "TooManyRequests");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    // It has a budget of its own for being created and changed.
    azure
        .patch(&machine("vm"), &json!({"tags": {}}))
        .await
        .is(200);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(wait)).await;
    tokio::time::resume();
    azure.post(&machine("vm/start")).await.is(202);
}

#[tokio::test]
async fn without_being_enforced_they_are_counted() {
    let azure = with_machine(false).await;
    for _ in 0..15 {
        azure.post(&machine("vm/start")).await.is(202);
    }
    let readings = azure.simulator.budgets();
    let actions = readings
        .iter()
        .find(|one| one.name.starts_with("VMActions /subscriptions/"))
        .unwrap();
    assert_eq!((actions.requests, actions.beyond, actions.left), (15, 3, 0));
}

#[tokio::test]
async fn reads_run_out_too() {
    let options = SimulatorOptions {
        enforce_budgets: true,
        ..SimulatorOptions::default()
    };
    let azure = Azure::with(options).await;
    let asked = futures_util::future::join_all((0..300).map(|_| azure.get("/locations"))).await;
    let refused: Vec<_> = asked.iter().filter(|answer| answer.status == 429).collect();
    assert!(!refused.is_empty());
    assert_eq!(refused[0].code(), "SubscriptionRequestsThrottled");
    assert!(refused[0].header("retry-after").parse::<u64>().unwrap() >= 1);
}
