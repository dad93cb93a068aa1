//! Binds applications to sensors of the kinds that they need.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};
use crate::peer::Call;

/// The kinds of sensors that an application needs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Needs {
    pub(crate) kinds: Vec<String>,
}

struct Binder {
    bindings: Mutex<BTreeMap<String, Vec<String>>>,
}

pub(crate) fn routes() -> Router {
    let binder = Binder {
        bindings: Mutex::default(),
    };
    Router::new()
        .route("/bindings/{application}", get(show).post(bind))
        .with_state(Arc::new(binder))
}

async fn show(
    State(binder): State<Arc<Binder>>,
    Path(application): Path<String>,
) -> Result<Json<Vec<String>>> {
    let bindings = binder.bindings.lock();
    let bindings = bindings.unwrap_or_else(PoisonError::into_inner);
    let bound = bindings.get(&application).cloned().map(Json);
    bound.ok_or_else(|| Failure::NotFound(format!("binding of {application}")))
}

/// Binds an application to all sensors of each kind that it needs. Changes nothing if a kind has no
/// sensor.
async fn bind(
    State(binder): State<Arc<Binder>>,
    Path(application): Path<String>,
    Json(needs): Json<Needs>,
) -> Result<Json<Vec<String>>> {
    let known: Vec<String> = Call::get("/sensors").ask("sensor-manager").await?;
    let bound = choose(&known, &needs.kinds)?;
    let bindings = binder.bindings.lock();
    let mut bindings = bindings.unwrap_or_else(PoisonError::into_inner);
    bindings.insert(application, bound.clone());
    Ok(Json(bound))
}

fn choose(known: &[String], kinds: &[String]) -> Result<Vec<String>> {
    let mut chosen = Vec::new();
    for kind in kinds {
        let before = chosen.len();
        let of_kind = |sensor: &&String| sensor.rsplit_once('.').is_some_and(|(_, k)| k == kind);
        chosen.extend(known.iter().filter(of_kind).cloned());
        if chosen.len() == before {
            return Err(Failure::NotFound(format!("sensor for {kind}")));
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applications_get_all_kinds_or_none() {
        let known = ["attic.light", "garden.light", "garden.humidity"].map(str::to_owned);
        let kinds = |kinds: &[&str]| kinds.iter().map(|k| (*k).to_owned()).collect::<Vec<_>>();
        let light = choose(&known, &kinds(&["light"])).unwrap();
        assert_eq!(light, ["attic.light", "garden.light"]);
        assert!(choose(&known, &kinds(&["light", "noise"])).is_err());
    }
}
