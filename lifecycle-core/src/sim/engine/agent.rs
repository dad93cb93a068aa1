//! The agents on a machine: one serves, and the others wait or finish their connections.

use std::time::Duration;

use tokio::time::Instant;

use super::{Container, Engine, Phase};
use crate::model::PlatformId;
use crate::network::Table;
use crate::runtime::Role;

/// How long the previous agent takes to finish its connections.
const FINISHES_WITHIN: Duration = Duration::from_mins(1);

/// The state directory that a platform's agents on a machine share.
#[derive(Debug)]
pub(super) struct SharedState {
    /// The container of the agent that serves.
    serving: String,
    table: Option<Table>,
}

impl Engine {
    /// Returns the container of the agent that serves, if one is running.
    pub(in crate::sim) fn serving_agent(&self, owner: PlatformId) -> Option<&str> {
        let serving = &self.agents.get(&owner)?.serving;
        self.containers
            .get(serving)
            .is_some_and(Container::is_running)
            .then_some(serving)
    }

    /// Returns the table of the agents.
    pub(in crate::sim) fn table(&self, owner: PlatformId) -> Option<&Table> {
        self.agents.get(&owner)?.table.as_ref()
    }

    /// Returns the table of the agents, for changes.
    pub(in crate::sim) fn table_mut(&mut self, owner: PlatformId) -> Option<&mut Option<Table>> {
        Some(&mut self.agents.get_mut(&owner)?.table)
    }

    /// Returns the latest tables of all platforms.
    pub(in crate::sim) fn tables(&self) -> impl Iterator<Item = &Table> {
        self.agents
            .values()
            .filter_map(|agents| agents.table.as_ref())
    }

    /// Makes an agent that has started serve, unless another one does.
    pub(super) fn agent_started(&mut self, name: &str, owner: PlatformId) {
        if self.serving_agent(owner).is_some() {
            return;
        }
        let table = self.agents.remove(&owner).and_then(|agents| agents.table);
        let serving = name.to_owned();
        self.agents.insert(owner, SharedState { serving, table });
    }

    /// Makes an agent take over from the one that serves, which ends after it has finished its
    /// connections.
    pub(super) fn take_over(&mut self, name: &str, now: Instant) {
        let Some(container) = self.containers.get(name) else {
            return;
        };
        let owner = container.owner();
        if container.spec.role != Role::Agent {
            return;
        }
        let finishes = matches!(&container.phase, Phase::Running(run) if run.ends.is_some());
        if finishes && self.serving_agent(owner).is_some() {
            return;
        }
        let Some(agents) = self.agents.get_mut(&owner).filter(|a| a.serving != name) else {
            return;
        };
        let previous = std::mem::replace(&mut agents.serving, name.to_owned());
        if let Some(previous) = self.containers.get_mut(&previous)
            && let Phase::Running(run) = &mut previous.phase
        {
            run.ends = Some((now + FINISHES_WITHIN, 0));
        }
    }
}
