//! Handles the results of steps: stores accepted cloud operations, records events, and counts
//! failures.

use std::sync::PoisonError;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::RngExt;

use super::wakeup::StepEnd;
use super::{Driver, Settling};
use crate::cloud::CloudOperation;
use crate::error::{Error, Result, Retry};
use crate::model::EventKind;
use crate::reconcile::input::{Failure, Preparation};
use crate::reconcile::step::{Action, StepId};
use crate::registry::{Batch, Change, NodeRecord};

impl Driver {
    /// Stores a change that the cloud has accepted, so that a later process can poll it.
    pub(super) async fn store(&mut self, operation: CloudOperation) -> Result<()> {
        let name = operation.change.node().clone();
        let known = self.registry.nodes.get(&name).cloned();
        let record = NodeRecord {
            operation: Some(operation.clone()),
            ..known.unwrap_or_else(|| NodeRecord::new(name.clone()))
        };
        self.operations.insert(name, operation);
        let batch = Batch::of(Change::PutNode(Box::new(record)));
        self.write(batch).await
    }

    /// Commits a batch, then applies its changes to the driver's copy of the registry.
    pub(super) async fn write(&mut self, batch: Batch) -> Result<()> {
        let changes = batch.changes.clone();
        self.backends.registry.commit(self.epoch, batch).await?;
        self.registry.apply(changes)
    }

    pub(super) async fn ended(&mut self, end: StepEnd) -> Result<()> {
        // First note the operations that the step has started, so that `note_end` can remove those
        // that have ended.
        let mut begun = Vec::new();
        while let Ok(operation) = self.just_begun.try_recv() {
            let node = operation.change.node().clone();
            self.operations.insert(node, operation.clone());
            begun.push(operation);
        }
        self.note_end(end);
        for operation in begun {
            if self.operations.get(operation.change.node()) == Some(&operation) {
                self.store(operation).await?;
            }
        }
        Ok(())
    }

    fn note_end(&mut self, end: StepEnd) {
        let (task, result) = match end {
            Ok(ended) => ended,
            Err(error) => (
                error.id(),
                Err(Error::failed("the step", "its task ended without a result")),
            ),
        };
        let Some(id) = self.task_steps.remove(&task) else {
            return;
        };
        let Some(running) = self.running.remove(&id) else {
            return;
        };
        let last_line = self
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        let now = self.backends.clock.now();
        let action = running.action;
        // A node change that exceeds its time limit continues in the cloud and is polled again.
        let goes_on = matches!(result, Err(Error::TimedOut { .. } | Error::Overdue { .. }));
        if action.changes_node() && !goes_on {
            self.operations.remove(action.node());
        }
        match result {
            Ok(()) => {
                self.failures.remove(&id);
                self.measure_step(&action, "succeeded", now - running.since);
                let took = (now - running.since).to_std().unwrap_or_default();
                let took = Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(0));
                let message = format!("{action}: done in {}", humantime::format_duration(took));
                self.record_event(EventKind::StepSucceeded, &action, message, now);
                self.note_prepared(&action, last_line);
            }
            Err(error) => {
                self.measure_step(&action, "failed", now - running.since);
                let failure = self.failure(&id, &error, now);
                let message = format!("{action}: {}", failure.why);
                self.record_event(EventKind::StepFailed, &action, message, now);
                self.failures.insert(id.clone(), (action.clone(), failure));
            }
        }
        let settling = Settling {
            node_request: self.watcher.request_node(action.node()),
            cloud_request: action.is_at_cloud().then(|| self.watcher.request_cloud()),
            action,
        };
        self.settling.insert(id, settling);
    }

    /// Notes that a requested preparation has succeeded. Its last line of output is its outcome.
    fn note_prepared(&mut self, action: &Action, last_line: Option<String>) {
        if let Action::PrepareNode {
            node,
            operation: Some(operation),
        } = action
        {
            let prepared = Preparation {
                operation: *operation,
                outcome: Some(last_line.unwrap_or_default()),
            };
            self.prepared.insert(node.clone(), prepared);
        }
    }

    fn failure(&mut self, id: &StepId, error: &Error, now: DateTime<Utc>) -> Failure {
        const LONGEST: Duration = Duration::from_mins(1);
        const FINAL: Duration = Duration::from_mins(5);
        let times = self.failures.get(id).map_or(1, |(_, f)| f.times + 1);
        let backoff = Duration::from_secs(1 << (times - 1).min(6)).min(LONGEST);
        let (least, is_final) = match error.retry() {
            Retry::After(after) => (after.max(backoff), false),
            Retry::Replan => (backoff, false),
            Retry::Never => (FINAL, true),
        };
        let pause = least.mul_f64(1.0 + 0.2 * self.jitter.random::<f64>());
        let mut why = error.chain();
        if let Some(hint) = error.hint() {
            why = format!("{why} (hint: {hint})");
        }
        // A build with the same files fails in the same way each time, so do not retry it.
        let never_again = matches!(error, Error::Build { .. });
        let again_at = || {
            let pause = chrono::TimeDelta::from_std(pause).ok()?;
            now.checked_add_signed(pause)
        };
        Failure {
            times,
            again_at: (!never_again).then(|| again_at().unwrap_or(now)),
            why,
            is_final,
        }
    }
}
