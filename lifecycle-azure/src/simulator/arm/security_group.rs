//! Simulates network security groups and their rules. The module `inbound` evaluates the rules.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use lifecycle_core::clock::IdSource;
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::call::Call;
use super::id::{ResourceId, key_of};
use super::inbound;
use super::network::{missing_reference, subnet_security_groups};
use super::operation::{self, Begin};
use super::page::paged;
use super::problem::{Problem, Refusal, invalid, required};
use super::resource::{Declared, Head, Provisioning, Resource, find, stored_in};
use super::state::ArmState;

#[derive(Debug)]
pub(crate) struct SecurityGroup {
    head: Head,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    name: String,
    properties: Map<String, Value>,
    state: Provisioning,
}

/// The default rules of every group, as (name, priority, direction, access, source, destination).
const DEFAULT_RULES: [(&str, u32, &str, &str, &str, &str); 6] = [
    (
        "AllowVnetInBound",
        65000,
        "Inbound",
        "Allow",
        "VirtualNetwork",
        "VirtualNetwork",
    ),
    (
        "AllowAzureLoadBalancerInBound",
        65001,
        "Inbound",
        "Allow",
        "AzureLoadBalancer",
        "*",
    ),
    ("DenyAllInBound", 65500, "Inbound", "Deny", "*", "*"),
    (
        "AllowVnetOutBound",
        65000,
        "Outbound",
        "Allow",
        "VirtualNetwork",
        "VirtualNetwork",
    ),
    (
        "AllowInternetOutBound",
        65001,
        "Outbound",
        "Allow",
        "*",
        "Internet",
    ),
    ("DenyAllOutBound", 65500, "Outbound", "Deny", "*", "*"),
];

/// Checks that a security group exists. `by` is the resource that refers to the group.
pub(crate) fn exists(arm: &ArmState, id: &str, by: &ResourceId) -> Result<(), Refusal> {
    if arm.security_groups.contains_key(&key_of(id)) {
        Ok(())
    } else {
        Err(missing_reference(id, by))
    }
}

impl Rule {
    fn read(rule: &Value) -> Result<Self, Refusal> {
        let name = rule
            .get("name")
            .and_then(Value::as_str)
            .ok_or_else(|| required("securityRules.name"))?;
        let properties = rule
            .get("properties")
            .and_then(Value::as_object)
            .ok_or_else(|| required("securityRules.properties"))?;
        for (property, allowed) in [
            ("access", &["Allow", "Deny"][..]),
            ("direction", &["Inbound", "Outbound"]),
            ("protocol", &["Tcp", "Udp", "Icmp", "Esp", "Ah", "*"]),
        ] {
            let given = properties
                .get(property)
                .and_then(Value::as_str)
                .ok_or_else(|| required(&format!("securityRules.properties.{property}")))?;
            if !allowed.iter().any(|one| one.eq_ignore_ascii_case(given)) {
                let message = format!(
                    "Security rule '{name}' has the invalid value '{given}' for {property}; it takes \
                     one of {}.",
                    allowed.join(", ")
                );
                return Err(invalid(property, message));
            }
        }
        let priority = properties.get("priority").and_then(Value::as_u64);
        if !priority.is_some_and(|priority| (100..=4096).contains(&priority)) {
            let message = format!(
                "Security rule has invalid Priority. Priority must be between 100 and 4096: {name}."
            );
            return Err(Problem::new("SecurityRuleInvalidPriority", message).bad_request());
        }
        Ok(Self {
            name: name.to_owned(),
            properties: properties.clone(),
            state: Provisioning::Succeeded,
        })
    }

    /// Returns the rule's priority and direction. Within a group, this combination must be unique.
    fn place(&self) -> (Option<u64>, String) {
        let direction = self.properties.get("direction").and_then(Value::as_str);
        (
            self.properties.get("priority").and_then(Value::as_u64),
            direction.unwrap_or_default().to_lowercase(),
        )
    }
}

impl SecurityGroup {
    /// Returns the declared rules for inbound traffic, in the order in which Azure applies them.
    pub(crate) fn inbound_rules(&self) -> Vec<&Map<String, Value>> {
        let number = |rule: &&Map<String, Value>| rule.get("priority").and_then(Value::as_u64);
        let mut rules: Vec<_> = self
            .rules
            .iter()
            .filter(|rule| rule.state != Provisioning::Deleting)
            .map(|rule| &rule.properties)
            .filter(|rule| {
                let direction = rule.get("direction").and_then(Value::as_str);
                direction.is_some_and(|direction| direction.eq_ignore_ascii_case("inbound"))
            })
            .collect();
        rules.sort_by_key(number);
        rules
    }

