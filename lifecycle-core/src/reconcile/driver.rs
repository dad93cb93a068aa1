//! The control loop: observes, plans, runs what may run now, records, and waits for the next
//! change. One loop serves the manager, the bootstrapper and the simulation.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::backends::Backends;
use super::declared::Declared;
use super::execute::{Deadlines, Execution, ServiceApi};
use super::liveness::Liveness;
use super::observe::{Failure, Observed};
use super::plan::{Policy, plan};
use super::record::record;
use super::step::{Action, Plan, Step, StepId};
use super::watch::{WatchPolicy, Watcher};
use crate::error::{Error, Result, Retry};
use crate::model::{ContainerId, Epoch, EventKind, Generation, NewEvent, NodeName, Subject};
use crate::registry::{Batch, Change, Snapshot};

/// How the loop works.
#[derive(Debug, Clone, Default)]
pub struct DriverOptions {
    /// What the planner may assume.
    pub policy: Policy,
    /// How often is looked.
    pub watch: WatchPolicy,
    /// How much is done at once.
    pub bounds: Bounds,
    /// How long steps may take.
    pub deadlines: Deadlines,
}

/// How much is done at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Steps on one node.
    pub per_node: usize,
    /// Builds, copies and pulls of images on one node.
    pub images_per_node: usize,
    /// Steps on all nodes.
    pub per_platform: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            per_node: 8,
            images_per_node: 2,
            per_platform: 64,
        }
    }
}

/// What the loop works towards.
#[derive(Debug, Clone)]
pub struct Target {
    /// What is declared.
    pub declared: Arc<Declared>,
    /// How services reach the manager, once that is known.
    pub api: Option<ServiceApi>,
}

/// A step that is being carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningStep {
    /// Its identity.
    pub id: StepId,
    /// What it does, in words.
    pub what: String,
    /// Since when.
    pub since: DateTime<Utc>,
    /// The last line that it said.
    pub last_line: Option<String>,
}

/// How things stand after the latest plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The generation that was planned for.
    pub generation: Generation,
    /// Whether the platform is being taken down.
    pub taking_down: bool,
    /// The plan.
    pub plan: Arc<Plan>,
    /// What is being carried out.
    pub running: Vec<RunningStep>,
    /// Whether the round has ended: nothing runs, and every replica is ready, completed or
    /// failed.
    pub settled: bool,
}

impl Status {
    /// Whether nothing is done, to be done, or waited for.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.plan.is_empty()
    }
}

/// The control loop.
#[derive(Debug)]
pub struct Driver {
    backends: Backends,
    options: DriverOptions,
    epoch: Epoch,
    registry: Snapshot,
    target: watch::Receiver<Option<Target>>,
    declared: watch::Sender<Option<Arc<Declared>>>,
    watcher: Watcher,
    status: watch::Sender<Status>,
    observations: watch::Sender<Arc<Observed>>,
    tasks: JoinSet<Result<()>>,
    task_steps: HashMap<tokio::task::Id, StepId>,
    running: BTreeMap<StepId, Running>,
    settling: BTreeMap<StepId, Settling>,
    failures: BTreeMap<StepId, Failure>,
    lines: Arc<Mutex<BTreeMap<StepId, String>>>,
    announced: BTreeSet<StepId>,
    events: Vec<NewEvent>,
    jitter: StdRng,
}

#[derive(Debug)]
struct Running {
    action: Action,
    since: DateTime<Utc>,
}

/// A step that ended and whose effect has not been observed yet.
#[derive(Debug)]
struct Settling {
    action: Action,
    node_request: u64,
    cloud_request: Option<u64>,
}

impl Driver {
    /// A loop that leads under `epoch` and starts from what the registry holds.
    pub fn new(
        backends: Backends,
        options: DriverOptions,
        epoch: Epoch,
        registry: Snapshot,
        target: watch::Receiver<Option<Target>>,
    ) -> Self {
        let declared = watch::Sender::new(None);
        let liveness = Liveness::recall(registry.instances.values().map(|v| &v.value));
        let watcher = Watcher::start(
            backends.clone(),
            options.watch.clone(),
            declared.subscribe(),
            liveness,
        );
        let (_, seed) = backends.ids.uuid().as_u64_pair();
        Self {
            backends,
            options,
            epoch,
            registry,
            target,
            declared,
            watcher,
            status: watch::Sender::new(Status::default()),
            observations: watch::Sender::new(Arc::default()),
            tasks: JoinSet::new(),
            task_steps: HashMap::new(),
            running: BTreeMap::new(),
            settling: BTreeMap::new(),
            failures: BTreeMap::new(),
            lines: Arc::default(),
            announced: BTreeSet::new(),
            events: Vec::new(),
            jitter: StdRng::seed_from_u64(seed),
        }
    }

