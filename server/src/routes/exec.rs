//! A command in a container: the connection becomes the command's own.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest as _, Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use lifecycle_core::api::exec::{ExecV1, PROTOCOL, serve};
use lifecycle_core::api::{LocalApi, ManagerApi as _};
use lifecycle_core::manager::Manager;

use super::request::{Segment, Whole};
use crate::auth::Admin;
use crate::problem::Problem;

/// Runs a command in a container of a service. Only for the admin: a command may do anything
/// that the container may.
pub(super) async fn run(
    _: Admin,
    State(manager): State<Arc<Manager>>,
    Segment(name): Segment,
    mut request: Request,
) -> Result<Response, Problem> {
    let asked = request.headers().get(UPGRADE);
    let is_ours = asked.is_some_and(|protocol| protocol == PROTOCOL);
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let Some(upgrade) = upgrade.filter(|_| is_ours) else {
        let how = format!("ask for it with `Connection: upgrade` and `Upgrade: {PROTOCOL}`");
        return Err(Problem::bad_request(how));
    };
    let Whole(body) = Whole::from_request(request, &()).await?;
    let command: ExecV1 = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request(format!("the body: {error}")))?;
    if command.command.is_empty() {
        return Err(Problem::bad_request("the command is empty"));
    }
    let conversation = LocalApi::new(manager).exec(&name, command.into()).await?;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => serve(TokioIo::new(upgraded), conversation).await,
            Err(error) => tracing::debug!(%error, "a connection could not be taken over"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    Ok(response)
}