    fn rule(&self, name: &str) -> Option<&Rule> {
        let mut rules = self.rules.iter();
        rules.find(|rule| rule.name.eq_ignore_ascii_case(name))
    }

    fn show_own(&self, rule: &Rule) -> Value {
        let mut shown = self.show_rule("securityRules", &rule.name, &rule.properties);
        shown["properties"]["provisioningState"] = rule.state.name().into();
        shown
    }

    fn show_rule(&self, kind: &str, name: &str, properties: &Map<String, Value>) -> Value {
        let mut properties = properties.clone();
        properties.insert("provisioningState".into(), "Succeeded".into());
        json!({
            "id": format!("{}/{kind}/{name}", self.head.id),
            "name": name,
            "etag": format!("W/\"{}\"", self.head.etag),
            "type": format!("{}/{kind}", Self::KIND),
            "properties": properties,
        })
    }
}

impl Resource for SecurityGroup {
    const KIND: &'static str = "Microsoft.Network/networkSecurityGroups";
    const NAMESPACE: &'static str = "Microsoft.Network";

    stored_in!(security_groups);

    fn properties(&self, arm: &ArmState) -> Map<String, Value> {
        let rules: Vec<_> = self.rules.iter().map(|rule| self.show_own(rule)).collect();
        let defaults: Vec<_> = DEFAULT_RULES
            .iter()
            .map(|(name, priority, direction, access, from, to)| {
                let properties = json!({
                    "protocol": "*", "access": access, "priority": priority, "direction": direction,
                    "sourcePortRange": "*", "destinationPortRange": "*",
                    "sourceAddressPrefix": from, "destinationAddressPrefix": to,
                });
                let properties = properties.as_object().cloned().unwrap_or_default();
                self.show_rule("defaultSecurityRules", name, &properties)
            })
            .collect();
        let own = self.head.id.key();
        let interfaces: Vec<_> = arm
            .interfaces
            .values()
            .filter(|one| one.security_group().is_some_and(|id| key_of(id) == own))
            .map(|one| json!({"id": one.head().id.to_string()}))
            .collect();
        let subnets: Vec<_> = subnet_security_groups(arm)
            .filter(|(_, group)| key_of(group) == own)
            .map(|(id, _)| json!({ "id": id }))
            .collect();
        let mut properties = Map::new();
        properties.insert("securityRules".into(), rules.into());
        properties.insert("defaultSecurityRules".into(), defaults.into());
        if !interfaces.is_empty() {
            properties.insert("networkInterfaces".into(), interfaces.into());
        }
        if !subnets.is_empty() {
            properties.insert("subnets".into(), subnets.into());
        }
        properties
    }

    fn in_use(&self, arm: &ArmState) -> Option<Problem> {
        let own = self.head.id.key();
        let interfaces = arm
            .interfaces
            .values()
            .filter(|one| one.security_group().is_some_and(|id| key_of(id) == own))
            .map(|one| one.head().id.to_string());
        let subnets = subnet_security_groups(arm)
            .filter(|(_, group)| key_of(group) == own)
            .map(|(id, _)| id);
        let users: Vec<_> = interfaces.chain(subnets).collect();
        if users.is_empty() {
            return None;
        }
        let message = format!(
            "Network security group {} cannot be deleted because it is in use by the following \
             resources: {}. In order to delete the Network security group, remove the association with \
             the resource(s). To learn how to do this, see aka.ms/deletensg.",
            self.head.id,
            users.join(", ")
        );
        Some(Problem::new(
            "InUseNetworkSecurityGroupCannotBeDeleted",
            message,
        ))
    }
}

impl Declared for SecurityGroup {
    fn declare(
        _world: &mut ArmState,
        head: Head,
        body: &Value,
        _before: Option<&Self>,
        _ids: &dyn IdSource,
    ) -> Result<Self, Refusal> {
        let declared = body
            .pointer("/properties/securityRules")
            .and_then(Value::as_array);
        let mut rules = Vec::new();
        let mut places = BTreeSet::new();
        for rule in declared.into_iter().flatten() {
            let rule = Rule::read(rule)?;
            if !places.insert(rule.place()) {
                return Err(conflict(&rule));
            }
            rules.push(rule);
        }
        Ok(Self { head, rules })
    }
}

fn conflict(rule: &Rule) -> Refusal {
    let message = format!(
        "Security rule {} conflicts with another rule. Rules cannot have the same Priority and Direction.",
        rule.name
    );
    Problem::new("SecurityRuleConflict", message).bad_request()
}

