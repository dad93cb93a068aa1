//! Lists services, restarts them, controls their rollouts, and returns their
//! output.

use axum::Json;
use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use lifecycle_core::Error;
use lifecycle_core::api::wire::{InstanceV1, OperationV1, RestartV1, ServiceV1};
use lifecycle_core::manager::{Caller, Tokens};
use lifecycle_core::model::{RolloutRequest, ServiceName};
use lifecycle_core::runtime::LogOptions;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Api;
use super::request::{Parameters, Segment, Whole, optional};
use crate::auth::{Operator, Viewer};
use crate::problem::Problem;

/// `GET /v1/services`.
pub(super) async fn list(_: Viewer, api: Api) -> Result<Json<Vec<ServiceV1>>, Problem> {
    Ok(Json(api.manager.services().await?))
}

/// `GET /v1/services/{name}`.
pub(super) async fn show(
    _: Viewer,
    api: Api,
    Segment(name): Segment,
) -> Result<Json<ServiceV1>, Problem> {
    Ok(Json(api.manager.service(&name).await?))
}

/// `GET /v1/instances`: returns the replicas of all services.
pub(super) async fn instances(_: Viewer, api: Api) -> Result<Json<Vec<InstanceV1>>, Problem> {
    let services = api.manager.services().await?.into_iter();
    Ok(Json(
        services.flat_map(|service| service.instances).collect(),
    ))
}

/// `POST /v1/services/{name}/restart`: begins to restart a service or one replica.
pub(super) async fn restart(
    _: Operator,
    api: Api,
    Segment(name): Segment,
    Whole(body): Whole,
) -> Result<(StatusCode, Json<OperationV1>), Problem> {
    let request: Option<RestartV1> = optional(&body, "send `{\"replaces\": {}}`, or nothing")?;
    let operation = api.manager.restart(&name, request).await?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// `POST /v1/services/{name}/rollout/{request}`: pauses, resumes or rolls back a rollout.
pub(super) async fn rollout(
    _: Operator,
    api: Api,
    Segment((name, request)): Segment<(String, String)>,
) -> Result<(StatusCode, Json<OperationV1>), Problem> {
    let known = RolloutRequest::ALL.map(|request| request.to_string());
    let Some(request) = RolloutRequest::ALL
        .into_iter()
        .find(|r| r.to_string() == request)
    else {
        let known = known.iter().map(String::as_str);
        return Err(Error::unknown_name(format!("request {request}"), &request, known).into());
    };
    let operation = api.manager.rollout(&name, request).await?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// The query of `GET /v1/services/{name}/logs`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Lines {
    /// The number of lines to return of the output so far; by default, all.
    tail: Option<u32>,
    /// Whether to return also the output from now on, until the client ends the request.
    #[serde(default)]
    follow: bool,
    /// The time of the first line.
    since: Option<DateTime<Utc>>,
    /// Whether each line contains its time.
    #[serde(default)]
    timestamps: bool,
}

/// `GET /v1/services/{name}/logs`: returns the output of all replicas, one JSON object per line.
pub(super) async fn logs(
    Viewer(caller): Viewer,
    api: Api,
    Segment(name): Segment,
    Parameters(lines): Parameters<Lines>,
) -> Result<Response, Problem> {
    let name = ServiceName::try_from(name).map_err(Error::from)?;
    let options = LogOptions {
        tail: lines.tail,
        follow: lines.follow,
        since: lines.since,
        timestamps: lines.timestamps,
    };
    let place = api.streams.logs.open(&caller)?;
    let lines = api.manager.logs(&name, options).await?;
    let body = while_valid(lines, api.tokens, caller).map(move |line| {
        let _open = &place;
        let mut text = serde_json::to_vec(&line.map_err(std::io::Error::other)?)?;
        text.push(b'\n');
        Ok::<_, std::io::Error>(text)
    });
    let headers = [(CONTENT_TYPE, "application/x-ndjson")];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// Ends a stream with an error when the token of `caller` ends, so that the client does not take the
/// lines so far for the whole output.
fn while_valid<T>(
    lines: BoxStream<'static, Result<T, Error>>,
    tokens: Tokens,
    caller: Caller,
) -> impl Stream<Item = Result<T, Error>> {
    let ended = Box::pin(async move {
        tokens.until_ended(&caller).await;
        Error::denied(
            "the output",
            format!("token {} is no longer valid", caller.name),
            "use another token",
        )
    });
    stream::unfold(Some((lines, ended)), async |state| {
        let (mut lines, mut ended) = state?;
        tokio::select! {
            line = lines.next() => line.map(|line| (line, Some((lines, ended)))),
            error = &mut ended => Some((Err(error), None)),
        }
    })
}
