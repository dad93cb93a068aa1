//! The platform as a whole: state, progress, declaration, plan, deletion.

use axum::Json;
use axum::http::StatusCode;
use lifecycle_core::api::wire::{AppliedV1, OperationV1, PlatformV1, ProgressV1};
use lifecycle_core::platform::Declaration;
use lifecycle_core::reconcile::{Plan, RecordedPlan};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Api;
use super::request::{self, Parameters, Whole};
use crate::auth::{Admin, Unlimited, Viewer};
use crate::problem::Problem;

/// `GET /v1/platform`.
pub(super) async fn show(_: Viewer, api: Api) -> Result<Json<PlatformV1>, Problem> {
    Ok(Json(api.manager.platform().await?))
}

/// The query of `GET /v1/progress`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WithPlan {
    /// Whether the response contains the plan; by default, it does.
    plan: Option<bool>,
}

/// `GET /v1/progress`: returns the progress, with the plan unless the query excludes the plan.
pub(super) async fn progress(
    _: Viewer,
    api: Api,
    Parameters(query): Parameters<WithPlan>,
) -> Result<Json<ProgressV1>, Problem> {
    Ok(Json(
        api.manager.progress(query.plan.unwrap_or(true)).await?,
    ))
}

fn read(body: &[u8]) -> Result<Declaration, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        request::unreadable_body(
            &error,
            "send a declaration that a bootstrapper of the same version as the manager created",
        )
    })
}

/// `PUT /v1/platform`: replaces the declaration.
pub(super) async fn apply(
    _: Unlimited<Admin>,
    api: Api,
    Whole(body): Whole,
) -> Result<Json<AppliedV1>, Problem> {
    let declaration = read(&body)?;
    Ok(Json(api.manager.apply(&declaration).await?))
}

/// `POST /v1/platform/plan`: returns what a declaration would change. Requires an admin token,
/// because a declaration may contain secrets.
pub(super) async fn plan(
    _: Unlimited<Admin>,
    api: Api,
    Whole(body): Whole,
) -> Result<Json<Plan>, Problem> {
    let candidate = read(&body)?;
    Ok(Json(api.manager.plan(&candidate).await?))
}

/// `GET /v1/platform/plan`: returns the latest plan and its input. Requires an admin token,
/// because the input contains the declaration.
pub(super) async fn recorded_plan(
    _: Unlimited<Admin>,
    api: Api,
) -> Result<Json<RecordedPlan>, Problem> {
    Ok(Json(api.manager.recorded_plan().await?))
}

/// The query of `DELETE /v1/platform`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeletePlatform {
    /// Whether to delete the named volumes.
    #[serde(default)]
    volumes: bool,
}

/// `DELETE /v1/platform`: begins to delete the platform.
pub(super) async fn delete_platform(
    _: Unlimited<Admin>,
    api: Api,
    Parameters(options): Parameters<DeletePlatform>,
) -> Result<(StatusCode, Json<OperationV1>), Problem> {
    let operation = api.manager.delete_platform(options.volumes).await?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}
