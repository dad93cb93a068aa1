//! The previous agent on the node, which finishes the connections that it accepted before the
//! handover. It is sent every table, so that its connections find ready endpoints, and it reports the
//! open connections of draining containers, which this agent adds to its own.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::lines::{LONGEST, Line, Lines};
use super::report::Reporter;
use crate::network::{Report, ReportKind};

/// How long the previous agent may take to accept a table. Afterwards, this agent no longer waits for
/// it.
const ACCEPTS_WITHIN: Duration = Duration::from_secs(2);

/// The connection to the previous agent.
#[derive(Debug)]
pub(super) struct Previous {
    tables: OwnedWriteHalf,
    /// Receives a value for each line that the previous agent has answered.
    answers: mpsc::UnboundedReceiver<()>,
    ended: CancellationToken,
    reporter: Arc<Reporter>,
    _reading: AbortOnDropHandle<()>,
}

impl Previous {
    pub(super) fn new(stream: UnixStream, reporter: &Arc<Reporter>) -> Self {
        let (reports, tables) = stream.into_split();
        let (answered, answers) = mpsc::unbounded_channel();
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let to = Arc::clone(reporter);
        let reading = tokio::spawn(async move {
            if let Err(error) = read(reports, &to, &answered).await {
                tracing::debug!(%error, "the connection to the previous agent broke");
            }
            drop(guard);
        });
        Self {
            tables,
            answers,
            ended,
            reporter: Arc::clone(reporter),
            _reading: AbortOnDropHandle::new(reading),
        }
    }

    /// Sends a table to the previous agent, and waits for its reports about this table.
    pub(super) async fn follow(&mut self, table: &Bytes) -> io::Result<()> {
        let exchange = async {
            while self.answers.try_recv().is_ok() {}
            self.tables.write_all(table).await?;
            // The answer to the empty line comes after the reports about the table.
            self.tables.write_all(b"\n\n").await?;
            for _ in 0..2 {
                let answer = self.answers.recv().await;
                answer.ok_or(io::ErrorKind::UnexpectedEof)?;
            }
            Ok(())
        };
        timeout(ACCEPTS_WITHIN, exchange).await?
    }

    /// Waits until the previous agent has ended.
    pub(super) async fn ended(previous: Option<&Self>) {
        match previous {
            Some(previous) => previous.ended.cancelled().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Previous {
    fn drop(&mut self) {
        self.reporter.forget_previous();
    }
}

async fn read(
    from: OwnedReadHalf,
    reporter: &Reporter,
    answered: &mpsc::UnboundedSender<()>,
) -> io::Result<()> {
    let mut lines = Lines::new(from, LONGEST);
    while let Some(line) = lines.next().await? {
        let Line::Whole(line) = line else {
            continue;
        };
        let report: Report = serde_json::from_slice(&line)?;
        match report.kind {
            // Sending fails only if the connection is no longer used.
            ReportKind::Accepted | ReportKind::Refused { .. } => drop(answered.send(())),
            ReportKind::Draining {
                container, open, ..
            } => reporter.previous(container, open),
            ReportKind::NoReadyEndpoint { .. } | ReportKind::CannotListen { .. } => {
                reporter.pass_on(report);
            }
        }
    }
    Ok(())
}
