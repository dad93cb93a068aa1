//! Tests throttling by Azure, and the number of requests for fifty nodes.

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use http::Method;
use lifecycle_azure::Azure;
use lifecycle_azure::simulator::{Fault, Recorded, Selector, When};
use lifecycle_core::cloud::{CloudProvider as _, NodeChange};
use lifecycle_core::model::NodeName;
use lifecycle_core::{Error, Result};

use crate::support::{LONG, azure, carry, pass, provider, provision};

fn one() -> NodeName {
    NodeName::try_from("one").unwrap()
}

/// Makes a change or a query that sends a request with this method.
async fn ask(ours: &Azure, method: &Method) -> Result<()> {
    match *method {
        Method::GET => ours.get(&one()).await.map(drop),
        Method::DELETE => ours
            .begin(NodeChange::Delete { node: one() })
            .await
            .map(drop),
        _ => ours.begin(NodeChange::Stop { node: one() }).await.map(drop),
    }
}

fn is_held(outcome: Result<()>) -> std::time::Duration {
    match outcome {
        Err(Error::Throttled {
            after: Some(after), ..
        }) => after,
        other => panic!("{other:?}"),
    }
}

/// Azure has separate limits for reads, writes (including actions), and deletes.
#[tokio::test]
async fn throttling_affects_only_requests_of_the_same_type() {
    for method in [Method::GET, Method::POST, Method::DELETE] {
        let azure = azure().await;
        let ours = provider(&azure, 1);
        carry(&ours, provision("one")).await.unwrap();
        let sent = || azure.requests().count(&Selector::method(method.clone()));
        let when = When::next(Selector::method(method.clone()).path("/virtualMachines"));
        azure
            .faults()
            .add(when, Fault::Throttled { retry_after: LONG });
        assert_eq!(is_held(ask(&ours, &method).await), LONG, "{method}");
        let before = sent();
        let left = is_held(ask(&ours, &method).await);
        assert!(left <= LONG && left > LONG / 2, "{method}: {left:?}");
        pass(LONG / 2).await;
        let left = is_held(ask(&ours, &method).await);
        assert!(left <= LONG / 2, "{method}: {left:?}");
        assert_eq!(sent(), before, "{method}: no request must be sent");
        if method != Method::GET {
            ours.list().await.unwrap();
        }
        pass(LONG / 2).await;
        ask(&ours, &method).await.unwrap();
        assert!(sent() > before, "{method}");
        assert_eq!(azure.requests().too_early(), []);
    }
}

/// Azure's limits apply per subscription, but each provider learns about throttling only from its
/// own responses.
#[tokio::test]
async fn each_provider_learns_about_throttling_itself() {
    let azure = azure().await;
    let (ours, other) = (provider(&azure, 1), provider(&azure, 1));
    for provider in [&ours, &other] {
        let when = When::next(Selector::method(Method::GET).path("/virtualMachines"));
        azure
            .faults()
            .add(when, Fault::Throttled { retry_after: LONG });
        assert_eq!(is_held(ask(provider, &Method::GET).await), LONG);
        assert_eq!(azure.faults().pending(), 0);
    }
}

/// One of Azure's buckets, with its size and its refill per second, as documented in "Understand
/// how Azure Resource Manager throttles requests" and "Troubleshooting API throttling errors –
/// Compute".
struct Bucket {
    name: &'static str,
    size: f64,
    per_second: f64,
    counts: fn(&Recorded) -> bool,
}

const BUCKETS: [Bucket; 4] = [
    Bucket {
        name: "reads",
        size: 250.0,
        per_second: 25.0,
        counts: |one| one.method == Method::GET,
    },
    Bucket {
        name: "writes",
        size: 200.0,
        per_second: 10.0,
        counts: |one| one.is_write() && one.method != Method::DELETE,
    },
    Bucket {
        name: "deletes",
        size: 200.0,
        per_second: 10.0,
        counts: |one| one.method == Method::DELETE,
    },
    Bucket {
        name: "creations and changes of the subscription's VMs",
        size: 1_500.0,
        per_second: 500.0 / 60.0,
        counts: |one| one.method == Method::PUT && one.path.contains("/virtualMachines/"),
    },
];

impl Bucket {
    fn is_of(&self, request: &Recorded) -> bool {
        request.path.starts_with("/subscriptions/") && (self.counts)(request)
    }
}

/// Returns how many requests arrived while the bucket was empty. The result is computed from the
/// requests alone, without the simulator's buckets.
fn beyond(bucket: &Bucket, requests: &[Recorded]) -> usize {
    let mut times: Vec<DateTime<Utc>> = requests
        .iter()
        .filter(|one| bucket.is_of(one))
        .map(|one| one.at)
        .collect();
    times.sort();
    let mut level = bucket.size;
    let mut count = 0;
    for (position, at) in times.iter().enumerate() {
        let before = times[position.saturating_sub(1)];
        let passed = (*at - before).to_std().unwrap().as_secs_f64();
        level = (level + passed * bucket.per_second).min(bucket.size) - 1.0;
        if level < 0.0 {
            count += 1;
        }
    }
    count
}

/// Creates and deletes fifty nodes concurrently. The simulator does not enforce rate limits in this
/// test, so the client must respect them by itself.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_concurrent_nodes_stay_within_rate_limits() {
    let azure = azure().await;
    let ours = provider(&azure, 1);
    let names: Vec<NodeName> = (1..=50)
        .map(|number| NodeName::try_from(format!("node-{number}")).unwrap())
        .collect();
    let made = names
        .iter()
        .map(|name| carry(&ours, provision(name.as_str())));
    for outcome in join_all(made).await {
        outcome.unwrap();
    }
    assert_eq!(ours.list().await.unwrap().len(), 50);
    let delete = |node: &NodeName| NodeChange::Delete { node: node.clone() };
    let deleted = names.iter().map(|name| carry(&ours, delete(name)));
    for outcome in join_all(deleted).await {
        outcome.unwrap();
    }
    ours.delete_shared().await.unwrap();
    let requests = azure.requests().all();
    for bucket in &BUCKETS {
        assert_eq!(beyond(bucket, &requests), 0, "{}", bucket.name);
    }
    // Also check the simulator's own buckets, some of which are per VM.
    for reading in azure.budgets() {
        assert_eq!(reading.beyond, 0, "{reading:?}");
    }
    let reads = requests.iter().filter(|one| BUCKETS[0].is_of(one)).count();
    let counted: u64 = azure
        .budgets()
        .iter()
        .filter(|one| one.name.starts_with("reads "))
        .map(|one| one.requests)
        .sum();
    assert_eq!(counted, u64::try_from(reads).unwrap());
    assert!(reads > 250, "{reads} reads do not exceed the bucket's size");
    println!("{} requests, {reads} of them reads", requests.len());
}
