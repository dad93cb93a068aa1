//! Reports the progress of operations, such as a restart or the deletion of the platform, and cancels them.

use axum::Json;
use axum::http::StatusCode;
use lifecycle_core::api::wire::OperationV1;
use lifecycle_core::model::OperationId;

use super::Api;
use super::request::Segment;
use crate::auth::{Operator, Viewer};
use crate::problem::Problem;

/// `GET /v1/operations`.
pub(super) async fn list(_: Viewer, api: Api) -> Result<Json<Vec<OperationV1>>, Problem> {
    Ok(Json(api.manager.operations().await?))
}

/// `GET /v1/operations/{id}`.
pub(super) async fn show(
    _: Viewer,
    api: Api,
    Segment(id): Segment,
) -> Result<Json<OperationV1>, Problem> {
    Ok(Json(api.manager.operation(parsed(id)?).await?))
}

/// `POST /v1/operations/{id}/cancel`.
pub(super) async fn cancel(
    _: Operator,
    api: Api,
    Segment(id): Segment,
) -> Result<(StatusCode, Json<OperationV1>), Problem> {
    let operation = api.manager.cancel(parsed(id)?).await?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

fn parsed(id: String) -> Result<OperationId, Problem> {
    serde_json::from_value(serde_json::Value::String(id)).map_err(|_| {
        let why = "it is not a UUID";
        Problem::bad_request(
            "the operation's id",
            why,
            "send the id from the first response",
        )
    })
}
