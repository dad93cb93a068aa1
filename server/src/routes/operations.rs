//! Operations.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use lifecycle_core::api::wire::OperationV1;
use lifecycle_core::api::{LocalApi, ManagerApi as _};
use lifecycle_core::manager::Manager;
use lifecycle_core::model::OperationId;

use super::request::Segment;
use crate::auth::Reader;
use crate::problem::Problem;

/// One operation.
pub(super) async fn show(
    _: Reader,
    State(manager): State<Arc<Manager>>,
    Segment(id): Segment,
) -> Result<Json<OperationV1>, Problem> {
    let id: OperationId = serde_json::from_value(serde_json::Value::String(id))
        .map_err(|_| Problem::bad_request("an operation's id is a UUID"))?;
    Ok(Json(LocalApi::new(manager).operation(id).await?))
}
