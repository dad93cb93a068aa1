//! Tests nodes that can have one of several sizes in one of several zones. The first available
//! alternative is used.

use std::time::Duration;

use http::Method;
use lifecycle_azure::simulator::{AzureSimulator, Fault, Selector, When};
use lifecycle_azure::{Azure, AzureOptions};
use lifecycle_core::cloud::{
    CloudOperation, CloudProgress, CloudProvider as _, NodeChange, Power, ProgressListener,
};
use lifecycle_core::model::{NodeName, NodeSpec};
use lifecycle_core::{Error, Result};
use serde_json::Value;

use crate::raw;
use crate::support::{DEADLINE, azure, azure_with, carry, get, options, spec, writes};

const VM: &str = "/virtualMachines/one";
/// Two sizes of different families. With two zones, there are four alternatives.
const SIZES: [&str; 2] = ["Standard_D2s_v5", "Standard_B2s"];

fn choosy(azure: &AzureSimulator) -> Azure {
    Azure::new(AzureOptions {
        sizes: SIZES.map(str::to_owned).to_vec(),
        zones: vec!["1".to_owned(), "3".to_owned()],
        ..options(azure, 1)
    })
    .unwrap()
}

fn provision() -> NodeChange {
    NodeChange::Provision { spec: spec("one") }
}

/// Returns the sizes and zones of all VMs.
async fn kinds(azure: &AzureSimulator) -> Vec<(String, Option<String>)> {
    let vms = raw::list(azure, "Microsoft.Compute/virtualMachines").await;
    let kind = |vm: &Value| {
        let size = vm["properties"]["hardwareProfile"]["vmSize"].as_str();
        let zone = vm.pointer("/zones/0").and_then(Value::as_str);
        (size.unwrap().to_owned(), zone.map(str::to_owned))
    };
    vms.iter().map(kind).collect()
}

/// Returns the size and the zone of the only VM.
async fn kind(azure: &AzureSimulator) -> (String, Option<String>) {
    let mut kinds = kinds(azure).await;
    assert_eq!(kinds.len(), 1, "{kinds:?}");
    kinds.remove(0)
}

fn is(size: &str, zone: &str) -> (String, Option<String>) {
    (size.to_owned(), Some(zone.to_owned()))
}

/// Checks that exactly one node exists and no failed alternatives are recorded.
async fn is_whole(azure: &AzureSimulator) {
    raw::is_whole(azure).await;
    assert_eq!(notes(azure).await, Vec::<String>::new());
}

/// Returns the failed alternatives that are recorded on the network.
async fn notes(azure: &AzureSimulator) -> Vec<String> {
    let networks = raw::list(azure, "Microsoft.Network/virtualNetworks").await;
    let tags = networks
        .iter()
        .filter_map(|network| network["tags"].as_object());
    tags.flatten()
        .filter(|(key, _)| key.starts_with("lifecycle.tried"))
        .map(|(_, value)| value.as_str().unwrap().to_owned())
        .collect()
}

fn full(code: &str) -> Fault {
    Fault::OperationFails {
        code: code.to_owned(),
        message: "There is no room.".to_owned(),
    }
}

fn creations(azure: &AzureSimulator) -> usize {
    let all = writes(azure).into_iter();
    all.filter(|one| one.method == Method::PUT && one.path.contains(VM))
        .count()
}

