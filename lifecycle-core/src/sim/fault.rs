//! Faults that a test causes in a world.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::engine::Container;
use super::ledger::Ledger;
use super::machine::{Machine, Outage};
use super::options::FaultRates;
use super::world::{Rules, SimWorld, State};
use crate::cloud::Power;
use crate::error::{Error, Result};
use crate::model::{NodeName, Owner, VolumeName};

/// Whether a crash happens before or after an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// The process crashes before the effect.
    Before,
    /// The effect happens, and the process crashes before it gets the response.
    After,
}

/// Limits the rate of calls to the cloud.
#[derive(Debug)]
struct Budget {
    burst: u32,
    per_call: Duration,
    /// The time at which the budget is full again.
    full_at: Instant,
}

/// The faults that a test has scheduled.
#[derive(Debug, Default)]
pub(super) struct FaultPlan {
    crashes: BTreeMap<u64, Edge>,
    failures: Vec<(String, Error)>,
    throttles: u32,
    throttle_for: Duration,
    budget: Option<Budget>,
    pub(super) quota: Option<usize>,
}

impl FaultPlan {
    pub(super) fn crash(&mut self, effect: u64) -> Option<Edge> {
        self.crashes.remove(&effect)
    }

    pub(super) fn failure(&mut self, title: &str) -> Option<Error> {
        let index = self
            .failures
            .iter()
            .position(|(pattern, _)| title.contains(pattern))?;
        Some(self.failures.remove(index).1)
    }
}

impl State {
    /// Returns how long a call to the cloud must wait; `None` if it is not throttled.
    pub(super) fn throttled(&mut self, title: &str, now: Instant) -> Option<Duration> {
        let plan = &mut self.faults;
        if plan.throttles > 0 {
            plan.throttles -= 1;
            return Some(plan.throttle_for);
        }
        if let Some(budget) = &mut plan.budget {
            // Each allowed call moves `full_at` by `per_call`. A call is throttled if it would move
            // `full_at` more than `burst` times `per_call` past the current time.
            let full_at = budget.full_at.max(now) + budget.per_call;
            let allowed = budget.per_call.saturating_mul(budget.burst);
            let over = full_at.saturating_duration_since(now + allowed);
            if !over.is_zero() {
                return Some(over);
            }
            budget.full_at = full_at;
        }
        let rate = self.rules.rates.throttled;
        let throttled = self
            .rules
            .chance
            .happens(rate, &["throttled", title], self.calls);
        throttled.then_some(Duration::from_secs(2))
    }
}

/// Causes faults. Faults of nodes and containers take effect immediately, without a simulated call.
#[derive(Debug, Clone)]
pub struct Faults {
    world: SimWorld,
}

impl Faults {
    pub(super) fn new(world: SimWorld) -> Self {
        Self { world }
    }

    /// Crashes the process at the effect with this number. Effects are counted from 1, over all
    /// incarnations. After the crash, no call of the crashed incarnation returns.
    pub fn crash_at(&self, effect: u64, edge: Edge) {
        self.world.lock().faults.crashes.insert(effect, edge);
    }

    /// Makes the next call whose title (`node-1: ensure demo-…`, `list`, or `node-1: manager:
    /// services` for a request to the manager) contains `pattern` fail with `error` and without an
    /// effect.
    pub fn fail_next(&self, pattern: &str, error: Error) {
        let mut state = self.world.lock();
        state.faults.failures.push((pattern.to_owned(), error));
    }

    /// Cancels failures that were set with this pattern.
    pub fn repair(&self, pattern: &str) {
        let mut state = self.world.lock();
        let failures = &mut state.faults.failures;
        failures.retain(|(failing, _)| failing != pattern);
    }

    /// Throttles the next `calls` calls to the cloud. The cloud asks for a retry after the duration
    /// `after`.
    pub fn throttle(&self, calls: u32, after: Duration) {
        let mut state = self.world.lock();
        state.faults.throttles = calls;
        state.faults.throttle_for = after;
    }

    /// Makes the cloud allow a burst of `burst` calls, and one more call every `per_call`.
    pub fn budget(&self, burst: u32, per_call: Duration) {
        self.world.lock().faults.budget = Some(Budget {
            burst,
            per_call,
            full_at: Instant::now(),
        });
    }

    /// Sets how often calls fail randomly.
    pub fn rates(&self, rates: FaultRates) {
        self.world.lock().rules.rates = rates;
    }