    /// Tells after every plan how things stand.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// What the latest plan was made from.
    pub fn observations(&self) -> watch::Receiver<Arc<Observed>> {
        self.observations.subscribe()
    }

    /// Runs until the registry refuses the epoch or cannot be written; returns why.
    /// Dropping the future ends every step where it is; the next loop goes on.
    pub async fn run(mut self) -> Error {
        loop {
            match self.round().await {
                Ok(()) => {}
                Err(error) => match error.retry() {
                    Retry::Never => return error,
                    Retry::Replan | Retry::After(_) => {
                        tracing::warn!(error = %error.chain(), "the registry could not be written");
                        tokio::time::sleep(Duration::from_secs(2)).await;
                        match self.backends.registry.snapshot().await {
                            Ok(snapshot) => self.registry = snapshot,
                            Err(error) => {
                                tracing::warn!(error = %error.chain(), "the registry cannot be read");
                            }
                        }
                    }
                },
            }
        }
    }

    /// One pass: observe, plan, record, launch, wait.
    async fn round(&mut self) -> Result<()> {
        self.take_target();
        let mut next_change = None;
        let target = self.target.borrow().clone();
        if let (Some(target), Some(observed)) = (target, self.observe()) {
            let now = self.backends.clock.now();
            let plan = plan(&target.declared, &observed, &self.options.policy, now);
            self.announce(&plan, now);
            self.commit(&target.declared, &observed, &plan, now).await?;
            next_change = plan.next_change;
            let plan = Arc::new(plan);
            self.launch(&plan, &target, &observed, now);
            self.publish(&target.declared, plan);
            self.observations.send_replace(Arc::new(observed));
        }
        self.wait(next_change).await;
        Ok(())
    }

    fn take_target(&mut self) {
        let Some(target) = self.target.borrow_and_update().clone() else {
            return;
        };
        let known = self
            .declared
            .borrow()
            .as_ref()
            .is_some_and(|d| Arc::ptr_eq(d, &target.declared));
        if !known {
            // What failed under another declaration may well succeed under this one.
            self.failures.clear();
            self.declared.send_replace(Some(target.declared));
        }
    }

    fn observe(&mut self) -> Option<Observed> {
        let mut observed = self.watcher.observed()?;
        let watcher = &self.watcher;
        self.settling.retain(|_, settling| {
            let node = settling.action.node();
            !(watcher.has_seen_node(node, settling.node_request)
                && settling
                    .cloud_request
                    .is_none_or(|request| watcher.has_seen_cloud(request)))
        });
        observed.failures.clone_from(&self.failures);
        observed.rejected.clone_from(&self.registry.rejected);
        observed.last_seen = self
            .registry
            .instances
            .values()
            .map(|v| (v.value.id.clone(), v.value.node.clone()))
            .collect();
        Some(observed)
    }

    /// Tells of a plan that has steps which the one before did not have.
    fn announce(&mut self, plan: &Plan, now: DateTime<Utc>) {
        let ids: BTreeSet<StepId> = plan.steps.iter().map(|s| s.id.clone()).collect();
        if !ids.is_subset(&self.announced) {
            let data = serde_json::json!({ "steps": plan.steps, "held": plan.held });
            self.events.push(NewEvent {
                at: now,
                kind: EventKind::Planned,
                subject: Subject::Platform,
                message: match plan.steps.as_slice() {
                    [only] => format!("plan: {} ({})", only.action, only.reason),
                    steps => format!("plan of {} steps", steps.len()),
                },
                data,
            });
        }
        self.announced = ids;
    }

    async fn commit(
        &mut self,
        declared: &Declared,
        observed: &Observed,
        plan: &Plan,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let stopping = self.stopping();
        let (mut batch, mut after) =
            record(declared, observed, plan, &stopping, &self.registry, now);
        if self.is_settled(plan) && !after.converged && !declared.services.is_empty() {
            after.converged = true;
            batch.changes.push(Change::MarkConverged);
            batch.events.push(NewEvent {
                at: now,
                kind: EventKind::Converged,
                subject: Subject::Platform,
                message: "the first round has ended".into(),
                data: serde_json::Value::Null,
            });
        }
        batch.events.extend(self.events.iter().cloned());
        if !batch.is_empty() {
            self.backends.registry.commit(self.epoch, batch).await?;
        }
        self.events.clear();
        self.registry = after;
        Ok(())
    }

