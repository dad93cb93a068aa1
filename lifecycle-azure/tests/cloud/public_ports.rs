//! Tests the rules for public ports in security groups.

use http::Method;
use lifecycle_azure::simulator::{AzureSimulator, Fault, When};
use lifecycle_azure::{Azure, AzureOptions};
use lifecycle_core::cloud::{CloudProvider as _, NodeChange};
use lifecycle_core::model::{NodeName, Protocol, PublicPort, PublicPorts};
use lifecycle_core::{Error, Retry};
use serde_json::{Value, json};

use crate::raw;
use crate::support::{LONG, azure, carry, get, options, provider, provision, writes};

const GROUP: &str = "office";

fn one() -> NodeName {
    NodeName::try_from("one").unwrap()
}

fn ports(ports: &[u16]) -> PublicPorts {
    let ports = ports.iter();
    ports
        .map(|port| PublicPort {
            port: *port,
            protocol: Protocol::Tcp,
        })
        .collect()
}

fn inside(kind: &str, name: &str) -> String {
    format!("resourceGroups/{GROUP}/providers/Microsoft.Network/{kind}/{name}")
}

/// Returns a rule that is not the platform's. Its name and description resemble those of the
/// platform's rules.
fn foreign(name: &str, priority: u64, port: &str) -> Value {
    json!({ "name": name, "properties": {
        "access": "Allow", "direction": "Inbound", "priority": priority, "protocol": "Tcp",
        "description": "lifecycle.platform-id=02000000-0000-0000-0000-000000000000 \
                        lifecycle.node=one",
        "sourceAddressPrefix": "203.0.113.0/24", "sourcePortRange": "*",
        "destinationAddressPrefix": "*", "destinationPortRange": port,
    }})
}

/// Creates the user's group with a network that the platform uses. If `guarded` is true, the
/// network's subnet has a security group of the user.
async fn existing_network(azure: &AzureSimulator, guarded: bool) -> Azure {
    let location = json!({ "location": "westeurope" });
    raw::put(azure, &format!("resourcegroups/{GROUP}"), &location).await;
    let mut subnet = json!({ "addressPrefix": "10.90.0.0/16" });
    if guarded {
        let rules = [
            foreign("web", 2000, "5000"),
            foreign("open-020000-one-tcp", 2001, "5001"),
        ];
        let body = json!({
            "location": "westeurope",
            "properties": { "securityRules": rules },
        });
        let group = raw::put(azure, &inside("networkSecurityGroups", "theirs"), &body).await;
        subnet["networkSecurityGroup"] = json!({ "id": group["id"] });
    }
    let body = json!({
        "location": "westeurope",
        "properties": {
            "addressSpace": { "addressPrefixes": ["10.90.0.0/16"] },
            "subnets": [{ "name": "nodes", "properties": subnet }],
        },
    });
    raw::put(azure, &inside("virtualNetworks", "demo-010000-vnet"), &body).await;
    Azure::new(AzureOptions {
        resource_group: Some(GROUP.to_owned()),
        ..options(azure, 1)
    })
    .unwrap()
}

/// Returns the rules of a security group as name, priority, destination, and ports.
async fn rules(azure: &AzureSimulator, group: &str) -> Vec<String> {
    let groups = raw::list(azure, "Microsoft.Network/networkSecurityGroups").await;
    let group = groups.iter().find(|one| one["name"] == group).unwrap();
    let rules = group.pointer("/properties/securityRules");
    let mut rules: Vec<String> = rules
        .and_then(Value::as_array)
        .unwrap()
        .iter()
        .map(|rule| {
            let of = &rule["properties"];
            let ports = match &of["destinationPortRanges"] {
                Value::Null => &of["destinationPortRange"],
                ports => ports,
            };
            format!(
                "{} {} {} {ports}",
                rule["name"].as_str().unwrap(),
                of["priority"],
                of["destinationAddressPrefix"].as_str().unwrap(),
            )
        })
        .collect();
    rules.sort();
    rules
}

