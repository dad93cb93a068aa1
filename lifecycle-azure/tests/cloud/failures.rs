//! What becomes of a node when Azure fails, or the process that makes it dies.

use std::time::Duration;

use http::{Method, StatusCode};
use lifecycle_azure::simulator::{AzureSimulator, Fault, Selector, When};
use lifecycle_core::Error;
use lifecycle_core::cloud::{CloudProgress, CloudProvider as _, NodeChange, Power, see_through};
use lifecycle_core::error::Retry;
use lifecycle_core::model::NodeName;

use crate::raw::is_whole;
use crate::support::{DEADLINE, LONG, azure, carry, get, pass, provider, provision};

const VM: &str = "/virtualMachines/one";

/// Provisions with one fault in the way, as often as it is worth, and checks that the outcome is
/// one node.
async fn survives(when: When, fault: Fault) -> Option<Error> {
    let azure = azure().await;
    azure.faults().add(when, fault);
    let mut first = None;
    for _ in 0..5 {
        // A new process each time: nothing is remembered.
        match carry(&provider(&azure, 1), provision("one")).await {
            Ok(()) => break,
            Err(error) => {
                if let Retry::After(after) = error.retry() {
                    tokio::time::sleep(after).await;
                }
                first.get_or_insert(error);
            }
        }
    }
    assert_eq!(azure.faults().pending(), 0, "the fault struck");
    let node = get(&provider(&azure, 1), "one").await.unwrap();
    assert_eq!(node.power, Power::Running, "{first:?}");
    is_whole(&azure).await;
    first
}

/// The requests that make a node.
const STEPS: [&str; 4] = [
    "/resourceGroups/",
    "/networkSecurityGroups/",
    "/virtualNetworks/",
    VM,
];

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_and_connections_at_each_step() {
    for step in STEPS {
        for fault in [Fault::Dropped, Fault::AnswerLost] {
            let when = When::request(Method::PUT, step);
            survives(when, fault).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_and_server_errors_at_each_step() {
    for step in STEPS {
        let throttled = Fault::Throttled {
            retry_after: Duration::from_secs(1),
        };
        let error = survives(When::request(Method::PUT, step), throttled).await;
        assert!(matches!(error, Some(Error::Throttled { .. })), "{error:?}");
        let broken = Fault::error(StatusCode::SERVICE_UNAVAILABLE, "ServerTimeout", "later");
        let error = survives(When::request(Method::PUT, step), broken).await;
        assert!(
            matches!(error, Some(Error::Interrupted { .. })),
            "{error:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_capacity_names_its_mend_and_leaves_nothing_behind() {
    let when = || When::request(Method::PUT, VM);
    let error = survives(when(), Fault::AllocationFailed).await.unwrap();
    assert!(matches!(error, Error::Exhausted { .. }), "{error:?}");
    assert!(
        error.chain().contains("AllocationFailed"),
        "{}",
        error.chain()
    );
    assert!(error.hint().unwrap().contains("size"));
    let error = survives(when(), Fault::QuotaExceeded).await.unwrap();
    assert!(matches!(error, Error::Exhausted { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("quota"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_fails_names_its_cause() {
    let fails = Fault::OperationFails {
        code: "OSProvisioningTimedOut".to_owned(),
        message: "OS Provisioning for VM 'one' did not finish in the allotted time.".to_owned(),
    };
    let error = survives(When::request(Method::PUT, VM), fails)
        .await
        .unwrap();
    assert!(
        error.chain().contains("OSProvisioningTimedOut"),
        "{}",
        error.chain()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_could_not_be_made_is_made_anew() {
    for step in ["/networkSecurityGroups/", "/virtualNetworks/"] {
        let fails = Fault::OperationFails {
            code: "InternalServerError".to_owned(),
            message: "An error occurred.".to_owned(),
        };
        survives(When::request(Method::PUT, step), fails).await;
    }
}

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
async fn slow_ones_are_waited_for() {
    let slow = Fault::SlowOperation(Duration::from_secs(1));
    assert!(
        survives(When::request(Method::PUT, VM), slow)
            .await
            .is_none()
    );
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
    see_through(&provider(&azure, 1), &operation).await.unwrap();
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
    see_through(&other, &operation).await.unwrap();
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
