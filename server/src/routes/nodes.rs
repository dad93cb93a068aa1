//! Lists the nodes of the platform.

use axum::Json;
use axum::extract::State;
use lifecycle_core::api::wire::NodeV1;

use super::Api;
use crate::auth::Viewer;
use crate::problem::Problem;

/// `GET /v1/nodes`.
pub(super) async fn list(_: Viewer, State(api): State<Api>) -> Result<Json<Vec<NodeV1>>, Problem> {
    Ok(Json(api.manager.nodes().await?))
}
