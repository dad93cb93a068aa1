//! Who may do what: a bearer token is the admin's or the readers', or the request ends here.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use lifecycle_core::manager::{Access, Manager};
use lifecycle_core::secret::Sensitive;

use crate::problem::Problem;

/// Proof that the request may read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader;

/// Proof that the request may change things.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admin;

fn access(parts: &Parts, manager: &Manager) -> Result<Access, Problem> {
    parts
        .headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .and_then(|token| manager.authorize(&Sensitive::new(token.trim())))
        .ok_or_else(Problem::unauthorized)
}

impl FromRequestParts<Arc<Manager>> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut Parts,
        manager: &Arc<Manager>,
    ) -> Result<Self, Problem> {
        access(parts, manager).map(|_| Self)
    }
}

impl FromRequestParts<Arc<Manager>> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut Parts,
        manager: &Arc<Manager>,
    ) -> Result<Self, Problem> {
        match access(parts, manager)? {
            Access::Admin => Ok(Self),
            Access::Read => Err(Problem::forbidden()),
        }
    }
}

/// Refuses a request without a credential before its path is looked at, so that paths tell
/// nothing.
pub(crate) async fn require_credential(
    State(manager): State<Arc<Manager>>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Result<axum::response::Response, Problem> {
    let (parts, body) = request.into_parts();
    access(&parts, &manager)?;
    Ok(next
        .run(axum::extract::Request::from_parts(parts, body))
        .await)
}
