//! The door of the platform: answers people and programs by asking the services behind it.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::Value;

use crate::directory::Directory;
use crate::failure::Result;
use crate::peer::Call;
use crate::sensor_manager::Reading;

pub(crate) fn routes() -> Result<Router> {
    Ok(Router::new()
        .route("/sensors", get(sensors))
        .route("/readings/{sensor}", get(reading))
        .route("/applications", get(applications))
        .route("/applications/{application}/readings", get(readings))
        .with_state(Arc::new(Directory::open()?)))
}

async fn sensors(State(directory): State<Arc<Directory>>) -> Result<Json<Vec<String>>> {
    let call = Call::get("/sensors");
    Ok(Json(call.ask("sensor-manager", &directory).await?))
}

async fn reading(
    State(directory): State<Arc<Directory>>,
    Path(sensor): Path<String>,
) -> Result<Json<Reading>> {
    Ok(Json(latest(&directory, &sensor).await?))
}

async fn applications(State(directory): State<Arc<Directory>>) -> Result<Json<Value>> {
    let call = Call::get("/deployments");
    Ok(Json(call.ask("deployment-manager", &directory).await?))
}

/// The latest readings of all sensors that an application is bound to.
async fn readings(
    State(directory): State<Arc<Directory>>,
    Path(application): Path<String>,
) -> Result<Json<Vec<Reading>>> {
    let bound: Vec<String> = Call::get(format!("/bindings/{application}"))
        .ask("sensor-binder", &directory)
        .await?;
    let mut readings = Vec::new();
    for sensor in &bound {
        readings.push(latest(&directory, sensor).await?);
    }
    Ok(Json(readings))
}

async fn latest(directory: &Directory, sensor: &str) -> Result<Reading> {
    Call::get(format!("/sensors/{sensor}/readings/latest"))
        .ask("sensor-manager", directory)
        .await
}
