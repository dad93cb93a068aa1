//! Simulates network interfaces.

use std::net::Ipv4Addr;

use chrono::{DateTime, Utc};
use lifecycle_core::clock::IdSource;
use serde_json::{Map, Value, json};

use super::id::{Key, ResourceId, key_of};
use super::network::{missing_reference, pick_address, reference};
use super::problem::{Problem, Refusal, required};
use super::resource::{Declared, Head, Resource, stored_in};
use super::security_group;
use super::state::ArmState;

#[derive(Debug)]
pub(crate) struct Interface {
    head: Head,
    configurations: Vec<IpConfiguration>,
    security_group: Option<String>,
    vm: Option<ResourceId>,
    mac: String,
    accelerated: bool,
    forwarding: bool,
    /// A VM whose creation was rejected, and the time until which the interface stays reserved for
    /// this VM.
    reserved: Option<(ResourceId, DateTime<Utc>)>,
}

#[derive(Debug)]
pub(crate) struct IpConfiguration {
    pub(crate) name: String,
    /// The subnet's id, as the client wrote it.
    pub(crate) subnet: String,
    pub(crate) private: Ipv4Addr,
    static_private: bool,
    /// The key of the public address.
    pub(crate) public: Option<Key>,
    primary: bool,
}

impl Interface {
    /// Iterates over the configurations with their ids.
    pub(crate) fn configurations(&self) -> impl Iterator<Item = (String, &IpConfiguration)> {
        self.configurations
            .iter()
            .map(|one| (self.configuration_id(one), one))
    }

    fn configuration_id(&self, one: &IpConfiguration) -> String {
        format!("{}/ipConfigurations/{}", self.head.id, one.name)
    }

    pub(crate) fn security_group(&self) -> Option<&str> {
        self.security_group.as_deref()
    }

    /// Iterates over the keys of the public addresses.
    pub(crate) fn public_addresses(&self) -> impl Iterator<Item = &Key> {
        self.configurations
            .iter()
            .filter_map(|one| one.public.as_ref())
    }

    /// Returns the primary configuration, whose address other machines in the network use.
    pub(crate) fn primary(&self) -> Option<&IpConfiguration> {
        self.configurations.iter().find(|one| one.primary)
    }

    pub(crate) fn attach(&mut self, vm: &ResourceId) {
        self.vm = Some(vm.clone());
        self.reserved = None;
    }

    pub(crate) fn detach(&mut self) {
        self.vm = None;
    }

    pub(crate) fn reserve(&mut self, vm: &ResourceId, until: DateTime<Utc>) {
        self.reserved = Some((vm.clone(), until));
    }

    /// Returns the reason why `vm` cannot use this interface, or `None` if it can.
    pub(crate) fn held_from(&self, vm: &ResourceId, now: DateTime<Utc>) -> Option<Problem> {
        match &self.vm {
            Some(other) if other != vm => Some(self.used_by(other)),
            _ => self
                .reservation(now)
                .filter(|other| *other != vm)
                .map(Self::reserved_for),
        }
    }

    fn reservation(&self, now: DateTime<Utc>) -> Option<&ResourceId> {
        let (vm, until) = self.reserved.as_ref()?;
        (now < *until).then_some(vm)
    }

    fn used_by(&self, vm: &ResourceId) -> Problem {
        let message = format!(
            "Network Interface {} is used by existing resource {vm}. In order to delete the network \
             interface, it must be dissociated from the resource. To learn more, see aka.ms/deletenic.",
            self.head.id
        );
        Problem::new("NicInUse", message)
    }

    fn reserved_for(vm: &ResourceId) -> Problem {
        let message = format!(
            "Nic(s) in request is reserved for another Virtual Machine for 180 seconds. Please provide \
             another nic(s) or retry after 180 seconds. Reserved VM: {vm}"
        );
        Problem::new("NicReservedForAnotherVm", message)
    }
}

impl Resource for Interface {
    const KIND: &'static str = "Microsoft.Network/networkInterfaces";
    const NAMESPACE: &'static str = "Microsoft.Network";

    stored_in!(interfaces);

    fn properties(&self, arm: &ArmState) -> Map<String, Value> {
        let configurations: Vec<_> = self
            .configurations
            .iter()
            .map(|one| {
                let mut properties = json!({
                    "provisioningState": "Succeeded",
                    "privateIPAddress": one.private,
                    "privateIPAllocationMethod": if one.static_private { "Static" } else { "Dynamic" },
                    "privateIPAddressVersion": "IPv4",
                    "primary": one.primary,
                    "subnet": {"id": one.subnet},
                });
                if let Some(public) = one.public.as_ref().and_then(|key| arm.addresses.get(key)) {
                    properties["publicIPAddress"] = json!({"id": public.head().id.to_string()});
                }
                json!({
                    "id": self.configuration_id(one),
                    "name": one.name,
                    "etag": format!("W/\"{}\"", self.head.etag),
                    "type": "Microsoft.Network/networkInterfaces/ipConfigurations",
                    "properties": properties,
                })
            })
            .collect();
        let mut properties = Map::new();
        properties.insert("ipConfigurations".into(), configurations.into());
        properties.insert(
            "dnsSettings".into(),
            json!({"dnsServers": [], "appliedDnsServers": []}),
        );
        properties.insert("macAddress".into(), self.mac.clone().into());
        properties.insert(
            "enableAcceleratedNetworking".into(),
            self.accelerated.into(),
        );
        properties.insert("enableIPForwarding".into(), self.forwarding.into());
        properties.insert("nicType".into(), "Standard".into());
        if let Some(id) = &self.security_group {
            properties.insert("networkSecurityGroup".into(), json!({ "id": id }));
        }
        if let Some(vm) = &self.vm {
            properties.insert("primary".into(), true.into());
            properties.insert("virtualMachine".into(), json!({"id": vm.to_string()}));
        }
        properties
    }

