//! Tests networks, security groups, addresses, NICs, and references between them.

use serde_json::{Value, json};

use super::azure::{Azure, LOCATION, network, subnet_id, vm, with_nic};

async fn prepared() -> Azure {
    let azure = Azure::start().await;
    azure.prepare().await;
    azure
}

fn net(subnets: &Value) -> Value {
    let space = json!({"addressPrefixes": ["10.0.0.0/16"]});
    json!({"location": LOCATION, "properties": {"addressSpace": space, "subnets": subnets}})
}

fn subnet(name: &str, prefix: &str) -> Value {
    json!({"name": name, "properties": {"addressPrefix": prefix}})
}

#[tokio::test]
async fn a_network_is_updating_until_its_operation_ends() {
    let azure = prepared().await;
    let path = network("virtualNetworks/other");
    let begun = azure.put(&path, &net(&json!([]))).await.is(201);
    assert_eq!(begun.body["properties"]["provisioningState"], "Updating");
    assert!(begun.body["etag"].as_str().unwrap().starts_with("W/"));
    Azure::succeeded(&azure.end(&begun).await);
    let now = azure.get(&path).await.is(200);
    assert_eq!(now.body["properties"]["provisioningState"], "Succeeded");
    azure.put(&path, &net(&json!([]))).await.is(200);
    let deleted = azure.delete(&path).await.is(202);
    Azure::succeeded(&azure.end(&deleted).await);
    azure.get(&path).await.refused(404, "ResourceNotFound");
    azure.delete(&path).await.is(204);
}

#[tokio::test]
async fn subnets_are_within_their_network_and_do_not_overlap() {
    let azure = prepared().await;
    let path = network("virtualNetworks/other");
    for (subnets, code) in [
        (
            json!([subnet("a", "10.1.0.0/24")]),
            "NetcfgSubnetRangeOutsideVnet",
        ),
        (
            json!([subnet("a", "10.0.0.0/24"), subnet("b", "10.0.0.128/25")]),
            "NetcfgSubnetRangesOverlap",
        ),
        (json!([subnet("a", "10.0.0.1/24")]), "InvalidCIDRNotation"),
    ] {
        azure.put(&path, &net(&subnets)).await.refused(400, code);
    }
    azure.get(&path).await.refused(404, "ResourceNotFound");
}

#[tokio::test]
async fn a_subnet_can_be_created_and_deleted_separately() {
    let azure = prepared().await;
    let path = network("virtualNetworks/net/subnets/third");
    let begun = azure
        .put(&path, &subnet("third", "10.0.2.0/24"))
        .await
        .is(201);
    Azure::succeeded(&azure.end(&begun).await);
    let listed = azure
        .get(&network("virtualNetworks/net/subnets"))
        .await
        .is(200);
    assert_eq!(listed.body["value"].as_array().unwrap().len(), 3);
    let deleted = azure.delete(&path).await.is(202);
    Azure::succeeded(&azure.end(&deleted).await);
    azure.get(&path).await.refused(404, "NotFound");
}

