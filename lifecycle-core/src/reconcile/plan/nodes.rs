//! Ensures that each declared node exists, is running, and has an engine.

use std::collections::BTreeSet;

use super::{Gate, Planning};
use crate::cloud::Power;
use crate::model::{NodeName, OperationId, Origin, Subject};
use crate::reconcile::observe::{EngineView, NodeView};
use crate::reconcile::step::{Action, HeldBy, Reason, StepId};

impl<'a> Planning<'a> {
    pub(super) fn nodes(&mut self) {
        for node in self.declared.nodes.keys() {
            let gate = self.node(node);
            self.node_gates.insert(node, gate);
        }
    }

    /// Deletes undeclared nodes that cannot be observed. Replicas of such a node may start
    /// elsewhere only after its deletion. A machine that was not created for the platform cannot be
    /// deleted, so nothing on it starts elsewhere until it responds.
    pub(super) fn delete_unreachable_nodes(&mut self) {
        let observed = self.observed;
        for (node, view) in &observed.nodes {
            let is_unknown = matches!(view.engine, EngineView::Unknown(_));
            if !self.is_to_remove(node) || !view.machine.created || !is_unknown {
                continue;
            }
            let gate = self.propose(
                Action::DeleteNode { node: node.clone() },
                BTreeSet::new(),
                Reason::NodeNotDeclared,
            );
            self.unreachable_deletions.insert(node, gate);
        }
    }

    /// Returns whether a node is no longer declared. It is deleted if it was created for this
    /// platform; otherwise, it is released.
    pub(super) fn is_to_remove(&self, node: &NodeName) -> bool {
        let spared = self.policy.spares_manager_node && *node == self.declared.manager_node;
        !spared && !self.declared.nodes.contains_key(node)
    }

    fn node(&mut self, node: &'a NodeName) -> Gate {
        let spared = self.policy.spares_manager_node && *node == self.declared.manager_node;
        let view = self.observed.nodes.get(node);
        let Some(view) = view else {
            if let Some(unknown) = &self.observed.cloud_unknown {
                let by = HeldBy::CloudUnknown {
                    since: unknown.since,
                    why: unknown.why.clone(),
                };
                let settled = self.has_passed(unknown.since, self.policy.unknown_before_failed);
                return self.block_node(node, by, settled);
            }
            let spec = self.declared.nodes.get(node);
            let exists = spec.is_some_and(|spec| spec.existing.is_some());
            if spared || exists || !self.policy.provisions {
                let is_added = spec.is_some_and(|spec| spec.origin == Origin::Api);
                let why = if spared {
                    "the cloud does not list the manager's own node"
                } else if is_added {
                    "the machine does not belong to the platform any more; repeat `bootstrapper node \
                     adopt`, or remove the node with `bootstrapper node remove`"
                } else {
                    "the machine does not belong to the platform, and the platform does not create \
                     it; make sure that it exists, then run `bootstrapper up` to take it over"
                };
                return self.fail_node(node, why);
            }
            return self.provision(node, BTreeSet::new(), Reason::NodeAbsent);
        };
        match view.machine.power {
            Power::Starting => self.changing(node, view, "starting"),
            Power::Stopping => self.changing(node, view, "stopping"),
            Power::Failed => self.failed(node, view, spared),
            Power::Stopped if spared => {
                self.fail_node(node, "the cloud reports the manager's own node as stopped")
            }
            Power::Stopped if self.is_stop_requested(node) => {
                self.block_node(node, HeldBy::NodeIsStopped { node: node.clone() }, true)
            }
            Power::Stopped => {
                let start = self.propose(
                    Action::StartNode { node: node.clone() },
                    BTreeSet::new(),
                    Reason::NodeStopped,
                );
                // Plan nothing else on the node yet: whether it has an engine is known only once it
                // is running.
                match start {
                    Gate::Open | Gate::After(_) => {
                        Gate::blocked(HeldBy::Node { node: node.clone() }, false)
                    }
                    blocked @ Gate::Blocked(_) => blocked,
                }
            }
            Power::Running => match &view.engine {
                EngineView::Known { .. } | EngineView::Missing | EngineView::Unknown(_)
                    if !spared && self.is_stop_requested(node) =>
                {
                    self.stop_node(node)
                }
                EngineView::Known { .. } | EngineView::Missing | EngineView::Unknown(_)
                    if let Some(restart) = self.requested_restart(node, view) =>
                {
                    self.restart_node(node, restart)
                }
                EngineView::Known { .. } => {
                    self.check_preparation(node);
                    Gate::Open
                }
                EngineView::Missing => self.prepare(node, Gate::Open),
                EngineView::NotAsked => {
                    let by = HeldBy::NodeChanging {
                        node: node.clone(),
                        power: "not observed yet".into(),
                        since: None,
                    };
                    self.block_node(node, by, false)
                }
                EngineView::Unknown(unknown) => {
                    let by = HeldBy::NodeUnknown {
                        node: node.clone(),
                        since: unknown.since,
                        why: unknown.why.clone(),
                    };
                    let settled = self.has_passed(unknown.since, self.policy.unknown_before_failed);
                    self.block_node(node, by, settled)
                }
            },
        }
    }

