//! Tests that a host backend runs a host for each VM.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use lifecycle_azure::simulator::{
    AzureSimulator, HostBackend, HostChange, HostFailure, HostRequest, SUBSCRIPTION,
    SimulatorOptions,
};
use serde_json::json;

use super::azure::{Azure, GROUP, LOCATION, inline_vm, network, vm, with_nic};

/// A backend that records all changes. Hosts named `broken` cannot be created.
#[derive(Debug, Default)]
struct Notes(Mutex<Vec<String>>);

#[async_trait]
impl HostBackend for Notes {
    async fn change(&self, change: HostChange) -> Result<(), HostFailure> {
        let note = match change {
            HostChange::Create(order) if order.host_name == "broken" => {
                return Err(HostFailure {
                    code: "OSProvisioningTimedOut".into(),
                    message: "It did not come up.".into(),
                });
            }
            HostChange::Create(order) => format!(
                "create {} for {} at {} with {}",
                order.system,
                order.admin,
                order.private_address.unwrap(),
                order.custom_data.unwrap().expose(),
            ),
            HostChange::Start { .. } => "start".into(),
            HostChange::Restart { .. } => "restart".into(),
            HostChange::PowerOff { skip_shutdown, .. } => format!("off {skip_shutdown}"),
            HostChange::Deallocate { .. } => "deallocate".into(),
            HostChange::Delete { vm } => {
                assert!(vm.ends_with("/virtualmachines/vm"), "{vm}");
                "delete".into()
            }
            other => panic!("{other:?}"),
        };
        self.0.lock().unwrap().push(note);
        Ok(())
    }
}

#[tokio::test]
async fn the_host_backend_receives_each_change() {
    let notes = Arc::new(Notes::default());
    let simulator = AzureSimulator::start_with(SimulatorOptions::default(), notes.clone());
    let azure = Azure::of(simulator.await.unwrap()).await;
    azure.prepare().await;
    let begun = azure.create("vm").await.is(201);
    Azure::succeeded(&azure.end(&begun).await);
    for action in [
        "powerOff?skipShutdown=true",
        "start",
        "restart",
        "deallocate",
    ] {
        let begun = azure.post(&vm(&format!("vm/{action}"))).await.is(202);
        Azure::succeeded(&azure.end(&begun).await);
    }
    let begun = azure
        .delete(&format!("/resourceGroups/{GROUP}"))
        .await
        .is(202);
    while azure.get(begun.header("location")).await.status == 202 {}
    let wanted = [
        "create debian for azureuser at 10.0.0.4 with I2Nsb3VkLWNvbmZpZwo=",
        "off true",
        "start",
        "restart",
        "deallocate",
        "delete",
    ];
    assert_eq!(*notes.0.lock().unwrap(), wanted);
}

/// A backend that records requests. All of its hosts are reachable at [`REACHED_AT`].
#[derive(Debug, Default)]
struct Orders(Mutex<Vec<HostRequest>>);

const REACHED_AT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

#[async_trait]
impl HostBackend for Orders {
    async fn change(&self, change: HostChange) -> Result<(), HostFailure> {
        if let HostChange::Create(order) = change {
            self.0.lock().unwrap().push(order);
        }
        Ok(())
    }

    fn public_address(&self, _: Ipv4Addr) -> Option<Ipv4Addr> {
        Some(REACHED_AT)
    }
}

#[tokio::test]
async fn the_host_backend_receives_inbound_ports_and_provides_addresses() {
    let orders = Arc::new(Orders::default());
    let simulator = AzureSimulator::start_with(SimulatorOptions::default(), orders.clone());
    let azure = Azure::of(simulator.await.unwrap()).await;
    azure.prepare().await;
    let rule = |name: &str, priority: u32, access: &str, ports: &str| {
        json!({"name": name, "properties": {
            "priority": priority, "access": access, "direction": "Inbound", "protocol": "Tcp",
            "sourceAddressPrefix": "Internet", "sourcePortRange": "*",
            "destinationAddressPrefix": "*", "destinationPortRange": ports,
        }})
    };
    let rules = [
        rule("web", 300, "Allow", "80-90"),
        rule("not", 200, "Deny", "81"),
        rule("ssh", 100, "Allow", "22"),
    ];
    let group = json!({"location": LOCATION, "properties": {"securityRules": rules}});
    let nsg = network("networkSecurityGroups/nsg");
    azure.put(&nsg, &group).await.is(201);

    let mut guarded = inline_vm("guarded");
    guarded["properties"]["networkProfile"]["networkInterfaceConfigurations"][0]["properties"]["networkSecurityGroup"] =
        json!({"id": format!("/subscriptions/{SUBSCRIPTION}{nsg}")});
    let begun = azure.put(&vm("guarded"), &guarded).await.is(201);
    Azure::succeeded(&azure.end(&begun).await);
    // Without a security group, Azure's standard addresses block inbound traffic. Without an
    // address, nothing is reachable.
    let begun = azure.create("closed").await.is(201);
    Azure::succeeded(&azure.end(&begun).await);
    azure.nic("inner", "small").await.is(201);
    let inner = with_nic("inner", "inner", "Delete");
    let begun = azure.put(&vm("inner"), &inner).await.is(201);
    Azure::succeeded(&azure.end(&begun).await);

    let told: Vec<_> = orders
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|order| {
            let subnet = order.subnet.clone().unwrap();
            let block = format!("{}/{}", subnet.address, subnet.prefix_length);
            (block, order.inbound_ports.clone())
        })
        .collect();
    let wide = "10.0.0.0/24".to_owned();
    let open = vec![22..=22, 80..=80, 82..=90];
    let wanted = [
        (wide.clone(), open),
        (wide, Vec::new()),
        ("10.0.1.0/29".to_owned(), Vec::new()),
    ];
    assert_eq!(told, wanted);
    let vms = azure.simulator.vms();
    let shown: Vec<_> = vms.iter().map(|one| one.public_address).collect();
    assert_eq!(shown, [Some(REACHED_AT), Some(REACHED_AT), None]);
}

