//! Resource groups.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::answer::Answer;
use super::call::Call;
use super::id::{Key, group_key};
use super::machine;
use super::operation::{self, Begin};
use super::page::paged;
use super::problem::{Problem, Refusal, required};
use super::resource::{Resource, Tags, tags_of};
use super::sku::{known_location, location_name};
use super::world::World;
use crate::simulator::maker::MachineChange;

/// A resource group.
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
    world: &mut World,
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
    if world.groups.contains_key(&key) {
        let existing = &world.open_group(subscription, name)?.location;
        if *existing != location {
            let message = format!(
                "Invalid resource group location '{location}'. The Resource group already exists in \
                 location '{existing}'."
            );
            return Err(Problem::new("InvalidResourceGroupLocation", message).conflict());
        }
        if let Some(group) = world.groups.get_mut(&key) {
            group.tags = tags;
        }
        return get(world, subscription, name);
    }
    let group = Group {
        subscription: subscription.to_owned(),
        name: name.to_owned(),
        location,
        tags,
        deleting: false,
    };
    let shown = group.show();
    world.groups.insert(group.key(), group);
    Ok(Answer::new(StatusCode::CREATED).body(shown))
}

pub(crate) fn get(world: &World, subscription: &str, name: &str) -> Result<Answer, Refusal> {
    world
        .group(subscription, name)
        .map(|g| Answer::ok(g.show()))
}

/// Whether it exists, without a body.
pub(crate) fn exists(world: &World, subscription: &str, name: &str) -> Answer {
    match world.group(subscription, name) {
        Ok(_) => Answer::new(StatusCode::NO_CONTENT),
        Err(_) => Answer::new(StatusCode::NOT_FOUND),
    }
}

pub(crate) fn patch(
    call: &Call<'_>,
    world: &mut World,
    subscription: &str,
    name: &str,
) -> Result<Answer, Refusal> {
    world.open_group(subscription, name)?;
    let tags = tags_of(call.body)?.ok_or_else(|| required("tags"))?;
    if let Some(group) = world.groups.get_mut(&group_key(subscription, name)) {
        group.tags = tags;
    }
    get(world, subscription, name)
}

pub(crate) fn list(call: &Call<'_>, world: &World, subscription: &str) -> Result<Answer, Refusal> {
    let prefix = group_key(subscription, "");
    let inside = world
        .groups
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix))
        .map(|(key, group)| (key.clone(), group.show()));
    paged(call, inside)
}

/// Deletes a group with all that is in it. Unlike other operations this one has no status of its
/// own to poll: the path that it names answers 202 until all is gone.
pub(crate) fn delete(
    call: &Call<'_>,
    world: &mut World,
    subscription: &str,
    name: &str,
) -> Result<Answer, Refusal> {
    let group = world.open_group(subscription, name)?;
    let location = group.location.clone();
    let key = group.key();
    if let Some(group) = world.groups.get_mut(&key) {
        group.deleting = true;
    }
    let inside = format!("{key}/");
    let machines: Vec<_> = keys::<machine::Machine>(world, &inside);
    for machine in &machines {
        machine::mark_deleting(world, machine);
    }
    let maker = call.cloud.maker.clone();
    let work = async move {
        for machine in machines {
            maker.change(MachineChange::Delete { machine }).await?;
        }
        Ok(())
    };
    let finish = move |world: &mut World, worked: Result<(), Problem>| {
        let emptied = worked.and_then(|()| empty(world, &inside));
        match &emptied {
            Ok(()) => {
                world.groups.remove(&key);
            }
            Err(problem) => {
                if let Some(group) = world.groups.get_mut(&key) {
                    group.deleting = false;
                }
                // What was about to go with it is there still, and can be deleted by itself.
                for machine in keys::<machine::Machine>(world, &inside) {
                    machine::mark_failed(world, &machine, problem.clone());
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
    let id = operation::begin(call.cloud, world, begin, work, finish);
    let path = format!("/subscriptions/{subscription}/operationresults/{id}");
    Ok(Answer::new(StatusCode::ACCEPTED).again_at(path))
}

fn keys<R: Resource>(world: &World, inside: &str) -> Vec<Key> {
    R::shelf(world)
        .keys()
        .filter(|key| key.starts_with(inside))
        .cloned()
        .collect()
}

/// Removes what is in a group, users before what they use; stops at what somebody outside uses.
fn empty(world: &mut World, inside: &str) -> Result<(), Problem> {
    remove::<machine::Machine>(world, inside)?;
    remove::<super::disk::Disk>(world, inside)?;
    remove::<super::interface::Interface>(world, inside)?;
    remove::<super::address::PublicAddress>(world, inside)?;
    remove::<super::network::Network>(world, inside)?;
    remove::<super::security_group::SecurityGroup>(world, inside)
}

fn remove<R: Resource>(world: &mut World, inside: &str) -> Result<(), Problem> {
    for key in keys::<R>(world, inside) {
        if let Some(used) = R::shelf(world).get(&key).and_then(|r| r.in_use(world)) {
            let message = format!(
                "Deletion of resource group failed as resources with identifiers '{}' could not be \
                 deleted. {}",
                key, used.message
            );
            return Err(Problem::new("ResourceGroupDeletionBlocked", message));
        }
        if let Some(found) = R::shelf_mut(world).remove(&key) {
            found.removed(world);
        }
    }
    Ok(())
}
