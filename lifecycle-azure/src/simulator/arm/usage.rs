//! Simulates quotas and their use.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::address::PublicAddress;
use super::answer::Answer;
use super::id::ResourceId;
use super::problem::{Problem, Refusal};
use super::resource::Resource;
use super::sku::{SIZES, Size};
use super::state::ArmState;
use crate::simulator::options::SimulatorOptions;

/// The quota of VMs per subscription and location.
const MACHINES: u32 = 25_000;
/// The quota of public addresses per subscription and location.
const ADDRESSES: u32 = 1_000;

fn limit(options: &SimulatorOptions, family: &str) -> u32 {
    options
        .quotas
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(family))
        .map_or(options.default_quota, |(_, limit)| *limit)
}

/// Returns the number of cores of all VMs in a location, by family. Includes deallocated VMs and
/// VMs without a host.
fn cores(arm: &ArmState, subscription: &str, location: &str) -> BTreeMap<&'static str, u32> {
    let mut used = BTreeMap::new();
    for vm in arm.vms.values() {
        let head = vm.head();
        if head.id.subscription.eq_ignore_ascii_case(subscription) && head.location == location {
            *used.entry(vm.size().family).or_default() += vm.size().cores;
        }
    }
    used
}

fn exceeded(what: &str, location: &str, limit: u32, used: u32, more: u32) -> Refusal {
    let message = format!(
        "Operation could not be completed as it results in exceeding approved {what} Cores quota. \
         Additional details - Deployment Model: Resource Manager, Location: {location}, Current Limit: \
         {limit}, Current Usage: {used}, Additional Required: {more}, (Minimum) New Limit Required: {}. \
         Setup Alerts when Quota reaches threshold. Learn more at \
         https://aka.ms/quotamonitoringalerting . Submit a request for Quota increase at \
         https://aka.ms/ProdportalCRP/#blade/Microsoft_Azure_Capacity/UsageAndQuota.ReactView/Parameters/ \
         by specifying parameters listed in the 'Details' section for deployment to succeed. Please read \
         more about quota limits at https://docs.microsoft.com/en-us/azure/azure-supportability/per-vm-quota-requests",
        used + more
    );
    Problem::new("OperationNotAllowed", message).conflict()
}

/// Checks that the quotas allow another VM of this size. `forced` makes the check fail.
pub(crate) fn fits(
    arm: &ArmState,
    options: &SimulatorOptions,
    id: &ResourceId,
    location: &str,
    size: &Size,
    forced: bool,
) -> Result<(), Refusal> {
    let used = cores(arm, &id.subscription, location);
    let of_family = used.get(size.family).copied().unwrap_or_default();
    let of_all: u32 = used.values().sum();
    let family_limit = limit(options, size.family);
    if forced {
        return Err(exceeded(
            size.family,
            location,
            of_family,
            of_family,
            size.cores,
        ));
    }
    if of_all + size.cores > options.regional_quota {
        let limit = options.regional_quota;
        return Err(exceeded(
            "Total Regional",
            location,
            limit,
            of_all,
            size.cores,
        ));
    }
    if of_family + size.cores > family_limit {
        return Err(exceeded(
            size.family,
            location,
            family_limit,
            of_family,
            size.cores,
        ));
    }
    Ok(())
}

fn usage(name: &str, label: &str, used: u32, limit: u32) -> Value {
    json!({
        "unit": "Count",
        "currentValue": used,
        "limit": limit,
        "name": {"value": name, "localizedValue": label},
    })
}

/// Responds to `Microsoft.Compute/locations/…/usages`.
pub(crate) fn compute(
    arm: &ArmState,
    options: &SimulatorOptions,
    subscription: &str,
    location: &str,
) -> Answer {
    let used = cores(arm, subscription, location);
    let vms = arm.vms.values().filter(|vm| {
        let head = vm.head();
        head.id.subscription.eq_ignore_ascii_case(subscription) && head.location == location
    });
    let count = u32::try_from(vms.count()).unwrap_or(u32::MAX);
    let mut usages = vec![
        usage(
            "cores",
            "Total Regional vCPUs",
            used.values().sum(),
            options.regional_quota,
        ),
        usage("virtualMachines", "Virtual Machines", count, MACHINES),
    ];
    let families: BTreeMap<_, _> = SIZES.iter().map(|s| (s.family, s.family_label)).collect();
    for (family, label) in families {
        let used = used.get(family).copied().unwrap_or_default();
        usages.push(usage(family, label, used, limit(options, family)));
    }
    Answer::ok(json!({ "value": usages }))
}

/// Responds to `Microsoft.Network/locations/…/usages`.
pub(crate) fn network(arm: &ArmState, subscription: &str, location: &str) -> Answer {
    let in_location = |one: &&PublicAddress| {
        one.head()
            .id
            .subscription
            .eq_ignore_ascii_case(subscription)
            && one.head().location == location
    };
    let count = arm.addresses.values().filter(in_location).count();
    let used = u32::try_from(count).unwrap_or(u32::MAX);
    let mut shown = usage("PublicIPAddresses", "Public IP Addresses", used, ADDRESSES);
    shown["id"] = format!(
        "/subscriptions/{subscription}/providers/Microsoft.Network/locations/{location}/usages/PublicIPAddresses"
    )
    .into();
    Answer::ok(json!({ "value": [shown] }))
}
