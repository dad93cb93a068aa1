//! Passes open restarts to the control loop, and records when they have ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::node::runs_on;
use super::{find, listed};
use crate::cloud::Power;
use crate::error::Result;
use crate::manager::Manager;
use crate::model::{
    ContainerId, ContainerRun, EventKind, InstanceId, InstanceState, NewEvent, NodeName,
    OperationKind, OperationState, Subject,
};
use crate::reconcile::{Action, EngineView, NodeView, Observed, Readiness, Round};
use crate::registry::{Batch, Change, Unknown};

impl Manager {
    /// Returns the runs of containers that the open restarts replace.
    pub(in crate::manager) fn runs_to_end(&self) -> Arc<BTreeMap<InstanceId, ContainerRun>> {
        let round = self.round();
        let mut runs = BTreeMap::new();
        for operation in self.open_operations().iter() {
            if let OperationKind::Declare { replaces, .. }
            | OperationKind::Restart { replaces, .. }
            | OperationKind::RestartNode { replaces, .. } = &operation.kind
            {
                runs.extend(if operation.kind.is_cancelled() {
                    begun(replaces, &round)
                } else {
                    replaces.clone()
                });
            }
        }
        Arc::new(runs)
    }

    /// Returns the boots of nodes that the open restarts end.
    pub(in crate::manager) fn boots_to_end(&self) -> Arc<BTreeMap<NodeName, String>> {
        let open = self.open_operations();
        let boots = open.iter().filter_map(|operation| match &operation.kind {
            OperationKind::RestartNode {
                node,
                boot_id,
                cancelled: false,
                ..
            } => Some((node.clone(), boot_id.clone())),
            _ => None,
        });
        Arc::new(boots.collect())
    }

    /// Records the end of each restart whose replicas are all up again, or that has failed.
    pub(in crate::manager) async fn end_restarts(&self, round: &Round) -> Result<()> {
        // A new control loop has no plan yet, so its round contains no instances.
        if self.open_operations().is_empty() || round.is_deleting() || round.input.is_none() {
            return Ok(());
        }
        let epoch = self.epoch.lock().await;
        let Some(epoch) = *epoch else { return Ok(()) };
        let mut batch = Batch::default();
        let (mut ended, mut extended) = (Vec::new(), Vec::new());
        let at = self.backends.clock.now();
        for mut operation in self.open_operations().clone() {
            if has_new_runs(&mut operation.kind, round) {
                extended.push(operation.clone());
                batch.changes.push(Change::PutOperation(operation));
                continue;
            }
            let (subject, name, parts) = match &operation.kind {
                OperationKind::Restart {
                    service, replaces, ..
                } => {
                    let subject = Subject::Service(service.clone());
                    (subject, service.to_string(), listed(replaces.keys()))
                }
                OperationKind::RestartNode { node, .. } => {
                    let name = format!("node {node}");
                    (Subject::Node(node.clone()), name.clone(), name)
                }
                OperationKind::Declare { .. }
                | OperationKind::DeletePlatform { .. }
                | OperationKind::PrepareNode { .. }
                | OperationKind::Rollout { .. } => continue,
            };
            let (state, message) = match progress(&operation.kind, round) {
                Progress::Running => continue,
                Progress::Done => (
                    OperationState::Succeeded { at },
                    format!("{parts} restarted"),
                ),
                Progress::Cancelled => (
                    OperationState::Cancelled { at },
                    format!("the restart of {name} was cancelled"),
                ),
                Progress::Failed { why } => {
                    let message = format!("restarting {name} failed: {why}");
                    (OperationState::Failed { at, why }, message)
                }
            };
            batch.events.push(NewEvent {
                at,
                kind: EventKind::RestartEnded,
                subject,
                message,
                data: serde_json::json!({ "operation": operation.id }),
            });
            ended.push(operation.id);
            operation.state = state;
            batch.changes.push(Change::PutOperation(operation));
        }
        if batch.is_empty() {
            // Only the observation shows which containers a cancelled restart has stopped.
            if self.open_operations().iter().any(|o| o.kind.is_cancelled()) {
                self.aim_operations();
            }
            return Ok(());
        }
        self.backends.registry.commit(epoch, batch).await?;
        let mut open = self.open_operations();
        open.retain(|o| !ended.contains(&o.id));
        for operation in extended {
            open.retain(|o| o.id != operation.id);
            open.push(operation);
        }
        drop(open);
        self.aim_operations();
        Ok(())
    }
}

