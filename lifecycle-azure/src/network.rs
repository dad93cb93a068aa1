//! Manages the resources that all nodes of a platform share: a resource group, a security group
//! that allows only SSH from outside, and a network. These resources are created before the first
//! node and removed after the last node.

use std::collections::BTreeSet;
use std::time::Duration;

use lifecycle_core::model::{NodeName, PublicPorts};
use lifecycle_core::{Error, Result};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::alternative::Tried;
use crate::arm::Client;
use crate::options::AzureOptions;
use crate::public_ports::{Location, RuleChange, SecurityGroups};
use crate::tags::{self, Tags};

/// The API versions of the requests for resource groups and for network resources.
pub(crate) const RESOURCES: &str = "2021-04-01";
pub(crate) const NETWORK: &str = "2023-09-01";

/// Time limit for creating or removing a group or a network. Longer than the wait for a new role
/// assignment.
const DEADLINE: Duration = Duration::from_mins(20);
/// How many times the group is checked before a remaining resource counts as foreign. Azure's list
/// may still contain resources that are being deleted, such as the disk of a deleted VM.
const GROUP_CHECKS: usize = 12;

/// The maximum number of tags per resource, as documented in "Use tags to organize your Azure
/// resources".
const TAGS: usize = 50;

/// The shared resources of one platform.
#[derive(Debug)]
pub(crate) struct Shared {
    client: Client,
    options: AzureOptions,
    /// Whether this process knows that all shared resources exist. Locked while they are created.
    there: Mutex<bool>,
    /// Locked while the network's tags are changed: Azure replaces all tags at once, so concurrent
    /// changes would overwrite each other.
    notes: Mutex<()>,
    /// Locked while rules of security groups are changed.
    rules: Mutex<()>,
}

impl Shared {
    pub(crate) fn new(client: Client, options: AzureOptions) -> Self {
        Self {
            client,
            options,
            there: Mutex::default(),
            notes: Mutex::default(),
            rules: Mutex::default(),
        }
    }

    /// Returns the path of the resource group.
    pub(crate) fn group(&self) -> String {
        let AzureOptions { subscription, .. } = &self.options;
        format!(
            "/subscriptions/{subscription}/resourceGroups/{}",
            self.options.group()
        )
    }

    fn of_network(&self, kind: &str, name: &str) -> String {
        format!("{}/providers/Microsoft.Network/{kind}/{name}", self.group())
    }

    fn security_group(&self) -> String {
        self.of_network(
            "networkSecurityGroups",
            &format!("{}-nsg", self.options.prefix()),
        )
    }

    fn virtual_network(&self) -> String {
        self.of_network(
            "virtualNetworks",
            &format!("{}-vnet", self.options.prefix()),
        )
    }

    /// Returns the path of the nodes' subnet.
    pub(crate) fn subnet(&self) -> String {
        format!("{}/subnets/nodes", self.virtual_network())
    }

    /// Makes the next [`Shared::ensure`] check all shared resources again. Called when a resource
    /// is unexpectedly missing.
    pub(crate) async fn forget(&self) {
        *self.there.lock().await = false;
    }

    /// Creates the shared resources that are missing.
    pub(crate) async fn ensure(&self) -> Result<()> {
        let mut there = self.there.lock().await;
        if *there {
            return Ok(());
        }
        let tags = Tags::of(&self.options.owner).to_value();
        let location = &self.options.location;
        let group = json!({ "location": location, "tags": tags });
        self.ensure_one(&self.group(), RESOURCES, &group).await?;
        let security_group = json!({
            "location": location,
            "tags": tags,
            "properties": { "securityRules": self.ssh_rules() },
        });
        self.ensure_one(&self.security_group(), NETWORK, &security_group)
            .await?;
        let (block, length) = self.options.network;
        let block = format!("{block}/{length}");
        let network = json!({
            "location": location,
            "tags": tags,
            "properties": {
                "addressSpace": { "addressPrefixes": [block] },
                "subnets": [{
                    "name": "nodes",
                    "properties": {
                        "addressPrefix": block,
                        "networkSecurityGroup": { "id": self.security_group() },
                    },
                }],
            },
        });
        self.ensure_one(&self.virtual_network(), NETWORK, &network)
            .await?;
        *there = true;
        Ok(())
    }