    pub(super) fn is_stop_requested(&self, node: &NodeName) -> bool {
        let spec = self.declared.nodes.get(node);
        spec.is_some_and(|spec| spec.stopped) && !self.declared.deleting
    }

    /// Holds a node that is starting or stopping.
    fn changing(&mut self, node: &NodeName, view: &NodeView, power: &str) -> Gate {
        let since = view.changing_since;
        let by = HeldBy::NodeChanging {
            node: node.clone(),
            power: power.to_owned(),
            since,
        };
        let limit = self.policy.changing_before_failed;
        let settled = since.is_some_and(|since| self.has_passed(since, limit));
        self.block_node(node, by, settled)
    }

    /// Re-creates a failed node, unless services ever ran on it: then its creation cannot have
    /// failed.
    fn failed(&mut self, node: &NodeName, view: &NodeView, spared: bool) -> Gate {
        let why = if spared {
            "the cloud reports that the manager's own node failed"
        } else if !view.machine.created {
            "the cloud reports that this node failed; this platform did not create the node, so it \
             is not replaced"
        } else if !self.policy.provisions {
            "the cloud reports that this node failed, and this provider cannot create another node"
        } else if self.history.last_seen.values().any(|last| last == node) {
            "the cloud reports that this node failed; services ran on it, so it is not replaced"
        } else {
            let delete = self.propose(
                Action::DeleteNode { node: node.clone() },
                BTreeSet::new(),
                Reason::NodeFailed,
            );
            return match delete {
                Gate::After(step) => {
                    self.provision(node, BTreeSet::from([step]), Reason::NodeFailed)
                }
                other => other,
            };
        };
        self.fail_node(node, why)
    }

    fn provision(&mut self, node: &NodeName, needs: BTreeSet<StepId>, reason: Reason) -> Gate {
        let action = Action::ProvisionNode { node: node.clone() };
        let provisioned = self.propose(action, needs, reason);
        self.prepare(node, provisioned)
    }

    /// Prepares a node for Docker once the gate `before` opens.
    fn prepare(&mut self, node: &NodeName, before: Gate) -> Gate {
        let (needs, reason) = match before {
            Gate::Open => (BTreeSet::new(), Reason::EngineMissing),
            Gate::After(step) => (BTreeSet::from([step]), Reason::NodeIsNew),
            Gate::Blocked(_) => return before,
        };
        let action = Action::PrepareNode {
            node: node.clone(),
            operation: self.requested_preparation(node),
        };
        self.propose(action, needs, reason)
    }

    /// Prepares a node whose engine responds again, if this was requested. Containers on the node
    /// continue to run, and start, meanwhile.
    fn check_preparation(&mut self, node: &NodeName) {
        let operation = self.requested_preparation(node);
        if operation.is_some() {
            let node = node.clone();
            let action = Action::PrepareNode { node, operation };
            self.propose(action, BTreeSet::new(), Reason::PreparationRequested);
        }
    }

    /// Returns the operation that requests a preparation of the node, if the preparation has not
    /// succeeded yet.
    fn requested_preparation(&self, node: &NodeName) -> Option<OperationId> {
        let requested = self.history.preparations.get(node);
        let open = requested.filter(|requested| requested.outcome.is_none());
        open.filter(|_| !self.declared.deleting)
            .map(|requested| requested.operation)
    }

    fn fail_node(&mut self, node: &NodeName, why: &str) -> Gate {
        self.block_node(node, HeldBy::Failed { why: why.into() }, true)
    }

    fn block_node(&mut self, node: &NodeName, by: HeldBy, settled: bool) -> Gate {
        Gate::Blocked(self.block(Subject::Node(node.clone()), by, settled))
    }
}
