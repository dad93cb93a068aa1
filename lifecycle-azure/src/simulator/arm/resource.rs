//! What all resources have in common, and what can be done with each the same way: get, list,
//! change tags, put, delete.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use lifecycle_core::clock::IdSource;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::answer::Answer;
use super::call::Call;
use super::id::{Key, ResourceId};
use super::operation::{self, Begin};
use super::page::paged;
use super::problem::{Problem, Refusal, invalid, required};
use super::sku::known_location;
use super::world::{Shelf, World};

/// Tags, by name. Their names keep the capitals that they were given.
pub(crate) type Tags = BTreeMap<String, String>;

/// What every resource has.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) id: ResourceId,
    pub(crate) location: String,
    pub(crate) tags: Tags,
    pub(crate) etag: Uuid,
    pub(crate) state: Provisioning,
}

/// How far a resource is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Provisioning {
    Creating,
    Updating,
    Succeeded,
    Failed(Problem),
    Deleting,
}

impl Provisioning {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Creating => "Creating",
            Self::Updating => "Updating",
            Self::Succeeded => "Succeeded",
            Self::Failed(_) => "Failed",
            Self::Deleting => "Deleting",
        }
    }

    /// What an operation leaves behind.
    pub(crate) fn after(result: &Result<(), Problem>) -> Self {
        match result {
            Ok(()) => Self::Succeeded,
            Err(problem) => Self::Failed(problem.clone()),
        }
    }
}

/// A kind of resource.
pub(crate) trait Resource: Sized + Send + 'static {
    /// `Microsoft.Compute/virtualMachines`.
    const KIND: &'static str;
    /// The provider that answers for it: `Microsoft.Compute`.
    const NAMESPACE: &'static str;

    fn shelf(world: &World) -> &Shelf<Self>;
    fn shelf_mut(world: &mut World) -> &mut Shelf<Self>;
    fn head(&self) -> &Head;
    fn head_mut(&mut self) -> &mut Head;

    /// What stands under `properties`, but for the state.
    fn properties(&self, world: &World) -> Map<String, Value>;

    /// What stands beside `properties`.
    fn beside(&self) -> Map<String, Value> {
        Map::new()
    }

    /// What keeps it from being deleted.
    fn in_use(&self, world: &World) -> Option<Problem>;

    /// Lets go of what it holds; it is off its shelf already.
    fn removed(self, _world: &mut World) {}

    /// The resource as Azure shows it.
    fn show(&self, world: &World) -> Value {
        let head = self.head();
        let mut properties = self.properties(world);
        properties.insert("provisioningState".into(), head.state.name().into());
        let mut shown = self.beside();
        shown.insert("id".into(), head.id.to_string().into());
        shown.insert("name".into(), head.id.name.clone().into());
        shown.insert("type".into(), Self::KIND.into());
        shown.insert("location".into(), head.location.clone().into());
        if !head.tags.is_empty() {
            shown.insert("tags".into(), json!(head.tags));
        }
        if Self::NAMESPACE == "Microsoft.Network" {
            shown.insert("etag".into(), format!("W/\"{}\"", head.etag).into());
        }
        shown.insert("properties".into(), properties.into());
        shown.into()
    }
}

/// What every implementation of [`Resource`] says alike, for the shelf of the world that its
/// resources stand on.
macro_rules! stands_on {
    ($shelf:ident) => {
        fn shelf(
            world: &$crate::simulator::arm::world::World,
        ) -> &$crate::simulator::arm::world::Shelf<Self> {
            &world.$shelf
        }
        fn shelf_mut(
            world: &mut $crate::simulator::arm::world::World,
        ) -> &mut $crate::simulator::arm::world::Shelf<Self> {
            &mut world.$shelf
        }
        fn head(&self) -> &$crate::simulator::arm::resource::Head {
            &self.head
        }
        fn head_mut(&mut self) -> &mut $crate::simulator::arm::resource::Head {
            &mut self.head
        }
    };
}
pub(crate) use stands_on;

/// A resource that a PUT makes or replaces as a whole.
pub(crate) trait Declared: Resource {
    /// The resource that `body` declares. `before` is the one that it replaces. Changes the world
    /// by nothing but what a refusal may leave behind.
    fn declare(
        world: &mut World,
        head: Head,
        body: &Value,
        before: Option<&Self>,
        ids: &dyn IdSource,
    ) -> Result<Self, Refusal>;
}

