//! Tests that the documented roles contain exactly the actions that the provider's requests need.

use std::collections::BTreeSet;
use std::path::Path;

use http::Method;
use lifecycle_azure::simulator::{AzureSimulator, Recorded};
use lifecycle_azure::{Azure, AzureOptions};
use lifecycle_core::cloud::{CloudProvider as _, NodeChange};
use lifecycle_core::model::{NodeName, Protocol, PublicPort, PublicPorts};
use serde_json::{Value, json};

use crate::raw;
use crate::support::{azure, carry, get, options, provision, spec};

const GROUP: &str = "lifecycle";

/// The actions that Azure requires although no request of the provider is for them: Azure creates,
/// joins, and deletes the parts of a VM with the VM itself.
const IMPLIED: [&str; 13] = [
    "Microsoft.Compute/disks/delete",
    "Microsoft.Compute/disks/write",
    "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action",
    "Microsoft.Network/networkInterfaces/delete",
    "Microsoft.Network/networkInterfaces/join/action",
    "Microsoft.Network/networkSecurityGroups/delete",
    "Microsoft.Network/networkSecurityGroups/join/action",
    "Microsoft.Network/networkSecurityGroups/securityRules/read",
    "Microsoft.Network/publicIPAddresses/delete",
    "Microsoft.Network/publicIPAddresses/join/action",
    "Microsoft.Network/virtualNetworks/delete",
    "Microsoft.Network/virtualNetworks/subnets/join/action",
    "Microsoft.Network/virtualNetworks/write",
];

/// Returns the actions of a role in `examples/azure`.
fn role(name: &str) -> BTreeSet<String> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/azure");
    let text = std::fs::read_to_string(examples.join(name)).unwrap();
    let role: Value = serde_json::from_str(&text).unwrap();
    let actions = role["Actions"].as_array().unwrap().iter();
    let actions: Vec<String> = actions
        .map(|one| one.as_str().unwrap().to_owned())
        .collect();
    assert!(actions.is_sorted(), "{name}: {actions:#?}");
    actions.into_iter().collect()
}

/// Returns the action that a request needs, in lower case, and whether the request is for the
/// resource group. Azure ignores the case of actions.
fn action(request: &Recorded) -> Option<(bool, String)> {
    let path = request.path.to_lowercase();
    let mut rest: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if rest.first() != Some(&"subscriptions") {
        return None;
    }
    rest.drain(..2);
    let in_group = rest.first() == Some(&"resourcegroups");
    if in_group {
        rest.drain(..2);
    }
    let verb = match request.method {
        Method::GET => "read",
        Method::PUT | Method::PATCH => "write",
        Method::DELETE => "delete",
        _ => "action",
    };
    let [first, namespace, parts @ ..] = rest.as_slice() else {
        let of = if in_group { "/resourcegroups" } else { "" };
        assert!(rest.is_empty(), "{path}");
        return Some((
            in_group,
            format!("microsoft.resources/subscriptions{of}/{verb}"),
        ));
    };
    assert_eq!(*first, "providers", "{path}");
    // Types and names alternate.
    let types: Vec<&str> = parts.iter().step_by(2).copied().collect();
    let types = types.join("/");
    Some((in_group, format!("{namespace}/{types}/{verb}")))
}

/// Sends every kind of request to Azure, for a platform in an existing resource group.
async fn use_everything(azure: &AzureSimulator) {
    let group = json!({ "location": "westeurope" });
    raw::put(azure, &format!("resourcegroups/{GROUP}"), &group).await;
    let ours = Azure::new(AzureOptions {
        resource_group: Some(GROUP.to_owned()),
        ..options(azure, 1)
    });
    let ours = ours.unwrap();
    azure.requests().clear();
    ours.preflight(&[spec("one")]).await.unwrap();
    carry(&ours, provision("one")).await.unwrap();
    ours.list().await.unwrap();
    let node = || NodeName::try_from("one").unwrap();
    let port = PublicPort {
        port: 8080,
        protocol: Protocol::Tcp,
    };
    let ports = PublicPorts::from_iter([port]);
    ours.set_public_ports(&node(), &ports).await.unwrap();
    ours.set_public_ports(&node(), &PublicPorts::default())
        .await
        .unwrap();
    let boot_id = get(&ours, "one").await.unwrap().boot_id.unwrap();
    for change in [
        NodeChange::Restart {
            node: node(),
            boot_id,
        },
        NodeChange::Stop { node: node() },
        NodeChange::Start { node: node() },
    ] {
        carry(&ours, change).await.unwrap();
    }
    ours.fence(&node()).await.unwrap();
    carry(&ours, NodeChange::Delete { node: node() })
        .await
        .unwrap();
    ours.delete_shared().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_roles_contain_exactly_the_needed_actions() {
    let azure = azure().await;
    use_everything(&azure).await;
    let requests = azure.requests().all();
    for (in_group, file) in [
        (true, "role-of-group.json"),
        (false, "role-of-subscription.json"),
    ] {
        let documented: BTreeSet<String> = role(file)
            .iter()
            .map(|action| action.to_lowercase())
            .collect();
        let needed = { requests.iter().filter_map(action) }
            .filter(|(of_group, _)| *of_group == in_group)
            .map(|(_, action)| action)
            .collect::<BTreeSet<_>>();
        let lacking: Vec<_> = needed.difference(&documented).collect();
        assert!(lacking.is_empty(), "{file} lacks {lacking:#?}");
        let implied = IMPLIED.map(str::to_lowercase);
        let unused: Vec<_> = { documented.difference(&needed) }
            .filter(|action| !implied.contains(action))
            .collect();
        assert!(unused.is_empty(), "{file} contains {unused:#?}");
    }
}
