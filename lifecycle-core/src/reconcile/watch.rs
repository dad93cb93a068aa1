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
    engine: EngineView,
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
        let mut asked_to_wait = Duration::ZERO;
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
                if publish_cloud(&shared, &mut tasks, machines, as_of) {
                    shared.changed.notify_one();
                }
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
                drop(views);
                shared.changed.notify_one();
                match error.retry() {
                    Retry::After(after) => {
                        asked_to_wait = after;
                        after.max(Duration::from_secs(2))
                    }
                    Retry::Replan | Retry::Never => shared.policy.cloud_interval,
                }
            }
        };
        // However much a new list is wanted: not before the cloud allows it, and no storm of
        // lists while several nodes cannot be asked.
        let least = asked_to_wait.max(shared.policy.eager_interval);
        tokio::time::sleep(least).await;
        tokio::select! {
            biased;
            () = shared.cloud_wanted.notified() => {}
            () = tokio::time::sleep(wait.saturating_sub(least)) => {}
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// Takes a list of nodes over; says whether it differs from the one before or was asked for.
fn publish_cloud(
    shared: &Arc<Shared>,
    tasks: &mut JoinSet<()>,
    machines: Vec<ObservedNode>,
    as_of: u64,
) -> bool {
    let mut views = shared.views();
    let mut is_awaited = match &views.cloud {
        Some(before) => before.unknown.is_some() || before.as_of < views.cloud_request,
        None => true,
    };
    let mut slots = std::mem::take(&mut views.nodes);
    for machine in machines {
        let name = machine.name.clone();
        let slot = if let Some(mut slot) = slots.remove(&name) {
            if slot.machine.borrow().provider_id != machine.provider_id {
                // Another machine under the same name: what was on the old one is gone.
                slot.engine = EngineView::NotAsked;
            }
            is_awaited |= slot.machine.send_if_modified(|old| {
                let differs = *old != machine;
                *old = machine;
                differs
            });
            slot
        } else {
            is_awaited = true;
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
                request: 0,
                wanted,
                task: tasks.spawn(node.run()),
            }
        };
        views.nodes.insert(name, slot);
    }
    // What is left in `slots` is gone from the cloud; dropping it ends its task.
    is_awaited |= !slots.is_empty();
    views.cloud = Some(CloudView {
        as_of,
        unknown: None,
    });
    is_awaited
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
                self.publish(EngineView::NotAsked, as_of, false);
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
                Ok((view, is_news)) => {
                    failures = 0;
                    let eager = self.publish(view, as_of, is_news);
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

    /// One complete look at the node; says too whether it told anything new of readiness.
    async fn look(
        &self,
        machine: &ObservedNode,
        events: &mut Option<Events>,
    ) -> Result<(EngineView, bool)> {
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
                return Ok((EngineView::Missing, false));
            }
        };
        if events.is_none() {
            // Before the look, so that nothing that happens after it is missed.
            *events = Some(handle.runtime.events().await?);
        }
        let state = handle.runtime.state().await?;
        let is_news = self.check_readiness(machine, &state).await;
        Ok((EngineView::Known { info, state }, is_news))
    }

    async fn check_readiness(
        &self,
        machine: &ObservedNode,
        state: &crate::runtime::EngineState,
    ) -> bool {
        let Some(declared) = self.shared.declared.borrow().clone() else {
            return false;
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
        let mut is_news = false;
        for (container, answers) in verdicts {
            is_news |= views.liveness.note(container, answers, now);
        }
        views.liveness.keep_on(&self.name, &state.containers);
        is_news
    }

    /// Publishes a view and says whether something on it is on its way. Who waits for changes
    /// is told if the view or what is known of readiness differs, or if it was asked for:
    /// planning anew for every look at every node would be most of the work.
    fn publish(&self, view: EngineView, as_of: u64, is_news: bool) -> bool {
        let mut views = self.shared.views();
        let eager = match &view {
            EngineView::Known { state, .. } => state
                .containers
                .iter()
                .any(|c| views.liveness.is_waiting(c)),
            EngineView::Missing | EngineView::NotAsked | EngineView::Unknown(_) => false,
        };
        let mut is_awaited = is_news;
        if let Some(slot) = views.nodes.get_mut(&self.name) {
            is_awaited |= slot.engine != view || slot.as_of < slot.request.max(1);
            slot.engine = view;
            slot.as_of = as_of;
        }
        drop(views);
        if is_awaited {
            self.shared.changed.notify_one();
        }
        eager
    }

    fn publish_unknown(&self, error: &Error, as_of: u64) {
        let since = match self.shared.views().nodes.get(&self.name).map(|s| &s.engine) {
            Some(EngineView::Unknown(unknown)) => unknown.since,
            _ => self.shared.backends.clock.now(),
        };
        let why = error.chain();
        self.publish(EngineView::Unknown(Unknown { since, why }), as_of, false);
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
