//! Sends the table of service addresses to the agents. For each node, one task writes new tables to a
//! command in the container of a running agent, and reads the reports of the agent that serves.
//!
//! - [`agents`]: the table that each agent has accepted, and the connections that it has reported.
//! - [`drain`]: waits for the agents before a container is stopped.

mod agents;
mod drain;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;
use tokio_util::codec::{Decoder as _, LinesCodec};

use super::agent::feed_command;
use super::backends::Backends;
use super::declared::Declared;
use super::observe::{AgentView, Observed};
use super::traffic::adds_names;
use crate::cloud::ObservedNode;
use crate::error::{Error, Result};
use crate::model::{Epoch, NodeName, PlatformId, ServiceName};
use crate::network::{Report, ReportKind, Table};
use crate::runtime::{ExecOutput, Role};

use agents::{Accepted, Agents};

pub(super) use drain::{Drain, LONGEST_ACKNOWLEDGEMENT};

/// How long to wait before reopening a broken feed.
const AGAIN: Duration = Duration::from_secs(1);
/// How long an agent may take to accept a table.
const ACCEPTS_WITHIN: Duration = Duration::from_secs(10);
/// The maximum length of a line from an agent, in bytes.
const LONGEST_LINE: usize = 64 * 1024;

/// Feeds all agents. Dropping the feeder ends the feeds; the agents keep their tables.
#[derive(Debug)]
pub(super) struct Feeder {
    shared: Arc<Shared>,
    tables: watch::Sender<Option<Arc<Table>>>,
    /// The first table version that contains all current names.
    named_since: u64,
    feeds: BTreeMap<NodeName, Feed>,
}

#[derive(Debug)]
struct Shared {
    backends: Backends,
    epoch: Epoch,
    platform: watch::Sender<Option<PlatformId>>,
    agents: watch::Sender<Agents>,
    changed: Notify,
    reports: mpsc::UnboundedSender<(NodeName, Report)>,
}

/// The container through which a feed reaches the agent that serves. After a restart of the container,
/// the node gets a new feed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Agent {
    machine: ObservedNode,
    container: String,
    started_at: Option<DateTime<Utc>>,
}

