//! Agents: one on each node, from the manager's image, told the services' addresses before
//! anything that may ask for them starts there; removed when nothing is left that could.

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
        if declared.taking_down {
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

    /// Opens when what starts on the node finds every service by its name.
    pub(super) fn agent_gate(&self, node: &NodeName) -> Gate {
        self.agent_gates.get(node).cloned().unwrap_or(Gate::Open)
    }

    fn agent(&mut self, node: &'a NodeName, agents: &'a Agents) -> Gate {
        let mut needs = BTreeSet::new();
        match self.node_gates.get(node) {
            Some(Gate::Shut { settled, .. }) => {
                return Gate::Shut {
                    by: HeldBy::Node { node: node.clone() },
                    settled: *settled,
                };
            }
            Some(Gate::After(step)) => {
                needs.insert(step.clone());
            }
            Some(Gate::Open) | None => {}
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
            return self.told(node);
        }
        if let Err(shut) = self.agent_image(node, agents).pass(&mut needs) {
            let (by, settled) = shut;
            self.hold(Subject::Node(node.clone()), by.clone());
            return Gate::Shut { by, settled };
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
            // Whether it was told is seen once it runs.
            Gate::Open | Gate::After(_) => Gate::Shut {
                by: HeldBy::Agent {
                    node: node.clone(),
                    since: self.now,
                    why: "it is about to start".into(),
                },
                settled: false,
            },
            shut @ Gate::Shut { .. } => shut,
        }
    }

    fn agents_on(&self, node: &NodeName) -> Vec<&'a ObservedContainer> {
        let view = self.observed.nodes.get(node);
        let state = view.and_then(|view| view.engine_state());
        let containers = state.into_iter().flat_map(|state| &state.containers);
        containers.filter(|c| c.role == Role::Agent).collect()
    }

    fn told(&mut self, node: &NodeName) -> Gate {
        let (since, why) = match self.observed.agents.get(node) {
            Some(AgentView::Told) => return Gate::Open,
            Some(AgentView::NotTold { since, why }) => (*since, why.clone()),
            None => (self.now, "it has not been told yet".to_owned()),
        };
        let by = HeldBy::Agent {
            node: node.clone(),
            since,
            why,
        };
        self.hold(Subject::Node(node.clone()), by.clone());
        let settled = self.is_over(since, self.policy.unknown_before_failed);
        Gate::Shut { by, settled }
    }

    /// The manager runs from this image, so its node has it; nobody else makes one.
    fn agent_image(&mut self, node: &'a NodeName, agents: &'a Agents) -> Gate {
        let needed_by = Subject::Node(node.clone());
        self.image_at_hand(node, &agents.image, &needed_by)
            .unwrap_or_else(|| {
                let why = format!("no node has the image {} any more", agents.image);
                Gate::Shut {
                    by: HeldBy::Failed { why },
                    settled: true,
                }
            })
    }

    /// Agents of nodes on which nothing is left that could ask for a name. Those of nodes that
    /// are deleted go with them.
    pub(super) fn needless_agents(&mut self) {
        let observed = self.observed;
        for (node, view) in &observed.nodes {
            let needed = !self.declared.taking_down
                && self.declared.agents.is_some()
                && self.declared.nodes.contains_key(node);
            if needed || self.is_ours_to_delete(node, view) {
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
