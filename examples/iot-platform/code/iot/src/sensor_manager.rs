//! Knows the sensors and stores their readings. The readings are in a file on a volume, so they
//! survive when the container is replaced.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use lifecycle_core::clock::{Clock, SystemClock};
use serde::{Deserialize, Serialize};

use crate::authentication::require_token;
use crate::failure::{Failure, Result};

/// The file on the mounted volume.
const FILE: &str = "/data/readings.jsonl";

/// How many readings of each sensor are kept.
const KEPT: usize = 1000;

/// A value that a sensor measured. The sensor's name is `<place>.<kind>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reading {
    pub(crate) sensor: String,
    pub(crate) value: f64,
    pub(crate) at: DateTime<Utc>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NewReading {
    pub(crate) value: f64,
}

struct Manager {
    readings: Mutex<Readings>,
}

pub(crate) fn routes() -> Result<Router> {
    let manager = Manager {
        readings: Mutex::new(Readings::open(FilePath::new(FILE))?),
    };
    Ok(Router::new()
        .route("/sensors", get(sensors))
        .route("/sensors/{sensor}/readings", post(record))
        .route("/sensors/{sensor}/readings/latest", get(latest))
        .with_state(Arc::new(manager)))
}

async fn sensors(State(manager): State<Arc<Manager>>) -> Json<Vec<String>> {
    let readings = lock(&manager);
    Json(readings.by_sensor.keys().cloned().collect())
}

async fn latest(
    State(manager): State<Arc<Manager>>,
    Path(sensor): Path<String>,
) -> Result<Json<Reading>> {
    let readings = lock(&manager);
    let latest = readings.by_sensor.get(&sensor).and_then(VecDeque::back);
    let latest = latest.cloned().map(Json);
    latest.ok_or_else(|| Failure::NotFound(format!("reading of {sensor}")))
}

async fn record(
    State(manager): State<Arc<Manager>>,
    Path(sensor): Path<String>,
    headers: HeaderMap,
    Json(measured): Json<NewReading>,
) -> Result<StatusCode> {
    require_token(&headers).await?;
    lock(&manager).add(Reading {
        sensor,
        value: measured.value,
        at: SystemClock.now(),
    })?;
    Ok(StatusCode::CREATED)
}

fn lock(manager: &Manager) -> std::sync::MutexGuard<'_, Readings> {
    manager
        .readings
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// The readings of all sensors, in memory and in a file.
struct Readings {
    by_sensor: BTreeMap<String, VecDeque<Reading>>,
    file: File,
}

impl Readings {
    /// Reads the file, and replaces it with a file that contains only the readings to keep.
    fn open(path: &FilePath) -> std::io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        let mut by_sensor = BTreeMap::new();
        for line in BufReader::new(&file).lines() {
            // Skip invalid lines: the last line may be incomplete after a power failure.
            if let Ok(reading) = serde_json::from_str(&line?) {
                keep(&mut by_sensor, reading);
            }
        }
        let next = path.with_extension("next");
        let mut kept = File::create(&next)?;
        for reading in by_sensor.values().flatten() {
            writeln!(kept, "{}", serde_json::to_string(reading)?)?;
        }
        kept.sync_all()?;
        std::fs::rename(&next, path)?;
        file = kept;
        Ok(Self { by_sensor, file })
    }

    fn add(&mut self, reading: Reading) -> std::io::Result<()> {
        writeln!(self.file, "{}", serde_json::to_string(&reading)?)?;
        keep(&mut self.by_sensor, reading);
        Ok(())
    }
}

fn keep(by_sensor: &mut BTreeMap<String, VecDeque<Reading>>, reading: Reading) {
    let readings = by_sensor.entry(reading.sensor.clone()).or_default();
    readings.push_back(reading);
    if readings.len() > KEPT {
        readings.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_survive_a_crash_while_one_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("readings.jsonl");
        let mut readings = Readings::open(&path).unwrap();
        for n in 0..1002 {
            let reading = Reading {
                sensor: "garden.light".into(),
                value: f64::from(n),
                at: SystemClock.now(),
            };
            readings.add(reading).unwrap();
        }
        readings.file.write_all(b"{\"sensor\":\"gar").unwrap();
        drop(readings);
        let again = Readings::open(&path).unwrap();
        let kept = &again.by_sensor["garden.light"];
        assert_eq!(kept.len(), KEPT);
        assert!((kept.back().unwrap().value - 1001.0).abs() < f64::EPSILON);
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert_eq!(lines, KEPT);
    }
}
