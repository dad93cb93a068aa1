//! Why something stands as it does.

use axum::Json;
use axum::extract::State;
use lifecycle_core::api::why::WhyV1;

use super::Api;
use super::request::Segment;
use crate::auth::Reader;
use crate::problem::Problem;

/// A service, a replica or a node.
pub(super) async fn show(
    _: Reader,
    State(api): State<Api>,
    Segment(name): Segment,
) -> Result<Json<WhyV1>, Problem> {
    Ok(Json(api.manager.why(&name).await?))
}
