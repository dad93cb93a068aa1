//! The API's routes, a file for each noun.

mod events;
mod exec;
mod health;
mod nodes;
mod operations;
mod platform;
mod request;
mod retry;
mod services;
#[cfg(test)]
mod tests;
mod why;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Router, middleware};
use lifecycle_core::manager::Manager;

use crate::auth::require_credential;
use crate::problem::Problem;

/// The largest declaration that is taken, in bytes.
const LARGEST_BODY: usize = 64 << 20;

/// All routes.
pub(crate) fn router(manager: Arc<Manager>) -> Router {
    let v1 = Router::new()
        .route(
            "/v1/platform",
            get(platform::show)
                .put(platform::apply)
                .delete(platform::take_down),
        )
        .route(
            "/v1/platform/plan",
            get(platform::recorded_plan).post(platform::plan),
        )
        .route("/v1/nodes", get(nodes::list))
        .route("/v1/services", get(services::list))
        .route("/v1/services/{name}/endpoints", get(services::endpoints))
        .route("/v1/services/{name}/logs", get(services::logs))
        .route("/v1/services/{name}/restart", post(services::restart))
        .route("/v1/services/{name}/exec", post(exec::run))
        .route("/v1/events", get(events::list))
        .route("/v1/why/{name}", get(why::show))
        .route("/v1/retry/{name}", post(retry::run))
        .route("/v1/progress", get(platform::progress))
        .route("/v1/operations/{id}", get(operations::show))
        .fallback(|| async { Problem::not_found("no such path") })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&manager),
            change_nothing_while_converging,
        ))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&manager),
            require_credential,
        ));
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .merge(v1)
        .with_state(manager)
}

/// Until the first round has ended, whatever changes anything is told to wait. Except the
/// declaration itself, or a bad one could never be corrected; a retry, since what failed is what it
/// waits for; a plan changes nothing, and a command in a container nothing that the platform knows of.
async fn change_nothing_while_converging(
    State(manager): State<Arc<Manager>>,
    request: Request,
    next: middleware::Next,
) -> Result<Response, Problem> {
    let path = request.uri().path();
    let may_come_early = matches!(path, "/v1/platform" | "/v1/platform/plan")
        || path.starts_with("/v1/retry/")
        || path.ends_with("/exec");
    if manager.is_open() || may_come_early || request.method().is_safe() {
        return Ok(next.run(request).await);
    }
    Err(Problem::not_ready("the platform converges"))
}
