//! Tests resource groups, and their deletion with all of their resources.

use std::time::Duration;

use lifecycle_azure::simulator::{Fault, When};
use reqwest::Method;
use serde_json::json;

use super::azure::{Azure, GROUP, LOCATION, Reply, network, subnet_id, vm};

async fn gone(azure: &Azure, begun: &Reply) -> Reply {
    let url = begun.header("location").to_owned();
    assert!(begun.header("azure-asyncoperation").is_empty());
    loop {
        let answer = azure.get(&url).await;
        if answer.status != 202 {
            return answer;
        }
        assert_eq!(answer.header("location"), url);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn creates_changes_and_finds_a_group() {
    let azure = Azure::start().await;
    let path = "/resourceGroups/Some-Group";
    azure.get(path).await.refused(404, "ResourceGroupNotFound");
    let body = json!({"location": "West Europe", "tags": {"a": "b"}});
    let made = azure.put(path, &body).await.is(201);
    assert_eq!(made.body["location"], LOCATION);
    azure.put(path, &body).await.is(200);
    let moved = azure.put(path, &json!({"location": "eastus"})).await;
    moved.refused(409, "InvalidResourceGroupLocation");
    let patched = azure
        .patch(path, &json!({"tags": {"c": "d"}}))
        .await
        .is(200);
    assert_eq!(patched.body["tags"], json!({"c": "d"}));
    let head = azure
        .request(Method::HEAD, "/resourcegroups/SOME-group")
        .send()
        .await
        .unwrap();
    assert_eq!(head.status(), 204);
    let found = azure.get("/resourcegroups/SOME-group").await.is(200);
    assert_eq!(
        found.body["name"], "Some-Group",
        "the name must keep the case of the first PUT"
    );
    let listed = azure.get("/resourceGroups").await.is(200);
    assert_eq!(listed.body["value"].as_array().unwrap().len(), 1);
    azure
        .put("/resourceGroups/a*b", &body)
        .await
        .refused(400, "InvalidResourceGroup");
    azure
        .put("/resourceGroups/b", &json!({}))
        .await
        .refused(400, "LocationRequired");
}

#[tokio::test]
async fn deleting_a_group_deletes_its_resources() {
    let azure = Azure::start().await;
    azure.prepare().await;
    let begun = azure.create("vm").await.is(201);
    azure.end(&begun).await;
    let begun = azure
        .delete(&format!("/resourceGroups/{GROUP}"))
        .await
        .is(202);
    gone(&azure, &begun).await.is(200);
    azure
        .get(&vm("vm"))
        .await
        .refused(404, "ResourceGroupNotFound");
    let left = azure.get("/resources").await.is(200);
    assert_eq!(left.body["value"], json!([]));
    let again = azure.delete(&format!("/resourceGroups/{GROUP}")).await;
    again.refused(404, "ResourceGroupNotFound");
    // The name can be used again.
    azure.prepare().await;
}

#[tokio::test]
async fn a_group_being_deleted_accepts_no_resources() {
    let azure = Azure::start().await;
    azure.prepare().await;
    let delete = When::request(Method::DELETE, "/resourceGroups/");
    azure.simulator.faults().add(delete, Fault::NeverEnds);
    let begun = azure
        .delete(&format!("/resourceGroups/{GROUP}"))
        .await
        .is(202);
    azure.get(begun.header("location")).await.is(202);
    let shown = azure.get(&format!("/resourceGroups/{GROUP}")).await.is(200);
    assert_eq!(shown.body["properties"]["provisioningState"], "Deleting");
    azure
        .create("vm")
        .await
        .refused(409, "ResourceGroupBeingDeleted");
    azure
        .nic("nic", "default")
        .await
        .refused(409, "ResourceGroupBeingDeleted");
}

#[tokio::test]
async fn a_failed_deletion_can_be_repeated() {
    let azure = Azure::start().await;
    azure.prepare().await;
    let begun = azure.create("vm").await.is(201);
    azure.end(&begun).await;
    let fails = Fault::OperationFails {
        code: "InternalServerError".into(),
        message: "Something went wrong.".into(),
    };
    let delete = When::request(Method::DELETE, "/resourceGroups/");
    azure.simulator.faults().add(delete, fails);
    let path = format!("/resourceGroups/{GROUP}");
    let begun = azure.delete(&path).await.is(202);
    gone(&azure, &begun)
        .await
        .refused(409, "InternalServerError");
    let vm = azure.get(&vm("vm")).await.is(200);
    assert_eq!(vm.body["properties"]["provisioningState"], "Failed");
    let begun = azure.delete(&path).await.is(202);
    gone(&azure, &begun).await.is(200);
}

#[tokio::test]
async fn a_group_with_resources_in_use_is_kept() {
    let azure = Azure::start().await;
    azure.prepare().await;
    azure
        .put("/resourceGroups/other", &json!({"location": LOCATION}))
        .await
        .is(201);
    let configuration =
        json!({"name": "first", "properties": {"subnet": {"id": subnet_id("default")}}});
    let nic = json!({"location": LOCATION, "properties": {"ipConfigurations": [configuration]}});
    let outside = "/resourceGroups/other/providers/Microsoft.Network/networkInterfaces/nic";
    let begun = azure.put(outside, &nic).await.is(201);
    azure.end(&begun).await;
    let begun = azure
        .delete(&format!("/resourceGroups/{GROUP}"))
        .await
        .is(202);
    gone(&azure, &begun)
        .await
        .refused(409, "ResourceGroupDeletionBlocked");
    azure.get(&network("virtualNetworks/net")).await.is(200);
    let deleted = azure.delete(outside).await.is(202);
    azure.end(&deleted).await;
    let begun = azure
        .delete(&format!("/resourceGroups/{GROUP}"))
        .await
        .is(202);
    gone(&azure, &begun).await.is(200);
}

#[tokio::test]
async fn finds_resources_by_tags() {
    let azure = Azure::start().await;
    azure.prepare().await;
    let begun = azure.create("vm").await.is(201);
    azure.end(&begun).await;
    let find = async |filter: &str| {
        let found = azure
            .get(&format!("/resources?$filter={filter}"))
            .await
            .is(200);
        let found = found.body["value"].as_array().unwrap().clone();
        found
            .iter()
            .map(|one| one["type"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let tagged = find("tagName eq 'LIFECYCLE.platform' and tagValue eq 'demo'").await;
    assert_eq!(
        tagged,
        [
            "Microsoft.Compute/disks",
            "Microsoft.Compute/virtualMachines"
        ]
    );
    let other = find("tagName eq 'lifecycle.platform' and tagValue eq 'other'").await;
    assert!(other.is_empty());
    let nics = find("resourceType eq 'Microsoft.Network/networkInterfaces'").await;
    assert_eq!(nics.len(), 1);
    let bad = azure.get("/resources?$filter=name ne 'a'").await;
    bad.refused(400, "InvalidFilterInQueryString");
}
