//! Finds out what exists: one task asks the cloud ([`cloud`]), one task per node asks its engine
//! and checks the readiness of what runs there ([`node`]). No task waits for another: a node that
//! hangs is unknown, and delays only itself.

mod cloud;
mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::backends::Backends;
use super::declared::Declared;
use super::input::Endings;
use super::liveness::Liveness;
use super::observe::{NodeView, Observed};
use crate::cloud::ObservedNode;
use crate::model::{ContainerId, NodeName};
use crate::registry::Unknown;

/// How often the cloud, nodes and containers are asked, and how long an answer may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchPolicy {
    /// How long a node may take to tell its state before it counts as unknown.
    pub node_timeout: Duration,
    /// How long the cloud may take to list its nodes.
    pub cloud_timeout: Duration,
    /// How often in a row a node must fail to answer before it counts as unknown. Until then
    /// its endpoints stay, and nothing is begun on it.
    pub looks_before_unknown: u32,
    /// How long it must have been silent besides.
    pub unknown_after: Duration,
    /// How long a node that did not answer may take when it is asked again.
    pub again_timeout: Duration,
    /// How often everything on a node is listed. Between two lists, the engine's events report
    /// what changes.
    pub node_interval: Duration,
    /// How often the cloud is asked when nothing happens.
    pub cloud_interval: Duration,
    /// How often a ready container's readiness is checked again.
    pub check_interval: Duration,
    /// How often something that is about to change is asked: a node that starts, a container
    /// that was just started.
    pub eager_interval: Duration,
}

impl Default for WatchPolicy {
    fn default() -> Self {
        Self {
            node_timeout: Duration::from_secs(20),
            cloud_timeout: Duration::from_mins(1),
            looks_before_unknown: 3,
            unknown_after: Duration::from_secs(5),
            again_timeout: Duration::from_secs(5),
            node_interval: Duration::from_secs(30),
            cloud_interval: Duration::from_secs(30),
            check_interval: Duration::from_secs(10),
            eager_interval: Duration::from_millis(300),
        }
    }
}

/// The latest observations, and the tasks that make them. Dropping it ends the tasks.
#[derive(Debug)]
pub(super) struct Watcher {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    backends: Backends,
    policy: WatchPolicy,
    declared: watch::Receiver<Option<Arc<Declared>>>,
    views: Mutex<Views>,
    /// Rises with every request to look again; a view says which requests it has served.
    requests: AtomicU64,
    cloud_wanted: Notify,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Views {
    cloud: Option<CloudView>,
    nodes: BTreeMap<NodeName, Slot>,
    liveness: Liveness,
    /// The latest request to look at the cloud.
    cloud_request: u64,
}

#[derive(Debug)]
struct CloudView {
    as_of: u64,
    unknown: Option<Unknown>,
}

#[derive(Debug)]
struct Slot {
    machine: watch::Sender<ObservedNode>,
    view: Arc<NodeView>,
    as_of: u64,
    /// The latest request to look at this node.
    request: u64,
    wanted: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watcher {
    pub(super) fn start(
        backends: Backends,
        policy: WatchPolicy,
        declared: watch::Receiver<Option<Arc<Declared>>>,
        liveness: Liveness,
    ) -> Self {
        let shared = Arc::new(Shared {
            backends,
            policy,
            declared,
            views: Mutex::new(Views {
                liveness,
                ..Views::default()
            }),
            requests: AtomicU64::new(1),
            cloud_wanted: Notify::new(),
            changed: Notify::new(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(cloud::watch_cloud(Arc::clone(&shared)));
        Self {
            shared,
            _tasks: tasks,
        }
    }

    /// Waits until something was observed that may differ from before.
    pub(super) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Asks for a new look at a node; [`Watcher::has_seen`] tells when it was had.
    pub(super) fn look_at_node(&self, node: &NodeName) -> u64 {
        let request = self.shared.requests.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(slot) = self.shared.views().nodes.get_mut(node) {
            slot.request = request;
            slot.wanted.notify_one();
        }
        request
    }

    /// Asks for a new list of nodes.
    pub(super) fn look_at_cloud(&self) -> u64 {
        let request = self.shared.requests.fetch_add(1, Ordering::SeqCst) + 1;
        self.shared.views().cloud_request = request;
        self.shared.cloud_wanted.notify_one();
        request
    }

    /// Forgets how these containers ended, and gives those that are not ready their time once
    /// more, also in what was observed last.
    pub(super) fn forgive(&self, containers: &BTreeSet<ContainerId>, now: DateTime<Utc>) {
        let mut views = self.shared.views();
        let Views {
            nodes, liveness, ..
        } = &mut *views;
        for container in containers {
            liveness.forgive(container, now);
        }
        for slot in nodes.values_mut() {
            let Some(state) = slot.view.engine_state() else {
                continue;
            };
            let readiness = liveness.readiness_of(&state.containers);
            Arc::make_mut(&mut slot.view).readiness = readiness;
        }
    }

    /// Whether the node's engine was looked at since this request; true for a node that is gone.
    pub(super) fn has_seen_node(&self, node: &NodeName, request: u64) -> bool {
        self.shared
            .views()
            .nodes
            .get(node)
            .is_none_or(|slot| slot.as_of >= request)
    }

    /// Whether the cloud was asked since this request.
    pub(super) fn has_seen_cloud(&self, request: u64) -> bool {
        self.shared
            .views()
            .cloud
            .as_ref()
            .is_some_and(|c| c.as_of >= request)
    }

    /// What is known now, and how often containers ended by themselves; `None` until the cloud
    /// was asked once.
    pub(super) fn observed(&self) -> Option<(Observed, BTreeMap<ContainerId, Endings>)> {
        let views = self.shared.views();
        let cloud = views.cloud.as_ref()?;
        let observed = Observed {
            cloud_unknown: cloud.unknown.clone(),
            nodes: views
                .nodes
                .iter()
                .map(|(name, slot)| (name.clone(), Arc::clone(&slot.view)))
                .collect(),
            ..Observed::default()
        };
        Some((observed, views.liveness.endings()))
    }
}

impl Shared {
    fn views(&self) -> MutexGuard<'_, Views> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
