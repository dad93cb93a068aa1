//! Applies faults to requests, as a middleware.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use serde_json::{Value, json};

use super::{Fault, Faults, Injected};
use crate::simulator::listener::broken;

pub(crate) async fn inject(
    State(faults): State<Faults>,
    mut request: Request,
    next: Next,
) -> Response {
    let mut injected = Injected::default();
    let mut slow = Duration::ZERO;
    let mut answer_lost = false;
    for fault in faults.strike(request.method(), request.uri().path()) {
        tracing::debug!(?fault, path = request.uri().path(), "injecting a fault");
        match fault {
            Fault::Throttled { retry_after } => return throttled(&request, retry_after),
            Fault::Answer {
                status,
                headers,
                body,
            } => return answer(status, &headers, body),
            Fault::Dropped => return broken(),
            Fault::AnswerLost => answer_lost = true,
            Fault::SlowAnswer(by) => slow += by,
            Fault::SlowOperation(by) => injected.slow += by,
            Fault::OperationFails { code, message } => injected.fails = Some((code, message)),
            Fault::AllocationFailed => injected.allocation_fails = true,
            Fault::QuotaExceeded => injected.quota_exceeded = true,
            Fault::NeverEnds => injected.never_ends = true,
        }
    }
    request.extensions_mut().insert(injected);
    let response = next.run(request).await;
    if !slow.is_zero() {
        tokio::time::sleep(slow).await;
    }
    if answer_lost { broken() } else { response }
}

fn answer(status: StatusCode, headers: &[(&'static str, String)], body: String) -> Response {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(*name, value);
    }
    builder
        .body(Body::from(body))
        .unwrap_or_else(|error| unusable(&error))
}

/// Logs the error and closes the connection. The test specified a header that HTTP cannot
/// represent.
fn unusable(error: &axum::http::Error) -> Response {
    tracing::error!(%error, "a fault's response cannot be sent");
    broken()
}

/// Returns the body of a response with status 429. The compute service omits the envelope, and uses
/// the code for an exceeded quota.
pub(crate) fn throttled_body(compute: bool, retry_after: Duration) -> Value {
    let seconds = retry_after.as_secs();
    if compute {
        let limit = json!({"operationGroup": "PutVM", "allowedRequestCount": 0}).to_string();
        json!({
            "code": "OperationNotAllowed",
            "message": "The server rejected the request because too many requests have been received \
                        for this subscription.",
            "details": [{"code": "TooManyRequests", "target": "PutVM", "message": limit}],
        })
    } else {
        let message = format!(
            "Number of requests exceeded the limit. Please try again after '{seconds}' seconds."
        );
        json!({"error": {"code": "SubscriptionRequestsThrottled", "message": message}})
    }
}

fn throttled(request: &Request, retry_after: Duration) -> Response {
    let path = request.uri().path().to_lowercase();
    let body = if path.starts_with("/metadata/") || path.ends_with("/token") {
        json!({"error": "too_many_requests", "error_description": "Too many requests"})
    } else {
        throttled_body(path.contains("/providers/microsoft.compute/"), retry_after)
    };
    answer(
        StatusCode::TOO_MANY_REQUESTS,
        &[
            ("content-type", "application/json; charset=utf-8".into()),
            ("retry-after", retry_after.as_secs().to_string()),
        ],
        body.to_string(),
    )
}
