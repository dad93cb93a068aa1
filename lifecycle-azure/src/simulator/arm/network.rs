//! Simulates virtual networks and their subnets.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use axum::http::StatusCode;
use ipnet::Ipv4Net;
use lifecycle_core::clock::IdSource;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::answer::Answer;
use super::call::Call;
use super::id::{Key, ResourceId, key_of};
use super::inbound;
use super::interface::Interface;
use super::operation::{self, Begin};
use super::page::paged;
use super::problem::{Problem, Refusal, invalid, required};
use super::resource::{Declared, Head, Provisioning, Resource, find, stored_in};
use super::security_group;
use super::state::ArmState;

/// The part of a subnet's path between the network and the subnet's name.
const SUBNETS: &str = "/subnets/";

/// The number of addresses that Azure reserves at the start of a subnet. Azure also reserves the
/// last address.
const KEPT_AT_START: usize = 4;

#[derive(Debug, Clone)]
pub(crate) struct Network {
    head: Head,
    spaces: Vec<Ipv4Net>,
    subnets: Vec<Subnet>,
}

#[derive(Debug, Clone)]
pub(crate) struct Subnet {
    name: String,
    prefix: Ipv4Net,
    security_group: Option<String>,
    etag: Uuid,
}

impl Network {
    fn subnet_id(&self, subnet: &Subnet) -> String {
        format!("{}{SUBNETS}{}", self.head.id, subnet.name)
    }

    fn show_subnet(&self, subnet: &Subnet, arm: &ArmState) -> Value {
        let id = self.subnet_id(subnet);
        let users: Vec<Value> = users(arm, &key_of(&id))
            .map(|id| json!({ "id": id }))
            .collect();
        let mut properties = json!({
            "provisioningState": self.head.state.name(),
            "addressPrefix": subnet.prefix.to_string(),
            "delegations": [],
            "privateEndpointNetworkPolicies": "Disabled",
            "privateLinkServiceNetworkPolicies": "Enabled",
        });
        if !users.is_empty() {
            properties["ipConfigurations"] = users.into();
        }
        if let Some(id) = &subnet.security_group {
            properties["networkSecurityGroup"] = json!({ "id": id });
        }
        json!({
            "id": id,
            "name": subnet.name,
            "etag": format!("W/\"{}\"", subnet.etag),
            "type": "Microsoft.Network/virtualNetworks/subnets",
            "properties": properties,
        })
    }

    fn subnet(&self, name: &str) -> Option<&Subnet> {
        self.subnets
            .iter()
            .find(|subnet| subnet.name.eq_ignore_ascii_case(name))
    }

    /// Returns the error for the first subnet that is in use but not in `kept`, if there is one.
    fn used_subnet(&self, arm: &ArmState, kept: &[Subnet]) -> Option<Problem> {
        let gone = |subnet: &&Subnet| {
            !kept
                .iter()
                .any(|one| one.name.eq_ignore_ascii_case(&subnet.name))
        };
        self.subnets
            .iter()
            .filter(gone)
            .find_map(|subnet| subnet_in_use(arm, &self.subnet_id(subnet), &subnet.name))
    }

    /// Checks that the subnets are within the network's address space and do not overlap.
    fn check(&self) -> Result<(), Refusal> {
        for (i, subnet) in self.subnets.iter().enumerate() {
            if !self
                .spaces
                .iter()
                .any(|space| space.contains(&subnet.prefix))
            {
                let message = format!(
                    "Subnet '{}' is not valid because its IP address range is outside the IP address \
                     range of virtual network '{}'.",
                    subnet.name, self.head.id.name
                );
                return Err(Problem::new("NetcfgSubnetRangeOutsideVnet", message).bad_request());
            }
            let overlaps = |other: &&Subnet| {
                other.prefix.contains(&subnet.prefix) || subnet.prefix.contains(&other.prefix)
            };
            if let Some(other) = self.subnets[..i].iter().find(overlaps) {
                let message = format!(
                    "Subnet '{}' is not valid because its IP address range overlaps with that of an \
                     existing subnet in virtual network '{}' ('{}').",
                    subnet.name, self.head.id.name, other.name
                );
                return Err(Problem::new("NetcfgSubnetRangesOverlap", message).bad_request());
            }
        }
        Ok(())
    }
}

