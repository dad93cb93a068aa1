//! Simulates Azure's locations and VM sizes, with a selection of the real ones.

use serde_json::{Value, json};

use super::answer::Answer;
use super::call::Call;
use super::page::paged;
use super::problem::{Problem, Refusal};

/// The locations, as (name, display name).
pub(crate) const LOCATIONS: [(&str, &str); 4] = [
    ("westeurope", "West Europe"),
    ("northeurope", "North Europe"),
    ("germanywestcentral", "Germany West Central"),
    ("eastus", "East US"),
];

/// A processor architecture with Azure's name for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Architecture {
    X64,
    Arm64,
}

impl Architecture {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X64 => "x64",
            Self::Arm64 => "Arm64",
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) name: &'static str,
    /// The size's family. Quotas apply per family.
    pub(crate) family: &'static str,
    pub(crate) family_label: &'static str,
    pub(crate) cores: u32,
    memory_gib: u32,
    data_disks: u32,
    temporary_mib: u32,
    pub(crate) architecture: Architecture,
}

const fn size(
    name: &'static str,
    family: (&'static str, &'static str),
    cores: u32,
    memory_gib: u32,
    data_disks: u32,
    temporary_mib: u32,
    architecture: Architecture,
) -> Size {
    Size {
        name,
        family: family.0,
        family_label: family.1,
        cores,
        memory_gib,
        data_disks,
        temporary_mib,
        architecture,
    }
}

type Family = (&'static str, &'static str);
const BS: Family = ("standardBSFamily", "Standard BS Family vCPUs");
const DSV3: Family = ("standardDSv3Family", "Standard DSv3 Family vCPUs");
const DSV5: Family = ("standardDSv5Family", "Standard DSv5 Family vCPUs");
const DASV5: Family = ("standardDASv5Family", "Standard DASv5 Family vCPUs");
const DPSV5: Family = ("standardDPSv5Family", "Standard DPSv5 Family vCPUs");
const ESV5: Family = ("standardESv5Family", "Standard ESv5 Family vCPUs");
const FSV2: Family = ("standardFSv2Family", "Standard FSv2 Family vCPUs");

pub(crate) static SIZES: [Size; 13] = [
    size("Standard_B1s", BS, 1, 1, 2, 4096, Architecture::X64),
    size("Standard_B2s", BS, 2, 4, 4, 8192, Architecture::X64),
    size("Standard_B2ms", BS, 2, 8, 4, 16384, Architecture::X64),
    size("Standard_D2s_v3", DSV3, 2, 8, 4, 16384, Architecture::X64),
    size("Standard_D4s_v3", DSV3, 4, 16, 8, 32768, Architecture::X64),
    size("Standard_D2s_v5", DSV5, 2, 8, 4, 0, Architecture::X64),
    size("Standard_D4s_v5", DSV5, 4, 16, 8, 0, Architecture::X64),
    size("Standard_D8s_v5", DSV5, 8, 32, 16, 0, Architecture::X64),
    size("Standard_D2as_v5", DASV5, 2, 8, 4, 0, Architecture::X64),
    size("Standard_D2ps_v5", DPSV5, 2, 8, 4, 0, Architecture::Arm64),
    size("Standard_E2s_v5", ESV5, 2, 16, 4, 0, Architecture::X64),
    size("Standard_F2s_v2", FSV2, 2, 4, 4, 16384, Architecture::X64),
    size("Standard_F4s_v2", FSV2, 4, 8, 8, 32768, Architecture::X64),
];

/// Returns the normalized name of a location. For example, `West Europe` becomes `westeurope`.
pub(crate) fn location_name(written: &str) -> String {
    written
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect::<String>()
        .to_lowercase()
}

pub(crate) fn known_location(name: &str) -> bool {
    LOCATIONS.iter().any(|(known, _)| *known == name)
}

fn restricted(call: &Call<'_>, location: &str, name: &str) -> bool {
    let options = &call.cloud.options;
    options
        .restricted_sizes
        .iter()
        .any(|(at, size)| location_name(at) == location && size.eq_ignore_ascii_case(name))
}

