//! Tests the resources that all nodes share, and the resources of a single node.

use std::net::Ipv4Addr;

use base64::Engine as _;
use lifecycle_azure::simulator::AzureSimulator;
use lifecycle_azure::{Azure, AzureOptions};
use lifecycle_core::cloud::{CloudProvider as _, NodeChange, ObservedNode};
use lifecycle_core::model::NodeName;
use serde_json::{Value, json};

use crate::raw;
use crate::support::{azure, carry, get, options, provider, provision};

#[tokio::test(flavor = "multi_thread")]
async fn allows_only_ssh_and_only_from_the_configured_sources() {
    let azure = azure().await;
    let options = AzureOptions {
        ssh_from: vec!["203.0.113.0/24".to_owned(), "198.51.100.7".to_owned()],
        ..options(&azure, 1)
    };
    carry(&Azure::new(options).unwrap(), provision("one"))
        .await
        .unwrap();
    let groups = raw::list(&azure, "Microsoft.Network/networkSecurityGroups").await;
    let rules = groups[0]
        .pointer("/properties/securityRules")
        .and_then(Value::as_array)
        .unwrap();
    let told: Vec<_> = rules
        .iter()
        .map(|rule| {
            let text = |name: &str| rule["properties"][name].as_str().unwrap().to_owned();
            (
                text("sourceAddressPrefix"),
                text("destinationPortRange"),
                text("direction"),
            )
        })
        .collect();
    let ssh = |from: &str| (from.to_owned(), "22".to_owned(), "Inbound".to_owned());
    assert_eq!(told, [ssh("203.0.113.0/24"), ssh("198.51.100.7")]);
    let networks = raw::list(&azure, "Microsoft.Network/virtualNetworks").await;
    let subnet = networks[0]
        .pointer("/properties/subnets/0/properties")
        .unwrap();
    assert_eq!(subnet["networkSecurityGroup"]["id"], groups[0]["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_keeps_its_address_and_is_deleted_completely() {
    let azure = azure().await;
    let provider = provider(&azure, 1);
    carry(&provider, provision("one")).await.unwrap();
    let before = get(&provider, "one").await.unwrap();
    let block = Ipv4Addr::new(10, 90, 0, 0).octets();
    let Some(std::net::IpAddr::V4(private)) = before.addresses.private else {
        panic!("{before:?}");
    };
    assert_eq!(private.octets()[..2], block[..2]);
    assert!(before.addresses.public.is_some());
    let interfaces = raw::list(&azure, "Microsoft.Network/networkInterfaces").await;
    let method = "/properties/ipConfigurations/0/properties/privateIPAllocationMethod";
    assert_eq!(interfaces[0].pointer(method), Some(&json!("Static")));
    let node = NodeName::try_from("one").unwrap();
    for change in [
        NodeChange::Stop { node: node.clone() },
        NodeChange::Start { node: node.clone() },
    ] {
        carry(&provider, change).await.unwrap();
    }
    assert_eq!(
        get(&provider, "one").await.unwrap().addresses,
        before.addresses
    );
    carry(&provider, NodeChange::Delete { node }).await.unwrap();
    provider.delete_shared().await.unwrap();
    assert_eq!(raw::everything(&azure).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_no_public_addresses_if_disabled() {
    let azure = azure().await;
    let options = AzureOptions {
        public_ip: false,
        ..options(&azure, 1)
    };
    let provider = Azure::new(options).unwrap();
    carry(&provider, provision("one")).await.unwrap();
    let node = get(&provider, "one").await.unwrap();
    assert!(
        node.addresses.private.is_some() && node.addresses.public.is_none(),
        "{node:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_boot_installs_the_reported_host_key() {
    let azure = azure().await;
    let provider = provider(&azure, 1);
    carry(&provider, provision("one")).await.unwrap();
    let node = get(&provider, "one").await.unwrap();
    let vm = &azure.vms()[0];
    let data = vm.custom_data.as_ref().unwrap().expose();
    let data = base64::engine::general_purpose::STANDARD
        .decode(data)
        .unwrap();
    let data = String::from_utf8(data).unwrap();
    assert!(data.starts_with("#cloud-config\n"));
    assert!(data.contains(&node.ssh.host_keys[0]), "{:?}", node.ssh);
    assert_eq!((node.ssh.user.as_str(), node.ssh.port), ("lifecycle", 22));
}

/// Returns a provider whose node `old` is declared as the existing VM of this name.
fn with_existing(azure: &AzureSimulator) -> Azure {
    let mut options = options(azure, 1);
    let node = NodeName::try_from("old").unwrap();
    options.existing.insert(node, "old".to_owned());
    Azure::new(options).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn adopts_and_releases_an_existing_vm_without_deleting_it() {
    let azure = azure().await;
    let (theirs, ours) = (provider(&azure, 2), with_existing(&azure));
    // The VM is in another resource group and has no tags of a platform.
    carry(&theirs, provision("old")).await.unwrap();
    raw::strip_tags(&azure, "old").await;
    let node = NodeName::try_from("old").unwrap();
    assert!(!ours.get(&node).await.unwrap().unwrap().created);
    // Ignore the boot id: adoption changes the VM's tags, and the end of this change looks like a
    // boot.
    let told = |node: ObservedNode| ObservedNode {
        boot_id: None,
        ..node
    };
    let adopted = told(ours.adopt(&node).await.unwrap());
    assert!(!adopted.created);
    let again = told(ours.adopt(&node).await.unwrap());
    assert_eq!(
        again, adopted,
        "the second adoption must not change the node"
    );
    let listed = ours.list().await.unwrap();
    assert_eq!(listed.into_iter().map(told).collect::<Vec<_>>(), [adopted]);
    carry(&ours, NodeChange::Delete { node: node.clone() })
        .await
        .unwrap();
    assert_eq!(ours.list().await.unwrap(), []);
    assert_eq!(azure.vms().len(), 1, "the VM must still exist");
}

#[tokio::test(flavor = "multi_thread")]
async fn does_not_delete_an_adopted_vm_despite_tags_of_a_previous_platform() {
    let azure = azure().await;
    let (theirs, ours) = (provider(&azure, 2), with_existing(&azure));
    carry(&theirs, provision("old")).await.unwrap();
    let left = json!({ "Lifecycle.Created": "yes", "costs": "ours" });
    raw::set_tags(&azure, "old", left).await;
    let node = NodeName::try_from("old").unwrap();
    assert!(!ours.adopt(&node).await.unwrap().created);
    carry(&ours, NodeChange::Delete { node }).await.unwrap();
    let vms = raw::list(&azure, "Microsoft.Compute/virtualMachines").await;
    assert_eq!(vms[0]["tags"], json!({ "costs": "ours" }));
}