/// Adds the containers that have started on a node since its restart was requested, so that they start
/// again, too. Returns whether there are any.
fn has_new_runs(kind: &mut OperationKind, round: &Round) -> bool {
    let OperationKind::RestartNode {
        node,
        boot_id,
        replaces,
        cancelled: false,
    } = kind
    else {
        return false;
    };
    if restart_failure(node, boot_id, round).is_some() {
        return false;
    }
    let observed = round.observed();
    let view = observed.nodes.get(node);
    let is_before = |view: &&Arc<NodeView>| view.machine.boot_id.as_ref() == Some(boot_id);
    let Some(view) = view.filter(is_before) else {
        return false;
    };
    let runs = runs_on(view, round);
    let is_new = runs.iter().any(|(id, run)| replaces.get(id) != Some(run));
    replaces.extend(runs);
    is_new
}

/// The progress of a restart.
enum Progress {
    Running,
    Done,
    Cancelled,
    Failed { why: String },
}

fn progress(kind: &OperationKind, round: &Round) -> Progress {
    match kind {
        OperationKind::Restart {
            replaces,
            cancelled: true,
            ..
        }
        | OperationKind::RestartNode {
            replaces,
            cancelled: true,
            ..
        } if !is_planned(&begun(replaces, round), round) => Progress::Running,
        OperationKind::Restart {
            replaces,
            cancelled: true,
            ..
        } => {
            let all_begun = begun(replaces, round).len() == replaces.len();
            of_cancelled(replaces, None, round).done_if(all_begun)
        }
        OperationKind::Restart { replaces, .. } => of_containers(replaces, round),
        OperationKind::RestartNode {
            node,
            boot_id,
            replaces,
            cancelled: true,
        } if is_in_boot(node, boot_id, round) => {
            let restart = Action::RestartNode {
                node: node.clone(),
                boot_id: boot_id.clone(),
            };
            of_cancelled(replaces, Some(&restart), round)
        }
        OperationKind::RestartNode {
            node,
            boot_id,
            replaces,
            ..
        } => of_node(node, boot_id, replaces, round),
        OperationKind::Declare { .. }
        | OperationKind::DeletePlatform { .. }
        | OperationKind::PrepareNode { .. }
        | OperationKind::Rollout { .. } => Progress::Running,
    }
}

impl Progress {
    /// Returns `Done` instead of `Cancelled` if everything was done before the cancellation.
    fn done_if(self, all: bool) -> Self {
        match self {
            Self::Cancelled if all => Self::Done,
            progress => progress,
        }
    }
}

/// Returns the runs that have ended already, so the containers have to start again although the restart
/// was cancelled; none before the first observation.
fn begun(
    replaces: &BTreeMap<InstanceId, ContainerRun>,
    round: &Round,
) -> BTreeMap<InstanceId, ContainerRun> {
    let observed = round.observed();
    let has_ended = |id: &InstanceId, run: &ContainerRun| {
        let container = find(&observed, &run.container);
        match container {
            Some(container) => {
                !container.state.is_running() || container.started_at != Some(run.started_at)
            }
            // The container may run on a node that does not respond.
            None => node_of(id, round).is_none_or(NodeView::is_observed),
        }
    };
    let ended = replaces.iter().filter(|(id, run)| has_ended(id, run));
    let ended = ended.filter(|_| round.input.is_some());
    ended.map(|(id, run)| (id.clone(), run.clone())).collect()
}

