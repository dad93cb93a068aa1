//! What becomes of a node when Azure fails, or the process that makes it dies.

use http::Method;
use lifecycle_azure::simulator::{Fault, Selector, When};
use lifecycle_core::Error;
use lifecycle_core::cloud::{CloudProgress, CloudProvider as _, Hearing, NodeChange, Power};
use lifecycle_core::model::NodeName;

use crate::raw::is_whole;
use crate::support::{DEADLINE, LONG, azure, carry, get, pass, provider, provision};

const VM: &str = "/virtualMachines/one";

#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_removed_is_made_again() {
    let azure = azure().await;
    let (ours, other) = (provider(&azure, 1), provider(&azure, 1));
    carry(&ours, provision("one")).await.unwrap();
    let node = NodeName::try_from("one").unwrap();
    carry(&other, NodeChange::Delete { node }).await.unwrap();
    other.delete_shared().await.unwrap();
    // It still believes in the network; once.
    carry(&ours, provision("one")).await.unwrap_err();
    carry(&ours, provision("one")).await.unwrap();
    is_whole(&azure).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_made_is_fenced_at_once() {
    let azure = azure().await;
    azure
        .faults()
        .add(When::request(Method::PUT, VM), Fault::AllocationFailed);
    let ours = provider(&azure, 1);
    carry(&ours, provision("one")).await.unwrap_err();
    assert_eq!(get(&ours, "one").await.unwrap().power, Power::Failed);
    let node = NodeName::try_from("one").unwrap();
    tokio::time::timeout(DEADLINE, ours.fence(&node))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(get(&ours, "one").await.unwrap().power, Power::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_that_azure_cannot_carry_out_says_why() {
    let azure = azure().await;
    let ours = provider(&azure, 1);
    carry(&ours, provision("one")).await.unwrap();
    let fails = Fault::OperationFails {
        code: "InternalExecutionError".to_owned(),
        message: "An internal execution error occurred.".to_owned(),
    };
    azure
        .faults()
        .add(When::request(Method::POST, "powerOff"), fails);
    let node = NodeName::try_from("one").unwrap();
    let error = ours.fence(&node).await.unwrap_err();
    assert!(
        error.chain().contains("InternalExecutionError"),
        "{}",
        error.chain()
    );
    ours.fence(&node).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_can_neither_be_made_nor_removed_says_so() {
    let azure = azure().await;
    azure
        .faults()
        .add(When::request(Method::PUT, VM), Fault::AllocationFailed);
    let ours = provider(&azure, 1);
    carry(&ours, provision("one")).await.unwrap_err();
    let fails = Fault::OperationFails {
        code: "InternalExecutionError".to_owned(),
        message: "An internal execution error occurred.".to_owned(),
    };
    azure.faults().add(When::request(Method::DELETE, VM), fails);
    let error = carry(&ours, provision("one")).await.unwrap_err();
    assert!(error.chain().contains("removing VM one"), "{error:?}");
    carry(&ours, provision("one")).await.unwrap();
    is_whole(&azure).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stays_creating_is_said_to_be_so_until_somebody_gives_up() {
    let azure = azure().await;
    azure
        .faults()
        .add(When::request(Method::PUT, VM), Fault::NeverEnds);
    let ours = provider(&azure, 1);
    let operation = ours.begin(provision("one")).await.unwrap();
    let progress = ours.poll(&operation).await.unwrap();
    let CloudProgress::Running {
        says: Some(says), ..
    } = progress
    else {
        panic!("{progress:?}");
    };
    assert!(says.contains("Creating"), "{says}");
    assert_eq!(get(&ours, "one").await.unwrap().power, Power::Starting);
    // Given up: it is deleted, and made anew.
    let node = NodeName::try_from("one").unwrap();
    carry(&ours, NodeChange::Delete { node }).await.unwrap();
    carry(&ours, provision("one")).await.unwrap();
    is_whole(&azure).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_sees_a_change_through_that_was_begun() {
    let azure = azure().await;
    let operation = provider(&azure, 1).begin(provision("one")).await.unwrap();
    let hearing = Hearing::new(&|_| ());
    hearing
        .see_through(&provider(&azure, 1), &operation)
        .await
        .unwrap();
    is_whole(&azure).await;
}

/// The process that began a restart died; whoever asks again is not told that it is over.
#[tokio::test]
async fn a_restart_that_goes_on_is_waited_for_and_not_begun_anew() {
    let azure = azure().await;
    let ours = provider(&azure, 1);
    carry(&ours, provision("one")).await.unwrap();
    let before = get(&ours, "one").await.unwrap();
    let change = NodeChange::Restart {
        node: before.name.clone(),
        boot_id: before.boot_id.clone().unwrap(),
    };
    let restart = || When::request(Method::POST, "restart");
    let slow = Fault::SlowOperation(LONG);
    azure.faults().add(restart(), slow);
    ours.begin(change.clone()).await.unwrap();
    let other = provider(&azure, 1);
    let operation = other.begin(change).await.unwrap();
    let progress = other.poll(&operation).await.unwrap();
    assert!(
        matches!(progress, CloudProgress::Running { .. }),
        "{progress:?}"
    );
    pass(LONG).await;
    let hearing = Hearing::new(&|_| ());
    hearing.see_through(&other, &operation).await.unwrap();
    let after = get(&other, "one").await.unwrap();
    assert_eq!(after.power, Power::Running);
    assert_ne!(after.boot_id, before.boot_id);
    let begun = azure
        .requests()
        .count(&Selector::method(Method::POST).path("restart"));
    assert_eq!(begun, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_leads_elsewhere_is_not_followed() {
    let azure = azure().await;
    let ours = provider(&azure, 1);
    carry(&ours, provision("one")).await.unwrap();
    let node = NodeName::try_from("one").unwrap();
    let mut operation = ours.begin(NodeChange::Stop { node }).await.unwrap();
    operation.token =
        r#"{"wait":"operation","url":"https://elsewhere.example/operations/1"}"#.into();
    let error = ours.poll(&operation).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
}
