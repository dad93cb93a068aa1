//! Runs one agent on each node, from the manager's image. A container may start on a node only once
//! the node's agent has the services' addresses.

use std::collections::BTreeSet;

use super::{Gate, Planning};
use crate::model::{NodeName, Subject};
use crate::reconcile::declared::Agents;
use crate::reconcile::observe::AgentView;
use crate::reconcile::step::{Action, HeldBy, Reason, StepId};
use crate::runtime::{ObservedContainer, Role};

impl<'a> Planning<'a> {
    pub(super) fn agents(&mut self) {
        let declared = self.declared;
        if declared.deleting {
            return;
        }
        let Some(agents) = &declared.agents else {
            return;
        };
        for node in declared.nodes.keys() {
            let gate = self.agent(node, agents);
            self.agent_gates.insert(node, gate);
        }
    }

    /// Returns a gate that opens when containers on the node can find every service by its name.
    pub(super) fn agent_gate(&self, node: &NodeName) -> Gate {
        self.agent_gates.get(node).cloned().unwrap_or(Gate::Open)
    }

    fn agent(&mut self, node: &'a NodeName, agents: &'a Agents) -> Gate {
        let mut needs = BTreeSet::new();
        let node_gate = self.node_gates.get(node).cloned().unwrap_or(Gate::Open);
        if let Err(blocked) = node_gate.pass(&mut needs) {
            return Gate::blocked(HeldBy::Node { node: node.clone() }, blocked.settled);
        }
        let container = self.declared.agent_container(agents);
        let found = self.agents_on(node);
        let is_current = |agent: &&&ObservedContainer| agent.name == container;
        let runs = found
            .iter()
            .find(is_current)
            .is_some_and(|agent| agent.state.is_running());
        let is_alone = found.iter().all(|agent| agent.name == container);
        if runs && is_alone {
            return self.has_addresses(node);
        }
        if let Err(blocked) = self.agent_image(node, agents).pass(&mut needs) {
            let subject = Subject::Node(node.clone());
            return Gate::Blocked(self.block(subject, blocked.by, blocked.settled));
        }
        let reason = if is_alone {
            Reason::AgentAbsent
        } else {
            Reason::AgentOutdated
        };
        let action = Action::EnsureAgent {
            container,
            node: node.clone(),
        };
        match self.propose(action, needs, reason) {
            // Whether the agent has the addresses is known only once the agent is running.
            Gate::Open | Gate::After(_) => {
                let by = HeldBy::Agent {
                    node: node.clone(),
                    since: self.now,
                    why: "the agent has not started yet".into(),
                };
                Gate::blocked(by, false)
            }
            blocked @ Gate::Blocked(_) => blocked,
        }
    }

    fn agents_on(&self, node: &NodeName) -> Vec<&'a ObservedContainer> {
        let view = self.observed.nodes.get(node);
        let state = view.and_then(|view| view.engine_state());
        let containers = state.into_iter().flat_map(|state| &state.containers);
        containers.filter(|c| c.role == Role::Agent).collect()
    }

    /// Returns a gate that opens when the node's agent has the services' addresses.
    fn has_addresses(&mut self, node: &NodeName) -> Gate {
        let (since, why) = match self.observed.agents.get(node) {
            Some(AgentView::UpToDate) => return Gate::Open,
            Some(AgentView::Outdated { since, why }) => (*since, why.clone()),
            None => (
                self.now,
                "the agent has not received the addresses yet".to_owned(),
            ),
        };
        let by = HeldBy::Agent {
            node: node.clone(),
            since,
            why,
        };
        let settled = self.has_passed(since, self.policy.unknown_before_failed);
        Gate::Blocked(self.block(Subject::Node(node.clone()), by, settled))
    }

    /// Returns a gate that opens when the node has the agent's image, which is copied from the
    /// manager's node.
    fn agent_image(&mut self, node: &'a NodeName, agents: &'a Agents) -> Gate {
        let needed_by = Subject::Node(node.clone());
        self.existing_image(node, &agents.image, &needed_by)
            .unwrap_or_else(|| {
                let why = format!("no node has the agent's image {}", agents.image);
                Gate::blocked(HeldBy::Failed { why }, true)
            })
    }

    /// Removes each unneeded agent once its node has no container left that could use a service
    /// name.
    pub(super) fn unneeded_agents(&mut self) {
        let observed = self.observed;
        for (node, view) in &observed.nodes {
            let needed = !self.declared.deleting
                && self.declared.agents.is_some()
                && self.declared.nodes.contains_key(node);
            if needed || self.is_to_delete(node, view) {
                continue;
            }
            let agents = self.agents_on(node);
            let Some(state) = view.engine_state().filter(|_| !agents.is_empty()) else {
                continue;
            };
            let removed: BTreeSet<&str> = self
                .plan
                .steps
                .iter()
                .filter_map(|step| match &step.action {
                    Action::RemoveInstance { container, .. } => Some(container.as_str()),
                    _ => None,
                })
                .collect();
            let left = state
                .containers
                .iter()
                .any(|c| matches!(c.role, Role::Instance(_)) && !removed.contains(c.name.as_str()));
            if left {
                continue;
            }
            let needs: BTreeSet<StepId> = self
                .plan
                .steps
                .iter()
                .filter(|step| step.action.node() == node)
                .map(|step| step.id.clone())
                .collect();
            for agent in agents {
                let action = Action::RemoveAgent {
                    container: agent.name.clone(),
                    node: node.clone(),
                };
                self.propose(action, needs.clone(), Reason::AgentNotNeeded);
            }
        }
    }
}
