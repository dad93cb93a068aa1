//! A process that makes a node dies at any moment, and another one goes on.

use futures_util::{StreamExt as _, stream};
use lifecycle_azure::simulator::{Fault, Selector, When};

use crate::raw::is_whole;
use crate::steps::{self, PROVISION, Step, one_is_lost};
use crate::support::{azure, carry, provider, provision};

/// How many cases run at once: most of their time they wait.
const AT_ONCE: usize = 8;

/// Provisions in a process that dies once the answer to the `nth` request of a kind is lost, and
/// then in another one. Whether there was such a request.
async fn dies(step: &Step, nth: usize) -> bool {
    let azure = azure().await;
    let when = When::next(step.selector()).nth(nth);
    azure.faults().add(when, Fault::AnswerLost);
    let first = provider(&azure, 1);
    tokio::select! {
        () = one_is_lost(&azure) => {}
        // It may see that the answer is lost before it dies of it.
        outcome = carry(&first, provision("one")) => if azure.faults().pending() > 0 {
            outcome.unwrap();
            return false;
        }
    }
    carry(&provider(&azure, 1), provision("one")).await.unwrap();
    is_whole(&azure).await;
    true
}

/// By kinds of requests and not by their number: how often Azure is polled is not the same in
/// every run.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_after_any_request_is_followed_by_one_that_goes_on() {
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
    // What takes its time was asked for again, and answers to that were lost too.
    for polled in [steps::VM, steps::RULES, steps::NETWORK, steps::NIC] {
        let position = PROVISION.iter().position(|step| *step == polled).unwrap();
        assert!(struck[position] >= 2, "{polled:?}");
    }
}
