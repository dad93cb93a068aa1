//! Determines which TCP ports of a VM are open from outside, according to the VM's security groups,
//! and informs the hosts of changes.
//!
//! Azure distinguishes sources by their addresses. In the simulator, all outside traffic comes from
//! the simulator's own machine, which represents every source. A rule allows this traffic if it
//! allows any block outside the network. A rule denies this traffic if it denies the whole
//! Internet.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;
use serde_json::{Map, Value};

use super::id::key_of;
use super::interface::Interface;
use super::network::surroundings;
use super::problem::Problem;
use super::security_group::SecurityGroup;
use super::state::ArmState;
use crate::simulator::cloud::Cloud;
use crate::simulator::host::HostChange;

/// A rule's properties.
type Rule = Map<String, Value>;

/// The decision for each port, made by the first rule that applies. `None` if no rule applies.
type Verdicts = Vec<Option<bool>>;

/// The number of ports, including the invalid port 0.
const PORTS: usize = 1 << 16;

/// Returns the ports of an interface that are open from outside. An interface without a public
/// address has no open ports.
pub(crate) fn open_from_outside(arm: &ArmState, interface: &Interface) -> Vec<RangeInclusive<u16>> {
    let Some(primary) = interface.primary() else {
        return Vec::new();
    };
    let public = primary
        .public
        .as_ref()
        .and_then(|key| arm.addresses.get(key));
    let (Some(public), Some(around)) = (public, surroundings(arm, &primary.subnet)) else {
        return Vec::new();
    };
    // The subnet's group and the interface's group must both allow the traffic.
    let groups: Vec<&SecurityGroup> = [around.security_group, interface.security_group()]
        .into_iter()
        .flatten()
        .filter_map(|id| arm.security_groups.get(&key_of(id)))
        .collect();
    if groups.is_empty() && public.is_closed_by_default() {
        return Vec::new();
    }
    let mut open = vec![true; PORTS];
    for group in groups {
        let verdicts = verdicts(&group.inbound_rules(), around.spaces, primary.private);
        for (open, verdict) in open.iter_mut().zip(verdicts) {
            // If no rule applies, the default rules deny the traffic: they allow only traffic
            // within the network and from load balancers.
            *open &= verdict.unwrap_or(false);
        }
    }
    ranges(&open)
}

/// Sends the open ports to each host whose ports have changed.
pub(crate) async fn enforce(cloud: &Cloud) -> Result<(), Problem> {
    // One call at a time, so that a host does not receive an earlier state last.
    let _held = cloud.inbound.lock().await;
    let changed: Vec<_> = {
        let arm = cloud.arm();
        let vms = arm.vms.iter();
        vms.filter_map(|(key, vm)| Some((key.clone(), vm.changed_inbound(&arm)?)))
            .collect()
    };
    for (key, ports) in changed {
        let change = HostChange::SetInbound {
            vm: key.clone(),
            ports: ports.clone(),
        };
        cloud.hosts.change(change).await?;
        if let Some(vm) = cloud.arm().vms.get_mut(&key) {
            vm.set_inbound(ports);
        }
    }
    Ok(())
}

fn verdicts(rules: &[&Rule], own: &[Ipv4Net], private: Ipv4Addr) -> Verdicts {
    let mut verdicts: Verdicts = vec![None; PORTS];
    for rule in rules {
        let allows = is(rule, "access", "allow");
        let applies = (is(rule, "protocol", "*") || is(rule, "protocol", "tcp"))
            && texts(rule, "sourceAddressPrefix")
                .iter()
                .any(|source| comes_from_outside(source, allows, own))
            && texts(rule, "destinationAddressPrefix")
                .iter()
                .any(|destination| holds(destination, private));
        if !applies {
            continue;
        }
        for ports in texts(rule, "destinationPortRange") {
            let Some(ports) = ports_of(ports) else {
                continue;
            };
            for port in ports {
                if let Some(verdict) = verdicts.get_mut(usize::from(port)) {
                    verdict.get_or_insert(allows);
                }
            }
        }
    }
    verdicts
}

fn is(rule: &Rule, property: &str, value: &str) -> bool {
    let found = rule.get(property).and_then(Value::as_str);
    found.is_some_and(|found| found.eq_ignore_ascii_case(value))
}

