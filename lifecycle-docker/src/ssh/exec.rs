//! Runs commands on a host, each in its own SSH session. A command has ended when its session's
//! channel is closed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use lifecycle_core::host::HostOutput;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use tokio::time::timeout;

use super::pool::Lease;
use crate::error::SshError;

/// The output size at which a command is aborted.
const OUTPUT_LIMIT: usize = 16 << 20;
/// Time limit for the host to accept a piece of a command's input.
const STALL: Duration = Duration::from_mins(1);
/// The size of a piece of input. It is small enough that a slow connection does not count as
/// stalled.
const PIECE: usize = 256 << 10;
/// The exit code reported for a command that was ended by a signal.
const ENDED_BY_SIGNAL: u32 = 255;

/// Quotes `text` as one word for a POSIX shell.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Returns the command line that runs `script` in `sh`, whatever the account's login shell is.
pub(super) fn line(script: &str, sudo: bool) -> String {
    let shell = format!("sh -c {}", quote(script));
    if sudo {
        format!("sudo -n {shell}")
    } else {
        shell
    }
}

/// The reasons why a command could not be run.
#[derive(Debug)]
pub(super) enum RunError {
    /// Reading the input failed.
    Input(std::io::Error),
    /// The connection failed.
    Ssh(SshError),
}

impl From<SshError> for RunError {
    fn from(error: SshError) -> Self {
        Self::Ssh(error)
    }
}

impl From<russh::Error> for RunError {
    fn from(error: russh::Error) -> Self {
        Self::Ssh(error.into())
    }
}

/// A session for one command. Dropping it before the command has ended closes the session and
/// retires the connection, because the host may keep the session.
struct Session {
    write: Arc<ChannelWriteHalf<Msg>>,
    lease: Lease,
    ended: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.lease.retire();
        let write = Arc::clone(&self.write);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // Errors are ignored: if the connection is gone, the host closes the session
                // itself.
                let _ = write.signal(Sig::TERM).await;
                let _ = write.close().await;
            });
        }
    }
}

/// Runs a command with `input`. Also returns the number of input bytes that were sent.
pub(super) async fn run<I>(
    channel: Channel<Msg>,
    lease: Lease,
    line: String,
    input: I,
) -> Result<(HostOutput, u64), RunError>
where
    I: Stream<Item = std::io::Result<Bytes>> + Send,
{
    let (mut read, write) = channel.split();
    let mut session = Session {
        write: Arc::new(write),
        lease,
        ended: false,
    };
    session.write.exec(true, line).await?;
    let write = Arc::clone(&session.write);
    let mut sent = 0;
    let output = {
        let feed = feed(&write, input, &mut sent);
        let collect = collect(&mut read);
        tokio::pin!(feed, collect);
        let mut feeding = true;
        loop {
            tokio::select! {
                output = &mut collect => break output?,
                done = &mut feed, if feeding => {
                    feeding = false;
                    match done {
                        // Ignore the error: a command may exit before it has read all its input.
                        Ok(()) | Err(RunError::Ssh(SshError::Protocol(_))) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    };
    session.ended = true;
    Ok((output, sent))
}

async fn feed<I>(write: &ChannelWriteHalf<Msg>, input: I, sent: &mut u64) -> Result<(), RunError>
where
    I: Stream<Item = std::io::Result<Bytes>> + Send,
{
    tokio::pin!(input);
    while let Some(chunk) = input.next().await {
        let mut chunk = chunk.map_err(RunError::Input)?;
        while !chunk.is_empty() {
            let piece = chunk.split_to(PIECE.min(chunk.len()));
            *sent += piece.len() as u64;
            timeout(STALL, write.data_bytes(piece))
                .await
                .map_err(|_| SshError::TimedOut(STALL))??;
        }
    }
    write.eof().await?;
    Ok(())
}

async fn collect(read: &mut ChannelReadHalf) -> Result<HostOutput, RunError> {
    let mut stdout = Vec::new();
    let mut stderr = Vec::new();
    let mut code = None;
    // The exit status may arrive before the last output, so read until the channel closes.
    while let Some(message) = read.wait().await {
        match message {
            ChannelMsg::Data { data } => stdout.extend_from_slice(&data),
            ChannelMsg::ExtendedData { data, .. } => stderr.extend_from_slice(&data),
            ChannelMsg::ExitStatus { exit_status } => code = Some(exit_status),
            ChannelMsg::ExitSignal { .. } => code = Some(ENDED_BY_SIGNAL),
            ChannelMsg::Failure => return Err(SshError::CommandRefused.into()),
            _ => {}
        }
        if stdout.len() + stderr.len() > OUTPUT_LIMIT {
            return Err(SshError::TooMuchOutput(OUTPUT_LIMIT).into());
        }
    }
    let code = code.ok_or(SshError::EndedEarly)?;
    Ok(HostOutput {
        code,
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell_message(word: &str) -> String {
        let output = std::process::Command::new("sh")
            .args(["-c", &format!("printf %s {word}")])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn quoted_words_survive_a_shell() {
        for text in [
            "",
            "plain",
            "two words",
            "it's",
            "$HOME `id` $(id) \\ \" * ; & | > < \n #",
            "''",
            "-n",
        ] {
            assert_eq!(shell_message(&quote(text)), text);
        }
    }

    #[test]
    fn root_commands_run_in_a_shell_under_sudo() {
        assert_eq!(line("echo 'a'", true), r"sudo -n sh -c 'echo '\''a'\'''");
        assert_eq!(line("id", false), "sh -c 'id'");
    }
}
