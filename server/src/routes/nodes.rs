//! Nodes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use lifecycle_core::api::wire::NodeV1;
use lifecycle_core::api::{LocalApi, ManagerApi as _};
use lifecycle_core::manager::Manager;

use crate::auth::Reader;
use crate::problem::Problem;

/// All nodes.
pub(super) async fn list(
    _: Reader,
    State(manager): State<Arc<Manager>>,
) -> Result<Json<Vec<NodeV1>>, Problem> {
    Ok(Json(LocalApi::new(manager).nodes().await?))
}