/// Polls until the removal of the failed VM starts, then waits until the VM is deleted.
async fn until_removed(azure: &AzureSimulator, ours: &Azure, operation: &CloudOperation) {
    let removal = Selector::method(Method::DELETE).path(VM);
    while azure.requests().count(&removal) == 0 {
        ours.poll(operation).await.unwrap();
    }
    while !azure.vms().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tries_each_zone_before_the_next_size() {
    let azure = azure().await;
    let codes = [
        "AllocationFailed",
        "ZonalAllocationFailed",
        "OverconstrainedAllocationRequest",
    ];
    for (before, code) in codes.into_iter().enumerate() {
        let when = When::request(Method::PUT, VM).nth(before + 1);
        azure.faults().add(when, full(code));
    }
    let ours = choosy(&azure);
    let operation = ours.begin(provision()).await.unwrap();
    let mut seen = Vec::new();
    loop {
        // Use a new provider for each poll, so that no state can be kept in memory.
        let progress = choosy(&azure).poll(&operation).await.unwrap();
        let CloudProgress::Running { after, .. } = progress else {
            break;
        };
        // A failed VM exists until the next poll detects the failure.
        seen.extend(kinds(&azure).await);
        tokio::time::sleep(after.unwrap()).await;
    }
    seen.push(kind(&azure).await);
    seen.dedup();
    let all = SIZES.map(|size| [is(size, "1"), is(size, "3")]);
    assert_eq!(seen, all.concat());
    is_whole(&azure).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_alternative_creates_no_vm() {
    let azure = azure_with(|options| {
        options.restricted_sizes = vec![("westeurope".to_owned(), SIZES[0].to_owned())];
    })
    .await;
    carry(&choosy(&azure), provision()).await.unwrap();
    assert_eq!(kind(&azure).await, is(SIZES[1], "1"));
    assert_eq!(creations(&azure), 3);
    is_whole(&azure).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skips_a_family_without_quota() {
    let azure = azure_with(|options| {
        options.quotas.insert("standardDSv5Family".to_owned(), 1);
    })
    .await;
    let report = choosy(&azure).preflight(&[spec("one")]).await.unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    let [remark] = report.remarks.as_slice() else {
        panic!("{report:?}");
    };
    assert!(
        remark.starts_with("Node one will use size Standard_B2s in zone 1"),
        "{remark}"
    );
    assert!(report.predicted.is_some());
    carry(&choosy(&azure), provision()).await.unwrap();
    assert_eq!(kind(&azure).await, is(SIZES[1], "1"));
    is_whole(&azure).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_reports_a_missing_zone() {
    let azure = azure().await;
    let ours = Azure::new(AzureOptions {
        sizes: SIZES.map(str::to_owned).to_vec(),
        zones: vec!["7".to_owned()],
        ..options(&azure, 1)
    })
    .unwrap();
    let report = ours.preflight(&[spec("one")]).await.unwrap();
    let [problem] = report.problems.as_slice() else {
        panic!("{report:?}");
    };
    for size in SIZES {
        let part = format!(
            "westeurope does not offer size {size} in zone 7: choose one of the zones 1, 2, 3"
        );
        assert!(problem.contains(&part), "{part}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_the_sizes_declared_for_a_node() {
    let azure = azure_with(|options| {
        options.restricted_sizes = vec![("westeurope".to_owned(), "Standard_F2s_v2".to_owned())];
    })
    .await;
    let own = NodeSpec {
        size: Some("Standard_F2s_v2".to_owned()),
        alternatives: vec!["Standard_B2ms".to_owned()],
        ..spec("one")
    };
    let ours = choosy(&azure);
    let report = ours.preflight(std::slice::from_ref(&own)).await.unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    carry(&ours, NodeChange::Provision { spec: own })
        .await
        .unwrap();
    assert_eq!(kind(&azure).await, is("Standard_B2ms", "1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_all_failed_alternatives_and_starts_again_with_the_first() {
    let azure = azure().await;
    azure.faults().add(
        When::request(Method::PUT, VM).always(),
        full("AllocationFailed"),
    );
    let error = carry(&choosy(&azure), provision()).await.unwrap_err();
    assert!(matches!(error, Error::Exhausted { .. }), "{error:?}");
    let told = error.chain();
    for size in SIZES {
        for zone in ["1", "3"] {
            let part = format!("{size} in zone {zone} (AllocationFailed)");
            assert!(told.contains(&part), "{part}: {told}");
        }
    }
    assert!(error.hint().unwrap().contains("size"), "{error:?}");
    assert_eq!(creations(&azure), 4);
    azure.faults().clear();
    carry(&choosy(&azure), provision()).await.unwrap();
    assert_eq!(kind(&azure).await, is(SIZES[0], "1"));
    is_whole(&azure).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn does_not_try_another_size_after_other_errors() {
    let azure = azure().await;
    let when = When::request(Method::PUT, VM);
    azure.faults().add(when, full("OSProvisioningTimedOut"));
    let error = carry(&choosy(&azure), provision()).await.unwrap_err();
    assert!(
        error.chain().contains("OSProvisioningTimedOut"),
        "{error:?}"
    );
    assert_eq!(creations(&azure), 1);
    carry(&choosy(&azure), provision()).await.unwrap();
    assert_eq!(
        kind(&azure).await,
        is(SIZES[0], "1"),
        "the failure must not exclude the alternative"
    );
    is_whole(&azure).await;
}

/// The process dies after the failed VM is deleted and before the next VM is requested.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_continues_after_the_last_tried_alternative() {
    let azure = azure().await;
    let when = When::request(Method::PUT, VM);
    azure.faults().add(when, full("AllocationFailed"));
    let ours = choosy(&azure);
    let operation = ours.begin(provision()).await.unwrap();
    until_removed(&azure, &ours, &operation).await;
    assert_eq!(
        notes(&azure).await,
        [format!("{}/1 AllocationFailed", SIZES[0])]
    );
    carry(&choosy(&azure), provision()).await.unwrap();
    assert_eq!(kind(&azure).await, is(SIZES[0], "3"));
    is_whole(&azure).await;
}

/// A planner may delete a failed VM before it provisions the node again.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_failed_alternative_is_not_tried_again() {
    let azure = azure().await;
    let when = When::request(Method::PUT, VM);
    azure.faults().add(when, full("AllocationFailed"));
    let ours = choosy(&azure);
    ours.begin(provision()).await.unwrap();
    while get(&ours, "one").await.unwrap().power != Power::Failed {
        tokio::task::yield_now().await;
    }
    let node = NodeName::try_from("one").unwrap();
    carry(&ours, NodeChange::Delete { node }).await.unwrap();
    carry(&choosy(&azure), provision()).await.unwrap();
    assert_eq!(kind(&azure).await, is(SIZES[0], "3"));
    is_whole(&azure).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_node_removes_its_record_of_failed_alternatives() {
    let azure = azure().await;
    let when = When::request(Method::PUT, VM);
    azure.faults().add(when, full("AllocationFailed"));
    let ours = choosy(&azure);
    let operation = ours.begin(provision()).await.unwrap();
    until_removed(&azure, &ours, &operation).await;
    let node = NodeName::try_from("one").unwrap();
    carry(&ours, NodeChange::Delete { node }).await.unwrap();
    assert_eq!(notes(&azure).await, Vec::<String>::new());
}

/// The process dies after each of its requests in turn, and a new process repeats the same change.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_death_never_duplicates_a_node() {
    let stage = || async {
        let azure = azure().await;
        let when = When::request(Method::PUT, VM).times(2);
        azure.faults().add(when, full("ZonalAllocationFailed"));
        azure
    };
    let whole = stage().await;
    carry(&choosy(&whole), provision()).await.unwrap();
    assert_eq!(kind(&whole).await, is(SIZES[1], "1"));
    for method in [Method::PUT, Method::PATCH, Method::DELETE] {
        let of_method = || Selector::method(method.clone()).path("/subscriptions/");
        let changes = whole.requests().count(&of_method());
        assert!(changes >= 2, "{changes} of {method}");
        for number in 1..=changes {
            let azure = stage().await;
            let when = When::next(of_method()).nth(number);
            azure.faults().add(when, Fault::AnswerLost);
            let dying = async {
                let _: Result<()> = carry(&choosy(&azure), provision()).await;
                std::future::pending::<()>().await;
            };
            let lost = async {
                while azure.requests().count(&of_method()) < number {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                () = dying => {}
                () = lost => {}
                () = tokio::time::sleep(DEADLINE) => panic!("{method} {number} of {changes}"),
            }
            for run in 0.. {
                assert!(run < 5, "{method} {number}: the change never ends");
                if carry(&choosy(&azure), provision()).await.is_ok() {
                    break;
                }
            }
            let node = get(&choosy(&azure), "one").await.unwrap();
            assert_eq!(node.power, Power::Running);
            is_whole(&azure).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_continues_with_the_alternatives() {
    let azure = azure().await;
    let when = When::request(Method::PUT, VM).times(3);
    azure.faults().add(when, full("ZonalAllocationFailed"));
    let operation = choosy(&azure).begin(provision()).await.unwrap();
    let listener = ProgressListener::new(&|_| ());
    listener
        .poll_to_end(&choosy(&azure), &operation)
        .await
        .unwrap();
    assert_eq!(kind(&azure).await, is(SIZES[1], "3"));
    is_whole(&azure).await;
}
