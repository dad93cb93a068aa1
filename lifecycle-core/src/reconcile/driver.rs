//! The control loop: observes, plans, records, runs the steps that may start, and waits for the
//! next change. The manager, the bootstrapper and the simulation use the same loop.
//!
//! - [`launch`]: chooses which steps to start, and runs them.
//! - [`load`]: limits how many steps run concurrently.
//! - [`ending`]: handles the results of steps.
//! - [`network`]: sends tables to the agents and handles their reports.
//! - [`retry`]: clears failures on request.
//! - [`history`]: assembles the planner's input.
//! - [`measures`]: counts and measures what the loop does.
//! - [`commit`]: writes states and events to the registry.
//! - [`round`](mod@round): publishes each round.
//! - [`wakeup`]: waits for the next wakeup and handles it.

mod commit;
mod ending;
mod history;
mod launch;
mod load;
pub(crate) mod measures;
mod network;
mod retry;
mod round;
mod wakeup;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::backends::Backends;
use super::declared::Declared;
use super::execute::{Deadlines, ServiceApi};
use super::feeder::Feeder;
use super::input::{Failure, PlanningInput, Preparation};
use super::liveness::Liveness;
use super::plan::{Policy, plan};
use super::step::{Action, Plan, StepId};
use super::traffic::Served;
use super::watch::{WatchPolicy, Watcher};
use crate::cloud::{CloudOperation, Firewall};
use crate::error::{Error, Result, Retry};
use crate::metrics::Recorder;
use crate::model::{
    ContainerId, ContainerRun, Epoch, InstanceId, NewEvent, NodeName, OperationId, RolloutControl,
    ServiceName,
};
use crate::network::Report;
use crate::registry::Snapshot;

pub use load::Bounds;
pub use retry::{RetryOptions, RetryRequest};
pub use round::{Round, RunningStep};

use history::last_seen;
use measures::Pass;
use retry::Retried;
use wakeup::Pace;

/// The longest time between two plans.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// How long to wait after a failed write before reading the registry again.
const REGISTRY_AGAIN: Duration = Duration::from_secs(2);

/// The settings of the control loop.
#[derive(Debug, Clone, Default)]
pub struct DriverOptions {
    /// The planner's settings.
    pub policy: Policy,
    /// How often the cloud and the nodes are polled.
    pub watch: WatchPolicy,
    /// How many steps run concurrently.
    pub bounds: Bounds,
    /// How long steps may take.
    pub deadlines: Deadlines,
}

/// The state that the control loop has to reach.
#[derive(Debug, Clone)]
pub struct Target {
    /// The declaration.
    pub declared: Arc<Declared>,
    /// The address and credentials with which services reach the manager, once known.
    pub api: Option<ServiceApi>,
    /// The runs of containers for which a restart was requested.
    pub restarts: Arc<BTreeMap<InstanceId, ContainerRun>>,
    /// The nodes for which a restart was requested, with the boot that the restart ends.
    pub node_restarts: Arc<BTreeMap<NodeName, String>>,
    /// The nodes whose preparation was requested, with the operations.
    pub preparations: Arc<BTreeMap<NodeName, OperationId>>,
    /// The requests about rollouts.
    pub rollouts: Arc<BTreeMap<ServiceName, RolloutControl>>,
}

