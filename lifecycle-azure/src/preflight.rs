//! What can be known in seconds, before anything is made: whether the login works, and whether
//! the subscription can have these VMs in this region.

use std::collections::BTreeMap;

use azure_mgmt_compute::models;
use lifecycle_core::Result;
use lifecycle_core::cloud::PreflightReport;
use lifecycle_core::model::NodeSpec;
use serde_json::Value;

use crate::arm::Client;
use crate::arm::transport::pages;
use crate::compute::{COMPUTE, Compute};
use crate::options::{AzureOptions, image};

const SUBSCRIPTIONS: &str = "2022-12-01";

/// A size that a region has.
#[derive(Debug)]
struct Size {
    family: String,
    cores: u64,
    /// Why this subscription cannot have it.
    restriction: Option<String>,
}

/// Checks `wanted`, as far as it does not exist yet.
pub(crate) async fn check(
    options: &AzureOptions,
    client: &Client,
    compute: &Compute,
    wanted: &[NodeSpec],
) -> Result<PreflightReport> {
    let mut report = PreflightReport::default();
    let path = format!("/subscriptions/{}", options.subscription);
    if client.get(&path, SUBSCRIPTIONS).await?.is_none() {
        report.problems.push(format!(
            "The login does not reach subscription {}: choose one of `az account list`, or log in \
             to its tenant.",
            options.subscription
        ));
        return Ok(report);
    }
    let there = compute.list().await?;
    let new: Vec<&NodeSpec> = wanted
        .iter()
        .filter(|spec| {
            let is_there = |machine: &crate::machine::Machine| {
                machine.tags.are_of(&options.owner) && machine.node().as_ref() == Some(&spec.name)
            };
            !there.iter().any(is_there)
        })
        .collect();
    if new.is_empty() {
        return Ok(report);
    }
    for spec in &new {
        let is_taken = |machine: &crate::machine::Machine| {
            machine.group().eq_ignore_ascii_case(&options.group())
                && machine.name.eq_ignore_ascii_case(spec.name.as_str())
        };
        if there.iter().any(is_taken) {
            report.problems.push(format!(
                "Node {}: resource group {} has a VM of this name that is not this platform's: \
                 choose another name, or adopt it.",
                spec.name,
                options.group()
            ));
        }
    }
    let (sizes, usages) = tokio::try_join!(sizes(options, compute), usages(options, compute))?;
    let mut needed: BTreeMap<&str, u64> = BTreeMap::new();
    for spec in &new {
        let name = spec.size.as_deref().unwrap_or(&options.size);
        let location = &options.location;
        let found = sizes
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        match found.map(|(_, size)| size) {
            None => report.problems.push(format!(
                "Node {}: {location} has no size {name}: choose one of `az vm list-skus --location \\
                 {location} --resource-type virtualMachines`.",
                spec.name
            )),
            Some(Size { restriction: Some(why), .. }) => report.problems.push(format!(
                "Node {}: this subscription cannot have size {name} in {location} ({why}): choose \
                 another size or location.",
                spec.name
            )),
            Some(size) => {
                let cores = needed.entry(&size.family).or_default();
                *cores = cores.saturating_add(size.cores);
            }
        }
    }
    let of_all = needed.values().copied().fold(0, u64::saturating_add);
    needed.insert("cores", of_all);
    for (family, cores) in needed {
        let Some((used, limit)) = usages.get(&family.to_lowercase()) else {
            continue;
        };
        if used.saturating_add(cores) > *limit {
            let what = if family == "cores" {
                "all families"
            } else {
                family
            };
            report.problems.push(format!(
                "The new nodes need {cores} cores of {what} in {}; {used} of {limit} are used: ask \
                 for a higher quota (Azure portal: Subscriptions, Usage + quotas), or choose \
                 another size or location.",
                options.location
            ));
        }
    }
    images(options, client, &new, &mut report).await?;
    Ok(report)
}

async fn images(
    options: &AzureOptions,
    client: &Client,
    new: &[&NodeSpec],
    report: &mut PreflightReport,
) -> Result<()> {
    let names = new
        .iter()
        .map(|spec| spec.image.as_deref().unwrap_or(&options.image));
    let names: std::collections::BTreeSet<&str> = names.collect();
    for name in names {
        let [publisher, offer, sku, version] = match image(name) {
            Ok(parts) => parts,
            Err(error) => {
                let hint = error.hint().unwrap_or_default();
                report.problems.push(format!("{error}: {hint}."));
                continue;
            }
        };
        let path = format!(
            "/subscriptions/{}/providers/Microsoft.Compute/locations/{}/publishers/{publisher}\
             /artifacttypes/vmimage/offers/{offer}/skus/{sku}/versions",
            options.subscription, options.location
        );
        // A list of the image's versions, without the envelope of other lists.
        let versions = client.get(&path, COMPUTE).await?;
        let versions = versions.as_ref().and_then(Value::as_array);
        let is_this = |found: &Value| found.get("name").and_then(Value::as_str) == Some(version);
        let is_there = versions.is_some_and(|versions| {
            !versions.is_empty() && (version == "latest" || versions.iter().any(is_this))
        });
        if let Some(any) = versions
            .and_then(|versions| versions.last()?.get("name")?.as_str())
            .filter(|_| is_there)
        {
            // All versions of an image are sold alike.
            let details = client.get(&format!("{path}/{any}"), COMPUTE).await?;
            let plan = details
                .as_ref()
                .and_then(|it| it.pointer("/properties/plan"));
            if plan.is_some_and(|plan| !plan.is_null()) {
                report.problems.push(format!(
                    "Image {name} is sold with terms of its publisher, which cannot be accepted \
                     here: choose one without a plan."
                ));
            }
        } else {
            report.problems.push(format!(
                "{} has no image {name}: choose one of `az vm image list --location {0} --publisher \
                 {publisher} --all`.",
                options.location
            ));
        }
    }
    Ok(())
}

async fn sizes(options: &AzureOptions, compute: &Compute) -> Result<Vec<(String, Size)>> {
    let location = &options.location;
    let request = compute
        .client()
        .resource_skus_client()
        .list(&options.subscription)
        .filter(format!("location eq '{location}'"));
    let pages = pages(request.into_stream()).await;
    let pages = pages.map_err(|failure| failure.into_error("listing sizes"))?;
    let skus = pages.into_iter().flat_map(|page| page.value);
    let size = |sku: models::ResourceSku| {
        if sku.resource_type.as_deref() != Some("virtualMachines") {
            return None;
        }
        let cores = sku
            .capabilities
            .iter()
            .find(|one| one.name.as_deref() == Some("vCPUs"));
        let cores = cores.and_then(|one| one.value.as_ref()?.parse().ok());
        let value = |restriction: &models::ResourceSkuRestrictions| {
            serde_json::to_value(restriction).unwrap_or_default()
        };
        let of_location = sku
            .restrictions
            .iter()
            .map(value)
            .find(|one| one["type"] == "Location");
        let why = |one: Value| {
            one["reasonCode"]
                .as_str()
                .unwrap_or("restricted")
                .to_owned()
        };
        Some((
            sku.name?,
            Size {
                family: sku.family.unwrap_or_default(),
                cores: cores.unwrap_or(1),
                restriction: of_location.map(why),
            },
        ))
    };
    Ok(skus.filter_map(size).collect())
}

/// What is used, and may be, by the lower-case name of the family.
async fn usages(options: &AzureOptions, compute: &Compute) -> Result<BTreeMap<String, (u64, u64)>> {
    let usages = compute.client().usage_client();
    let request = usages.list(&options.location, &options.subscription);
    let pages = pages(request.into_stream()).await;
    let pages = pages.map_err(|failure| failure.into_error("reading quotas"))?;
    let all = pages.into_iter().flat_map(|page| page.value);
    let usage = |usage: models::Usage| {
        let name = usage.name.value?.to_lowercase();
        let used = u64::try_from(usage.current_value).ok()?;
        let limit = u64::try_from(usage.limit).ok()?;
        Some((name, (used, limit)))
    };
    Ok(all.filter_map(usage).collect())
}
