//! Opens ports of nodes in the security groups that apply to the nodes: the group of the subnet, and
//! that of the network interface.
//!
//! Each node has at most one rule for each protocol in a group. A rule's description contains the
//! platform's id and the node's name. Rules with any other description are never changed, so groups
//! that contain rules of others, or of other platforms, can be used.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lifecycle_core::cloud::OpenPorts;
use lifecycle_core::model::{NodeName, Protocol, PublicPort, PublicPorts};
use lifecycle_core::runtime::Owner;
use lifecycle_core::{Error, Result};
use serde_json::{Value, json};

use crate::tags;

/// The priorities for new rules. Rules with lower numbers apply first, so that a user can deny
/// traffic with a rule below these numbers.
const PRIORITIES: std::ops::RangeInclusive<u64> = 2000..=4096;
/// The source of the allowed traffic: all addresses outside of virtual networks.
const SOURCE: &str = "Internet";
/// The largest port range of a rule that is read port by port.
const LARGEST_RANGE: u16 = 1000;

/// The security groups of a subscription.
#[derive(Debug)]
pub(crate) struct SecurityGroups(Vec<SecurityGroup>);

#[derive(Debug)]
struct SecurityGroup {
    id: String,
    /// The subnets and interfaces to which the group applies, in lower case.
    applies_to: BTreeSet<String>,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    name: String,
    description: String,
    priority: Option<u64>,
    is_inbound: bool,
    properties: Value,
}

/// The properties of a node on which its rules depend: its interface, the interface's subnet, and its
/// private address.
#[derive(Debug, Clone)]
pub(crate) struct Location {
    interface: String,
    subnet: Option<String>,
    private: Option<IpAddr>,
}

/// A change of one rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RuleChange {
    Put { path: String, body: Value },
    Delete { path: String },
}

impl Location {
    /// Reads an interface.
    pub(crate) fn of(interface: &Value, private: Option<IpAddr>) -> Option<Self> {
        let configurations = interface.pointer("/properties/ipConfigurations");
        let all = configurations.and_then(Value::as_array)?;
        let is_primary = |one: &&Value| {
            one.pointer("/properties/primary").and_then(Value::as_bool) == Some(true)
        };
        let primary = all.iter().find(is_primary).or_else(|| all.first());
        let subnet = primary.and_then(|one| one.pointer("/properties/subnet/id"));
        Some(Self {
            interface: interface.get("id")?.as_str()?.to_lowercase(),
            subnet: subnet.and_then(Value::as_str).map(str::to_lowercase),
            private,
        })
    }
}

impl SecurityGroup {
    fn read(group: &Value) -> Option<Self> {
        let list = |pointer: &str| {
            let list = group.pointer(pointer).and_then(Value::as_array);
            list.into_iter().flatten()
        };
        let ids = list("/properties/subnets").chain(list("/properties/networkInterfaces"));
        let ids = ids.filter_map(|one| one.get("id")?.as_str());
        Some(Self {
            id: group.get("id")?.as_str()?.to_owned(),
            applies_to: ids.map(str::to_lowercase).collect(),
            rules: list("/properties/securityRules")
                .filter_map(Rule::read)
                .collect(),
        })
    }

    fn applies_to(&self, location: &Location) -> bool {
        let subnet = location.subnet.as_ref();
        self.applies_to.contains(&location.interface)
            || subnet.is_some_and(|subnet| self.applies_to.contains(subnet))
    }

    fn path(&self, rule: &str) -> String {
        format!("{}/securityRules/{rule}", self.id)
    }

    fn rules_of<'g>(&'g self, described: &'g str) -> impl Iterator<Item = &'g Rule> {
        let rules = self.rules.iter();
        rules.filter(move |rule| rule.description == described)
    }

    /// Returns the smallest priority that no inbound rule has, apart from the rules that are
    /// `planned`.
    fn free_priority(&self, planned: &BTreeSet<u64>) -> Option<u64> {
        let inbound = self.rules.iter().filter(|rule| rule.is_inbound);
        let taken: BTreeSet<u64> = inbound.filter_map(|rule| rule.priority).collect();
        let mut free = PRIORITIES;
        free.find(|priority| !taken.contains(priority) && !planned.contains(priority))
    }
}

