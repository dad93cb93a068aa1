//! Reads the key of a request that its client may repeat: the header `Idempotency-Key`.

use axum::body::Body;
use axum::extract::{FromRequest as _, Request};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use lifecycle_core::manager::{Caller, KeyedRequest};

use crate::problem::Problem;
use crate::routes::Whole;

const HEADER: &str = "idempotency-key";

/// The longest key, in bytes.
const LONGEST: usize = 255;

/// Carries out a request with a key such that a repetition gets the recorded answer. Runs after the
/// authentication.
pub(crate) async fn with_key(request: Request, next: Next) -> Response {
    if request.method().is_safe() || !request.headers().contains_key(HEADER) {
        return next.run(request).await;
    }
    match keyed(request).await {
        Ok((keyed, request)) => keyed.perform(next.run(request)).await,
        Err(problem) => problem.into_response(),
    }
}

async fn keyed(request: Request) -> Result<(KeyedRequest, Request), Problem> {
    let key = key(request.headers())?.to_owned();
    let path = request.uri().path();
    // Set by the authentication.
    let caller = request.extensions().get::<Caller>();
    let client = caller
        .ok_or_else(|| Problem::unauthorized(path))?
        .token
        .clone();
    let (parts, body) = request.into_parts();
    let Whole(body): Whole =
        Whole::from_request(Request::from_parts(parts.clone(), body), &()).await?;
    let uri = parts.uri.path_and_query().map_or("", |uri| uri.as_str());
    let contents = [parts.method.as_str().as_bytes(), uri.as_bytes(), &body];
    let keyed = KeyedRequest::new(client.as_str(), &key, &contents);
    Ok((keyed, Request::from_parts(parts, Body::from(body))))
}

fn key(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut values = headers.get_all(HEADER).iter();
    let key = values.next().filter(|_| values.next().is_none());
    let is_valid = |key: &&str| !key.is_empty() && key.len() <= LONGEST;
    key.and_then(|key| key.to_str().ok())
        .filter(is_valid)
        .ok_or_else(|| {
            Problem::bad_request(
                "the Idempotency-Key",
                format!("it is not one text of 1 to {LONGEST} visible ASCII characters"),
                "send a random UUID",
            )
        })
}
