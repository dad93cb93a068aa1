//! Publishes the result of each round of the control loop.

use std::sync::{Arc, PoisonError};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Driver;
use crate::model::Generation;
use crate::reconcile::input::PlanningInput;
use crate::reconcile::observe::Observed;
use crate::reconcile::step::{Plan, StepId};

/// A step that is running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RunningStep {
    /// The id of the step.
    pub id: StepId,
    /// A description of what the step does.
    pub what: String,
    /// When the step started.
    pub since: DateTime<Utc>,
    /// The step's deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// The latest line of the step's output.
    pub last_line: Option<String>,
}

/// The latest plan, its input, and the running steps.
#[derive(Debug, Clone, Default)]
pub struct Round {
    /// The input of the plan; `None` before the first plan.
    pub input: Option<Arc<PlanningInput>>,
    /// The plan.
    pub plan: Arc<Plan>,
    pub running: Vec<RunningStep>,
    /// The steps that have ended, and whose effects the observation may not contain yet.
    pub settling: Vec<StepId>,
    /// Whether the round has ended: no step is running, and every replica is ready, completed or
    /// failed.
    pub settled: bool,
}

impl Round {
    /// Returns the steps whose effects the observation may not contain yet.
    pub fn in_progress(&self) -> impl Iterator<Item = &StepId> {
        let running = self.running.iter().map(|step| &step.id);
        running.chain(&self.settling)
    }

    /// Returns the generation of the plan; 0 before the first plan.
    pub fn generation(&self) -> Generation {
        let input = self.input.as_ref();
        input.map_or_else(Generation::default, |input| input.declared.generation)
    }

    /// Returns whether the platform is being deleted.
    pub fn is_deleting(&self) -> bool {
        let input = self.input.as_ref();
        input.is_some_and(|input| input.declared.deleting)
    }

    /// Returns the observation that the plan is based on; empty before the first plan.
    pub fn observed(&self) -> Arc<Observed> {
        let input = self.input.as_ref();
        input.map_or_else(Arc::default, |input| Arc::clone(&input.observed))
    }

    /// Returns whether no step is running, no step is planned and nothing is held.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.plan.is_empty()
    }

    /// Returns whether both rounds are equal, apart from their observations.
    fn shows_the_same_as(&self, other: &Self) -> bool {
        self.generation() == other.generation()
            && self.is_deleting() == other.is_deleting()
            && self.settled == other.settled
            && self.running == other.running
            && self.settling == other.settling
            && self.plan == other.plan
    }
}

impl Driver {
    /// Publishes the latest plan. Subscribers are not notified if only the observation changed.
    pub(super) fn publish(&self) {
        let Some(latest) = &self.latest else {
            return;
        };
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let running = self.running.iter().map(|(id, running)| RunningStep {
            id: id.clone(),
            what: running.action.to_string(),
            since: running.since,
            until: running.until,
            last_line: lines.get(id).cloned(),
        });
        let mut round = Round {
            input: Some(Arc::clone(&latest.input)),
            plan: Arc::clone(&latest.plan),
            running: running.collect(),
            settling: self.settling.keys().cloned().collect(),
            settled: self.is_settled(&latest.plan),
        };
        drop(lines);
        self.rounds.send_if_modified(|published| {
            // Keep the round unsettled while a retry request is queued: the request's sender marks
            // it as unsettled.
            round.settled &= self.retry_requests.is_empty();
            let differs = !round.shows_the_same_as(published);
            *published = Arc::new(round);
            differs
        });
    }

    /// Publishes the latest output lines of the running steps, without a new plan.
    pub(super) fn publish_lines(&self) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        self.rounds.send_if_modified(|round| {
            let mut running = round.running.iter();
            if running.all(|step| step.last_line.as_ref() == lines.get(&step.id)) {
                return false;
            }
            for step in &mut Arc::make_mut(round).running {
                step.last_line = lines.get(&step.id).cloned();
            }
            true
        });
    }

    pub(super) fn is_settled(&self, plan: &Plan) -> bool {
        plan.settled
            && self.running.is_empty()
            && self.settling.is_empty()
            && self.has_seen_retried()
    }
}
