//! Prepares nodes for Docker on request, although the control loop does not consider it necessary, or
//! would wait longer until it tries again.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::restart::ending::{failure_of, has_waited_since, is_to_stop};
use super::{Accepted, Manager, is_platform_deletion};
use crate::cloud::Power;
use crate::error::{Error, Result};
use crate::model::{NodeName, Operation, OperationId, OperationKind, OperationState, Subject};
use crate::reconcile::{Action, EngineView, NodeView, Round};
use crate::registry::{Batch, Change};

impl Manager {
    /// Starts to prepare a node for Docker again: what is missing is installed, and what does not run
    /// is started. Earlier failures of its preparation delay this no longer. A call during a preparation
    /// returns the same operation.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if the node is not declared
    /// - [`Error::Conflict`] if the node does not exist, if a stop of the node was requested, or if the
    ///   platform is being deleted
    /// - [`Error::NotReady`] before the end of the first round
    pub async fn prepare_node(&self, name: &str) -> Result<Operation> {
        let write = self.begin_write(Accepted::AfterFirstRound).await?;
        if let Some(operation) = self.answered_operation(&write).await? {
            return Ok(operation);
        }
        let registry = &self.backends.registry;
        let conflict = |why: &str| Error::Conflict {
            what: format!("preparing node {name} failed"),
            why: why.to_owned(),
        };
        let open = registry.open_operations().await?;
        if open.iter().any(is_platform_deletion) {
            return Err(conflict("the platform is being deleted"));
        }
        let snapshot = registry.snapshot().await?;
        let declared = { snapshot.declaration.iter() }.flat_map(|(_, d)| d.nodes.values());
        let Some(spec) = declared.clone().find(|spec| spec.name.as_str() == name) else {
            let known = declared.map(|spec| spec.name.as_str());
            return Err(Error::unknown_name(format!("node {name}"), name, known));
        };
        let is_same = |operation: &&Operation| preparation_of(operation) == Some(&spec.name);
        if let Some(same) = open.iter().find(is_same) {
            return self.join(&write, same).await;
        }
        if spec.stopped {
            return Err(conflict("a stop of the node was requested"));
        }
        if !self.round().observed().nodes.contains_key(&spec.name) {
            return Err(conflict("the node does not exist yet"));
        }
        let operation = Operation {
            id: OperationId(self.backends.ids.uuid()),
            kind: OperationKind::PrepareNode {
                node: spec.name.clone(),
                outcome: None,
            },
            state: OperationState::Running,
            requested_at: self.backends.clock.now(),
        };
        let mut batch = Batch::of(Change::PutOperation(operation.clone()));
        batch.changes.extend(write.answer(&operation.id)?);
        let audit = self.audit("prepare", Subject::Node(spec.name.clone()));
        registry.commit(write.epoch, batch.event(audit)).await?;
        self.take_up(&operation);
        Ok(operation)
    }

    /// Returns the nodes that the open operations prepare.
    pub(super) fn preparations(&self) -> Arc<BTreeMap<NodeName, OperationId>> {
        let open = self.open_operations();
        let nodes = open.iter().filter_map(|operation| {
            let node = preparation_of(operation)?.clone();
            Some((node, operation.id))
        });
        Arc::new(nodes.collect())
    }

    /// Records the end of each preparation that has succeeded, or has failed for good.
    pub(super) async fn end_preparations(&self, round: &Round) -> Result<()> {
        let is_open = self
            .open_operations()
            .iter()
            .any(|one| preparation_of(one).is_some());
        if !is_open || round.is_deleting() || round.input.is_none() {
            return Ok(());
        }
        let epoch = self.epoch.lock().await;
        let Some(epoch) = *epoch else { return Ok(()) };
        let at = self.backends.clock.now();
        let mut batch = Batch::default();
        let mut ended = Vec::new();
        for mut operation in self.open_operations().clone() {
            let OperationKind::PrepareNode { node, outcome } = &mut operation.kind else {
                continue;
            };
            let requested = (operation.id, operation.requested_at);
            operation.state = match progress(node, requested, round) {
                Progress::Running => continue,
                Progress::Done { outcome: done } => {
                    *outcome = Some(done);
                    OperationState::Succeeded { at }
                }
                Progress::Failed { why } => OperationState::Failed { at, why },
            };
            ended.push(operation.id);
            batch.changes.push(Change::PutOperation(operation));
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.backends.registry.commit(epoch, batch).await?;
        self.open_operations()
            .retain(|operation| !ended.contains(&operation.id));
        self.aim_operations();
        Ok(())
    }
}

/// Returns the node that an operation prepares, if it prepares one.
fn preparation_of(operation: &Operation) -> Option<&NodeName> {
    match &operation.kind {
        OperationKind::PrepareNode { node, .. } => Some(node),
        _ => None,
    }
}

/// The progress of a preparation.
enum Progress {
    Running,
    Done { outcome: String },
    Failed { why: String },
}

impl Progress {
    fn failed(why: impl Into<String>) -> Self {
        Self::Failed { why: why.into() }
    }

    /// Fails if the step that has to run next has failed for good.
    fn unless_failed(action: &Action, round: &Round) -> Self {
        failure_of(action, round).map_or(Self::Running, Self::failed)
    }
}

fn progress(
    node: &NodeName,
    (operation, at): (OperationId, DateTime<Utc>),
    round: &Round,
) -> Progress {
    let Some(input) = &round.input else {
        return Progress::Running;
    };
    let requested = input.history.preparations.get(node);
    let Some(requested) = requested.filter(|requested| requested.operation == operation) else {
        // The latest plan is older than the request.
        return Progress::Running;
    };
    if !input.declared.nodes.contains_key(node) {
        return Progress::failed("the node is no longer declared");
    }
    if is_to_stop(node, round) {
        return Progress::failed("a stop of the node was requested");
    }
    let Some(view) = input.observed.nodes.get(node) else {
        let is_gone = input.observed.cloud_unknown.is_none();
        return if is_gone {
            Progress::failed("the node no longer exists")
        } else {
            Progress::Running
        };
    };
    let preparation = Action::PrepareNode {
        node: node.clone(),
        operation: Some(operation),
    };
    match (view.machine.power, &requested.outcome) {
        (Power::Failed, _) => Progress::failed("the cloud reports that the node failed"),
        (Power::Stopped, _) => {
            let start = Action::StartNode { node: node.clone() };
            Progress::unless_failed(&start, round)
        }
        (Power::Starting | Power::Stopping, _) => Progress::Running,
        (Power::Running, Some(outcome)) if has_engine(view) => Progress::Done {
            outcome: outcome.clone(),
        },
        (Power::Running, _) => match &view.engine {
            // The node may have been repaired before the request.
            EngineView::Unknown(unknown) if has_waited_since(unknown.since.max(at), round) => {
                Progress::failed(format!("the node does not respond: {}", unknown.why))
            }
            EngineView::Unknown(_) | EngineView::NotAsked => Progress::Running,
            EngineView::Known { .. } | EngineView::Missing => {
                Progress::unless_failed(&preparation, round)
            }
        },
    }
}

/// Returns whether the node's engine responds.
fn has_engine(view: &NodeView) -> bool {
    matches!(view.engine, EngineView::Known { .. }) && view.not_responding.is_none()
}
