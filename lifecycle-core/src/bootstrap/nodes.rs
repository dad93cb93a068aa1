//! Creates, starts and prepares nodes before the manager runs, with the control loop of a platform
//! without services.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::Bootstrapper;
use super::durations::Timed;
use super::no_probe::NoProbe;
use super::progress::{Reporter, StepReports};
use super::wait::LoopWatch;
use crate::api::view;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::model::{Epoch, Generation, NodeName};
use crate::platform::Declaration;
use crate::reconcile::{Declared, Driver, EngineView, HeldBy, Plan, Round, Target};
use crate::registry::Registry;

/// The generations of the declaration in the control loop: with all nodes that are to be created, and
/// with the manager's node only.
const ALL: Generation = Generation(1);
const MANAGER_NODE: Generation = Generation(2);

/// How long running steps of other nodes may delay the manager's start. The manager repeats steps
/// that have not ended.
const OTHERS_END_WITHIN: Duration = Duration::from_mins(1);

/// The running control loop.
pub(super) struct Nodes<'a> {
    ended: BoxFuture<'a, Error>,
    rounds: watch::Receiver<Arc<Round>>,
    shown: StepReports<'a>,
    waits: LoopWatch<'a>,
    target: watch::Sender<Option<Target>>,
    /// The declaration with the manager's node only.
    manager_node: Declared,
}

impl Bootstrapper {
    /// Ensures that the manager's node is running and has Docker. If the platform has no nodes yet
    /// except `new` ones, which exist already, the creation of the other nodes has begun as well; with
    /// `all_nodes`, they are also running and have Docker.
    pub(super) async fn nodes<'a>(
        &self,
        declaration: &Declaration,
        new: &BTreeSet<NodeName>,
        all_nodes: bool,
        (reporter, clock): (&'a dyn Reporter, &'a dyn Clock),
    ) -> Result<Nodes<'a>> {
        let manager = &declaration.manager.node;
        let mut desired = declaration.clone();
        desired.services.clear();
        let mut manager_node = desired.clone();
        manager_node.nodes.retain(|name, _| name == manager);
        // Only the manager knows whether a failed node of an existing platform may be replaced.
        let listed = self.list_nodes().await?;
        if listed.iter().any(|machine| !new.contains(&machine.name)) {
            desired.nodes.clone_from(&manager_node.nodes);
        }
        let mut backends = self.backends.clone();
        backends.probe = Arc::new(NoProbe);
        let epoch = scratch_epoch(backends.registry.as_ref()).await?;
        let manager_node = Declared::new(MANAGER_NODE, &manager_node, &self.secrets.key)?;
        let declared = Declared::new(ALL, &desired, &self.secrets.key)?;
        let (keep_open, target) = watch::channel(Some(Target::without_api(declared)));
        let mut driver = self.driver.clone();
        driver.policy.spares_manager_node = false;
        driver.policy.only_nodes = true;
        driver.policy.provisions = self.backends.cloud.capabilities().provisions;
        let snapshot = backends.registry.snapshot().await?;
        let published = watch::Sender::default();
        let rounds = published.subscribe();
        let driver = Driver::new(backends, driver, epoch, snapshot, target, published);
        let mut nodes = Nodes {
            ended: driver.run().fuse().boxed(),
            rounds,
            shown: StepReports::new(reporter, clock),
            waits: LoopWatch::new(reporter, clock),
            target: keep_open,
            manager_node,
        };
        nodes
            .until(|round| round.is_idle() || !all_nodes && has_engine(round, manager))
            .await?;
        Ok(nodes)
    }
}

impl Nodes<'_> {
    /// Does the work that precedes the start of the manager, while the remaining nodes are created
    /// and prepared. Returns how long steps took. The failure of a remaining node is no error, because
    /// the manager tries again.
    pub(super) async fn meanwhile<T>(
        mut self,
        work: impl Future<Output = Result<T>>,
    ) -> Result<(T, Vec<Timed>)> {
        let done = tokio::select! {
            biased;
            done = work => done?,
            never = self.remaining() => match never {},
        };
        // No further steps on the other nodes start.
        let manager_node = Target::without_api(self.manager_node.clone());
        self.target.send_replace(Some(manager_node));
        let running =
            self.until(|round| round.generation() == MANAGER_NODE && round.running.is_empty());
        if let Ok(Err(error)) = tokio::time::timeout(OTHERS_END_WITHIN, running).await {
            tracing::warn!(error = %error.chain(), "the manager prepares the remaining nodes");
        }
        Ok((done, self.shown.took))
    }

    async fn remaining(&mut self) -> Infallible {
        if let Err(error) = self.until(Round::is_idle).await {
            tracing::warn!(error = %error.chain(), "a node is not ready yet");
        }
        // The loop continues, but is no longer watched.
        let error = (&mut self.ended).await;
        tracing::warn!(error = %error.chain(), "the control loop ended");
        std::future::pending().await
    }

    /// Reports the loop's progress until `is_done` returns true.
    async fn until(&mut self, is_done: impl Fn(&Round) -> bool) -> Result<()> {
        loop {
            let now = Arc::clone(&self.rounds.borrow_and_update());
            if now.generation() >= ALL {
                self.shown.show(&now);
                if is_done(&now) {
                    return Ok(());
                }
                if now.settled {
                    return Err(nodes_failed(&now.plan));
                }
            }
            self.waits.update(&now.running, &view::waits(&now.plan))?;
            tokio::select! {
                error = &mut self.ended => return Err(error),
                changed = self.rounds.changed() => if changed.is_err() {
                    let why = "its task ended unexpectedly";
                    return Err(Error::failed("the control loop", why));
                },
                () = tokio::time::sleep_until(self.waits.next_report()) => {}
            }
        }
    }
}

fn has_engine(round: &Round, node: &NodeName) -> bool {
    let observed = round.observed();
    let view = observed.nodes.get(node);
    view.is_some_and(|view| matches!(view.engine, EngineView::Known { .. }))
        && round.running.iter().all(|step| step.id.node() != node)
        && round.plan.steps.iter().all(|step| step.id.node() != node)
}

async fn scratch_epoch(registry: &dyn Registry) -> Result<Epoch> {
    registry
        .acquire_lease("bootstrapper", Duration::from_hours(24))
        .await?
        .epoch()
}

fn nodes_failed(plan: &Plan) -> Error {
    let whys: Vec<String> = plan
        .held
        .iter()
        .map(|held| match &held.by {
            HeldBy::Backoff { why, .. } => format!("{}: {why}", held.subject),
            by => format!("{}: {by}", held.subject),
        })
        .collect();
    Error::failed("preparing the nodes", whys.join("; "))
}
