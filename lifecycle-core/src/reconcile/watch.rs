//! Finds out what exists: one task asks the cloud, one task per node asks its engine and the
//! readiness of what runs there. Nobody waits for anybody: a node that hangs is unknown, and
//! holds up only itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::backends::Backends;
use super::declared::Declared;
use super::liveness::Liveness;
use super::observe::{EngineView, NodeView, Observed};
use crate::cloud::{ObservedNode, Power};
use crate::error::{Error, Result, Retry};
use crate::host::HostCommand;
use crate::model::NodeName;
use crate::registry::Unknown;
use crate::runtime::EngineEvent;

/// How long after its end a stream of events is asked for again.
const EVENTS_AGAIN: Duration = Duration::from_secs(1);

/// How often is looked, and how long an answer may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchPolicy {
    /// How long a node may take to tell its state before it counts as unknown.
    pub node_timeout: Duration,
    /// How long the cloud may take to list its nodes.
    pub cloud_timeout: Duration,
    /// How often a node is asked when nothing happens.
    pub node_interval: Duration,
    /// How often the cloud is asked when nothing happens.
    pub cloud_interval: Duration,
    /// How often is looked while something is on its way: a node that starts, a container that
    /// is not ready.
    pub eager_interval: Duration,
}

impl Default for WatchPolicy {
    fn default() -> Self {
        Self {
            node_timeout: Duration::from_secs(20),
            cloud_timeout: Duration::from_mins(1),
            node_interval: Duration::from_secs(10),
            cloud_interval: Duration::from_secs(30),
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
}

#[derive(Debug)]
struct CloudView {
    as_of: u64,
    unknown: Option<Unknown>,
}

#[derive(Debug)]
struct Slot {
    machine: watch::Sender<ObservedNode>,
    engine: EngineView,
    as_of: u64,
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
        tasks.spawn(watch_cloud(Arc::clone(&shared)));
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
        if let Some(slot) = self.shared.views().nodes.get(node) {
            slot.wanted.notify_one();
        }
        request
    }

    /// Asks for a new list of nodes.
    pub(super) fn look_at_cloud(&self) -> u64 {
        let request = self.shared.requests.fetch_add(1, Ordering::SeqCst) + 1;
        self.shared.cloud_wanted.notify_one();
        request
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

    /// What is known now; `None` until the cloud was asked once.
    pub(super) fn observed(&self) -> Option<Observed> {
        let views = self.shared.views();
        let cloud = views.cloud.as_ref()?;
        Some(Observed {
            cloud_unknown: cloud.unknown.clone(),
            nodes: views
                .nodes
                .iter()
                .map(|(name, slot)| {
                    let view = NodeView {
                        machine: slot.machine.borrow().clone(),
                        engine: slot.engine.clone(),
                    };
                    (name.clone(), view)
                })
                .collect(),
            readiness: views.liveness.readiness(),
            endings: views.liveness.endings(),
            ..Observed::default()
        })
    }
}

impl Shared {
    fn views(&self) -> MutexGuard<'_, Views> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn watch_cloud(shared: Arc<Shared>) {
    // The tasks of the nodes live in this set, so they end with this task.
    let mut tasks = JoinSet::new();
    loop {
        let as_of = shared.requests.load(Ordering::SeqCst);
        let list = tokio::time::timeout(shared.policy.cloud_timeout, shared.backends.cloud.list());
        let answer = list.await.unwrap_or_else(|_| {
            Err(Error::TimedOut {
                what: "the cloud's list of nodes".into(),
                after: shared.policy.cloud_timeout,
            })
        });
        let wait = match answer {
            Ok(machines) => {
                let moving = machines
                    .iter()
                    .any(|m| matches!(m.power, Power::Starting | Power::Stopping));
                publish_cloud(&shared, &mut tasks, machines, as_of);
                if moving {
                    shared.policy.eager_interval
                } else {
                    shared.policy.cloud_interval
                }
            }
            Err(error) => {
                let mut views = shared.views();
                let since = views
                    .cloud
                    .as_ref()
                    .and_then(|c| c.unknown.as_ref())
                    .map_or_else(|| shared.backends.clock.now(), |u| u.since);
                views.cloud = Some(CloudView {
                    as_of,
                    unknown: Some(Unknown {
                        since,
                        why: error.chain(),
                    }),
                });
                match error.retry() {
                    Retry::After(after) => after.max(Duration::from_secs(2)),
                    Retry::Replan | Retry::Never => shared.policy.cloud_interval,
                }
            }
        };
        shared.changed.notify_one();
        tokio::select! {
            biased;
            () = shared.cloud_wanted.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
        while tasks.try_join_next().is_some() {}
    }
}

fn publish_cloud(
    shared: &Arc<Shared>,
    tasks: &mut JoinSet<()>,
    machines: Vec<ObservedNode>,
    as_of: u64,
) {
    let mut views = shared.views();
    let mut slots = std::mem::take(&mut views.nodes);
    for machine in machines {
        let name = machine.name.clone();
        let slot = if let Some(slot) = slots.remove(&name) {
            slot.machine.send_if_modified(|old| {
                let differs = *old != machine;
                *old = machine;
                differs
            });
            slot
        } else {
            let (sender, receiver) = watch::channel(machine);
            let wanted = Arc::new(Notify::new());
            let node = WatchedNode {
                shared: Arc::clone(shared),
                name: name.clone(),
                machine: receiver,
                wanted: Arc::clone(&wanted),
            };
            Slot {
                machine: sender,
                engine: EngineView::NotAsked,
                as_of: 0,
                wanted,
                task: tasks.spawn(node.run()),
            }
        };
        views.nodes.insert(name, slot);
    }
    // What is left in `slots` is gone from the cloud; dropping it ends its task.
    views.cloud = Some(CloudView {
        as_of,
        unknown: None,
    });
}

struct WatchedNode {
    shared: Arc<Shared>,
    name: NodeName,
    machine: watch::Receiver<ObservedNode>,
    wanted: Arc<Notify>,
}

type Events = BoxStream<'static, Result<EngineEvent>>;

impl WatchedNode {
    async fn run(mut self) {
        let mut events: Option<Events> = None;
        let mut failures = 0_u32;
        loop {
            let as_of = self.shared.requests.load(Ordering::SeqCst);
            let machine = self.machine.borrow_and_update().clone();
            if machine.power != Power::Running {
                events = None;
                self.publish(EngineView::NotAsked, as_of);
                tokio::select! {
                    biased;
                    changed = self.machine.changed() => if changed.is_err() { return },
                    () = self.wanted.notified() => {}
                }
                continue;
            }
            let timeout = self.shared.policy.node_timeout;
            let look = tokio::time::timeout(timeout, self.look(&machine, &mut events));
            let answer = look.await.unwrap_or_else(|_| {
                Err(Error::TimedOut {
                    what: format!("node {}'s answer", self.name),
                    after: timeout,
                })
            });
            let wait = match answer {
                Ok(view) => {
                    failures = 0;
                    let eager = self.publish(view, as_of);
                    if eager {
                        self.shared.policy.eager_interval
                    } else {
                        self.shared.policy.node_interval
                    }
                }
                Err(error) => {
                    events = None;
                    failures = failures.saturating_add(1);
                    self.publish_unknown(&error, as_of);
                    let backoff = Duration::from_millis(250 << failures.min(5));
                    backoff.min(self.shared.policy.node_interval)
                }
            };
            tokio::select! {
                biased;
                () = self.wanted.notified() => {}
                changed = self.machine.changed() => if changed.is_err() { return },
                () = happened(&mut events) => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One complete look at the node.
    async fn look(
        &self,
        machine: &ObservedNode,
        events: &mut Option<Events>,
    ) -> Result<EngineView> {
        let handle = self.shared.backends.connector.connect(machine).await?;
        let info = match handle.runtime.info().await {
            Ok(info) => info,
            Err(error) => {
                // The engine is silent. If the host answers, the engine is what is missing.
                handle
                    .host
                    .exec(HostCommand::new("true").within(Duration::from_secs(10)))
                    .await?;
                tracing::debug!(node = %self.name, error = %error.chain(), "no engine answers");
                return Ok(EngineView::Missing);
            }
        };
        if events.is_none() {
            // Before the look, so that nothing that happens after it is missed.
            *events = Some(handle.runtime.events().await?);
        }
        let state = handle.runtime.state().await?;
        self.check_readiness(machine, &state).await;
        Ok(EngineView::Known { info, state })
    }

    async fn check_readiness(&self, machine: &ObservedNode, state: &crate::runtime::EngineState) {
        let Some(declared) = self.shared.declared.borrow().clone() else {
            return;
        };
        let checks = state.containers.iter().map(|container| {
            let declared = Arc::clone(&declared);
            async move {
                let answers = super::liveness::answers(
                    &declared,
                    machine,
                    container,
                    self.shared.backends.probe.as_ref(),
                )
                .await;
                (container, answers)
            }
        });
        let verdicts: Vec<_> = futures_util::future::join_all(checks).await;
        let now = self.shared.backends.clock.now();
        let mut views = self.shared.views();
        for (container, answers) in verdicts {
            views.liveness.note(container, answers, now);
        }
        views.liveness.keep_on(&self.name, &state.containers);
    }

    /// Publishes a view and says whether something on it is on its way.
    fn publish(&self, view: EngineView, as_of: u64) -> bool {
        let mut views = self.shared.views();
        let eager = match &view {
            EngineView::Known { state, .. } => state
                .containers
                .iter()
                .any(|c| views.liveness.is_waiting(c)),
            EngineView::Missing | EngineView::NotAsked | EngineView::Unknown(_) => false,
        };
        if let Some(slot) = views.nodes.get_mut(&self.name) {
            slot.engine = view;
            slot.as_of = as_of;
        }
        drop(views);
        self.shared.changed.notify_one();
        eager
    }

    fn publish_unknown(&self, error: &Error, as_of: u64) {
        let since = match self.shared.views().nodes.get(&self.name).map(|s| &s.engine) {
            Some(EngineView::Unknown(unknown)) => unknown.since,
            _ => self.shared.backends.clock.now(),
        };
        let why = error.chain();
        self.publish(EngineView::Unknown(Unknown { since, why }), as_of);
        // A machine that stopped, or came back under another address, explains an error.
        self.shared.cloud_wanted.notify_one();
    }
}

/// Waits for the next event; for ever without a stream. A stream that ended is dropped.
async fn happened(events: &mut Option<Events>) {
    let Some(stream) = events else {
        return std::future::pending().await;
    };
    if !matches!(stream.next().await, Some(Ok(_))) {
        *events = None;
        // An engine that ends every stream at once must not be asked without a pause.
        tokio::time::sleep(EVENTS_AGAIN).await;
    }
}
