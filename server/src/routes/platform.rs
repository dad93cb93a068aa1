//! The platform as a whole: shown, declared, planned, taken down.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use lifecycle_core::api::wire::{AppliedV1, OperationV1, PlatformV1, ProgressV1};
use lifecycle_core::api::{LocalApi, ManagerApi as _, view};
use lifecycle_core::manager::Manager;
use lifecycle_core::platform::Declaration;
use lifecycle_core::reconcile::{Plan, RecordedPlan};
use serde::Deserialize;

use super::request::{Parameters, Whole};
use crate::auth::{Admin, Reader};
use crate::problem::Problem;

/// How the platform stands.
pub(super) async fn show(
    _: Reader,
    State(manager): State<Arc<Manager>>,
) -> Result<Json<PlatformV1>, Problem> {
    Ok(Json(LocalApi::new(manager).platform().await?))
}

/// What of the present round is shown.
#[derive(Debug, Deserialize)]
pub(super) struct Shown {
    plan: Option<bool>,
}

/// How far the present round is; with the plan unless it is not wanted.
pub(super) async fn progress(
    _: Reader,
    State(manager): State<Arc<Manager>>,
    Parameters(shown): Parameters<Shown>,
) -> Json<ProgressV1> {
    let with_plan = shown.plan.unwrap_or(true);
    Json(view::progress(
        &manager.round(),
        manager.is_open(),
        with_plan,
    ))
}

/// Reads a declaration. What is wrong is told by place: its text may hold secrets.
fn read(body: &[u8]) -> Result<Declaration, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        Problem::bad_request(format!(
            "the body is no declaration: line {}, column {}",
            error.line(),
            error.column()
        ))
    })
}

/// Replaces the declaration. Also allowed while the platform converges, so that a bad declaration can be
/// corrected.
pub(super) async fn apply(
    _: Admin,
    State(manager): State<Arc<Manager>>,
    Whole(body): Whole,
) -> Result<Json<AppliedV1>, Problem> {
    let declaration = read(&body)?;
    Ok(Json(LocalApi::new(manager).apply(&declaration).await?))
}

/// What a declaration would change. Only for the admin: a declaration may hold secrets.
pub(super) async fn plan(
    _: Admin,
    State(manager): State<Arc<Manager>>,
    Whole(body): Whole,
) -> Result<Json<Plan>, Problem> {
    let candidate = read(&body)?;
    Ok(Json(LocalApi::new(manager).plan(&candidate).await?))
}

/// The latest plan, and what it was made from. Only for the admin, as the other half of the path.
pub(super) async fn recorded_plan(
    _: Admin,
    State(manager): State<Arc<Manager>>,
) -> Result<Json<RecordedPlan>, Problem> {
    Ok(Json(LocalApi::new(manager).recorded_plan().await?))
}

/// What to take down beside services and nodes.
#[derive(Debug, Deserialize)]
pub(super) struct TakeDown {
    #[serde(default)]
    volumes: bool,
}

/// Begins to take everything down.
pub(super) async fn take_down(
    _: Admin,
    State(manager): State<Arc<Manager>>,
    Parameters(options): Parameters<TakeDown>,
) -> Result<(StatusCode, Json<OperationV1>), Problem> {
    let operation = LocalApi::new(manager).take_down(options.volumes).await?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}
