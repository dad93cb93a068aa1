//! Deploys applications: for each application, repeatedly asks the binder for the sensors that the
//! application needs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::peer::Call;
use crate::sensor_binder::Needs;
use crate::setting;

/// The interval between requests to the binder. The requests never stop, so that they re-create the
/// bindings if the binder is replaced.
const INTERVAL: Duration = Duration::from_secs(5);

/// The state of an application.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
enum Deployment {
    Waiting { why: String },
    Deployed { sensors: Vec<String> },
}

type Deployments = Arc<Mutex<BTreeMap<String, Deployment>>>;

pub(crate) fn routes() -> Result<Router> {
    let applications = read(&setting::<String>("APPLICATIONS")?)?;
    let deployments = Deployments::default();
    tokio::spawn(deploy(applications, Arc::clone(&deployments)));
    Ok(Router::new()
        .route("/deployments", get(list))
        .with_state(deployments))
}

/// Parses `thermostat=temperature greenhouse=humidity,light`.
fn read(text: &str) -> Result<Vec<(String, Needs)>> {
    let one = |part: &str| {
        let (name, kinds) = part.split_once('=')?;
        let kinds = kinds.split(',').map(str::to_owned).collect();
        Some((name.to_owned(), Needs { kinds }))
    };
    let read = text.split_whitespace().map(one).collect::<Option<_>>();
    read.ok_or_else(|| {
        Failure::Setting("APPLICATIONS must have the form `<name>=<kind>,<kind> …`".into())
    })
}

async fn list(State(deployments): State<Deployments>) -> Json<BTreeMap<String, Deployment>> {
    let deployments = deployments.lock();
    Json(deployments.unwrap_or_else(PoisonError::into_inner).clone())
}

async fn deploy(applications: Vec<(String, Needs)>, deployments: Deployments) {
    let mut pace = tokio::time::interval(INTERVAL);
    loop {
        pace.tick().await;
        for (name, needs) in &applications {
            let now = match bind(name, needs).await {
                Ok(sensors) => Deployment::Deployed { sensors },
                Err(failure) => Deployment::Waiting {
                    why: failure.to_string(),
                },
            };
            let deployments = deployments.lock();
            deployments
                .unwrap_or_else(PoisonError::into_inner)
                .insert(name.clone(), now);
        }
    }
}

async fn bind(name: &str, needs: &Needs) -> Result<Vec<String>> {
    Call::post(format!("/bindings/{name}"), needs)?
        .ask("sensor-binder")
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applications_are_parsed() {
        let read_back = read("a=x b=y,z").unwrap();
        let kinds: Vec<_> = read_back.iter().map(|(_, n)| n.kinds.len()).collect();
        assert_eq!(kinds, [1, 2]);
        assert!(read("a").is_err());
    }
}
