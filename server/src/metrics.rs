//! The metrics that `GET /metrics` returns: those of the manager, and the durations of requests to the
//! API.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use lifecycle_core::manager::Manager;
use lifecycle_core::metrics::{Family, Metric, Recorder, SHORT};
use tokio::time::Instant;

use crate::routes::Api;
use crate::telemetry::in_request_span;

static REQUESTS: Metric = Metric::histogram(
    "lifecycle_http_request_duration_seconds",
    &["operation", "status"],
    SHORT,
    "How long it takes until the API responds; of a stream, until it begins; `operation` is the method \
     and the template of the path, `unauthenticated`, or `unknown`; `status` is the class, such as `2xx`",
);

/// The response extension of a request without a valid token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unauthenticated;

/// The sources of the metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    requests: Arc<Recorder>,
    /// `None` if a program other than a manager answers the requests.
    manager: Option<Arc<Manager>>,
}

impl Metrics {
    /// Creates the metrics of an API that serves `manager`.
    pub(crate) fn of(manager: Arc<Manager>) -> Self {
        Self {
            requests: Arc::default(),
            manager: Some(manager),
        }
    }

    /// Returns all metrics.
    pub(crate) fn families(&self) -> Vec<Family> {
        let manager = self.manager.iter();
        let mut families: Vec<Family> = manager.flat_map(|manager| manager.metrics()).collect();
        families.push(self.requests.family(&REQUESTS));
        families
    }
}

/// Handles a request in its span, and measures it. Its labels are bounded: neither the path nor any method
/// that a client invents is one of them.
pub(crate) async fn measure(State(api): State<Api>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let matched = request.extensions().get::<MatchedPath>();
    let operation = matched.and_then(|path| operation(request.method(), path.as_str()));
    let response = in_request_span(request, next).await;
    let status = response.status();
    let operation = match &operation {
        _ if response.extensions().get::<Unauthenticated>().is_some() => "unauthenticated",
        Some(operation) if status != StatusCode::METHOD_NOT_ALLOWED => operation.as_str(),
        _ => "unknown",
    };
    let labels = [operation, class(status)];
    let recorder = &api.metrics.requests;
    recorder.observe(&REQUESTS, &labels, begun.elapsed());
    response
}

/// Returns the operation of a request, if the API may have it.
fn operation(method: &Method, template: &str) -> Option<String> {
    let methods = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
    ];
    let is_known = methods.contains(method);
    is_known.then(|| format!("{method} {template}"))
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}
