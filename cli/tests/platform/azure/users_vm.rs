//! VMs that a user of the subscription creates, in the network that the platform will use.

use std::net::IpAddr;
use std::time::Duration;

use lifecycle_core::host::SshKeyPair;
use serde_json::{Value, json};

use super::simulated::SimulatedAzure;
use crate::docker::Node;
use crate::project::Project;
use crate::subprocess::until;

/// The account on the VMs. It differs from the account on the nodes.
pub(super) const ACCOUNT: &str = "ops";

/// Time limit for the creation of a VM.
const TIMEOUT: Duration = Duration::from_mins(8);

/// A VM with a public address, to which SSH is open from everywhere.
pub(super) struct UsersVm {
    pub(super) address: IpAddr,
    pub(super) node: Node,
}

impl UsersVm {
    /// Creates the resource group, the network, and the VM. The VM's account accepts the key.
    pub(super) fn start(
        azure: &SimulatedAzure,
        project: &Project,
        group: &str,
        name: &str,
        key: &SshKeyPair,
    ) -> Self {
        let location = "westeurope";
        azure.put(
            &format!("resourcegroups/{group}"),
            &json!({ "location": location }),
        );
        let inside = |kind: &str, name: &str| {
            format!("resourceGroups/{group}/providers/Microsoft.{kind}/{name}")
        };
        let ssh = json!({
            "access": "Allow", "direction": "Inbound", "priority": 100, "protocol": "Tcp",
            "sourceAddressPrefix": "Internet", "sourcePortRange": "*",
            "destinationAddressPrefix": "*", "destinationPortRange": "22",
        });
        let security = azure.put(
            &inside("Network/networkSecurityGroups", "office"),
            &json!({
                "location": location,
                "properties": { "securityRules": [{ "name": "ssh", "properties": ssh }] },
            }),
        );
        let short = &project.id()[..6];
        let network = azure.put(
            &inside(
                "Network/virtualNetworks",
                &format!("{}-{short}-vnet", project.name),
            ),
            &json!({
                "location": location,
                "properties": {
                    "addressSpace": { "addressPrefixes": [azure.block()] },
                    "subnets": [{ "name": "nodes", "properties": {
                        "addressPrefix": azure.block(),
                        "networkSecurityGroup": { "id": security["id"] },
                    }}],
                },
            }),
        );
        let machine = inside("Compute/virtualMachines", name);
        azure.put(&machine, &resource(&network, name, key));
        let address = until("the VM is running", TIMEOUT, || {
            let state = &azure.get(&machine)["properties"]["provisioningState"];
            assert_ne!(state, "Failed");
            let found = azure.get(&inside("Network", "publicIPAddresses"));
            let address = found["value"][0]["properties"]["ipAddress"].as_str();
            (state == "Succeeded").then(|| address.unwrap().parse().unwrap())
        });
        let node = azure.machines(&project.id()).remove(name).unwrap();
        until("the VM has a host key", TIMEOUT, || {
            let key = node.call(&["cat", "/etc/ssh/ssh_host_ed25519_key.pub"]);
            key.status.success().then_some(())
        });
        Self { address, node }
    }
}

fn resource(network: &Value, name: &str, key: &SshKeyPair) -> Value {
    json!({
        "location": "westeurope",
        "properties": {
            "hardwareProfile": { "vmSize": "Standard_B2s" },
            "storageProfile": {
                "imageReference": {
                    "publisher": "Debian", "offer": "debian-12", "sku": "12-gen2",
                    "version": "latest",
                },
                "osDisk": { "createOption": "FromImage", "deleteOption": "Delete" },
            },
            "osProfile": {
                "computerName": name,
                "adminUsername": ACCOUNT,
                "linuxConfiguration": {
                    "disablePasswordAuthentication": true,
                    "ssh": { "publicKeys": [{
                        "path": format!("/home/{ACCOUNT}/.ssh/authorized_keys"),
                        "keyData": key.public.trim(),
                    }]},
                },
            },
            "networkProfile": {
                "networkApiVersion": "2020-11-01",
                "networkInterfaceConfigurations": [{ "name": name, "properties": {
                    "primary": true,
                    "deleteOption": "Delete",
                    "ipConfigurations": [{ "name": "primary", "properties": {
                        "primary": true,
                        "subnet": { "id": network["properties"]["subnets"][0]["id"] },
                        "publicIPAddressConfiguration": {
                            "name": name,
                            "sku": { "name": "Standard" },
                            "properties": {
                                "deleteOption": "Delete",
                                "publicIPAllocationMethod": "Static",
                            },
                        },
                    }}],
                }}],
            },
        },
    })
}