/// Returns the size that a VM requests. Fails if the size is not available.
pub(crate) fn size_of(
    call: &Call<'_>,
    location: &str,
    name: &str,
) -> Result<&'static Size, Refusal> {
    let found = SIZES
        .iter()
        .find(|size| size.name.eq_ignore_ascii_case(name));
    let Some(found) = found else {
        let valid: Vec<_> = SIZES.iter().map(|size| size.name).collect();
        let message = format!(
            "The value {name} provided for the VM size is not valid. The valid sizes in the current \
             region are: {}. Find out more on the available VM sizes in each region at \
             https://aka.ms/azure-regionservices.",
            valid.join(",")
        );
        return Err(Problem::new("InvalidParameter", message)
            .at("vmSize")
            .bad_request());
    };
    if restricted(call, location, name) {
        let message = format!(
            "The requested VM size for resource 'Following SKUs have failed for Capacity Restrictions: \
             {}' is currently not available in location '{location}'. Please try another size or deploy \
             to a different location or different zone. See https://aka.ms/azureskunotavailable for \
             details.",
            found.name
        );
        return Err(Problem::new("SkuNotAvailable", message).conflict());
    }
    Ok(found)
}

fn show(call: &Call<'_>, location: &str, size: &Size) -> Value {
    let capability = |name: &str, value: String| json!({"name": name, "value": value});
    let restrictions = if restricted(call, location, size.name) {
        json!([{
            "type": "Location",
            "values": [location],
            "restrictionInfo": {"locations": [location]},
            "reasonCode": "NotAvailableForSubscription",
        }])
    } else {
        json!([])
    };
    json!({
        "resourceType": "virtualMachines",
        "name": size.name,
        "tier": "Standard",
        "size": size.name.trim_start_matches("Standard_"),
        "family": size.family,
        "locations": [location],
        "locationInfo": [{"location": location, "zones": ["1", "2", "3"], "zoneDetails": []}],
        "capabilities": [
            capability("vCPUs", size.cores.to_string()),
            capability("vCPUsAvailable", size.cores.to_string()),
            capability("MemoryGB", size.memory_gib.to_string()),
            capability("MaxDataDiskCount", size.data_disks.to_string()),
            capability("MaxResourceVolumeMB", size.temporary_mib.to_string()),
            capability("CpuArchitectureType", size.architecture.name().to_owned()),
            capability("HyperVGenerations", "V1,V2".to_owned()),
            capability("PremiumIO", "True".to_owned()),
        ],
        "restrictions": restrictions,
    })
}

/// Responds to `Microsoft.Compute/skus`. The only supported filter is a location.
pub(crate) fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    let only = match call.parameter("$filter") {
        None => None,
        Some(filter) => match filter.split('\'').collect::<Vec<_>>()[..] {
            [before, location, ""] if before.trim() == "location eq" => {
                Some(location_name(location))
            }
            _ => {
                let message =
                    format!("The filter '{filter}' is not supported. Use \"location eq '…'\".");
                return Err(Problem::new("InvalidFilter", message).bad_request());
            }
        },
    };
    let all = LOCATIONS
        .iter()
        .filter(|(name, _)| only.as_ref().is_none_or(|only| only == name))
        .flat_map(|(location, _)| {
            SIZES.iter().map(move |size| {
                (
                    format!("{location}/{}", size.name),
                    show(call, location, size),
                )
            })
        });
    let mut all: Vec<_> = all.collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    paged(call, all.into_iter())
}

/// Responds to `locations/…/vmSizes`.
pub(crate) fn sizes() -> Answer {
    let sizes: Vec<_> = SIZES
        .iter()
        .map(|size| {
            json!({
                "name": size.name,
                "numberOfCores": size.cores,
                "osDiskSizeInMB": 1_047_552,
                "resourceDiskSizeInMB": size.temporary_mib,
                "memoryInMB": size.memory_gib * 1024,
                "maxDataDiskCount": size.data_disks,
            })
        })
        .collect();
    Answer::ok(json!({ "value": sizes }))
}