    /// Returns the rules for SSH. Azure's default rules already allow traffic between nodes and
    /// deny traffic from outside. Each source has its own rule, because a rule accepts several
    /// blocks but not several service tags.
    fn ssh_rules(&self) -> Vec<Value> {
        let rule = |(number, source): (usize, &String)| {
            json!({
                "name": format!("ssh-{}", number + 1),
                "properties": {
                    "access": "Allow",
                    "direction": "Inbound",
                    "priority": 1000 + number,
                    "protocol": "Tcp",
                    "sourceAddressPrefix": source,
                    "sourcePortRange": "*",
                    "destinationAddressPrefix": "*",
                    "destinationPortRange": "22",
                },
            })
        };
        self.options.ssh_from.iter().enumerate().map(rule).collect()
    }

    async fn ensure_one(&self, path: &str, version: &str, body: &Value) -> Result<()> {
        let make = async {
            let mut again = true;
            loop {
                let found = match self.client.get(path, version).await? {
                    Some(found) if !is_failed(&found) => found,
                    // Azure repairs a failed resource when the same request is repeated.
                    Some(_) if std::mem::take(&mut again) => {
                        self.client.put(path, version, body).await?
                    }
                    Some(failed) => failed,
                    None => self.client.put(path, version, body).await?,
                };
                if path != self.group() {
                    check_location(path, &found, &self.options.location)?;
                }
                if is_ready(path, &found)? {
                    return Ok(());
                }
                tokio::time::sleep(self.options.poll_every).await;
            }
        };
        in_time(path, make).await
    }

    /// Lists the security groups of the subscription with their rules, in one request.
    pub(crate) async fn security_groups(&self) -> Result<SecurityGroups> {
        let AzureOptions { subscription, .. } = &self.options;
        let path = format!(
            "/subscriptions/{subscription}/providers/Microsoft.Network/networkSecurityGroups"
        );
        let groups = self.client.list(&path, NETWORK).await?;
        Ok(SecurityGroups::read(&groups))
    }

    /// Opens exactly these ports of a node. `nodes` returns the nodes that exist; it is called only
    /// if other nodes have rules.
    pub(crate) async fn open_ports(
        &self,
        node: &NodeName,
        location: &Location,
        ports: &PublicPorts,
        nodes: impl AsyncFnOnce() -> Result<BTreeSet<NodeName>>,
    ) -> Result<()> {
        // New rules need free priorities, so only one change at a time may choose them.
        let _held = self.rules.lock().await;
        let groups = self.security_groups().await?;
        let owner = &self.options.owner;
        let mut changes = groups.changes(owner, node, location, ports)?;
        let own = BTreeSet::from([node.clone()]);
        if !groups.closing_all_except(owner, &own).is_empty() {
            let mut kept = nodes().await?;
            kept.insert(node.clone());
            changes.splice(0..0, groups.closing_all_except(owner, &kept));
        }
        self.change_rules(changes).await
    }

    /// Closes all ports that the platform has opened for a node or, for `None`, for any node.
    pub(crate) async fn close_ports(&self, node: Option<&NodeName>) -> Result<()> {
        let _held = self.rules.lock().await;
        let groups = self.security_groups().await?;
        let owner = &self.options.owner;
        let changes = match node {
            Some(node) => groups.closing_node(owner, node),
            None => groups.closing_all_except(owner, &BTreeSet::new()),
        };
        self.change_rules(changes).await
    }

    /// Changes rules one after the other: Azure rejects concurrent changes of a group. A port is closed
    /// if one of several groups blocks it, so a failed change does not prevent the others.
    async fn change_rules(&self, changes: Vec<RuleChange>) -> Result<()> {
        let mut result = Ok(());
        for change in changes {
            let outcome = self.change_rule(change).await;
            result = result.and(outcome);
        }
        result
    }

    async fn change_rule(&self, change: RuleChange) -> Result<()> {
        match change {
            RuleChange::Put { path, body } => {
                let put = async {
                    let mut rule = self.client.put(&path, NETWORK, &body).await?;
                    while !is_ready(&path, &rule)? {
                        tokio::time::sleep(self.options.poll_every).await;
                        let found = self.client.get_existing(&path, NETWORK).await?;
                        rule = found.ok_or_else(|| Error::not_found(path.clone()))?;
                    }
                    Ok(())
                };
                in_time(&path, put).await
            }
            RuleChange::Delete { path } => {
                self.client.delete(&path, NETWORK).await?;
                self.gone(&path, NETWORK).await
            }
        }
    }

