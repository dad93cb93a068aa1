//! Validates the request to create a VM, with the same rules as Azure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lifecycle_core::secret::Sensitive;
use serde_json::{Map, Value, json};

use super::System;
use crate::simulator::arm::call::Call;
use crate::simulator::arm::image::{Image, image_of};
use crate::simulator::arm::network::reference;
use crate::simulator::arm::problem::{Problem, Refusal, invalid, required};
use crate::simulator::arm::sku::{Size, size_of};

/// The maximum length of custom data, in Base64.
const CUSTOM_DATA: usize = 87_380;

/// A selection of the administrator names that Azure rejects.
const REFUSED_ADMINS: [&str; 16] = [
    "administrator",
    "admin",
    "user",
    "user1",
    "test",
    "user2",
    "test1",
    "user3",
    "admin1",
    "1",
    "123",
    "a",
    "root",
    "guest",
    "server",
    "sql",
];

/// The members of `properties` that the simulator stores as received.
const KEPT: [&str; 9] = [
    "priority",
    "evictionPolicy",
    "billingProfile",
    "diagnosticsProfile",
    "securityProfile",
    "additionalCapabilities",
    "licenseType",
    "availabilitySet",
    "proximityPlacementGroup",
];

#[derive(Debug)]
pub(super) struct VmRequest {
    pub(super) size: &'static Size,
    pub(super) image: &'static Image,
    /// The image reference, with the exact version of the image.
    pub(super) image_reference: Value,
    pub(super) os_disk: DiskRequest,
    pub(super) data_disks: Vec<DiskRequest>,
    pub(super) system: System,
    pub(super) network: NetworkRequest,
    pub(super) others: Map<String, Value>,
    pub(super) top_level: Map<String, Value>,
}

/// A disk to create.
#[derive(Debug)]
pub(super) struct DiskRequest {
    pub(super) name: Option<String>,
    pub(super) lun: Option<u64>,
    pub(super) sku: String,
    pub(super) size_gib: u64,
    pub(super) caching: String,
    pub(super) delete_option: Option<String>,
}

/// The existing interfaces that the VM uses, or the interfaces that are created with the VM.
#[derive(Debug)]
pub(super) enum NetworkRequest {
    /// The existing interfaces, as (id, primary, delete option).
    Existing(Vec<(String, Option<bool>, Option<String>)>),
    Configured(Vec<Value>),
}

fn text<'b>(body: &'b Value, pointer: &str) -> Option<&'b str> {
    body.pointer(pointer).and_then(Value::as_str)
}

impl VmRequest {
    pub(super) fn read(call: &Call<'_>, location: &str) -> Result<Self, Refusal> {
        let body = call.body;
        let properties = body
            .get("properties")
            .and_then(Value::as_object)
            .ok_or_else(|| required("properties"))?;
        let size = text(body, "/properties/hardwareProfile/vmSize")
            .ok_or_else(|| required("hardwareProfile.vmSize"))?;
        let size = size_of(call, location, size)?;
        let reference = body
            .pointer("/properties/storageProfile/imageReference")
            .ok_or_else(|| required("storageProfile.imageReference"))?;
        let (image, exact) = image_of(reference, size)?;
        let mut image_reference = reference.clone();
        image_reference["exactVersion"] = exact.into();
        let os_disk = body
            .pointer("/properties/storageProfile/osDisk")
            .ok_or_else(|| required("storageProfile.osDisk"))?;
        let data_disks = body
            .pointer("/properties/storageProfile/dataDisks")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|disk| disk_of(disk, "Empty"))
            .collect::<Result<_, _>>()?;
        let mut others = properties.clone();
        others.retain(|name, _| KEPT.contains(&name.as_str()));
        Ok(Self {
            size,
            image,
            image_reference,
            os_disk: disk_of(os_disk, "FromImage")?,
            data_disks,
            system: system_of(body)?,
            network: network_of(body)?,
            others,
            top_level: top_level_of(call),
        })
    }
}

fn disk_of(disk: &Value, option: &str) -> Result<DiskRequest, Refusal> {
    let given = text(disk, "/createOption").ok_or_else(|| required("createOption"))?;
    if !given.eq_ignore_ascii_case(option) {
        let message = format!(
            "The simulator supports only createOption '{option}' for such disks, not '{given}'."
        );
        return Err(invalid("createOption", message));
    }
    let size = disk.get("diskSizeGB").and_then(Value::as_u64);
    Ok(DiskRequest {
        name: text(disk, "/name").map(str::to_owned),
        lun: disk.get("lun").and_then(Value::as_u64),
        sku: text(disk, "/managedDisk/storageAccountType")
            .unwrap_or("Standard_LRS")
            .to_owned(),
        size_gib: size.unwrap_or(30),
        caching: text(disk, "/caching").unwrap_or("ReadWrite").to_owned(),
        delete_option: text(disk, "/deleteOption").map(str::to_owned),
    })
}

