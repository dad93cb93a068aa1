//! Injects every fault in every step of a node's lifecycle. Checks the result and its message, and
//! checks that the next run creates the node exactly once. The results are published as a page of
//! the documentation.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use lifecycle_azure::Azure;
use lifecycle_azure::simulator::{AzureSimulator, Delays};
use lifecycle_core::cloud::{CloudProgress, CloudProvider as _, NodeChange, Power};
use lifecycle_core::error::Retry;
use lifecycle_core::model::NodeName;
use lifecycle_core::{Error, Result};

use crate::fault_cases::{Case, Expected, cases};
use crate::fault_page::Row;
use crate::raw::{self, is_whole};
use crate::steps::{self, Step};
use crate::support::{azure_with, carry, get, provider, provision};
use crate::{fault_page, secrets};

/// The number of concurrent cases. High, because cases mostly wait.
const AT_ONCE: usize = 16;

/// The result of a run.
enum Ended {
    Usable,
    Error(Error),
    Lasts(String),
}

fn one() -> NodeName {
    NodeName::try_from("one").unwrap()
}

/// Returns the change that contains `step`.
fn change(step: &Step) -> NodeChange {
    if *step == steps::START || *step == steps::POLL_START {
        NodeChange::Start { node: one() }
    } else {
        provision("one")
    }
}

/// Applies a change and observes the node.
async fn run(azure: &AzureSimulator, change: NodeChange, lasts: bool) -> Ended {
    let ours = provider(azure, 1);
    let outcome: Result<Option<String>> = async {
        if lasts {
            let operation = ours.begin(change).await?;
            loop {
                let CloudProgress::Running { message, .. } = ours.poll(&operation).await? else {
                    return Ok(None);
                };
                if azure.faults().pending() == 0 {
                    return Ok(Some(message.unwrap_or_default()));
                }
                tokio::task::yield_now().await;
            }
        }
        carry(&ours, change).await?;
        ours.get(&one()).await?;
        Ok(None)
    }
    .await;
    match outcome {
        Ok(None) => Ended::Usable,
        Ok(Some(says)) => Ended::Lasts(says),
        Err(error) => Ended::Error(error),
    }
}

/// Returns the operation that an error refers to.
fn what(error: &Error) -> &str {
    match error {
        Error::Conflict { what, .. }
        | Error::Denied { what, .. }
        | Error::Throttled { what, .. }
        | Error::Exhausted { what, .. }
        | Error::Failed { what, .. }
        | Error::Interrupted { what, .. } => what,
        other => panic!("{other:?}"),
    }
}

/// Returns the error and its hint as text for the page.
fn told(error: &Error) -> String {
    let hint = match (error.hint(), error.retry()) {
        (Some(hint), _) => hint.to_owned(),
        (None, Retry::After(Duration::ZERO) | Retry::Replan) => "run the command again".to_owned(),
        (None, Retry::After(after)) => format!("run the command again, not before {after:?}"),
        (None, Retry::Never) => panic!("the error has no hint: {error:?}"),
    };
    // Omit the operating system's texts for connection errors, which vary.
    let said = match error {
        Error::Interrupted { .. } if !error.chain().contains(": Service") => error.to_string(),
        _ => error.chain(),
    };
    format!("{} → {hint}", said.replacen(what(error), "…", 1))
}

async fn strike(case: &Case, step: &Step) -> Row {
    let place = format!("{} at `{}`", case.name, step.name);
    let azure = azure_with(|options| {
        options.delays = Delays::all(Duration::from_millis(20));
    })
    .await;
    let change = change(step);
    if matches!(change, NodeChange::Start { .. }) {
        let ours = provider(&azure, 1);
        carry(&ours, provision("one")).await.unwrap();
        carry(&ours, NodeChange::Stop { node: one() })
            .await
            .unwrap();
    }
    azure.faults().add(step.when(), (case.fault)());
    let lasts = matches!(case.expected, Expected::Lasts(_));
    let ended = run(&azure, change.clone(), lasts).await;
    assert_eq!(
        azure.faults().pending(),
        0,
        "{place}: the fault did not occur"
    );
    let outcome = match (&ended, &case.expected) {
        (Ended::Usable, Expected::Usable | Expected::Error(..)) => "the node is running".to_owned(),
        (Ended::Error(error), Expected::Error(is_expected, says)) => {
            assert!(is_expected(error), "{place}: {error:?}");
            let chain = error.chain();
            assert!(chain.contains(says), "{place}: {chain}");
            secrets::in_none(
                &secrets::planted(&azure),
                &[&chain, &format!("{error:?}"), &format!("{error}")],
            );
            told(error)
        }
        (Ended::Lasts(told), Expected::Lasts(says)) => {
            assert!(told.contains(says), "{place}: {told}");
            fault_page::lasts(told, &change)
        }
        (Ended::Error(error), _) => panic!("{place}: {}", error.chain()),
        _ => panic!("{place}: the result is not the expected one"),
    };
    if let Ended::Error(error) = &ended
        && let Retry::After(after) = error.retry()
    {
        tokio::time::sleep(after).await;
    }
    // Abandon the change.
    if lasts && matches!(change, NodeChange::Provision { .. }) {
        let delete = NodeChange::Delete { node: one() };
        carry(&provider(&azure, 1), delete).await.unwrap();
    }
    let next = provider(&azure, 1);
    goes_on(&azure, &next, change, &place).await;
    assert_eq!(azure.requests().too_early(), [], "{place}");
    Row {
        step: step.name,
        outcome,
    }
}

/// Checks that exactly one node runs after the next run, and that deleting everything leaves no
/// resources.
async fn goes_on(azure: &AzureSimulator, next: &Azure, change: NodeChange, place: &str) {
    let outcome = carry(next, change).await;
    outcome.unwrap_or_else(|error| panic!("{place}: the next run: {}", error.chain()));
    let node = get(next, "one").await.unwrap();
    assert_eq!(node.power, Power::Running, "{place}");
    is_whole(azure).await;
    carry(next, NodeChange::Delete { node: one() })
        .await
        .unwrap();
    next.delete_shared().await.unwrap();
    assert_eq!(
        raw::everything(azure).await,
        Vec::<String>::new(),
        "{place}"
    );
}

/// Run `UPDATE_DOCS=1 cargo nextest run -p lifecycle-azure --all-features fault_table` to rewrite
/// the page.
#[tokio::test(flavor = "multi_thread")]
async fn every_fault_ends_with_a_running_node_or_an_error_with_a_hint() {
    let cases: &'static [Case] = cases().leak();
    let cells = cases
        .iter()
        .flat_map(|case| case.steps.iter().map(move |step| (case, step)));
    let rows: Vec<(&str, Row)> = stream::iter(cells)
        .map(|(case, step)| {
            let struck = tokio::spawn(strike(case, step));
            async move { (case.name, struck.await.unwrap()) }
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let page = fault_page::page(cases, &rows);
    println!("{page}");
    fault_page::is(&page);
}
