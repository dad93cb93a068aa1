//! Nodes: there, running, with an engine.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Gate, Planning};
use crate::cloud::Power;
use crate::model::{NodeName, Subject};
use crate::reconcile::observe::{EngineView, NodeView};
use crate::reconcile::step::{Action, HeldBy, Reason, StepId};

impl Planning<'_> {
    pub(super) fn nodes(&mut self) {
        for node in self.declared.nodes.keys() {
            let gate = self.node(node);
            self.node_gates.insert(node, gate);
        }
    }

    /// Deletes nodes that left the declaration and cannot be asked. That fences them: only then
    /// may what was last seen on them run elsewhere.
    pub(super) fn fences(&mut self) {
        let observed = self.observed;
        for (node, view) in &observed.nodes {
            if !self.is_ours_to_delete(node, view) || !matches!(view.engine, EngineView::Unknown(_))
            {
                continue;
            }
            let gate = self.propose(
                Action::DeleteNode { node: node.clone() },
                BTreeSet::new(),
                Reason::NodeNotDeclared,
            );
            self.fences.insert(node, gate);
        }
    }

    /// Whether a node was made for this platform and is no longer declared.
    pub(super) fn is_ours_to_delete(&self, node: &NodeName, view: &NodeView) -> bool {
        let spared = self.policy.spares_manager_node && *node == self.declared.manager_node;
        !spared && view.machine.created && !self.declared.nodes.contains_key(node)
    }

    fn node(&mut self, node: &NodeName) -> Gate {
        let spared = self.policy.spares_manager_node && *node == self.declared.manager_node;
        let view = self.observed.nodes.get(node);
        let Some(view) = view else {
            if let Some(unknown) = &self.observed.cloud_unknown {
                return self.shut(
                    node,
                    HeldBy::CloudUnknown {
                        since: unknown.since,
                        why: unknown.why.clone(),
                    },
                    Some((unknown.since, self.policy.unknown_before_failed)),
                );
            }
            if spared || !self.policy.provisions {
                let why = if spared {
                    "the cloud does not show the manager's own node".to_owned()
                } else {
                    "the node does not exist, and this provider cannot make it".to_owned()
                };
                return self.shut(node, HeldBy::Failed { why }, None);
            }
            return self.made_after(node, BTreeSet::new(), Reason::NodeAbsent);
        };
        match view.machine.power {
            Power::Starting | Power::Stopping => self.shut(
                node,
                HeldBy::NodeChanging {
                    node: node.clone(),
                    power: match view.machine.power {
                        Power::Starting => "starting".into(),
                        _ => "stopping".into(),
                    },
                    since: view.changing_since,
                },
                view.changing_since
                    .map(|since| (since, self.policy.changing_before_failed)),
            ),
            Power::Failed => self.failed(node, view, spared),
            Power::Stopped if spared => self.shut(
                node,
                HeldBy::Failed {
                    why: "the cloud shows the manager's own node as stopped".into(),
                },
                None,
            ),
            Power::Stopped => {
                let started = self.propose(
                    Action::StartNode { node: node.clone() },
                    BTreeSet::new(),
                    Reason::NodeStopped,
                );
                // What is on it shows only once it runs.
                match started {
                    Gate::Open | Gate::After(_) => Gate::Shut {
                        by: HeldBy::Node { node: node.clone() },
                        settled: false,
                    },
                    shut @ Gate::Shut { .. } => shut,
                }
            }
            Power::Running => match &view.engine {
                EngineView::Known { .. } => Gate::Open,
                EngineView::Missing => self.prepared_after(node, Gate::Open),
                EngineView::NotAsked => self.shut(
                    node,
                    HeldBy::NodeChanging {
                        node: node.clone(),
                        power: "being asked".into(),
                        since: None,
                    },
                    None,
                ),
                EngineView::Unknown(unknown) => self.shut(
                    node,
                    HeldBy::NodeUnknown {
                        node: node.clone(),
                        since: unknown.since,
                        why: unknown.why.clone(),
                    },
                    Some((unknown.since, self.policy.unknown_before_failed)),
                ),
            },
        }
    }

    /// A node that the cloud could not make is deleted and made again. One that ever ran
    /// something is left as it is: the cloud may mean a later change of it.
    fn failed(&mut self, node: &NodeName, view: &NodeView, spared: bool) -> Gate {
        let why = if spared {
            "the cloud says that the manager's own node failed"
        } else if !view.machine.created {
            "the cloud says that this node failed, and this platform did not make it"
        } else if !self.policy.provisions {
            "the cloud says that this node failed, and this provider cannot make another"
        } else if self.history.last_seen.values().any(|last| last == node) {
            "the cloud says that this node failed, and something ran on it"
        } else {
            let deleted = self.propose(
                Action::DeleteNode { node: node.clone() },
                BTreeSet::new(),
                Reason::NodeFailed,
            );
            return match deleted {
                Gate::After(step) => {
                    self.made_after(node, BTreeSet::from([step]), Reason::NodeFailed)
                }
                other => other,
            };
        };
        self.shut(node, HeldBy::Failed { why: why.into() }, None)
    }

    fn made_after(&mut self, node: &NodeName, needs: BTreeSet<StepId>, reason: Reason) -> Gate {
        let action = Action::ProvisionNode { node: node.clone() };
        let made = self.propose(action, needs, reason);
        self.prepared_after(node, made)
    }

    fn prepared_after(&mut self, node: &NodeName, before: Gate) -> Gate {
        let (needs, reason) = match before {
            Gate::Open => (BTreeSet::new(), Reason::EngineMissing),
            Gate::After(step) => (BTreeSet::from([step]), Reason::NodeIsNew),
            Gate::Shut { .. } => return before,
        };
        self.propose(Action::PrepareNode { node: node.clone() }, needs, reason)
    }

    /// Holds a node up. What lies on it is settled when the node failed, or has been as it is
    /// for longer than the policy waits.
    fn shut(
        &mut self,
        node: &NodeName,
        by: HeldBy,
        patience: Option<(DateTime<Utc>, Duration)>,
    ) -> Gate {
        let settled = match patience {
            Some((since, patience)) => self.is_over(since, patience),
            None => matches!(by, HeldBy::Failed { .. }),
        };
        self.hold(Subject::Node(node.clone()), by.clone());
        Gate::Shut { by, settled }
    }
}