    fn in_use(&self, arm: &ArmState) -> Option<Problem> {
        match &self.vm {
            Some(vm) => Some(self.used_by(vm)),
            None => self.reservation(arm.now).map(Self::reserved_for),
        }
    }
}

/// Returns the public address that a configuration refers to. Fails if another resource uses this
/// address.
fn public_of(
    arm: &mut ArmState,
    configuration: &Value,
    own: &ResourceId,
) -> Result<Option<Key>, Refusal> {
    let named = configuration.pointer("/properties/publicIPAddress");
    let Some(id) = reference(named) else {
        return Ok(None);
    };
    let key = key_of(&id);
    let own_key = own.key();
    if !arm.addresses.contains_key(&key) {
        return Err(missing_reference(&id, own));
    }
    let other = arm
        .interfaces
        .iter()
        .filter(|(other, _)| **other != own_key)
        .flat_map(|(_, one)| one.configurations())
        .find(|(_, one)| one.public.as_ref() == Some(&key));
    if let Some((user, _)) = other {
        let message = format!(
            "Resource {own} is referencing public IP address {id} that is already allocated to resource \
             {user}."
        );
        return Err(Problem::new("PublicIPAddressInUse", message).bad_request());
    }
    let option = named
        .and_then(|named| named.pointer("/properties/deleteOption"))
        .and_then(Value::as_str);
    if let (Some(option), Some(address)) = (option, arm.addresses.get_mut(&key)) {
        address.set_delete_option(option);
    }
    Ok(Some(key))
}

impl Declared for Interface {
    fn declare(
        arm: &mut ArmState,
        head: Head,
        body: &Value,
        before: Option<&Self>,
        ids: &dyn IdSource,
    ) -> Result<Self, Refusal> {
        let declared = body
            .pointer("/properties/ipConfigurations")
            .and_then(Value::as_array)
            .filter(|list| !list.is_empty())
            .ok_or_else(|| required("properties.ipConfigurations"))?;
        let mut configurations: Vec<IpConfiguration> = Vec::new();
        for one in declared {
            let text = |pointer: &str| one.pointer(pointer).and_then(Value::as_str);
            let name = text("/name").ok_or_else(|| required("ipConfigurations.name"))?;
            let subnet = reference(one.pointer("/properties/subnet"))
                .ok_or_else(|| required("ipConfigurations.properties.subnet.id"))?;
            let static_private = text("/properties/privateIPAllocationMethod")
                .is_some_and(|method| method.eq_ignore_ascii_case("static"));
            // A dynamic address stays the same while the interface stays in its subnet.
            let kept = before.and_then(|before| {
                let same = |old: &&IpConfiguration| {
                    old.name.eq_ignore_ascii_case(name) && key_of(&old.subnet) == key_of(&subnet)
                };
                let kept = before.configurations.iter().find(same)?;
                Some(kept.private.to_string())
            });
            let asked = if static_private {
                text("/properties/privateIPAddress").map(str::to_owned)
            } else {
                kept
            };
            let taken: Vec<_> = configurations.iter().map(|one| one.private).collect();
            let private = pick_address(arm, &subnet, asked.as_deref(), &taken, &head.id)?;
            let primary = one.pointer("/properties/primary").and_then(Value::as_bool);
            configurations.push(IpConfiguration {
                name: name.to_owned(),
                subnet,
                private,
                static_private,
                public: public_of(arm, one, &head.id)?,
                primary: primary.unwrap_or(configurations.is_empty()),
            });
        }
        let security_group = reference(body.pointer("/properties/networkSecurityGroup"));
        if let Some(id) = &security_group {
            security_group::exists(arm, id, &head.id)?;
        }
        let flag = |pointer| {
            body.pointer(pointer)
                .and_then(Value::as_bool)
                .unwrap_or(false)
        };
        Ok(Self {
            configurations,
            security_group,
            vm: before.and_then(|before| before.vm.clone()),
            mac: before.map_or_else(|| mac(ids), |before| before.mac.clone()),
            accelerated: flag("/properties/enableAcceleratedNetworking"),
            forwarding: flag("/properties/enableIPForwarding"),
            reserved: before.and_then(|before| before.reserved.clone()),
            head,
        })
    }
}

/// Generates a MAC address with Azure's prefix.
fn mac(ids: &dyn IdSource) -> String {
    let bytes = ids.uuid().into_bytes();
    format!(
        "00-0D-3A-{:02X}-{:02X}-{:02X}",
        bytes[0], bytes[1], bytes[2]
    )
}
