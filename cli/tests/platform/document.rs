//! Checks the document that `status --json` prints, and reads parts of it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::project::Project;

/// Checks that an object has all keys in `required`, and that all its other keys are in `optional`.
/// `label` names the object in messages.
fn has_keys(label: &str, value: &Value, required: &[&str], optional: &[&str]) {
    let keys: BTreeSet<&str> = value
        .as_object()
        .unwrap_or_else(|| panic!("{label} is not an object: {value}"))
        .keys()
        .map(String::as_str)
        .filter(|key| !optional.contains(key))
        .collect();
    assert_eq!(keys, required.iter().copied().collect(), "{label}");
}

/// Returns whether the value is a time in the platform's format: RFC 3339 in UTC with microseconds.
fn is_time(value: &Value) -> bool {
    let digits = |text: &str| text.len() == 6 && text.bytes().all(|b| b.is_ascii_digit());
    value
        .as_str()
        .and_then(|text| text.strip_suffix('Z')?.split_once('.'))
        .is_some_and(|(whole, fraction)| whole.contains('T') && digits(fraction))
}

/// Checks that every object has the documented keys, and every value the documented type. The
/// platform must be running.
pub(crate) fn assert_documented_shape(status: &Value, project: &Project) {
    let top = ["platform", "manager", "nodes", "services", "overrides"];
    has_keys("status", status, &top, &[]);
    let platform = &status["platform"];
    let keys = ["name", "id", "generation", "state"];
    has_keys("platform", platform, &keys, &[]);
    assert_eq!(platform["name"], project.name.as_str());
    assert_eq!(platform["id"], project.id().as_str());
    assert!(platform["generation"].is_u64(), "{platform}");
    assert_eq!(platform["state"], "running");

    let nodes = status["nodes"].as_array().unwrap();
    for node in nodes {
        let keys = [
            "name",
            "state",
            "boot_id",
            "addresses",
            "docker",
            "scheduling",
        ];
        has_keys("node", node, &keys, &["unknown_since", "unknown_why"]);
        let addresses = &node["addresses"];
        has_keys("addresses", addresses, &["private", "public"], &[]);
        has_keys("docker", &node["docker"], &["version", "ready"], &[]);
        assert_eq!(node["state"], "running", "{node}");
        assert_eq!(node["scheduling"], "open", "{node}");
        assert_eq!(node["docker"]["ready"], true, "{node}");
        assert!(node["docker"]["version"].is_string(), "{node}");
        assert!(addresses["private"].is_string(), "{node}");
    }
    let manager = &status["manager"];
    let node = nodes.iter().find(|n| n["name"] == manager["node"]).unwrap();
    let ip = node["addresses"]["private"].as_str().unwrap();
    let url = format!("https://{ip}:7443");
    assert_eq!(*manager, json!({"url": url, "node": node["name"]}));

    for service in status["services"].as_array().unwrap() {
        has_keys("service", service, &["name", "class", "instances"], &[]);
        for (instance, replica) in service["instances"].as_array().unwrap().iter().zip(1..) {
            assert_ready_instance(instance, replica, service, nodes);
        }
    }
}

fn assert_ready_instance(instance: &Value, replica: u64, service: &Value, nodes: &[Value]) {
    let keys = [
        "id",
        "replica",
        "node",
        "state",
        "started_at",
        "ready_at",
        "endpoints",
    ];
    has_keys("instance", instance, &keys, &["container", "why"]);
    let name = service["name"].as_str().unwrap();
    assert_eq!(instance["id"], format!("{name}-{replica}"));
    assert_eq!(instance["replica"], replica);
    assert_eq!(instance["state"], "ready", "{instance}");
    assert!(is_time(&instance["started_at"]), "{instance}");
    assert!(is_time(&instance["ready_at"]), "{instance}");
    let node = nodes.iter().find(|n| n["name"] == instance["node"]);
    let ip = &node.unwrap()["addresses"]["private"];
    for endpoint in instance["endpoints"].as_array().unwrap() {
        let keys = ["ip", "port", "container_port", "protocol"];
        has_keys("endpoint", endpoint, &keys, &[]);
        assert_eq!(endpoint["ip"], *ip, "{instance}");
        assert!(endpoint["port"].is_u64(), "{endpoint}");
        assert!(endpoint["container_port"].is_u64(), "{endpoint}");
        assert_eq!(endpoint["protocol"], "tcp");
    }
}

/// Returns all instances of all services.
pub(crate) fn instances(status: &Value) -> Vec<&Value> {
    let services = status["services"].as_array().unwrap();
    services
        .iter()
        .flat_map(|service| service["instances"].as_array().unwrap())
        .collect()
}

/// Returns the first instance of a service.
pub(crate) fn instance<'a>(status: &'a Value, service: &str) -> &'a Value {
    let services = status["services"].as_array().unwrap();
    let service = services.iter().find(|s| s["name"] == service).unwrap();
    &service["instances"][0]
}

/// Returns the address and the host port of each endpoint of an instance.
pub(crate) fn endpoints(instance: &Value) -> Vec<(String, u64)> {
    let endpoints = instance["endpoints"].as_array().unwrap();
    endpoints
        .iter()
        .map(|endpoint| {
            let ip = endpoint["ip"].as_str().unwrap();
            (ip.to_owned(), endpoint["port"].as_u64().unwrap())
        })
        .collect()
}
