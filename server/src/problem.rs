//! Errors as problems (RFC 9457). What is the server's own trouble is told in its log, once,
//! and outside only that it happened.

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use lifecycle_core::Error;
use lifecycle_core::api::wire::ProblemV1;

/// An error on its way out.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: Option<String>,
    hint: Option<String>,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str) -> Self {
        Self {
            status,
            kind,
            title,
            detail: None,
            hint: None,
        }
    }

    pub(crate) fn unauthorized() -> Self {
        let mut problem = Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "a credential is needed",
        );
        problem.hint = Some("send `Authorization: Bearer <token>`".into());
        problem
    }

    pub(crate) fn forbidden() -> Self {
        let mut problem = Self::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "this credential only reads",
        );
        problem.hint = Some("use the admin token".into());
        problem
    }

    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::NOT_FOUND, "not-found", "not found");
        problem.detail = Some(what.into());
        problem
    }

    pub(crate) fn gone(detail: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::GONE, "gone", "not kept any longer");
        problem.detail = Some(detail.into());
        problem.hint = Some("begin at `after=latest`, or at 0 for all that is kept".into());
        problem
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::BAD_REQUEST, "bad-request", "bad request");
        problem.detail = Some(detail.into());
        problem
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let mut problem = Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "the body is too large",
        );
        problem.detail = Some(format!("a declaration may have {limit} bytes"));
        problem
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "this path has no such method",
        )
    }

    pub(crate) fn not_ready(detail: impl Into<String>) -> Self {
        let mut problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "converging",
            "not all services are ready",
        );
        problem.detail = Some(detail.into());
        problem
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let hint = error.hint().map(str::to_owned);
        let mut problem = match &error {
            Error::NotFound { .. } => Self::new(StatusCode::NOT_FOUND, "not-found", "not found"),
            Error::Conflict { .. } => Self::new(StatusCode::CONFLICT, "conflict", "conflict"),
            Error::Invalid { .. } | Error::Name(_) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid",
                "this cannot be used",
            ),
            Error::Throttled { .. } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "not available at the moment",
            ),
            Error::Unreachable { .. } | Error::TimedOut { .. } | Error::Overdue { .. } => {
                tracing::warn!(error = %error.chain(), "a request could not be served");
                return Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "unavailable",
                    "the manager does not reach what it needs at the moment; its log says what",
                );
            }
            Error::StaleEpoch { .. } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "not-leading",
                "another manager leads",
            ),
            _ => {
                tracing::error!(error = %error.chain(), "a request failed");
                return Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal",
                    "the manager failed; its log says why",
                );
            }
        };
        problem.detail = Some(error.chain());
        problem.hint = hint;
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = ProblemV1 {
            kind: self.kind.to_owned(),
            title: self.title.to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
            hint: self.hint,
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        match self.status {
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
}