/// Iterates over the ids of the IP configurations in a subnet.
fn users<'w>(arm: &'w ArmState, subnet: &'w str) -> impl Iterator<Item = String> + 'w {
    arm.interfaces
        .values()
        .flat_map(Interface::configurations)
        .filter(move |(_, configuration)| key_of(&configuration.subnet) == subnet)
        .map(|(id, _)| id)
}

fn subnet_in_use(arm: &ArmState, id: &str, name: &str) -> Option<Problem> {
    let user = users(arm, &key_of(id)).next()?;
    let message = format!(
        "Subnet {name} is in use by {user} and cannot be deleted. In order to delete the subnet, delete \
         all the resources within the subnet. See aka.ms/deletesubnet."
    );
    Some(Problem::new("InUseSubnetCannotBeDeleted", message))
}

fn prefix_of(text: &str) -> Result<Ipv4Net, Refusal> {
    text.parse::<Ipv4Net>()
        .ok()
        .filter(|net| net.addr() == net.network())
        .ok_or_else(|| {
            let message = format!("The address prefix '{text}' is not a valid IPv4 CIDR block.");
            Problem::new("InvalidCIDRNotation", message).bad_request()
        })
}

fn subnet_of(
    arm: &ArmState,
    network: &ResourceId,
    name: &str,
    body: &Value,
    ids: &dyn IdSource,
) -> Result<Subnet, Refusal> {
    let prefix = body
        .pointer("/properties/addressPrefix")
        .or_else(|| body.pointer("/properties/addressPrefixes/0"))
        .and_then(Value::as_str)
        .ok_or_else(|| required("properties.addressPrefix"))?;
    let security_group = reference(body.pointer("/properties/networkSecurityGroup"));
    if let Some(id) = &security_group {
        security_group::exists(arm, id, network)?;
    }
    Ok(Subnet {
        name: name.to_owned(),
        prefix: prefix_of(prefix)?,
        security_group,
        etag: ids.uuid(),
    })
}

/// Returns the id from `{"id": …}`.
pub(crate) fn reference(value: Option<&Value>) -> Option<String> {
    value?.get("id")?.as_str().map(str::to_owned)
}

/// Returns the error for a reference to a resource that does not exist.
pub(crate) fn missing_reference(id: &str, by: &ResourceId) -> Refusal {
    let message = format!(
        "Resource {id} referenced by resource {by} was not found. Please make sure that the referenced resource exists, and that \
         both resources are in the same region."
    );
    Problem::new("InvalidResourceReference", message).bad_request()
}

impl Resource for Network {
    const KIND: &'static str = "Microsoft.Network/virtualNetworks";
    const NAMESPACE: &'static str = "Microsoft.Network";

    stored_in!(networks);

    fn properties(&self, arm: &ArmState) -> Map<String, Value> {
        let spaces: Vec<_> = self.spaces.iter().map(ToString::to_string).collect();
        let subnets: Vec<_> = self
            .subnets
            .iter()
            .map(|subnet| self.show_subnet(subnet, arm))
            .collect();
        let mut properties = Map::new();
        properties.insert("addressSpace".into(), json!({ "addressPrefixes": spaces }));
        properties.insert("subnets".into(), subnets.into());
        properties.insert("virtualNetworkPeerings".into(), json!([]));
        properties.insert("enableDdosProtection".into(), false.into());
        properties
    }

    fn in_use(&self, arm: &ArmState) -> Option<Problem> {
        self.used_subnet(arm, &[])
    }
}

impl Declared for Network {
    fn declare(
        arm: &mut ArmState,
        head: Head,
        body: &Value,
        before: Option<&Self>,
        ids: &dyn IdSource,
    ) -> Result<Self, Refusal> {
        let spaces = body
            .pointer("/properties/addressSpace/addressPrefixes")
            .and_then(Value::as_array)
            .filter(|spaces| !spaces.is_empty())
            .ok_or_else(|| required("properties.addressSpace.addressPrefixes"))?;
        let spaces = spaces
            .iter()
            .map(|space| prefix_of(space.as_str().unwrap_or_default()))
            .collect::<Result<_, _>>()?;
        let mut subnets = Vec::new();
        let declared = body
            .pointer("/properties/subnets")
            .and_then(Value::as_array);
        for subnet in declared.into_iter().flatten() {
            let name = subnet
                .get("name")
                .and_then(Value::as_str)
                .ok_or_else(|| required("properties.subnets.name"))?;
            subnets.push(subnet_of(arm, &head.id, name, subnet, ids)?);
        }
        // Like Azure, delete the existing subnets that a PUT does not contain.
        if let Some(problem) = before.and_then(|before| before.used_subnet(arm, &subnets)) {
            return Err(problem.bad_request());
        }
        let network = Self {
            head,
            spaces,
            subnets,
        };
        network.check()?;
        Ok(network)
    }
}

