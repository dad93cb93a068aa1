//! Defines the common properties of all resources, and their common operations: get, list, change
//! tags, put, and delete.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use lifecycle_core::clock::IdSource;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::answer::Answer;
use super::call::Call;
use super::id::{Key, ResourceId};
use super::inbound;
use super::operation::{self, Begin};
use super::page::paged;
use super::problem::{Problem, Refusal, invalid, required};
use super::sku::known_location;
use super::state::{ArmState, Table};

/// Tags by name. Names keep the case in which they were set.
pub(crate) type Tags = BTreeMap<String, String>;

/// The common properties of all resources.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) id: ResourceId,
    pub(crate) location: String,
    pub(crate) tags: Tags,
    pub(crate) etag: Uuid,
    pub(crate) state: Provisioning,
}

/// The provisioning state of a resource.
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

    /// Returns the state after an operation with this result.
    pub(crate) fn after(result: &Result<(), Problem>) -> Self {
        match result {
            Ok(()) => Self::Succeeded,
            Err(problem) => Self::Failed(problem.clone()),
        }
    }
}

pub(crate) trait Resource: Sized + Send + 'static {
    /// The resource type, for example `Microsoft.Compute/virtualMachines`.
    const KIND: &'static str;
    /// The resource provider, for example `Microsoft.Compute`.
    const NAMESPACE: &'static str;

    fn table(arm: &ArmState) -> &Table<Self>;
    fn table_mut(arm: &mut ArmState) -> &mut Table<Self>;
    fn head(&self) -> &Head;
    fn head_mut(&mut self) -> &mut Head;

    /// Returns the contents of `properties`, except for the provisioning state.
    fn properties(&self, arm: &ArmState) -> Map<String, Value>;

    /// Returns the members next to `properties`.
    fn top_level(&self) -> Map<String, Value> {
        Map::new()
    }

    /// If the resource is in use, returns the error for an attempt to delete it.
    fn in_use(&self, arm: &ArmState) -> Option<Problem>;

    /// Releases other resources that this resource holds. Called after this resource has been
    /// removed from its table.
    fn removed(self, _world: &mut ArmState) {}

    /// Returns the resource as JSON, in the format of Azure's responses.
    fn show(&self, arm: &ArmState) -> Value {
        let head = self.head();
        let mut properties = self.properties(arm);
        properties.insert("provisioningState".into(), head.state.name().into());
        let mut shown = self.top_level();
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

/// Implements the common methods of [`Resource`]. `$table` is the field of the state that contains
/// the resources of this type.
macro_rules! stored_in {
    ($table:ident) => {
        fn table(
            arm: &$crate::simulator::arm::state::ArmState,
        ) -> &$crate::simulator::arm::state::Table<Self> {
            &arm.$table
        }
        fn table_mut(
            arm: &mut $crate::simulator::arm::state::ArmState,
        ) -> &mut $crate::simulator::arm::state::Table<Self> {
            &mut arm.$table
        }
        fn head(&self) -> &$crate::simulator::arm::resource::Head {
            &self.head
        }
        fn head_mut(&mut self) -> &mut $crate::simulator::arm::resource::Head {
            &mut self.head
        }
    };
}
pub(crate) use stored_in;

/// A resource type whose PUT creates or replaces the whole resource.
pub(crate) trait Declared: Resource {
    /// Returns the resource that `body` declares. `before` is the existing resource, which is
    /// replaced. Leaves the rest of the state unchanged, except for changes that Azure also makes
    /// for a rejected request.
    fn declare(
        arm: &mut ArmState,
        head: Head,
        body: &Value,
        before: Option<&Self>,
        ids: &dyn IdSource,
    ) -> Result<Self, Refusal>;
}

/// Returns the existing resource with this id. Fails if the resource does not exist.
pub(crate) fn find<'w, R: Resource>(arm: &'w ArmState, id: &ResourceId) -> Result<&'w R, Refusal> {
    arm.group(&id.subscription, &id.group)?;
    R::table(arm).get(&id.key()).ok_or_else(|| not_found(id))
}

pub(crate) fn not_found(id: &ResourceId) -> Refusal {
    let message = format!(
        "The Resource '{}/{}' under resource group '{}' was not found. For more details please go to \
         https://aka.ms/ARMResourceNotFoundFix",
        id.kind, id.name, id.group
    );
    Problem::new("ResourceNotFound", message).not_found()
}

/// Returns the tags in a request body.
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

/// Returns the common properties of a resource that a PUT creates or replaces.
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
        // The id keeps the case from the first PUT.
        id: before.map_or_else(|| id.clone(), |before| before.id.clone()),
        location,
        tags: tags_of(call.body)?.unwrap_or_default(),
        etag: call.cloud.ids.uuid(),
        state,
    })
}

pub(crate) fn get<R: Resource>(arm: &ArmState, id: &ResourceId) -> Result<Answer, Refusal> {
    find::<R>(arm, id).map(|found| Answer::ok(found.show(arm)))
}

