//! Accesses a simulated subscription without the provider.

use std::time::Duration;

use http::Method;
use lifecycle_azure::simulator::{AzureSimulator, CLIENT, CLIENT_SECRET, SUBSCRIPTION, TENANT};
use serde_json::{Value, json};

async fn token(azure: &AzureSimulator) -> String {
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", CLIENT),
        ("client_secret", CLIENT_SECRET),
        ("scope", "https://management.azure.com/.default"),
    ];
    let form = form.map(|(key, value)| format!("{key}={value}")).join("&");
    let answer = client()
        .post(format!("{}/{TENANT}/oauth2/v2.0/token", azure.endpoint()))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form)
        .send()
        .await
        .unwrap();
    let answer: Value = answer.json().await.unwrap();
    answer["access_token"].as_str().unwrap().to_owned()
}

fn client() -> reqwest::Client {
    // Plain HTTP needs no TLS provider, so do not set one up.
    reqwest::Client::builder()
        .tls_built_in_root_certs(false)
        .build()
        .unwrap()
}

async fn get(azure: &AzureSimulator, path: &str) -> Vec<Value> {
    let url = format!(
        "{}/subscriptions/{SUBSCRIPTION}/{path}?api-version=2021-04-01",
        azure.endpoint()
    );
    let answer = client()
        .get(url)
        .bearer_auth(token(azure).await)
        .send()
        .await
        .unwrap();
    let mut answer: Value = answer.error_for_status().unwrap().json().await.unwrap();
    serde_json::from_value(answer["value"].take()).unwrap()
}

/// Returns all resources of one type in the subscription.
pub(crate) async fn list(azure: &AzureSimulator, kind: &str) -> Vec<Value> {
    get(azure, &format!("providers/{kind}")).await
}

/// Returns the types of all resources, sorted.
pub(crate) async fn everything(azure: &AzureSimulator) -> Vec<String> {
    let mut all = get(azure, "resources").await;
    all.extend(get(azure, "resourcegroups").await);
    let kind = |one: Value| {
        one["type"]
            .as_str()
            .unwrap()
            .rsplit('/')
            .next()
            .unwrap()
            .to_owned()
    };
    let mut kinds: Vec<String> = all.into_iter().map(kind).collect();
    kinds.sort();
    kinds
}

/// Checks that exactly the resources of one node and the shared resources exist.
pub(crate) async fn is_whole(azure: &AzureSimulator) {
    let kinds = everything(azure).await;
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let wanted = [
        "disks",
        "networkInterfaces",
        "networkSecurityGroups",
        "publicIPAddresses",
        "resourceGroups",
        "virtualMachines",
        "virtualNetworks",
    ];
    assert_eq!(kinds, wanted, "expected exactly one of each resource");
}

/// Removes all tags from a VM, so that another client seems to have created the VM.
pub(crate) async fn strip_tags(azure: &AzureSimulator, name: &str) {
    set_tags(azure, name, json!({})).await;
}

/// Removes all tags from all VMs, and waits until these changes have ended.
pub(crate) async fn strip_all_tags(azure: &AzureSimulator) {
    for vm in azure.vms() {
        change_at(azure, Method::PATCH, &vm.id, json!({ "tags": {} })).await;
        settled(azure, &vm.name).await;
    }
}

/// Replaces a VM's tags.
pub(crate) async fn set_tags(azure: &AzureSimulator, name: &str, tags: Value) {
    change(azure, Method::PATCH, name, json!({ "tags": tags })).await;
}

/// Deletes a VM and waits until it no longer exists.
pub(crate) async fn delete(azure: &AzureSimulator, name: &str) {
    change(azure, Method::DELETE, name, Value::Null).await;
    while azure.vms().iter().any(|vm| vm.name == name) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until all changes to a VM have ended.
pub(crate) async fn settled(azure: &AzureSimulator, name: &str) {
    let is_settled =
        |vm: &Value| vm["name"] != name || vm["properties"]["provisioningState"] == "Succeeded";
    while !list(azure, "Microsoft.Compute/virtualMachines")
        .await
        .iter()
        .all(is_settled)
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn change(azure: &AzureSimulator, method: Method, name: &str, body: Value) {
    let vms = azure.vms();
    let vm = vms.iter().find(|vm| vm.name == name).unwrap();
    change_at(azure, method, &vm.id, body).await;
}

async fn change_at(azure: &AzureSimulator, method: Method, id: &str, body: Value) {
    let url = format!("{}{id}?api-version=2024-07-01", azure.endpoint());
    let answer = client()
        .request(method, url)
        .bearer_auth(token(azure).await)
        .json(&body)
        .send()
        .await
        .unwrap();
    answer.error_for_status().unwrap();
}

/// Creates or replaces a resource, as another user of the subscription. Returns the resource.
pub(crate) async fn put(azure: &AzureSimulator, path: &str, body: &Value) -> Value {
    let url = format!(
        "{}/subscriptions/{SUBSCRIPTION}/{path}?api-version=2023-09-01",
        azure.endpoint()
    );
    let request = client().put(url).bearer_auth(token(azure).await).json(body);
    let answer = request.send().await.unwrap();
    answer.error_for_status().unwrap().json().await.unwrap()
}