/// Splits a subnet's id into the network's key and the subnet's name.
fn split(id: &str) -> Option<(Key, &str)> {
    let position = id.to_lowercase().rfind(SUBNETS)?;
    let (network, subnet) = id.split_at_checked(position)?;
    Some((key_of(network), subnet.get(SUBNETS.len()..)?))
}

/// Chooses an address in a subnet: the requested one, or else the first free one.
pub(crate) fn pick_address(
    arm: &ArmState,
    subnet_id: &str,
    asked: Option<&str>,
    taken: &[Ipv4Addr],
    own: &ResourceId,
) -> Result<Ipv4Addr, Refusal> {
    let missing = || missing_reference(subnet_id, own);
    let (network, name) = split(subnet_id).ok_or_else(missing)?;
    let subnet = arm
        .networks
        .get(&network)
        .and_then(|network| network.subnet(name))
        .ok_or_else(missing)?;
    let (subnet_key, own_key) = (key_of(subnet_id), own.key());
    let others = arm
        .interfaces
        .iter()
        .filter(|(key, _)| **key != own_key)
        .flat_map(|(_, interface)| interface.configurations())
        .filter(|(_, one)| key_of(&one.subnet) == subnet_key)
        .map(|(_, one)| one.private);
    let in_use: BTreeSet<Ipv4Addr> = others.chain(taken.iter().copied()).collect();
    // `hosts()` already skips the network address, which is one of the reserved ones.
    let mut usable = subnet.prefix.hosts().skip(KEPT_AT_START - 1);
    let Some(asked) = asked else {
        return usable.find(|address| !in_use.contains(address)).ok_or_else(|| {
            let message =
                format!("Subnet {name} with address prefix {} does not have enough capacity for 1 IP addresses.", subnet.prefix);
            Problem::new("SubnetIsFull", message).bad_request()
        });
    };
    let address: Ipv4Addr = asked.parse().map_err(|_| {
        invalid(
            "privateIPAddress",
            format!("'{asked}' is not an IPv4 address."),
        )
    })?;
    if !usable.any(|one| one == address) {
        let message = format!(
            "Private static IP address {address} does not belong to the range of subnet prefix {}.",
            subnet.prefix
        );
        return Err(Problem::new("PrivateIPAddressNotInSubnet", message).bad_request());
    }
    if in_use.contains(&address) {
        let message =
            format!("Private IP address {address} is already allocated in subnet {subnet_id}.");
        return Err(Problem::new("PrivateIPAddressIsAllocated", message).bad_request());
    }
    Ok(address)
}

/// Iterates over the subnets that have a security group, as (id of the subnet, id of the group).
pub(crate) fn subnet_security_groups(arm: &ArmState) -> impl Iterator<Item = (String, &str)> {
    arm.networks.values().flat_map(|network| {
        network.subnets.iter().filter_map(|subnet| {
            let group = subnet.security_group.as_deref()?;
            Some((network.subnet_id(subnet), group))
        })
    })
}

pub(crate) fn show_subnet_at(arm: &ArmState, id: &str) -> Option<Value> {
    let (network, name) = split(id)?;
    let network = arm.networks.get(&network)?;
    Some(network.show_subnet(network.subnet(name)?, arm))
}

/// Describes the network of the VMs in a subnet: the network's address space, the subnet's own
/// block, and the subnet's security group.
#[derive(Debug)]
pub(crate) struct Surroundings<'w> {
    pub(crate) spaces: &'w [Ipv4Net],
    pub(crate) block: Ipv4Net,
    pub(crate) security_group: Option<&'w str>,
}

/// Returns the surroundings of the VMs in the subnet with this id.
pub(crate) fn surroundings<'w>(arm: &'w ArmState, id: &str) -> Option<Surroundings<'w>> {
    let (network, name) = split(id)?;
    let network = arm.networks.get(&network)?;
    let subnet = network.subnet(name)?;
    Some(Surroundings {
        spaces: &network.spaces,
        block: subnet.prefix,
        security_group: subnet.security_group.as_deref(),
    })
}