#[tokio::test]
async fn a_failed_host_fails_its_vm() {
    let simulator =
        AzureSimulator::start_with(SimulatorOptions::default(), Arc::new(Notes::default()));
    let azure = Azure::of(simulator.await.unwrap()).await;
    azure.prepare().await;
    let begun = azure.create("broken").await.is(201);
    let status = azure.end(&begun).await;
    assert_eq!(status["error"]["code"], "OSProvisioningTimedOut");
    let codes = azure.codes("broken").await;
    assert_eq!(codes, ["ProvisioningState/failed/OSProvisioningTimedOut"]);
}

/// A backend that records the ports of the hosts.
#[derive(Debug, Default)]
struct Firewalls(Mutex<Vec<(String, Vec<std::ops::RangeInclusive<u16>>)>>);

#[async_trait]
impl HostBackend for Firewalls {
    async fn change(&self, change: HostChange) -> Result<(), HostFailure> {
        let (vm, ports) = match change {
            HostChange::Create(order) => (order.vm, order.inbound_ports),
            HostChange::SetInbound { vm, ports } => (vm, ports),
            _ => return Ok(()),
        };
        let name = vm.rsplit('/').next().unwrap().to_owned();
        self.0.lock().unwrap().push((name, ports));
        Ok(())
    }
}

#[tokio::test]
async fn a_changed_rule_changes_the_ports_of_the_hosts_that_it_applies_to() {
    let hosts = Arc::new(Firewalls::default());
    let simulator = AzureSimulator::start_with(SimulatorOptions::default(), hosts.clone());
    let azure = Azure::of(simulator.await.unwrap()).await;
    azure.prepare().await;
    let nsg = network("networkSecurityGroups/nsg");
    let group = azure
        .put(&nsg, &json!({"location": LOCATION}))
        .await
        .is(201);
    let subnet = json!({"properties": {
        "addressPrefix": "10.0.0.0/24", "networkSecurityGroup": {"id": group.body["id"]},
    }});
    let subnet = azure
        .put(&network("virtualNetworks/net/subnets/default"), &subnet)
        .await
        .is(200);
    Azure::succeeded(&azure.end(&subnet).await);
    for name in ["first", "second"] {
        let begun = azure.create(name).await.is(201);
        Azure::succeeded(&azure.end(&begun).await);
    }
    let address = azure.simulator.vms()[0].private_address.unwrap();
    let rule = json!({"properties": {
        "priority": 200, "access": "Allow", "direction": "Inbound", "protocol": "Tcp",
        "sourceAddressPrefix": "Internet", "sourcePortRange": "*",
        "destinationAddressPrefix": address, "destinationPortRanges": ["80", "443"],
    }});
    let path = format!("{nsg}/securityRules/web");
    let begun = azure.put(&path, &rule).await.is(201);
    Azure::succeeded(&azure.end(&begun).await);
    let begun = azure.delete(&path).await.is(202);
    Azure::succeeded(&azure.end(&begun).await);
    let told = hosts.0.lock().unwrap().clone();
    let first = |ports: &[u16]| {
        let ports = ports.iter().map(|port| *port..=*port);
        ("first".to_owned(), ports.collect::<Vec<_>>())
    };
    let expected = [
        first(&[]),
        ("second".to_owned(), Vec::new()),
        first(&[80, 443]),
        first(&[]),
    ];
    assert_eq!(told, expected);
}
