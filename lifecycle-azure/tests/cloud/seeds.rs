//! Runs full lifecycles of a node while a fraction of all requests fails. A seed determines which
//! requests fail.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use lifecycle_azure::simulator::{AzureSimulator, Delays, FaultRates};
use lifecycle_core::cloud::{CloudProvider as _, NodeChange, Power};
use lifecycle_core::error::Retry;
use lifecycle_core::model::NodeName;
use lifecycle_core::{Error, Result};

use crate::raw::{self, is_whole};
use crate::secrets;
use crate::support::{azure_with, carry, get, provider, provision};

/// The number of seeds, unless [`SEEDS_VARIABLE`] is set.
const SEEDS: u64 = 12;
/// The environment variable that sets the number of seeds, for example `500`.
const SEEDS_VARIABLE: &str = "LIFECYCLE_TEST_SEEDS";
/// The environment variable that selects a single seed, to repeat its run.
const SEED_VARIABLE: &str = "LIFECYCLE_TEST_SEED";
/// The number of concurrent lifecycles. High, because lifecycles mostly wait.
const AT_ONCE: usize = 16;
/// The maximum number of attempts per lifecycle. More than any lifecycle needs at these rates.
const ATTEMPTS: usize = 200;

const RATES: FaultRates = FaultRates {
    throttled: 0.02,
    internal_error: 0.03,
    dropped: 0.03,
    answer_lost: 0.03,
    slow_operation: 0.05,
    slowness: Duration::from_millis(50),
    operation_fails: 0.04,
    allocation_fails: 0.04,
    ..FaultRates::NONE
};

fn one() -> NodeName {
    NodeName::try_from("one").unwrap()
}

/// The stages of a node's lifecycle.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Provision,
    Stop,
    Start,
    Delete,
    DeleteShared,
}

const LIFE: [Stage; 5] = [
    Stage::Provision,
    Stage::Stop,
    Stage::Start,
    Stage::Delete,
    Stage::DeleteShared,
];

/// Runs a stage with a new provider, as a new process would.
async fn attempt(azure: &AzureSimulator, stage: Stage) -> Result<()> {
    let ours = provider(azure, 1);
    let change = match stage {
        Stage::Provision => provision("one"),
        Stage::Stop => NodeChange::Stop { node: one() },
        Stage::Start => NodeChange::Start { node: one() },
        Stage::Delete => NodeChange::Delete { node: one() },
        Stage::DeleteShared => return ours.delete_shared().await,
    };
    carry(&ours, change).await
}

/// Returns whether a network fault or missing capacity may have caused the error, so that another
/// attempt may succeed.
fn may_be_tried_again(error: &Error) -> bool {
    matches!(error, Error::Exhausted { .. }) || error.retry() != Retry::Never
}

/// Returns whether two concurrent processes create the node: true for every second seed.
fn has_rival(seed: u64) -> bool {
    seed % 2 == 1
}

async fn live(seed: u64) -> usize {
    let azure = azure_with(|options| {
        options.delays = Delays::all(Duration::from_millis(20));
    })
    .await;
    azure.faults().seed(seed, RATES);
    let mut attempts = 0;
    for stage in LIFE {
        loop {
            attempts += 1;
            assert!(
                attempts < ATTEMPTS,
                "seed {seed}: stage {stage:?} needs too many attempts"
            );
            let is_made_by_two = has_rival(seed) && matches!(stage, Stage::Provision);
            let processes = if is_made_by_two { 2 } else { 1 };
            let outcomes = join_all((0..processes).map(|_| attempt(&azure, stage))).await;
            let errors: Vec<&Error> = outcomes
                .iter()
                .filter_map(|one| one.as_ref().err())
                .collect();
            for error in &errors {
                let told = error.chain();
                assert!(may_be_tried_again(error), "seed {seed}: {stage:?}: {told}");
                secrets::in_none(&secrets::planted(&azure), &[&told, &format!("{error:?}")]);
                if let Retry::After(after) = error.retry() {
                    tokio::time::sleep(after).await;
                }
            }
            if errors.is_empty() {
                break;
            }
        }
        if matches!(stage, Stage::Provision | Stage::Start) {
            azure.faults().clear();
            let node = get(&provider(&azure, 1), "one").await.unwrap();
            assert_eq!(node.power, Power::Running, "seed {seed}: {stage:?}");
            is_whole(&azure).await;
            azure.faults().seed(seed.wrapping_add(1 << 32), RATES);
        }
    }
    azure.faults().clear();
    assert_eq!(
        raw::everything(&azure).await,
        Vec::<String>::new(),
        "seed {seed}"
    );
    // Two processes do not learn from each other's responses, so one of them may send a request too
    // early.
    if !has_rival(seed) {
        assert_eq!(azure.requests().too_early(), [], "seed {seed}");
    }
    attempts
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_a_node_once_and_deletes_it_completely_despite_faults() {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap())
    };
    let seeds = match number(SEED_VARIABLE) {
        Some(seed) => seed..seed + 1,
        None => 0..number(SEEDS_VARIABLE).unwrap_or(SEEDS),
    };
    let attempts: Vec<usize> = stream::iter(seeds)
        .map(|seed| {
            let lived = tokio::spawn(live(seed));
            async move {
                let lived = lived.await;
                lived.unwrap_or_else(|error| panic!("{SEED_VARIABLE}={seed}: {error}"))
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let most = attempts.iter().max().unwrap();
    println!("{} seeds, at most {most} attempts", attempts.len());
    assert!(*most > LIFE.len(), "no faults occurred");
}
