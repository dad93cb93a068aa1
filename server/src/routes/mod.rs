//! The API's routes, one file per type of resource. The routes only translate between HTTP and
//! [`ManagerApi`].

mod chunks;
mod classes;
mod endpoints;
mod events;
mod exec;
mod health;
mod image_logins;
mod metrics;
mod nodes;
mod operations;
mod overrides;
mod platform;
mod reference;
mod request;
mod retry;
mod revisions;
mod services;
#[cfg(test)]
mod tests;
mod tokens;
mod why;

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Method, Uri};
use axum::routing::{delete, get, post, put};
use axum::{Router, middleware};
use lifecycle_core::Error;
use lifecycle_core::api::{LocalApi, ManagerApi, ScopedApi};
use lifecycle_core::manager::{Caller, Manager, Tokens};
use lifecycle_core::model::{NodeRequest, ServiceClass};
use tokio::sync::watch;

use crate::auth::authenticate;
use crate::endpoints::Endpoints;
use crate::metrics::{Metrics, measure};
use crate::openapi::{Input, Operation};
use crate::problem::Problem;
use crate::streams::Streams;

pub(crate) use reference::document;
pub(crate) use request::Whole;

/// The largest accepted request body, in bytes.
const LARGEST_BODY: usize = 64 << 20;

/// The state that all routes share.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) manager: Arc<dyn ManagerApi>,
    pub(crate) tokens: Tokens,
    /// Is notified after each commit to the registry, which may have recorded events.
    pub(crate) commits: watch::Receiver<u64>,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) streams: Arc<Streams>,
    pub(crate) metrics: Metrics,
}

impl From<Arc<Manager>> for Api {
    fn from(manager: Arc<Manager>) -> Self {
        let changes = manager.changes();
        let api = Arc::new(LocalApi::new(Arc::clone(&manager)));
        Self {
            tokens: manager.tokens(),
            commits: changes.commits.clone(),
            endpoints: Arc::new(Endpoints::new(api.clone(), changes)),
            streams: Arc::default(),
            metrics: Metrics::of(manager),
            manager: api,
        }
    }
}

/// Extracted from a request: what the caller can use of the API. A token with a scope is limited to the
/// services of this scope.
impl FromRequestParts<Self> for Api {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &Self) -> Result<Self, Infallible> {
        let mut api = state.clone();
        // Set by `authenticate`.
        let caller = parts.extensions.get::<Caller>();
        if let Some(scope) = caller.and_then(|caller| caller.scope.clone()) {
            api.manager = Arc::new(ScopedApi::new(api.manager, scope));
            let changes = api.endpoints.changes();
            api.endpoints = Arc::new(Endpoints::new(Arc::clone(&api.manager), changes));
        }
        Ok(api)
    }
}

impl Input for Api {
    fn describe(_: &mut Operation<'_>) {}
}

/// Returns the routes of a class of services.
fn of_class(path: &str, class: ServiceClass) -> Router<Api> {
    let list = move |caller, api| classes::list(class, caller, api);
    let show = move |caller, api, name| classes::show(class, caller, api, name);
    let apply = move |caller, api, name, options, body| {
        classes::apply(class, caller, api, name, options, body)
    };
    let remove = move |caller, api, name| classes::remove(class, caller, api, name);
    Router::new().route(path, get(list)).route(
        &format!("{path}/{{name}}"),
        get(show).put(apply).delete(remove),
    )
}

/// Returns the routes that cordon, drain, stop and start nodes.
fn of_nodes() -> Router<Api> {
    let all = NodeRequest::ALL.into_iter();
    all.fold(Router::new(), |routes, request| {
        let change = move |caller, api, name| nodes::change(request, caller, api, name);
        routes.route(&format!("/v1/nodes/{{name}}/{request}"), post(change))
    })
}

/// Returns all routes.
pub(crate) fn router(api: Api) -> Router {
    let with_token = Router::new()
        .route(
            "/v1/platform",
            get(platform::show)
                .put(platform::apply)
                .delete(platform::delete_platform),
        )
        .route(
            "/v1/platform/plan",
            get(platform::recorded_plan).post(platform::plan),
        )
        .route("/v1/chunks/missing", post(chunks::missing))
        .route("/v1/chunks/{digest}", put(chunks::put))
        .route("/v1/image-logins", put(image_logins::replace))
        .route("/v1/nodes", get(nodes::list).post(nodes::add))
        .route("/v1/machines", post(nodes::adopt))
        .route("/v1/nodes/{name}", get(nodes::show).delete(nodes::remove))
        .route("/v1/nodes/{name}/restart", post(nodes::restart))
        .route("/v1/nodes/{name}/prepare", post(nodes::prepare))
        .merge(of_nodes())
        .route("/v1/services", get(services::list))
        .route("/v1/services/{name}", get(services::show))
        .route("/v1/instances", get(services::instances))
        .route("/v1/endpoints", get(endpoints::all))
        .route("/v1/services/{name}/endpoints", get(endpoints::of_service))
        .route("/v1/services/{name}/logs", get(services::logs))
        .route("/v1/services/{name}/restart", post(services::restart))
        .route(
            "/v1/services/{name}/rollout/{request}",
            post(services::rollout),
        )
        .route("/v1/services/{name}/scale", post(overrides::scale))
        .route("/v1/services/{name}/stop", post(overrides::stop))
        .route("/v1/services/{name}/start", post(overrides::start))
        .route("/v1/services/{name}/exec", post(exec::run))
        .merge(of_class("/v1/microservices", ServiceClass::Microservice))
        .merge(of_class("/v1/applications", ServiceClass::Application))
        .merge(of_class("/v1/models", ServiceClass::Model))
        .route("/v1/overrides", get(overrides::list))
        .route("/v1/overrides/{id}", delete(overrides::remove))
        .route("/v1/export", get(overrides::export))
        .route("/v1/revisions", get(revisions::list))
        .route(
            "/v1/revisions/{generation}/rollback",
            post(revisions::rollback),
        )
        .route("/v1/events", get(events::list))
        .route("/v1/audit", get(events::audit))
        .route("/v1/why/{name}", get(why::show))
        .route("/v1/retry/{name}", post(retry::run))
        .route("/v1/progress", get(platform::progress))
        .route("/v1/operations", get(operations::list))
        .route("/v1/operations/{id}", get(operations::show))
        .route("/v1/operations/{id}/cancel", post(operations::cancel))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{name}", delete(tokens::revoke))
        .route("/metrics", get(metrics::show))
        .route("/v1/openapi.json", get(reference::show))
        .fallback(async |uri: Uri| Problem::from(Error::not_found(format!("path {}", uri.path()))))
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            Problem::method_not_allowed(method.as_str(), uri.path())
        })
        .layer(middleware::from_fn_with_state(api.clone(), authenticate));
    // A layer copies the routes below it for each request, so there are few layers.
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .merge(with_token)
        .layer(middleware::from_fn_with_state(api.clone(), measure))
        .with_state(api)
}
