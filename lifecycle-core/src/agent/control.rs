//! Serves the control socket. The manager sends tables, and the agent answers with reports; each is
//! one line of JSON. An empty line requests a report about the active table.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use super::lines::{LONGEST, Line, Lines};
use super::report::Reporter;
use crate::model::Epoch;
use crate::network::{Report, ReportKind};

/// The maximum number of connected feeders (clients that send tables). A further feeder replaces
/// the oldest.
const FEEDERS: usize = 16;

/// The delay after a failed `accept`, for example if no file descriptors are left.
const PAUSE: Duration = Duration::from_millis(100);

/// A table that a feeder sent, and the channel for the agent's answer.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) line: Bytes,
    pub(super) answer: oneshot::Sender<Report>,
}

pub(super) async fn serve(
    listener: UnixListener,
    tables: mpsc::Sender<Command>,
    reporter: Arc<Reporter>,
) {
    let mut feeders = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    oldest_first.retain(|feeder| !feeder.is_finished());
                    if oldest_first.len() >= FEEDERS
                        && let Some(oldest) = oldest_first.pop_front()
                    {
                        oldest.abort();
                    }
                    let feeder = Feeder {
                        tables: tables.clone(),
                        reporter: Arc::clone(&reporter),
                    };
                    oldest_first.push_back(feeders.spawn(feeder.serve(stream)));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept the connection of a feeder");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(ended) = feeders.join_next() => {
                if let Ok(Err(error)) = ended {
                    tracing::debug!(%error, "the connection of a feeder broke");
                }
            }
        }
    }
}

/// Serves one connection.
pub(super) struct Feeder {
    pub(super) tables: mpsc::Sender<Command>,
    pub(super) reporter: Arc<Reporter>,
}

impl Feeder {
    pub(super) async fn serve(self, stream: UnixStream) -> io::Result<()> {
        let (from, mut to) = stream.into_split();
        let mut lines = Lines::new(from, LONGEST);
        let mut reports = self.reporter.listen();
        loop {
            tokio::select! {
                line = lines.next() => match line? {
                    Some(line) => self.answer(line, &mut to).await?,
                    None => return Ok(()),
                },
                report = reports.recv() => match report {
                    Ok(report) => send(&mut to, &report).await?,
                    // The feeder was too slow and missed reports. Later reports contain the current
                    // numbers.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Ok(()),
                },
            }
        }
    }

    async fn answer(&self, line: Line, to: &mut OwnedWriteHalf) -> io::Result<()> {
        let refused = |why: &str| {
            self.reporter
                .report(ReportKind::Refused { why: why.into() })
        };
        let line = match line {
            Line::Whole(line) if line.is_empty() => {
                let report = self.reporter.report(ReportKind::Accepted);
                return if report.epoch == Epoch::default() {
                    send(to, &refused("no table is active")).await
                } else {
                    send(to, &report).await
                };
            }
            Line::Whole(line) => line,
            Line::TooLong => {
                let why = format!("the line is longer than {LONGEST} bytes");
                return send(to, &refused(&why)).await;
            }
        };
        let (answer, answered) = oneshot::channel();
        let sent = self.tables.send(Command { line, answer }).await;
        let report = match (sent, answered.await) {
            (Ok(()), Ok(report)) => report,
            _ => refused("the agent is stopping"),
        };
        send(to, &report).await?;
        if report.kind == ReportKind::Accepted {
            // A new feeder has not received the current reports, so send them.
            for report in self.reporter.current() {
                send(to, &report).await?;
            }
        }
        Ok(())
    }
}

async fn send(to: &mut OwnedWriteHalf, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    to.write_all(&line).await
}
