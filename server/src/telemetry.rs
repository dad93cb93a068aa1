//! The manager's log: one line of JSON per event on standard error, which Docker collects. Each
//! line contains the spans of its event.

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};
use tracing_subscriber::EnvFilter;

/// Starts logging. `RUST_LOG` sets the filter.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new("info,russh=warn,sqlx=warn,sea_orm_migration=warn,hyper=warn")
    });
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

/// Handles a request in a span with its method, the template of its path, and the status of the
/// response. The actual path and the query are not logged, since they may contain secrets.
pub(crate) async fn in_request_span(request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>();
    let path = matched.map(MatchedPath::as_str);
    let span = tracing::info_span!("request", method = %request.method(), path, status = Empty);
    let respond = async move {
        let response = next.run(request).await;
        Span::current().record("status", response.status().as_u16());
        tracing::debug!("responded");
        response
    };
    respond.instrument(span).await
}
