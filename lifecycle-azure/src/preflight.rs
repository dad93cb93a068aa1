//! Checks whether the login works, and whether the subscription can create the declared VMs in the
//! region. The checks take seconds and change nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use azure_mgmt_compute::models;
use lifecycle_core::Result;
use lifecycle_core::cloud::PreflightReport;
use lifecycle_core::model::NodeSpec;
use serde_json::Value;

use crate::alternative::Alternative;
use crate::arm::Client;
use crate::arm::transport::pages;
use crate::compute::{COMPUTE, Compute};
use crate::options::{AzureOptions, image};

/// The assumed time to create a VM, until a real time has been observed.
const USUAL: Duration = Duration::from_mins(3);

const SUBSCRIPTIONS: &str = "2022-12-01";

/// A VM size that a region offers.
#[derive(Debug)]
struct Size {
    family: String,
    cores: u64,
    /// The zones that offer the size.
    zones: Vec<String>,
    restrictions: Vec<Restriction>,
}

/// The reason why a size is not available to this subscription.
#[derive(Debug)]
struct Restriction {
    /// The affected zones. If empty, the whole region is affected.
    zones: Vec<String>,
    why: String,
}

impl Size {
    /// Returns the reason why `kind` is not available, with a hint. Returns `None` if `kind` is
    /// available.
    fn refuses(&self, kind: &Alternative, location: &str) -> Option<String> {
        let Alternative { size, zone } = kind;
        let holds = |one: &&Restriction| {
            one.zones.is_empty() || zone.as_ref().is_some_and(|zone| one.zones.contains(zone))
        };
        if let Some(Restriction { why, .. }) = self.restrictions.iter().find(holds) {
            return Some(format!(
                "size {kind} in {location} is not available to this subscription ({why}): choose \
                 another size or location"
            ));
        }
        let zone = zone.as_ref().filter(|zone| !self.zones.contains(zone))?;
        Some(match self.zones.as_slice() {
            [] => format!(
                "{location} does not offer size {size} in any zone: remove `zones`, or choose \
                 another size or location"
            ),
            known => format!(
                "{location} does not offer size {size} in zone {zone}: choose one of the zones {}",
                known.join(", ")
            ),
        })
    }
}

/// The number of cores by family name, in lower case. The key `cores` contains the total.
type Cores = BTreeMap<String, u64>;

/// The VM sizes that a region offers, and the subscription's quotas.
#[derive(Debug)]
struct Offer<'a> {
    location: &'a str,
    sizes: Vec<(String, Size)>,
    /// The used and the allowed cores by family name, in lower case.
    usages: BTreeMap<String, (u64, u64)>,
}

impl Offer<'_> {
    /// Returns the size of an alternative. If the size is not available, returns the reason with a
    /// hint.
    fn find(&self, kind: &Alternative) -> Result<&Size, String> {
        let location = self.location;
        let name = &kind.size;
        let found = self
            .sizes
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        let Some((_, size)) = found else {
            return Err(format!(
                "{location} has no size {name}: choose a size from `az vm list-skus --location \
                 {location} --resource-type virtualMachines`"
            ));
        };
        size.refuses(kind, location).map_or(Ok(size), Err)
    }

    /// Returns whether the quotas allow the cores of `size` in addition to `needed`.
    fn fits(&self, needed: &Cores, size: &Size) -> bool {
        [size.family.to_lowercase().as_str(), ALL]
            .iter()
            .all(|family| {
                let needed = needed.get(*family).copied().unwrap_or_default();
                self.usages.get(*family).is_none_or(|(used, limit)| {
                    used.saturating_add(needed).saturating_add(size.cores) <= *limit
                })
            })
    }

    /// Chooses the first offered alternative that fits the quotas or, if none fits, the first
    /// offered one. Adds the cores of the chosen alternative to `needed`, which contains the cores
    /// for the preceding nodes.
    ///
    /// # Errors
    /// Returns the reason for each alternative if none is offered.
    fn choose<'k>(
        &self,
        all: &'k [Alternative],
        needed: &mut Cores,
    ) -> Result<(&'k Alternative, Vec<String>), Vec<String>> {
        let mut whys = Vec::new();
        let mut sold = Vec::new();
        for kind in all {
            match self.find(kind) {
                Ok(size) => sold.push((kind, size)),
                Err(why) => whys.push(why),
            }
        }
        let fitting = sold.iter().find(|(_, size)| self.fits(needed, size));
        let Some((kind, size)) = fitting.or(sold.first()) else {
            return Err(whys);
        };
        for family in [size.family.to_lowercase(), ALL.to_owned()] {
            let cores = needed.entry(family).or_default();
            *cores = cores.saturating_add(size.cores);
        }
        let over = sold.iter().take_while(|(before, _)| !before.is(kind));
        whys.extend(over.map(|(before, _)| format!("the quota is too small for {before}")));
        Ok((kind, whys))
    }
}

/// The name of the quota for all families together.
const ALL: &str = "cores";

