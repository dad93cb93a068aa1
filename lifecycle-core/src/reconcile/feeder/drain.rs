//! Waits, before a container is stopped, until no agent sends it new connections, and then until
//! its open connections have ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::ACCEPTS_WITHIN;
use super::agents::{Accepted, Agents};
use crate::model::{NodeName, ServiceName};
use crate::reconcile::declared::Declared;

/// How long an agent on a reachable node may be without a table before a stop no longer waits for
/// it. A restarted agent has the latest table after a few seconds. An agent that takes longer is
/// broken, and must not block stops forever.
const BROKEN_AFTER: Duration = Duration::from_secs(30);

/// The maximum time for the acknowledgement: the feed notices that an agent does not accept the
/// table, and then the agent is without a table for [`BROKEN_AFTER`]. The rest covers the time until
/// the feed sends the table.
pub(in crate::reconcile) const LONGEST_ACKNOWLEDGEMENT: Duration = BROKEN_AFTER
    .saturating_add(ACCEPTS_WITHIN)
    .saturating_add(Duration::from_secs(5));

/// How long a wait lasts before it is shown as the step's progress. Most waits end earlier.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

type Progress<'a> = &'a (dyn for<'b> Fn(&'b str) + Send + Sync);

/// The wait before a container is stopped.
#[derive(Debug)]
pub(in crate::reconcile) struct Drain {
    pub(super) service: ServiceName,
    /// The container's name.
    pub(super) container: String,
    /// The version of the latest table, in which the container gets no new connections.
    pub(super) version: u64,
    /// The limit for the wait for open connections, if new connections wait meanwhile, because no
    /// other replica is ready.
    pub(super) longest: Option<Duration>,
    pub(super) agents: watch::Receiver<Agents>,
    pub(super) declared: watch::Receiver<Option<Arc<Declared>>>,
}

/// The agents whose acknowledgement is missing.
#[derive(Default)]
struct Missing {
    /// The agents that a stop waits for.
    awaited: BTreeSet<NodeName>,
    /// The agents that a stop does not wait for any more.
    skipped: BTreeSet<NodeName>,
    /// When the next agent will be skipped.
    next: Option<Instant>,
}

impl Drain {
    /// Waits until every agent on a reachable node has accepted the table, then until the
    /// container's open connections have ended, for at most `grace`.
    ///
    /// If the service is no longer declared, no successor can take over its connections, so the
    /// second wait is left out.
    ///
    /// Returns the time at which the second wait ends at the latest.
    pub(in crate::reconcile) async fn wait(
        &self,
        grace: Duration,
        progress: Progress<'_>,
    ) -> Instant {
        let started = Instant::now();
        let acknowledged = self.acknowledged(progress).await;
        let deadline = Instant::now() + self.longest.map_or(grace, |longest| grace.min(longest));
        self.connections_ended(&acknowledged, deadline, progress)
            .await;
        if started.elapsed() >= SHOWN_AFTER {
            progress("stops the container");
        }
        deadline
    }

    /// Returns whether the service is still declared, so that a successor can take over connections.
    pub(in crate::reconcile) fn serves(&self) -> bool {
        let declared = self.declared.borrow();
        declared.as_ref().is_some_and(|declared| {
            !declared.deleting && declared.services.contains_key(&self.service)
        })
    }

    /// Returns the nodes whose agents have accepted the table.
    async fn acknowledged(&self, progress: Progress<'_>) -> BTreeSet<NodeName> {
        let started = Instant::now();
        let mut agents = self.agents.clone();
        let mut acknowledged = BTreeSet::new();
        loop {
            let missing = self.missing(&agents.borrow_and_update(), started, &mut acknowledged);
            let Some(next) = missing.next else {
                if !missing.skipped.is_empty() {
                    tracing::warn!(
                        container = self.container,
                        version = self.version,
                        nodes = names(&missing.skipped),
                        "stopping a container although the agents on some nodes did not accept \
                         the table without it"
                    );
                }
                return acknowledged;
            };
            let shown = show(started, progress, || {
                let nodes = names(&missing.awaited);
                format!("waits for the agents on {nodes} to stop new connections")
            });
            tokio::select! {
                changed = agents.changed() => if changed.is_err() {
                    return acknowledged;
                },
                () = sleep_until(shown.map_or(next, |shown| shown.min(next))) => {}
            }
        }
    }

