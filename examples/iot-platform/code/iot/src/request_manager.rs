//! The entry point of the platform. It answers requests from users and programs with data from the
//! other services.

use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::Value;

use crate::failure::Result;
use crate::peer::Call;
use crate::sensor_manager::Reading;

pub(crate) fn routes() -> Router {
    Router::new()
        .route("/sensors", get(sensors))
        .route("/readings/{sensor}", get(reading))
        .route("/applications", get(applications))
        .route("/applications/{application}/readings", get(readings))
}

async fn sensors() -> Result<Json<Vec<String>>> {
    let call = Call::get("/sensors");
    Ok(Json(call.ask("sensor-manager").await?))
}

async fn reading(Path(sensor): Path<String>) -> Result<Json<Reading>> {
    Ok(Json(latest(&sensor).await?))
}

async fn applications() -> Result<Json<Value>> {
    let call = Call::get("/deployments");
    Ok(Json(call.ask("deployment-manager").await?))
}

/// Returns the latest readings of all sensors of an application.
async fn readings(Path(application): Path<String>) -> Result<Json<Vec<Reading>>> {
    let bound: Vec<String> = Call::get(format!("/bindings/{application}"))
        .ask("sensor-binder")
        .await?;
    let mut readings = Vec::new();
    for sensor in &bound {
        readings.push(latest(sensor).await?);
    }
    Ok(Json(readings))
}

async fn latest(sensor: &str) -> Result<Reading> {
    Call::get(format!("/sensors/{sensor}/readings/latest"))
        .ask("sensor-manager")
        .await
}