fn system_of(body: &Value) -> Result<System, Refusal> {
    let profile = body
        .pointer("/properties/osProfile")
        .ok_or_else(|| required("osProfile"))?;
    let computer_name =
        text(profile, "/computerName").ok_or_else(|| required("osProfile.computerName"))?;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if computer_name.len() > 64 || computer_name.is_empty() || !computer_name.chars().all(fits) {
        let message = "Linux host name cannot exceed 64 characters in length or contain the following \
                       characters: ` ~ ! @ # $ % ^ & * ( ) = + _ [ ] { } \\ | ; : ' \" , < > / ?.";
        return Err(invalid("computerName", message));
    }
    let admin =
        text(profile, "/adminUsername").ok_or_else(|| required("osProfile.adminUsername"))?;
    if REFUSED_ADMINS.contains(&admin.to_lowercase().as_str()) {
        return Err(invalid(
            "adminUsername",
            "The Admin Username specified is not allowed.",
        ));
    }
    let without_password = profile
        .pointer("/linuxConfiguration/disablePasswordAuthentication")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    let ssh_keys: Vec<String> = profile
        .pointer("/linuxConfiguration/ssh/publicKeys")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|key| text(key, "/keyData").map(str::to_owned))
        .collect();
    if without_password && ssh_keys.is_empty() {
        let message = "Authentication using SSH is required if disablePasswordAuthentication is true: \
                       the list of public keys is empty.";
        return Err(invalid("linuxConfiguration.ssh.publicKeys", message));
    }
    if !without_password && text(profile, "/adminPassword").is_none() {
        let message = "Authentication using either SSH or by user name and password must be enabled in \
                       Linux profile.";
        return Err(invalid("linuxConfiguration", message));
    }
    let custom_data = text(profile, "/customData");
    if custom_data.is_some_and(|data| data.len() > CUSTOM_DATA || STANDARD.decode(data).is_err()) {
        let message = format!(
            "Custom data in OSProfile must be in Base64 encoding and with a maximum length of \
             {CUSTOM_DATA} characters."
        );
        return Err(invalid("customData", message));
    }
    let mut shown = profile.clone();
    if let Some(shown) = shown.as_object_mut() {
        // Azure never returns these values.
        for secret in ["adminPassword", "customData"] {
            shown.remove(secret);
        }
        shown.entry("secrets").or_insert_with(|| json!([]));
        shown
            .entry("allowExtensionOperations")
            .or_insert(Value::Bool(true));
        shown
            .entry("requireGuestProvisionSignal")
            .or_insert(Value::Bool(true));
    }
    Ok(System {
        computer_name: computer_name.to_owned(),
        admin: admin.to_owned(),
        ssh_keys,
        shown,
        custom_data: custom_data.map(Sensitive::new),
    })
}

fn network_of(body: &Value) -> Result<NetworkRequest, Refusal> {
    let list = |name: &str| {
        body.pointer(&format!("/properties/networkProfile/{name}"))
            .and_then(Value::as_array)
            .filter(|list| !list.is_empty())
    };
    match (
        list("networkInterfaces"),
        list("networkInterfaceConfigurations"),
    ) {
        (Some(_), Some(_)) => {
            let message =
                "networkInterfaces and networkInterfaceConfigurations cannot both be given.";
            Err(invalid("networkProfile", message))
        }
        (None, None) => Err(required("networkProfile.networkInterfaces")),
        (Some(existing), None) => {
            let one = |interface: &Value| {
                let id = reference(Some(interface))
                    .ok_or_else(|| required("networkProfile.networkInterfaces.id"))?;
                let primary = interface
                    .pointer("/properties/primary")
                    .and_then(Value::as_bool);
                let option = text(interface, "/properties/deleteOption").map(str::to_owned);
                Ok((id, primary, option))
            };
            let existing = existing
                .iter()
                .map(one)
                .collect::<Result<Vec<_>, Refusal>>()?;
            let primaries = existing.iter().filter(|one| one.1 == Some(true)).count();
            if existing.len() > 1 && primaries != 1 {
                let message = "Virtual machine must have one network interface set as the primary.";
                let code = "VirtualMachineMustHaveOneNetworkInterfaceAsPrimary";
                return Err(Problem::new(code, message).bad_request());
            }
            Ok(NetworkRequest::Existing(existing))
        }
        (None, Some(configured)) => {
            if text(body, "/properties/networkProfile/networkApiVersion").is_none() {
                return Err(required("networkProfile.networkApiVersion"));
            }
            Ok(NetworkRequest::Configured(configured.clone()))
        }
    }
}

/// Returns the zones, the plan, and the identity. Generates the ids of identities, as Azure does.
pub(super) fn top_level_of(call: &Call<'_>) -> Map<String, Value> {
    let mut top_level = Map::new();
    for name in ["zones", "plan", "identity"] {
        if let Some(given) = call.body.get(name).filter(|given| !given.is_null()) {
            top_level.insert(name.to_owned(), given.clone());
        }
    }
    if let Some(identity) = top_level.get_mut("identity").and_then(Value::as_object_mut) {
        let kind = identity
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if kind.contains("SystemAssigned") {
            identity.insert("principalId".into(), json!(call.cloud.ids.uuid()));
            identity.insert("tenantId".into(), json!(call.cloud.options.tenant));
        }
        let assigned = identity.get_mut("userAssignedIdentities");
        for (_, ids) in assigned
            .and_then(Value::as_object_mut)
            .into_iter()
            .flatten()
        {
            // In the simulator, every identity is the one that the metadata service provides.
            *ids = json!({
                "principalId": call.cloud.ids.uuid(),
                "clientId": call.cloud.options.managed_identity,
            });
        }
    }
    top_level
}
