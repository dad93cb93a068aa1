//! Changes what is declared at run time: scales, stops and starts services, lists and exports these
//! overrides, and removes them.

use axum::Json;
use axum::http::StatusCode;
use lifecycle_core::api::wire::{AppliedV1, ExportV1, OverrideV1, ScaleV1};
use lifecycle_core::platform::OverrideChange;

use super::Api;
use super::request::{Segment, Whole, unreadable_body};
use crate::auth::{Admin, Operator, Unlimited, Viewer};
use crate::problem::Problem;

/// The largest body of a request, in bytes.
const LARGEST: usize = 4 << 10;

type Response = Result<(StatusCode, Json<AppliedV1>), Problem>;

/// `GET /v1/overrides`.
pub(super) async fn list(_: Viewer, api: Api) -> Result<Json<Vec<OverrideV1>>, Problem> {
    Ok(Json(api.manager.overrides().await?))
}

/// `GET /v1/export`.
pub(super) async fn export(_: Unlimited<Admin>, api: Api) -> Result<Json<ExportV1>, Problem> {
    Ok(Json(api.manager.export().await?))
}

/// `DELETE /v1/overrides/{id}`.
pub(super) async fn remove(_: Operator, api: Api, Segment(id): Segment) -> Response {
    let applied = api.manager.remove_override(&id).await?;
    Ok((StatusCode::ACCEPTED, Json(applied)))
}

/// `POST /v1/services/{name}/scale`.
pub(super) async fn scale(
    _: Operator,
    api: Api,
    Segment(name): Segment,
    Whole(body): Whole<LARGEST>,
) -> Response {
    let ScaleV1 { replicas } = serde_json::from_slice(&body)
        .map_err(|error| unreadable_body(&error, "send `{\"replicas\": 3}`"))?;
    change(&api, &name, OverrideChange::Scale(replicas)).await
}

/// `POST /v1/services/{name}/stop`.
pub(super) async fn stop(_: Operator, api: Api, Segment(name): Segment) -> Response {
    change(&api, &name, OverrideChange::Stop).await
}

/// `POST /v1/services/{name}/start`.
pub(super) async fn start(_: Operator, api: Api, Segment(name): Segment) -> Response {
    change(&api, &name, OverrideChange::Start).await
}

async fn change(api: &Api, name: &str, change: OverrideChange) -> Response {
    let applied = api.manager.override_service(name, change).await?;
    Ok((StatusCode::ACCEPTED, Json(applied)))
}
