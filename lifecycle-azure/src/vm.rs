//! Reads VMs from Azure's responses, and builds the requests that create VMs.

use azure_mgmt_compute::models;
use lifecycle_core::cloud::Power;
use lifecycle_core::model::{NodeName, NodeSpec};
use lifecycle_core::{Error, Result};
use serde_json::{Value, json};

use crate::alternative::{Alternative, Tried};
use crate::arm::failure::Refusal;
use crate::first_boot::HostKey;
use crate::options::{AzureOptions, image};
use crate::tags::{self, Tags};

/// The version of the network API that a VM's create request uses for the network interface.
const INTERFACES: &str = "2020-11-01";

/// A VM as Azure reports it.
#[derive(Debug, Clone)]
pub(crate) struct Vm {
    pub(crate) id: String,
    pub(crate) name: String,
    /// Azure's unique id of the VM. A re-created VM with the same name has a different id.
    pub(crate) unique_id: String,
    pub(crate) tags: Tags,
    pub(crate) state: State,
    power: Option<Power>,
    /// Whether the VM is stopped and deallocated.
    pub(crate) is_deallocated: bool,
    /// Whether the VM is being deallocated.
    pub(crate) is_deallocating: bool,
    /// The time at which the VM's state last changed, in Azure's format.
    changed: Option<String>,
    /// The path of the VM's first network interface.
    pub(crate) interface: Option<String>,
    /// The path of the VM's system disk.
    pub(crate) disk: Option<String>,
    pub(crate) account: Option<String>,
    /// The VM's size and zone.
    pub(crate) kind: Alternative,
}

/// The provisioning state of a VM, which reports the result of the last change.
#[derive(Debug, Clone)]
pub(crate) enum State {
    /// A change is in progress.
    Changing(String),
    Deleting,
    Succeeded,
    Failed(Refusal),
}

impl Vm {
    /// Converts Azure's representation of a VM, which includes the instance view.
    pub(crate) fn read(vm: models::VirtualMachine) -> Result<Self> {
        let damaged = |what: &str| {
            Error::interrupted(
                "reading a VM",
                Some(format!("Azure's response has no {what}").into()),
            )
        };
        let models::Resource { id, name, tags, .. } = vm.resource;
        let properties = vm.properties.ok_or_else(|| damaged("properties"))?;
        let statuses = properties
            .instance_view
            .map(|view| view.statuses)
            .unwrap_or_default();
        let code = |status: &models::InstanceViewStatus| status.code.clone().unwrap_or_default();
        let word = statuses
            .iter()
            .find_map(|status| Some(code(status).strip_prefix("PowerState/")?.to_owned()));
        let provisioning = statuses
            .iter()
            .find(|status| code(status).starts_with("ProvisioningState/"));
        let state = properties.provisioning_state.unwrap_or_default();
        let state = match state.to_ascii_lowercase().as_str() {
            "succeeded" => State::Succeeded,
            "deleting" => State::Deleting,
            "failed" | "canceled" => {
                let code = provisioning.map(code).unwrap_or_default();
                let code = code.rsplit('/').next().filter(|code| !code.is_empty());
                let message = provisioning.and_then(|status| status.message.as_deref());
                State::Failed(Refusal::for_vm(
                    code.unwrap_or("Failed"),
                    message.unwrap_or("Azure reports no reason"),
                ))
            }
            _ => State::Changing(state),
        };
        let size = properties.hardware_profile.and_then(|it| it.vm_size);
        let size = size.and_then(|size| serde_json::to_value(size).ok());
        let kind = Alternative {
            size: size
                .as_ref()
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            zone: vm.zones.into_iter().next(),
        };
        let disk = { properties.storage_profile }
            .and_then(|profile| profile.os_disk?.managed_disk?.sub_resource.id);
        let interfaces = properties
            .network_profile
            .map(|profile| profile.network_interfaces);
        let interface = interfaces.and_then(|interfaces| {
            let primary = interfaces.iter().find(|one| {
                one.properties
                    .as_ref()
                    .is_some_and(|p| p.primary == Some(true))
            });
            primary
                .or_else(|| interfaces.first())?
                .sub_resource
                .id
                .clone()
        });
        Ok(Self {
            id: id.ok_or_else(|| damaged("id"))?,
            name: name.ok_or_else(|| damaged("name"))?,
            unique_id: properties.vm_id.ok_or_else(|| damaged("vmId"))?,
            tags: Tags::read(tags.as_ref()),
            state,
            power: word.as_deref().and_then(power),
            is_deallocated: word.as_deref() == Some("deallocated"),
            is_deallocating: word.as_deref() == Some("deallocating"),
            changed: provisioning
                .and_then(|status| status.time)
                .map(|time| time.to_string()),
            interface,
            disk,
            account: properties
                .os_profile
                .and_then(|profile| profile.admin_username),
            kind,
        })
    }

