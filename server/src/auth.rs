//! Checks the bearer token of a request, and determines the access that the token grants.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use lifecycle_core::manager::Access;
use lifecycle_core::secret::Sensitive;

use crate::problem::{self, Problem};
use crate::routes::Api;

/// Extracted from a request with any valid token: the request may read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader(pub(crate) Access);

/// Extracted from a request with the admin token: the request may change the platform.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admin;

fn access(parts: &Parts, api: &Api) -> Result<Access, Problem> {
    parts
        .headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .and_then(|token| api.tokens.access(&Sensitive::new(token.trim())))
        .ok_or_else(|| Problem::unauthorized(parts.uri.path()))
}

impl FromRequestParts<Api> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        access(parts, api).map(Self)
    }
}

impl FromRequestParts<Api> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        match access(parts, api)? {
            Access::Admin => Ok(Self),
            Access::Read => Err(Problem::forbidden(parts.uri.path())),
        }
    }
}

/// Rejects a request without a valid token before the path is examined, so that the response
/// reveals no paths. Hides the details of internal errors from clients with the read token.
pub(crate) async fn require_credential(
    State(api): State<Api>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let access = access(&parts, &api)?;
    let response = next.run(Request::from_parts(parts, body)).await;
    Ok(match access {
        Access::Admin => response,
        Access::Read => problem::for_reader(response),
    })
}
