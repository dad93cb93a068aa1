//! Stores, for each agent, the table that it has accepted, and the open connections of draining
//! containers that it has reported.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::model::{Epoch, NodeName};
use crate::network::Table;

/// All agents, and the containers that are draining in the latest table.
#[derive(Debug, Default)]
pub(super) struct Agents {
    pub(super) known: BTreeMap<NodeName, Agent>,
    /// The first of the latest consecutive tables that mark each container as draining, by the
    /// container's name.
    draining: BTreeMap<String, (Epoch, u64)>,
}

/// An agent to which the feeder sends tables.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) accepted: Accepted,
    /// Whether the engine of the agent's node can be observed now.
    pub(super) is_reachable: bool,
    pub(super) cannot_redirect: Option<String>,
    /// The number of open connections of each draining container, by the container's name.
    open: BTreeMap<String, u64>,
}

/// The table that an agent has accepted.
#[derive(Debug, Clone)]
pub(super) enum Accepted {
    Version {
        version: u64,
        /// The container of the agent, if it reported it.
        by: Option<String>,
    },
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
    pub(super) fn accepted(&mut self, node: &NodeName, version: u64, by: Option<String>) {
        self.set(node, Accepted::Version { version, by });
    }

    /// Records that an agent has no table that the feeder knows of.
    pub(super) fn lost(&mut self, node: &NodeName, now: DateTime<Utc>, why: String) {
        let (since, waiting_since) = match self.known.get(node).map(|agent| &agent.accepted) {
            Some(Accepted::Nothing {
                since,
                waiting_since,
                ..
            }) => (*since, *waiting_since),
            Some(Accepted::Version { .. }) | None => (now, Instant::now()),
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
            cannot_redirect: None,
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
                let since = before.get(name).copied();
                (name.clone(), since.unwrap_or((table.epoch, table.version)))
            })
            .collect();
        for agent in self.known.values_mut() {
            // An older count does not apply to a container that starts draining again.
            agent
                .open
                .retain(|name, _| before.contains_key(name) && self.draining.contains_key(name));
        }
    }

    /// Records the number of open connections to a container, which an agent reported while the
    /// table with this epoch and version was active. Ignores a report about an earlier table: at that
    /// time, the container may not have been draining.
    pub(super) fn opened(
        &mut self,
        node: &NodeName,
        table: (Epoch, u64),
        container: &str,
        open: u64,
    ) {
        let since = self.draining.get(container);
        if since.is_some_and(|since| table >= *since)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CONTAINER: &str = "demo-web-1";

    fn node() -> NodeName {
        NodeName::try_from("n1").unwrap()
    }

    fn table(version: u64, draining: bool) -> Table {
        let backend = json!({
            "instance": "web-1", "container": CONTAINER, "endpoints": [], "draining": draining,
        });
        serde_json::from_value(json!({
            "epoch": 2, "version": version, "platform": "demo", "block": "127.80.0.0/16", "wait": 1,
            "services": { "web": {
                "address": "127.80.0.2", "ports": [], "backends": [backend],
            } },
        }))
        .unwrap()
    }

    #[test]
    fn counts_of_an_earlier_table_do_not_apply() {
        let mut agents = Agents::default();
        agents.accepted(&node(), 1, None);
        let mut count = |version, draining, report: (u64, u64), open| {
            agents.sent(&table(version, draining));
            agents.opened(&node(), (Epoch(report.0), report.1), CONTAINER, open);
            agents.known[&node()].open(CONTAINER)
        };
        assert_eq!(count(3, false, (2, 3), 0), None, "not draining");
        assert_eq!(count(4, true, (2, 3), 0), None, "an earlier table");
        assert_eq!(count(4, true, (1, 9), 0), None, "an earlier manager");
        assert_eq!(count(4, true, (2, 4), 5), Some(5));
        assert_eq!(count(5, true, (2, 4), 3), Some(3), "draining since 4");
        assert_eq!(count(6, false, (2, 5), 0), None);
        assert_eq!(count(7, true, (2, 5), 0), None, "drains again");
        assert_eq!(count(7, true, (2, 7), 1), Some(1));
    }
}
