//! Simulates the sensors of a house: measures at a fixed interval, and sends the readings to the
//! sensor manager.

use std::f64::consts::TAU;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use lifecycle_core::clock::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::authentication::{Credential, Token};
use crate::failure::{Failure, Result};
use crate::peer::Call;
use crate::sensor_manager::NewReading;
use crate::setting;

struct Controller {
    sensors: Vec<String>,
    every: Duration,
    secret: String,
    sent: AtomicU64,
    failed: AtomicU64,
}

pub(crate) fn routes() -> Result<Router> {
    let sensors: String = setting("SENSORS")?;
    let controller = Arc::new(Controller {
        sensors: sensors.split_whitespace().map(str::to_owned).collect(),
        every: Duration::from_secs(seconds(&setting::<String>("READING_EVERY")?)?),
        secret: setting("DEVICE_SECRET")?,
        sent: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    });
    tokio::spawn(measure(Arc::clone(&controller)));
    Ok(Router::new()
        .route("/readings/sent", get(sent))
        .with_state(controller))
}

/// Parses a number of seconds, for example `2s`.
fn seconds(text: &str) -> Result<u64> {
    let number = text.strip_suffix('s').and_then(|n| n.parse().ok());
    number.filter(|n| *n > 0).ok_or_else(|| {
        Failure::Setting("READING_EVERY must be a number of seconds such as `2s`".into())
    })
}

async fn sent(State(controller): State<Arc<Controller>>) -> Json<Value> {
    Json(json!({
        "sent": controller.sent.load(Ordering::Relaxed),
        "failed": controller.failed.load(Ordering::Relaxed),
    }))
}

async fn measure(controller: Arc<Controller>) {
    let mut pace = tokio::time::interval(controller.every);
    let mut token = None;
    loop {
        pace.tick().await;
        for sensor in &controller.sensors {
            match send(&controller, sensor, &mut token).await {
                Ok(()) => controller.sent.fetch_add(1, Ordering::Relaxed),
                Err(failure) => {
                    tracing::warn!("lost a reading of {sensor}: {failure}");
                    controller.failed.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
    }
}

async fn send(controller: &Controller, sensor: &str, token: &mut Option<String>) -> Result<()> {
    let now = SystemClock.now().timestamp();
    let value = value(sensor, now);
    let path = format!("/sensors/{sensor}/readings");
    let reading = Call::post(path, &NewReading { value })?;
    for _ in 0..2 {
        let current = match token.take() {
            Some(token) => token,
            None => log_in(controller).await?,
        };
        let answer = reading
            .clone()
            .with_token(&current)
            .to("sensor-manager")
            .await;
        match answer {
            // The token has expired: try again with a new one.
            Err(Failure::Refused { status, .. }) if status == StatusCode::UNAUTHORIZED => {}
            answer => {
                *token = Some(current);
                return answer.map(drop);
            }
        }
    }
    Err(Failure::Unauthorized)
}

async fn log_in(controller: &Controller) -> Result<String> {
    let credential = Credential {
        device: "sensor-controller".into(),
        secret: controller.secret.clone(),
    };
    let issued: Token = Call::post("/tokens", &credential)?
        .ask("authentication")
        .await?;
    Ok(issued.token)
}

/// Returns the simulated value of a sensor: a sine wave around the usual value for its kind, with a
/// period of ten minutes.
fn value(sensor: &str, seconds: i64) -> f64 {
    let (usual, swing) = match sensor.rsplit_once('.') {
        Some((_, "temperature")) => (21.0, 4.0),
        Some((_, "humidity")) => (50.0, 15.0),
        Some((_, "light")) => (400.0, 350.0),
        _ => (0.0, 1.0),
    };
    // Sensors of the same kind have different phases.
    let offset: u32 = sensor.bytes().map(u32::from).sum();
    let second = i32::try_from(seconds.rem_euclid(600)).unwrap_or_default();
    let turn = (f64::from(second) + f64::from(offset)) / 600.0;
    let exact = usual + swing * (turn * TAU).sin();
    (exact * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_near_the_usual_value() {
        for second in 0..1200 {
            let value = value("kitchen.temperature", second);
            assert!((17.0..=25.0).contains(&value), "{value} at {second}");
        }
        assert!((value("a.light", 0) - value("b.light", 0)).abs() > f64::EPSILON);
    }

    #[test]
    fn interval_is_a_number_of_seconds() {
        assert_eq!(seconds("2s").unwrap(), 2);
        assert!(seconds("0s").is_err() && seconds("2").is_err() && seconds("soon").is_err());
    }
}
