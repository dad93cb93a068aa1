//! Retries failed steps.

use axum::Json;
use axum::extract::State;
use lifecycle_core::api::wire::RetriedV1;

use super::Api;
use super::request::Segment;
use crate::auth::Admin;
use crate::problem::Problem;

/// `POST /v1/retry/{name}`: clears the failures of a service, a replica or a node.
pub(super) async fn run(
    _: Admin,
    State(api): State<Api>,
    Segment(name): Segment,
) -> Result<Json<RetriedV1>, Problem> {
    Ok(Json(api.manager.retry(&name).await?))
}
