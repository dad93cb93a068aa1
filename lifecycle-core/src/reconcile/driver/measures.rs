//! Counts and measures what the control loop does.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::Driver;
use crate::metrics::{LONG, Metric, SHORT};
use crate::model::{NodeName, ServiceName};
use crate::reconcile::step::Action;

/// The metrics that a control loop records.
pub(crate) static METRICS: [&Metric; 7] = [
    &SETTLED_GENERATION,
    &PASS,
    &PLAN,
    &SETTLING,
    &STEP,
    &RETRIES,
    &RESETS,
];

pub(crate) static SETTLED_GENERATION: Metric = Metric::gauge(
    "lifecycle_settled_generation",
    &[],
    "The latest generation whose round has ended; 0 if none has since the manager began to lead",
);

static PASS: Metric = Metric::histogram(
    "lifecycle_reconcile_duration_seconds",
    &[],
    SHORT,
    "How long a pass of the control loop takes: to plan, to record, and to start steps",
);

static PLAN: Metric = Metric::histogram(
    "lifecycle_plan_duration_seconds",
    &[],
    SHORT,
    "How long it takes to compute a plan",
);

static SETTLING: Metric = Metric::histogram(
    "lifecycle_settling_duration_seconds",
    &[],
    LONG,
    "How long rounds take: from the first plan with a change until nothing is left to do or to wait for",
);

static STEP: Metric = Metric::histogram(
    "lifecycle_step_duration_seconds",
    &["action", "outcome"],
    LONG,
    "How long steps take; `outcome` is `succeeded` or `failed`",
);

static RETRIES: Metric = Metric::counter(
    "lifecycle_step_retries_total",
    &["action"],
    "Steps that started again after a failure",
);

/// Its labels come from the declaration, so the manager removes the values of services and nodes that no
/// longer exist.
pub(crate) static RESETS: Metric = Metric::counter(
    "lifecycle_agent_reset_connections_total",
    &["service", "node"],
    "Connections to a service that the agent of a node reset, because no endpoint became ready in time",
);

/// When a pass began, and whether it made a plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass(Instant);

impl Pass {
    pub(super) fn begin() -> Self {
        Self(Instant::now())
    }
}

impl Driver {
    /// Records the end of a pass that made a plan, and the end of the round if the plan is settled.
    pub(super) fn measure_pass(&mut self, pass: Pass) {
        self.recorder.observe(&PASS, &[], pass.0.elapsed());
        let Some(latest) = &self.latest else {
            return;
        };
        if !self.is_settled(&latest.plan) {
            self.unsettled_since.get_or_insert_with(Instant::now);
            return;
        }
        let generation = latest.input.declared.generation.0;
        self.recorder.set(&SETTLED_GENERATION, &[], generation);
        if let Some(since) = self.unsettled_since.take() {
            self.recorder.observe(&SETTLING, &[], since.elapsed());
        }
    }

    pub(super) fn measure_plan(&self, took: Duration) {
        self.recorder.observe(&PLAN, &[], took);
    }

    pub(super) fn measure_step(&self, action: &Action, outcome: &str, took: chrono::TimeDelta) {
        let took = took.to_std().unwrap_or_default();
        let labels = [&*kind(action), outcome];
        self.recorder.observe(&STEP, &labels, took);
    }

    pub(super) fn count_retry(&self, action: &Action) {
        self.recorder.add(&RETRIES, &[&kind(action)], 1);
    }

    pub(super) fn count_resets(&self, service: &ServiceName, node: &NodeName, connections: u64) {
        let labels = [service.as_str(), node.as_str()];
        self.recorder.add(&RESETS, &labels, connections);
    }
}

/// Returns the kind of an action, as in JSON.
fn kind(action: &Action) -> String {
    tag(action, "action")
}

/// Returns the tag of a serialized enum: the member `name` of an object, or the whole value.
pub(crate) fn tag(value: &impl Serialize, name: &str) -> String {
    let json = serde_json::to_value(value).unwrap_or_default();
    let tag = json.get(name).unwrap_or(&json).as_str();
    tag.unwrap_or("unknown").to_owned()
}
