//! What the feeder knows about each agent: the table that it has accepted, and the open connections
//! of draining containers that it has reported.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::model::NodeName;
use crate::network::Table;

/// All agents, and the containers that are draining in the latest table.
#[derive(Debug, Default)]
pub(super) struct Agents {
    pub(super) known: BTreeMap<NodeName, Agent>,
    /// The first of the latest consecutive table versions that mark each container as draining, by
    /// the container's name.
    draining: BTreeMap<String, u64>,
}

/// An agent to which the feeder sends tables.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) accepted: Accepted,
    /// Whether the engine of the agent's node can be observed now.
    pub(super) is_reachable: bool,
    /// The number of open connections of each draining container, by the container's name.
    open: BTreeMap<String, u64>,
}

/// The table that an agent has accepted.
#[derive(Debug, Clone)]
pub(super) enum Accepted {
    Version(u64),
    Nothing {
        since: DateTime<Utc>,
        why: String,
        /// When the agent's time to get a table began: at `since`, or when its node became
        /// reachable again.
        waiting_since: Instant,
    },
}

impl Agents {
    /// Records that an agent has accepted a table.
    pub(super) fn accepted(&mut self, node: &NodeName, version: u64) {
        self.set(node, Accepted::Version(version));
    }

    /// Records that an agent has no table that the feeder knows of.
    pub(super) fn lost(&mut self, node: &NodeName, now: DateTime<Utc>, why: String) {
        let (since, waiting_since) = match self.known.get(node).map(|agent| &agent.accepted) {
            Some(Accepted::Nothing {
                since,
                waiting_since,
                ..
            }) => (*since, *waiting_since),
            Some(Accepted::Version(_)) | None => (now, Instant::now()),
        };
        let nothing = Accepted::Nothing {
            since,
            why,
            waiting_since,
        };
        self.set(node, nothing);
    }

    fn set(&mut self, node: &NodeName, accepted: Accepted) {
        if let Some(agent) = self.known.get_mut(node) {
            agent.accepted = accepted;
            return;
        }
        let agent = Agent {
            accepted,
            is_reachable: true,
            open: BTreeMap::new(),
        };
        self.known.insert(node.clone(), agent);
    }

    /// Records which containers are draining in a new table.
    pub(super) fn sent(&mut self, table: &Table) {
        let backends = table.services.values().flat_map(|entry| &entry.backends);
        let draining = backends.filter(|backend| backend.draining);
        let before = std::mem::take(&mut self.draining);
        self.draining = draining
            .map(|backend| {
                let name = &backend.container;
                let since = before.get(name).copied().unwrap_or(table.version);
                (name.clone(), since)
            })
            .collect();
        for agent in self.known.values_mut() {
            // An older count does not apply to a container that starts draining again.
            agent
                .open
                .retain(|name, _| before.contains_key(name) && self.draining.contains_key(name));
        }
    }

    /// Records the number of open connections that an agent reported while the table `version` was
    /// active.
    pub(super) fn opened(&mut self, node: &NodeName, version: u64, container: &str, open: u64) {
        let since = self.draining.get(container);
        if since.is_some_and(|since| version >= *since)
            && let Some(agent) = self.known.get_mut(node)
        {
            agent.open.insert(container.to_owned(), open);
        }
    }

    /// Returns whether a container is draining in the latest table.
    pub(super) fn is_draining(&self, container: &str) -> bool {
        self.draining.contains_key(container)
    }
}

impl Agent {
    /// Records whether the engine of the agent's node can be observed.
    pub(super) fn set_reachable(&mut self, is_reachable: bool) {
        if is_reachable
            && !self.is_reachable
            && let Accepted::Nothing { waiting_since, .. } = &mut self.accepted
        {
            *waiting_since = Instant::now();
        }
        self.is_reachable = is_reachable;
    }

    /// Returns the number of open connections of a draining container, if the agent has reported it.
    pub(super) fn open(&self, container: &str) -> Option<u64> {
        self.open.get(container).copied()
    }
}
