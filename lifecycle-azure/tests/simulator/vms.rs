//! Tests a VM's lifecycle.

use lifecycle_azure::simulator::{Fault, MANAGED_IDENTITY, Selector, SimulatorOptions, When};
use reqwest::Method;
use serde_json::{Value, json};

use super::azure::{Azure, GROUP, LOCATION, inline_vm, network, nic_id, vm, vm_body, with_nic};

const RUNNING: [&str; 2] = ["ProvisioningState/succeeded", "PowerState/running"];

async fn prepared() -> Azure {
    let azure = Azure::start().await;
    azure.prepare().await;
    azure
}

async fn with_machine() -> Azure {
    let azure = prepared().await;
    let begun = azure.create("vm").await.is(201);
    Azure::succeeded(&azure.end(&begun).await);
    azure
}

async fn act(azure: &Azure, action: &str) -> Value {
    let begun = azure.post(&vm(&format!("vm/{action}"))).await.is(202);
    assert!(begun.body.is_null());
    azure.end(&begun).await
}

async fn count(azure: &Azure, list: &str) -> usize {
    let listed = azure.get(list).await.is(200);
    listed.body["value"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_created_vm_is_creating_and_then_running() {
    let azure = prepared().await;
    let never = When::request(Method::PUT, "/virtualMachines/vm");
    azure.simulator.faults().add(never, Fault::NeverEnds);
    let begun = azure.create("vm").await.is(201);
    assert_eq!(begun.body["properties"]["provisioningState"], "Creating");
    assert_eq!(azure.codes("vm").await, ["ProvisioningState/creating"]);
    let url = begun.header("azure-asyncoperation");
    assert!(
        url.contains("/providers/Microsoft.Compute/locations/westeurope/operations/"),
        "{url}"
    );
    assert_eq!(azure.get(url).await.body["status"], "InProgress");
    azure.get(&format!("{url}&monitor=true")).await.is(202);
    // A VM that stays `Creating` can be deleted. The deletion cancels the operation that creates
    // the VM.
    let deleted = azure.delete(&vm("vm")).await.is(202);
    let canceled = azure.get(url).await;
    assert_eq!(canceled.body["status"], "Canceled");
    assert_eq!(canceled.body["error"]["code"], "OperationPreempted");
    Azure::succeeded(&azure.end(&deleted).await);

    let begun = azure.create("vm").await.is(201);
    Azure::succeeded(&azure.end(&begun).await);
    assert_eq!(azure.codes("vm").await, RUNNING);
    let monitor = format!("{}&monitor=true", begun.header("azure-asyncoperation"));
    let result = azure.get(&monitor).await.is(200);
    assert_eq!(result.body["properties"]["provisioningState"], "Succeeded");
}

#[tokio::test]
async fn responses_contain_no_secrets_but_tests_can_read_them() {
    let azure = with_machine().await;
    let shown = azure
        .get(&vm("vm?$expand=instanceView"))
        .await
        .is(200)
        .body
        .to_string();
    assert!(
        !shown.contains("never-to-be-seen") && !shown.contains("customData"),
        "{shown}"
    );
    let seen = &azure.simulator.vms()[0];
    assert_eq!(
        seen.custom_data.as_ref().unwrap().expose(),
        "I2Nsb3VkLWNvbmZpZwo="
    );
    assert_eq!(
        (seen.provisioning, seen.power),
        ("Succeeded", Some("running"))
    );
    assert_eq!(seen.private_address.unwrap().to_string(), "10.0.0.4");
    assert!(seen.public_address.is_some());
    assert!(!format!("{seen:?}").contains("I2Nsb3"));
}

#[tokio::test]
async fn a_vm_can_be_powered_off_started_restarted_and_deallocated() {
    let azure = with_machine().await;
    for (action, power) in [
        ("powerOff", "stopped"),
        ("start", "running"),
        ("restart", "running"),
        ("powerOff?skipShutdown=true", "stopped"),
        ("deallocate", "deallocated"),
        ("powerOff", "deallocated"),
        ("start", "running"),
    ] {
        Azure::succeeded(&act(&azure, action).await);
        let wanted = [
            "ProvisioningState/succeeded".to_owned(),
            format!("PowerState/{power}"),
        ];
        assert_eq!(azure.codes("vm").await, wanted, "{action}");
    }
}

#[tokio::test]
async fn a_changing_vm_shows_its_transition() {
    let azure = with_machine().await;
    for (action, power) in [
        ("restart", "running"),
        ("powerOff", "stopping"),
        ("start", "starting"),
        ("deallocate", "deallocating"),
    ] {
        let never = When::request(Method::POST, "/virtualMachines/vm");
        azure.simulator.faults().add(never, Fault::NeverEnds);
        // Each action replaces the previous action, which never ends.
        azure.post(&vm(&format!("vm/{action}"))).await.is(202);
        let wanted = [
            "ProvisioningState/updating".to_owned(),
            format!("PowerState/{power}"),
        ];
        assert_eq!(azure.codes("vm").await, wanted, "{action}");
    }
    Azure::succeeded(&act(&azure, "start").await);
    assert_eq!(azure.codes("vm").await, RUNNING);
}

#[tokio::test]
async fn a_stopped_vm_cannot_be_restarted() {
    let azure = with_machine().await;
    act(&azure, "deallocate").await;
    azure
        .post(&vm("vm/restart"))
        .await
        .refused(409, "OperationNotAllowed");
}

#[tokio::test]
async fn a_failed_action_keeps_the_power_state() {
    let azure = with_machine().await;
    let fails = Fault::OperationFails {
        code: "InternalExecutionError".into(),
        message: "An internal execution error occurred.".into(),
    };
    azure
        .simulator
        .faults()
        .add(When::request(Method::POST, "/powerOff"), fails);
    let status = act(&azure, "powerOff").await;
    assert_eq!(status["status"], "Failed");
    assert_eq!(status["error"]["code"], "InternalExecutionError");
    let wanted = [
        "ProvisioningState/failed/InternalExecutionError",
        "PowerState/running",
    ];
    assert_eq!(azure.codes("vm").await, wanted);
    Azure::succeeded(&act(&azure, "powerOff").await);
}

#[tokio::test]
async fn deleting_a_vm_deletes_the_resources_that_were_created_with_it() {
    let azure = with_machine().await;
    let disks = format!("/resourceGroups/{GROUP}/providers/Microsoft.Compute/disks");
    for list in [
        &network("networkInterfaces"),
        &network("publicIPAddresses"),
        &disks,
    ] {
        assert_eq!(count(&azure, list).await, 1, "{list}");
    }
    let deleted = azure.delete(&vm("vm")).await.is(202);
    Azure::succeeded(&azure.end(&deleted).await);
    for list in [
        &network("networkInterfaces"),
        &network("publicIPAddresses"),
        &disks,
    ] {
        assert_eq!(count(&azure, list).await, 0, "{list}");
    }
    azure.get(&vm("vm")).await.refused(404, "ResourceNotFound");
    azure.delete(&vm("vm")).await.is(204);
    azure
        .post(&vm("vm/start"))
        .await
        .refused(404, "ResourceNotFound");
}

#[tokio::test]
async fn deleting_a_vm_keeps_detached_resources() {
    let azure = prepared().await;
    azure.nic("nic", "default").await.is(201);
    let mut body = with_nic("vm", "nic", "Detach");
    body["properties"]["storageProfile"]["osDisk"]["deleteOption"] = "Detach".into();
    let begun = azure.put(&vm("vm"), &body).await.is(201);
    azure.end(&begun).await;
    let nic = azure.get(&network("networkInterfaces/nic")).await;
    assert!(nic.body["properties"]["virtualMachine"]["id"].is_string());
    let deleted = azure.delete(&vm("vm")).await.is(202);
    azure.end(&deleted).await;
    let nic = azure.get(&network("networkInterfaces/nic")).await.is(200);
    assert!(nic.body["properties"]["virtualMachine"].is_null());
    let disks = format!("/resourceGroups/{GROUP}/providers/Microsoft.Compute/disks");
    let disks = azure.get(&disks).await;
    assert_eq!(
        disks.body["value"][0]["properties"]["diskState"],
        "Unattached"
    );
}

#[tokio::test]
async fn a_vm_without_capacity_stays_failed_until_its_creation_is_retried() {
    let azure = prepared().await;
    let put = When::request(Method::PUT, "/virtualMachines/vm");
    azure.simulator.faults().add(put, Fault::AllocationFailed);
    let begun = azure.create("vm").await.is(201);
    let status = azure.end(&begun).await;
    assert_eq!(status["status"], "Failed");
    assert_eq!(status["error"]["code"], "AllocationFailed");
    assert_eq!(
        azure.codes("vm").await,
        ["ProvisioningState/failed/AllocationFailed"]
    );
    assert_eq!(
        count(&azure, &network("networkInterfaces")).await,
        1,
        "the VM must still have its NIC"
    );
    let same = azure.put(&vm("vm"), &inline_vm("vm")).await.is(200);
    Azure::succeeded(&azure.end(&same).await);
    assert_eq!(azure.codes("vm").await, RUNNING);
    act(&azure, "deallocate").await;
    let start = When::request(Method::POST, "/vm/start");
    azure.simulator.faults().add(start, Fault::AllocationFailed);
    assert_eq!(
        act(&azure, "start").await["error"]["code"],
        "AllocationFailed"
    );
    assert_eq!(azure.codes("vm").await[1], "PowerState/deallocated");
}

#[tokio::test]
async fn deleting_a_failed_vm_deletes_the_resources_that_were_created_with_it() {
    let azure = prepared().await;
    let put = When::request(Method::PUT, "/virtualMachines/vm");
    azure.simulator.faults().add(put, Fault::AllocationFailed);
    let begun = azure.create("vm").await.is(201);
    azure.end(&begun).await;
    let deleted = azure.delete(&vm("vm")).await.is(202);
    Azure::succeeded(&azure.end(&deleted).await);
    let left = azure
        .get(&format!("/resourceGroups/{GROUP}/resources"))
        .await;
    let left: Vec<_> = left.body["value"].as_array().unwrap().iter().collect();
    assert_eq!(left.len(), 1, "only the network should remain: {left:?}");
}

#[tokio::test]
async fn an_existing_vm_is_not_created_twice() {
    let azure = with_machine().await;
    let request = azure
        .request(Method::PUT, &vm("VM"))
        .header("If-None-Match", "*");
    let refused = super::azure::reply(request.json(&inline_vm("vm"))).await;
    refused.refused(412, "PreconditionFailed");
    azure.create("vm").await.is(200);
    assert_eq!(count(&azure, &network("networkInterfaces")).await, 1);
}

#[tokio::test]
async fn only_tags_and_size_can_be_changed() {
    let azure = with_machine().await;
    let tagged = azure
        .patch(&vm("vm"), &json!({"tags": {"epoch": "2"}}))
        .await
        .is(200);
    assert_eq!(tagged.body["tags"], json!({"epoch": "2"}));
    let resized = json!({"properties": {"hardwareProfile": {"vmSize": "Standard_D4s_v5"}}});
    let resized = azure.patch(&vm("vm"), &resized).await.is(200);
    Azure::succeeded(&azure.end(&resized).await);
    let now = azure.get(&vm("vm")).await;
    assert_eq!(
        now.body["properties"]["hardwareProfile"]["vmSize"],
        "Standard_D4s_v5"
    );
    assert_eq!(now.body["tags"], json!({"epoch": "2"}));
    for (pointer, value) in [
        ("/properties/osProfile/adminUsername", json!("other")),
        ("/properties/osProfile/customData", json!("b3RoZXI=")),
        (
            "/properties/storageProfile/imageReference/offer",
            json!("other"),
        ),
        ("/location", json!("eastus")),
    ] {
        let mut body = inline_vm("vm");
        *body.pointer_mut(pointer).unwrap() = value;
        let code = if pointer == "/location" {
            "InvalidResourceLocation"
        } else {
            "PropertyChangeNotAllowed"
        };
        azure.put(&vm("vm"), &body).await.refused(409, code);
    }
}

#[tokio::test]
async fn rejects_invalid_properties() {
    let azure = prepared().await;
    azure.nic("nic", "default").await.is(201);
    for (pointer, value, status, code) in [
        ("/location", Value::Null, 400, "LocationRequired"),
        (
            "/location",
            json!("atlantis"),
            400,
            "LocationNotAvailableForResourceType",
        ),
        (
            "/properties/hardwareProfile/vmSize",
            json!("Standard_Z9"),
            400,
            "InvalidParameter",
        ),
        (
            "/properties/storageProfile/imageReference/sku",
            json!("none"),
            404,
            "PlatformImageNotFound",
        ),
        (
            "/properties/osProfile/adminUsername",
            json!("root"),
            400,
            "InvalidParameter",
        ),
        (
            "/properties/osProfile/computerName",
            json!("a_b"),
            400,
            "InvalidParameter",
        ),
        (
            "/properties/osProfile/customData",
            json!("not base64!"),
            400,
            "InvalidParameter",
        ),
        (
            "/properties/osProfile/linuxConfiguration/ssh",
            Value::Null,
            400,
            "InvalidParameter",
        ),
        (
            "/properties/networkProfile",
            json!({}),
            400,
            "InvalidParameter",
        ),
        (
            "/properties/networkProfile/networkInterfaces/0/id",
            json!(nic_id("none")),
            400,
            "InvalidResourceReference",
        ),
    ] {
        let mut body = with_nic("vm", "nic", "Delete");
        *body.pointer_mut(pointer).unwrap() = value;
        azure.put(&vm("vm"), &body).await.refused(status, code);
    }
    let left = azure.get(&vm("vm")).await;
    left.refused(404, "ResourceNotFound");
    let mut arm = with_nic("vm", "nic", "Delete");
    arm["properties"]["hardwareProfile"]["vmSize"] = "Standard_D2ps_v5".into();
    azure.put(&vm("vm"), &arm).await.refused(400, "BadRequest");
}

#[tokio::test]
async fn a_rejected_creation_leaves_nothing_behind() {
    let azure = prepared().await;
    let mut body = inline_vm("vm");
    let second = json!({
        "name": "second",
        "properties": {"ipConfigurations": [{"name": "a", "properties": {"subnet": {"id": "/nowhere"}}}]},
    });
    let configurations =
        &mut body["properties"]["networkProfile"]["networkInterfaceConfigurations"];
    configurations.as_array_mut().unwrap().push(second);
    azure
        .put(&vm("vm"), &body)
        .await
        .refused(400, "InvalidResourceReference");
    for list in [network("networkInterfaces"), network("publicIPAddresses")] {
        assert_eq!(count(&azure, &list).await, 0, "{list}");
    }
}

#[tokio::test]
async fn a_nic_belongs_to_one_vm() {
    let azure = prepared().await;
    azure.nic("nic", "default").await.is(201);
    azure
        .put(&vm("vm"), &with_nic("vm", "nic", "Delete"))
        .await
        .is(201);
    let second = azure
        .put(&vm("second"), &with_nic("second", "nic", "Delete"))
        .await;
    second.refused(400, "NicInUse");
}

#[tokio::test]
async fn a_disk_is_created_once() {
    let azure = prepared().await;
    let mut body = inline_vm("vm");
    body["properties"]["storageProfile"]["osDisk"] =
        json!({"createOption": "FromImage", "name": "disk", "deleteOption": "Detach"});
    let begun = azure.put(&vm("vm"), &body).await.is(201);
    azure.end(&begun).await;
    let disk = format!("/resourceGroups/{GROUP}/providers/Microsoft.Compute/disks/disk");
    azure
        .delete(&disk)
        .await
        .refused(409, "OperationNotAllowed");
    let deleted = azure.delete(&vm("vm")).await.is(202);
    azure.end(&deleted).await;
    let again = azure.put(&vm("vm"), &body).await;
    again.refused(409, "ConflictingUserInput");
    let deleted = azure.delete(&disk).await.is(202);
    azure.end(&deleted).await;
    azure.put(&vm("vm"), &body).await.is(201);
}

#[tokio::test]
async fn the_generated_rust_client_reads_the_responses() {
    use azure_mgmt_compute::models;
    let azure = with_machine().await;
    let body = azure.get(&vm("vm?$expand=instanceView")).await.body;
    let vm: models::VirtualMachine = serde_json::from_value(body).unwrap();
    let properties = vm.properties.unwrap();
    assert_eq!(properties.provisioning_state.unwrap(), "Succeeded");
    assert_eq!(properties.instance_view.unwrap().statuses.len(), 2);
    let body = azure
        .get("/providers/Microsoft.Compute/virtualMachines")
        .await
        .body;
    let list: models::VirtualMachineListResult = serde_json::from_value(body).unwrap();
    assert_eq!(list.value.len(), 1);
    let body = azure.get("/providers/Microsoft.Compute/skus").await.body;
    let skus: models::ResourceSkusResult = serde_json::from_value(body).unwrap();
    assert!(!skus.value.is_empty());
    let usages = "/providers/Microsoft.Compute/locations/westeurope/usages";
    let body = azure.get(usages).await.body;
    let usages: models::ListUsagesResult = serde_json::from_value(body).unwrap();
    assert!(!usages.value.is_empty());
    let disks = format!("/resourceGroups/{GROUP}/providers/Microsoft.Compute/disks");
    let body = azure.get(&disks).await.body;
    let disks: models::DiskList = serde_json::from_value(body).unwrap();
    assert_eq!(disks.value.len(), 1);
}

#[tokio::test]
async fn an_identity_receives_its_ids() {
    let azure = prepared().await;
    let mut body = inline_vm("vm");
    body["identity"] = json!({"type": "SystemAssigned"});
    let begun = azure.put(&vm("vm"), &body).await.is(201);
    let principal = begun.body["identity"]["principalId"]
        .as_str()
        .unwrap()
        .to_owned();
    azure.end(&begun).await;
    let again = azure.put(&vm("vm"), &body).await.is(200);
    assert_eq!(again.body["identity"]["principalId"], principal.as_str());

    let path = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/\
                userAssignedIdentities/x";
    let mut body = inline_vm("other");
    body["identity"] = json!({"type": "UserAssigned", "userAssignedIdentities": {path: {}}});
    body["zones"] = json!(["1"]);
    let begun = azure.put(&vm("other"), &body).await.is(201);
    assert_eq!(begun.body["zones"], json!(["1"]));
    let given = &begun.body["identity"]["userAssignedIdentities"][path];
    assert_eq!(given["clientId"], MANAGED_IDENTITY, "{given}");
}

#[tokio::test]
async fn lists_contain_all_vms_of_a_subscription_or_a_group() {
    let azure = with_machine().await;
    let other = json!({"location": LOCATION});
    azure.put("/resourceGroups/other", &other).await.is(201);
    let all = "/providers/Microsoft.Compute/virtualMachines";
    let listed = azure.get(&format!("{all}?statusOnly=true")).await.is(200);
    let view = &listed.body["value"][0]["properties"]["instanceView"];
    assert_eq!(view["statuses"][1]["code"], "PowerState/running");
    let plain = azure.get(all).await.is(200);
    assert!(plain.body["value"][0]["properties"]["instanceView"].is_null());
    assert_eq!(
        count(&azure, &format!("/resourceGroups/other{all}")).await,
        0
    );
    assert_eq!(
        count(&azure, &format!("/resourceGroups/{GROUP}{all}")).await,
        1
    );
    let nowhere = azure.get(&format!("/resourceGroups/none{all}")).await;
    nowhere.refused(404, "ResourceGroupNotFound");
    let in_order = Selector::method(Method::GET).path("/resourceGroups/none");
    assert_eq!(azure.simulator.requests().count(&in_order), 1);
}

#[tokio::test]
async fn a_dynamic_address_is_released_when_the_vm_is_deallocated() {
    let azure = prepared().await;
    let dynamic =
        json!({"location": LOCATION, "properties": {"publicIPAllocationMethod": "Dynamic"}});
    azure
        .put(&network("publicIPAddresses/pip"), &dynamic)
        .await
        .is(201);
    let pip = azure.get(&network("publicIPAddresses/pip")).await;
    let id = pip.body["id"].clone();
    let configuration = json!({"name": "first", "properties": {
        "subnet": {"id": super::azure::subnet_id("default")}, "publicIPAddress": {"id": id},
    }});
    let nic = json!({"location": LOCATION, "properties": {"ipConfigurations": [configuration]}});
    azure
        .put(&network("networkInterfaces/nic"), &nic)
        .await
        .is(201);
    let has_address = async || {
        let pip = azure.get(&network("publicIPAddresses/pip")).await;
        pip.body["properties"]["ipAddress"].is_string()
    };
    assert!(!has_address().await);
    let begun = azure
        .put(&vm("vm"), &with_nic("vm", "nic", "Delete"))
        .await
        .is(201);
    azure.end(&begun).await;
    assert!(has_address().await);
    act(&azure, "powerOff").await;
    assert!(has_address().await);
    act(&azure, "deallocate").await;
    assert!(!has_address().await);
}

#[tokio::test]
async fn a_nic_stays_reserved_for_a_vm_whose_creation_was_rejected() {
    let azure = prepared().await;
    azure.nic("nic", "default").await.is(201);
    let put = When::request(Method::PUT, "/virtualMachines/vm");
    azure.simulator.faults().add(put, Fault::QuotaExceeded);
    let refused = azure.put(&vm("vm"), &with_nic("vm", "nic", "Delete")).await;
    refused.refused(409, "OperationNotAllowed");
    azure.get(&vm("vm")).await.refused(404, "ResourceNotFound");
    let nic = network("networkInterfaces/nic");
    azure
        .delete(&nic)
        .await
        .refused(400, "NicReservedForAnotherVm");
    let other = azure
        .put(&vm("other"), &with_nic("other", "nic", "Delete"))
        .await;
    other.refused(400, "NicReservedForAnotherVm");
    tokio::time::pause();
    tokio::time::advance(SimulatorOptions::default().nic_reservation).await;
    tokio::time::resume();
    azure.delete(&nic).await.is(202);
}

#[tokio::test]
async fn rejects_a_body_without_a_network() {
    let azure = prepared().await;
    let body = vm_body(
        "vm",
        &json!({"networkInterfaceConfigurations": [{"name": "a"}]}),
    );
    let refused = azure
        .put(&vm("vm"), &body)
        .await
        .refused(400, "InvalidParameter");
    assert_eq!(
        refused.body["error"]["target"],
        "networkProfile.networkApiVersion"
    );
}
