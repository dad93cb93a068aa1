//! Lists, adds and removes the services of a class: microservices, applications, and AI models.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use lifecycle_core::Error;
use lifecycle_core::api::wire::{AppliedV1, ServiceV1};
use lifecycle_core::model::{ServiceClass, ServiceName};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Api;
use super::request::{Parameters, Segment, Whole};
use crate::auth::{Admin, Viewer};
use crate::problem::Problem;

/// The largest description of a service, in bytes.
const LARGEST: usize = 1 << 20;

/// The query of `PUT /v1/applications/{name}`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    /// Whether to return the plan, and to change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// `GET /v1/applications`, and the same for the other classes.
pub(super) async fn list(
    class: ServiceClass,
    _: Viewer,
    api: Api,
) -> Result<Json<Vec<ServiceV1>>, Problem> {
    let mut services = api.manager.services().await?;
    services.retain(|service| service.class == class);
    Ok(Json(services))
}

/// `GET /v1/applications/{name}`, and the same for the other classes.
pub(super) async fn show(
    class: ServiceClass,
    _: Viewer,
    api: Api,
    Segment(name): Segment,
) -> Result<Json<ServiceV1>, Problem> {
    let mut services = api.manager.services().await?;
    services.retain(|service| service.class == class);
    let known = services.iter().map(|service| service.name.as_str());
    let unknown = Error::unknown_name(format!("{class} {name}"), &name, known);
    let found = services.into_iter().find(|one| one.name.as_str() == name);
    if found.is_none()
        && let Err(error @ Error::Forbidden { .. }) = api.manager.service(&name).await
    {
        return Err(error.into());
    }
    Ok(Json(found.ok_or(unknown)?))
}

/// `PUT /v1/applications/{name}`, and the same for the other classes. Requires an admin token, because
/// a service may mount any path of its node.
pub(super) async fn apply(
    class: ServiceClass,
    _: Admin,
    api: Api,
    Segment(name): Segment,
    Parameters(options): Parameters<Options>,
    Whole(body): Whole<LARGEST>,
) -> Result<Response, Problem> {
    let name = ServiceName::try_from(name).map_err(Error::from)?;
    let text = std::str::from_utf8(&body).map_err(|_| {
        Problem::bad_request("the body", "it is not UTF-8", "send YAML or JSON in UTF-8")
    })?;
    if options.dry_run {
        return Ok(Json(api.manager.plan_service(class, &name, text).await?).into_response());
    }
    let applied = api.manager.apply_service(class, &name, text).await?;
    Ok((StatusCode::ACCEPTED, Json(applied)).into_response())
}

/// `DELETE /v1/applications/{name}`, and the same for the other classes.
pub(super) async fn remove(
    class: ServiceClass,
    _: Admin,
    api: Api,
    Segment(name): Segment,
) -> Result<(StatusCode, Json<AppliedV1>), Problem> {
    let applied = api.manager.remove_service(class, &name).await?;
    Ok((StatusCode::ACCEPTED, Json(applied)))
}