#[tokio::test]
async fn resources_in_use_cannot_be_deleted() {
    let azure = prepared().await;
    let rules = json!({"location": LOCATION, "properties": {}});
    let security = azure
        .put(&network("networkSecurityGroups/nsg"), &rules)
        .await
        .is(201);
    let address = json!({
        "location": LOCATION,
        "sku": {"name": "Standard"},
        "properties": {"publicIPAllocationMethod": "Static"},
    });
    let address = azure
        .put(&network("publicIPAddresses/pip"), &address)
        .await
        .is(201);
    let configuration = json!({"name": "first", "properties": {
        "subnet": {"id": subnet_id("default")}, "publicIPAddress": {"id": address.body["id"]},
    }});
    let nic = json!({"location": LOCATION, "properties": {
        "ipConfigurations": [configuration],
        "networkSecurityGroup": {"id": security.body["id"]},
    }});
    azure
        .put(&network("networkInterfaces/nic"), &nic)
        .await
        .is(201);
    let begun = azure
        .put(&vm("vm"), &with_nic("vm", "nic", "Detach"))
        .await
        .is(201);
    azure.end(&begun).await;
    for (path, code) in [
        ("networkInterfaces/nic", "NicInUse"),
        ("publicIPAddresses/pip", "PublicIPAddressCannotBeDeleted"),
        (
            "networkSecurityGroups/nsg",
            "InUseNetworkSecurityGroupCannotBeDeleted",
        ),
        ("virtualNetworks/net", "InUseSubnetCannotBeDeleted"),
        (
            "virtualNetworks/net/subnets/default",
            "InUseSubnetCannotBeDeleted",
        ),
    ] {
        azure.delete(&network(path)).await.refused(400, code);
    }
    // A PUT without the subnet would delete the subnet.
    let without = net(&json!([subnet("small", "10.0.1.0/29")]));
    let refused = azure.put(&network("virtualNetworks/net"), &without).await;
    refused.refused(400, "InUseSubnetCannotBeDeleted");
    let deleted = azure.delete(&vm("vm")).await.is(202);
    azure.end(&deleted).await;
    for path in [
        "networkInterfaces/nic",
        "publicIPAddresses/pip",
        "networkSecurityGroups/nsg",
        "virtualNetworks/net",
    ] {
        let deleted = azure.delete(&network(path)).await.is(202);
        Azure::succeeded(&azure.end(&deleted).await);
    }
}

#[tokio::test]
async fn a_subnet_allocates_each_address_once() {
    let azure = prepared().await;
    let mut given = Vec::new();
    for i in 0..3 {
        let nic = azure.nic(&format!("nic{i}"), "small").await.is(201);
        let properties = &nic.body["properties"]["ipConfigurations"][0]["properties"];
        given.push(properties["privateIPAddress"].as_str().unwrap().to_owned());
    }
    // Azure reserves the first four addresses and the last one.
    assert_eq!(given, ["10.0.1.4", "10.0.1.5", "10.0.1.6"]);
    azure
        .nic("more", "small")
        .await
        .refused(400, "SubnetIsFull");
    let deleted = azure
        .delete(&network("networkInterfaces/nic1"))
        .await
        .is(202);
    azure.end(&deleted).await;
    let nic = azure.nic("more", "small").await.is(201);
    let properties = &nic.body["properties"]["ipConfigurations"][0]["properties"];
    assert_eq!(properties["privateIPAddress"], "10.0.1.5");
}

#[tokio::test]
async fn a_static_address_must_be_free_and_in_the_subnet() {
    let azure = prepared().await;
    let fixed = async |name: &str, address: &str| {
        let configuration = json!({"name": "first", "properties": {
            "subnet": {"id": subnet_id("default")},
            "privateIPAllocationMethod": "Static",
            "privateIPAddress": address,
        }});
        let nic =
            json!({"location": LOCATION, "properties": {"ipConfigurations": [configuration]}});
        azure
            .put(&network(&format!("networkInterfaces/{name}")), &nic)
            .await
    };
    fixed("a", "10.0.0.9").await.is(201);
    fixed("b", "10.0.0.9")
        .await
        .refused(400, "PrivateIPAddressIsAllocated");
    fixed("b", "10.0.9.9")
        .await
        .refused(400, "PrivateIPAddressNotInSubnet");
    fixed("b", "10.0.0.2")
        .await
        .refused(400, "PrivateIPAddressNotInSubnet");
    fixed("a", "10.0.0.9").await.is(200);
}

#[tokio::test]
async fn security_rules_are_validated_and_returned() {
    let azure = prepared().await;
    let rule = |name: &str, priority: u32| {
        json!({"name": name, "properties": {
            "access": "Allow", "direction": "Inbound", "protocol": "Tcp", "priority": priority,
            "sourceAddressPrefix": "*", "sourcePortRange": "*",
            "destinationAddressPrefix": "*", "destinationPortRange": "22",
        }})
    };
    let group =
        |rules: &Value| json!({"location": LOCATION, "properties": {"securityRules": rules}});
    let path = network("networkSecurityGroups/nsg");
    let twice = group(&json!([rule("a", 100), rule("b", 100)]));
    azure
        .put(&path, &twice)
        .await
        .refused(400, "SecurityRuleConflict");
    let low = group(&json!([rule("a", 99)]));
    azure
        .put(&path, &low)
        .await
        .refused(400, "SecurityRuleInvalidPriority");
    let made = azure
        .put(&path, &group(&json!([rule("a", 100)])))
        .await
        .is(201);
    let rules = &made.body["properties"]["securityRules"];
    assert_eq!(rules[0]["properties"]["destinationPortRange"], "22");
    let defaults = made.body["properties"]["defaultSecurityRules"]
        .as_array()
        .unwrap();
    assert_eq!(defaults.len(), 6);
}