/// A resource that exists.
pub(crate) fn find<'w, R: Resource>(world: &'w World, id: &ResourceId) -> Result<&'w R, Refusal> {
    world.group(&id.subscription, &id.group)?;
    R::shelf(world).get(&id.key()).ok_or_else(|| not_found(id))
}

pub(crate) fn not_found(id: &ResourceId) -> Refusal {
    let message = format!(
        "The Resource '{}/{}' under resource group '{}' was not found. For more details please go to \
         https://aka.ms/ARMResourceNotFoundFix",
        id.kind, id.name, id.group
    );
    Problem::new("ResourceNotFound", message).not_found()
}

/// The tags that a body names.
pub(crate) fn tags_of(body: &Value) -> Result<Option<Tags>, Refusal> {
    match body.get("tags") {
        None | Some(Value::Null) => Ok(None),
        Some(tags) => {
            let tags: Tags = serde_json::from_value(tags.clone())
                .map_err(|error| invalid("tags", format!("The tags cannot be read: {error}.")))?;
            if tags.len() > 50 {
                let message = "The number of tags must not exceed 50.";
                return Err(Problem::new("InvalidTags", message).bad_request());
            }
            Ok(Some(tags))
        }
    }
}

/// The head of what a PUT makes or replaces.
pub(crate) fn head_of(
    call: &Call<'_>,
    id: &ResourceId,
    before: Option<&Head>,
    state: Provisioning,
) -> Result<Head, Refusal> {
    let asked = call.body.get("location").and_then(Value::as_str);
    let location = match (asked.map(super::sku::location_name), before) {
        (None, _) => {
            let message = "The location property is required for this definition.";
            return Err(Problem::new("LocationRequired", message).bad_request());
        }
        (Some(asked), Some(before)) if asked != before.location => {
            let message = format!(
                "The resource '{}' already exists in location '{}' in resource group '{}'. A resource \
                 with the same name cannot be created in location '{asked}'. Please select a new \
                 resource name.",
                id.name, before.location, id.group
            );
            return Err(Problem::new("InvalidResourceLocation", message).conflict());
        }
        (Some(asked), _) => asked,
    };
    if !known_location(&location) {
        let message = format!(
            "The provided location '{location}' is not available for resource type '{}'.",
            id.kind
        );
        return Err(Problem::new("LocationNotAvailableForResourceType", message).bad_request());
    }
    Ok(Head {
        // The capitals are those of the first PUT.
        id: before.map_or_else(|| id.clone(), |before| before.id.clone()),
        location,
        tags: tags_of(call.body)?.unwrap_or_default(),
        etag: call.cloud.ids.uuid(),
        state,
    })
}

pub(crate) fn get<R: Resource>(world: &World, id: &ResourceId) -> Result<Answer, Refusal> {
    find::<R>(world, id).map(|found| Answer::ok(found.show(world)))
}

/// The resources of a kind in a subscription or a group, one page of them.
pub(crate) fn list<R: Resource>(
    call: &Call<'_>,
    world: &World,
    prefix: &Key,
) -> Result<Answer, Refusal> {
    let inside = format!("{prefix}/");
    let found = R::shelf(world)
        .range(inside.clone()..)
        .take_while(|(key, _)| key.starts_with(&inside))
        .map(|(key, one)| (key.clone(), one.show(world)));
    paged(call, found)
}

/// Replaces the tags, as PATCH does for every kind of resource here.
pub(crate) fn patch_tags<R: Resource>(
    call: &Call<'_>,
    world: &mut World,
    id: &ResourceId,
) -> Result<Answer, Refusal> {
    find::<R>(world, id)?;
    let tags = tags_of(call.body)?.ok_or_else(|| required("tags"))?;
    if let Some(found) = R::shelf_mut(world).get_mut(&id.key()) {
        found.head_mut().tags = tags;
        found.head_mut().etag = call.cloud.ids.uuid();
    }
    get::<R>(world, id)
}

