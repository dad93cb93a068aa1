//! The control loop: observes, plans, runs what may run now, records, and waits for the next
//! change. One loop serves the manager, the bootstrapper and the simulation.
//!
//! - [`launch`]: which steps begin, and with what.
//! - [`load`]: how much is done at once.
//! - [`ending`]: what becomes of a step that ended.
//! - [`network`]: what the agents are told, and what they tell.
//! - [`retry`]: failures that are forgotten on request.

mod ending;
mod launch;
mod load;
mod network;
mod retry;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::backends::Backends;
use super::declared::Declared;
use super::execute::{Deadlines, ServiceApi};
use super::feeder::Feeder;
use super::input::{Failure, History, PlanningInput};
use super::liveness::Liveness;
use super::observe::Observed;
use super::observe_once::is_complete;
use super::plan::{Policy, plan};
use super::record::{UnderWay, record};
use super::step::{Action, Plan, Step, StepId};
use super::watch::{WatchPolicy, Watcher};
use crate::cloud::CloudOperation;
use crate::error::{Error, Result, Retry};
use crate::model::{
    ContainerId, ContainerRun, Epoch, EventKind, Generation, InstanceId, InstanceRecord, NewEvent,
    NodeName, Subject,
};
use crate::network::Report;
use crate::registry::{Change, Snapshot};

pub use load::Bounds;
pub use retry::RetryRequest;

use retry::Retried;

/// What happens within this time for each node and each replica is planned for together, since
/// few changes come alone: half a millisecond for fifty.
const GATHERING_PER_OBJECT: Duration = Duration::from_micros(10);
const LONGEST_GATHERING: Duration = Duration::from_millis(50);

/// How long after one plan the next one is made at the earliest, for each node and each replica:
/// the work of planning grows with the platform, and on a large one changes come in swarms. For a
/// dozen replicas it is a few milliseconds, for two thousand less than a second. Steps that
/// only wait for their turn do not wait for it, nor does the first change after some quiet.
const BETWEEN_PLANS_PER_OBJECT: Duration = Duration::from_micros(300);
const LONGEST_BETWEEN_PLANS: Duration = Duration::from_secs(2);

/// How many steps, and how many that are held, are told of in an event.
const TOLD: usize = 100;

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

/// What the loop works towards.
#[derive(Debug, Clone)]
pub struct Target {
    /// What is declared.
    pub declared: Arc<Declared>,
    /// How services reach the manager, once that is known.
    pub api: Option<ServiceApi>,
    /// Runs of containers that are to end, for another one to begin.
    pub restarts: Arc<BTreeMap<InstanceId, ContainerRun>>,
}

impl Target {
    /// A platform whose services do not ask for the manager's API, or where there is none.
    pub fn without_api(declared: Declared) -> Self {
        Self {
            declared: Arc::new(declared),
            api: None,
            restarts: Arc::default(),
        }
    }
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
    /// Until when at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
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
    /// The number of the latest retry that was asked for and is part of this plan.
    #[serde(default)]
    pub retry: u64,
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
    feeder: Feeder,
    reports: mpsc::UnboundedReceiver<(NodeName, Report)>,
    status: watch::Sender<Status>,
    inputs: watch::Sender<Option<Arc<PlanningInput>>>,
    tasks: JoinSet<Result<()>>,
    task_steps: HashMap<tokio::task::Id, StepId>,
    running: BTreeMap<StepId, Running>,
    /// Changes of nodes that the cloud has accepted and that have not ended.
    operations: BTreeMap<NodeName, CloudOperation>,
    /// Those that a former process began, until they are taken up.
    inherited: Vec<CloudOperation>,
    begun: mpsc::UnboundedSender<CloudOperation>,
    just_begun: mpsc::UnboundedReceiver<CloudOperation>,
    settling: BTreeMap<StepId, Settling>,
    /// Steps that failed, and what each of them does.
    failures: BTreeMap<StepId, (Action, Failure)>,
    retry_sender: mpsc::UnboundedSender<RetryRequest>,
    retry_requests: mpsc::UnboundedReceiver<RetryRequest>,
    /// The request that ended the latest pause.
    pending_retry: Option<RetryRequest>,
    retried: Retried,
    /// Runs that ended and are followed by another one, since a retry was asked for.
    runs_again: BTreeMap<InstanceId, ContainerRun>,
    lines: Arc<Mutex<BTreeMap<StepId, String>>>,
    has_looked: bool,
    latest: Option<Latest>,
    /// Where each replica was last seen, as the registry has it.
    last_seen: Arc<BTreeMap<InstanceId, NodeName>>,
    events: Vec<NewEvent>,
    jitter: StdRng,
}

