//! Runs a command in a container. After the upgrade, the connection carries only the command's
//! input and output.

use axum::body::Body;
use axum::extract::{FromRequest as _, Request};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use lifecycle_core::api::exec::{ExecV1, PROTOCOL, serve};

use super::Api;
use super::request::{self, Segment, Whole};
use crate::auth::Admin;
use crate::problem::Problem;

/// `POST /v1/services/{name}/exec`. Requires an admin token, because the command has all rights of
/// the container.
pub(super) async fn run(
    Admin(caller): Admin,
    api: Api,
    Segment(name): Segment,
    mut request: Request,
) -> Result<Response, Problem> {
    let requested = request.headers().get(UPGRADE);
    let is_known = requested.is_some_and(|protocol| protocol == PROTOCOL);
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let Some(upgrade) = upgrade.filter(|_| is_known) else {
        return Err(Problem::bad_request(
            "the request",
            "it does not request an upgrade to the protocol for running commands",
            format!("send `Connection: upgrade` and `Upgrade: {PROTOCOL}`"),
        ));
    };
    let Whole(body): Whole = Whole::from_request(request, &()).await?;
    let command: ExecV1 = serde_json::from_slice(&body)
        .map_err(|error| request::unreadable_body(&error, "send a command (`docs/api.md`)"))?;
    if command.command.is_empty() {
        return Err(Problem::bad_request(
            "the command",
            "it is empty",
            "send the program and its arguments as `command`",
        ));
    }
    let place = api.streams.commands.open(&caller)?;
    let conversation = api.manager.exec(&name, command.into()).await?;
    tokio::spawn(async move {
        let _place = place;
        let run = async {
            match upgrade.await {
                Ok(upgraded) => serve(TokioIo::new(upgraded), conversation).await,
                Err(error) => {
                    tracing::debug!(%error, "cannot upgrade the connection for a command");
                }
            }
        };
        tokio::select! {
            () = run => {}
            () = api.tokens.until_ended(&caller) => {}
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    Ok(response)
}
