//! Simulates resource groups.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::answer::Answer;
use super::call::Call;
use super::id::{Key, group_key};
use super::operation::{self, Begin};
use super::page::paged;
use super::problem::{Problem, Refusal, required};
use super::resource::{Resource, Tags, tags_of};
use super::sku::{known_location, location_name};
use super::state::ArmState;
use super::vm;
use crate::simulator::host::HostChange;

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) subscription: String,
    pub(crate) name: String,
    pub(crate) location: String,
    pub(crate) tags: Tags,
    pub(crate) deleting: bool,
}

impl Group {
    fn key(&self) -> Key {
        group_key(&self.subscription, &self.name)
    }

    fn show(&self) -> Value {
        let mut shown = json!({
            "id": format!("/subscriptions/{}/resourceGroups/{}", self.subscription, self.name),
            "name": self.name,
            "type": "Microsoft.Resources/resourceGroups",
            "location": self.location,
            "properties": {"provisioningState": if self.deleting { "Deleting" } else { "Succeeded" }},
        });
        if !self.tags.is_empty() {
            shown["tags"] = json!(self.tags);
        }
        shown
    }
}

fn valid_name(name: &str) -> bool {
    let allowed = |c: char| c.is_alphanumeric() || "-_.()".contains(c);
    (1..=90).contains(&name.chars().count()) && name.chars().all(allowed) && !name.ends_with('.')
}

pub(crate) fn put(
    call: &Call<'_>,
    arm: &mut ArmState,
    subscription: &str,
    name: &str,
) -> Result<Answer, Refusal> {
    if !valid_name(name) {
        let message = format!(
            "The provided resource group name '{name}' has these invalid characters or an invalid \
             length. The name can only be a letter, digit, '-', '.', '(', ')' or '_', and must not \
             end with '.'."
        );
        return Err(Problem::new("InvalidResourceGroup", message).bad_request());
    }
    let asked = call.body.get("location").and_then(Value::as_str);
    let location = location_name(asked.ok_or_else(|| {
        let message = "The location property is required for this definition.";
        Problem::new("LocationRequired", message).bad_request()
    })?);
    if !known_location(&location) {
        let message =
            format!("The provided location '{location}' is not available for resource group.");
        return Err(Problem::new("LocationNotAvailableForResourceGroup", message).bad_request());
    }
    let key = group_key(subscription, name);
    let tags = tags_of(call.body)?.unwrap_or_default();
    if arm.groups.contains_key(&key) {
        let existing = &arm.open_group(subscription, name)?.location;
        if *existing != location {
            let message = format!(
                "Invalid resource group location '{location}'. The Resource group already exists in \
                 location '{existing}'."
            );
            return Err(Problem::new("InvalidResourceGroupLocation", message).conflict());
        }
        if let Some(group) = arm.groups.get_mut(&key) {
            group.tags = tags;
        }
        return get(arm, subscription, name);
    }
    let group = Group {
        subscription: subscription.to_owned(),
        name: name.to_owned(),
        location,
        tags,
        deleting: false,
    };
    let shown = group.show();
    arm.groups.insert(group.key(), group);
    Ok(Answer::new(StatusCode::CREATED).body(shown))
}

pub(crate) fn get(arm: &ArmState, subscription: &str, name: &str) -> Result<Answer, Refusal> {
    arm.group(subscription, name).map(|g| Answer::ok(g.show()))
}

/// Returns a status without a body: 204 if the group exists, or else 404.
pub(crate) fn exists(arm: &ArmState, subscription: &str, name: &str) -> Answer {
    match arm.group(subscription, name) {
        Ok(_) => Answer::new(StatusCode::NO_CONTENT),
        Err(_) => Answer::new(StatusCode::NOT_FOUND),
    }
}