/// Returns the node of a replica, if it exists.
fn node_of<'r>(id: &InstanceId, round: &'r Round) -> Option<&'r NodeView> {
    let node = round.plan.instances.get(id)?.node.as_ref()?;
    let nodes = &round.input.as_ref()?.observed.nodes;
    nodes.get(node).map(Arc::as_ref)
}

/// Returns whether it is unknown what runs on the node, and may be known soon.
fn is_unclear(view: &NodeView, round: &Round) -> bool {
    match &view.engine {
        EngineView::Unknown(unknown) => !has_waited(unknown, round),
        EngineView::NotAsked => true,
        EngineView::Known { .. } | EngineView::Missing => false,
    }
}

/// Returns whether the plan starts the containers of these runs again, unless they have started. A plan
/// that is older than the observation of their ends does not.
fn is_planned(begun: &BTreeMap<InstanceId, ContainerRun>, round: &Round) -> bool {
    let Some(input) = &round.input else {
        return false;
    };
    begun.iter().all(|(id, run)| {
        let container = find(&input.observed, &run.container);
        let has_not_started = container.is_some_and(|c| c.started_at == Some(run.started_at));
        !has_not_started || input.history.restarts.get(id) == Some(run)
    })
}

/// Returns whether the node is still in this boot, as far as known.
fn is_in_boot(node: &NodeName, boot_id: &str, round: &Round) -> bool {
    let observed = round.observed();
    let machine = observed.nodes.get(node).map(|view| &view.machine);
    machine.is_some_and(|machine| {
        let is_same = { machine.boot_id.as_deref() }.is_none_or(|current| current == boot_id);
        is_same && machine.power == Power::Running
    })
}

/// Returns the progress of a cancelled restart of containers, or of a node by the step `of_node`. It ends
/// once nothing can begin any more, and what had begun is up again.
fn of_cancelled(
    replaces: &BTreeMap<InstanceId, ContainerRun>,
    of_node: Option<&Action>,
    round: &Round,
) -> Progress {
    let Some(input) = &round.input else {
        return Progress::Running;
    };
    let begun = begun(replaces, round);
    let is_to_begin = |(id, run): (&InstanceId, &ContainerRun)| {
        !begun.contains_key(id) && input.history.restarts.get(id) == Some(run)
    };
    let restarts_node = of_node.is_some_and(|restart| {
        input.history.node_restarts.contains_key(restart.node())
            || round.in_progress().any(|step| *step == restart.id())
    });
    // A step that was planned before the cancellation may stop one of the containers.
    let nodes = replaces.keys().filter_map(|id| {
        let status = round.plan.instances.get(id)?;
        status.node.as_ref()
    });
    let mut nodes = nodes.chain(of_node.map(Action::node));
    let may_stop = nodes.any(|node| {
        let mut steps = round.in_progress();
        steps.any(|step| step.node() == node && step.stops())
    });
    let mut views = replaces.keys().filter_map(|id| node_of(id, round));
    let is_unclear = views.any(|view| is_unclear(view, round));
    if restarts_node || may_stop || is_unclear || replaces.iter().any(is_to_begin) {
        return Progress::Running;
    }
    match of_containers(&begun, round) {
        Progress::Done => Progress::Cancelled,
        progress => progress,
    }
}