    /// Containers that are being stopped; what is published of them is withdrawn before.
    fn stopping(&self) -> BTreeSet<ContainerId> {
        let running = self.running.values().map(|r| &r.action);
        let settling = self.settling.values().map(|s| &s.action);
        running
            .chain(settling)
            .filter_map(|action| match action {
                Action::StopInstance { id, .. } | Action::RemoveInstance { id, .. } => {
                    Some(id.clone())
                }
                _ => None,
            })
            .collect()
    }

    fn is_settled(&self, plan: &Plan) -> bool {
        plan.settled && self.running.is_empty() && self.settling.is_empty()
    }

    /// Starts every step that may run now.
    fn launch(&mut self, plan: &Plan, target: &Target, observed: &Observed, now: DateTime<Utc>) {
        let planned: BTreeSet<&StepId> = plan.steps.iter().map(|s| &s.id).collect();
        let mut load = Load::of(self.running.values().map(|r| &r.action));
        let mut busy: BTreeSet<Subject> = self
            .running
            .values()
            .map(|r| &r.action)
            .chain(self.settling.values().map(|s| &s.action))
            .map(Action::subject)
            .filter(|s| matches!(s, Subject::Instance(_)))
            .collect();
        for step in &plan.steps {
            if self.running.contains_key(&step.id)
                || self.settling.contains_key(&step.id)
                || step.needs.iter().any(|need| planned.contains(need))
                || busy.contains(&step.action.subject())
                || !load.admits(&step.action, &self.options.bounds)
            {
                continue;
            }
            if let subject @ Subject::Instance(_) = step.action.subject() {
                busy.insert(subject);
            }
            load.add(&step.action);
            self.spawn(step, target, observed, now);
        }
    }

    fn spawn(&mut self, step: &Step, target: &Target, observed: &Observed, now: DateTime<Utc>) {
        let execution = Execution {
            backends: self.backends.clone(),
            declared: Arc::clone(&target.declared),
            machines: observed
                .nodes
                .iter()
                .filter(|(name, _)| touches(&step.action, name))
                .map(|(name, view)| (name.clone(), view.machine.clone()))
                .collect(),
            api: target.api.clone(),
            deadlines: self.options.deadlines.clone(),
        };
        let withdraw = self.withdrawal(&step.action);
        let registry = Arc::clone(&self.backends.registry);
        let epoch = self.epoch;
        let lines = Arc::clone(&self.lines);
        let (id, action) = (step.id.clone(), step.action.clone());
        self.running.insert(
            id.clone(),
            Running {
                action: action.clone(),
                since: now,
            },
        );
        self.tell(EventKind::StepStarted, &action, action.to_string(), now);
        let line_id = id.clone();
        let task = self.tasks.spawn(async move {
            let progress = move |line: &str| {
                tracing::debug!(step = %line_id, "{line}");
                lines
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(line_id.clone(), line.to_owned());
            };
            if let Some(batch) = withdraw {
                registry.commit(epoch, batch).await?;
            }
            execution.carry_out(&action, &progress).await
        });
        self.task_steps.insert(task.id(), id);
    }

    /// What takes a container's endpoints back before it is stopped or removed.
    fn withdrawal(&mut self, action: &Action) -> Option<Batch> {
        let (Action::StopInstance { id, .. } | Action::RemoveInstance { id, .. }) = action else {
            return None;
        };
        let recorded = self.registry.instances.get_mut(id)?;
        if recorded.value.endpoints.is_empty() {
            return None;
        }
        recorded.value.endpoints.clear();
        recorded.version += 1;
        Some(Batch::of(Change::PutInstance {
            record: Box::new(recorded.value.clone()),
            expected: crate::registry::Expect::Any,
        }))
    }

