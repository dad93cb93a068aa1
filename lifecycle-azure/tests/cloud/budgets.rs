//! Tests how many requests are sent to Azure.

use std::time::Duration;

use lifecycle_azure::simulator::{Fault, Selector, When};
use lifecycle_core::Error;
use lifecycle_core::cloud::CloudProvider as _;
use lifecycle_core::model::NodeName;

use crate::support::{azure, carry, provider, provision, writes};

#[tokio::test(flavor = "multi_thread")]
async fn existing_resources_are_not_written_again() {
    let azure = azure().await;
    carry(&provider(&azure, 1), provision("one")).await.unwrap();
    azure.requests().clear();
    let again = provider(&azure, 1);
    carry(&again, provision("one")).await.unwrap();
    again.list().await.unwrap();
    assert_eq!(writes(&azure), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_takes_the_same_number_of_requests_for_any_number_of_nodes() {
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
async fn waits_as_long_as_a_busy_server_requests() {
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
async fn bounds_an_excessive_wait() {
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
            panic!("expected a throttled request");
        };
        assert!(after <= Duration::from_hours(24), "{after:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_up_an_absent_node_takes_two_requests() {
    let azure = azure().await;
    let ours = provider(&azure, 1);
    let node = NodeName::try_from("one").unwrap();
    assert!(ours.get(&node).await.unwrap().is_none());
    let asked = azure
        .requests()
        .count(&Selector::any().path("/subscriptions/"));
    assert_eq!(asked, 2);
}
