//! How often Azure is asked.

use std::time::Duration;

use futures_util::future::join_all;
use lifecycle_azure::simulator::{Fault, Selector, When};
use lifecycle_core::Error;
use lifecycle_core::cloud::CloudProvider as _;
use lifecycle_core::model::NodeName;

use crate::support::{LONG, azure, azure_with, carry, pass, provider, provision, writes};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_not_written_again() {
    let azure = azure().await;
    carry(&provider(&azure, 1), provision("one")).await.unwrap();
    azure.requests().clear();
    let again = provider(&azure, 1);
    carry(&again, provision("one")).await.unwrap();
    again.list().await.unwrap();
    assert_eq!(writes(&azure), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_takes_as_many_requests_for_many_nodes_as_for_one() {
    let azure = azure().await;
    let provider = provider(&azure, 1);
    carry(&provider, provision("one")).await.unwrap();
    let listed = async |count| {
        azure.requests().clear();
        assert_eq!(provider.list().await.unwrap().len(), count);
        azure
            .requests()
            .count(&Selector::any().path("/subscriptions/"))
    };
    let one = listed(1).await;
    for name in ["two", "three", "four"] {
        carry(&provider, provision(name)).await.unwrap();
    }
    assert_eq!(listed(4).await, one);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_nodes_at_once_stay_within_azures_budgets() {
    let azure = azure_with(|options| options.enforce_budgets = true).await;
    let provider = provider(&azure, 1);
    let names: Vec<String> = (1..=50).map(|number| format!("node-{number}")).collect();
    let all = join_all(names.iter().map(|name| carry(&provider, provision(name)))).await;
    for outcome in all {
        outcome.unwrap();
    }
    assert_eq!(provider.list().await.unwrap().len(), 50);
    let refused = azure.requests().all();
    let refused = refused
        .iter()
        .filter(|one| one.status().is_some_and(|s| s == 429));
    assert_eq!(refused.count(), 0, "{:?}", azure.budgets());
}

#[tokio::test]
async fn nothing_is_sent_before_azure_allows_it() {
    let azure = azure().await;
    let provider = provider(&azure, 1);
    carry(&provider, provision("one")).await.unwrap();
    let retry_after = LONG;
    azure.faults().add(
        When::next(Selector::any().path("virtualMachines")),
        Fault::Throttled { retry_after },
    );
    let node = NodeName::try_from("one").unwrap();
    let refused = provider.get(&node).await.unwrap_err();
    let Error::Throttled {
        after: Some(after), ..
    } = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!(after, retry_after);
    let asked = azure.requests().all().len();
    let held = provider.list().await.unwrap_err();
    assert!(
        matches!(held, Error::Throttled { after: Some(_), .. }),
        "{held:?}"
    );
    assert_eq!(azure.requests().all().len(), asked, "it was not sent");
    pass(retry_after).await;
    provider.list().await.unwrap();
    assert_eq!(azure.requests().too_early(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_busy_is_left_alone_as_long_as_it_says() {
    let azure = azure().await;
    let ours = provider(&azure, 1);
    let vms = || When::next(Selector::any().path("virtualMachines"));
    azure
        .faults()
        .add(vms(), Fault::server_busy(Duration::from_mins(1)));
    let node = NodeName::try_from("one").unwrap();
    for _ in 0..2 {
        let error = ours.get(&node).await.unwrap_err();
        assert!(
            matches!(error, Error::Throttled { after: Some(_), .. }),
            "{error:?}"
        );
    }
    assert_eq!(azure.requests().too_early(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_no_clock_can_hold_is_cut() {
    let azure = azure().await;
    let ours = provider(&azure, 1);
    let retry_after = Duration::from_secs(u64::MAX);
    azure.faults().add(
        When::next(Selector::any().path("virtualMachines")),
        Fault::Throttled { retry_after },
    );
    let node = NodeName::try_from("one").unwrap();
    for _ in 0..2 {
        let Err(Error::Throttled {
            after: Some(after), ..
        }) = ours.get(&node).await
        else {
            panic!("it is throttled");
        };
        assert!(after <= Duration::from_hours(24), "{after:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_for_what_is_absent_takes_two_requests() {
    let azure = azure().await;
    let ours = provider(&azure, 1);
    let node = NodeName::try_from("one").unwrap();
    assert!(ours.get(&node).await.unwrap().is_none());
    let asked = azure
        .requests()
        .count(&Selector::any().path("/subscriptions/"));
    assert_eq!(asked, 2);
}