/// Checks the nodes in `nodes` that do not exist yet.
pub(crate) async fn check(
    options: &AzureOptions,
    client: &Client,
    compute: &Compute,
    nodes: &[NodeSpec],
) -> Result<PreflightReport> {
    let mut report = PreflightReport::default();
    let path = format!("/subscriptions/{}", options.subscription);
    if client.get(&path, SUBSCRIPTIONS).await?.is_none() {
        report.problems.push(format!(
            "The login has no access to subscription {}: choose a subscription from `az account \
             list`, or log in to the tenant of this subscription.",
            options.subscription
        ));
        return Ok(report);
    }
    let there = compute.list().await?;
    let new: Vec<&NodeSpec> = nodes
        .iter()
        .filter(|spec| {
            let is_there = |vm: &crate::vm::Vm| {
                vm.tags.are_of(&options.owner) && options.node_of(vm).as_ref() == Some(&spec.name)
            };
            !there.iter().any(is_there)
        })
        .collect();
    if new.is_empty() {
        return Ok(report);
    }
    report.predicted = Some(USUAL);
    for spec in &new {
        let is_taken = |vm: &crate::vm::Vm| {
            vm.group().eq_ignore_ascii_case(&options.group())
                && vm.name.eq_ignore_ascii_case(spec.name.as_str())
        };
        if there.iter().any(is_taken) {
            report.problems.push(format!(
                "Node {}: resource group {} contains a VM with this name, but the VM does not \
                 belong to this platform: choose another name, or adopt the VM.",
                spec.name,
                options.group()
            ));
        }
    }
    let (sizes, usages) = tokio::try_join!(sizes(options, compute), usages(options, compute))?;
    let offer = Offer {
        location: &options.location,
        sizes,
        usages,
    };
    let mut needed = Cores::new();
    for spec in &new {
        let all = Alternative::of(options, spec);
        match offer.choose(&all, &mut needed) {
            Ok((kind, whys)) if !whys.is_empty() && !all.first().is_some_and(|it| it.is(kind)) => {
                let why = whys.join("; ");
                let remark = format!("Node {} will use size {kind}, because {why}.", spec.name);
                report.remarks.push(remark);
            }
            Ok(_) => {}
            Err(whys) => {
                let problem = format!("Node {}: {}.", spec.name, whys.join("; "));
                report.problems.push(problem);
            }
        }
    }
    for (family, cores) in needed {
        let Some((used, limit)) = offer.usages.get(&family) else {
            continue;
        };
        let least = used.saturating_add(cores);
        if least > *limit {
            let what = if family == ALL {
                "all families"
            } else {
                let of_family = |(_, size): &&(String, Size)| size.family.to_lowercase() == family;
                let size = offer.sizes.iter().find(of_family);
                size.map_or(family.as_str(), |(_, size)| &size.family)
            };
            report.problems.push(format!(
                "The new nodes need {cores} cores of {what} in {}, but {used} of {limit} are \
                 used: request a quota of at least {least} (Azure portal: Quotas, Compute), or \
                 choose another size or location.",
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
        // Unlike other lists, this response is a plain array.
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
            // All versions of an image have the same purchase plan.
            let details = client.get(&format!("{path}/{any}"), COMPUTE).await?;
            let plan = details
                .as_ref()
                .and_then(|it| it.pointer("/properties/plan"));
            if plan.is_some_and(|plan| !plan.is_null()) {
                report.problems.push(format!(
                    "Image {name} requires accepting its publisher's terms, which this program \
                     cannot do: choose an image without a plan."
                ));
            }
        } else {
            report.problems.push(format!(
                "{} has no image {name}: choose an image from `az vm image list --location {0} \
                 --publisher {publisher} --all`.",
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
        let restrictions = sku.restrictions.iter().map(restriction).collect();
        let here = sku.location_info.into_iter().find(|info| {
            let known = info.location.as_deref().unwrap_or_default();
            known.eq_ignore_ascii_case(location)
        });
        Some((
            sku.name?,
            Size {
                family: sku.family.unwrap_or_default(),
                cores: cores.unwrap_or(1),
                zones: here.map(|info| info.zones).unwrap_or_default(),
                restrictions,
            },
        ))
    };
    Ok(skus.filter_map(size).collect())
}

fn restriction(restriction: &models::ResourceSkuRestrictions) -> Restriction {
    let one = serde_json::to_value(restriction).unwrap_or_default();
    let texts = |pointer: &str| {
        let texts = one.pointer(pointer).and_then(Value::as_array);
        let texts = texts.into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect::<Vec<_>>()
    };
    let zones = match one["type"].as_str() {
        Some("Zone") => texts("/restrictionInfo/zones"),
        _ => Vec::new(),
    };
    let why = one["reasonCode"].as_str().unwrap_or("restricted");
    Restriction {
        zones,
        why: why.to_owned(),
    }
}

/// Returns the used and the allowed cores by family name, in lower case.
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