#[derive(Debug)]
struct Feed {
    agent: Agent,
    task: AbortHandle,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Feeder {
    /// Creates a feeder. Agents' reports are sent to `reports`, except those that the feeder handles
    /// itself: about its own tables, and about draining instances.
    pub(super) fn new(
        backends: Backends,
        epoch: Epoch,
        reports: mpsc::UnboundedSender<(NodeName, Report)>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                backends,
                epoch,
                platform: watch::Sender::new(None),
                agents: watch::Sender::default(),
                changed: Notify::new(),
                reports,
            }),
            tables: watch::Sender::new(None),
            named_since: 0,
            feeds: BTreeMap::new(),
        }
    }

    /// Waits until an agent has accepted a table or a feed has ended.
    pub(super) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Sends a table to all agents, unless the table equals the latest one.
    pub(super) fn update(&mut self, platform: PlatformId, mut table: Table) {
        self.shared.platform.send_replace(Some(platform));
        let latest = self.tables.borrow().clone();
        table.epoch = self.shared.epoch;
        table.version = latest.as_ref().map_or(0, |latest| latest.version);
        if latest.as_deref() == Some(&table) {
            return;
        }
        table.version += 1;
        if latest.is_none_or(|latest| adds_names(&latest, &table)) {
            self.named_since = table.version;
        }
        // Before the table is sent: the agents' reports about it refer to its draining containers.
        self.shared.agents.send_modify(|agents| agents.sent(&table));
        self.tables.send_replace(Some(Arc::new(table)));
    }

    /// Starts the feeds of running agents, and ends those of stopped agents. Keeps the feeds of
    /// unreachable nodes. `current` is the container of the declared agent.
    pub(super) fn follow(&mut self, observed: &Observed, current: Option<&str>) {
        self.feeds
            .retain(|node, _| observed.nodes.contains_key(node));
        for (node, view) in &observed.nodes {
            let Some(state) = view.engine_state() else {
                continue;
            };
            // The agents of a node share their control socket, so any of them leads to the agent that
            // serves. The current one is not removed soon.
            let agents = state.containers.iter().filter(|c| c.role == Role::Agent);
            let runs = agents
                .filter(|agent| agent.state.is_running())
                .max_by_key(|agent| (Some(agent.name.as_str()) == current, agent.started_at));
            let Some(container) = runs else {
                self.feeds.remove(node);
                continue;
            };
            let agent = Agent {
                machine: view.machine.clone(),
                container: container.name.clone(),
                started_at: container.started_at,
            };
            if self.feeds.get(node).is_some_and(|feed| feed.agent == agent) {
                continue;
            }
            // End the old feed before the new one starts.
            self.feeds.remove(node);
            self.shared.lost(node, "the agent has just started".into());
            let feeding = feed(
                Arc::clone(&self.shared),
                node.clone(),
                agent.clone(),
                self.tables.subscribe(),
            );
            let task = tokio::spawn(feeding).abort_handle();
            self.feeds.insert(node.clone(), Feed { agent, task });
        }
        self.shared.agents.send_modify(|agents| {
            agents.known.retain(|node, _| self.feeds.contains_key(node));
            for (node, agent) in &mut agents.known {
                let view = observed.nodes.get(node);
                agent.set_reachable(view.is_some_and(|view| view.engine_state().is_some()));
            }
        });
    }

    /// Returns, for each running agent, whether it has the current service addresses.
    pub(super) fn views(&self) -> BTreeMap<NodeName, AgentView> {
        let agents = self.shared.agents.borrow();
        let views = agents.known.iter().map(|(node, agent)| {
            let view = match &agent.accepted {
                Accepted::Version { version, by } if *version >= self.named_since => {
                    AgentView::UpToDate {
                        serving: by.clone(),
                        cannot_redirect: agent.cannot_redirect.clone(),
                    }
                }
                Accepted::Version { .. } => AgentView::Outdated {
                    since: self.shared.backends.clock.now(),
                    why: "the agent does not have the addresses of new services yet".into(),
                },
                Accepted::Nothing { since, why, .. } => AgentView::Outdated {
                    since: *since,
                    why: why.clone(),
                },
            };
            (node.clone(), view)
        });
        views.collect()
    }

    /// Returns the latest table.
    pub(super) fn table(&self) -> Option<Arc<Table>> {
        self.tables.borrow().clone()
    }

    /// Returns what the stop of a container has to wait for, as of the latest table.
    pub(super) fn drain(
        &self,
        service: &ServiceName,
        container: &str,
        declared: watch::Receiver<Option<Arc<Declared>>>,
    ) -> Drain {
        let table = self.tables.borrow();
        let entry = table.as_ref().and_then(|table| table.services.get(service));
        let mut backends = entry.into_iter().flat_map(|entry| &entry.backends);
        let others_serve = backends.any(|backend| !backend.draining);
        Drain {
            service: service.clone(),
            container: container.to_owned(),
            version: table.as_ref().map_or(0, |table| table.version),
            longest: table
                .as_ref()
                .filter(|_| !others_serve)
                .map(|table| table.wait / 2),
            agents: self.shared.agents.subscribe(),
            declared,
        }
    }
}

impl Shared {
    fn lost(&self, node: &NodeName, why: String) {
        let now = self.backends.clock.now();
        self.agents
            .send_modify(|agents| agents.lost(node, now, why));
        self.changed.notify_one();
    }

    fn accepted(&self, node: &NodeName, version: u64, by: Option<String>) {
        self.agents
            .send_modify(|agents| agents.accepted(node, version, by));
        self.changed.notify_one();
    }
}

/// Feeds one agent until the task is aborted.
async fn feed(
    shared: Arc<Shared>,
    node: NodeName,
    agent: Agent,
    mut tables: watch::Receiver<Option<Arc<Table>>>,
) {
    loop {
        let why = match feed_once(&shared, &node, &agent, &mut tables).await {
            Ok(()) => "the connection to the agent ended".to_owned(),
            Err(error) => error.chain(),
        };
        tracing::debug!(%node, why, "the connection to an agent broke");
        shared.lost(&node, why);
        tokio::time::sleep(AGAIN).await;
        tables.mark_changed();
    }
}

