//! Why something stands as it does.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use lifecycle_core::api::why::WhyV1;
use lifecycle_core::api::{LocalApi, ManagerApi as _};
use lifecycle_core::manager::Manager;

use super::request::Segment;
use crate::auth::Reader;
use crate::problem::Problem;

/// A service, a replica or a node.
pub(super) async fn show(
    _: Reader,
    State(manager): State<Arc<Manager>>,
    Segment(name): Segment,
) -> Result<Json<WhyV1>, Problem> {
    Ok(Json(LocalApi::new(manager).why(&name).await?))
}
