//! Watches one node: lists everything on its engine, follows the engine's events, and checks the
//! readiness of containers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Shared;
use crate::cloud::{ObservedNode, Power};
use crate::error::{Error, Result};
use crate::host::{HostCommand, NodeHandle};
use crate::model::{ContainerId, NodeName};
use crate::reconcile::declared::Declared;
use crate::reconcile::liveness;
use crate::reconcile::observe::{EngineView, NodeView};
use crate::registry::Unknown;
use crate::runtime::{EngineEvent, EngineInfo, EngineState, ObservedContainer};

/// How long to wait before reopening an event stream that has ended.
const EVENTS_AGAIN: Duration = Duration::from_secs(1);
/// How long the host may take to answer when its engine does not answer.
const HOST_ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// How many times longer than the node's time limit an engine may take that answers pings.
const SLOW: u32 = 6;
/// The pause after the first failed poll. It doubles with each further failure.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);

pub(super) struct NodeWatch {
    pub(super) shared: Arc<Shared>,
    pub(super) name: NodeName,
    pub(super) machine: watch::Receiver<ObservedNode>,
    pub(super) declared: watch::Receiver<Option<Arc<Declared>>>,
    /// Notified when a new list is requested.
    pub(super) requested: Arc<Notify>,
}

type Events = BoxStream<'static, Result<EngineEvent>>;

/// The engine's properties, its events, and everything on it.
type Contents = (EngineInfo, Events, EngineState);

enum State {
    /// Everything on the node must be listed. Contains the outage if previous attempts failed.
    Listing(Option<Outage>),
    /// The engine's contents are known, and events keep them up to date.
    Following(Box<Following>),
    /// The host answers but its engine does not.
    WithoutEngine,
    /// Neither the host nor the engine answers.
    Unreachable(Outage),
    /// The VM is not running, so it has no engine to poll.
    Off,
}

/// An engine whose contents are known.
struct Following {
    machine: ObservedNode,
    handle: NodeHandle,
    /// The stream of events; `None` after it has ended.
    events: Option<Events>,
    info: EngineInfo,
    state: EngineState,
    /// The number of the latest observation request that the list has served.
    as_of: u64,
    list_at: Instant,
    check_at: Instant,
    ping_at: Instant,
}

/// A period in which a node does not answer.
#[derive(Debug)]
struct Outage {
    /// When the first failed attempt started.
    began: Instant,
    /// When the first attempt failed.
    since: DateTime<Utc>,
    failures: u32,
    /// Whether the host answered at the latest attempt.
    host_answers: bool,
}

/// The event that ended a wait.
enum Wakeup {
    /// A new list was requested.
    Requested,
    /// The cloud reports a change of the VM.
    Machine,
    Declared,
    Event(Option<Result<EngineEvent>>),
    Due,
}

impl NodeWatch {
    /// Runs until the node is gone.
    pub(super) async fn run(mut self) {
        let mut state = Some(State::Listing(None));
        while let Some(now) = state {
            state = self.next(now).await;
        }
    }

    /// Returns the next state; `None` when the node is gone.
    async fn next(&mut self, state: State) -> Option<State> {
        match state {
            State::Listing(outage) => Some(self.list(outage).await),
            State::Following(following) => self.follow(following).await,
            State::WithoutEngine => {
                let again = Instant::now() + self.shared.policy.check_interval;
                self.wakeup(None, Some(again)).await?;
                Some(State::Listing(None))
            }
            State::Unreachable(outage) => {
                let backoff = FIRST_BACKOFF * (1 << outage.failures.min(5));
                let again = Instant::now() + backoff.min(self.shared.policy.node_interval);
                self.wakeup(None, Some(again)).await?;
                Some(State::Listing(Some(outage)))
            }
            State::Off => {
                self.wakeup(None, None).await?;
                Some(State::Listing(None))
            }
        }
    }