/// Returns the progress of the restart of a node. A restart also ends if it has failed for good, but
/// only after the containers that were stopped for it are up again.
fn of_node(
    node: &NodeName,
    boot_id: &str,
    replaces: &BTreeMap<InstanceId, ContainerRun>,
    round: &Round,
) -> Progress {
    let observed = round.observed();
    let Some(view) = observed.nodes.get(node) else {
        let why = "the node no longer exists".to_owned();
        let is_gone = observed.cloud_unknown.is_none();
        return if is_gone {
            Progress::Failed { why }
        } else {
            Progress::Running
        };
    };
    match (view.machine.boot_id.as_deref(), view.machine.power) {
        (_, Power::Failed) => {
            let why = "the cloud reports that the node failed".to_owned();
            return Progress::Failed { why };
        }
        (_, Power::Stopped) if is_to_stop(node, round) => {
            let why = "a stop of the node was requested".to_owned();
            return Progress::Failed { why };
        }
        // The node was stopped, but not started again.
        (_, Power::Stopped) => {
            let why = failure_of(&Action::StartNode { node: node.clone() }, round);
            return why.map_or(Progress::Running, |why| Progress::Failed { why });
        }
        (Some(boot), _) if boot != boot_id => {
            return match &view.engine {
                EngineView::Known { .. } | EngineView::Missing => of_containers(replaces, round),
                EngineView::Unknown(unknown) if has_waited(unknown, round) => Progress::Failed {
                    why: format!("the node does not respond: {}", unknown.why),
                },
                EngineView::NotAsked | EngineView::Unknown(_) => Progress::Running,
            };
        }
        _ => {}
    }
    match restart_failure(node, boot_id, round) {
        Some(why) if !matches!(of_containers(replaces, round), Progress::Running) => {
            Progress::Failed { why }
        }
        _ => Progress::Running,
    }
}

pub(in crate::manager) fn is_to_stop(node: &NodeName, round: &Round) -> bool {
    let declared = round.input.as_ref().map(|input| &input.declared.nodes);
    let spec = declared.and_then(|nodes| nodes.get(node));
    spec.is_some_and(|spec| spec.stopped)
}

fn restart_failure(node: &NodeName, boot_id: &str, round: &Round) -> Option<String> {
    let restart = Action::RestartNode {
        node: node.clone(),
        boot_id: boot_id.to_owned(),
    };
    failure_of(&restart, round)
}

/// Returns why a step failed for good, if it did.
pub(in crate::manager) fn failure_of(action: &Action, round: &Round) -> Option<String> {
    let input = round.input.as_ref()?;
    let failure = input.history.failures.get(&action.id())?;
    let has_failed = input.policy.counts_as_failed(failure);
    has_failed.then(|| failure.why.clone())
}

/// Returns whether a node has not responded for so long that its replicas count as failed.
pub(in crate::manager) fn has_waited(unknown: &Unknown, round: &Round) -> bool {
    has_waited_since(unknown.since, round)
}

/// Returns whether a node that has not responded since this time has not responded for so long that its
/// replicas count as failed.
pub(in crate::manager) fn has_waited_since(since: DateTime<Utc>, round: &Round) -> bool {
    round.input.as_ref().is_some_and(|input| {
        let limit = chrono::Duration::from_std(input.policy.unknown_before_failed);
        limit.is_ok_and(|limit| input.now - since >= limit)
    })
}

fn of_containers(replaces: &BTreeMap<InstanceId, ContainerRun>, round: &Round) -> Progress {
    let observed = round.observed();
    let mut runs = false;
    for (id, run) in replaces {
        // Ignore a replica that is no longer declared: it is not restarted.
        let Some(status) = round.plan.instances.get(id) else {
            continue;
        };
        let container = find(&observed, &run.container);
        // A replica whose rollout is paused counts as stopped, although its old container runs.
        let waits = status.state == InstanceState::Stopped
            && container.is_some_and(|container| container.state.is_running());
        let is_up = match status.state {
            InstanceState::Ready | InstanceState::Completed => true,
            _ => waits && is_ready(&observed, &run.container),
        };
        let is_old = container.is_some_and(|c| c.started_at == Some(run.started_at));
        if !is_old && is_up {
            continue;
        }
        if status.settled && !is_up && !waits {
            let why = match &status.state {
                InstanceState::Failed { why }
                | InstanceState::Unhealthy { why }
                | InstanceState::Unknown { why, .. } => why.clone(),
                state => format!("the replica is {}", state.word()),
            };
            let why = format!("{id}: {why}");
            return Progress::Failed { why };
        }
        runs = true;
    }
    if runs {
        Progress::Running
    } else {
        Progress::Done
    }
}

fn is_ready(observed: &Observed, container: &ContainerId) -> bool {
    let mut views = observed.nodes.values();
    views.any(|view| {
        let readiness = view.readiness.get(container);
        matches!(readiness, Some(Readiness::Ready { .. }))
    })
}
