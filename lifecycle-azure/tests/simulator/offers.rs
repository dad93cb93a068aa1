//! Tests available sizes, quotas, and images.

use std::collections::BTreeMap;

use lifecycle_azure::simulator::SimulatorOptions;
use serde_json::Value;

use super::azure::{Azure, inline_vm, vm};

const COMPUTE: &str = "/providers/Microsoft.Compute";

async fn usage(azure: &Azure, name: &str) -> (u64, u64) {
    let listed = azure
        .get(&format!("{COMPUTE}/locations/westeurope/usages"))
        .await
        .is(200);
    let listed = listed.body["value"].as_array().unwrap();
    let found = listed
        .iter()
        .find(|one| one["name"]["value"] == name)
        .unwrap();
    (
        found["currentValue"].as_u64().unwrap(),
        found["limit"].as_u64().unwrap(),
    )
}

fn of_size(name: &str, size: &str) -> Value {
    let mut body = inline_vm(name);
    body["properties"]["hardwareProfile"]["vmSize"] = size.into();
    body
}

#[tokio::test]
async fn sizes_are_listed_by_location() {
    let options = SimulatorOptions {
        restricted_sizes: vec![("westeurope".into(), "Standard_B1s".into())],
        ..SimulatorOptions::default()
    };
    let azure = Azure::with(options).await;
    let path = format!("{COMPUTE}/skus?$filter=location eq 'West Europe'");
    let listed = azure.get(&path).await.is(200);
    let listed = listed.body["value"].as_array().unwrap();
    let find = |name: &str| listed.iter().find(|one| one["name"] == name).unwrap();
    assert!(listed.iter().all(|one| one["locations"][0] == "westeurope"));
    let size = find("Standard_D2s_v5");
    assert_eq!(size["family"], "standardDSv5Family");
    assert_eq!(size["restrictions"].as_array().unwrap().len(), 0);
    let restricted = find("Standard_B1s");
    assert_eq!(
        restricted["restrictions"][0]["reasonCode"],
        "NotAvailableForSubscription"
    );
    azure.prepare().await;
    let refused = azure.put(&vm("vm"), &of_size("vm", "Standard_B1s")).await;
    refused.refused(409, "SkuNotAvailable");
    let sizes = azure
        .get(&format!("{COMPUTE}/locations/westeurope/vmSizes"))
        .await
        .is(200);
    assert!(sizes.body["value"].as_array().unwrap().len() > 5);
    azure
        .get(&format!("{COMPUTE}/skus?$filter=name eq 'a'"))
        .await
        .refused(400, "InvalidFilter");
    let nowhere = azure
        .get(&format!("{COMPUTE}/locations/atlantis/usages"))
        .await;
    nowhere.refused(400, "NoRegisteredProviderFound");
}

#[tokio::test]
async fn quotas_count_cores_per_family_and_in_total() {
    let options = SimulatorOptions {
        quotas: BTreeMap::from([("standardDSv5Family".to_owned(), 4)]),
        regional_quota: 7,
        ..SimulatorOptions::default()
    };
    let azure = Azure::with(options).await;
    azure.prepare().await;
    for name in ["a", "b"] {
        azure.create(name).await.is(201);
    }
    assert_eq!(usage(&azure, "standardDSv5Family").await, (4, 4));
    let refused = azure.create("c").await.refused(409, "OperationNotAllowed");
    let message = refused.body["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("exceeding approved standardDSv5Family Cores quota"),
        "{message}"
    );
    assert!(
        message.contains("Current Limit: 4, Current Usage: 4, Additional Required: 2"),
        "{message}"
    );
    azure
        .put(&vm("c"), &of_size("c", "Standard_F2s_v2"))
        .await
        .is(201);
    let refused = azure.put(&vm("d"), &of_size("d", "Standard_F2s_v2")).await;
    let refused = refused.refused(409, "OperationNotAllowed");
    let message = refused.body["error"]["message"].as_str().unwrap();
    assert!(message.contains("Total Regional Cores quota"), "{message}");
    assert_eq!(usage(&azure, "cores").await, (6, 7));
    // Deallocated VMs still count; deleted VMs do not.
    let begun = azure.post(&vm("a/deallocate")).await.is(202);
    azure.end(&begun).await;
    assert_eq!(usage(&azure, "standardDSv5Family").await, (4, 4));
    let begun = azure.delete(&vm("a")).await.is(202);
    azure.end(&begun).await;
    assert_eq!(usage(&azure, "standardDSv5Family").await, (2, 4));
    assert_eq!(usage(&azure, "virtualMachines").await.0, 2);
}

#[tokio::test]
async fn lists_images() {
    let azure = Azure::start().await;
    let at = format!("{COMPUTE}/locations/westeurope/publishers");
    let names = async |rest: &str| {
        let listed = azure.get(&format!("{at}{rest}")).await.is(200);
        let listed = listed.body.as_array().unwrap().clone();
        listed
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("").await, ["Canonical", "Debian"]);
    assert_eq!(
        names("/debian/artifacttypes/vmimage/offers").await,
        ["debian-12"]
    );
    let skus = "/Debian/artifactTypes/vmImage/offers/debian-12/skus";
    assert_eq!(names(skus).await, ["12", "12-arm64", "12-gen2"]);
    assert_eq!(names(&format!("{skus}/12-gen2/versions")).await.len(), 2);
    let image = azure
        .get(&format!("{at}{skus}/12-arm64/versions/latest"))
        .await
        .is(200);
    assert_eq!(image.body["properties"]["architecture"], "Arm64");
    let none = azure.get(&format!("{at}{skus}/13/versions")).await;
    none.refused(404, "ArtifactNotFound");
}

#[tokio::test]
async fn providers_are_registered() {
    let azure = Azure::start().await;
    let provider = azure.get("/providers/microsoft.compute").await.is(200);
    assert_eq!(provider.body["registrationState"], "Registered");
    azure
        .post("/providers/Microsoft.Network/register")
        .await
        .is(200);
    azure
        .get("/providers/Microsoft.None")
        .await
        .refused(404, "InvalidResourceNamespace");
    let locations = azure.get("/locations").await.is(200);
    assert_eq!(locations.body["value"][0]["name"], "westeurope");
}