#[tokio::test]
async fn public_addresses_are_allocated_once() {
    let azure = prepared().await;
    let standard = |method: &str| {
        json!({
            "location": LOCATION,
            "sku": {"name": "Standard"},
            "properties": {"publicIPAllocationMethod": method},
        })
    };
    let code = "StandardSkuPublicIPAddressesCannotHaveDynamicAllocation";
    azure
        .put(&network("publicIPAddresses/a"), &standard("Dynamic"))
        .await
        .refused(400, code);
    let mut given = Vec::new();
    for name in ["a", "b"] {
        let path = network(&format!("publicIPAddresses/{name}"));
        let made = azure.put(&path, &standard("Static")).await.is(201);
        given.push(
            made.body["properties"]["ipAddress"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
        let again = azure.put(&path, &standard("Static")).await.is(200);
        assert_eq!(
            again.body["properties"]["ipAddress"],
            given.last().unwrap().as_str()
        );
    }
    assert_ne!(given[0], given[1]);
}

#[tokio::test]
async fn a_referenced_resource_must_exist() {
    let azure = prepared().await;
    azure
        .nic("nic", "none")
        .await
        .refused(400, "InvalidResourceReference");
    let configuration = json!({"name": "first", "properties": {
        "subnet": {"id": subnet_id("default")}, "publicIPAddress": {"id": "/none"},
    }});
    let nic = json!({"location": LOCATION, "properties": {"ipConfigurations": [configuration]}});
    let refused = azure.put(&network("networkInterfaces/nic"), &nic).await;
    refused.refused(400, "InvalidResourceReference");
}

#[tokio::test]
async fn rules_are_created_and_deleted_one_by_one() {
    let azure = prepared().await;
    let group = network("networkSecurityGroups/nsg");
    let body = json!({"location": LOCATION, "properties": {"securityRules": [rule("ssh", 100)]}});
    azure.put(&group, &body).await.is(201);
    let path = |name: &str| format!("{group}/securityRules/{name}");
    let web = rule("web", 200);
    let created = azure.put(&path("web"), &web).await.is(201);
    assert_eq!(created.body["name"], "web");
    Azure::succeeded(&azure.end(&created).await);
    let changed = azure.put(&path("WEB"), &rule("WEB", 201)).await.is(200);
    Azure::succeeded(&azure.end(&changed).await);
    let seen = azure.get(&path("web")).await.is(200).body;
    assert_eq!(seen["properties"]["priority"], 201);
    assert_eq!(seen["properties"]["provisioningState"], "Succeeded");
    let conflict = azure.put(&path("other"), &rule("other", 100)).await;
    conflict.refused(400, "SecurityRuleConflict");
    let bad = azure.put(&path("bad"), &rule("bad", 99)).await;
    bad.refused(400, "SecurityRuleInvalidPriority");
    let listed = azure.get(&format!("{group}/securityRules")).await.is(200);
    assert_eq!(listed.body["value"].as_array().unwrap().len(), 2);

    let deleted = azure.delete(&path("web")).await.is(202);
    Azure::succeeded(&azure.end(&deleted).await);
    azure.get(&path("web")).await.refused(404, "NotFound");
    azure.delete(&path("web")).await.is(204);
    azure.get(&path("ssh")).await.is(200);
}

fn rule(name: &str, priority: u32) -> Value {
    json!({"name": name, "properties": {
        "priority": priority, "access": "Allow", "direction": "Inbound", "protocol": "Tcp",
        "sourceAddressPrefix": "Internet", "sourcePortRange": "*",
        "destinationAddressPrefix": "*", "destinationPortRange": priority.to_string(),
    }})
}