    /// Waits for the next wakeup; returns `None` when the node is gone.
    async fn wakeup(
        &mut self,
        events: Option<&mut Events>,
        due: Option<Instant>,
    ) -> Option<Wakeup> {
        let event = async {
            match events {
                Some(events) => events.next().await,
                None => std::future::pending().await,
            }
        };
        let due = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.requested.notified() => Some(Wakeup::Requested),
            changed = self.machine.changed() => changed.is_ok().then_some(Wakeup::Machine),
            Ok(()) = self.declared.changed() => Some(Wakeup::Declared),
            event = event => Some(Wakeup::Event(event)),
            () = due => Some(Wakeup::Due),
        }
    }

    /// Lists everything on the node.
    async fn list(&mut self, outage: Option<Outage>) -> State {
        let policy = self.shared.policy.clone();
        let as_of = self.shared.requests.load(Ordering::SeqCst);
        let machine = self.machine.borrow_and_update().clone();
        if machine.power != Power::Running {
            self.publish(EngineView::NotAsked, as_of);
            return State::Off;
        }
        let limit = match &outage {
            None => policy.node_timeout,
            Some(_) => policy.again_timeout.min(policy.node_timeout),
        };
        let began = Instant::now();
        let answer = async {
            let Some(handle) = self.within(limit, self.reach(&machine)).await? else {
                return Ok(None);
            };
            let contents = contents(&handle);
            let contents = self.while_answering(&handle, contents).await?;
            Ok(Some(self.following(&machine, handle, contents, as_of)))
        };
        // At the same time, so that the two time limits do not add up.
        let is_retry = outage.is_some();
        let host = async {
            let answers = self.within(policy.again_timeout, self.host_answers(&machine));
            is_retry && answers.await.is_ok()
        };
        let (answer, host_answers) = tokio::join!(answer, host);
        match answer {
            Ok(Some(mut following)) => {
                self.check(&mut following, None).await;
                self.publish_following(&following);
                State::Following(Box::new(following))
            }
            Ok(None) => {
                self.publish(EngineView::Missing, as_of);
                State::WithoutEngine
            }
            Err(error) => {
                let mut outage = outage.unwrap_or_else(|| Outage {
                    began,
                    ..self.outage_now(0)
                });
                outage.host_answers = host_answers || !is_retry;
                outage.failures = outage.failures.saturating_add(1);
                self.publish_outage(&outage, &error, as_of);
                State::Unreachable(outage)
            }
        }
    }

    /// Returns the outage that begins now if the node does not answer.
    fn outage_now(&self, failures: u32) -> Outage {
        Outage {
            began: Instant::now(),
            since: self.shared.backends.clock.now(),
            failures,
            host_answers: true,
        }
    }

    /// Connects to the node; returns `None` if the host answers but no engine does.
    async fn reach(&self, machine: &ObservedNode) -> Result<Option<NodeHandle>> {
        let handle = self.shared.backends.connector.connect(machine).await?;
        if let Err(error) = handle.runtime.ping().await {
            let answers = HostCommand::new("true").within(HOST_ANSWERS_WITHIN);
            handle.host.exec(answers).await?;
            tracing::debug!(node = %self.name, error = %error.chain(), "no engine responds");
            return Ok(None);
        }
        Ok(Some(handle))
    }

    async fn host_answers(&self, machine: &ObservedNode) -> Result<()> {
        let handle = self.shared.backends.connector.connect(machine).await?;
        handle.host.exec(HostCommand::new("true")).await.map(drop)
    }

    fn following(
        &self,
        machine: &ObservedNode,
        handle: NodeHandle,
        (info, events, state): Contents,
        as_of: u64,
    ) -> Following {
        let now = Instant::now();
        Following {
            machine: machine.clone(),
            handle,
            events: Some(events),
            info,
            state,
            as_of,
            list_at: now + self.shared.policy.node_interval,
            check_at: now,
            ping_at: now + self.shared.policy.ping_interval,
        }
    }

    /// Handles the next wakeup while the engine's contents are known.
    async fn follow(&mut self, mut following: Box<Following>) -> Option<State> {
        let due = following.check_at.min(following.list_at);
        let due = due.min(following.ping_at);
        match self.wakeup(following.events.as_mut(), Some(due)).await? {
            Wakeup::Machine => return Some(State::Listing(None)),
            Wakeup::Requested => return Some(self.list_again(*following).await),
            Wakeup::Due if Instant::now() >= following.list_at => {
                return Some(self.list_again(*following).await);
            }
            Wakeup::Due if Instant::now() >= following.ping_at => {
                let outage = self.outage_now(1);
                if let Err(error) = self.ping(&mut following).await {
                    self.publish_outage(&outage, &error, following.as_of);
                    return Some(State::Listing(Some(outage)));
                }
            }
            Wakeup::Due | Wakeup::Declared => self.check(&mut following, None).await,
            Wakeup::Event(event) => {
                let mut changed = following.changed(event);
                let outage = self.outage_now(1);
                if let Err(error) = self.inspect(&mut following, &changed).await {
                    tracing::debug!(node = %self.name, error = %error.chain(),
                        "listing the containers again");
                    return Some(State::Listing(Some(outage)));
                }
                following.add_joining(&mut changed);
                self.check(&mut following, Some(&changed)).await;
            }
        }
        self.publish_following(&following);
        Some(State::Following(following))
    }

    /// Lists everything again and keeps the stream of events if it is open.
    async fn list_again(&mut self, mut following: Following) -> State {
        let as_of = self.shared.requests.load(Ordering::SeqCst);
        if following.events.is_none() {
            // The engine was restarted, or the node is cut off.
            return State::Listing(Some(self.outage_now(0)));
        }
        let outage = self.outage_now(1);
        // `info` is still valid: an engine restart would have ended the stream of events.
        let state = following.handle.runtime.state();
        let Ok(state) = self.while_answering(&following.handle, state).await else {
            return State::Listing(Some(outage));
        };
        following.state = state;
        following.as_of = as_of;
        let now = Instant::now();
        following.list_at = now + self.shared.policy.node_interval;
        following.ping_at = now + self.shared.policy.ping_interval;
        self.check(&mut following, None).await;
        self.publish_following(&following);
        State::Following(Box::new(following))
    }

    /// Checks that the engine still answers. An open event stream does not show this.
    async fn ping(&self, following: &mut Following) -> Result<()> {
        let limit = self.shared.policy.again_timeout;
        let answer = self.within(limit, following.handle.runtime.ping()).await;
        following.ping_at = Instant::now() + self.shared.policy.ping_interval;
        answer
    }

    /// Waits for an answer, but only while the engine answers pings. A slow engine is not unknown.
    async fn while_answering<T>(
        &self,
        handle: &NodeHandle,
        ask: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let policy = &self.shared.policy;
        let unanswered = async {
            loop {
                sleep(policy.ping_interval).await;
                let ping = handle.runtime.ping();
                if let Err(error) = self.within(policy.again_timeout, ping).await {
                    return error;
                }
            }
        };
        tokio::select! {
            answer = self.within(policy.node_timeout * SLOW, ask) => answer,
            error = unanswered => Err(error),
        }
    }

    async fn within<T>(&self, limit: Duration, ask: impl Future<Output = Result<T>>) -> Result<T> {
        timeout(limit, ask).await.unwrap_or_else(|_| {
            Err(Error::TimedOut {
                what: format!("the response of node {}", self.name),
                after: limit,
            })
        })
    }

    /// Inspects only the changed containers and updates their observations.
    async fn inspect(
        &self,
        following: &mut Following,
        changed: &BTreeSet<ContainerId>,
    ) -> Result<()> {
        for id in changed {
            let runtime = &following.handle.runtime;
            let asked = runtime.container(&id.0);
            let found = self.while_answering(&following.handle, asked).await?;
            let containers = &mut following.state.containers;
            containers.retain(|container| container.id != *id);
            containers.extend(found);
            containers.sort_by(|a, b| a.name.cmp(&b.name));
        }
        Ok(())
    }

    /// Checks the readiness of all containers, or only of `changed`, and schedules the next check.
    async fn check(&self, following: &mut Following, changed: Option<&BTreeSet<ContainerId>>) {
        let (machine, state) = (&following.machine, &following.state);
        let declared = self.shared.declared.borrow().clone();
        let is_due = |c: &&ObservedContainer| changed.is_none_or(|ids| ids.contains(&c.id));
        let checks = state.containers.iter().filter(is_due).map(|container| {
            let declared = declared.clone();
            async move {
                let declared = declared?;
                let probe = self.shared.backends.probe.as_ref();
                let answer = liveness::answers(&declared, machine, state, container, probe).await;
                Some((container, answer))
            }
        });
        let answers: Vec<_> = futures_util::future::join_all(checks).await;
        let now = self.shared.backends.clock.now();
        let mut views = self.shared.views();
        for (container, answer) in answers.into_iter().flatten() {
            views.liveness.note(container, answer, now);
        }
        views.liveness.keep_on(&self.name, &state.containers);
        let wait = views
            .liveness
            .next_check(&state.containers, &self.shared.policy, now);
        following.check_at = Instant::now() + wait;
    }

    fn publish_following(&self, following: &Following) {
        let mut state = following.state.clone();
        let platform = self.shared.declared.borrow().as_ref().map(|d| d.owner.id);
        let is_stranger = |container: &mut ObservedContainer| {
            platform.is_some_and(|platform| !container.has_name_of_instance(platform))
        };
        let strangers = state.containers.extract_if(.., is_stranger).collect();
        let info = following.info.clone();
        self.publish_with(
            EngineView::Known { info, state },
            strangers,
            false,
            following.as_of,
        );
    }

    /// Publishes a view of the engine. To save plans, notifies subscribers only of a change or a
    /// requested observation.
    fn publish(&self, engine: EngineView, as_of: u64) {
        self.publish_with(engine, Vec::new(), false, as_of);
    }

    fn publish_with(
        &self,
        engine: EngineView,
        strangers: Vec<ObservedContainer>,
        cut_off: bool,
        as_of: u64,
    ) {
        let mut views = self.shared.views();
        let readiness = match &engine {
            EngineView::Known { state, .. } => {
                let mut readiness = views.liveness.readiness_of(&state.containers);
                readiness.extend(views.liveness.readiness_of(&strangers));
                readiness
            }
            _ => BTreeMap::new(),
        };
        let mut is_awaited = false;
        if let Some(slot) = views.nodes.get_mut(&self.name) {
            let view = NodeView {
                machine: slot.view.machine.clone(),
                changing_since: slot.view.changing_since,
                engine,
                not_responding: None,
                cut_off,
                readiness,
                strangers,
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
    }

    /// Publishes an outage: the node first counts as not responding, later as unknown.
    fn publish_outage(&self, outage: &Outage, error: &Error, as_of: u64) {
        let policy = &self.shared.policy;
        let unknown = Unknown {
            since: outage.since,
            why: error.chain(),
        };
        if outage.failures >= policy.failures_before_unknown
            && outage.began.elapsed() >= policy.unknown_after
        {
            let view = EngineView::Unknown(unknown);
            self.publish_with(view, Vec::new(), !outage.host_answers, as_of);
        } else {
            let mut views = self.shared.views();
            if let Some(slot) = views.nodes.get_mut(&self.name)
                && slot.view.not_responding.is_none()
            {
                Arc::make_mut(&mut slot.view).not_responding = Some(unknown);
                self.shared.changed.notify_one();
            }
        }
        // Poll the cloud too: the VM may have stopped, or its address may have changed.
        self.shared.cloud_requested.notify_one();
    }
}

/// Lists everything on an engine.
async fn contents(handle: &NodeHandle) -> Result<Contents> {
    let info = handle.runtime.info().await?;
    // Open the stream before listing, so that changes during the listing are not missed.
    let events = handle.runtime.events().await?;
    let state = handle.runtime.state().await?;
    Ok((info, events, state))
}

impl Following {
    /// Adds the containers that join the network of a changed container.
    fn add_joining(&self, changed: &mut BTreeSet<ContainerId>) {
        let containers = self.state.containers.iter();
        let joins = |container: &&ObservedContainer| {
            container
                .joins
                .as_ref()
                .is_some_and(|joined| changed.contains(joined))
        };
        let joining: Vec<ContainerId> = containers.filter(joins).map(|c| c.id.clone()).collect();
        changed.extend(joining);
    }

    /// Handles this event and all queued events. If the stream has ended, schedules a new list.
    fn changed(&mut self, event: Option<Result<EngineEvent>>) -> BTreeSet<ContainerId> {
        let mut changed = BTreeSet::new();
        let mut next = Some(event);
        while let Some(event) = next {
            next = None;
            if let Some(Ok(event)) = event {
                changed.insert(event.container);
                let events = self.events.as_mut();
                next = events.and_then(|events| events.next().now_or_never());
            } else {
                self.events = None;
                // Limit the rate in case the engine ends every stream immediately.
                self.list_at = self.list_at.min(Instant::now() + EVENTS_AGAIN);
            }
        }
        changed
    }
}
