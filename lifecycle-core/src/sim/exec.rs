//! Runs commands in simulated containers: commands that the simulation can interpret, and the
//! agent's `feed` command, which receives tables from the manager.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::io::{AsyncBufReadExt, BufReader, DuplexStream, Lines, duplex};
use tokio::sync::watch;
use tokio::time::sleep;

use super::behaviour::{Simulated, simulate};
use super::runtime::SimRuntime;
use crate::error::{Error, Result};
use crate::network::{Report, ReportKind, Table};
use crate::runtime::{ExecOutput, ExecSession, LogLine, Role};

/// The size of the buffer for a command's input and output, in bytes.
const BUFFER: usize = 64 * 1024;

/// The exit code of a command that was ended by the signal HUP.
const HUNG_UP: i64 = 129;

/// The container in which a command runs.
pub(super) struct Host {
    pub(super) role: Role,
    pub(super) runs: bool,
    /// The container of the agent that serves.
    pub(super) serving: Option<String>,
}

/// Runs a command in `container`.
pub(super) fn start(
    runtime: SimRuntime,
    container: String,
    host: &Host,
    command: &[String],
    id: String,
) -> Result<ExecSession> {
    if !host.runs {
        return Err(Error::Conflict {
            what: format!("container {container}"),
            why: "the container is not running".into(),
        });
    }
    let (ours, theirs) = duplex(BUFFER);
    let feeds = host.role == Role::Agent && command.iter().any(|word| word == "feed");
    let awaits = host.role == Role::Agent && command.iter().any(|word| word == "serves");
    let output = if awaits {
        let serves = host.serving.as_ref() == command.last();
        let exit = ExecOutput::Exit(i64::from(!serves));
        stream::iter([Ok(exit)]).boxed()
    } else if feeds {
        run_feed(runtime, container, BufReader::new(theirs).lines())?
    } else {
        run_to_end(runtime, id.clone(), simulate(command), theirs)
    };
    Ok(ExecSession {
        id,
        input: Box::new(ours),
        output,
    })
}

fn run_to_end(
    runtime: SimRuntime,
    id: String,
    performance: Simulated,
    input: DuplexStream,
) -> BoxStream<'static, Result<ExecOutput>> {
    let output = performance
        .lines
        .into_iter()
        .map(|LogLine { stderr, text, .. }| {
            let text = Bytes::from(format!("{text}\n"));
            Ok(if stderr {
                ExecOutput::Stderr(text)
            } else {
                ExecOutput::Stdout(text)
            })
        });
    let own_end = async move {
        if let Some(exit) = performance.exit {
            sleep(exit.after).await;
            return exit.code;
        }
        // The command runs until its input is closed.
        let mut lines = BufReader::new(input).lines();
        while let Ok(Some(_)) = lines.next_line().await {}
        0
    };
    let end = stream::once(async move {
        tokio::select! {
            biased;
            code = own_end => Ok(ExecOutput::Exit(code)),
            ended = runtime.command_ended(&id) => ended.map(|()| ExecOutput::Exit(HUNG_UP)),
        }
    });
    stream::iter(output).chain(end).boxed()
}

/// The agent's `feed` command.
struct Feed {
    runtime: SimRuntime,
    container: String,
    lines: Lines<BufReader<DuplexStream>>,
    /// Notified when the number of open connections may have changed.
    changes: watch::Receiver<u64>,
    /// The reports that have not been sent yet.
    unsent: VecDeque<Report>,
    /// The latest reports about draining containers that were sent.
    sent: Vec<Report>,
}

/// Runs the agent's `feed` command. Accepts tables that are not older than the current table, and
/// reports the open connections of draining containers.
fn run_feed(
    runtime: SimRuntime,
    container: String,
    lines: Lines<BufReader<DuplexStream>>,
) -> Result<BoxStream<'static, Result<ExecOutput>>> {
    let feed = Feed {
        changes: runtime.connection_changes()?,
        runtime,
        container,
        lines,
        unsent: VecDeque::new(),
        sent: Vec::new(),
    };
    let output = stream::unfold(Some(feed), |feed| async move {
        let mut feed = feed?;
        match feed.next().await {
            Ok(Some(report)) => {
                let mut text = serde_json::to_vec(&report).unwrap_or_default();
                text.push(b'\n');
                Some((Ok(ExecOutput::Stdout(text.into())), Some(feed)))
            }
            Ok(None) => Some((Ok(ExecOutput::Exit(0)), None)),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(output.boxed())
}

impl Feed {
    /// Waits for the next report; `None` if the command's input has ended.
    async fn next(&mut self) -> Result<Option<Report>> {
        loop {
            if let Some(report) = self.unsent.pop_front() {
                return Ok(Some(report));
            }
            tokio::select! {
                biased;
                line = self.lines.next_line() => {
                    let Ok(Some(line)) = line else {
                        return Ok(None);
                    };
                    let table = serde_json::from_str::<Table>(&line)
                        .map_err(|error| Error::failed("reading a table", error.to_string()))?;
                    let report = self.runtime.apply_table(&self.container, table).await?;
                    let is_accepted = report.kind == ReportKind::Accepted;
                    self.unsent.push_back(report);
                    if is_accepted {
                        // The agent repeats these reports after each accepted table.
                        self.sent.clear();
                        self.report_draining().await;
                    }
                }
                Ok(()) = self.changes.changed() => self.report_draining().await,
            }
        }
    }

    /// Reports the numbers of open connections that have changed.
    async fn report_draining(&mut self) {
        let now = self.runtime.draining(&self.container).await;
        let new = now.iter().filter(|report| !self.sent.contains(report));
        self.unsent.extend(new.cloned());
        self.sent = now;
    }
}

/// Returns an agent's reports about the draining containers of its table.
pub(super) fn draining(table: &Table, open: &BTreeMap<String, u64>) -> Vec<Report> {
    let backends = table.services.values().flat_map(|entry| &entry.backends);
    let draining = backends.filter(|backend| backend.draining);
    draining
        .map(|backend| Report {
            epoch: table.epoch,
            version: table.version,
            agent: None,
            cannot_redirect: None,
            kind: ReportKind::Draining {
                instance: backend.instance.clone(),
                container: backend.container.clone(),
                open: open.get(&backend.container).copied().unwrap_or_default(),
            },
        })
        .collect()
}

/// Returns the agent's report about `table`; updates `current` if the table is accepted.
pub(super) fn accepted(current: &mut Option<Table>, table: Table, agent: Option<String>) -> Report {
    let newest = current.as_ref().map(|t| (t.epoch, t.version));
    let offered = (table.epoch, table.version);
    let kind = match newest {
        Some(newest) if offered < newest => ReportKind::Refused {
            why: format!(
                "the current table is newer (epoch {}, version {})",
                newest.0, newest.1
            ),
        },
        _ => {
            *current = Some(table);
            ReportKind::Accepted
        }
    };
    let (epoch, version) = current
        .as_ref()
        .map_or(offered, |table| (table.epoch, table.version));
    Report {
        epoch,
        version,
        agent,
        cannot_redirect: None,
        kind,
    }
}
