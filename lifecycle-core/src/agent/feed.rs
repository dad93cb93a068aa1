//! The client of the control socket. The manager runs this client on the node, through the
//! container engine.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use super::CONTROL_SOCKET;
use crate::error::{Error, Result};
use crate::network::{Report, ReportKind};

/// How long the agent may take to start listening.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// How long the agent may take to report whether it has a table.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// The interval between attempts to connect.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Copies lines from `from` to the agent whose state directory is `state`, and copies the agent's
/// reports to `to`. Returns when `from` has ended and the agent has answered every line.
///
/// # Errors
/// [`Error::Unreachable`] if no agent is listening, [`Error::Interrupted`] if the connection
/// breaks.
pub async fn feed(
    state: &Path,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> Result<()> {
    let stream = connect(state, LISTENS_WITHIN).await?;
    let (mut reports, mut tables) = stream.into_split();
    let mut is_done = false;
    let send = async {
        copy(&mut from, &mut tables).await?;
        // The agent answers all pending lines, then closes its side too.
        tables.shutdown().await
    };
    let receive = async {
        copy(&mut reports, &mut to).await?;
        to.flush().await
    };
    tokio::pin!(send, receive);
    let ended = loop {
        tokio::select! {
            done = &mut send, if !is_done => match done {
                Ok(()) => is_done = true,
                Err(error) => break Err(error),
            },
            done = &mut receive => break done,
        }
    };
    let interrupted = |source| Error::Interrupted {
        what: "sending tables to the agent".into(),
        source,
    };
    match ended {
        Ok(()) if is_done => Ok(()),
        Ok(()) => Err(interrupted(None)),
        Err(error) => Err(interrupted(Some(Box::new(error)))),
    }
}

/// Checks that the agent whose state directory is `state` is running and has an active table.
///
/// # Errors
/// [`Error::Unreachable`] if no agent is running, [`Error::Failed`] if the agent has no table,
/// [`Error::Interrupted`] if the agent does not respond.
pub async fn check(state: &Path) -> Result<()> {
    match query(state).await?.kind {
        ReportKind::Refused { why } => Err(Error::failed("querying the agent", why)),
        _ => Ok(()),
    }
}

/// Waits until the agent with this name serves.
///
/// # Errors
/// [`Error::Failed`] if another agent still serves after `within`. Otherwise, the last error of
/// [`check`].
pub async fn serves(state: &Path, name: &str, within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    loop {
        let error = match query(state).await {
            Ok(report) if report.agent.as_deref() == Some(name) => return Ok(()),
            Ok(report) => {
                let other = report.agent.as_deref().unwrap_or("another agent");
                Error::failed("waiting for the new agent", format!("{other} still serves"))
            }
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(error);
        }
        sleep(ASK_AGAIN).await;
    }
}

/// Asks for a report about the active table.
async fn query(state: &Path) -> Result<Report> {
    let mut answer = Vec::new();
    let interrupted = |error: std::io::Error| Error::Interrupted {
        what: "querying the agent".into(),
        source: Some(Box::new(error)),
    };
    let ask = async {
        let mut stream = connect(state, Duration::ZERO).await?;
        // The agent answers an empty line with a report about the active table.
        stream.write_all(b"\n").await.map_err(interrupted)?;
        stream.shutdown().await.map_err(interrupted)?;
        stream.read_to_end(&mut answer).await.map_err(interrupted)
    };
    let asked = timeout(ANSWERS_WITHIN, ask).await;
    asked.map_err(|passed| interrupted(passed.into()))??;
    let first = answer.split(|byte| *byte == b'\n').next();
    serde_json::from_slice(first.unwrap_or_default()).map_err(|error| interrupted(error.into()))
}

async fn connect(state: &Path, within: Duration) -> Result<UnixStream> {
    let socket = state.join(CONTROL_SOCKET);
    let deadline = Instant::now() + within;
    loop {
        match UnixStream::connect(&socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= deadline => {
                return Err(Error::Unreachable {
                    hint: None,
                    what: format!("the agent at `{}`", socket.display()),
                    source: Some(Box::new(error)),
                });
            }
            Err(_) => sleep(ASK_AGAIN).await,
        }
    }
}
