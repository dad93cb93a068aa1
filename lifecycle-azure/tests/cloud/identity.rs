//! The manager's VM has an identity to log in with, and no other.

use lifecycle_azure::simulator::SUBSCRIPTION;
use lifecycle_azure::{Azure, AzureOptions};
use lifecycle_core::model::NodeName;

use crate::raw;
use crate::support::{azure, carry, options, provision};

#[tokio::test(flavor = "multi_thread")]
async fn the_managers_vm_alone_gets_the_identity() {
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
    let machines = raw::list(&azure, "Microsoft.Compute/virtualMachines").await;
    assert_eq!(machines.len(), 2);
    for machine in machines {
        let is_manager = machine["name"] == "one";
        let identity = &machine["identity"];
        assert_eq!(
            identity["type"] == "UserAssigned",
            is_manager,
            "{machine:#}"
        );
        let assigned = identity["userAssignedIdentities"].as_object();
        let has_it = assigned.is_some_and(|all| all.contains_key(&id));
        assert_eq!(has_it, is_manager, "{machine:#}");
    }
}
