//! Observes what exists. One task polls the cloud ([`cloud`]). One task per node follows the node's
//! engine and checks the readiness of its containers ([`node`]). No task waits for another, so a
//! node that hangs becomes unknown and delays only itself.

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
use super::liveness::{Liveness, Stop};
use super::observe::{NodeView, Observed};
use crate::cloud::ObservedNode;
use crate::model::{ContainerId, NodeName};
use crate::registry::Unknown;

/// How often the cloud, nodes and containers are polled, and how long an answer may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchPolicy {
    /// How long a node may take to report its state before it counts as unknown.
    pub node_timeout: Duration,
    /// How long the cloud may take to list its nodes.
    pub cloud_timeout: Duration,
    /// How many polls or pings in a row must fail before a node counts as unknown. Until then, the
    /// node's endpoints stay published.
    pub failures_before_unknown: u32,
    /// How long a node must have been unreachable before it counts as unknown. Both this limit and
    /// `failures_before_unknown` must be reached.
    pub unknown_after: Duration,
    /// The time limit for pings, and for polls that follow a failed poll.
    pub again_timeout: Duration,
    /// How often everything on a node is listed. Between two lists, the engine's events report
    /// changes.
    pub node_interval: Duration,
    /// How often the cloud is polled while nothing is changing.
    pub cloud_interval: Duration,
    /// How often the readiness of a ready container is checked.
    pub check_interval: Duration,
    /// How often a node is pinged.
    pub ping_interval: Duration,
    /// How often a changing node or a starting container is polled.
    pub eager_interval: Duration,
}

impl Default for WatchPolicy {
    fn default() -> Self {
        Self {
            node_timeout: Duration::from_secs(20),
            cloud_timeout: Duration::from_mins(1),
            failures_before_unknown: 2,
            unknown_after: Duration::from_secs(5),
            again_timeout: Duration::from_secs(5),
            node_interval: Duration::from_secs(30),
            cloud_interval: Duration::from_secs(30),
            check_interval: Duration::from_secs(10),
            // A node that stops responding counts as unknown after two time limits of 5 seconds, so
            // within 15 seconds.
            ping_interval: Duration::from_secs(3),
            eager_interval: Duration::from_millis(300),
        }
    }
}

/// The latest observations and the tasks that update them. Dropping this value ends the tasks.
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
    /// The number of the latest observation request. A view's `as_of` is the latest request that
    /// the view has served.
    requests: AtomicU64,
    cloud_requested: Notify,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Views {
    cloud: Option<CloudView>,
    nodes: BTreeMap<NodeName, Slot>,
    liveness: Liveness,
    /// The latest request to list the cloud's nodes.
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
    /// The latest request to list this node.
    request: u64,
    requested: Arc<Notify>,
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
            cloud_requested: Notify::new(),
            changed: Notify::new(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(cloud::watch_cloud(Arc::clone(&shared)));
        Self {
            shared,
            _tasks: tasks,
        }
    }

    /// Waits until an observation may differ from the previous one.
    pub(super) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Requests a new list of everything on a node. The returned number identifies the request for
    /// [`Watcher::has_seen_node`].
    pub(super) fn request_node(&self, node: &NodeName) -> u64 {
        let request = self.shared.requests.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(slot) = self.shared.views().nodes.get_mut(node) {
            slot.request = request;
            slot.requested.notify_one();
        }
        request
    }

    /// Requests a new list of the cloud's nodes.
    pub(super) fn request_cloud(&self) -> u64 {
        let request = self.shared.requests.fetch_add(1, Ordering::SeqCst) + 1;
        self.shared.views().cloud_request = request;
        self.shared.cloud_requested.notify_one();
        request
    }

    /// Forgets how often the containers ended, and restarts the time limit of those that are not
    /// ready.
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

    /// Records that the manager is about to stop a container.
    pub(super) fn expect_end(&self, container: &ContainerId, stop: Stop) {
        self.shared.views().liveness.expect_end(container, stop);
    }

    /// Returns whether the node's engine has been listed since this request; true for a node that
    /// is gone.
    pub(super) fn has_seen_node(&self, node: &NodeName, request: u64) -> bool {
        self.shared
            .views()
            .nodes
            .get(node)
            .is_none_or(|slot| slot.as_of >= request)
    }

    /// Returns whether the cloud has been polled since this request.
    pub(super) fn has_seen_cloud(&self, request: u64) -> bool {
        self.shared
            .views()
            .cloud
            .as_ref()
            .is_some_and(|c| c.as_of >= request)
    }

    /// Returns the current observation, and how often each container ended by itself; `None` until
    /// the cloud has been polled once.
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
