//! Ends the operations that bring the platform to a new generation.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::cloud::Power;
use crate::error::Result;
use crate::manager::Manager;
use crate::manager::restart::ending::failure_of;
use crate::model::{
    Generation, InstanceState, NodeName, OperationId, OperationKind, OperationState, ServiceName,
    Subject,
};
use crate::reconcile::{Action, HeldBy, NodeView, RolloutState, Round};
use crate::registry::{Batch, Change};

impl Manager {
    /// Returns the operation in progress that brings the platform to `generation`.
    pub(super) async fn declaring(&self, generation: Generation) -> Result<Option<OperationId>> {
        let open = self.backends.registry.open_operations().await?;
        let mut open = open.iter();
        let found = open.find(|operation| declared_by(&operation.kind) == Some(generation));
        Ok(found.map(|operation| {
            self.take_up(operation);
            operation.id
        }))
    }

    /// Records the end of each of these operations whose generation, or a later one, has settled.
    pub(in crate::manager) async fn end_declared(&self, round: &Round) -> Result<()> {
        if !round.settled || round.is_deleting() || round.input.is_none() {
            return Ok(());
        }
        let is_settled = |kind: &OperationKind| {
            declared_by(kind).is_some_and(|generation| generation <= round.generation())
        };
        if !self.open_operations().iter().any(|o| is_settled(&o.kind)) {
            return Ok(());
        }
        let epoch = self.epoch.lock().await;
        let Some(epoch) = *epoch else { return Ok(()) };
        let at = self.backends.clock.now();
        let mut batch = Batch::default();
        let mut ended = BTreeSet::new();
        for mut operation in self.open_operations().clone() {
            let OperationKind::Declare { subject, nodes, .. } = &operation.kind else {
                continue;
            };
            if !is_settled(&operation.kind) {
                continue;
            }
            operation.state = match outcome(subject, nodes, round) {
                Outcome::Open => continue,
                Outcome::Done => OperationState::Succeeded { at },
                Outcome::Failed { why } => OperationState::Failed { at, why },
            };
            ended.insert(operation.id);
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

/// Returns the generation that an operation declares, if it declares one.
fn declared_by(kind: &OperationKind) -> Option<Generation> {
    match kind {
        OperationKind::Declare { generation, .. } => Some(*generation),
        _ => None,
    }
}

/// How a round ended for the subject of a request.
enum Outcome {
    Open,
    Done,
    Failed { why: String },
}

fn outcome(subject: &Subject, nodes: &BTreeSet<NodeName>, round: &Round) -> Outcome {
    let why = match subject {
        Subject::Node(node) => return outcome_of_node(node, round),
        Subject::Platform if !nodes.is_empty() => return outcome_of_nodes(nodes, round),
        Subject::Platform => {
            let declared = round
                .input
                .iter()
                .flat_map(|input| input.declared.nodes.keys());
            if let failed @ Outcome::Failed { .. } = outcome_of_nodes(declared, round) {
                return failed;
            }
            failure_of_replica(round, |_| true)
        }
        Subject::Service(service) => failure_of_replica(round, |one| one == service),
        Subject::Instance(id) => failure_of_replica(round, |one| *one == id.service),
    };
    why.map_or(Outcome::Done, |why| Outcome::Failed { why })
}

/// Returns why a replica of the selected services does not run as declared.
fn failure_of_replica(round: &Round, selects: impl Fn(&ServiceName) -> bool) -> Option<String> {
    let rollouts = round.plan.rollouts.iter();
    let mut rollouts = rollouts.filter(|(service, _)| selects(service));
    let rollout = rollouts.find_map(|(service, rollout)| match rollout.state {
        RolloutState::Progressing => None,
        RolloutState::Paused
        | RolloutState::Failed
        | RolloutState::RollingBack
        | RolloutState::RolledBack => {
            let why = rollout.why.clone().unwrap_or_else(|| rollout.to_string());
            Some(format!("{service}: {why}"))
        }
    });
    let instances = round.plan.instances.iter();
    let mut instances = instances.filter(|(id, _)| selects(&id.service));
    rollout.or_else(|| {
        instances.find_map(|(id, status)| match &status.state {
            InstanceState::Ready | InstanceState::Completed => None,
            InstanceState::Failed { why }
            | InstanceState::Unhealthy { why }
            | InstanceState::Unknown { why, .. } => Some(format!("{id}: {why}")),
            state => {
                let mut held = round.plan.held.iter();
                let held = held.find(|held| held.subject == Subject::Instance(id.clone()));
                let state = format!("the replica is {}", state.word());
                let why = held.map_or(state, |held| held.by.to_string());
                Some(format!("{id}: {why}"))
            }
        })
    })
}

fn outcome_of_nodes<'n>(nodes: impl IntoIterator<Item = &'n NodeName>, round: &Round) -> Outcome {
    let mut all = Outcome::Done;
    for node in nodes {
        match outcome_of_node(node, round) {
            Outcome::Done => {}
            Outcome::Open => all = Outcome::Open,
            Outcome::Failed { why } => {
                let why = format!("node {node}: {why}");
                return Outcome::Failed { why };
            }
        }
    }
    all
}

/// Returns the outcome of a request about a node, which may have been removed.
fn outcome_of_node(node: &NodeName, round: &Round) -> Outcome {
    let Some(input) = &round.input else {
        return Outcome::Open;
    };
    let (node, is_declared) = (node.clone(), input.declared.nodes.contains_key(node));
    if !is_declared {
        let is_gone = !input.observed.nodes.contains_key(&node);
        let deletion = failure_of(&Action::DeleteNode { node }, round);
        return match deletion {
            _ if is_gone => Outcome::Done,
            Some(why) => Outcome::Failed { why },
            None => Outcome::Open,
        };
    }
    let is_off = |view: &Arc<NodeView>| view.machine.power == Power::Stopped;
    let is_off = input.observed.nodes.get(&node).is_some_and(is_off);
    let is_to_stop = input
        .declared
        .nodes
        .get(&node)
        .is_some_and(|spec| spec.stopped);
    let mut held = round.plan.held.iter();
    let of_node = Subject::Node(node);
    if is_to_stop && !is_off {
        let held = held.find(|held| held.subject == of_node);
        let why = held.map(|held| held.by.to_string());
        let why = why.unwrap_or_else(|| "the node is still running".to_owned());
        return Outcome::Failed { why };
    }
    let failed = held.find_map(|held| match &held.by {
        HeldBy::Failed { .. } | HeldBy::NodeUnknown { .. } if held.subject == of_node => {
            Some(held.by.to_string())
        }
        _ => None,
    });
    failed.map_or(Outcome::Done, |why| Outcome::Failed { why })
}