    /// Returns the name of the VM's resource group.
    pub(crate) fn group(&self) -> &str {
        // /subscriptions/<id>/resourceGroups/<name>/…
        self.id.split('/').nth(4).unwrap_or_default()
    }

    /// Returns whether the VM never ran: it is being created, or its creation failed.
    pub(crate) fn never_ran(&self) -> bool {
        self.power.is_none()
    }

    /// Returns the VM's power state.
    pub(crate) fn power(&self) -> Power {
        match (&self.state, self.power) {
            (State::Deleting, _) => Power::Stopping,
            (State::Failed(_), None) => Power::Failed,
            (_, Some(power)) => power,
            (State::Changing(_) | State::Succeeded, None) => Power::Starting,
        }
    }

    /// Returns an identifier of the current boot. Azure has no boot id. The identifier therefore
    /// contains the time of the last power change, such as a start or a restart.
    pub(crate) fn boot_id(&self) -> Option<String> {
        let runs = self.power() == Power::Running;
        runs.then(|| {
            format!(
                "{} {}",
                self.unique_id,
                self.changed.as_deref().unwrap_or("always")
            )
        })
    }

    /// Returns the name of the node that the VM represents: from the VM's tag or, without a tag,
    /// from the VM's name.
    pub(crate) fn node(&self) -> Option<NodeName> {
        self.tags
            .node()
            .or_else(|| NodeName::try_from(self.name.as_str()).ok())
    }

    /// Returns whether the VM's last change succeeded, and no change is in progress.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.state, State::Succeeded)
    }

    pub(crate) fn is_being_created(&self) -> bool {
        self.never_ran() && matches!(self.state, State::Changing(_))
    }

    pub(crate) fn is_being_started(&self) -> bool {
        self.power == Some(Power::Starting)
    }

    /// Returns whether the VM is off and no change in progress will start it.
    pub(crate) fn is_off(&self) -> bool {
        self.power() == Power::Stopped && !matches!(self.state, State::Changing(_))
    }

    /// Returns the alternatives that failed so far. Includes this VM's alternative if Azure has no
    /// capacity for the VM. After other failures, the same alternative may be tried again.
    pub(crate) fn tried(&self) -> Tried {
        let tried = Tried::read(self.tags.get(tags::TRIED));
        match &self.state {
            State::Failed(refusal) if self.never_ran() && refusal.may_try_alternative() => {
                tried.with(&self.kind, refusal)
            }
            _ => tried,
        }
    }

    /// Returns whether the VM was created for a node with several alternatives.
    pub(crate) fn has_alternatives(&self) -> bool {
        self.tags.get(tags::TRIED).is_some()
    }

    /// Returns the id of the attempt that created the VM.
    pub(crate) fn run(&self) -> &str {
        self.tags.get(tags::RUN).unwrap_or("unknown")
    }

    /// Returns whether this program created the VM.
    pub(crate) fn is_created(&self) -> bool {
        self.tags.get(tags::CREATED) == Some("yes")
    }
}

fn power(word: &str) -> Option<Power> {
    match word {
        "starting" => Some(Power::Starting),
        "running" => Some(Power::Running),
        "stopping" | "deallocating" => Some(Power::Stopping),
        "stopped" | "deallocated" => Some(Power::Stopped),
        _ => None,
    }
}

/// One attempt to create a VM.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    pub(crate) run: &'a str,
    /// The requested size and zone.
    pub(crate) kind: &'a Alternative,
    /// The alternatives that failed in earlier attempts. `None` if the node has only one
    /// alternative.
    pub(crate) tried: Option<&'a Tried>,
    /// The host key of the VM's SSH server.
    pub(crate) key: &'a HostKey,
}

