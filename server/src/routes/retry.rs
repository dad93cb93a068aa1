//! What failed is tried again.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use lifecycle_core::api::wire::RetriedV1;
use lifecycle_core::api::{LocalApi, ManagerApi as _};
use lifecycle_core::manager::Manager;

use super::request::Segment;
use crate::auth::Admin;
use crate::problem::Problem;

/// Forgets the failures of a service, a replica or a node.
pub(super) async fn run(
    _: Admin,
    State(manager): State<Arc<Manager>>,
    Segment(name): Segment,
) -> Result<Json<RetriedV1>, Problem> {
    Ok(Json(LocalApi::new(manager).retry(&name).await?))
}