fn rule_not_found(group: &ResourceId, name: &str) -> Refusal {
    let message = format!("Resource {group}/securityRules/{name} not found.");
    Problem::new("NotFound", message).not_found()
}

pub(crate) fn get_rule(arm: &ArmState, group: &ResourceId, name: &str) -> Result<Answer, Refusal> {
    let found = find::<SecurityGroup>(arm, group)?;
    let rule = found
        .rule(name)
        .ok_or_else(|| rule_not_found(group, name))?;
    Ok(Answer::ok(found.show_own(rule)))
}

pub(crate) fn list_rules(
    call: &Call<'_>,
    arm: &ArmState,
    group: &ResourceId,
) -> Result<Answer, Refusal> {
    let found = find::<SecurityGroup>(arm, group)?;
    let mut shown: Vec<_> = found
        .rules
        .iter()
        .map(|rule| (rule.name.to_lowercase(), found.show_own(rule)))
        .collect();
    shown.sort_by(|a, b| a.0.cmp(&b.0));
    paged(call, shown.into_iter())
}

/// Creates or replaces one rule. Leaves the other rules unchanged.
pub(crate) fn put_rule(
    call: &Call<'_>,
    arm: &mut ArmState,
    group: &ResourceId,
    name: &str,
) -> Result<Answer, Refusal> {
    arm.open_group(&group.subscription, &group.group)?;
    let found = find::<SecurityGroup>(arm, group)?;
    let mut declared = call.body.clone();
    if let Some(declared) = declared.as_object_mut() {
        declared.insert("name".into(), name.into());
    }
    let mut rule = Rule::read(&declared)?;
    rule.state = Provisioning::Updating;
    let mut others = found
        .rules
        .iter()
        .filter(|other| !other.name.eq_ignore_ascii_case(name));
    if others.any(|other| other.place() == rule.place()) {
        return Err(conflict(&rule));
    }
    let status = match found.rule(name) {
        Some(_) => StatusCode::OK,
        None => StatusCode::CREATED,
    };
    if let Some(found) = arm.security_groups.get_mut(&group.key()) {
        found
            .rules
            .retain(|other| !other.name.eq_ignore_ascii_case(name));
        found.rules.push(rule);
    }
    let shown = get_rule(arm, group, name)?;
    let answer = shown.with_status(status);
    change_rule(call, arm, group, name, answer)
}

/// Deletes a rule. Succeeds if the rule does not exist.
pub(crate) fn delete_rule(
    call: &Call<'_>,
    arm: &mut ArmState,
    group: &ResourceId,
    name: &str,
) -> Result<Answer, Refusal> {
    let found = arm.security_groups.get_mut(&group.key());
    let mut rules = found.into_iter().flat_map(|found| &mut found.rules);
    let Some(rule) = rules.find(|rule| rule.name.eq_ignore_ascii_case(name)) else {
        return Ok(Answer::new(StatusCode::NO_CONTENT));
    };
    rule.state = Provisioning::Deleting;
    change_rule(call, arm, group, name, Answer::new(StatusCode::ACCEPTED))
}

/// Starts the operation that applies a changed rule to the VMs.
fn change_rule(
    call: &Call<'_>,
    arm: &mut ArmState,
    group: &ResourceId,
    name: &str,
    answer: Answer,
) -> Result<Answer, Refusal> {
    let found = find::<SecurityGroup>(arm, group)?;
    let delay = call.cloud.options.delays.network;
    let begin = Begin::on::<SecurityGroup>(call, group, &found.head.location, delay);
    let cloud = call.cloud.clone();
    let work = async move { inbound::enforce(&cloud).await };
    let (key, name) = (group.key(), name.to_owned());
    let finish = move |arm: &mut ArmState, worked: Result<(), Problem>| {
        let Some(found) = arm.security_groups.get_mut(&key) else {
            return worked;
        };
        let is_deleted = |rule: &Rule| {
            rule.name.eq_ignore_ascii_case(&name) && rule.state == Provisioning::Deleting
        };
        if worked.is_ok() {
            found.rules.retain(|rule| !is_deleted(rule));
        }
        let changed = found
            .rules
            .iter_mut()
            .find(|rule| rule.name.eq_ignore_ascii_case(&name));
        if let Some(rule) = changed {
            rule.state = Provisioning::after(&worked);
        }
        worked
    };
    let operation = operation::begin(call.cloud, arm, begin, work, finish);
    Ok(answer.following(operation))
}
