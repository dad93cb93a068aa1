//! Runs one agent on each node, from the manager's image. A container may start on a node only once
//! the node's agent has the services' addresses.
//!
//! An outdated agent is replaced on one node after the other. The new agent takes over from the old
//! one, which is removed after it has finished its connections.

use std::collections::BTreeSet;

use super::{Gate, Planning};
use crate::model::{NodeName, Subject};
use crate::reconcile::declared::Agents;
use crate::reconcile::observe::AgentView;
use crate::reconcile::step::{Action, HeldBy, Reason, StepId};
use crate::runtime::{ObservedContainer, Role};

/// The order in which agents are replaced.
#[derive(Default)]
struct Replacements<'a> {
    /// The node whose new agent does not serve yet.
    under_way: Option<&'a NodeName>,
    /// The nodes with an outdated agent that serves, and whether the current agent already runs there.
    outdated: Vec<(&'a NodeName, bool)>,
}

impl<'a> Planning<'a> {
    pub(super) fn agents(&mut self) {
        let declared = self.declared;
        if declared.deleting {
            return;
        }
        let Some(agents) = &declared.agents else {
            return;
        };
        let mut replacements = Replacements::default();
        for node in declared.nodes.keys() {
            let gate = self.agent(node, agents, &mut replacements);
            self.agent_gates.insert(node, gate);
        }
        self.replace_agents(agents, replacements);
    }

    /// Returns a gate that opens when containers on the node can find every service by its name.
    pub(super) fn agent_gate(&self, node: &NodeName) -> Gate {
        self.agent_gates.get(node).cloned().unwrap_or(Gate::Open)
    }

    fn agent(
        &mut self,
        node: &'a NodeName,
        agents: &'a Agents,
        replacements: &mut Replacements<'a>,
    ) -> Gate {
        let mut needs = BTreeSet::new();
        let node_gate = self.node_gates.get(node).cloned().unwrap_or(Gate::Open);
        if let Err(blocked) = node_gate.pass(&mut needs) {
            return Gate::blocked(HeldBy::Node { node: node.clone() }, blocked.settled);
        }
        let container = self.declared.agent_container(agents);
        let found = self.agents_on(node);
        let mut running = found.iter().filter(|agent| agent.state.is_running());
        let current = running.clone().find(|agent| agent.name == container);
        let serves = match self.observed.agents.get(node) {
            Some(AgentView::UpToDate { serving, .. }) => Some(serving.as_ref() == Some(&container)),
            Some(AgentView::Outdated { .. }) | None => None,
        };
        if current.is_some() && serves != Some(false) {
            if let Some(current) = current.filter(|_| serves == Some(true)) {
                self.remove_previous_agents(node, current, &found);
            }
            let gate = self.has_addresses(node);
            if matches!(&gate, Gate::Blocked(blocked) if !blocked.settled) {
                replacements.under_way.get_or_insert(node);
            }
            return gate;
        }
        if running.next().is_some() {
            replacements.outdated.push((node, current.is_some()));
            // Meanwhile, the outdated agent serves.
            return self.has_addresses(node);
        }
        if let Err(blocked) = self.agent_image(node, agents).pass(&mut needs) {
            let subject = Subject::Node(node.clone());
            return Gate::Blocked(self.block(subject, blocked.by, blocked.settled));
        }
        let action = Action::EnsureAgent {
            container,
            node: node.clone(),
        };
        match self.propose(action, needs, Reason::AgentAbsent) {
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

    /// Replaces outdated agents, one at a time. Brings the image to all their nodes at once. A
    /// replacement that fails repeatedly does not hold the others.
    fn replace_agents(&mut self, agents: &'a Agents, mut replacements: Replacements<'a>) {
        let container = self.declared.agent_container(agents);
        // First complete the replacements that have begun.
        replacements
            .outdated
            .sort_by_key(|(_, has_begun)| !has_begun);
        for (node, _) in replacements.outdated {
            let gate = self.replacement(node, agents, &container, replacements.under_way);
            if !matches!(&gate, Gate::Blocked(blocked) if blocked.settled) {
                self.agents_settled = false;
                replacements.under_way.get_or_insert(node);
            }
        }
    }

    fn replacement(
        &mut self,
        node: &'a NodeName,
        agents: &'a Agents,
        container: &str,
        under_way: Option<&NodeName>,
    ) -> Gate {
        let subject = Subject::Node(node.clone());
        let mut needs = BTreeSet::new();
        if let Err(blocked) = self.agent_image(node, agents).pass(&mut needs) {
            return Gate::Blocked(self.block(subject, blocked.by, blocked.settled));
        }
        if let Some(first) = under_way {
            let by = HeldBy::AgentReplacedAfter {
                node: first.clone(),
            };
            return Gate::Blocked(self.block(subject, by, false));
        }
        let action = Action::EnsureAgent {
            container: container.to_owned(),
            node: node.clone(),
        };
        self.propose(action, needs, Reason::AgentOutdated)
    }

    /// Removes the agents that have finished their connections. Such an agent ends, and the engine
    /// starts it again: the restart shows that it has finished. An agent whose connections do not end
    /// is removed after a limit.
    fn remove_previous_agents(
        &mut self,
        node: &NodeName,
        current: &ObservedContainer,
        found: &[&'a ObservedContainer],
    ) {
        let limit = self.policy.agent_finishes_within;
        for agent in found.iter().filter(|agent| agent.name != current.name) {
            let has_restarted = agent.started_at > current.started_at;
            let finishes = agent.state.is_running() && !has_restarted;
            let began = current.started_at.unwrap_or(self.now);
            if finishes && !self.has_passed(began, limit) {
                continue;
            }
            let action = Action::RemoveAgent {
                container: agent.name.clone(),
                node: node.clone(),
            };
            self.propose(action, BTreeSet::new(), Reason::AgentOutdated);
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
            Some(AgentView::UpToDate { .. }) => return Gate::Open,
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
            if needed || self.is_to_remove(node) {
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
