//! Tests what all requests and responses have in common.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use lifecycle_azure::simulator::{Fault, SimulatorOptions, When};
use reqwest::Method;
use serde_json::{Value, json};

use super::azure::{Azure, GROUP, LOCATION, network, reply, vm};

#[tokio::test]
async fn requires_an_api_version_but_accepts_any() {
    let azure = Azure::start().await;
    let endpoint = azure.simulator.endpoint();
    let ask = |query: &str| {
        let url = format!("{endpoint}/subscriptions{query}");
        reply(azure.request(Method::GET, &url))
    };
    ask("").await.refused(400, "MissingApiVersionParameter");
    ask("?api-version=")
        .await
        .refused(400, "MissingApiVersionParameter");
    ask("?api-version=1999-01-01").await.is(200);
    ask("?API-Version=2050-01-01-preview").await.is(200);
}

#[tokio::test]
async fn a_simulator_on_a_wildcard_address_is_reachable_by_name() {
    let everywhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    let azure = Azure::with(SimulatorOptions {
        https: everywhere,
        known_as: vec!["localhost".to_owned(), "192.0.2.1".to_owned()],
        ..SimulatorOptions::default()
    })
    .await;
    let endpoint = azure.simulator.secure_endpoint();
    assert!(endpoint.starts_with("https://localhost:"), "{endpoint}");
    let path = format!("{endpoint}/subscriptions?api-version=2022-12-01");
    azure.get(&path).await.is(200);
}

#[tokio::test]
async fn records_each_request_without_its_query() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("requests.jsonl");
    let azure = Azure::with(SimulatorOptions {
        record: Some(file.clone()),
        ..SimulatorOptions::default()
    })
    .await;
    azure.get("").await.is(200);
    azure.delete("/resourceGroups/none").await;
    // Each request is recorded before its response is sent, so the file is already complete.
    let text = std::fs::read_to_string(file).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let methods: Vec<_> = lines.iter().map(|line| &line["method"]).collect();
    assert_eq!(methods, ["POST", "GET", "DELETE"]);
    assert_eq!(lines[1]["status"], 200);
    assert!(!text.contains("api-version"), "{text}");
}

#[tokio::test]
async fn paths_ignore_case() {
    let azure = Azure::start().await;
    azure.prepare().await;
    let begun = azure.create("Some-VM").await.is(201);
    azure.end(&begun).await;
    for path in [vm("some-vm").to_uppercase(), vm("SOME-vm").to_lowercase()] {
        let found = azure.get(&path).await.is(200);
        assert_eq!(found.body["name"], "Some-VM");
        assert!(
            found.body["id"]
                .as_str()
                .unwrap()
                .ends_with("/virtualMachines/Some-VM")
        );
    }
    let mut body = super::azure::with_nic("other", "nic", "Delete");
    azure.nic("nic", "DEFAULT").await.is(201);
    let interface = &mut body["properties"]["networkProfile"]["networkInterfaces"][0]["id"];
    *interface = interface.as_str().unwrap().to_uppercase().into();
    azure.put(&vm("other"), &body).await.is(201);
}

#[tokio::test]
async fn distinguishes_kinds_of_missing_resources() {
    let azure = Azure::start().await;
    azure.prepare().await;
    let endpoint = azure.simulator.endpoint();
    let other = format!("{endpoint}/subscriptions/other/resourceGroups?api-version=1");
    azure.get(&other).await.refused(404, "SubscriptionNotFound");
    azure
        .get("/resourceGroups/none")
        .await
        .refused(404, "ResourceGroupNotFound");
    azure
        .get(&vm("none"))
        .await
        .refused(404, "ResourceNotFound");
    azure
        .get("/providers/Microsoft.None/things")
        .await
        .refused(404, "InvalidResourceType");
    azure
        .post(&vm("none"))
        .await
        .refused(405, "UnsupportedHttpMethod");
    let operation = "/providers/Microsoft.Compute/locations/westeurope/operations/none";
    azure.get(operation).await.refused(404, "NotFound");
    let bad = azure.request(Method::PUT, &vm("vm")).body("{");
    reply(bad).await.refused(400, "InvalidRequestContent");
}