    /// Removes the platform's shared resources if nothing uses them. If the platform's group
    /// contains foreign resources, keeps these resources and the group.
    pub(crate) async fn remove(&self) -> Result<()> {
        let mut there = self.there.lock().await;
        *there = false;
        for path in [self.virtual_network(), self.security_group()] {
            self.remove_one(&path, NETWORK).await?;
        }
        // Existing security groups are kept, but without rules of the platform.
        self.close_ports(None).await?;
        if !self.is_owned(&self.group(), RESOURCES).await? {
            return Ok(());
        }
        let inside = format!("{}/resources", self.group());
        for _ in 0..GROUP_CHECKS {
            if self.client.list(&inside, RESOURCES).await?.is_empty() {
                return self.remove_one(&self.group(), RESOURCES).await;
            }
            tokio::time::sleep(self.options.poll_every).await;
        }
        Ok(())
    }

    /// Returns the recorded alternatives that failed for a node, so that the next attempt continues
    /// after them.
    pub(crate) async fn tried(&self, node: &NodeName) -> Result<Tried> {
        let network = self.client.get(&self.virtual_network(), NETWORK).await?;
        let tags = Tags::read(network.as_ref().and_then(|network| network.get("tags")));
        Ok(Tried::read(tags.get(&tried_tag(node))))
    }

    /// Records the alternatives that failed for a node. If `tried` is empty, removes the record.
    pub(crate) async fn note_tried(&self, node: &NodeName, tried: &Tried) -> Result<()> {
        let path = self.virtual_network();
        let key = tried_tag(node);
        let _held = self.notes.lock().await;
        let Some(network) = self.client.get(&path, NETWORK).await? else {
            return Ok(());
        };
        let before = Tags::read(network.get("tags"));
        let after = before.clone().without(&key);
        let after = match tried.written() {
            Some(text) => after.with(&key, &text),
            None => after,
        };
        if after == before {
            return Ok(());
        }
        if after.len() > TAGS {
            // Retry later: the tags of other nodes are removed as soon as their VMs exist.
            return Err(Error::throttled(
                format!("recording the failed alternatives of node {node}"),
                Some(self.options.poll_every),
            ));
        }
        let body = json!({ "tags": after.to_value() });
        self.client.patch(&path, NETWORK, &body).await
    }

    async fn is_owned(&self, path: &str, version: &str) -> Result<bool> {
        let found = self.client.get(path, version).await?;
        Ok(found.is_some_and(|found| Tags::read(found.get("tags")).are_of(&self.options.owner)))
    }

    async fn remove_one(&self, path: &str, version: &str) -> Result<()> {
        if !self.is_owned(path, version).await? {
            return Ok(());
        }
        self.client.delete(path, version).await?;
        self.gone(path, version).await
    }

    /// Waits until a resource no longer exists.
    async fn gone(&self, path: &str, version: &str) -> Result<()> {
        let poll = async {
            while self.client.get(path, version).await?.is_some() {
                tokio::time::sleep(self.options.poll_every).await;
            }
            Ok(())
        };
        in_time(path, poll).await
    }
}

fn tried_tag(node: &NodeName) -> String {
    format!("{}.{node}", tags::TRIED)
}

async fn in_time(path: &str, change: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::time::timeout(DEADLINE, change)
        .await
        .unwrap_or_else(|_| Err(Error::timed_out(format!("changing {path}"), DEADLINE)))
}

fn state(resource: &Value) -> Option<&str> {
    let state = resource.pointer("/properties/provisioningState");
    state.and_then(Value::as_str)
}

/// Rejects a resource in another location than the declared one, which Azure would report as missing
/// when a VM refers to it. Azure also writes locations as "West Europe".
fn check_location(path: &str, resource: &Value, declared: &str) -> Result<()> {
    let plain = |location: &str| location.replace(' ', "").to_lowercase();
    let found = resource.get("location").and_then(Value::as_str);
    match found {
        Some(found) if plain(found) != plain(declared) => Err(Error::invalid(
            format!("`cloud.location` ({declared})"),
            format!("the platform's network {path} is in {found}"),
            format!(
                "set `location = \"{}\"`, or remove the platform with `bootstrapper down` first",
                plain(found)
            ),
        )),
        _ => Ok(()),
    }
}

/// Returns whether the last change to a resource failed.
pub(crate) fn is_failed(resource: &Value) -> bool {
    state(resource).is_some_and(|state| {
        state.eq_ignore_ascii_case("Failed") || state.eq_ignore_ascii_case("Canceled")
    })
}

/// Returns whether a resource is ready. If the resource has failed, returns an error.
pub(crate) fn is_ready(path: &str, resource: &Value) -> Result<bool> {
    match state(resource) {
        Some(state) if is_failed(resource) => Err(Error::failed(
            format!("creating {path}"),
            format!("Azure reports state {state}"),
        )),
        Some(state) => Ok(state.eq_ignore_ascii_case("Succeeded")),
        None => Ok(true),
    }
}