    fn missing(
        &self,
        agents: &Agents,
        started: Instant,
        acknowledged: &mut BTreeSet<NodeName>,
    ) -> Missing {
        let now = Instant::now();
        let end = started + LONGEST_ACKNOWLEDGEMENT;
        let mut missing = Missing::default();
        for (node, agent) in &agents.known {
            // A restarted agent loads its accepted table from disk, so it need not accept it again.
            if !agent.is_reachable || acknowledged.contains(node) {
                continue;
            }
            let skipped_at = match &agent.accepted {
                Accepted::Version { version, .. } if *version >= self.version => {
                    acknowledged.insert(node.clone());
                    continue;
                }
                Accepted::Version { .. } => end,
                Accepted::Nothing { waiting_since, .. } => end.min(*waiting_since + BROKEN_AFTER),
            };
            if skipped_at <= now {
                missing.skipped.insert(node.clone());
                continue;
            }
            missing.awaited.insert(node.clone());
            missing.next = Some(missing.next.map_or(skipped_at, |next| next.min(skipped_at)));
        }
        missing
    }

    async fn connections_ended(
        &self,
        acknowledged: &BTreeSet<NodeName>,
        deadline: Instant,
        progress: Progress<'_>,
    ) {
        let started = Instant::now();
        let (mut agents, mut declared) = (self.agents.clone(), self.declared.clone());
        loop {
            declared.mark_unchanged();
            let serves = self.serves();
            let counts = self.counts(&agents.borrow_and_update(), acknowledged);
            if !serves || counts.values().all(|open| *open == Some(0)) {
                return;
            }
            if Instant::now() >= deadline {
                tracing::info!(
                    container = self.container,
                    open = counts.values().flatten().sum::<u64>(),
                    "stopping a container with open connections: its stop grace period has passed"
                );
                return;
            }
            let shown = show(started, progress, || {
                match counts.values().flatten().sum::<u64>() {
                    0 => "waits for the agents to report open connections".into(),
                    1 => "waits for 1 connection to end".into(),
                    open => format!("waits for {open} connections to end"),
                }
            });
            tokio::select! {
                changed = agents.changed() => if changed.is_err() {
                    return;
                },
                changed = declared.changed() => if changed.is_err() {
                    return;
                },
                () = sleep_until(shown.map_or(deadline, |shown| shown.min(deadline))) => {}
            }
        }
    }

    /// Returns the number of open connections that each agent has reported; `None` for an agent that
    /// has not reported yet. Empty if the container is not draining: it has ended or is not ready,
    /// so the agents do not count its connections.
    fn counts(
        &self,
        agents: &Agents,
        acknowledged: &BTreeSet<NodeName>,
    ) -> BTreeMap<NodeName, Option<u64>> {
        if !agents.is_draining(&self.container) {
            return BTreeMap::new();
        }
        let known = agents.known.iter();
        let counting = known.filter(|(node, agent)| {
            // An agent on an unreachable node cannot report.
            agent.is_reachable && acknowledged.contains(*node)
        });
        counting
            .map(|(node, agent)| (node.clone(), agent.open(&self.container)))
            .collect()
    }
}

/// Shows a wait as the step's progress if it has lasted long enough. Otherwise, returns when it will
/// have.
fn show(
    started: Instant,
    progress: Progress<'_>,
    line: impl FnOnce() -> String,
) -> Option<Instant> {
    let shown_at = started + SHOWN_AFTER;
    if Instant::now() < shown_at {
        return Some(shown_at);
    }
    progress(&line());
    None
}

fn names(nodes: &BTreeSet<NodeName>) -> String {
    let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
    names.join(", ")
}