impl Rule {
    fn read(rule: &Value) -> Option<Self> {
        let properties = rule.get("properties")?;
        let text = |name: &str| properties.get(name).and_then(Value::as_str);
        Some(Self {
            name: rule.get("name")?.as_str()?.to_owned(),
            description: text("description").unwrap_or_default().to_owned(),
            priority: properties.get("priority").and_then(Value::as_u64),
            is_inbound: text("direction")
                .is_none_or(|direction| direction.eq_ignore_ascii_case("inbound")),
            properties: properties.clone(),
        })
    }

    fn text(&self, name: &str) -> &str {
        let text = self.properties.get(name).and_then(Value::as_str);
        text.unwrap_or_default()
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.text(name).eq_ignore_ascii_case(value)
    }

    /// Returns whether the rule allows traffic from everywhere to this address.
    fn opens(&self, private: Option<IpAddr>) -> bool {
        let to = self.text("destinationAddressPrefix");
        let to = to.strip_suffix("/32").unwrap_or(to);
        let state = self.text("provisioningState");
        self.is_inbound
            && self.is("access", "Allow")
            && self.is("sourceAddressPrefix", SOURCE)
            && self.is("sourcePortRange", "*")
            && (state.is_empty() || state.eq_ignore_ascii_case("Succeeded"))
            && private.is_some_and(|private| to == private.to_string())
    }

    /// Returns the rule's ports. A port that cannot be read counts as port 0, so that the rule is
    /// recognized as incorrect.
    fn ports(&self) -> BTreeSet<PublicPort> {
        let protocols: &[Protocol] = if self.is("protocol", "Tcp") {
            &[Protocol::Tcp]
        } else if self.is("protocol", "Udp") {
            &[Protocol::Udp]
        } else {
            &[Protocol::Tcp, Protocol::Udp]
        };
        let one = self.properties.get("destinationPortRange");
        let several = self.properties.get("destinationPortRanges");
        let several = several.and_then(Value::as_array).into_iter().flatten();
        let texts = one.into_iter().chain(several).filter_map(Value::as_str);
        let ports = texts.filter(|text| !text.is_empty()).flat_map(|text| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
                (Ok(first), Ok(last)) if last.saturating_sub(first) < LARGEST_RANGE => first..=last,
                _ => 0..=0,
            }
        });
        ports
            .flat_map(|port| {
                protocols.iter().map(move |protocol| PublicPort {
                    port,
                    protocol: *protocol,
                })
            })
            .collect()
    }
}

impl SecurityGroups {
    /// Reads Azure's list of security groups.
    pub(crate) fn read(groups: &[Value]) -> Self {
        Self(groups.iter().filter_map(SecurityGroup::read).collect())
    }

    /// Returns the ports that the platform has opened for a node. A port is open if it is open in
    /// all groups that apply to the node.
    pub(crate) fn open_ports(
        &self,
        owner: &Owner,
        node: &NodeName,
        location: Option<&Location>,
    ) -> OpenPorts {
        let described = description(owner, node);
        let mut open: Option<BTreeSet<PublicPort>> = None;
        let mut all = BTreeSet::new();
        for group in &self.0 {
            let location = location.filter(|location| group.applies_to(location));
            let mut here = BTreeSet::new();
            let mut wrong = BTreeSet::new();
            for rule in group.rules_of(&described) {
                let correct = location.is_some_and(|location| rule.opens(location.private));
                let ports = rule.ports();
                if correct {
                    here.extend(ports.iter().copied());
                } else {
                    wrong.extend(ports.iter().copied());
                }
                all.extend(ports);
            }
            if location.is_some() {
                here = here.difference(&wrong).copied().collect();
                open = Some(match open {
                    Some(open) => open.intersection(&here).copied().collect(),
                    None => here,
                });
            }
        }
        let open = open.unwrap_or_default();
        let partly = all.difference(&open).copied().collect();
        OpenPorts {
            open: PublicPorts(open),
            partly,
        }
    }

