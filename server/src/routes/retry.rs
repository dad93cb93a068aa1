//! Retries failed steps.

use axum::Json;
use lifecycle_core::api::wire::RetriedV1;

use lifecycle_core::reconcile::RetryOptions;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Api;
use super::request::{Parameters, Segment};
use crate::auth::Operator;
use crate::problem::Problem;

/// The query of `POST /v1/retry/{name}`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    /// Whether to create empty volumes in place of those that vanished.
    #[serde(default)]
    recreate_volumes: bool,
}

/// `POST /v1/retry/{name}`: clears the failures of a service, a replica or a node.
pub(super) async fn run(
    _: Operator,
    api: Api,
    Segment(name): Segment,
    Parameters(options): Parameters<Options>,
) -> Result<Json<RetriedV1>, Problem> {
    let options = RetryOptions {
        recreate_volumes: options.recreate_volumes,
    };
    Ok(Json(api.manager.retry(&name, options).await?))
}
