//! Finds out what exists: one task asks the cloud, one task per node asks its engine and the
//! readiness of what runs there. Nobody waits for anybody: a node that hangs is unknown, and
//! holds up only itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::backends::Backends;
use super::declared::Declared;
use super::liveness::Liveness;
use super::observe::{EngineView, NodeView, Observed};
use crate::cloud::{ObservedNode, Power};
use crate::error::{Error, Result, Retry};
use crate::host::HostCommand;
use crate::model::{ContainerId, NodeName};
use crate::registry::Unknown;
use crate::runtime::{EngineEvent, EngineState};

/// How long after its end a stream of events is asked for again.
const EVENTS_AGAIN: Duration = Duration::from_secs(1);

/// How often is looked, and how long an answer may take.
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
            looks_before_unknown: 3,
            unknown_after: Duration::from_secs(5),
            again_timeout: Duration::from_secs(5),
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
            let (readiness, endings) = liveness.of(&state.containers);
            let view = Arc::make_mut(&mut slot.view);
            (view.readiness, view.endings) = (readiness, endings);
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

    /// What is known now; `None` until the cloud was asked once.
    pub(super) fn observed(&self) -> Option<Observed> {
        let views = self.shared.views();
        let cloud = views.cloud.as_ref()?;
        Some(Observed {
            cloud_unknown: cloud.unknown.clone(),
            nodes: views
                .nodes
                .iter()
                .map(|(name, slot)| (name.clone(), Arc::clone(&slot.view)))
                .collect(),
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
                let moving = machines.iter().any(is_changing);
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
        let mut slot = if let Some(mut slot) = slots.remove(&name) {
            if slot.view.machine.provider_id != machine.provider_id {
                // Another machine under the same name: what was on the old one is gone.
                slot.view = Arc::new(NodeView::not_asked(machine.clone()));
            }
            is_awaited |= slot.machine.send_if_modified(|old| {
                let differs = *old != machine;
                if differs {
                    let view = Arc::make_mut(&mut slot.view);
                    let same = is_changing(&machine) && view.machine.power == machine.power;
                    view.changing_since = view.changing_since.filter(|_| same);
                    view.machine = machine.clone();
                    *old = machine;
                }
                differs
            });
            slot
        } else {
            is_awaited = true;
            let view = Arc::new(NodeView::not_asked(machine.clone()));
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
                view,
                as_of: 0,
                request: 0,
                wanted,
                task: tasks.spawn(node.run()),
            }
        };
        if is_changing(&slot.view.machine) && slot.view.changing_since.is_none() {
            let now = shared.backends.clock.now();
            Arc::make_mut(&mut slot.view).changing_since = Some(now);
        }
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

fn is_changing(machine: &ObservedNode) -> bool {
    matches!(machine.power, Power::Starting | Power::Stopping)
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
        let mut silence: Option<Silence> = None;
        loop {
            let as_of = self.shared.requests.load(Ordering::SeqCst);
            let machine = self.machine.borrow_and_update().clone();
            if machine.power != Power::Running {
                (events, silence) = (None, None);
                self.publish(EngineView::NotAsked, as_of);
                tokio::select! {
                    biased;
                    changed = self.machine.changed() => if changed.is_err() { return },
                    () = self.wanted.notified() => {}
                }
                continue;
            }
            let policy = &self.shared.policy;
            let timeout = match &silence {
                None => policy.node_timeout,
                Some(_) => policy.again_timeout.min(policy.node_timeout),
            };
            let began = Instant::now();
            let look = tokio::time::timeout(timeout, self.look(&machine, &mut events));
            let answer = look.await.unwrap_or_else(|_| {
                Err(Error::TimedOut {
                    what: format!("node {}'s answer", self.name),
                    after: timeout,
                })
            });
            let wait = match answer {
                Ok(view) => {
                    silence = None;
                    if self.publish(view, as_of) {
                        policy.eager_interval
                    } else {
                        policy.node_interval
                    }
                }
                Err(error) => {
                    events = None;
                    let silence = silence.get_or_insert_with(|| Silence {
                        began,
                        since: self.shared.backends.clock.now(),
                        looks: 0,
                    });
                    silence.looks = silence.looks.saturating_add(1);
                    self.publish_silence(silence, &error, as_of);
                    let backoff = Duration::from_millis(250 << silence.looks.min(5));
                    backoff.min(policy.node_interval)
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

    async fn check_readiness(&self, machine: &ObservedNode, state: &EngineState) {
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

    /// Publishes what the engine says, and says whether something on it is on its way. Who waits
    /// for changes is told if that or what is known of readiness differs, or if it was asked for:
    /// planning anew for every look at every node would be most of the work.
    fn publish(&self, engine: EngineView, as_of: u64) -> bool {
        let mut views = self.shared.views();
        let (mut eager, mut known) = (false, (BTreeMap::new(), BTreeMap::new()));
        if let EngineView::Known { state, .. } = &engine {
            let mut containers = state.containers.iter();
            eager = containers.any(|c| views.liveness.is_waiting(c));
            known = views.liveness.of(&state.containers);
        }
        let mut is_awaited = false;
        if let Some(slot) = views.nodes.get_mut(&self.name) {
            let (readiness, endings) = known;
            let view = NodeView {
                machine: slot.view.machine.clone(),
                changing_since: slot.view.changing_since,
                engine,
                silence: None,
                readiness,
                endings,
            };
            is_awaited = *slot.view != view || slot.as_of < slot.request.max(1);
            if *slot.view != view {
                slot.view = Arc::new(view);
            }
            slot.as_of = as_of;
        }
        drop(views);
        if is_awaited {
            self.shared.changed.notify_one();
        }
        eager
    }

    /// Publishes that the node does not answer: that it is silent, then that it is unknown.
    fn publish_silence(&self, silence: &Silence, error: &Error, as_of: u64) {
        let policy = &self.shared.policy;
        let unknown = Unknown {
            since: silence.since,
            why: error.chain(),
        };
        if silence.looks >= policy.looks_before_unknown
            && silence.began.elapsed() >= policy.unknown_after
        {
            self.publish(EngineView::Unknown(unknown), as_of);
        } else {
            let mut views = self.shared.views();
            if let Some(slot) = views.nodes.get_mut(&self.name)
                && slot.view.silence.is_none()
            {
                Arc::make_mut(&mut slot.view).silence = Some(unknown);
                self.shared.changed.notify_one();
            }
        }
        // A machine that stopped, or came back under another address, explains an error.
        self.shared.cloud_wanted.notify_one();
    }
}

/// How long a node has not answered.
#[derive(Debug)]
struct Silence {
    /// When the first look that failed began.
    began: Instant,
    /// When it failed.
    since: DateTime<Utc>,
    /// How many have failed since.
    looks: u32,
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