    /// Returns the changes that open exactly these ports of a node.
    pub(crate) fn changes(
        &self,
        owner: &Owner,
        node: &NodeName,
        location: &Location,
        ports: &PublicPorts,
    ) -> Result<Vec<RuleChange>> {
        let what = || format!("opening ports of node {node}");
        let mut changes = self.closing(|described| described == description(owner, node));
        if ports.is_empty() {
            return Ok(changes);
        }
        let private = location.private.ok_or_else(|| {
            // Azure may not have assigned the address yet.
            Error::interrupted(what(), Some("the node has no private address yet".into()))
        })?;
        let mut protocols: BTreeMap<Protocol, Vec<String>> = BTreeMap::new();
        for port in &ports.0 {
            let texts = protocols.entry(port.protocol).or_default();
            texts.push(port.port.to_string());
        }
        let mut applies = false;
        let mut opening = Vec::new();
        for group in self.0.iter().filter(|group| group.applies_to(location)) {
            applies = true;
            let mut planned = BTreeSet::new();
            for (protocol, texts) in &protocols {
                let name = format!("open-{}-{node}-{protocol}", owner.id.short());
                let path = group.path(&name);
                let known = group
                    .rules
                    .iter()
                    .find(|rule| rule.name.eq_ignore_ascii_case(&name));
                if known.is_some_and(|known| known.description != description(owner, node)) {
                    return Err(Error::conflict(
                        what(),
                        format!("the rule {path} exists, but does not belong to this platform"),
                    ));
                }
                changes.retain(|change| match change {
                    RuleChange::Delete { path: deleted } => !deleted.eq_ignore_ascii_case(&path),
                    RuleChange::Put { .. } => true,
                });
                let desired: BTreeSet<PublicPort> = ports
                    .0
                    .iter()
                    .filter(|port| port.protocol == *protocol)
                    .copied()
                    .collect();
                if known.is_some_and(|known| known.opens(Some(private)) && known.ports() == desired)
                {
                    continue;
                }
                let kept = known.filter(|known| known.is_inbound);
                let priority = kept
                    .and_then(|known| known.priority)
                    .or_else(|| group.free_priority(&planned));
                let priority = priority.ok_or_else(|| {
                    Error::exhausted(
                        what(),
                        format!("the security group {} has no free priority", group.id),
                        "remove rules from the security group",
                    )
                })?;
                planned.insert(priority);
                let protocol = match protocol {
                    Protocol::Tcp => "Tcp",
                    Protocol::Udp => "Udp",
                };
                let body = json!({ "properties": {
                    "description": description(owner, node),
                    "access": "Allow",
                    "direction": "Inbound",
                    "priority": priority,
                    "protocol": protocol,
                    "sourceAddressPrefix": SOURCE,
                    "sourcePortRange": "*",
                    "destinationAddressPrefix": private.to_string(),
                    "destinationPortRanges": texts,
                }});
                opening.push(RuleChange::Put { path, body });
            }
        }
        if !applies {
            return Err(Error::invalid(
                what(),
                "no security group applies to the node, and without one, Azure blocks all traffic \
                 from outside",
                "associate a security group with the node's subnet, and check that this account \
                 may read and change the group",
            ));
        }
        // Close ports first, so that no port is open longer than necessary.
        changes.extend(opening);
        Ok(changes)
    }

    /// Returns the deletions of the platform's rules for all nodes except those in `kept`.
    pub(crate) fn closing_all_except(
        &self,
        owner: &Owner,
        kept: &BTreeSet<NodeName>,
    ) -> Vec<RuleChange> {
        let kept: BTreeSet<String> = kept.iter().map(|node| description(owner, node)).collect();
        let prefix = prefix(owner);
        self.closing(|described| described.starts_with(&prefix) && !kept.contains(described))
    }

    /// Returns the deletions of the platform's rules for a node.
    pub(crate) fn closing_node(&self, owner: &Owner, node: &NodeName) -> Vec<RuleChange> {
        let described = description(owner, node);
        self.closing(|rule| rule == described)
    }

    fn closing(&self, is_closed: impl Fn(&str) -> bool) -> Vec<RuleChange> {
        let groups = self.0.iter();
        let rules = groups.flat_map(|group| group.rules.iter().map(move |rule| (group, rule)));
        rules
            .filter(|(_, rule)| is_closed(&rule.description))
            .map(|(group, rule)| RuleChange::Delete {
                path: group.path(&rule.name),
            })
            .collect()
    }
}

fn prefix(owner: &Owner) -> String {
    format!("{}={} {}=", tags::PLATFORM_ID, owner.id, tags::NODE)
}

/// Returns the description of a node's rules. Azure limits it to 140 characters.
fn description(owner: &Owner, node: &NodeName) -> String {
    format!("{}{node}", prefix(owner))
}

