//! How often Azure is asked.

use std::time::Duration;

use lifecycle_azure::simulator::{Fault, Selector, When};
use lifecycle_core::Error;
use lifecycle_core::cloud::CloudProvider as _;
use lifecycle_core::model::NodeName;

use crate::support::{azure, carry, provider, provision, writes};

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
