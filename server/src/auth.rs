//! Authenticates requests by their bearer tokens, and checks that the token's role permits the
//! request.

use std::net::IpAddr;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use lifecycle_core::Error;
use lifecycle_core::manager::{Actor, Caller};
use lifecycle_core::model::TokenRole;
use lifecycle_core::secret::Sensitive;

use tracing::Instrument as _;

use crate::idempotency::with_key;
use crate::metrics::Unauthenticated;
use crate::openapi::{Input, Operation};
use crate::problem::{self, Problem};
use crate::routes::Api;

/// The address that a request came from. Every connection adds it to its requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Extracted from a request with any valid token.
#[derive(Debug, Clone)]
pub(crate) struct Viewer(pub(crate) Caller);

/// Extracted from a request with an operator token or an admin token.
#[derive(Debug, Clone)]
pub(crate) struct Operator;

/// Extracted from a request with an admin token.
#[derive(Debug, Clone)]
pub(crate) struct Admin(pub(crate) Caller);

/// Extracted from a request with a token for the role `R` that has no scope.
#[derive(Debug, Clone)]
pub(crate) struct Unlimited<R>(pub(crate) R);

/// Returns the caller, if its role includes `needed`.
fn caller(parts: &Parts, needed: TokenRole) -> Result<Caller, Problem> {
    let path = parts.uri.path();
    // Set by `authenticate`.
    let caller = parts.extensions.get::<Caller>();
    let caller = caller.ok_or_else(|| Problem::unauthorized(path))?;
    if caller.role < needed {
        return Err(Problem::forbidden(path, caller.role, needed));
    }
    Ok(caller.clone())
}

impl<S: Send + Sync> FromRequestParts<S> for Viewer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        caller(parts, TokenRole::Viewer).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        caller(parts, TokenRole::Operator).map(|_| Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        caller(parts, TokenRole::Admin).map(Self)
    }
}

impl<S: Send + Sync, R: FromRequestParts<S, Rejection = Problem>> FromRequestParts<S>
    for Unlimited<R>
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let permitted = R::from_request_parts(parts, state).await?;
        let caller = parts.extensions.get::<Caller>();
        match caller.and_then(|caller| caller.scope.as_ref()) {
            None => Ok(Self(permitted)),
            Some(scope) => Err(Problem::beyond_scope(parts.uri.path(), scope)),
        }
    }
}

impl<R: Input> Input for Unlimited<R> {
    fn describe(operation: &mut Operation<'_>) {
        R::describe(operation);
    }
}

impl Input for Viewer {
    fn describe(operation: &mut Operation<'_>) {
        operation.role(TokenRole::Viewer);
    }
}

impl Input for Operator {
    fn describe(operation: &mut Operation<'_>) {
        operation.role(TokenRole::Operator);
    }
}

impl Input for Admin {
    fn describe(operation: &mut Operation<'_>) {
        operation.role(TokenRole::Admin);
    }
}

/// Carries out a request for a change to its end, even if the client disconnects meanwhile: a change may be
/// recorded, but not passed to the control loop yet.
async fn uncancelled(work: impl Future<Output = Response> + Send + 'static) -> Response {
    match tokio::spawn(work.in_current_span()).await {
        Ok(response) => response,
        Err(error) => {
            Problem::from(Error::failed("the request", error.to_string())).into_response()
        }
    }
}

/// Rejects a request without a valid token before the path is examined, so that the response
/// reveals no paths. Hides the details of internal errors from everybody but admins without a scope.
pub(crate) async fn authenticate(
    State(api): State<Api>,
    mut request: Request,
    next: Next,
) -> Response {
    let value = request.headers().get(AUTHORIZATION);
    let token = value
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(|token| Sensitive::new(token.trim()));
    let found = match token {
        Some(token) => api.tokens.authenticate(&token).await,
        None => Ok(None),
    };
    let caller = match found {
        Ok(Some(caller)) => caller,
        Ok(None) => {
            let path = request.uri().path();
            let address = request.extensions().get::<Peer>().map(|peer| peer.0);
            let mut response = match api.tokens.deny(address) {
                None => Problem::unauthorized(path).into_response(),
                Some(after) => Problem::unauthorized_too_often(path, after).into_response(),
            };
            response.extensions_mut().insert(Unauthenticated);
            return response;
        }
        Err(error) => return problem::without_details(Problem::from(error).into_response()),
    };
    let is_unlimited_admin = caller.role == TokenRole::Admin && caller.scope.is_none();
    let response = if request.method().is_safe() {
        request.extensions_mut().insert(caller);
        next.run(request).await
    } else {
        let peer = request.extensions().get::<Peer>();
        let actor = Actor::Token {
            caller: caller.clone(),
            peer: peer.map(|peer| peer.0),
        };
        request.extensions_mut().insert(caller);
        uncancelled(actor.perform(with_key(request, next))).await
    };
    if is_unlimited_admin {
        response
    } else {
        problem::without_details(response)
    }
}
