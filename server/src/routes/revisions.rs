//! Lists the revisions, and returns to an earlier one.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use lifecycle_core::Error;
use lifecycle_core::api::wire::RevisionV1;
use lifecycle_core::model::Generation;
use lifecycle_core::platform::RestoredSecrets;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Api;
use super::request::{Parameters, Segment};
use crate::auth::{Admin, Unlimited, Viewer};
use crate::problem::Problem;

/// The query of `POST /v1/revisions/{generation}/rollback`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    /// Whether to restore also values that may be secrets.
    #[serde(default)]
    with_secrets: bool,
    /// Whether to return the plan, and to change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// `GET /v1/revisions`.
pub(super) async fn list(_: Unlimited<Viewer>, api: Api) -> Result<Json<Vec<RevisionV1>>, Problem> {
    Ok(Json(api.manager.revisions().await?))
}

/// `POST /v1/revisions/{generation}/rollback`.
pub(super) async fn rollback(
    _: Unlimited<Admin>,
    api: Api,
    Segment(generation): Segment,
    Parameters(options): Parameters<Options>,
) -> Result<Response, Problem> {
    let number = generation.parse();
    let to = number.map_err(|_| Error::not_found(format!("revision {generation}")))?;
    let to = Generation(to);
    let secrets = if options.with_secrets {
        RestoredSecrets::Earlier
    } else {
        RestoredSecrets::Current
    };
    if options.dry_run {
        return Ok(Json(api.manager.plan_rollback(to, secrets).await?).into_response());
    }
    let done = api.manager.rollback(to, secrets).await?;
    Ok((StatusCode::ACCEPTED, Json(done)).into_response())
}