    fn publish(&self, declared: &Declared, plan: Arc<Plan>) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let status = Status {
            generation: declared.generation,
            taking_down: declared.taking_down,
            settled: self.is_settled(&plan),
            plan,
            running: self
                .running
                .iter()
                .map(|(id, running)| RunningStep {
                    id: id.clone(),
                    what: running.action.to_string(),
                    since: running.since,
                    last_line: lines.get(id).cloned(),
                })
                .collect(),
        };
        drop(lines);
        self.status.send_if_modified(|old| {
            let differs = *old != status;
            *old = status;
            differs
        });
    }

    async fn wait(&mut self, next_change: Option<DateTime<Utc>>) {
        let now = self.backends.clock.now();
        // One that has passed since the plan was made is due at once.
        let until_change = next_change.map(|at| (at - now).to_std().unwrap_or_default());
        // A running step's last line is worth a look each second.
        let until_line = (!self.running.is_empty()).then_some(Duration::from_secs(1));
        let pause = [until_change, until_line]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(Duration::from_mins(1));
        let mut target = self.target.clone();
        tokio::select! {
            biased;
            Some(ended) = self.tasks.join_next_with_id() => {
                self.ended(ended);
                while let Some(ended) = self.tasks.try_join_next_with_id() {
                    self.ended(ended);
                }
            }
            () = changed(&mut target) => {}
            () = self.watcher.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    fn ended(&mut self, ended: std::result::Result<(tokio::task::Id, Result<()>), JoinError>) {
        let (task, result) = match ended {
            Ok(ended) => ended,
            Err(error) => (
                error.id(),
                Err(Error::failed("a step", "it ended without a result")),
            ),
        };
        let Some(id) = self.task_steps.remove(&task) else {
            return;
        };
        let Some(running) = self.running.remove(&id) else {
            return;
        };
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        let now = self.backends.clock.now();
        let action = running.action;
        match result {
            Ok(()) => {
                self.failures.remove(&id);
                let took = (now - running.since).to_std().unwrap_or_default();
                let took = Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(0));
                let message = format!("{action}: done in {}", humantime::format_duration(took));
                self.tell(EventKind::StepSucceeded, &action, message, now);
            }
            Err(error) => {
                let failure = self.failure(&id, &error, now);
                let message = format!("{action}: {}", failure.why);
                self.tell(EventKind::StepFailed, &action, message, now);
                self.failures.insert(id.clone(), failure);
            }
        }
        let settling = Settling {
            node_request: self.watcher.look_at_node(action.node()),
            cloud_request: action.is_at_cloud().then(|| self.watcher.look_at_cloud()),
            action,
        };
        self.settling.insert(id, settling);
    }

    fn failure(&mut self, id: &StepId, error: &Error, now: DateTime<Utc>) -> Failure {
        const LONGEST: Duration = Duration::from_mins(1);
        const FINAL: Duration = Duration::from_mins(5);
        let times = self.failures.get(id).map_or(1, |f| f.times + 1);
        let backoff = Duration::from_secs(1 << (times - 1).min(6)).min(LONGEST);
        let (least, is_final) = match error.retry() {
            Retry::After(after) => (after.max(backoff), false),
            Retry::Replan => (backoff, false),
            Retry::Never => (FINAL, true),
        };
        let pause = least.mul_f64(1.0 + 0.2 * self.jitter.random::<f64>());
        let mut why = error.chain();
        if let Some(hint) = error.hint() {
            why = format!("{why} (hint: {hint})");
        }
        Failure {
            times,
            again_at: chrono::TimeDelta::from_std(pause)
                .ok()
                .and_then(|pause| now.checked_add_signed(pause))
                .unwrap_or(now),
            why,
            is_final,
        }
    }

    fn tell(&mut self, kind: EventKind, action: &Action, message: String, at: DateTime<Utc>) {
        self.events.push(NewEvent {
            at,
            kind,
            subject: action.subject(),
            message,
            data: serde_json::json!({ "step": action.id(), "does": action }),
        });
    }
}

/// Waits for another target; for ever when nobody can set one any more.
async fn changed(target: &mut watch::Receiver<Option<Target>>) {
    if target.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn touches(action: &Action, node: &NodeName) -> bool {
    action.node() == node || matches!(action, Action::CopyImage { from, .. } if from == node)
}

/// How many steps run where.
#[derive(Debug, Default)]
struct Load {
    total: usize,
    nodes: BTreeMap<NodeName, (usize, usize)>,
    deleting: BTreeSet<NodeName>,
}

impl Load {
    fn of<'a>(actions: impl Iterator<Item = &'a Action>) -> Self {
        let mut load = Self::default();
        for action in actions {
            load.add(action);
        }
        load
    }

    fn add(&mut self, action: &Action) {
        self.total += 1;
        let (all, images) = self.nodes.entry(action.node().clone()).or_default();
        *all += 1;
        *images += usize::from(is_image(action));
        if matches!(action, Action::DeleteNode { .. }) {
            self.deleting.insert(action.node().clone());
        }
    }

    fn admits(&self, action: &Action, bounds: &Bounds) -> bool {
        let (all, images) = self.nodes.get(action.node()).copied().unwrap_or_default();
        let alone = !matches!(action, Action::DeleteNode { .. }) || all == 0;
        self.total < bounds.per_platform
            && all < bounds.per_node
            && (!is_image(action) || images < bounds.images_per_node)
            && !self.deleting.contains(action.node())
            && alone
    }
}

fn is_image(action: &Action) -> bool {
    matches!(
        action,
        Action::BuildImage { .. } | Action::CopyImage { .. } | Action::PullImage { .. }
    )
}