#[tokio::test]
async fn long_lists_are_paged() {
    let options = SimulatorOptions {
        page_size: 2,
        ..SimulatorOptions::default()
    };
    let azure = Azure::with(options).await;
    for name in ["a", "b", "c", "d", "e"] {
        let path = format!("/resourceGroups/{name}");
        azure
            .put(&path, &json!({"location": LOCATION}))
            .await
            .is(201);
    }
    let mut names: Vec<Value> = Vec::new();
    let mut page = azure.get("/resourceGroups").await.is(200);
    let mut pages = 1;
    loop {
        let listed = page.body["value"].as_array().unwrap();
        assert!(listed.len() <= 2);
        names.extend(listed.iter().map(|one| one["name"].clone()));
        let Some(next) = page.body["nextLink"].as_str() else {
            break;
        };
        // A deletion between two pages must not shift the later results.
        if pages == 1 {
            azure.delete("/resourceGroups/a").await.is(202);
        }
        pages += 1;
        let next = next.to_owned();
        page = azure.get(&next).await.is(200);
    }
    assert_eq!(
        (pages, names),
        (3, ["a", "b", "c", "d", "e"].map(Value::from).to_vec())
    );
    azure
        .get("/resourceGroups?$top=0")
        .await
        .refused(400, "InvalidQueryParameterValue");
}

#[tokio::test]
async fn conditional_headers_are_checked() {
    let azure = Azure::start().await;
    azure.prepare().await;
    let path = network("networkSecurityGroups/nsg");
    let body = json!({"location": LOCATION});
    let made = azure.put(&path, &body).await.is(201);
    let etag = made.body["etag"].as_str().unwrap().to_owned();
    let put = |name: &'static str, value: &str| {
        reply(
            azure
                .request(Method::PUT, &path)
                .header(name, value)
                .json(&body),
        )
    };
    put("If-None-Match", "*")
        .await
        .refused(412, "PreconditionFailed");
    put("If-Match", "W/\"other\"")
        .await
        .refused(412, "PreconditionFailed");
    put("If-Match", &etag).await.is(200);
    put("If-Match", &etag)
        .await
        .refused(412, "PreconditionFailed");
}

#[tokio::test]
async fn responses_may_include_retry_after() {
    let options = SimulatorOptions {
        poll_after: Some(Duration::from_secs(3)),
        ..SimulatorOptions::default()
    };
    let azure = Azure::with(options).await;
    azure.prepare().await;
    let never = When::request(Method::PUT, "/virtualMachines/vm");
    azure.simulator.faults().add(never, Fault::NeverEnds);
    let begun = azure.create("vm").await.is(201);
    assert_eq!(begun.header("retry-after"), "3");
    let status = azure.get(begun.header("azure-asyncoperation")).await;
    assert_eq!(status.header("retry-after"), "3");
}

#[tokio::test]
async fn tags_are_validated() {
    let azure = Azure::start().await;
    let tags: serde_json::Map<_, _> = (0..51).map(|i| (i.to_string(), "a".into())).collect();
    let body = json!({"location": LOCATION, "tags": tags});
    let path = format!("/resourceGroups/{GROUP}");
    azure.put(&path, &body).await.refused(400, "InvalidTags");
    let body = json!({"location": LOCATION, "tags": {"a": 1}});
    azure
        .put(&path, &body)
        .await
        .refused(400, "InvalidParameter");
}

#[tokio::test]
async fn rejects_an_unknown_location() {
    let azure = Azure::start().await;
    let path = format!("/resourceGroups/{GROUP}");
    let refused = azure.put(&path, &json!({"location": "atlantis"})).await;
    refused.refused(400, "LocationNotAvailableForResourceGroup");
}
