//! Lists and restarts the nodes of the platform.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use lifecycle_core::api::wire::{NodeV1, OperationV1, RestartNodeV1};

use super::Api;
use super::request::{Segment, Whole, optional};
use crate::auth::{Operator, Viewer};
use crate::problem::Problem;

/// `GET /v1/nodes`.
pub(super) async fn list(_: Viewer, State(api): State<Api>) -> Result<Json<Vec<NodeV1>>, Problem> {
    Ok(Json(api.manager.nodes().await?))
}

/// `POST /v1/nodes/{name}/restart`: begins to restart a node.
pub(super) async fn restart(
    _: Operator,
    State(api): State<Api>,
    Segment(name): Segment,
    Whole(body): Whole,
) -> Result<(StatusCode, Json<OperationV1>), Problem> {
    let request: Option<RestartNodeV1> = optional(&body, "send `{\"boot_id\": …}`, or nothing")?;
    let operation = api
        .manager
        .restart_node(&name, &request.unwrap_or_default())
        .await?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}