/// Returns the request that creates a VM with its disk, interface, and address. Azure deletes these
/// resources together with the VM.
pub(crate) fn create_request(
    options: &AzureOptions,
    spec: &NodeSpec,
    subnet: &str,
    attempt: &Attempt<'_>,
) -> Result<models::VirtualMachine> {
    let Attempt {
        run,
        kind,
        tried,
        key,
    } = attempt;
    let name = spec.name.as_str();
    let mut tags = Tags::of(&options.owner)
        .with(tags::NODE, name)
        .with(tags::RUN, run)
        .with(tags::ACCOUNT, &options.account)
        .with(tags::HOST_KEY, &key.public);
    if let Some(tried) = tried {
        tags = tags.with(tags::TRIED, &tried.written().unwrap_or_default());
    }
    let [publisher, offer, sku, version] = image(spec.image.as_deref().unwrap_or(&options.image))?;
    let mut address = json!({
        "subnet": { "id": subnet },
        "primary": true,
    });
    if options.public_ip {
        // A standard address without a zone is usable in every zone.
        address["publicIPAddressConfiguration"] = json!({
            "name": format!("{name}-ip"),
            "sku": { "name": "Standard" },
            "properties": { "deleteOption": "Delete", "publicIPAllocationMethod": "Static" },
        });
    }
    let properties = json!({
        "hardwareProfile": { "vmSize": kind.size },
        "storageProfile": {
            "imageReference": {
                "publisher": publisher, "offer": offer, "sku": sku, "version": version,
            },
            "osDisk": {
                "createOption": "FromImage",
                "deleteOption": "Delete",
                "managedDisk": { "storageAccountType": "StandardSSD_LRS" },
            },
        },
        "osProfile": {
            "computerName": name,
            "adminUsername": options.account,
            "customData": key.custom_data().expose(),
            "linuxConfiguration": {
                "disablePasswordAuthentication": true,
                "ssh": {
                    "publicKeys": [{
                        "path": format!("/home/{}/.ssh/authorized_keys", options.account),
                        "keyData": options.authorized_key.trim(),
                    }],
                },
            },
        },
        "networkProfile": {
            "networkApiVersion": INTERFACES,
            "networkInterfaceConfigurations": [{
                "name": format!("{name}-nic"),
                "properties": {
                    "primary": true,
                    "deleteOption": "Delete",
                    "ipConfigurations": [{ "name": "primary", "properties": address }],
                },
            }],
        },
    });
    let properties = serde_json::from_value(properties).map_err(|error| {
        Error::failed("serializing the request to create a VM", error.to_string())
    })?;
    let mut resource = models::Resource::new(options.location.clone());
    resource.tags = Some(tags.to_value());
    let mut vm = models::VirtualMachine::new(resource);
    vm.properties = Some(properties);
    vm.zones = kind.zone.iter().cloned().collect();
    Ok(vm)
}

/// Adds a user-assigned identity to the request. The result is JSON, because the generated client
/// has no field for the identity's id.
pub(crate) fn with_identity(vm: &models::VirtualMachine, identity: &str) -> Result<Value> {
    let mut vm = serde_json::to_value(vm).map_err(|error| {
        Error::failed("serializing the request to create a VM", error.to_string())
    })?;
    vm["identity"] = json!({
        "type": "UserAssigned",
        "userAssignedIdentities": { identity: {} },
    });
    Ok(vm)
}

/// Returns the private address of a network interface, and the path of its public address.
pub(crate) fn addresses(interface: &Value) -> (Option<std::net::IpAddr>, Option<String>) {
    let configurations = interface.pointer("/properties/ipConfigurations");
    let all = configurations.and_then(Value::as_array);
    let is_primary =
        |one: &&Value| one.pointer("/properties/primary").and_then(Value::as_bool) == Some(true);
    let primary = all.and_then(|all| all.iter().find(is_primary).or_else(|| all.first()));
    let Some(primary) = primary else {
        return (None, None);
    };
    let text = |pointer: &str| primary.pointer(pointer).and_then(Value::as_str);
    (
        text("/properties/privateIPAddress").and_then(|address| address.parse().ok()),
        text("/properties/publicIPAddress/id").map(str::to_owned),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(state: &str, power: &str) -> Vm {
        let vm = json!({
            "id": "/subscriptions/s/resourceGroups/GROUP/providers/Microsoft.Compute/virtualMachines/one",
            "name": "one",
            "location": "westeurope",
            "properties": {
                "vmId": "1",
                "provisioningState": state,
                "instanceView": { "statuses": [{ "code": format!("PowerState/{power}") }] },
            },
        });
        Vm::read(serde_json::from_value(vm).unwrap()).unwrap()
    }

    #[test]
    fn a_vm_that_is_being_started_is_not_off() {
        for power in ["stopped", "deallocated"] {
            assert!(vm("Succeeded", power).is_off());
            assert!(vm("Failed", power).is_off());
            // The power state shows an accepted start only after a delay.
            assert!(!vm("Updating", power).is_off());
            assert!(!vm("Deleting", power).is_off());
        }
        assert!(!vm("Succeeded", "running").is_off());
    }

    #[test]
    fn uses_the_primary_address_at_any_position() {
        let one = |address: &str, primary: bool| json!({ "properties": { "privateIPAddress": address, "primary": primary } });
        let of = |all: Value| addresses(&json!({ "properties": { "ipConfigurations": all } })).0;
        let both = json!([one("10.0.0.1", false), one("10.0.0.2", true)]);
        assert_eq!(of(both), "10.0.0.2".parse().ok());
        assert_eq!(of(json!([one("10.0.0.1", false)])), "10.0.0.1".parse().ok());
        assert_eq!(of(json!([])), None);
    }
}