/// Whether the conditions of a request's headers hold for what is there.
pub(crate) fn conditions(call: &Call<'_>, before: Option<&Head>) -> Result<(), Refusal> {
    let header = |name: &str| call.headers.get(name).and_then(|v| v.to_str().ok());
    let failed = |message: String| {
        Err(Problem::new("PreconditionFailed", message).with(StatusCode::PRECONDITION_FAILED))
    };
    if header("if-none-match").is_some_and(|value| value.trim() == "*")
        && let Some(before) = before
    {
        return failed(format!(
            "The condition '*' in the If-None-Match header was not satisfied: the resource '{}' \
             already exists.",
            before.id.name
        ));
    }
    let Some(wanted) = header("if-match").map(str::trim) else {
        return Ok(());
    };
    let met =
        before.is_some_and(|before| wanted == "*" || wanted.contains(&before.etag.to_string()));
    if met {
        Ok(())
    } else {
        failed(format!(
            "The condition '{wanted}' in the If-Match header was not satisfied."
        ))
    }
}

/// Makes or replaces a resource: at once in the world, with the state `Updating` until its
/// operation ends.
pub(crate) fn put<R: Declared>(
    call: &Call<'_>,
    world: &mut World,
    id: &ResourceId,
) -> Result<Answer, Refusal> {
    world.open_group(&id.subscription, &id.group)?;
    let key = id.key();
    // Taken off the shelf while it is replaced, and put back if that is refused.
    let before = R::shelf_mut(world).remove(&key);
    let declared = conditions(call, before.as_ref().map(R::head)).and_then(|()| {
        let head = head_of(
            call,
            id,
            before.as_ref().map(R::head),
            Provisioning::Updating,
        )?;
        R::declare(
            world,
            head,
            call.body,
            before.as_ref(),
            call.cloud.ids.as_ref(),
        )
    });
    let existed = before.is_some();
    let declared = match declared {
        Ok(declared) => declared,
        Err(refusal) => {
            if let Some(before) = before {
                R::shelf_mut(world).insert(key, before);
            }
            return Err(refusal);
        }
    };
    let location = declared.head().location.clone();
    R::shelf_mut(world).insert(key.clone(), declared);
    let shown = find::<R>(world, id)?.show(world);
    let finish = move |world: &mut World, worked: Result<(), Problem>| {
        if let Some(found) = R::shelf_mut(world).get_mut(&key) {
            found.head_mut().state = Provisioning::after(&worked);
        }
        worked
    };
    let delay = call.cloud.options.delays.network;
    let begin = Begin::on::<R>(call, id, &location, delay).showing(id.to_string());
    let operation = operation::begin(call.cloud, world, begin, async { Ok(()) }, finish);
    let status = if existed {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok(Answer::new(status).body(shown).following(operation))
}

/// Deletes a resource, unless another one uses it; deleting what is absent is fine.
pub(crate) fn delete<R: Resource>(
    call: &Call<'_>,
    world: &mut World,
    id: &ResourceId,
) -> Result<Answer, Refusal> {
    if world.group(&id.subscription, &id.group).is_err() {
        return Ok(Answer::new(StatusCode::NO_CONTENT));
    }
    let key = id.key();
    let Some(found) = R::shelf(world).get(&key) else {
        return Ok(Answer::new(StatusCode::NO_CONTENT));
    };
    if let Some(problem) = found.in_use(world) {
        // Each provider has a status of its own for this.
        return Err(match R::NAMESPACE {
            "Microsoft.Compute" => problem.conflict(),
            _ => problem.bad_request(),
        });
    }
    let location = found.head().location.clone();
    if let Some(found) = R::shelf_mut(world).get_mut(&key) {
        found.head_mut().state = Provisioning::Deleting;
    }
    let finish = move |world: &mut World, worked: Result<(), Problem>| {
        let used = R::shelf(world)
            .get(&key)
            .and_then(|found| found.in_use(world));
        // Somebody may have begun to use it in the meantime.
        let worked = worked.and_then(|()| used.map_or(Ok(()), Err));
        match &worked {
            Ok(()) => {
                if let Some(found) = R::shelf_mut(world).remove(&key) {
                    found.removed(world);
                }
            }
            Err(_) => {
                if let Some(found) = R::shelf_mut(world).get_mut(&key) {
                    found.head_mut().state = Provisioning::after(&worked);
                }
            }
        }
        worked
    };
    let delay = call.cloud.options.delays.network;
    let begin = Begin::on::<R>(call, id, &location, delay);
    let operation = operation::begin(call.cloud, world, begin, async { Ok(()) }, finish);
    Ok(Answer::new(StatusCode::ACCEPTED).following(operation))
}
