//! Checks every replica of every service at the endpoints that the lifecycle manager returns, and
//! shows the results on one page.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use lifecycle_core::api::wire::{InstanceStateV1, InstanceV1};
use lifecycle_core::api::{ApiClient, ManagerApi as _};
use lifecycle_core::clock::{Clock, SystemClock};
use serde::Serialize;

use crate::failure::Result;
use crate::peer::Call;

/// How often all replicas are checked.
const INTERVAL: Duration = Duration::from_secs(2);

/// The results of the last check.
#[derive(Debug, Clone, Default, Serialize)]
struct Summary {
    at: Option<DateTime<Utc>>,
    /// Why the manager could not be reached. If this is set, the other results are from the last
    /// successful check.
    #[serde(skip_serializing_if = "Option::is_none")]
    manager: Option<String>,
    healthy: usize,
    unhealthy: usize,
    instances: BTreeMap<String, Health>,
}

#[derive(Debug, Clone, Serialize)]
struct Health {
    node: Option<String>,
    /// The state according to the lifecycle manager.
    state: InstanceStateV1,
    /// The replica's own response.
    is_healthy: bool,
}

type Latest = Arc<Mutex<Summary>>;

pub(crate) fn routes() -> Result<Router> {
    let manager = ApiClient::of_this_service()?;
    let latest = Latest::default();
    tokio::spawn(watch(manager, Arc::clone(&latest)));
    Ok(Router::new().route("/", get(show)).with_state(latest))
}

async fn show(State(latest): State<Latest>) -> Json<Summary> {
    let latest = latest.lock();
    Json(latest.unwrap_or_else(PoisonError::into_inner).clone())
}

async fn watch(manager: ApiClient, latest: Latest) {
    let mut pace = tokio::time::interval(INTERVAL);
    loop {
        pace.tick().await;
        let looked = check(&manager).await;
        let mut latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
        match looked {
            Ok(summary) => *latest = summary,
            Err(failure) => latest.manager = Some(failure.to_string()),
        }
    }
}

async fn check(manager: &ApiClient) -> Result<Summary> {
    let mut summary = Summary {
        at: Some(SystemClock.now()),
        ..Summary::default()
    };
    for service in manager.services().await? {
        for instance in service.instances {
            let is_healthy = is_healthy(&instance).await;
            if is_healthy {
                summary.healthy += 1;
            } else {
                summary.unhealthy += 1;
            }
            let health = Health {
                node: instance.node.map(|node| node.to_string()),
                state: instance.state,
                is_healthy,
            };
            summary.instances.insert(instance.id, health);
        }
    }
    Ok(summary)
}

/// Returns whether all endpoints of a replica respond. A replica that is not ready has no
/// endpoints.
async fn is_healthy(instance: &InstanceV1) -> bool {
    for endpoint in &instance.endpoints {
        let address = SocketAddr::new(endpoint.ip, endpoint.port);
        let answer = Call::get("/health").at(address).await;
        if !answer.is_ok_and(|(status, _)| status.is_success()) {
            return false;
        }
    }
    !instance.endpoints.is_empty()
}
