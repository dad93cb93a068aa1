//! Accepts restarts of nodes.

use std::collections::BTreeMap;

use crate::cloud::Power;
use crate::error::{Error, Result};
use crate::manager::{Accepted, Manager, is_platform_deletion};
use crate::model::{
    ContainerRun, EventKind, InstanceId, NewEvent, NodeName, Operation, OperationId, OperationKind,
    OperationState, Subject,
};
use crate::reconcile::{NodeView, Round};
use crate::registry::{Batch, Change, Snapshot};
use crate::runtime::Role;

impl Manager {
    /// Starts to restart a node. Its containers are stopped first, in reverse start order, and start
    /// again afterwards. A node that does not respond is restarted at once. With `boot_id`, restarts
    /// the node only if this is still its current boot, so the call can be repeated safely.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if the node is not declared
    /// - [`Error::Conflict`] if the node is not running
    /// - [`Error::NotReady`] before the end of the first round
    pub async fn restart_node(&self, name: &str, boot_id: Option<&str>) -> Result<Operation> {
        let write = self.begin_write(Accepted::AfterFirstRound).await?;
        if let Some(operation) = self.answered_operation(&write).await? {
            return Ok(operation);
        }
        let epoch = write.epoch;
        let registry = &self.backends.registry;
        let conflict = |why: String| Error::Conflict {
            what: format!("restarting node {name} failed"),
            why,
        };
        let open = registry.open_operations().await?;
        if open.iter().any(is_platform_deletion) {
            return Err(conflict("the platform is being deleted".to_owned()));
        }
        let snapshot = registry.snapshot().await?;
        let declared = { snapshot.declaration.iter() }.flat_map(|(_, d)| d.nodes.keys());
        let Some(node) = declared.clone().find(|node| node.as_str() == name) else {
            let known = declared.map(NodeName::as_str);
            return Err(Error::unknown_name(format!("node {name}"), name, known));
        };
        let declaration = snapshot.declaration.as_ref().map(|(_, d)| d);
        if declaration.is_some_and(|d| d.nodes[node].stopped) {
            return Err(conflict("a stop of the node was requested".to_owned()));
        }
        let round = self.round();
        let observed = round.observed();
        let view = observed.nodes.get(node);
        let view = view.ok_or_else(|| conflict("the node does not exist yet".to_owned()))?;
        let current = view.machine.boot_id.as_deref();
        let current = current.ok_or_else(|| conflict(not_running(view.machine.power)))?;
        let boot_id = boot_id.unwrap_or(current);
        let is_same = |operation: &&Operation| match &operation.kind {
            OperationKind::RestartNode {
                node: of,
                boot_id: ends,
                cancelled: false,
                ..
            } => of == node && ends == boot_id,
            _ => false,
        };
        if let Some(same) = open.iter().find(is_same) {
            return self.join(&write, same).await;
        }
        let now = self.backends.clock.now();
        let is_over = boot_id != current;
        let operation = Operation {
            id: OperationId(self.backends.ids.uuid()),
            state: if is_over {
                OperationState::Succeeded { at: now }
            } else {
                OperationState::Running
            },
            kind: OperationKind::RestartNode {
                node: node.clone(),
                boot_id: boot_id.to_owned(),
                replaces: if is_over {
                    BTreeMap::new()
                } else {
                    current_runs(view, &round, &snapshot)
                },
                cancelled: false,
            },
            requested_at: now,
        };
        let mut batch = Batch::of(Change::PutOperation(operation.clone()));
        batch.changes.extend(write.answer(&operation.id)?);
        if !is_over {
            let subject = Subject::Node(node.clone());
            batch.events.push(self.audit("restart", subject));
            batch.events.push(NewEvent {
                at: now,
                kind: EventKind::RestartRequested,
                subject: Subject::Node(node.clone()),
                message: format!("restart of node {node} requested"),
                data: serde_json::json!({ "operation": operation.id }),
            });
        }
        registry.commit(epoch, batch).await?;
        if !is_over {
            self.open_operations().push(operation.clone());
            self.aim_operations();
            self.accepted.notify_one();
        }
        Ok(operation)
    }
}

impl Manager {
    /// Returns the current run of each replica on a node; empty if the node does not exist.
    pub(in crate::manager) fn runs_at(
        &self,
        name: &str,
        snapshot: &Snapshot,
    ) -> BTreeMap<InstanceId, ContainerRun> {
        let round = self.round();
        let observed = round.observed();
        let mut nodes = observed.nodes.iter();
        let view = nodes.find(|(node, _)| node.as_str() == name);
        view.map(|(_, view)| current_runs(view, &round, snapshot))
            .unwrap_or_default()
    }
}

fn not_running(power: Power) -> String {
    match power {
        Power::Starting => "the node is starting",
        Power::Stopping => "the node is stopping",
        Power::Stopped => "the node is stopped",
        Power::Failed => "the cloud reports that the node failed",
        Power::Running => "the node does not respond, and its provider cannot restart such a node",
    }
    .to_owned()
}

/// Returns the current run of each replica on a node. If the node does not respond, returns the runs of
/// the replicas that were ready when it last did.
fn current_runs(
    view: &NodeView,
    round: &Round,
    snapshot: &Snapshot,
) -> BTreeMap<InstanceId, ContainerRun> {
    if view.is_observed() {
        return runs_on(view, round);
    }
    let records = snapshot.instances.values();
    let was_ready =
        records.filter(|record| record.node == view.machine.name && record.ready_at.is_some());
    let runs = was_ready.filter_map(|record| {
        let run = ContainerRun {
            container: record.container.clone(),
            started_at: record.started_at?,
        };
        Some((record.id.clone(), run))
    });
    runs.collect()
}

/// Returns the current run of each replica whose container is running on a node.
pub(super) fn runs_on(view: &NodeView, round: &Round) -> BTreeMap<InstanceId, ContainerRun> {
    let state = view.engine_state();
    let containers = state.into_iter().flat_map(|state| &state.containers);
    let runs = containers.filter_map(|container| {
        let Role::Instance(id) = &container.role else {
            return None;
        };
        let status = round.plan.instances.get(id)?;
        let is_current = status.container.as_ref() == Some(&container.id);
        let run = ContainerRun {
            container: container.id.clone(),
            started_at: container.started_at?,
        };
        (is_current && container.state.is_running()).then(|| (id.clone(), run))
    });
    runs.collect()
}
