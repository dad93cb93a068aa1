//! Explains the state of a service, a replica or a node.

use axum::Json;
use lifecycle_core::api::why::WhyV1;

use super::Api;
use super::request::Segment;
use crate::auth::Viewer;
use crate::problem::Problem;

/// `GET /v1/why/{name}`.
pub(super) async fn show(
    _: Viewer,
    api: Api,
    Segment(name): Segment,
) -> Result<Json<WhyV1>, Problem> {
    Ok(Json(api.manager.why(&name).await?))
}