/// The latest plan.
#[derive(Debug)]
struct Latest {
    target: Target,
    input: Arc<PlanningInput>,
    plan: Arc<Plan>,
    made_at: tokio::time::Instant,
    /// The steps that need no other one and have not been launched, by their place in the plan.
    left: Vec<usize>,
}

#[derive(Debug)]
struct Running {
    action: Action,
    since: DateTime<Utc>,
    until: Option<DateTime<Utc>>,
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
        let liveness = Liveness::recall(registry.instances.values());
        let watcher = Watcher::start(
            backends.clone(),
            options.watch.clone(),
            declared.subscribe(),
            liveness,
        );
        let last_seen = Arc::new(last_seen(&registry));
        let (begun, just_begun) = mpsc::unbounded_channel();
        let (reporter, reports) = mpsc::unbounded_channel();
        let (retry_sender, retry_requests) = mpsc::unbounded_channel();
        let feeder = Feeder::new(backends.clone(), epoch, reporter);
        let recorded = registry.nodes.values();
        let operations = recorded
            .filter_map(|node| Some((node.name.clone(), node.operation.clone()?)))
            .collect::<BTreeMap<_, _>>();
        let (_, seed) = backends.ids.uuid().as_u64_pair();
        Self {
            backends,
            options,
            epoch,
            registry,
            target,
            declared,
            watcher,
            feeder,
            reports,
            status: watch::Sender::new(Status::default()),
            inputs: watch::Sender::new(None),
            tasks: JoinSet::new(),
            task_steps: HashMap::new(),
            running: BTreeMap::new(),
            inherited: operations.values().cloned().collect(),
            operations,
            begun,
            just_begun,
            settling: BTreeMap::new(),
            failures: BTreeMap::new(),
            retry_sender,
            retry_requests,
            pending_retry: None,
            retried: Retried::default(),
            runs_again: BTreeMap::new(),
            lines: Arc::default(),
            has_looked: false,
            latest: None,
            last_seen,
            events: Vec::new(),
            jitter: StdRng::seed_from_u64(seed),
        }
    }

    /// Tells after every plan how things stand.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// What the latest plan was made from.
    pub fn inputs(&self) -> watch::Receiver<Option<Arc<PlanningInput>>> {
        self.inputs.subscribe()
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
                            Ok(snapshot) => {
                                self.last_seen = Arc::new(last_seen(&snapshot));
                                self.registry = snapshot;
                            }
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
        self.take_retries().await?;
        let mut next_change = None;
        let target = self.target.borrow().clone();
        if let (Some(target), Some((observed, mut history))) = (target, self.observe()) {
            history.restarts = self.restarts(&target, &observed);
            let now = self.backends.clock.now();
            self.take_up(&target, &observed, now);
            let input = Arc::new(PlanningInput {
                declared: Arc::clone(&target.declared),
                observed: Arc::new(observed),
                history,
                policy: self.options.policy.clone(),
                now,
            });
            let plan = plan(&input);
            self.tell_agents(&target, &input.observed, &[]);
            self.announce(&plan, now);
            self.commit(&input, &plan).await?;
            // What was given up now is planned for at once.
            next_change = if plan.rejects.is_empty() {
                plan.next_change
            } else {
                Some(now)
            };
            let steps = plan.steps.iter().enumerate();
            let free = steps.filter(|(_, step)| step.needs.is_empty());
            self.latest = Some(Latest {
                left: free.map(|(place, _)| place).collect(),
                target,
                input,
                plan: Arc::new(plan),
                made_at: tokio::time::Instant::now(),
            });
            self.launch().await?;
            self.publish();
        }
        self.wait(next_change).await
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

    /// What exists, and what is known besides.
    fn observe(&mut self) -> Option<(Observed, History)> {
        let (mut observed, endings) = self.watcher.observed()?;
        // A new process plans only once every node was asked: what it has not seen yet would
        // look as if it did not exist. A node that hangs is unknown soon, and holds nobody up.
        self.has_looked |= is_complete(&observed);
        if !self.has_looked {
            return None;
        }
        let watcher = &self.watcher;
        self.settling.retain(|_, settling| {
            let node = settling.action.node();
            !(watcher.has_seen_node(node, settling.node_request)
                && settling
                    .cloud_request
                    .is_none_or(|request| watcher.has_seen_cloud(request)))
        });
        let failures = self.failures.iter();
        let failures = failures.map(|(id, (_, failure))| (id.clone(), failure.clone()));
        let history = History {
            last_seen: Arc::clone(&self.last_seen),
            placed: self.placed(),
            rejected: self.registry.rejected.clone(),
            failures: failures.collect(),
            endings,
            restarts: Arc::default(),
        };
        self.feeder.follow(&observed);
        observed.agents = self.feeder.views();
        Some((observed, history))
    }

    /// Where the latest plan for the same declaration placed what has no container yet.
    fn placed(&self) -> BTreeMap<InstanceId, NodeName> {
        let declared = self.declared.borrow();
        let latest = self.latest.as_ref().filter(|latest| {
            let now = declared.as_ref();
            now.is_some_and(|now| Arc::ptr_eq(now, &latest.target.declared))
        });
        let instances = latest.into_iter().flat_map(|latest| &latest.plan.instances);
        instances
            .filter(|(_, status)| status.container.is_none())
            .filter_map(|(id, status)| Some((id.clone(), status.node.clone()?)))
            .collect()
    }

    /// Tells of a plan that has steps which the one before did not have: of these.
    fn announce(&mut self, plan: &Plan, now: DateTime<Utc>) {
        let former = self.latest.as_ref().map(|latest| &latest.plan.steps);
        let new = new_steps(former.map_or(&[], Vec::as_slice), &plan.steps);
        if new.is_empty() {
            return;
        }
        let held = &plan.held[..plan.held.len().min(TOLD)];
        let data = serde_json::json!({
            "steps": &new[..new.len().min(TOLD)],
            "held": held,
            "more_steps": new.len().saturating_sub(TOLD),
            "more_held": plan.held.len() - held.len(),
        });
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

    async fn commit(&mut self, input: &PlanningInput, plan: &Plan) -> Result<()> {
        let (declared, now) = (&input.declared, input.now);
        let under_way = UnderWay {
            stopping: self.stopping(),
            operations: self.operations.clone(),
        };
        let mut batch = record(input, plan, &under_way, &self.registry);
        if self.is_settled(plan) && !self.registry.converged && !declared.services.is_empty() {
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
        if batch.is_empty() {
            return Ok(());
        }
        let is_known = |change: &Change| match change {
            Change::PutInstance(record) => self.last_seen.get(&record.id) == Some(&record.node),
            Change::DeleteInstance(_) => false,
            _ => true,
        };
        let same = batch.changes.iter().all(is_known);
        self.write(batch).await?;
        self.events.clear();
        if !same {
            self.last_seen = Arc::new(last_seen(&self.registry));
        }
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
        plan.settled
            && self.running.is_empty()
            && self.settling.is_empty()
            && self.has_seen_retried()
    }

    fn publish(&self) {
        let Some(latest) = &self.latest else {
            return;
        };
        // First, so that who is woken by the status finds what it was made from.
        self.inputs.send_replace(Some(Arc::clone(&latest.input)));
        let declared = &latest.target.declared;
        let plan = Arc::clone(&latest.plan);
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let status = Status {
            generation: declared.generation,
            taking_down: declared.taking_down,
            settled: self.is_settled(&plan),
            retry: self.retried.number,
            plan,
            running: self
                .running
                .iter()
                .map(|(id, running)| RunningStep {
                    id: id.clone(),
                    what: running.action.to_string(),
                    since: running.since,
                    until: running.until,
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

    async fn wait(&mut self, next_change: Option<DateTime<Utc>>) -> Result<()> {
        let now = self.backends.clock.now();
        let until_change = next_change.map(|at| (at - now).to_std().unwrap_or_default());
        let pause = until_change.unwrap_or(Duration::from_mins(1));
        let end = tokio::time::Instant::now() + pause;
        let mut target = self.target.clone();
        loop {
            // A running step's last line is worth telling each second.
            let until_line = tokio::time::sleep(Duration::from_secs(1));
            tokio::select! {
                biased;
                Some(operation) = self.just_begun.recv() => self.store(operation).await?,
                Some(ended) = self.tasks.join_next_with_id() => {
                    self.ended(ended).await?;
                    break;
                }
                () = changed(&mut target) => break,
                Some(request) = self.retry_requests.recv() => {
                    self.pending_retry = Some(request);
                    break;
                }
                () = self.watcher.changed() => break,
                () = self.feeder.changed() => break,
                Some((node, report)) = self.reports.recv() => {
                    self.hear(&node, report);
                    break;
                }
                () = tokio::time::sleep_until(end) => break,
                () = until_line, if !self.running.is_empty() => self.tell_lines(),
            }
        }
        let end = self.next_plan();
        loop {
            while let Some(ended) = self.tasks.try_join_next_with_id() {
                self.ended(ended).await?;
            }
            if self.target.has_changed().unwrap_or(false) || self.pending_retry.is_some() {
                break;
            }
            // Who waited for a turn gets it now.
            self.launch().await?;
            tokio::select! {
                biased;
                () = changed(&mut target) => break,
                () = tokio::time::sleep_until(end) => break,
                Some(operation) = self.just_begun.recv() => self.store(operation).await?,
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended).await?,
            }
        }
        Ok(())
    }

    /// Tells what running steps said last, without planning anew.
    fn tell_lines(&self) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        self.status.send_if_modified(|status| {
            let mut differs = false;
            for running in &mut status.running {
                let line = lines.get(&running.id);
                if running.last_line.as_ref() != line {
                    running.last_line = line.cloned();
                    differs = true;
                }
            }
            differs
        });
    }

    /// Until when changes are gathered before they are planned for.
    fn next_plan(&self) -> tokio::time::Instant {
        let declared = self.declared.borrow();
        let objects = declared.as_ref().map_or(0, |declared| {
            let replicas = declared
                .services
                .values()
                .map(|s| u32::from(s.spec.replicas));
            let nodes = u32::try_from(declared.nodes.len()).unwrap_or(u32::MAX);
            replicas.fold(nodes, u32::saturating_add)
        });
        let gathering = GATHERING_PER_OBJECT.saturating_mul(objects);
        let between = BETWEEN_PLANS_PER_OBJECT.saturating_mul(objects);
        let gathered = tokio::time::Instant::now() + gathering.min(LONGEST_GATHERING);
        let least = self.latest.as_ref().map(|latest| latest.made_at);
        least.map_or(gathered, |made_at| {
            gathered.max(made_at + between.min(LONGEST_BETWEEN_PLANS))
        })
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

/// Which steps a plan has that the one before did not have.
fn new_steps<'a>(former: &[Step], steps: &'a [Step]) -> Vec<&'a Step> {
    // Mostly some are done, and the rest is as it was.
    let mut rest = former.iter();
    if steps
        .iter()
        .all(|step| rest.any(|before| before.id == step.id))
    {
        return Vec::new();
    }
    let known: HashSet<&StepId> = former.iter().map(|step| &step.id).collect();
    let is_new = |step: &&Step| !known.contains(&step.id);
    steps.iter().filter(is_new).collect()
}

/// Where each replica was last seen: where it was started last.
fn last_seen(registry: &Snapshot) -> BTreeMap<InstanceId, NodeName> {
    let mut records: Vec<&InstanceRecord> = registry.instances.values().collect();
    records.sort_by_key(|record| (&record.id, record.started_at));
    let places = records.into_iter().map(|r| (r.id.clone(), r.node.clone()));
    places.collect()
}
