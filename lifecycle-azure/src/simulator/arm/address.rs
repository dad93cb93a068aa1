//! Simulates public IP addresses.

use std::net::Ipv4Addr;

use lifecycle_core::clock::IdSource;
use serde_json::{Map, Value, json};

use super::id::Key;
use super::interface::Interface;
use super::problem::{Problem, Refusal, invalid};
use super::resource::{Declared, Head, Resource, stored_in};
use super::state::ArmState;

/// The first address. All addresses are from the block for benchmarks (RFC 2544), which is not
/// routed.
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The number of usable addresses in `198.18.0.0/15`.
const COUNT: u32 = (1 << 17) - 2;

#[derive(Debug)]
pub(crate) struct PublicAddress {
    head: Head,
    sku: String,
    method: Method,
    address: Option<Ipv4Addr>,
    /// The address's `deleteOption`, which determines whether the address is deleted with its VM.
    delete_with_vm: Option<String>,
    idle_minutes: u64,
    zones: Option<Value>,
    label: Option<String>,
}

/// The allocation method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Static,
    Dynamic,
}

impl PublicAddress {
    pub(crate) fn goes_with_machine(&self) -> bool {
        self.delete_with_vm
            .as_deref()
            .is_some_and(|option| option.eq_ignore_ascii_case("delete"))
    }

    /// Returns whether all inbound traffic is blocked unless a security group allows it.
    pub(crate) fn is_closed_by_default(&self) -> bool {
        self.sku.eq_ignore_ascii_case("standard")
    }

    pub(crate) fn set_delete_option(&mut self, option: &str) {
        self.delete_with_vm = Some(option.to_owned());
    }

    /// Returns the id of the IP configuration that uses this address.
    fn user(&self, arm: &ArmState) -> Option<String> {
        let own = self.head.id.key();
        arm.interfaces
            .values()
            .flat_map(Interface::configurations)
            .find(|(_, one)| one.public.as_ref().is_some_and(|key| *key == own))
            .map(|(id, _)| id)
    }
}

/// Allocates a dynamic address when the VM that uses it starts. Releases the address when the VM is
/// deallocated.
pub(crate) fn follow_vm(arm: &mut ArmState, key: &Key, running: bool) {
    let given = arm
        .addresses
        .get(key)
        .filter(|one| one.method == Method::Dynamic)
        .map(|one| one.address.is_some());
    let address = match (given, running) {
        (Some(false), true) => next(arm).ok(),
        (Some(true), false) => None,
        _ => return,
    };
    if let Some(found) = arm.addresses.get_mut(key) {
        found.address = address;
    }
}

/// Replaces the address with `at`, the address at which the VM's host is reachable.
pub(crate) fn reach_at(arm: &mut ArmState, key: &Key, at: Ipv4Addr) {
    if let Some(found) = arm.addresses.get_mut(key)
        && found.address.is_some()
    {
        found.address = Some(at);
    }
}

fn next(arm: &mut ArmState) -> Result<Ipv4Addr, Refusal> {
    if arm.given_addresses >= COUNT {
        let message = "Cannot create more public IP addresses: the simulator's block is used up.";
        return Err(Problem::new("PublicIPCountLimitReached", message).bad_request());
    }
    let address = Ipv4Addr::from(u32::from(FIRST) + arm.given_addresses);
    arm.given_addresses += 1;
    Ok(address)
}

impl Resource for PublicAddress {
    const KIND: &'static str = "Microsoft.Network/publicIPAddresses";
    const NAMESPACE: &'static str = "Microsoft.Network";

    stored_in!(addresses);

    fn properties(&self, arm: &ArmState) -> Map<String, Value> {
        let method = match self.method {
            Method::Static => "Static",
            Method::Dynamic => "Dynamic",
        };
        let mut properties = Map::new();
        properties.insert("publicIPAddressVersion".into(), "IPv4".into());
        properties.insert("publicIPAllocationMethod".into(), method.into());
        properties.insert("idleTimeoutInMinutes".into(), self.idle_minutes.into());
        properties.insert("ipTags".into(), json!([]));
        if let Some(address) = self.address {
            properties.insert("ipAddress".into(), address.to_string().into());
        }
        if let Some(option) = &self.delete_with_vm {
            properties.insert("deleteOption".into(), option.clone().into());
        }
        if let Some(user) = self.user(arm) {
            properties.insert("ipConfiguration".into(), json!({ "id": user }));
        }
        if let Some(label) = &self.label {
            let fqdn = format!("{label}.{}.cloudapp.azure.com", self.head.location);
            properties.insert(
                "dnsSettings".into(),
                json!({"domainNameLabel": label, "fqdn": fqdn}),
            );
        }
        properties
    }

    fn top_level(&self) -> Map<String, Value> {
        let mut top_level = Map::new();
        top_level.insert("sku".into(), json!({"name": self.sku, "tier": "Regional"}));
        if let Some(zones) = &self.zones {
            top_level.insert("zones".into(), zones.clone());
        }
        top_level
    }

    fn in_use(&self, arm: &ArmState) -> Option<Problem> {
        let user = self.user(arm)?;
        let message = format!(
            "Public IP address {} can not be deleted since it is still allocated to resource {user}. In \
             order to delete the public IP, disassociate/detach the Public IP address from the resource. \
             To learn how to do this, see aka.ms/deletepublicip.",
            self.head.id
        );
        Some(Problem::new("PublicIPAddressCannotBeDeleted", message))
    }
}

impl Declared for PublicAddress {
    fn declare(
        arm: &mut ArmState,
        head: Head,
        body: &Value,
        before: Option<&Self>,
        _ids: &dyn IdSource,
    ) -> Result<Self, Refusal> {
        let property = |pointer: &str| body.pointer(pointer).and_then(Value::as_str);
        let sku = property("/sku/name").unwrap_or("Basic").to_owned();
        let method = match property("/properties/publicIPAllocationMethod") {
            Some(method) if method.eq_ignore_ascii_case("static") => Method::Static,
            Some(method) if method.eq_ignore_ascii_case("dynamic") => Method::Dynamic,
            None => Method::Dynamic,
            Some(other) => {
                let message =
                    format!("'{other}' is not an allocation method. Use Static or Dynamic.");
                return Err(invalid("properties.publicIPAllocationMethod", message));
            }
        };
        if method == Method::Dynamic && sku.eq_ignore_ascii_case("standard") {
            let message = format!(
                "Standard sku publicIp {} must have AllocationMethod set to Static.",
                head.id
            );
            let code = "StandardSkuPublicIPAddressesCannotHaveDynamicAllocation";
            return Err(Problem::new(code, message).bad_request());
        }
        let address = match (before.and_then(|before| before.address), method) {
            (Some(address), _) => Some(address),
            (None, Method::Static) => Some(next(arm)?),
            (None, Method::Dynamic) => None,
        };
        Ok(Self {
            head,
            sku,
            method,
            address,
            delete_with_vm: property("/properties/deleteOption").map(str::to_owned),
            idle_minutes: body
                .pointer("/properties/idleTimeoutInMinutes")
                .and_then(Value::as_u64)
                .unwrap_or(4),
            zones: body.get("zones").filter(|zones| zones.is_array()).cloned(),
            label: property("/properties/dnsSettings/domainNameLabel").map(str::to_owned),
        })
    }
}

impl PublicAddress {
    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        self.address
    }
}