    /// Sets the maximum number of nodes of each platform; `None` removes the quota.
    pub fn quota(&self, nodes: Option<usize>) {
        self.world.lock().faults.quota = nodes;
    }

    /// Makes the agent on the node accept tables only after a delay. An agent that does not accept a
    /// table within ten seconds is broken for the manager.
    pub fn delay_tables(&self, node: &NodeName, delay: Duration) -> Result<()> {
        self.touch(node, |machine, _, _| machine.agent.accepts_after = delay)
    }

    /// Makes the node unreachable from outside; its containers keep running.
    pub fn partition(&self, node: &NodeName) -> Result<()> {
        self.touch(node, |machine, _, _| machine.outage = Outage::Partitioned)
    }

    /// Freezes the node: the cloud reports that the node is running, but the node does not answer.
    pub fn pause(&self, node: &NodeName) -> Result<()> {
        self.touch(node, |machine, _, _| machine.outage = Outage::Paused)
    }

    /// Ends a partition or a pause.
    pub fn heal(&self, node: &NodeName) -> Result<()> {
        self.touch(node, |machine, _, _| machine.outage = Outage::None)
    }

    /// Starts or restarts the node without a request from the platform.
    pub fn reboot(&self, node: &NodeName) -> Result<()> {
        let now = Instant::now();
        self.touch(node, |machine, rules, ledger| {
            machine.power_off(now, Power::Stopped, ledger);
            machine.power_on(now, rules);
        })
    }

    /// Stops the node without a request from the platform.
    pub fn power_off(&self, node: &NodeName) -> Result<()> {
        let now = Instant::now();
        self.touch(node, |machine, _, ledger| {
            machine.power_off(now, Power::Stopped, ledger);
        })
    }

    /// Deletes the node from the cloud, with everything on it.
    pub fn destroy(&self, node: &NodeName) -> Result<()> {
        let now = Instant::now();
        self.touch(node, |machine, _, ledger| {
            machine.power_off(now, Power::Stopping, ledger);
            machine.gone = true;
        })?;
        // Access the node, so that the deletion is applied.
        let _ = self.world.node(node);
        Ok(())
    }

    /// Ends the process of a container with this exit code.
    pub fn kill_container(&self, node: &NodeName, container: &str, code: i64) -> Result<()> {
        let now = Instant::now();
        self.on_container(node, container, |machine, ledger| {
            let (engine, here) = machine.engine_here();
            engine.kill(container, code, now, here, ledger)
        })
    }

    /// Makes a running container stop answering and fail its health check.
    pub fn make_unhealthy(&self, node: &NodeName, container: &str) -> Result<()> {
        let now = Instant::now();
        self.on_container(node, container, |machine, _| {
            machine.engine.make_unhealthy(container, now)
        })
    }

    /// Removes a container.
    pub fn remove_container(&self, node: &NodeName, container: &str) -> Result<()> {
        let now = Instant::now();
        self.on_container(node, container, |machine, ledger| {
            let found = machine.engine.containers.get(container);
            let owner = found.map(Container::owner);
            let (engine, here) = machine.engine_here();
            owner.is_some_and(|owner| engine.remove(container, owner, now, here, ledger).is_ok())
        })
    }

    /// Removes the engine's program from a node. The containers end, and are there again after the
    /// engine's installation.
    pub fn remove_engine(&self, node: &NodeName) -> Result<()> {
        let now = Instant::now();
        self.touch(node, |machine, _, ledger| machine.lose_engine(now, ledger))
    }

    /// Creates a volume of a platform, as if it was restored from a backup.
    pub fn add_volume(&self, node: &NodeName, owner: &Owner, volume: &VolumeName) -> Result<()> {
        self.touch(node, |machine, _, _| {
            machine.engine.add_volume(volume, owner.id);
        })
    }

    fn on_container(
        &self,
        node: &NodeName,
        container: &str,
        act: impl FnOnce(&mut Machine, &mut Ledger) -> bool,
    ) -> Result<()> {
        let found = self.world.with_machine(node, |machine, _, ledger| {
            let found = act(machine, ledger);
            machine.notify();
            found
        })?;
        if found {
            Ok(())
        } else {
            Err(Error::not_found(format!("container {container} on {node}")))
        }
    }

    fn touch(
        &self,
        node: &NodeName,
        act: impl FnOnce(&mut Machine, &Rules, &mut Ledger),
    ) -> Result<()> {
        self.world.with_machine(node, |machine, rules, ledger| {
            act(machine, rules, ledger);
            machine.notify();
        })
    }
}
