//! Makes one complete observation, for callers that plan without a control loop.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::backends::Backends;
use super::declared::Declared;
use super::liveness::Liveness;
use super::observe::{EngineView, Observed};
use super::watch::{WatchPolicy, Watcher};
use crate::cloud::Power;
use crate::registry::Unknown;

/// Observes the cloud and every node's engine. A node that has not answered within `patience` is
/// returned as [`EngineView::NotAsked`] or [`EngineView::Unknown`].
pub async fn observe_once(
    backends: &Backends,
    declared: Arc<Declared>,
    patience: Duration,
) -> Observed {
    let (_keep, receiver) = watch::channel(Some(declared));
    let watcher = Watcher::start(
        backends.clone(),
        WatchPolicy::default(),
        receiver,
        Liveness::default(),
    );
    let completed = async {
        loop {
            if let Some((observed, _)) = watcher.observed()
                && is_complete(&observed)
            {
                return;
            }
            watcher.changed().await;
        }
    };
    // After a timeout, return the incomplete observation.
    drop(tokio::time::timeout(patience, completed).await);
    match watcher.observed() {
        Some((observed, _)) => observed,
        None => Observed {
            cloud_unknown: Some(Unknown {
                since: backends.clock.now(),
                why: format!(
                    "the cloud did not list its nodes within {}",
                    humantime::format_duration(patience)
                ),
            }),
            ..Observed::default()
        },
    }
}

/// Returns whether every running node has been polled, successfully or not.
pub(super) fn is_complete(observed: &Observed) -> bool {
    observed
        .nodes
        .values()
        .all(|view| view.machine.power != Power::Running || view.engine != EngineView::NotAsked)
}