impl Target {
    /// Creates a target whose services get no access to the manager's API.
    pub fn without_api(declared: Declared) -> Self {
        Self {
            declared: Arc::new(declared),
            api: None,
            restarts: Arc::default(),
            node_restarts: Arc::default(),
            preparations: Arc::default(),
            rollouts: Arc::default(),
        }
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
    rounds: watch::Sender<Arc<Round>>,
    pace: Pace,
    tasks: JoinSet<Result<()>>,
    task_steps: HashMap<tokio::task::Id, StepId>,
    running: BTreeMap<StepId, Running>,
    /// Node changes that the cloud has accepted but not completed yet.
    operations: BTreeMap<NodeName, CloudOperation>,
    /// Node changes that a previous process started and that this process still has to resume.
    inherited: Vec<CloudOperation>,
    begun: mpsc::UnboundedSender<CloudOperation>,
    just_begun: mpsc::UnboundedReceiver<CloudOperation>,
    settling: BTreeMap<StepId, Settling>,
    failures: BTreeMap<StepId, (Action, Failure)>,
    retry_sender: mpsc::UnboundedSender<RetryRequest>,
    retry_requests: mpsc::UnboundedReceiver<RetryRequest>,
    retried: Retried,
    /// The ended runs of containers for which a retry was requested.
    runs_again: BTreeMap<InstanceId, ContainerRun>,
    /// The requested preparations that have succeeded. A later process repeats those that it does not
    /// find here.
    prepared: BTreeMap<NodeName, Preparation>,
    lines: Arc<Mutex<BTreeMap<StepId, String>>>,
    has_observed_all: bool,
    latest: Option<Latest>,
    /// The last known node of each replica, as recorded in the registry.
    last_seen: Arc<BTreeMap<InstanceId, NodeName>>,
    /// The containers that were ready when their node was last observed.
    served: Served,
    events: Vec<NewEvent>,
    /// The containers that were reported by `report_strangers`.
    strangers: BTreeSet<ContainerId>,
    jitter: StdRng,
    recorder: Arc<Recorder>,
    /// When the first plan of the current round was made, if the round has not ended.
    unsettled_since: Option<Instant>,
}

/// The latest plan.
#[derive(Debug)]
struct Latest {
    target: Target,
    input: Arc<PlanningInput>,
    plan: Arc<Plan>,
    made_at: Instant,
    /// The indexes of the steps that need no other step and have not started yet.
    left: Vec<usize>,
}

#[derive(Debug)]
struct Running {
    action: Action,
    since: DateTime<Utc>,
    until: Option<DateTime<Utc>>,
}

/// An ended step whose effect has not been observed yet.
#[derive(Debug)]
struct Settling {
    action: Action,
    node_request: u64,
    cloud_request: Option<u64>,
}

impl Driver {
    /// Creates a loop that writes under `epoch`, starts from the registry's contents, and publishes
    /// each round to `rounds`.
    pub fn new(
        backends: Backends,
        mut options: DriverOptions,
        epoch: Epoch,
        registry: Snapshot,
        target: watch::Receiver<Option<Target>>,
        rounds: watch::Sender<Arc<Round>>,
    ) -> Self {
        options.policy.opens_ports &= backends.cloud.capabilities().firewall == Firewall::Managed;
        let declared = watch::Sender::new(None);
        let liveness = Liveness::recall(registry.instances.values(), backends.clock.now());
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
            rounds,
            pace: Pace::Waiting {
                until: Instant::now(),
            },
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
            retried: Retried::default(),
            runs_again: BTreeMap::new(),
            prepared: BTreeMap::new(),
            lines: Arc::default(),
            has_observed_all: false,
            latest: None,
            last_seen,
            served: Served::default(),
            events: Vec::new(),
            strangers: BTreeSet::new(),
            jitter: StdRng::seed_from_u64(seed),
            recorder: Arc::default(),
            unsettled_since: None,
        }
    }

    /// Records metrics of the loop in `recorder`.
    #[must_use]
    pub fn recording_to(mut self, recorder: Arc<Recorder>) -> Self {
        self.recorder = recorder;
        self
    }

    /// Runs until a final error, such as a rejected epoch. Dropping the future aborts every running
    /// step.
    pub async fn run(mut self) -> Error {
        let mut done = self.round().await;
        loop {
            done = match done {
                Ok(()) => {
                    let wakeup = self.wakeup().await;
                    self.handle(wakeup).await
                }
                Err(error) if error.retry() == Retry::Never => return error,
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "cannot write to the registry");
                    self.read_registry_again().await;
                    self.round().await
                }
            };
        }
    }

    async fn read_registry_again(&mut self) {
        tokio::time::sleep(REGISTRY_AGAIN).await;
        match self.backends.registry.snapshot().await {
            Ok(snapshot) => {
                self.last_seen = Arc::new(last_seen(&snapshot));
                self.registry = snapshot;
            }
            Err(error) => {
                tracing::warn!(error = %error.chain(), "cannot read the registry");
            }
        }
    }

    /// Runs one pass: observes, plans, records, launches, publishes.
    async fn round(&mut self) -> Result<()> {
        let pass = Pass::begin();
        self.take_target();
        self.take_retries().await?;
        let target = self.target.borrow().clone();
        let mut next_change = None;
        if let Some(target) = target
            && let Some(input) = self.input(&target)
        {
            self.resume(&target, &input.observed, input.now);
            let span = tracing::info_span!("plan", generation = target.declared.generation.0);
            next_change = self.plan(target, input).instrument(span).await?;
            // Launch outside the span, because the steps outlive this planning round.
            self.launch().await?;
            self.publish();
            self.measure_pass(pass);
        }
        let now = self.backends.clock.now();
        let until_change = next_change.map(|at| (at - now).to_std().unwrap_or_default());
        self.pace = Pace::Waiting {
            until: Instant::now() + until_change.unwrap_or(LONGEST_WAIT),
        };
        Ok(())
    }

    /// Makes a plan and records it. Returns the time at which the next plan is due.
    async fn plan(
        &mut self,
        target: Target,
        input: PlanningInput,
    ) -> Result<Option<DateTime<Utc>>> {
        self.report_strangers(&input.observed, input.now);
        let begun = Instant::now();
        let plan = plan(&input);
        self.measure_plan(begun.elapsed());
        self.update_agents(&target, &input.observed, &[]);
        self.announce(&plan, input.now);
        self.commit(&input, &plan).await?;
        // A rejection changes the next plan, so make that plan immediately.
        let next_change = if plan.rejects.is_empty() {
            plan.next_change
        } else {
            Some(input.now)
        };
        let steps = plan.steps.iter().enumerate();
        let free = steps.filter(|(_, step)| step.needs.is_empty());
        self.latest = Some(Latest {
            left: free.map(|(place, _)| place).collect(),
            target,
            input: Arc::new(input),
            plan: Arc::new(plan),
            made_at: Instant::now(),
        });
        Ok(next_change)
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
            // A step that failed under the previous declaration may succeed under the new one.
            self.failures.clear();
            self.declared.send_replace(Some(target.declared));
        }
    }
}