/// Returns the values of a property and of its plural form, for example `sourceAddressPrefix` and
/// `sourceAddressPrefixes`.
fn texts<'r>(rule: &'r Rule, property: &str) -> Vec<&'r str> {
    let one = rule.get(property).and_then(Value::as_str);
    let plural = match property.strip_suffix("Prefix") {
        Some(stem) => format!("{stem}Prefixes"),
        None => format!("{property}s"),
    };
    let several = rule.get(&plural).and_then(Value::as_array);
    let several = several.into_iter().flatten().filter_map(Value::as_str);
    one.into_iter()
        .chain(several)
        .filter(|text| !text.is_empty())
        .collect()
}

fn is_everywhere(text: &str) -> bool {
    ["*", "internet", "any", "0.0.0.0/0"].contains(&text.to_ascii_lowercase().as_str())
}

/// Parses an address block in a rule. A single address counts as a block.
fn block(text: &str) -> Option<Ipv4Net> {
    let address = || Some(Ipv4Net::from(text.parse::<Ipv4Addr>().ok()?));
    text.parse().ok().or_else(address)
}

fn comes_from_outside(source: &str, allows: bool, own: &[Ipv4Net]) -> bool {
    let is_elsewhere = |block: Ipv4Net| !own.iter().any(|own| own.contains(&block));
    is_everywhere(source) || (allows && block(source).is_some_and(is_elsewhere))
}

fn holds(destination: &str, private: Ipv4Addr) -> bool {
    (is_everywhere(destination) && !destination.eq_ignore_ascii_case("internet"))
        || destination.eq_ignore_ascii_case("VirtualNetwork")
        || block(destination).is_some_and(|block| block.contains(&private))
}

fn ports_of(text: &str) -> Option<RangeInclusive<u16>> {
    if text == "*" {
        return Some(0..=u16::MAX);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
}

fn ranges(open: &[bool]) -> Vec<RangeInclusive<u16>> {
    let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
    for port in 1..=u16::MAX {
        if !open.get(usize::from(port)).copied().unwrap_or(false) {
            continue;
        }
        match ranges.last_mut() {
            Some(last) if *last.end() == port - 1 => *last = *last.start()..=port,
            _ => ranges.push(port..=port),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(access: &str, source: &str, ports: &Value) -> Rule {
        let mut rule = json!({
            "access": access, "protocol": "Tcp", "sourceAddressPrefix": source,
            "destinationAddressPrefix": "*",
        });
        let name = if ports.is_array() {
            "destinationPortRanges"
        } else {
            "destinationPortRange"
        };
        rule[name] = ports.clone();
        rule.as_object().cloned().unwrap()
    }

    fn open(rules: &[Rule]) -> Vec<RangeInclusive<u16>> {
        let own = ["10.90.0.0/16".parse().unwrap()];
        let rules: Vec<&Rule> = rules.iter().collect();
        let verdicts = verdicts(&rules, &own, Ipv4Addr::new(10, 90, 0, 4));
        let open: Vec<bool> = verdicts
            .into_iter()
            .map(|one| one.unwrap_or(false))
            .collect();
        ranges(&open)
    }

    #[test]
    fn blocks_traffic_without_an_allow_rule() {
        assert!(open(&[]).is_empty());
        assert!(open(&[rule("Allow", "VirtualNetwork", &json!("*"))]).is_empty());
        assert!(open(&[rule("Allow", "10.90.0.0/24", &json!("*"))]).is_empty());
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let rules = [
            rule("Deny", "Internet", &json!("81-82")),
            rule("Allow", "203.0.113.7", &json!("22")),
            rule("Allow", "*", &json!(["80-83", "443"])),
            rule("Deny", "*", &json!("*")),
        ];
        assert_eq!(open(&rules), [22..=22, 80..=80, 83..=83, 443..=443]);
    }

    #[test]
    fn a_deny_rule_for_some_sources_keeps_others_allowed() {
        let rules = [
            rule("Deny", "198.51.100.0/24", &json!("*")),
            rule("Allow", "*", &json!("*")),
        ];
        assert_eq!(open(&rules), [1..=u16::MAX]);
    }
}