#[tokio::test(flavor = "multi_thread")]
async fn opens_ports_in_an_existing_group_and_keeps_the_rules_of_others() {
    let azure = azure().await;
    let ours = existing_network(&azure, true).await;
    let before = rules(&azure, "theirs").await;
    assert_eq!(before.len(), 2);
    carry(&ours, provision("one")).await.unwrap();
    carry(&ours, provision("two")).await.unwrap();
    assert_eq!(rules(&azure, "theirs").await, before);
    let desired = ports(&[8080, 443]);
    ours.set_public_ports(&one(), &desired).await.unwrap();
    let address = get(&ours, "one").await.unwrap().addresses.private.unwrap();
    let mut expected = before.clone();
    expected.insert(
        0,
        format!("open-010000-one-tcp 2002 {address} [\"443\",\"8080\"]"),
    );
    assert_eq!(rules(&azure, "theirs").await, expected);
    let seen = get(&ours, "one").await.unwrap().open_ports;
    assert!(seen.are(&desired), "{seen:?}");

    // The same ports need no further request, also from another process.
    azure.requests().clear();
    let again = Azure::new(AzureOptions {
        resource_group: Some(GROUP.to_owned()),
        ..options(&azure, 1)
    });
    let again = again.unwrap();
    again.set_public_ports(&one(), &desired).await.unwrap();
    assert_eq!(writes(&azure), []);

    // A user's change of the rule is detected.
    let path = inside(
        "networkSecurityGroups",
        "theirs/securityRules/open-010000-one-tcp",
    );
    let groups = raw::list(&azure, "Microsoft.Network/networkSecurityGroups").await;
    let group = groups.iter().find(|one| one["name"] == "theirs").unwrap();
    let mut changed = group["properties"]["securityRules"]
        .as_array()
        .unwrap()
        .clone();
    changed.retain(|rule| rule["name"] == "open-010000-one-tcp");
    changed[0]["properties"]["destinationAddressPrefix"] = "*".into();
    raw::put(&azure, &path, &changed[0]).await;
    let seen = get(&ours, "one").await.unwrap().open_ports;
    assert_eq!((seen.open, seen.partly), (ports(&[]), desired.clone()));
    ours.set_public_ports(&one(), &desired).await.unwrap();
    assert_eq!(rules(&azure, "theirs").await, expected);

    carry(&ours, NodeChange::Delete { node: one() })
        .await
        .unwrap();
    assert_eq!(rules(&azure, "theirs").await, before);
    let two = NodeName::try_from("two").unwrap();
    ours.set_public_ports(&two, &desired).await.unwrap();
    carry(&ours, NodeChange::Delete { node: two })
        .await
        .unwrap();
    ours.delete_shared().await.unwrap();
    assert_eq!(rules(&azure, "theirs").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_vanished_nodes_are_removed() {
    let azure = azure().await;
    let ours = existing_network(&azure, true).await;
    let before = rules(&azure, "theirs").await;
    for name in ["one", "two"] {
        carry(&ours, provision(name)).await.unwrap();
        let node = NodeName::try_from(name).unwrap();
        ours.set_public_ports(&node, &ports(&[80])).await.unwrap();
    }
    assert_eq!(rules(&azure, "theirs").await.len(), before.len() + 2);
    // The VM is deleted without the platform.
    raw::delete(&azure, "two").await;
    ours.set_public_ports(&one(), &ports(&[81])).await.unwrap();
    assert_eq!(rules(&azure, "theirs").await.len(), before.len() + 1);
    raw::delete(&azure, "one").await;
    ours.delete_shared().await.unwrap();
    assert_eq!(rules(&azure, "theirs").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_security_group_nothing_is_opened() {
    let azure = azure().await;
    let ours = existing_network(&azure, false).await;
    carry(&ours, provision("one")).await.unwrap();
    let error = ours
        .set_public_ports(&one(), &ports(&[80]))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("subnet"), "{error:?}");
    ours.set_public_ports(&one(), &ports(&[])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_change_is_completed_by_repeating_it() {
    let azure = azure().await;
    let ours = provider(&azure, 1);
    carry(&ours, provision("one")).await.unwrap();
    let mixed = PublicPorts(
        ports(&[80])
            .0
            .into_iter()
            .chain([PublicPort {
                port: 53,
                protocol: Protocol::Udp,
            }])
            .collect(),
    );
    let rule = || When::request(Method::PUT, "/securityRules/");
    let faults = [
        Fault::Throttled { retry_after: LONG },
        Fault::Dropped,
        Fault::AnswerLost,
    ];
    for fault in faults {
        azure.faults().clear();
        let fresh = provider(&azure, 1);
        fresh.set_public_ports(&one(), &ports(&[])).await.unwrap();
        azure.faults().add(rule().nth(2), fault.clone());
        let error = fresh.set_public_ports(&one(), &mixed).await.unwrap_err();
        assert!(
            !matches!(error.retry(), Retry::Never),
            "{fault:?}: {error:?}"
        );
        // Another process continues: the first one observes Azure's wait.
        let next = provider(&azure, 1);
        let seen = get(&next, "one").await.unwrap().open_ports;
        assert!(!seen.are(&ports(&[])), "{fault:?}: {seen:?}");
        next.set_public_ports(&one(), &mixed).await.unwrap();
        let seen = get(&next, "one").await.unwrap().open_ports;
        assert!(seen.are(&mixed), "{fault:?}: {seen:?}");
    }
}
