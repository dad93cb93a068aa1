//! The gate that every call from outside goes through: it takes its time, it may go wrong, it
//! is recorded if it changes something, and it never returns to a process that has crashed.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::fault::Edge;
use super::ledger::{EffectOutcome, EffectRecord};
use super::machine::Silence;
use super::options::Span;
use super::world::{SimWorld, State};
use crate::error::{Error, Result};
use crate::model::NodeName;

/// Whom a call is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Party {
    /// The cloud.
    Cloud,
    /// The operating system of a machine, in one of its boots if it says which.
    Host { machine: u64, boot: Option<u64> },
    /// The engine of a machine, in one of its boots.
    Engine { machine: u64, boot: u64 },
    /// The code store.
    Code,
}

impl Party {
    fn machine(self) -> Option<u64> {
        match self {
            Self::Host { machine, .. } | Self::Engine { machine, .. } => Some(machine),
            Self::Cloud | Self::Code => None,
        }
    }
}

/// A call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) party: Party,
    pub(super) node: Option<NodeName>,
    pub(super) what: String,
    pub(super) is_effect: bool,
    pub(super) takes: Span,
}

impl Call {
    /// `n1: what`, by which faults are scripted.
    fn title(&self) -> String {
        match &self.node {
            Some(node) => format!("{node}: {}", self.what),
            None => self.what.clone(),
        }
    }
}

/// What a call did.
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

/// How a call goes on.
enum Step<T> {
    Answered(Result<T>),
    /// Nobody answers for so long.
    Silent(Duration),
    Never,
}

/// One life of a process that acts on the world.
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

    /// Makes a call: half of its time passes, it takes place, the other half passes.
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
                Step::Silent(wait) => {
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

    /// Returns unless this incarnation is over.
    pub(super) async fn outlive(&self) {
        let over = self.is_over(&self.world.lock());
        if over {
            std::future::pending::<()>().await;
        }
    }

    fn is_over(&self, state: &State) -> bool {
        self.incarnation != state.incarnation || self.incarnation <= state.crashed
    }

    /// How long a call takes, drawn from what was called on that machine before.
    fn takes(&self, call: &Call) -> Duration {
        let mut state = self.world.lock();
        let state = &mut *state;
        let machine = call.party.machine();
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

    /// The moment at which a call takes place.
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
        if call.party == Party::Cloud
            && let Some(after) = state.throttled(&call.title(), now)
        {
            return Step::Answered(Err(Error::Throttled {
                what: call.title(),
                after: Some(after),
            }));
        }
        if let Some(number) = call.party.machine() {
            state.settle(number, now);
        }
        match (reach(state, call), waited) {
            (Ok(()), _) => {}
            (Err(Unreached::Silent), false) => {
                let wait = state.rules.chance.paced(state.rules.latencies.notice);
                return Step::Silent(wait);
            }
            (Err(Unreached::Silent), true) => return Step::Answered(Err(unreachable(call, None))),
            (Err(Unreached::Refused(why)), _) => {
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
        let breaks_off = call.party.machine().is_some()
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
            && let Some(machine) = call.party.machine().and_then(|n| state.machines.get(&n))
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
        state.judge(now);
        if crash.is_some() {
            state.crashed = self.incarnation;
            self.world.tell_crash(self.incarnation);
            return Step::Never;
        }
        match answer {
            Some(answer) if !is_lost => Step::Answered(answer),
            _ => Step::Answered(Err(interrupted(call))),
        }
    }

    /// An answer from a machine that went down or fell silent meanwhile is lost.
    fn still_there(&self, call: &Call) -> Result<()> {
        let now = Instant::now();
        let mut state = self.world.lock();
        if let Some(number) = call.party.machine() {
            state.settle(number, now);
        }
        reach(&state, call).map_err(|why| match why {
            Unreached::Silent => unreachable(call, None),
            Unreached::Refused(why) => unreachable(call, Some(why)),
        })
    }
}

/// Why nobody answers.
enum Unreached {
    /// No packet comes back.
    Silent,
    /// Someone says so at once.
    Refused(&'static str),
}

fn reach(state: &State, call: &Call) -> Result<(), Unreached> {
    let (number, boot, engine) = match call.party {
        Party::Cloud | Party::Code => return Ok(()),
        Party::Host { machine, boot } => (machine, boot, false),
        Party::Engine { machine, boot } => (machine, Some(boot), true),
    };
    let Some(machine) = state.machines.get(&number) else {
        return Err(Unreached::Refused("the machine is gone"));
    };
    if machine.silence != Silence::None {
        return Err(Unreached::Silent);
    }
    if !machine.is_up() {
        return Err(Unreached::Refused("its SSH server does not answer"));
    }
    if boot.is_some_and(|boot| boot != machine.boot) {
        return Err(Unreached::Refused("the connection broke"));
    }
    if engine && !machine.engine.installed {
        return Err(Unreached::Refused("there is no engine"));
    }
    Ok(())
}

fn unreachable(call: &Call, why: Option<&str>) -> Error {
    let what = match (&call.node, call.party) {
        (Some(node), Party::Engine { .. }) => format!("engine of node {node}"),
        (Some(node), _) => format!("node {node}"),
        (None, _) => call.what.clone(),
    };
    Error::Unreachable {
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
