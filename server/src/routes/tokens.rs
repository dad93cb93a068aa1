//! Creates, lists and revokes tokens of the API.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use lifecycle_core::api::wire::{NewTokenV1, TokenV1};

use super::Api;
use super::request::{self, Segment, Whole};
use crate::auth::{Admin, Unlimited};
use crate::problem::Problem;

/// The largest body of a request for a new token, in bytes.
const LARGEST: usize = 4 << 10;

/// `GET /v1/tokens`.
pub(super) async fn list(_: Unlimited<Admin>, api: Api) -> Result<Json<Vec<TokenV1>>, Problem> {
    Ok(Json(api.manager.tokens().await?))
}

/// `POST /v1/tokens`: creates a token. Only this response contains the token itself.
pub(super) async fn create(
    _: Unlimited<Admin>,
    api: Api,
    Whole(body): Whole<LARGEST>,
) -> Result<Response, Problem> {
    let new: NewTokenV1 = serde_json::from_slice(&body).map_err(|error| {
        request::unreadable_body(
            &error,
            "send `{\"name\": \"ci\", \"role\": \"viewer\", \"expires_in\": 86400}`; the roles are \
             viewer, operator and admin, and `expires_in` (seconds) may be omitted",
        )
    })?;
    let created = api.manager.create_token(&new).await?;
    let headers = [(CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, headers, Json(created)).into_response())
}

/// `DELETE /v1/tokens/{name}`: revokes a token, named by its id or its name.
pub(super) async fn revoke(
    _: Unlimited<Admin>,
    api: Api,
    Segment(name): Segment,
) -> Result<Json<TokenV1>, Problem> {
    Ok(Json(api.manager.revoke_token(&name).await?))
}
