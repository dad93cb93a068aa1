//! Follows one node: lists everything on its engine from time to time, takes changes from the
//! engine's events in between, and checks the readiness of what runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

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

/// How long after its end a stream of events is opened again.
const EVENTS_AGAIN: Duration = Duration::from_secs(1);
/// How long the host of an engine that does not answer may take to answer.
const HOST_ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// The pause after the first failure; it doubles with each one.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);

/// The watch of one node.
pub(super) struct NodeWatch {
    pub(super) shared: Arc<Shared>,
    pub(super) name: NodeName,
    pub(super) machine: watch::Receiver<ObservedNode>,
    pub(super) declared: watch::Receiver<Option<Arc<Declared>>>,
    /// Notified when everything is to be listed again.
    pub(super) wanted: Arc<Notify>,
}

type Events = BoxStream<'static, Result<EngineEvent>>;

/// The state of the watch.
enum State {
    /// Nothing current: everything is to be listed. After failures, with their history.
    Listing(Option<Silence>),
    /// The engine's contents, which its events keep up to date.
    Following(Box<Following>),
    /// The host answers, and no engine does.
    WithoutEngine,
    /// Nothing answers.
    Silent(Silence),
    /// The machine does not run, so there is no engine to ask.
    Off,
}

/// An engine whose contents are known.
struct Following {
    machine: ObservedNode,
    handle: NodeHandle,
    /// `None` after the stream has ended.
    events: Option<Events>,
    info: EngineInfo,
    state: EngineState,
    /// The requests that the list has served.
    as_of: u64,
    list_at: Instant,
    check_at: Instant,
    /// When the engine is asked for a sign of life.
    ping_at: Instant,
}

/// How long a node has not answered.
#[derive(Debug)]
struct Silence {
    /// When the first failed attempt began.
    began: Instant,
    /// When it failed.
    since: DateTime<Utc>,
    failures: u32,
}

/// Why the watch goes on.
enum Wakeup {
    /// Everything is to be listed again.
    Requested,
    /// The cloud shows another state of the machine.
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

    /// The next state; `None` when the node is gone.
    async fn next(&mut self, state: State) -> Option<State> {
        match state {
            State::Listing(silence) => Some(self.list(silence).await),
            State::Following(following) => self.follow(following).await,
            State::WithoutEngine => {
                let again = Instant::now() + self.shared.policy.check_interval;
                self.wakeup(None, Some(again)).await?;
                Some(State::Listing(None))
            }
            State::Silent(silence) => {
                let backoff = FIRST_BACKOFF * (1 << silence.failures.min(5));
                let again = Instant::now() + backoff.min(self.shared.policy.node_interval);
                self.wakeup(None, Some(again)).await?;
                Some(State::Listing(Some(silence)))
            }
            State::Off => {
                self.wakeup(None, None).await?;
                Some(State::Listing(None))
            }
        }
    }

