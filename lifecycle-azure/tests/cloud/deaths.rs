//! Tests that if a process dies while it provisions a node, another process continues.

use futures_util::{StreamExt as _, stream};
use lifecycle_azure::simulator::{Fault, Selector, When};

use crate::raw::is_whole;
use crate::steps::{self, PROVISION, Step, one_is_lost};
use crate::support::{azure, carry, provider, provision};

/// The number of concurrent cases. High, because cases mostly wait.
const AT_ONCE: usize = 8;

/// Provisions a node in a process that dies when the response to the `nth` request of a step is
/// lost. Then provisions the same node in another process. Returns whether the `nth` request was
/// sent.
async fn dies(step: &Step, nth: usize) -> bool {
    let azure = azure().await;
    let when = When::next(step.selector()).nth(nth);
    azure.faults().add(when, Fault::AnswerLost);
    let first = provider(&azure, 1);
    tokio::select! {
        () = one_is_lost(&azure) => {}
        // The process may notice the lost response before it dies.
        outcome = carry(&first, provision("one")) => if azure.faults().pending() > 0 {
            outcome.unwrap();
            return false;
        }
    }
    carry(&provider(&azure, 1), provision("one")).await.unwrap();
    is_whole(&azure).await;
    true
}

/// Iterates over the steps instead of over all requests, because the number of polls differs
/// between runs.
#[tokio::test(flavor = "multi_thread")]
async fn another_process_continues_after_a_death_at_any_request() {
    let whole = azure().await;
    carry(&provider(&whole, 1), provision("one")).await.unwrap();
    let all = Selector::any().path("/subscriptions/");
    for one in whole.requests().matching(&all) {
        let is_known = |step: &Step| step.selector().selects(&one.method, &one.path);
        assert!(PROVISION.iter().any(is_known), "{one:?}");
    }
    let struck: Vec<usize> = stream::iter(&PROVISION)
        .map(|step| async move {
            let mut nth = 1;
            while dies(step, nth).await {
                nth += 1;
            }
            nth - 1
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    for (step, struck) in PROVISION.iter().zip(&struck) {
        assert!(*struck >= 1, "{step:?}");
        println!("{}: died after {struck} such requests", step.name);
    }
    // Each of these steps polls repeatedly, so responses to later polls must have been lost, too.
    for polled in [steps::VM, steps::RULES, steps::NETWORK, steps::NIC] {
        let position = PROVISION.iter().position(|step| *step == polled).unwrap();
        assert!(struck[position] >= 2, "{polled:?}");
    }
}
