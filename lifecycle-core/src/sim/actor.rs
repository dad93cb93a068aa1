//! Executes all calls that processes make to the simulated world. A call takes time, may fail, is
//! recorded if it changes something, and never returns to a crashed process.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::fault::Edge;
use super::ledger::{EffectOutcome, EffectRecord};
use super::machine::Outage;
use super::options::Span;
use super::world::{SimWorld, State};
use crate::error::{Error, Result};
use crate::model::NodeName;

/// The target of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Cloud,
    /// The operating system of a machine. If `boot` is set, calls fail in any other boot.
    Host {
        machine: u64,
        boot: Option<u64>,
    },
    /// The engine of a machine. Calls fail in any boot other than `boot`.
    Engine {
        machine: u64,
        boot: u64,
    },
    Code,
}

impl Target {
    fn machine(self) -> Option<u64> {
        match self {
            Self::Host { machine, .. } | Self::Engine { machine, .. } => Some(machine),
            Self::Cloud | Self::Code => None,
        }
    }
}

/// A call from a process to the simulated world.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) target: Target,
    pub(super) node: Option<NodeName>,
    pub(super) what: String,
    pub(super) is_effect: bool,
    pub(super) takes: Span,
}

impl Call {
    /// Returns the title of the call, such as `n1: state`. Faults select calls by title.
    fn title(&self) -> String {
        match &self.node {
            Some(node) => format!("{node}: {}", self.what),
            None => self.what.clone(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Done<T> {
    pub(super) value: T,
    pub(super) changed: bool,
}

impl<T> Done<T> {
    pub(super) fn changed(value: T) -> Self {
        Self {
            value,
            changed: true,
        }
    }

    pub(super) fn unchanged(value: T) -> Self {
        Self {
            value,
            changed: false,
        }
    }
}

enum Step<T> {
    Answered(Result<T>),
    /// The target does not respond for this time.
    Unreachable(Duration),
    Never,
}

/// One run of a process that makes calls to the world.
#[derive(Debug, Clone)]
pub(super) struct Actor {
    world: SimWorld,
    incarnation: u64,
}

impl Actor {
    pub(super) fn new(world: SimWorld, incarnation: u64) -> Self {
        Self { world, incarnation }
    }

    pub(super) fn world(&self) -> &SimWorld {
        &self.world
    }

    /// Executes a call. The call takes effect after half of its duration.
    pub(super) async fn call<T, A>(&self, call: Call, act: A) -> Result<T>
    where
        T: Send,
        A: FnOnce(&mut State, Instant) -> Result<Done<T>> + Send,
    {
        let half = self.takes(&call) / 2;
        sleep(half).await;
        let mut act = Some(act);
        let mut waited = false;
        let answer = loop {
            match self.step(&call, waited, &mut act) {
                Step::Answered(answer) => break answer,
                Step::Unreachable(wait) => {
                    sleep(wait).await;
                    waited = true;
                }
                Step::Never => std::future::pending().await,
            }
        };
        sleep(half).await;
        self.outlive().await;
        if answer.is_ok() {
            self.still_there(&call)?;
        }
        answer
    }

    /// Never returns if this incarnation has crashed.
    pub(super) async fn outlive(&self) {
        let over = self.is_over(&self.world.lock());
        if over {
            std::future::pending::<()>().await;
        }
    }

    fn is_over(&self, state: &State) -> bool {
        self.incarnation != state.incarnation || self.incarnation <= state.crashed
    }

    /// Returns the duration of a call, drawn from its title and the number of calls to the machine.
    fn takes(&self, call: &Call) -> Duration {
        let mut state = self.world.lock();
        let state = &mut *state;
        let machine = call.target.machine();
        let calls = match machine.and_then(|number| state.machines.get_mut(&number)) {
            Some(machine) => &mut machine.calls,
            None => &mut state.calls,
        };
        *calls += 1;
        let word = call.what.split(' ').next().unwrap_or_default();
        *state.calls_by_word.entry(word.to_owned()).or_default() += 1;
        let purpose = ["takes", &call.title()];
        state.rules.chance.between(call.takes, &purpose, *calls)
    }

    /// Handles a call at the time at which it takes effect.
    fn step<T, A>(&self, call: &Call, waited: bool, act: &mut Option<A>) -> Step<T>
    where
        A: FnOnce(&mut State, Instant) -> Result<Done<T>>,
    {
        let now = Instant::now();
        let mut state = self.world.lock();
        let state = &mut *state;
        if self.is_over(state) {
            return Step::Never;
        }
        if let Some(error) = state.faults.failure(&call.title()) {
            return Step::Answered(Err(error));
        }
        if call.target == Target::Cloud
            && let Some(after) = state.throttled(&call.title(), now)
        {
            return Step::Answered(Err(Error::Throttled {
                what: call.title(),
                after: Some(after),
            }));
        }
        if let Some(number) = call.target.machine() {
            state.advance(number, now);
        }
        match (reach(state, call), waited) {
            (Ok(()), _) => {}
            (Err(NoAnswer::Timeout), false) => {
                let wait = state.rules.chance.paced(state.rules.latencies.notice);
                return Step::Unreachable(wait);
            }
            (Err(NoAnswer::Timeout), true) => return Step::Answered(Err(unreachable(call, None))),
            (Err(NoAnswer::Refused(why)), _) => {
                return Step::Answered(Err(unreachable(call, Some(why))));
            }
        }
        let Some(act) = act.take() else {
            return Step::Never;
        };
        if !call.is_effect {
            return Step::Answered(act(state, now).map(|done| done.value));
        }
        self.effect(state, call, now, act)
    }

    fn effect<T, A>(&self, state: &mut State, call: &Call, now: Instant, act: A) -> Step<T>
    where
        A: FnOnce(&mut State, Instant) -> Result<Done<T>>,
    {
        let number = u64::try_from(state.ledger.effects.len()).unwrap_or(u64::MAX) + 1;
        let crash = state.faults.crash(number);
        let rates = state.rules.rates;
        let purpose = ["rate", &call.title()];
        let breaks_off = call.target.machine().is_some()
            && state
                .rules
                .chance
                .happens(rates.interrupted, &purpose, number);
        let is_lost =
            state
                .rules
                .chance
                .happens(rates.reply_lost, &["lost", &call.title()], number);
        let (answer, outcome) = if crash == Some(Edge::Before) {
            (None, EffectOutcome::NotDone)
        } else if breaks_off {
            (Some(Err(interrupted(call))), EffectOutcome::NotDone)
        } else {
            match act(state, now) {
                Ok(done) => {
                    let outcome = if done.changed {
                        EffectOutcome::Changed
                    } else {
                        EffectOutcome::Unchanged
                    };
                    (Some(Ok(done.value)), outcome)
                }
                Err(error) => {
                    let outcome = EffectOutcome::Refused(error.chain());
                    (Some(Err(error)), outcome)
                }
            }
        };
        if outcome == EffectOutcome::Changed
            && let Some(machine) = call.target.machine().and_then(|n| state.machines.get(&n))
        {
            machine.notify();
        }
        state.ledger.effects.push(EffectRecord {
            number,
            at: state.rules.date(now),
            incarnation: self.incarnation,
            node: call.node.clone(),
            what: call.what.clone(),
            outcome,
        });
        state.check(now);
        if crash.is_some() {
            state.crashed = self.incarnation;
            self.world.report_crash(self.incarnation);
            return Step::Never;
        }
        match answer {
            Some(answer) if !is_lost => Step::Answered(answer),
            _ => Step::Answered(Err(interrupted(call))),
        }
    }

    /// Returns an error if the machine went down or became unreachable during the call, so that the
    /// response is lost.
    fn still_there(&self, call: &Call) -> Result<()> {
        let now = Instant::now();
        let mut state = self.world.lock();
        if let Some(number) = call.target.machine() {
            state.advance(number, now);
        }
        reach(&state, call).map_err(|why| match why {
            NoAnswer::Timeout => unreachable(call, None),
            NoAnswer::Refused(why) => unreachable(call, Some(why)),
        })
    }
}

/// The reason why a target does not answer.
enum NoAnswer {
    /// Packets are lost.
    Timeout,
    /// The connection is refused immediately.
    Refused(&'static str),
}

fn reach(state: &State, call: &Call) -> Result<(), NoAnswer> {
    let (number, boot, engine) = match call.target {
        Target::Cloud | Target::Code => return Ok(()),
        Target::Host { machine, boot } => (machine, boot, false),
        Target::Engine { machine, boot } => (machine, Some(boot), true),
    };
    let Some(machine) = state.machines.get(&number) else {
        return Err(NoAnswer::Refused("the machine does not exist"));
    };
    if machine.outage != Outage::None {
        return Err(NoAnswer::Timeout);
    }
    if !machine.is_up() {
        return Err(NoAnswer::Refused(
            "the SSH server of the machine does not respond",
        ));
    }
    if boot.is_some_and(|boot| boot != machine.boot) {
        return Err(NoAnswer::Refused("the connection broke"));
    }
    if engine && !machine.engine.installed {
        return Err(NoAnswer::Refused("there is no engine"));
    }
    Ok(())
}

fn unreachable(call: &Call, why: Option<&str>) -> Error {
    let what = match (&call.node, call.target) {
        (Some(node), Target::Engine { .. }) => format!("engine of node {node}"),
        (Some(node), _) => format!("node {node}"),
        (None, _) => call.what.clone(),
    };
    Error::Unreachable {
        hint: None,
        what,
        source: why.map(Into::into),
    }
}

fn interrupted(call: &Call) -> Error {
    Error::Interrupted {
        what: call.title(),
        source: None,
    }
}
