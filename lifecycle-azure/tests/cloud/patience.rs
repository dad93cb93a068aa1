//! Tests that the provider polls no earlier than Azure allows, and reports the progress that Azure
//! returns.

use std::time::Duration;

use http::Method;
use lifecycle_azure::simulator::Selector;
use lifecycle_core::cloud::{CloudProgress, CloudProvider as _, NodeChange};
use lifecycle_core::model::NodeName;

use crate::support::{azure_with, carry, provider, provision, running};

#[tokio::test(flavor = "multi_thread")]
async fn does_not_poll_before_azure_allows_it() {
    let patience = Duration::from_mins(1);
    let azure = azure_with(|options| {
        options.poll_after = Some(patience);
        options.delays.deallocate = Duration::from_hours(1);
        options.delays.create = Duration::ZERO;
    })
    .await;
    let ours = provider(&azure, 1);
    let node = NodeName::try_from("one").unwrap();
    let operation = ours.begin(provision("one")).await.unwrap();
    let waits = |progress: CloudProgress| match progress {
        CloudProgress::Running { after, .. } => after.unwrap(),
        CloudProgress::Done => panic!("expected a change in progress"),
    };
    // A new process must respect the wait, too.
    let other = provider(&azure, 1);
    for provider in [&ours, &other] {
        let wait = waits(provider.poll(&operation).await.unwrap());
        assert!(wait <= patience && wait > Duration::ZERO, "{wait:?}");
    }
    let asked = || {
        azure
            .requests()
            .count(&Selector::method(Method::GET).path("/operations/"))
    };
    running(&ours, "one").await;
    let before = asked();
    let operation = ours.begin(NodeChange::Stop { node }).await.unwrap();
    for provider in [&ours, &other] {
        let wait = waits(provider.poll(&operation).await.unwrap());
        assert!(wait <= patience && wait > Duration::ZERO, "{wait:?}");
    }
    assert_eq!(asked(), before, "the provider polled too early");
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_azures_operation_status() {
    let azure = azure_with(|options| options.delays.deallocate = Duration::from_hours(1)).await;
    let ours = provider(&azure, 1);
    carry(&ours, provision("one")).await.unwrap();
    let node = NodeName::try_from("one").unwrap();
    let operation = ours.begin(NodeChange::Stop { node }).await.unwrap();
    let CloudProgress::Running { message, .. } = ours.poll(&operation).await.unwrap() else {
        panic!("expected a change in progress");
    };
    assert_eq!(message.as_deref(), Some("Azure reports InProgress"));
}
