//! Runs commands in a running container.

use std::time::Duration;

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::models::ExecInspectResponse;
use futures_util::{StreamExt, stream};
use lifecycle_core::runtime::{ExecCommand, ExecOutput, ExecSession, TerminalSize};
use lifecycle_core::{Error, Result};

use super::{DockerEngine, QUICK};
use crate::error;

/// The largest number of bytes per read of a command's output.
const CHUNK: usize = 32 * 1024;

/// The first and the longest pause between two queries of a command's exit code.
const FIRST_POLL: Duration = Duration::from_millis(20);
const LAST_POLL: Duration = Duration::from_secs(1);

/// How long the engine may take to record the exit code after a terminal was closed.
const TERMINAL_ENDS_WITHIN: Duration = Duration::from_secs(10);

/// How long the engine may take to start an accepted command.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// Time limit for ending a command's processes, which get some seconds before they are killed.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

impl DockerEngine {
    pub(super) async fn run(&self, container: &str, command: &ExecCommand) -> Result<ExecSession> {
        self.existing(container).await?;
        let what = format!("running a command in container {container}");
        let create = self.docker.create_exec(
            container,
            CreateExecOptions::<String> {
                attach_stdin: Some(true),
                attach_stdout: Some(true),
                attach_stderr: Some(true),
                tty: Some(command.terminal.is_some()),
                cmd: Some(command.command.clone()),
                user: command.user.clone(),
                working_dir: command.working_dir.clone(),
                ..CreateExecOptions::default()
            },
        );
        let id = self.within(QUICK, &what, create).await?.id;
        // Use a separate connection: after `start_exec`, it carries the command's input and output.
        let start = self.streams.start_exec(
            &id,
            Some(StartExecOptions {
                detach: false,
                tty: command.terminal.is_some(),
                output_capacity: Some(CHUNK),
            }),
        );
        let StartExecResults::Attached { output, input } = self.within(QUICK, &what, start).await?
        else {
            return Err(Error::failed(
                what,
                "the engine returned no connection for the command",
            ));
        };
        // A command that has ended cannot be resized, and must still return its exit code.
        if let Some(size) = command.terminal
            && let Err(error) = self.resize(&id, size).await
        {
            tracing::debug!(error = %error.chain(), "cannot set the size of a command's terminal");
        }
        let pieces = {
            let what = what.clone();
            output.map(move |piece| match piece {
                Ok(LogOutput::StdErr { message }) => Ok(ExecOutput::Stderr(message)),
                Ok(
                    LogOutput::StdOut { message }
                    | LogOutput::Console { message }
                    | LogOutput::StdIn { message },
                ) => Ok(ExecOutput::Stdout(message)),
                Err(error) => Err(error::engine(&what, error)),
            })
        };
        let engine = self.clone();
        let asked = id.clone();
        // A terminal is closed only when the command has ended, or with the connection.
        let limit = command.terminal.map(|_| TERMINAL_ENDS_WITHIN);
        let end = stream::once(async move { engine.exit_code(&asked, &what, limit).await });
        Ok(ExecSession {
            id,
            input: Box::new(input),
            output: pieces.chain(end).boxed(),
        })
    }

    /// Returns the exit code of a command whose output has ended. The command may run for some time
    /// without output, and the engine records its exit code a moment after the output's end. If it does
    /// not end within `limit`, the connection was lost.
    async fn exit_code(&self, id: &str, what: &str, limit: Option<Duration>) -> Result<ExecOutput> {
        let began = tokio::time::Instant::now();
        let mut pause = FIRST_POLL;
        loop {
            let found = self.inspected(id, what).await?;
            if let Some(code) = found.exit_code
                && found.running != Some(true)
            {
                return Ok(ExecOutput::Exit(code));
            }
            let container = found.container_id.unwrap_or_default();
            let runs = self.observe(&container).await?;
            if !runs.is_some_and(|container| container.state.is_running()) {
                // The command may have ended together with its container.
                let last = self.inspected(id, what).await?;
                return match last.exit_code {
                    Some(code) if last.running != Some(true) => Ok(ExecOutput::Exit(code)),
                    _ => Err(Error::interrupted(
                        what,
                        Some("the container ended before the command finished".into()),
                    )),
                };
            }
            if limit.is_some_and(|limit| began.elapsed() >= limit) {
                let why = "the connection to the command was lost";
                return Err(Error::interrupted(what, Some(why.into())));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_POLL);
        }
    }

    async fn inspected(&self, id: &str, what: &str) -> Result<ExecInspectResponse> {
        let inspect = self.docker.inspect_exec(id);
        self.within(QUICK, what, inspect).await
    }

    pub(super) async fn resize(&self, id: &str, size: TerminalSize) -> Result<()> {
        let size = size.or_default();
        let resize = self.docker.resize_exec(
            id,
            ResizeExecOptions {
                height: size.rows,
                width: size.columns,
            },
        );
        let what = "setting a command's terminal size";
        match self.within(QUICK, what, resize).await {
            // A command that has exited has no terminal.
            Ok(()) | Err(Error::NotFound { .. } | Error::Conflict { .. }) => Ok(()),
            // Engines also report the resize of an exited command as their own failure.
            Err(error) => match self.inspected(id, what).await {
                Ok(found) if found.running != Some(true) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Ends the processes of a command's session. The engine has no call for this, so signal the
    /// processes on its machine.
    pub(super) async fn end(&self, id: &str) -> Result<()> {
        let what = "ending a command in a container";
        let began = tokio::time::Instant::now();
        let (pid, container) = loop {
            let found = match self.inspected(id, what).await {
                Ok(found) => found,
                Err(Error::NotFound { .. }) => return Ok(()),
                Err(error) => return Err(error),
            };
            // The engine reports the process a moment after it has accepted the command.
            match (found.pid.filter(|pid| *pid > 0), found.container_id) {
                (Some(pid), Some(container)) => break (pid, container),
                _ if found.exit_code.is_some() || began.elapsed() >= STARTS_WITHIN => return Ok(()),
                _ => tokio::time::sleep(FIRST_POLL).await,
            }
        };
        let script = ending(pid, &container);
        let output = self.route.run_on_host(&script, ENDS_WITHIN).await?;
        output.success(what).map(drop)
    }
}

/// Returns the script that ends all processes of a session in a container. The engine starts each
/// command as the leader of a session. A process belongs to the container if the name of its
/// control group contains the container's id; this excludes processes that got a used number.
fn ending(session: i64, container: &str) -> String {
    format!(
        "signal() {{
    left=
    for stat in /proc/[0-9]*/stat; do
        read -r line 2>/dev/null < \"$stat\" || continue
        set -- \"$1\" ${{line##*) }}
        [ \"$5\" = {session} ] && [ \"$2\" != Z ] || continue
        process=${{stat%/stat}}
        grep -q {container} \"$process/cgroup\" 2>/dev/null || continue
        left=1
        for name in $1; do kill -\"$name\" \"${{process#/proc/}}\" 2>/dev/null; done
    done
    [ -n \"$left\" ]
}}
signal 'HUP TERM CONT' || exit 0
for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    sleep 0.2
    signal '' || exit 0
done
signal KILL || true"
    )
}