async fn feed_once(
    shared: &Shared,
    node: &NodeName,
    agent: &Agent,
    tables: &mut watch::Receiver<Option<Arc<Table>>>,
) -> Result<()> {
    let ended = |_| {
        Error::failed(
            "sending tables to an agent",
            "the manager's control loop has ended",
        )
    };
    let platform = loop {
        let latest = tables.borrow_and_update().clone();
        match latest {
            Some(_) => break *shared.platform.borrow(),
            None => tables.changed().await.map_err(ended)?,
        }
    };
    let Some(platform) = platform else {
        return Ok(());
    };
    let handle = shared.backends.connector.connect(&agent.machine).await?;
    let mut session = handle
        .runtime
        .exec(&agent.container, &feed_command(platform))
        .await?;
    tables.mark_changed();
    let mut lines = LinesCodec::new_with_max_length(LONGEST_LINE);
    let mut received = BytesMut::new();
    let mut awaited: Option<(u64, tokio::time::Instant)> = None;
    loop {
        let overdue = async {
            match awaited {
                Some((_, until)) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            piece = session.output.next() => match piece {
                Some(Ok(ExecOutput::Stdout(bytes))) => {
                    received.extend_from_slice(&bytes);
                    while let Some(line) = lines.decode(&mut received).map_err(|error| unread(&error))? {
                        let latest = tables.borrow().as_ref().map_or(0, |table| table.version);
                        let report = handle_report(shared, node, latest, &line)?;
                        if awaited.is_some_and(|(version, _)| report >= version) {
                            awaited = None;
                        }
                    }
                }
                Some(Ok(ExecOutput::Stderr(bytes))) => {
                    let line = String::from_utf8_lossy(&bytes);
                    tracing::warn!(%node, line = line.trim_end(),
                        "the agent's feed command reported an error");
                }
                Some(Ok(ExecOutput::Exit(code))) => {
                    let why = format!("exit code {code}");
                    return Err(Error::failed("sending tables to the agent", why));
                }
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
            changed = tables.changed() => {
                changed.map_err(ended)?;
                let Some(table) = tables.borrow_and_update().clone() else {
                    continue;
                };
                let until = tokio::time::Instant::now() + ACCEPTS_WITHIN;
                awaited = Some((table.version, until));
                let mut line = serde_json::to_vec(&table.for_node(node))
                    .map_err(|error| Error::failed("serializing a table", error.to_string()))?;
                line.push(b'\n');
                let write = async {
                    session.input.write_all(&line).await?;
                    session.input.flush().await
                };
                tokio::time::timeout_at(until, write)
                    .await
                    .map_err(|_| late())?
                    .map_err(|error| Error::Interrupted {
                        what: "sending tables to the agent".into(),
                        source: Some(error.into()),
                    })?;
            }
            () = overdue => return Err(late()),
        }
    }
}

fn unread(why: &dyn std::fmt::Display) -> Error {
    Error::failed("reading an agent's report", why.to_string())
}

fn late() -> Error {
    Error::TimedOut {
        what: "the agent's response to a table".into(),
        after: ACCEPTS_WITHIN,
    }
}

/// Handles one line from an agent; returns the table version that the line reports. `latest` is the
/// version of the latest table.
fn handle_report(shared: &Shared, node: &NodeName, latest: u64, line: &str) -> Result<u64> {
    let report: Report = serde_json::from_str(line).map_err(|error| unread(&error))?;
    let version = report.version;
    shared.agents.send_modify(|agents| {
        if let Some(agent) = agents.known.get_mut(node) {
            agent.cannot_redirect.clone_from(&report.cannot_redirect);
        }
    });
    match &report.kind {
        ReportKind::Accepted => shared.accepted(node, version, report.agent),
        ReportKind::Refused { why } => {
            let rejected = Error::conflict("the agent rejected its table", why);
            if (report.epoch, version) > (shared.epoch, latest) {
                drop(shared.reports.send((node.clone(), report)));
            }
            return Err(rejected);
        }
        ReportKind::Draining {
            container, open, ..
        } => {
            let table = (report.epoch, version);
            shared
                .agents
                .send_modify(|agents| agents.opened(node, table, container, *open));
        }
        ReportKind::NoReadyEndpoint { .. } | ReportKind::CannotListen { .. } => {
            // Ignore the result: if the receiver is gone, this feed ends too.
            drop(shared.reports.send((node.clone(), report)));
        }
    }
    Ok(version)
}