#[cfg(test)]
mod tests {
    use lifecycle_core::model::{PlatformId, PlatformName};

    use super::*;

    const SUBNET: &str = "/subscriptions/s/net/subnets/nodes";
    const INTERFACE: &str = "/subscriptions/s/nic/one";

    fn owner(number: u128) -> Owner {
        Owner {
            id: PlatformId::new(uuid::Uuid::from_u128(number << 120)),
            name: PlatformName::try_from("demo").unwrap(),
        }
    }

    fn node() -> NodeName {
        NodeName::try_from("one").unwrap()
    }

    fn location(private: &str) -> Location {
        let interface = json!({
            "id": INTERFACE.to_uppercase(),
            "properties": { "ipConfigurations": [
                { "properties": { "primary": true, "subnet": { "id": SUBNET } } },
            ]},
        });
        Location::of(&interface, private.parse().ok()).unwrap()
    }

    fn ports(ports: &[(u16, Protocol)]) -> PublicPorts {
        let ports = ports.iter();
        ports
            .map(|(port, protocol)| PublicPort {
                port: *port,
                protocol: *protocol,
            })
            .collect()
    }

    /// A security group that applies to a subnet or an interface.
    #[derive(Clone)]
    struct Group {
        id: &'static str,
        of: (&'static str, &'static str),
        rules: BTreeMap<String, Value>,
    }

    impl Group {
        fn new(id: &'static str, of: (&'static str, &'static str)) -> Self {
            Self {
                id,
                of,
                rules: BTreeMap::new(),
            }
        }

        fn json(&self) -> Value {
            let rules = self.rules.iter();
            let rules: Vec<Value> = rules
                .map(|(name, body)| json!({ "name": name, "properties": body["properties"] }))
                .collect();
            json!({
                "id": self.id,
                "properties": {
                    (self.of.0): [{ "id": self.of.1 }],
                    "securityRules": rules,
                },
            })
        }
    }

    fn read(groups: &[Group]) -> SecurityGroups {
        let groups: Vec<Value> = groups.iter().map(Group::json).collect();
        SecurityGroups::read(&groups)
    }

    /// Applies changes as Azure does. Rejects two rules with the same priority.
    fn apply(groups: &mut [Group], changes: Vec<RuleChange>) {
        for change in changes {
            let (RuleChange::Put { path, .. } | RuleChange::Delete { path }) = &change;
            let (id, name) = path.split_once("/securityRules/").unwrap();
            let group = groups.iter_mut().find(|group| group.id == id).unwrap();
            match &change {
                RuleChange::Put { body, .. } => {
                    let priority = &body["properties"]["priority"];
                    let mut others = group.rules.iter().filter(|(other, _)| *other != name);
                    assert!(others.all(|(_, rule)| rule["properties"]["priority"] != *priority));
                    group.rules.insert(name.to_owned(), body.clone());
                }
                RuleChange::Delete { .. } => assert!(group.rules.remove(name).is_some()),
            }
        }
    }

    fn foreign(priority: u64) -> Value {
        json!({ "properties": {
            "access": "Allow", "direction": "Inbound", "protocol": "*", "priority": priority,
            "description": "lifecycle.platform-id=other", "sourceAddressPrefix": "Internet",
            "destinationAddressPrefix": "*", "destinationPortRange": "5000-5100",
        }})
    }

