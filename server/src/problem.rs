//! Converts errors to HTTP responses (`docs/api.md`). Only a client with an admin token receives errors
//! that may contain internals of the platform.

use std::time::Duration;

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use lifecycle_core::api::problem::{self, ProblemV1};
use lifecycle_core::manager::Caller;
use lifecycle_core::model::{TokenRole, TokenScope};
use lifecycle_core::{Error, Retry};

/// An error that ends a request.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    error: Error,
    /// How long the client should wait before its next request.
    retry_after: Option<Duration>,
}

/// A response extension: the status and the error to send to a client that is not an admin.
#[derive(Debug, Clone)]
struct WithoutDetails(StatusCode, ProblemV1);

impl Problem {
    fn new(status: StatusCode, error: Error) -> Self {
        Self {
            status,
            error,
            retry_after: None,
        }
    }

    pub(crate) fn unauthorized(path: &str) -> Self {
        let error = Error::denied(
            path,
            "the request has no valid token",
            "send `Authorization: Bearer <token>` with a token that is neither expired nor revoked; \
             `bootstrapper` uses the token in LIFECYCLE_TOKEN, if it is set; if the tokens were replaced \
             (`bootstrapper rotate`), copy the platform's directory from the machine that replaced them",
        );
        Self::new(StatusCode::UNAUTHORIZED, error)
    }

    pub(crate) fn unauthorized_too_often(path: &str, after: Duration) -> Self {
        let error = Error::denied(
            path,
            "the request has no valid token, and too many requests from this address had none",
            "stop the client that sends them, or give it a valid token",
        );
        Self {
            retry_after: Some(after),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, error)
        }
    }

    pub(crate) fn forbidden(path: &str, role: TokenRole, needed: TokenRole) -> Self {
        let why =
            format!("the token has the role {role}, but this request needs the role {needed}");
        let hint =
            format!("use a token with the role {needed}; `bootstrapper token create` creates one");
        Error::forbidden(path, why, hint).into()
    }

    pub(crate) fn beyond_scope(path: &str, scope: &TokenScope) -> Self {
        let why = format!("the token is limited to {scope}");
        Error::forbidden(path, why, "use a token without a scope").into()
    }

    /// Converts an error about events. The status is 410 if the events after the cursor are no
    /// longer stored.
    pub(crate) fn gone(error: Error) -> Self {
        match error {
            error @ Error::NotFound { .. } => Self::new(StatusCode::GONE, error),
            error => error.into(),
        }
    }

    pub(crate) fn bad_request(
        what: impl Into<String>,
        why: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Error::invalid(what, why, hint))
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let error = Error::invalid(
            "the request's body",
            format!("it is larger than {limit} bytes"),
            "store large files in images or volumes",
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, error)
    }

    pub(crate) fn too_slow(within: Duration) -> Self {
        let error = Error::invalid(
            "the request's body",
            format!("it was not complete within {within:?}"),
            "send the request again, over a faster connection",
        );
        Self::new(StatusCode::REQUEST_TIMEOUT, error)
    }

    pub(crate) fn unsupported_media_type() -> Self {
        let error = Error::invalid(
            "the request's Content-Type",
            "no request has a body of this type",
            "send `Content-Type: application/json`; docs/openapi.json lists the types of each request",
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error)
    }

    /// Converts the error about a limit for the caller's token.
    pub(crate) fn too_many(error: Error) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, error)
    }

    pub(crate) fn method_not_allowed(method: &str, path: &str) -> Self {
        let error = Error::unsupported(format!("{method} {path}"), "the manager's API");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, error)
    }
}

impl Problem {
    /// Returns the document for a caller, outside a response.
    pub(crate) fn document(self, caller: &Caller) -> ProblemV1 {
        let shows_details = caller.role == TokenRole::Admin && caller.scope.is_none();
        let internal = problem::without_details(&self.error).filter(|_| !shows_details);
        match internal.filter(|_| !self.is_about_token()) {
            Some(shown) => ProblemV1::new(problem::status(&shown), &shown),
            None => ProblemV1::new(self.status, &self.error),
        }
    }

    /// Returns whether the problem concerns the client's own token. Such a problem contains no internals.
    fn is_about_token(&self) -> bool {
        matches!(
            self.status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
        )
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        if problem::without_details(&error).is_some() {
            match error.retry() {
                Retry::After(_) => {
                    tracing::warn!(error = %error.chain(), "a request cannot be served at the moment");
                }
                Retry::Replan | Retry::Never => {
                    tracing::error!(error = %error.chain(), "a request failed");
                }
            }
        }
        Self::new(problem::status(&error), error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = respond(self.status, ProblemV1::new(self.status, &self.error));
        if let Some(after) = self.retry_after {
            // At least one second, and not before the time is over.
            let seconds = HeaderValue::from(after.as_secs() + 1);
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        if !self.is_about_token()
            && let Some(shown) = problem::without_details(&self.error)
        {
            let status = problem::status(&shown);
            let shown = WithoutDetails(status, ProblemV1::new(status, &shown));
            response.extensions_mut().insert(shown);
        }
        response
    }
}

/// Replaces a response that contains an internal error with one that points to the manager's log.
pub(crate) fn without_details(mut response: Response) -> Response {
    match response.extensions_mut().remove::<WithoutDetails>() {
        Some(WithoutDetails(status, problem)) => respond(status, problem),
        None => response,
    }
}

fn respond(status: StatusCode, body: ProblemV1) -> Response {
    let mut response = (status, Json(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    match status {
        StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        StatusCode::UNAUTHORIZED => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ => {}
    }
    response
}