fn subnet_not_found(network: &ResourceId, name: &str) -> Refusal {
    let message = format!("Resource {network}{SUBNETS}{name} not found.");
    Problem::new("NotFound", message).not_found()
}

pub(crate) fn get_subnet(
    arm: &ArmState,
    network: &ResourceId,
    name: &str,
) -> Result<Answer, Refusal> {
    let found = find::<Network>(arm, network)?;
    let subnet = found
        .subnet(name)
        .ok_or_else(|| subnet_not_found(network, name))?;
    Ok(Answer::ok(found.show_subnet(subnet, arm)))
}

pub(crate) fn list_subnets(
    call: &Call<'_>,
    arm: &ArmState,
    network: &ResourceId,
) -> Result<Answer, Refusal> {
    let found = find::<Network>(arm, network)?;
    let mut shown: Vec<_> = found
        .subnets
        .iter()
        .map(|one| (one.name.to_lowercase(), found.show_subnet(one, arm)))
        .collect();
    shown.sort_by(|a, b| a.0.cmp(&b.0));
    paged(call, shown.into_iter())
}

/// Creates or replaces one subnet. Leaves the other subnets unchanged.
pub(crate) fn put_subnet(
    call: &Call<'_>,
    arm: &mut ArmState,
    network: &ResourceId,
    name: &str,
) -> Result<Answer, Refusal> {
    arm.open_group(&network.subscription, &network.group)?;
    let found = find::<Network>(arm, network)?;
    let existed = found.subnet(name).is_some();
    let subnet = subnet_of(arm, network, name, call.body, call.cloud.ids.as_ref())?;
    let mut changed = found.clone();
    changed
        .subnets
        .retain(|one| !one.name.eq_ignore_ascii_case(name));
    changed.subnets.push(subnet);
    changed.check()?;
    let status = if existed {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    replace(call, arm, changed, name, Answer::new(status))
}

/// Deletes a subnet that is not in use.
pub(crate) fn delete_subnet(
    call: &Call<'_>,
    arm: &mut ArmState,
    network: &ResourceId,
    name: &str,
) -> Result<Answer, Refusal> {
    let Ok(found) = find::<Network>(arm, network) else {
        return Ok(Answer::new(StatusCode::NO_CONTENT));
    };
    let Some(subnet) = found.subnet(name) else {
        return Ok(Answer::new(StatusCode::NO_CONTENT));
    };
    if let Some(problem) = subnet_in_use(arm, &found.subnet_id(subnet), &subnet.name) {
        return Err(problem.bad_request());
    }
    let mut changed = found.clone();
    changed
        .subnets
        .retain(|one| !one.name.eq_ignore_ascii_case(name));
    replace(call, arm, changed, name, Answer::new(StatusCode::ACCEPTED))
}

/// Replaces the network and starts an operation that completes the update.
fn replace(
    call: &Call<'_>,
    arm: &mut ArmState,
    mut changed: Network,
    subnet: &str,
    answer: Answer,
) -> Result<Answer, Refusal> {
    changed.head.state = Provisioning::Updating;
    changed.head.etag = call.cloud.ids.uuid();
    let id = changed.head.id.clone();
    let key = id.key();
    let delay = call.cloud.options.delays.network;
    let mut begin = Begin::on::<Network>(call, &id, &changed.head.location, delay);
    if let Some(subnet) = changed.subnet(subnet) {
        begin = begin.showing(changed.subnet_id(subnet));
    }
    arm.networks.insert(key.clone(), changed);
    let found = find::<Network>(arm, &id)?;
    let answer = match found.subnet(subnet) {
        Some(one) => answer.body(found.show_subnet(one, arm)),
        None => answer,
    };
    let finish = move |arm: &mut ArmState, worked: Result<(), Problem>| {
        if let Some(found) = arm.networks.get_mut(&key) {
            found.head.state = Provisioning::after(&worked);
        }
        worked
    };
    let cloud = call.cloud.clone();
    let work = async move { inbound::enforce(&cloud).await };
    let operation = operation::begin(call.cloud, arm, begin, work, finish);
    Ok(answer.following(operation))
}
