//! Simulates subscriptions: their locations, their resource providers, and the list of all their
//! resources.

use serde_json::{Value, json};

use super::answer::Answer;
use super::call::Call;
use super::id::Key;
use super::page::paged;
use super::problem::{Problem, Refusal};
use super::resource::Resource;
use super::sku::LOCATIONS;
use super::state::ArmState;
use super::{address, disk, interface, network, security_group, vm};

/// The resource providers, each with its simulated resource types.
const PROVIDERS: [(&str, &[&str]); 3] = [
    (
        "Microsoft.Compute",
        &["virtualMachines", "disks", "locations", "skus"],
    ),
    (
        "Microsoft.Network",
        &[
            "virtualNetworks",
            "networkSecurityGroups",
            "publicIPAddresses",
            "networkInterfaces",
        ],
    ),
    ("Microsoft.Resources", &["resourceGroups", "subscriptions"]),
];

pub(crate) fn show(call: &Call<'_>, id: &str) -> Value {
    json!({
        "id": format!("/subscriptions/{id}"),
        "subscriptionId": id,
        "tenantId": call.cloud.options.tenant,
        "displayName": "Simulator",
        "state": "Enabled",
        "authorizationSource": "RoleBased",
        "subscriptionPolicies": {
            "locationPlacementId": "Public_2014-09-01",
            "quotaId": "PayAsYouGo_2014-09-01",
            "spendingLimit": "Off",
        },
    })
}

pub(crate) fn list(call: &Call<'_>) -> Answer {
    let ids = &call.cloud.options.subscriptions;
    let shown: Vec<_> = ids.iter().map(|id| show(call, id)).collect();
    Answer::ok(json!({ "value": shown }))
}

/// Returns the subscription with this id. The returned id has the same case as in the simulator's
/// options.
pub(crate) fn find<'c>(call: &Call<'c>, id: &str) -> Result<&'c str, Refusal> {
    let known = &call.cloud.options.subscriptions;
    let found = known.iter().find(|known| known.eq_ignore_ascii_case(id));
    found.map(String::as_str).ok_or_else(|| {
        let message = format!("The subscription '{id}' could not be found.");
        Problem::new("SubscriptionNotFound", message).not_found()
    })
}

pub(crate) fn locations(subscription: &str) -> Answer {
    let shown: Vec<_> = LOCATIONS
        .iter()
        .map(|(name, display)| {
            json!({
                "id": format!("/subscriptions/{subscription}/locations/{name}"),
                "name": name,
                "type": "Region",
                "displayName": display,
                "regionalDisplayName": display,
                "metadata": {"regionType": "Physical", "regionCategory": "Recommended"},
            })
        })
        .collect();
    Answer::ok(json!({ "value": shown }))
}

fn show_provider(subscription: &str, namespace: &str, types: &[&str]) -> Value {
    let locations: Vec<_> = LOCATIONS.iter().map(|(_, display)| display).collect();
    let types: Vec<_> = types
        .iter()
        .map(|kind| json!({"resourceType": kind, "locations": locations, "apiVersions": []}))
        .collect();
    json!({
        "id": format!("/subscriptions/{subscription}/providers/{namespace}"),
        "namespace": namespace,
        "registrationState": "Registered",
        "registrationPolicy": "RegistrationRequired",
        "resourceTypes": types,
    })
}

pub(crate) fn providers(subscription: &str) -> Answer {
    let shown: Vec<_> = PROVIDERS
        .iter()
        .map(|(namespace, types)| show_provider(subscription, namespace, types))
        .collect();
    Answer::ok(json!({ "value": shown }))
}

/// Returns one resource provider. All providers are always registered, so a registration changes
/// nothing.
pub(crate) fn provider(subscription: &str, namespace: &str) -> Result<Answer, Refusal> {
    let found = PROVIDERS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(namespace));
    let (namespace, types) = found.ok_or_else(|| {
        let message = format!("The resource namespace '{namespace}' is invalid.");
        Problem::new("InvalidResourceNamespace", message).not_found()
    })?;
    Ok(Answer::ok(show_provider(subscription, namespace, types)))
}

/// A parsed filter, such as `resourceType eq '…'` or `tagName eq '…' and tagValue eq '…'`.
#[derive(Debug, Default)]
struct Filter {
    kind: Option<String>,
    tag: Option<String>,
    value: Option<String>,
}

impl Filter {
    fn read(text: &str) -> Result<Self, Refusal> {
        let mut filter = Self::default();
        for condition in text.split(" and ") {
            let parts: Vec<_> = condition.trim().splitn(3, ' ').collect();
            let [name, "eq", value] = parts[..] else {
                return Err(Self::unknown(text));
            };
            let value = value.trim_matches('\'').to_owned();
            match name.to_lowercase().as_str() {
                "resourcetype" => filter.kind = Some(value),
                "tagname" => filter.tag = Some(value),
                "tagvalue" => filter.value = Some(value),
                _ => return Err(Self::unknown(text)),
            }
        }
        Ok(filter)
    }

    fn unknown(text: &str) -> Refusal {
        let message = format!(
            "The filter '{text}' is not supported. Use eq with resourceType, tagName, or tagValue."
        );
        Problem::new("InvalidFilterInQueryString", message).bad_request()
    }

    fn takes(&self, resource: &Value) -> bool {
        let kind = resource
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let tag = |name: &str| {
            let tags = resource.get("tags")?.as_object()?;
            let (_, value) = tags
                .iter()
                .find(|(one, _)| one.eq_ignore_ascii_case(name))?;
            value.as_str()
        };
        self.kind
            .as_ref()
            .is_none_or(|expected| expected.eq_ignore_ascii_case(kind))
            && self.tag.as_ref().is_none_or(|name| {
                tag(name).is_some_and(|found| self.value.as_ref().is_none_or(|v| v == found))
            })
    }
}

/// Returns a page of summaries of the resources in a subscription or a group.
pub(crate) fn resources(call: &Call<'_>, arm: &ArmState, prefix: &Key) -> Result<Answer, Refusal> {
    let filter = call
        .parameter("$filter")
        .map_or_else(|| Ok(Filter::default()), Filter::read)?;
    let mut all = Vec::new();
    collect::<vm::VmResource>(arm, prefix, &mut all);
    collect::<disk::Disk>(arm, prefix, &mut all);
    collect::<interface::Interface>(arm, prefix, &mut all);
    collect::<address::PublicAddress>(arm, prefix, &mut all);
    collect::<network::Network>(arm, prefix, &mut all);
    collect::<security_group::SecurityGroup>(arm, prefix, &mut all);
    all.retain(|(_, shown)| filter.takes(shown));
    all.sort_by(|a, b| a.0.cmp(&b.0));
    paged(call, all.into_iter())
}

fn collect<R: Resource>(arm: &ArmState, prefix: &Key, into: &mut Vec<(Key, Value)>) {
    let inside = format!("{prefix}/");
    for (key, found) in R::table(arm) {
        if key.starts_with(&inside) {
            let mut shown = found.show(arm);
            if let Some(shown) = shown.as_object_mut() {
                shown.retain(|name, _| {
                    [
                        "id",
                        "name",
                        "type",
                        "location",
                        "tags",
                        "sku",
                        "managedBy",
                        "zones",
                    ]
                    .contains(&name.as_str())
                });
            }
            into.push((key.clone(), shown));
        }
    }
}
