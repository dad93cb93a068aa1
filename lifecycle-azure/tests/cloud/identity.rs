//! Tests that only the manager's VM has the identity with which the manager logs in.

use lifecycle_azure::simulator::SUBSCRIPTION;
use lifecycle_azure::{Azure, AzureOptions};
use lifecycle_core::model::NodeName;

use crate::raw;
use crate::support::{azure, carry, options, provision};

#[tokio::test(flavor = "multi_thread")]
async fn only_the_managers_vm_gets_the_identity() {
    let azure = azure().await;
    let id = format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/who/providers/Microsoft.ManagedIdentity\
         /userAssignedIdentities/manager"
    );
    let ours = Azure::new(AzureOptions {
        identity: Some(id.clone()),
        manager_node: Some(NodeName::try_from("one").unwrap()),
        ..options(&azure, 1)
    })
    .unwrap();
    for name in ["one", "two"] {
        carry(&ours, provision(name)).await.unwrap();
    }
    let vms = raw::list(&azure, "Microsoft.Compute/virtualMachines").await;
    assert_eq!(vms.len(), 2);
    for vm in vms {
        let is_manager = vm["name"] == "one";
        let identity = &vm["identity"];
        assert_eq!(identity["type"] == "UserAssigned", is_manager, "{vm:#}");
        let assigned = identity["userAssignedIdentities"].as_object();
        let has_it = assigned.is_some_and(|all| all.contains_key(&id));
        assert_eq!(has_it, is_manager, "{vm:#}");
    }
}
