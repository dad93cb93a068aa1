//! Writes states and their events to the registry after each plan.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::Driver;
use super::history::last_seen;
use crate::error::Result;
use crate::model::{ContainerId, EventKind, NewEvent, Subject};
use crate::reconcile::input::PlanningInput;
use crate::reconcile::observe::Observed;
use crate::reconcile::record::{UnderWay, record};
use crate::reconcile::step::{Action, Plan, Step, StepId};
use crate::registry::Change;
use crate::runtime::Role;

/// The maximum number of steps, and of held subjects, in one event.
const LISTED: usize = 100;

impl Driver {
    /// Records an event that lists the steps that the previous plan did not have.
    pub(super) fn announce(&mut self, plan: &Plan, now: DateTime<Utc>) {
        let previous = self.latest.as_ref().map(|latest| &latest.plan.steps);
        let new = new_steps(previous.map_or(&[], Vec::as_slice), &plan.steps);
        if new.is_empty() {
            return;
        }
        let held = &plan.held[..plan.held.len().min(LISTED)];
        let data = serde_json::json!({
            "steps": &new[..new.len().min(LISTED)],
            "held": held,
            "more_steps": new.len().saturating_sub(LISTED),
            "more_held": plan.held.len() - held.len(),
        });
        self.events.push(NewEvent {
            at: now,
            kind: EventKind::Planned,
            subject: Subject::Platform,
            message: match plan.steps.as_slice() {
                [only] => format!("plan: {} ({})", only.action, only.reason),
                steps => format!("plan with {} steps", steps.len()),
            },
            data,
        });
    }

    /// Records an event for each container that has the labels of an instance, but another name, once
    /// per leader.
    pub(super) fn report_strangers(&mut self, observed: &Observed, now: DateTime<Utc>) {
        for (node, view) in &observed.nodes {
            for stranger in &view.strangers {
                let Role::Instance(id) = &stranger.role else {
                    continue;
                };
                if !self.strangers.insert(stranger.id.clone()) {
                    continue;
                }
                let name = &stranger.name;
                self.events.push(NewEvent {
                    at: now,
                    kind: EventKind::StrangerFound,
                    subject: Subject::Node(node.clone()),
                    message: format!(
                        "the container {name} on {node} has the labels of {id}, but the platform did \
                         not create it and ignores it; remove it with `docker rm --force {name}`"
                    ),
                    data: serde_json::json!({ "node": node, "container": name, "instance": id }),
                });
            }
        }
    }

    pub(super) async fn commit(&mut self, input: &PlanningInput, plan: &Plan) -> Result<()> {
        let (declared, now) = (&input.declared, input.now);
        let under_way = UnderWay {
            stopping: self.stopping(),
            operations: self.operations.clone(),
        };
        let mut batch = record(input, plan, &under_way, &self.registry);
        if self.is_settled(plan) && !self.registry.first_round_done && !declared.services.is_empty()
        {
            batch.changes.push(Change::MarkFirstRoundDone);
            batch.events.push(NewEvent {
                at: now,
                kind: EventKind::FirstRoundDone,
                subject: Subject::Platform,
                message: "the first round is complete".into(),
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

    /// Returns the containers that are being stopped or removed.
    pub(super) fn stopping(&self) -> BTreeSet<ContainerId> {
        let running = self.running.values().map(|r| &r.action);
        let settling = self.settling.values().map(|s| &s.action);
        running
            .chain(settling)
            .filter_map(|action| action.ended_container().cloned())
            .collect()
    }

    pub(super) fn record_event(
        &mut self,
        kind: EventKind,
        action: &Action,
        message: String,
        at: DateTime<Utc>,
    ) {
        self.events.push(NewEvent {
            at,
            kind,
            subject: action.subject(),
            message,
            data: serde_json::json!({ "step": action.id(), "does": action }),
        });
    }
}

/// Returns the steps of a plan that the previous plan did not have.
fn new_steps<'a>(previous: &[Step], steps: &'a [Step]) -> Vec<&'a Step> {
    // Fast path: usually, the plan is the previous one without the steps that are done.
    let mut rest = previous.iter();
    if steps
        .iter()
        .all(|step| rest.any(|before| before.id == step.id))
    {
        return Vec::new();
    }
    let known: HashSet<&StepId> = previous.iter().map(|step| &step.id).collect();
    let is_new = |step: &&Step| !known.contains(&step.id);
    steps.iter().filter(is_new).collect()
}