    /// Waits for the next thing to handle; `None` when the node is gone.
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
            () = self.wanted.notified() => Some(Wakeup::Requested),
            changed = self.machine.changed() => changed.is_ok().then_some(Wakeup::Machine),
            Ok(()) = self.declared.changed() => Some(Wakeup::Declared),
            event = event => Some(Wakeup::Event(event)),
            () = due => Some(Wakeup::Due),
        }
    }

    /// Lists everything on the node.
    async fn list(&mut self, silence: Option<Silence>) -> State {
        let policy = self.shared.policy.clone();
        let as_of = self.shared.requests.load(Ordering::SeqCst);
        let machine = self.machine.borrow_and_update().clone();
        if machine.power != Power::Running {
            self.publish(EngineView::NotAsked, as_of);
            return State::Off;
        }
        let limit = match &silence {
            None => policy.node_timeout,
            Some(_) => policy.again_timeout.min(policy.node_timeout),
        };
        let began = Instant::now();
        match self.within(limit, self.ask(&machine, as_of)).await {
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
                let mut silence = silence.unwrap_or_else(|| Silence {
                    began,
                    since: self.shared.backends.clock.now(),
                    failures: 0,
                });
                silence.failures = silence.failures.saturating_add(1);
                self.publish_silence(&silence, &error, as_of);
                State::Silent(silence)
            }
        }
    }

    /// Asks the engine for everything; `None` if the host answers and no engine does.
    async fn ask(&self, machine: &ObservedNode, as_of: u64) -> Result<Option<Following>> {
        let handle = self.shared.backends.connector.connect(machine).await?;
        let info = match handle.runtime.info().await {
            Ok(info) => info,
            Err(error) => {
                let answers = HostCommand::new("true").within(HOST_ANSWERS_WITHIN);
                handle.host.exec(answers).await?;
                tracing::debug!(node = %self.name, error = %error.chain(), "no engine answers");
                return Ok(None);
            }
        };
        // Opened before the list, so that nothing that happens after it is missed.
        let events = handle.runtime.events().await?;
        let state = handle.runtime.state().await?;
        let now = Instant::now();
        Ok(Some(Following {
            machine: machine.clone(),
            handle,
            events: Some(events),
            info,
            state,
            as_of,
            list_at: now + self.shared.policy.node_interval,
            check_at: now,
            ping_at: now + self.shared.policy.check_interval,
        }))
    }

    /// Handles the next thing that happens to an engine whose contents are known.
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
                if !self.ping(&mut following).await {
                    return Some(State::Listing(None));
                }
            }
            Wakeup::Due | Wakeup::Declared => self.check(&mut following, None).await,
            Wakeup::Event(event) => {
                let changed = following.changed(event);
                if let Err(error) = self.inspect(&mut following, &changed).await {
                    tracing::debug!(node = %self.name, error = %error.chain(), "listing again");
                    return Some(State::Listing(None));
                }
                self.check(&mut following, Some(&changed)).await;
            }
        }
        self.publish_following(&following);
        Some(State::Following(following))
    }

    /// Lists everything again, and goes on with the same stream of events if it is open.
    async fn list_again(&mut self, mut following: Following) -> State {
        let as_of = self.shared.requests.load(Ordering::SeqCst);
        if following.events.is_none() {
            return State::Listing(None);
        }
        // Its `info` stays what it is until the engine ends, and the stream of events with it.
        let state = following.handle.runtime.state();
        let Ok(state) = self.within(self.shared.policy.node_timeout, state).await else {
            return State::Listing(None);
        };
        following.state = state;
        following.as_of = as_of;
        let now = Instant::now();
        following.list_at = now + self.shared.policy.node_interval;
        following.ping_at = now + self.shared.policy.check_interval;
        self.check(&mut following, None).await;
        self.publish_following(&following);
        State::Following(Box::new(following))
    }

    /// Whether the engine still answers. Its stream of events stays silent for long after a node
    /// has stopped responding.
    async fn ping(&self, following: &mut Following) -> bool {
        let limit = self.shared.policy.again_timeout;
        let answer = self.within(limit, following.handle.runtime.ping()).await;
        following.ping_at = Instant::now() + self.shared.policy.check_interval;
        answer.is_ok()
    }

    async fn within<T>(&self, limit: Duration, ask: impl Future<Output = Result<T>>) -> Result<T> {
        timeout(limit, ask).await.unwrap_or_else(|_| {
            Err(Error::TimedOut {
                what: format!("node {}'s answer", self.name),
                after: limit,
            })
        })
    }

    /// Asks for these containers alone.
    async fn inspect(
        &self,
        following: &mut Following,
        changed: &BTreeSet<ContainerId>,
    ) -> Result<()> {
        for id in changed {
            let runtime = &following.handle.runtime;
            let asked = runtime.container(&id.0);
            let found = self.within(self.shared.policy.node_timeout, asked).await?;
            let containers = &mut following.state.containers;
            containers.retain(|container| container.id != *id);
            containers.extend(found);
            containers.sort_by(|a, b| a.name.cmp(&b.name));
        }
        Ok(())
    }

    /// Checks the readiness of all containers, or of the changed ones, and sets when the next
    /// check is due.
    async fn check(&self, following: &mut Following, changed: Option<&BTreeSet<ContainerId>>) {
        let (machine, state) = (&following.machine, &following.state);
        let declared = self.shared.declared.borrow().clone();
        let is_due = |c: &&ObservedContainer| changed.is_none_or(|ids| ids.contains(&c.id));
        let checks = state.containers.iter().filter(is_due).map(|container| {
            let declared = declared.clone();
            async move {
                let declared = declared?;
                let probe = self.shared.backends.probe.as_ref();
                let answer = liveness::answers(&declared, machine, container, probe).await;
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
        let view = EngineView::Known {
            info: following.info.clone(),
            state: following.state.clone(),
        };
        self.publish(view, following.as_of);
    }

    /// Publishes the engine's view. Subscribers are notified only if it or what is known of
    /// readiness differs, or if it was asked for: planning again for every observation of every
    /// node would be most of the work.
    fn publish(&self, engine: EngineView, as_of: u64) {
        let mut views = self.shared.views();
        let readiness = match &engine {
            EngineView::Known { state, .. } => views.liveness.readiness_of(&state.containers),
            _ => BTreeMap::new(),
        };
        let mut is_awaited = false;
        if let Some(slot) = views.nodes.get_mut(&self.name) {
            let view = NodeView {
                machine: slot.view.machine.clone(),
                changing_since: slot.view.changing_since,
                engine,
                silence: None,
                readiness,
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

    /// Publishes that the node does not answer: that it is silent, then that it is unknown.
    fn publish_silence(&self, silence: &Silence, error: &Error, as_of: u64) {
        let policy = &self.shared.policy;
        let unknown = Unknown {
            since: silence.since,
            why: error.chain(),
        };
        if silence.failures >= policy.looks_before_unknown
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

impl Following {
    /// Takes this event and those that wait behind it; returns the containers that they are
    /// about. At the end of the stream, schedules a list, which opens another one.
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
                // An engine that ends every stream at once must not be asked without a pause.
                self.list_at = self.list_at.min(Instant::now() + EVENTS_AGAIN);
            }
        }
        changed
    }
}