    #[test]
    fn opens_and_closes_ports_in_all_groups_and_keeps_other_rules() {
        let mut groups = [
            Group::new("/nsg/subnet", ("subnets", SUBNET)),
            Group::new("/nsg/nic", ("networkInterfaces", INTERFACE)),
            Group::new("/nsg/other", ("subnets", "/elsewhere")),
        ];
        groups[0].rules.insert("theirs".into(), foreign(2000));
        let before = groups.clone();
        let at = location("10.90.0.4");
        let desired = ports(&[
            (8080, Protocol::Tcp),
            (443, Protocol::Tcp),
            (53, Protocol::Udp),
        ]);
        let changes = read(&groups)
            .changes(&owner(1), &node(), &at, &desired)
            .unwrap();
        // After any part of the changes, the ports are not reported as open.
        for part in 0..changes.len() {
            let mut groups = groups.clone();
            let changes = read(&groups).changes(&owner(1), &node(), &at, &desired);
            apply(
                &mut groups,
                changes.unwrap().into_iter().take(part).collect(),
            );
            let seen = read(&groups).open_ports(&owner(1), &node(), Some(&at));
            assert!(!seen.are(&desired), "{part}: {seen:?}");
        }
        apply(&mut groups, changes);
        let seen = read(&groups).open_ports(&owner(1), &node(), Some(&at));
        assert!(seen.are(&desired), "{seen:?}");
        assert_eq!(groups[0].rules.len(), 3);
        assert_eq!(groups[1].rules.len(), 2);
        assert!(groups[2].rules.is_empty());
        let rule = &groups[0].rules["open-010000-one-tcp"]["properties"];
        assert_eq!(rule["priority"], 2001);
        assert_eq!(rule["destinationAddressPrefix"], "10.90.0.4");
        assert_eq!(rule["destinationPortRanges"], json!(["443", "8080"]));
        assert!(rule["description"].as_str().unwrap().len() <= 140);

        let read_again = read(&groups);
        let changes = read_again.changes(&owner(1), &node(), &at, &desired);
        assert_eq!(changes.unwrap(), []);
        // Other nodes and other platforms have no open ports.
        let other = NodeName::try_from("one-1").unwrap();
        assert!(
            read_again
                .open_ports(&owner(1), &other, Some(&at))
                .are(&ports(&[]))
        );
        assert!(
            read_again
                .open_ports(&owner(2), &node(), Some(&at))
                .are(&ports(&[]))
        );
        assert_eq!(
            read_again.closing_all_except(&owner(2), &BTreeSet::new()),
            []
        );

        // A port fewer, then none.
        let fewer = ports(&[(443, Protocol::Tcp)]);
        let changes = read(&groups).changes(&owner(1), &node(), &at, &fewer);
        apply(&mut groups, changes.unwrap());
        let seen = read(&groups).open_ports(&owner(1), &node(), Some(&at));
        assert!(seen.are(&fewer), "{seen:?}");
        let changes = read(&groups).changes(&owner(1), &node(), &at, &ports(&[]));
        apply(&mut groups, changes.unwrap());
        for (group, before) in groups.iter().zip(&before) {
            assert_eq!(group.rules, before.rules);
        }
    }

    #[test]
    fn a_rule_for_a_previous_address_is_replaced() {
        let mut groups = [Group::new("/nsg/subnet", ("subnets", SUBNET))];
        let desired = ports(&[(80, Protocol::Tcp)]);
        let old = location("10.90.0.4");
        let changes = read(&groups).changes(&owner(1), &node(), &old, &desired);
        apply(&mut groups, changes.unwrap());
        let new = location("10.90.0.9");
        let seen = read(&groups).open_ports(&owner(1), &node(), Some(&new));
        assert_eq!((seen.open, seen.partly), (ports(&[]), desired.clone()));
        let changes = read(&groups).changes(&owner(1), &node(), &new, &desired);
        apply(&mut groups, changes.unwrap());
        assert_eq!(groups[0].rules.len(), 1);
        let seen = read(&groups).open_ports(&owner(1), &node(), Some(&new));
        assert!(seen.are(&desired), "{seen:?}");

        let kept = BTreeSet::from([node()]);
        assert_eq!(read(&groups).closing_all_except(&owner(1), &kept), []);
        let left = read(&groups).closing_all_except(&owner(1), &BTreeSet::new());
        assert_eq!(left, read(&groups).closing_node(&owner(1), &node()));
        apply(&mut groups, left);
        assert!(groups[0].rules.is_empty());
    }

    #[test]
    fn refuses_a_foreign_rule_of_the_same_name_and_a_missing_group() {
        let desired = ports(&[(80, Protocol::Tcp)]);
        let at = location("10.90.0.4");
        let mut group = Group::new("/nsg/subnet", ("subnets", SUBNET));
        let name = "open-010000-one-tcp".to_owned();
        group.rules.insert(name, foreign(100));
        let refused = read(&[group]).changes(&owner(1), &node(), &at, &desired);
        assert!(
            matches!(refused, Err(Error::Conflict { .. })),
            "{refused:?}"
        );
        let group = Group::new("/nsg/other", ("subnets", "/elsewhere"));
        let refused = read(&[group]).changes(&owner(1), &node(), &at, &desired);
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
}
