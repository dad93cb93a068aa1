//! Runs commands in simulated containers: commands that the simulation can interpret, and the
//! agent's `feed` command, which receives tables from the manager.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::io::{AsyncBufReadExt, BufReader, DuplexStream, Lines, duplex};
use tokio::time::sleep;

use super::behaviour::{Simulated, simulate};
use super::runtime::SimRuntime;
use crate::error::{Error, Result};
use crate::network::{Report, ReportKind, Table};
use crate::runtime::{ExecOutput, ExecSession, LogLine, Role};

/// The size of the buffer for a command's input and output, in bytes.
const BUFFER: usize = 64 * 1024;

/// The container in which a command runs.
pub(super) struct Host {
    pub(super) role: Role,
    pub(super) runs: bool,
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
    let output = if feeds {
        run_feed(runtime, container, BufReader::new(theirs).lines())
    } else {
        run_to_end(simulate(command), theirs)
    };
    Ok(ExecSession {
        id,
        input: Box::new(ours),
        output,
    })
}

fn run_to_end(
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
    let end = stream::once(async move {
        if let Some(exit) = performance.exit {
            sleep(exit.after).await;
            return Ok(ExecOutput::Exit(exit.code));
        }
        // The command runs until its input is closed.
        let mut lines = BufReader::new(input).lines();
        while let Ok(Some(_)) = lines.next_line().await {}
        Ok(ExecOutput::Exit(0))
    });
    stream::iter(output).chain(end).boxed()
}

/// Runs the agent's `feed` command. Accepts tables that are not older than the current table.
fn run_feed(
    runtime: SimRuntime,
    container: String,
    lines: Lines<BufReader<DuplexStream>>,
) -> BoxStream<'static, Result<ExecOutput>> {
    let start = Some((runtime, container, Box::pin(lines)));
    stream::unfold(start, |state| async move {
        let (runtime, container, mut lines) = state?;
        let line = Pin::as_mut(&mut lines).get_mut().next_line().await;
        let Ok(Some(line)) = line else {
            return Some((Ok(ExecOutput::Exit(0)), None));
        };
        let report = match serde_json::from_str::<Table>(&line) {
            Ok(table) => runtime.apply_table(&container, table).await,
            Err(error) => Err(Error::failed("reading a table", error.to_string())),
        };
        match report {
            Ok(report) => {
                let mut text = serde_json::to_vec(&report).unwrap_or_default();
                text.push(b'\n');
                let output = ExecOutput::Stdout(text.into());
                Some((Ok(output), Some((runtime, container, lines))))
            }
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

/// Returns the agent's report about `table`; updates `current` if the table is accepted.
pub(super) fn accepted(current: &mut Option<Table>, table: Table) -> Report {
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
        kind,
    }
}
