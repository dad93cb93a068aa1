//! What goes wrong in a world, by script.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::engine::Container;
use super::ledger::Ledger;
use super::machine::{Machine, Silence};
use super::options::FaultRates;
use super::world::{Rules, SimWorld, State};
use crate::cloud::Power;
use crate::error::{Error, Result};
use crate::model::NodeName;

/// On which side of an effect a crash lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// The process ends before the effect takes place.
    Before,
    /// The effect takes place, and the process ends before it hears of it.
    After,
}

/// How many calls to the cloud are allowed.
#[derive(Debug)]
struct Budget {
    burst: u32,
    per_call: Duration,
    /// When the budget is full again.
    full_at: Instant,
}

/// What is going to go wrong.
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
        let place = self
            .failures
            .iter()
            .position(|(pattern, _)| title.contains(pattern))?;
        Some(self.failures.remove(place).1)
    }
}

impl State {
    /// For how long a call to the cloud is refused, if it is.
    pub(super) fn throttled(&mut self, title: &str, now: Instant) -> Option<Duration> {
        let plan = &mut self.faults;
        if plan.throttles > 0 {
            plan.throttles -= 1;
            return Some(plan.throttle_for);
        }
        if let Some(budget) = &mut plan.budget {
            // Each call puts off the moment at which the budget is full; a burst's worth of
            // that is allowed.
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

/// Makes things go wrong. What happens to a node or a container happens at once, without a
/// call, and behind the back of whoever acts on the world.
#[derive(Debug, Clone)]
pub struct Faults {
    world: SimWorld,
}

impl Faults {
    pub(super) fn new(world: SimWorld) -> Self {
        Self { world }
    }

    /// The process that makes the effect of this number (from 1, counted over all incarnations)
    /// crashes there: that call and all others of its incarnation never return.
    pub fn crash_at(&self, effect: u64, edge: Edge) {
        self.world.lock().faults.crashes.insert(effect, edge);
    }

    /// The next call whose title (`node-1: ensure demo-…`, or `list`) contains `pattern` fails
    /// with `error` and does nothing.
    pub fn fail_next(&self, pattern: &str, error: Error) {
        let mut state = self.world.lock();
        state.faults.failures.push((pattern.to_owned(), error));
    }

    /// Calls whose failure was set with this very pattern fail no more.
    pub fn repair(&self, pattern: &str) {
        let mut state = self.world.lock();
        let failures = &mut state.faults.failures;
        failures.retain(|(failing, _)| failing != pattern);
    }

    /// The next so many calls to the cloud are throttled.
    pub fn throttle(&self, calls: u32, after: Duration) {
        let mut state = self.world.lock();
        state.faults.throttles = calls;
        state.faults.throttle_for = after;
    }

    /// The cloud allows so many calls at once, and one more each `per_call`.
    pub fn budget(&self, burst: u32, per_call: Duration) {
        self.world.lock().faults.budget = Some(Budget {
            burst,
            per_call,
            full_at: Instant::now(),
        });
    }

    /// From now on calls go wrong by themselves this often.
    pub fn rates(&self, rates: FaultRates) {
        self.world.lock().rules.rates = rates;
    }

    /// Each platform may have so many nodes; `None` lifts the quota.
    pub fn quota(&self, nodes: Option<usize>) {
        self.world.lock().faults.quota = nodes;
    }

    /// Nobody reaches the node from outside; what runs there goes on.
    pub fn partition(&self, node: &NodeName) -> Result<()> {
        self.touch(node, |machine, _, _| machine.silence = Silence::Partitioned)
    }

    /// The node freezes: the cloud says that it runs, and nobody answers.
    pub fn pause(&self, node: &NodeName) -> Result<()> {
        self.touch(node, |machine, _, _| machine.silence = Silence::Paused)
    }

    /// Ends a partition and a pause.
    pub fn heal(&self, node: &NodeName) -> Result<()> {
        self.touch(node, |machine, _, _| machine.silence = Silence::None)
    }

    /// The node starts behind our back, or starts anew if it runs.
    pub fn reboot(&self, node: &NodeName) -> Result<()> {
        let now = Instant::now();
        self.touch(node, |machine, rules, ledger| {
            machine.power_off(now, Power::Stopped, ledger);
            machine.power_on(now, rules);
        })
    }

    /// The node disappears from the cloud with all that is on it.
    pub fn destroy(&self, node: &NodeName) -> Result<()> {
        let now = Instant::now();
        self.touch(node, |machine, _, ledger| {
            machine.power_off(now, Power::Stopping, ledger);
            machine.gone = true;
        })?;
        // The second look finds it gone.
        let _ = self.world.node(node);
        Ok(())
    }

    /// A container's process ends with this code.
    pub fn kill_container(&self, node: &NodeName, container: &str, code: i64) -> Result<()> {
        let now = Instant::now();
        self.on_container(node, container, |machine, ledger| {
            let (engine, here) = machine.engine_here();
            engine.kill(container, code, now, here, ledger)
        })
    }

    /// A container that runs answers no more, and its health check fails.
    pub fn sicken(&self, node: &NodeName, container: &str) -> Result<()> {
        let now = Instant::now();
        self.on_container(node, container, |machine, _| {
            machine.engine.sicken(container, now)
        })
    }

    /// A container disappears.
    pub fn remove_container(&self, node: &NodeName, container: &str) -> Result<()> {
        let now = Instant::now();
        self.on_container(node, container, |machine, ledger| {
            let found = machine.engine.containers.get(container);
            let owner = found.map(Container::owner);
            let (engine, here) = machine.engine_here();
            owner.is_some_and(|owner| engine.remove(container, owner, now, here, ledger).is_ok())
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
