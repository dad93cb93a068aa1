//! Tests fault injection.

use std::time::Duration;

use lifecycle_azure::simulator::{
    AzureSimulator, Fault, FaultRates, Outcome, Selector, SimulatorOptions, When,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::azure::{Azure, LOCATION, client, inline_vm, reply, token_request, vm};

/// A time that exceeds the duration of a test.
const WAIT: Duration = Duration::from_mins(7);

#[tokio::test]
async fn throttling_uses_the_format_of_the_requested_service() {
    let azure = Azure::start().await;
    azure.prepare().await;
    let throttled = || Fault::Throttled { retry_after: WAIT };
    azure.simulator.faults().add(
        When::request(Method::PUT, "/virtualMachines/vm"),
        throttled(),
    );
    let compute = azure.create("vm").await.is(429);
    assert_eq!(compute.header("retry-after"), "420");
    assert_eq!(
        compute.body["code"], "OperationNotAllowed",
        "the body must have no envelope, and must contain the code for an exceeded quota"
    );
    assert_eq!(compute.body["details"][0]["code"], "TooManyRequests");
    azure
        .simulator
        .faults()
        .add(When::request(Method::GET, "/resourceGroups"), throttled());
    let manager = azure.get("/resourceGroups").await;
    let manager = manager.refused(429, "SubscriptionRequestsThrottled");
    assert_eq!(manager.header("retry-after"), "420");
    assert_eq!(azure.simulator.faults().pending(), 0);
    azure.get(&vm("vm")).await.refused(404, "ResourceNotFound");
}

#[tokio::test]
async fn records_clients_that_retry_too_early() {
    let azure = Azure::start().await;
    let wait = Fault::Throttled { retry_after: WAIT };
    azure
        .simulator
        .faults()
        .add(When::request(Method::GET, "/locations"), wait);
    azure.get("/locations").await.is(429);
    azure.get("/resourceGroups").await.is(200);
    assert!(azure.simulator.requests().too_early().is_empty());
    azure.get("/locations").await.is(200);
    assert_eq!(azure.simulator.requests().too_early().len(), 1);
    azure.simulator.requests().clear();
    let wait = Fault::Throttled { retry_after: WAIT };
    azure
        .simulator
        .faults()
        .add(When::request(Method::GET, "/locations"), wait);
    azure.get("/locations").await.is(429);
    tokio::time::pause();
    tokio::time::advance(WAIT).await;
    tokio::time::resume();
    azure.get("/locations").await.is(200);
    assert!(azure.simulator.requests().too_early().is_empty());
}

#[tokio::test]
async fn a_dropped_request_has_no_effect_but_a_request_with_a_lost_response_has() {
    let azure = Azure::start().await;
    let put = |name: &str| {
        let path = format!("/resourceGroups/{name}");
        azure
            .request(Method::PUT, &path)
            .json(&json!({"location": LOCATION}))
    };
    azure
        .simulator
        .faults()
        .add(When::request(Method::PUT, "/a"), Fault::Dropped);
    azure
        .simulator
        .faults()
        .add(When::request(Method::PUT, "/b"), Fault::AnswerLost);
    assert!(put("a").send().await.is_err());
    assert!(put("b").send().await.is_err());
    azure.get("/resourceGroups/a").await.is(404);
    azure.get("/resourceGroups/b").await.is(200);
    let selector = Selector::method(Method::PUT);
    for dropped in azure.simulator.requests().matching(&selector) {
        assert_eq!(dropped.outcome, Outcome::Dropped);
    }
}

#[tokio::test]
async fn any_response_can_be_injected() {
    let azure = Azure::start().await;
    let denied = Fault::error(StatusCode::FORBIDDEN, "AuthorizationFailed", "No role.");
    let when = When::next(Selector::any().path_end("/resourceGroups")).times(2);
    azure.simulator.faults().add(when, denied);
    for _ in 0..2 {
        azure
            .get("/resourceGroups")
            .await
            .refused(403, "AuthorizationFailed");
    }
    azure.get("/resourceGroups").await.is(200);
    // Token requests must also be affected.
    let broken = Fault::error(
        StatusCode::SERVICE_UNAVAILABLE,
        "temporarily_unavailable",
        "",
    );
    azure
        .simulator
        .faults()
        .add(When::request(Method::POST, "/token"), broken);
    let request = token_request(&azure.client, &azure.simulator.endpoint());
    reply(request).await.is(503);
}

#[tokio::test]
async fn operations_take_the_configured_time() {
    let azure = Azure::start().await;
    azure.prepare().await;
    let slow = Fault::SlowOperation(Duration::from_mins(40));
    azure
        .simulator
        .faults()
        .add(When::request(Method::PUT, "/virtualMachines/vm"), slow);
    let begun = azure.create("vm").await.is(201);
    let status = begun.header("azure-asyncoperation");
    assert_eq!(azure.get(status).await.body["status"], "InProgress");
    tokio::time::pause();
    tokio::time::advance(Duration::from_mins(39)).await;
    tokio::time::resume();
    assert_eq!(azure.get(status).await.body["status"], "InProgress");
    tokio::time::pause();
    tokio::time::advance(Duration::from_mins(1)).await;
    tokio::time::resume();
    Azure::succeeded(&azure.end(&begun).await);
}

#[tokio::test]
async fn a_slow_response_is_delayed() {
    let azure = Azure::start().await;
    let slow = Fault::SlowAnswer(Duration::from_millis(80));
    azure
        .simulator
        .faults()
        .add(When::request(Method::GET, "/locations"), slow);
    let begin = std::time::Instant::now();
    azure.get("/locations").await.is(200);
    assert!(begin.elapsed() >= Duration::from_millis(80));
}

/// Returns the results of 60 requests in a run with this seed.
async fn fates(seed: u64) -> Vec<Option<u16>> {
    let azure = Azure::start().await;
    azure
        .simulator
        .faults()
        .seed(seed, FaultRates::transient(0.1));
    let mut fates = Vec::new();
    for _ in 0..60 {
        let answer = azure.request(Method::GET, "/locations").send().await;
        fates.push(answer.ok().map(|answer| answer.status().as_u16()));
    }
    fates
}

#[tokio::test]
async fn a_seed_reproduces_a_run() {
    let first = fates(7).await;
    assert_eq!(first, fates(7).await);
    assert_ne!(first, fates(8).await);
    for fate in [None, Some(200), Some(429), Some(500)] {
        assert!(first.contains(&fate), "{fate:?} in {first:?}");
    }
}

/// Repeats a request until the response has one of these statuses.
async fn insist(azure: &Azure, method: Method, path: &str, body: &Value, good: &[u16]) {
    loop {
        let request = azure.request(method.clone(), path).json(body);
        let answered = request.send().await.map(|answer| answer.status().as_u16());
        if answered.is_ok_and(|status| good.contains(&status)) {
            return;
        }
    }
}

#[tokio::test]
async fn retries_succeed_and_leave_nothing_behind() {
    for seed in 0..4 {
        let azure = Azure::start().await;
        azure.prepare().await;
        azure
            .simulator
            .faults()
            .seed(seed, FaultRates::transient(0.1));
        for name in ["a", "b", "c"] {
            let body = inline_vm(name);
            insist(&azure, Method::PUT, &vm(name), &body, &[200, 201]).await;
        }
        assert_eq!(azure.simulator.vms().len(), 3, "seed {seed}");
        for name in ["a", "b", "c"] {
            let nothing = Value::Null;
            insist(&azure, Method::DELETE, &vm(name), &nothing, &[204]).await;
        }
        azure.simulator.faults().clear();
        let left = azure.get("/resources").await.is(200);
        let left = left.body["value"].as_array().unwrap().clone();
        assert_eq!(
            left.len(),
            1,
            "seed {seed}: only the network should remain: {left:?}"
        );
    }
}

#[tokio::test]
async fn tests_can_wait_for_requests() {
    let azure = Azure::start().await;
    let requests = azure.simulator.requests().clone();
    let selector = Selector::method(Method::GET).path("/locations");
    let waiting = tokio::spawn(async move { requests.ended(&selector, 2).await.len() });
    azure.get("/locations").await.is(200);
    azure.get("/locations").await.is(200);
    assert_eq!(waiting.await.unwrap(), 2);
    assert!(azure.simulator.requests().writes().is_empty());
}

#[tokio::test]
async fn a_stopped_simulator_does_not_respond() {
    let simulator = AzureSimulator::start(SimulatorOptions::default())
        .await
        .unwrap();
    let client = client(&simulator);
    let (http, https) = (simulator.endpoint(), simulator.secure_endpoint());
    reply(token_request(&client, &http)).await.is(200);
    simulator.stop().await;
    for endpoint in [http, https] {
        assert!(client.get(endpoint).send().await.is_err());
    }
}
