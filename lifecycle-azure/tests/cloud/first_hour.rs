//! Tests situations of the first hour on Azure, as public bug reports describe them: roles and
//! resources that are new, errors inside errors, and VMs of other people.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, StatusCode};
use lifecycle_azure::simulator::{AzureSimulator, Fault, Selector, When};
use lifecycle_azure::{Azure, AzureOptions, RoleWait};
use lifecycle_core::Error;
use lifecycle_core::cloud::{CloudProvider as _, NodeChange, Power};
use lifecycle_core::model::NodeName;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::raw::{self, is_whole};
use crate::steps;
use crate::support::{azure, azure_with, carry, get, options, provider, provision, spec};

const DENIED: &str = "The client 'a' with object id 'b' does not have authorization to perform \
                      action 'Microsoft.Compute/virtualMachines/write' over scope '/c' or the \
                      scope is invalid. If access was recently granted, please refresh your \
                      credentials.";

fn one() -> NodeName {
    NodeName::try_from("one").unwrap()
}

fn denial(code: &str) -> Fault {
    Fault::error(StatusCode::FORBIDDEN, code, DENIED)
}

/// Returns a provider that waits for role assignments, and the lines that it reports.
fn waiting(azure: &AzureSimulator, every: Duration) -> (Azure, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&lines);
    let mut wait = RoleWait::for_all(move |line| kept.lock().unwrap().push(line.to_owned()));
    wait.every = every;
    let options = AzureOptions {
        role_wait: Some(wait),
        ..options(azure, 1)
    };
    (Azure::new(options).unwrap(), lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_until_a_new_role_takes_effect() {
    for (step, code) in [
        (steps::MAKE_GROUP, "AuthorizationFailed"),
        (steps::VMS, "AuthorizationFailed"),
        (steps::MAKE_VM, "LinkedAuthorizationFailed"),
        (steps::FIX_NIC, "AuthorizationFailed"),
    ] {
        let azure = azure().await;
        azure.faults().add(step.when().times(3), denial(code));
        let (ours, lines) = waiting(&azure, Duration::from_millis(10));
        ours.preflight(&[spec("one")]).await.unwrap();
        carry(&ours, provision("one")).await.unwrap();
        is_whole(&azure).await;
        assert_eq!(azure.faults().pending(), 0, "{}", step.name);
        let lines = lines.lock().unwrap();
        let [line] = lines.as_slice() else {
            panic!("{}: {lines:?}", step.name);
        };
        assert!(
            line.contains("`Microsoft.Compute/virtualMachines/write`")
                && line.contains("up to 10 minutes")
                && line.contains("trying again until"),
            "{line}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_missing_role_at_once_without_a_wait() {
    let azure = azure().await;
    let first = Selector::method(Method::GET).path_end(lifecycle_azure::simulator::SUBSCRIPTION);
    for step in [first, steps::VMS.selector()] {
        azure.faults().clear();
        azure.faults().add(
            When::next(step.clone()).always(),
            denial("AuthorizationFailed"),
        );
        azure.requests().clear();
        let error = provider(&azure, 1)
            .preflight(&[spec("one")])
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error:?}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("up to 10 minutes"), "{hint}");
        assert!(
            azure.requests().count(&step) <= 2,
            "the list has two requests"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_denials_end_at_once() {
    for code in ["RequestDisallowedByPolicy", "DisabledSubscription"] {
        let azure = azure().await;
        azure
            .faults()
            .add(steps::MAKE_VM.when().always(), denial(code));
        let (ours, lines) = waiting(&azure, Duration::from_millis(10));
        let error = carry(&ours, provision("one")).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error:?}");
        assert_eq!(azure.requests().count(&steps::MAKE_VM.selector()), 1);
        assert_eq!(*lines.lock().unwrap(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_role_that_never_takes_effect_is_reported_after_ten_minutes() {
    let azure = azure().await;
    let when = steps::MAKE_GROUP.when().always();
    azure.faults().add(when, denial("AuthorizationFailed"));
    let (ours, _) = waiting(&azure, Duration::from_secs(30));
    tokio::time::pause();
    let begun = Instant::now();
    let error = ours.begin(provision("one")).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    let took = begun.elapsed().as_secs();
    assert!((600..700).contains(&took), "{took} s");
}

fn too_early(status: u16, code: &str) -> Fault {
    let status = StatusCode::from_u16(status).unwrap();
    Fault::error(status, code, "The resource was not found.")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_to_a_new_resource_is_repeated() {
    for (step, status, code) in [
        (steps::MAKE_VM, 400, "InvalidResourceReference"),
        (steps::MAKE_VM, 404, "ResourceNotFound"),
        (steps::MAKE_NETWORK, 400, "InvalidResourceReference"),
        (steps::MAKE_NETWORK, 404, "NotFound"),
        (steps::MAKE_RULES, 404, "ResourceGroupNotFound"),
        (steps::FIX_NIC, 404, "ResourceNotFound"),
        (steps::NIC, 404, "ResourceNotFound"),
    ] {
        let azure = azure().await;
        azure
            .faults()
            .add(step.when().times(3), too_early(status, code));
        let ours = provider(&azure, 1);
        let outcome = carry(&ours, provision("one")).await;
        outcome.unwrap_or_else(|error| panic!("{} {code}: {}", step.name, error.chain()));
        is_whole(&azure).await;
        assert_eq!(azure.faults().pending(), 0, "{} {code}", step.name);
        let interfaces = raw::list(&azure, "Microsoft.Network/networkInterfaces").await;
        let method = "/properties/ipConfigurations/0/properties/privateIPAllocationMethod";
        assert_eq!(interfaces[0].pointer(method), Some(&json!("Static")));
    }
}

/// Azure does not show a VM that it has just accepted.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_vm_may_be_invisible_at_first() {
    let azure = azure_with(|options| options.delays.create = Duration::from_millis(300)).await;
    let ours = provider(&azure, 1);
    let operation = ours.begin(provision("one")).await.unwrap();
    let none = Fault::json(StatusCode::OK, &json!({ "value": [] }));
    azure.faults().add(
        When::next(steps::VM.selector()).times(3),
        too_early(404, "ResourceNotFound"),
    );
    azure
        .faults()
        .add(When::next(steps::VMS.selector()).times(3), none);
    let listener = lifecycle_core::cloud::ProgressListener::new(&|_| ());
    listener.poll_to_end(&ours, &operation).await.unwrap();
    assert_eq!(azure.faults().pending(), 0);
    is_whole(&azure).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_operation_may_be_unknown_at_first() {
    let azure = azure_with(|options| {
        options.delays.deallocate = Duration::from_millis(300);
        options.delays.delete = Duration::from_millis(300);
    })
    .await;
    let ours = provider(&azure, 1);
    carry(&ours, provision("one")).await.unwrap();
    let unknown = || {
        let when = When::request(Method::GET, "/operations/").times(2);
        azure.faults().add(when, too_early(404, "NotFound"));
    };
    unknown();
    carry(&ours, NodeChange::Stop { node: one() })
        .await
        .unwrap();
    assert_eq!(get(&ours, "one").await.unwrap().power, Power::Stopped);
    unknown();
    carry(&ours, NodeChange::Start { node: one() })
        .await
        .unwrap();
    assert_eq!(get(&ours, "one").await.unwrap().power, Power::Running);
    unknown();
    carry(&ours, NodeChange::Delete { node: one() })
        .await
        .unwrap();
    assert_eq!(get(&ours, "one").await, None);
    assert_eq!(azure.vms().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_a_new_vm_may_be_invisible_at_first() {
    let azure = azure().await;
    let ours = provider(&azure, 1);
    carry(&ours, provision("one")).await.unwrap();
    for step in [steps::PUBLIC, steps::NIC] {
        azure
            .faults()
            .add(step.when().times(2), too_early(404, "ResourceNotFound"));
        let node = get(&ours, "one").await.unwrap();
        assert!(node.addresses.public.is_some(), "{}: {node:?}", step.name);
        assert_eq!(azure.faults().pending(), 0);
    }
}

#[tokio::test]
async fn a_reference_that_stays_invalid_is_reported() {
    for step in [steps::MAKE_VM, steps::MAKE_NETWORK] {
        let azure = azure().await;
        let fault = too_early(400, "InvalidResourceReference");
        azure.faults().add(step.when().always(), fault);
        let ours = Azure::new(AzureOptions {
            poll_every: Duration::from_secs(5),
            ..options(&azure, 1)
        })
        .unwrap();
        tokio::time::pause();
        let begun = Instant::now();
        let error = ours.begin(provision("one")).await.unwrap_err();
        assert!(
            error.chain().contains("InvalidResourceReference"),
            "{error:?}"
        );
        let took = begun.elapsed().as_secs();
        assert!((100..300).contains(&took), "{}: {took} s", step.name);
        tokio::time::resume();
    }
}

/// Returns an error whose cause is nested in it.
fn nested(code: &str, message: &str) -> Value {
    json!({ "error": {
        "code": "DeploymentFailed",
        "message": "At least one operation failed.",
        "details": [{
            "code": "Conflict",
            "message": "The write operation failed.",
            "innererror": { "code": code, "message": message },
        }],
    }})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_shows_its_deepest_cause_first() {
    let is_expected = |error: &Error| matches!(error, Error::Exhausted { .. });
    for step in [steps::MAKE_VM, steps::START] {
        let azure = azure().await;
        let ours = provider(&azure, 1);
        let mut change = provision("one");
        if step == steps::START {
            carry(&ours, change).await.unwrap();
            carry(&ours, NodeChange::Stop { node: one() })
                .await
                .unwrap();
            change = NodeChange::Start { node: one() };
        }
        let body = nested("SubnetIsFull", "The subnet has no free address.");
        azure
            .faults()
            .add(step.when(), Fault::json(StatusCode::CONFLICT, &body));
        let error = carry(&ours, change).await.unwrap_err();
        assert!(is_expected(&error), "{error:?}");
        let chain = error.chain();
        assert!(
            chain.contains(
                ": SubnetIsFull: The subnet has no free address.; Conflict: The write operation \
                 failed. (in DeploymentFailed: At least one operation failed.)"
            ),
            "{chain}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_with_a_nodes_name_in_another_group_is_ignored() {
    let azure = azure().await;
    let ours = provider(&azure, 1);
    for number in [3, 4] {
        carry(&provider(&azure, number), provision("one"))
            .await
            .unwrap();
        raw::strip_all_tags(&azure).await;
        assert_eq!(get(&ours, "one").await, None);
        assert_eq!(
            ours.preflight(&[spec("one")]).await.unwrap().problems,
            Vec::<String>::new()
        );
    }
    carry(&ours, provision("one")).await.unwrap();
    let node = get(&ours, "one").await.unwrap();
    assert!(node.created, "{node:?}");
    ours.fence(&one()).await.unwrap();
    carry(&ours, NodeChange::Delete { node: one() })
        .await
        .unwrap();
    assert_eq!(azure.vms().len(), 2, "foreign VMs must not be deleted");
}

/// docs/azure.md lists these tags.
#[tokio::test(flavor = "multi_thread")]
async fn all_parts_of_a_node_have_the_platforms_tags() {
    for public_ip in [true, false] {
        let azure = azure().await;
        let options = AzureOptions {
            public_ip,
            ..options(&azure, 1)
        };
        let id = options.owner.id.to_string();
        carry(&Azure::new(options).unwrap(), provision("one"))
            .await
            .unwrap();
        for (kind, count) in [
            ("Microsoft.Compute/virtualMachines", 1),
            ("Microsoft.Compute/disks", 1),
            ("Microsoft.Network/networkInterfaces", 1),
            (
                "Microsoft.Network/publicIPAddresses",
                usize::from(public_ip),
            ),
        ] {
            let found = raw::list(&azure, kind).await;
            assert_eq!(found.len(), count, "{kind}");
            for one in found {
                let tags = &one["tags"];
                assert_eq!(tags["lifecycle.platform"], "demo", "{kind}: {tags}");
                assert_eq!(tags["lifecycle.platform-id"], id, "{kind}: {tags}");
                assert_eq!(tags["lifecycle.node"], "one", "{kind}: {tags}");
            }
        }
    }
}