/// Returns a page of the resources of one type in a subscription or a group.
pub(crate) fn list<R: Resource>(
    call: &Call<'_>,
    arm: &ArmState,
    prefix: &Key,
) -> Result<Answer, Refusal> {
    let inside = format!("{prefix}/");
    let found = R::table(arm)
        .range(inside.clone()..)
        .take_while(|(key, _)| key.starts_with(&inside))
        .map(|(key, one)| (key.clone(), one.show(arm)));
    paged(call, found)
}

/// Replaces the tags. For all simulated resource types except VMs, a PATCH changes only the tags.
pub(crate) fn patch_tags<R: Resource>(
    call: &Call<'_>,
    arm: &mut ArmState,
    id: &ResourceId,
) -> Result<Answer, Refusal> {
    find::<R>(arm, id)?;
    let tags = tags_of(call.body)?.ok_or_else(|| required("tags"))?;
    if let Some(found) = R::table_mut(arm).get_mut(&id.key()) {
        found.head_mut().tags = tags;
        found.head_mut().etag = call.cloud.ids.uuid();
    }
    get::<R>(arm, id)
}

/// Checks the conditional headers of a request against the existing resource.
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
    let Some(expected) = header("if-match").map(str::trim) else {
        return Ok(());
    };
    let met =
        before.is_some_and(|before| expected == "*" || expected.contains(&before.etag.to_string()));
    if met {
        Ok(())
    } else {
        failed(format!(
            "The condition '{expected}' in the If-Match header was not satisfied."
        ))
    }
}

/// Creates or replaces a resource. The change is visible immediately. The state is `Updating` until
/// the operation ends.
pub(crate) fn put<R: Declared>(
    call: &Call<'_>,
    arm: &mut ArmState,
    id: &ResourceId,
) -> Result<Answer, Refusal> {
    arm.open_group(&id.subscription, &id.group)?;
    let key = id.key();
    // Remove the resource from its table while it is being replaced. Restore it if the request is
    // rejected.
    let before = R::table_mut(arm).remove(&key);
    let declared = conditions(call, before.as_ref().map(R::head)).and_then(|()| {
        let head = head_of(
            call,
            id,
            before.as_ref().map(R::head),
            Provisioning::Updating,
        )?;
        R::declare(
            arm,
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
                R::table_mut(arm).insert(key, before);
            }
            return Err(refusal);
        }
    };
    let location = declared.head().location.clone();
    R::table_mut(arm).insert(key.clone(), declared);
    let shown = find::<R>(arm, id)?.show(arm);
    let finish = move |arm: &mut ArmState, worked: Result<(), Problem>| {
        if let Some(found) = R::table_mut(arm).get_mut(&key) {
            found.head_mut().state = Provisioning::after(&worked);
        }
        worked
    };
    let delay = call.cloud.options.delays.network;
    let begin = Begin::on::<R>(call, id, &location, delay).showing(id.to_string());
    // The resource may change which ports of VMs are open.
    let cloud = call.cloud.clone();
    let work = async move { inbound::enforce(&cloud).await };
    let operation = operation::begin(call.cloud, arm, begin, work, finish);
    let status = if existed {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok(Answer::new(status).body(shown).following(operation))
}

/// Deletes a resource. Succeeds if the resource does not exist; fails if another resource uses it.
pub(crate) fn delete<R: Resource>(
    call: &Call<'_>,
    arm: &mut ArmState,
    id: &ResourceId,
) -> Result<Answer, Refusal> {
    if arm.group(&id.subscription, &id.group).is_err() {
        return Ok(Answer::new(StatusCode::NO_CONTENT));
    }
    let key = id.key();
    let Some(found) = R::table(arm).get(&key) else {
        return Ok(Answer::new(StatusCode::NO_CONTENT));
    };
    if let Some(problem) = found.in_use(arm) {
        // Each resource provider has its own status for this error.
        return Err(match R::NAMESPACE {
            "Microsoft.Compute" => problem.conflict(),
            _ => problem.bad_request(),
        });
    }
    let location = found.head().location.clone();
    if let Some(found) = R::table_mut(arm).get_mut(&key) {
        found.head_mut().state = Provisioning::Deleting;
    }
    let finish = move |arm: &mut ArmState, worked: Result<(), Problem>| {
        let used = R::table(arm).get(&key).and_then(|found| found.in_use(arm));
        // Another resource may have started to use this resource since the request.
        let worked = worked.and_then(|()| used.map_or(Ok(()), Err));
        match &worked {
            Ok(()) => {
                if let Some(found) = R::table_mut(arm).remove(&key) {
                    found.removed(arm);
                }
            }
            Err(_) => {
                if let Some(found) = R::table_mut(arm).get_mut(&key) {
                    found.head_mut().state = Provisioning::after(&worked);
                }
            }
        }
        worked
    };
    let delay = call.cloud.options.delays.network;
    let begin = Begin::on::<R>(call, id, &location, delay);
    let operation = operation::begin(call.cloud, arm, begin, async { Ok(()) }, finish);
    Ok(Answer::new(StatusCode::ACCEPTED).following(operation))
}
