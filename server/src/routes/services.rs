//! Services: their replicas, endpoints and output.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use lifecycle_core::api::wire::{EndpointV1, OperationV1, RestartV1, ServiceV1};
use lifecycle_core::api::{LocalApi, ManagerApi as _};
use lifecycle_core::manager::Manager;
use lifecycle_core::model::ServiceName;
use lifecycle_core::runtime::LogOptions;
use serde::Deserialize;

use super::request::{Parameters, Segment, Whole};
use crate::auth::{Admin, Reader};
use crate::problem::Problem;

/// All services.
pub(super) async fn list(
    _: Reader,
    State(manager): State<Arc<Manager>>,
) -> Result<Json<Vec<ServiceV1>>, Problem> {
    Ok(Json(LocalApi::new(manager).services().await?))
}

/// Where the ready replicas of a service are reached.
pub(super) async fn endpoints(
    _: Reader,
    State(manager): State<Arc<Manager>>,
    Segment(name): Segment,
) -> Result<Json<Vec<EndpointV1>>, Problem> {
    let services = LocalApi::new(manager).services().await?;
    services
        .into_iter()
        .find(|service| service.name.as_str() == name)
        .map(|service| {
            let instances = service.instances.into_iter();
            Json(instances.flat_map(|i| i.endpoints).collect())
        })
        .ok_or_else(|| Problem::not_found(format!("service {name} does not exist")))
}

/// Begins to start a service's containers anew, or one replica's.
pub(super) async fn restart(
    _: Admin,
    State(manager): State<Arc<Manager>>,
    Segment(name): Segment,
    Whole(body): Whole,
) -> Result<(StatusCode, Json<OperationV1>), Problem> {
    let replaces = if body.is_empty() {
        None
    } else {
        let read = serde_json::from_slice::<RestartV1>(&body);
        Some(read.map_err(|error| Problem::bad_request(format!("the body: {error}")))?)
    };
    let operation = LocalApi::new(manager).restart(&name, replaces).await?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// Which lines are wanted.
#[derive(Debug, Deserialize)]
pub(super) struct Lines {
    tail: Option<u32>,
    #[serde(default)]
    follow: bool,
    since: Option<DateTime<Utc>>,
    #[serde(default)]
    timestamps: bool,
}

/// The output of all replicas of a service, a JSON object per line.
pub(super) async fn logs(
    _: Reader,
    State(manager): State<Arc<Manager>>,
    Segment(name): Segment,
    Parameters(lines): Parameters<Lines>,
) -> Result<Response, Problem> {
    let name = ServiceName::try_from(name).map_err(lifecycle_core::Error::from)?;
    let api = LocalApi::new(manager);
    let options = LogOptions {
        tail: lines.tail,
        follow: lines.follow,
        since: lines.since,
        timestamps: lines.timestamps,
    };
    let lines = api.logs(&name, options).await?;
    let body = lines.map(|line| {
        let mut text = serde_json::to_vec(&line.map_err(std::io::Error::other)?)?;
        text.push(b'\n');
        Ok::<_, std::io::Error>(text)
    });
    let headers = [(CONTENT_TYPE, "application/x-ndjson")];
    Ok((headers, Body::from_stream(body)).into_response())
}
