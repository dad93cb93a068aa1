//! Tests what happens to a node when Azure fails, or when the process that provisions the node
//! dies.

use http::Method;
use lifecycle_azure::simulator::{Fault, Selector, When};
use lifecycle_core::Error;
use lifecycle_core::cloud::{
    CloudProgress, CloudProvider as _, NodeChange, Power, ProgressListener,
};
use lifecycle_core::model::NodeName;

use crate::raw::is_whole;
use crate::support::{DEADLINE, LONG, azure, carry, get, pass, provider, provision};

const VM: &str = "/virtualMachines/one";

#[tokio::test(flavor = "multi_thread")]
async fn recreates_resources_that_another_process_removed() {
    let azure = azure().await;
    let (ours, other) = (provider(&azure, 1), provider(&azure, 1));
    carry(&ours, provision("one")).await.unwrap();
    let node = NodeName::try_from("one").unwrap();
    carry(&other, NodeChange::Delete { node }).await.unwrap();
    other.delete_shared().await.unwrap();
    // The provider remembers that the network exists, and checks again when Azure reports that it
    // does not.
    carry(&ours, provision("one")).await.unwrap();
    is_whole(&azure).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fences_a_failed_vm_at_once() {
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
async fn a_failed_fence_reports_the_reason() {
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
async fn reports_a_vm_that_can_be_neither_created_nor_removed() {
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
async fn reports_a_vm_that_stays_creating_until_the_change_is_abandoned() {
    let azure = azure().await;
    azure
        .faults()
        .add(When::request(Method::PUT, VM), Fault::NeverEnds);
    let ours = provider(&azure, 1);
    let operation = ours.begin(provision("one")).await.unwrap();
    let progress = ours.poll(&operation).await.unwrap();
    let CloudProgress::Running {
        message: Some(message),
        ..
    } = progress
    else {
        panic!("{progress:?}");
    };
    assert!(message.contains("Creating"), "{message}");
    assert_eq!(get(&ours, "one").await.unwrap().power, Power::Starting);
    // Abandon the change by deleting and re-creating the node.
    let node = NodeName::try_from("one").unwrap();
    carry(&ours, NodeChange::Delete { node }).await.unwrap();
    carry(&ours, provision("one")).await.unwrap();
    is_whole(&azure).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_completes_a_started_change() {
    let azure = azure().await;
    let operation = provider(&azure, 1).begin(provision("one")).await.unwrap();
    let listener = ProgressListener::new(&|_| ());
    listener
        .poll_to_end(&provider(&azure, 1), &operation)
        .await
        .unwrap();
    is_whole(&azure).await;
}

/// The process that started a restart dies. Another process must not report the restart as complete
/// too early.
#[tokio::test]
async fn waits_for_a_restart_in_progress() {
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
    let listener = ProgressListener::new(&|_| ());
    listener.poll_to_end(&other, &operation).await.unwrap();
    let after = get(&other, "one").await.unwrap();
    assert_eq!(after.power, Power::Running);
    assert_ne!(after.boot_id, before.boot_id);
    let begun = azure
        .requests()
        .count(&Selector::method(Method::POST).path("restart"));
    assert_eq!(begun, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_a_token_with_another_host() {
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