pub(crate) fn patch(
    call: &Call<'_>,
    arm: &mut ArmState,
    subscription: &str,
    name: &str,
) -> Result<Answer, Refusal> {
    arm.open_group(subscription, name)?;
    let tags = tags_of(call.body)?.ok_or_else(|| required("tags"))?;
    if let Some(group) = arm.groups.get_mut(&group_key(subscription, name)) {
        group.tags = tags;
    }
    get(arm, subscription, name)
}

pub(crate) fn list(call: &Call<'_>, arm: &ArmState, subscription: &str) -> Result<Answer, Refusal> {
    let prefix = group_key(subscription, "");
    let inside = arm
        .groups
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix))
        .map(|(key, group)| (key.clone(), group.show()));
    paged(call, inside)
}

/// Deletes a group and all resources in it. Unlike other operations, this deletion has no status
/// document: polls of the returned path receive 202 until all resources are deleted.
pub(crate) fn delete(
    call: &Call<'_>,
    arm: &mut ArmState,
    subscription: &str,
    name: &str,
) -> Result<Answer, Refusal> {
    let group = arm.open_group(subscription, name)?;
    let location = group.location.clone();
    let key = group.key();
    if let Some(group) = arm.groups.get_mut(&key) {
        group.deleting = true;
    }
    let inside = format!("{key}/");
    let vms: Vec<_> = keys::<vm::VmResource>(arm, &inside);
    for vm in &vms {
        vm::mark_deleting(arm, vm);
    }
    let hosts = call.cloud.hosts.clone();
    let work = async move {
        for vm in vms {
            hosts.change(HostChange::Delete { vm }).await?;
        }
        Ok(())
    };
    let finish = move |arm: &mut ArmState, worked: Result<(), Problem>| {
        let emptied = worked.and_then(|()| empty(arm, &inside));
        match &emptied {
            Ok(()) => {
                arm.groups.remove(&key);
            }
            Err(problem) => {
                if let Some(group) = arm.groups.get_mut(&key) {
                    group.deleting = false;
                }
                // The remaining VMs are still marked as being deleted. Mark them as failed, so that
                // clients can delete them individually.
                for vm in keys::<vm::VmResource>(arm, &inside) {
                    vm::mark_failed(arm, &vm, problem.clone());
                }
            }
        }
        emptied
    };
    let begin = Begin {
        subscription: subscription.to_owned(),
        namespace: "Microsoft.Resources",
        location,
        result: None,
        delay: call.cloud.options.delays.group,
        injected: call.injected.clone(),
    };
    let id = operation::begin(call.cloud, arm, begin, work, finish);
    let path = format!("/subscriptions/{subscription}/operationresults/{id}");
    Ok(Answer::new(StatusCode::ACCEPTED).again_at(path))
}

fn keys<R: Resource>(arm: &ArmState, inside: &str) -> Vec<Key> {
    R::table(arm)
        .keys()
        .filter(|key| key.starts_with(inside))
        .cloned()
        .collect()
}

/// Removes the resources of a group, each before the resources that it uses. Fails if a resource
/// outside the group uses a resource in the group.
fn empty(arm: &mut ArmState, inside: &str) -> Result<(), Problem> {
    remove::<vm::VmResource>(arm, inside)?;
    remove::<super::disk::Disk>(arm, inside)?;
    remove::<super::interface::Interface>(arm, inside)?;
    remove::<super::address::PublicAddress>(arm, inside)?;
    remove::<super::network::Network>(arm, inside)?;
    remove::<super::security_group::SecurityGroup>(arm, inside)
}

fn remove<R: Resource>(arm: &mut ArmState, inside: &str) -> Result<(), Problem> {
    for key in keys::<R>(arm, inside) {
        if let Some(used) = R::table(arm).get(&key).and_then(|r| r.in_use(arm)) {
            let message = format!(
                "Deletion of resource group failed as resources with identifiers '{}' could not be \
                 deleted. {}",
                key, used.message
            );
            return Err(Problem::new("ResourceGroupDeletionBlocked", message));
        }
        if let Some(found) = R::table_mut(arm).remove(&key) {
            found.removed(arm);
        }
    }
    Ok(())
}
