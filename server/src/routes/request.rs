//! Extracts the parts of a request. Errors do not quote the request, which may contain secrets.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use hyper::body::Body as _;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::LARGEST_BODY;
use crate::openapi::{Input, Operation};
use crate::problem::Problem;

/// How long a client may take to send a body.
const BODY_WITHIN: Duration = Duration::from_mins(2);

/// The types of bodies, those for YAML under all their names. A body without a type is accepted, too.
const MEDIA_TYPES: [&str; 5] = [
    "application/json",
    "application/octet-stream",
    "application/yaml",
    "application/x-yaml",
    "text/yaml",
];

/// The query parameters.
#[derive(Debug)]
pub(super) struct Parameters<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query: Result<Query<T>, _> = Query::from_request_parts(parts, state).await;
        query
            .map(|Query(parameters)| Self(parameters))
            .map_err(|_| {
                Problem::bad_request(
                    "the query",
                    "a parameter has an invalid format",
                    "docs/api.md lists the parameters",
                )
            })
    }
}

impl<T: JsonSchema> Input for Parameters<T> {
    fn describe(operation: &mut Operation<'_>) {
        operation.query::<T>();
    }
}

/// The variable segment of the path.
#[derive(Debug)]
pub(super) struct Segment<T = String>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segment<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path: Result<Path<T>, _> = Path::from_request_parts(parts, state).await;
        path.map(|Path(segment)| Self(segment))
            .map_err(|_| Problem::bad_request("the path", "it is not UTF-8", "encode it as UTF-8"))
    }
}

impl<T> Input for Segment<T> {
    fn describe(operation: &mut Operation<'_>) {
        operation.segments();
    }
}

/// The whole body, of at most `LIMIT` bytes.
#[derive(Debug)]
pub(crate) struct Whole<const LIMIT: usize = LARGEST_BODY>(pub(crate) Bytes);

impl<S: Send + Sync, const LIMIT: usize> FromRequest<S> for Whole<LIMIT> {
    type Rejection = Problem;

    async fn from_request(mut request: Request, state: &S) -> Result<Self, Problem> {
        if !has_known_type(request.headers()) {
            return Err(Problem::unsupported_media_type());
        }
        if request.body().size_hint().lower() > LIMIT as u64 {
            return Err(Problem::too_large(LIMIT));
        }
        DefaultBodyLimit::max(LIMIT).apply(&mut request);
        let body = tokio::time::timeout(BODY_WITHIN, Bytes::from_request(request, state));
        let body = body.await.map_err(|_| Problem::too_slow(BODY_WITHIN))?;
        body.map(Self)
            .map_err(|rejection| rejected(&rejection, LIMIT))
    }
}

impl<const LIMIT: usize> Input for Whole<LIMIT> {
    fn describe(operation: &mut Operation<'_>) {
        for status in [400, 408, 413, 415] {
            operation.problem(status);
        }
    }
}

/// Returns whether the body has no type, or one that requests have.
fn has_known_type(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    types.all(|value| {
        let value = value.to_str().unwrap_or_default();
        let essence = value.split(';').next().unwrap_or_default().trim();
        MEDIA_TYPES
            .iter()
            .any(|known| essence.eq_ignore_ascii_case(known))
    })
}

/// Reads a JSON body that may be absent. `hint` names the accepted bodies.
pub(super) fn optional<T: DeserializeOwned>(body: &[u8], hint: &str) -> Result<Option<T>, Problem> {
    if body.is_empty() {
        return Ok(None);
    }
    let read = serde_json::from_slice(body);
    read.map(Some)
        .map_err(|error| unreadable_body(&error, hint))
}

/// Returns the problem for a body that cannot be parsed. The problem contains only the position of
/// the error, since the body may contain secrets.
pub(super) fn unreadable_body(error: &serde_json::Error, hint: &str) -> Problem {
    let why = format!(
        "it has an invalid format at line {}, column {}",
        error.line(),
        error.column()
    );
    Problem::bad_request("the body", why, hint)
}

fn rejected(rejection: &BytesRejection, limit: usize) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        Problem::too_large(limit)
    } else {
        Problem::bad_request(
            "the body",
            "the connection ended before the complete body was received",
            "send the request again",
        )
    }
}
