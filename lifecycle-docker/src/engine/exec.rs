//! Runs commands in a running container.

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults};
use futures_util::{StreamExt, stream};
use lifecycle_core::runtime::{ExecCommand, ExecOutput, ExecSession, TerminalSize};
use lifecycle_core::{Error, Result};

use super::{DockerEngine, QUICK};
use crate::error;

/// The largest number of bytes per read of a command's output.
const CHUNK: usize = 32 * 1024;

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
        if let Some(size) = command.terminal {
            self.resize(&id, size).await?;
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
        let end = stream::once(async move { engine.exit_code(&asked, &what).await });
        Ok(ExecSession {
            id,
            input: Box::new(input),
            output: pieces.chain(end).boxed(),
        })
    }

    /// Returns the exit code of a command whose output has ended.
    async fn exit_code(&self, id: &str, what: &str) -> Result<ExecOutput> {
        let inspect = self.docker.inspect_exec(id);
        let found = self.within(QUICK, what, inspect).await?;
        match found.exit_code {
            Some(code) => Ok(ExecOutput::Exit(code)),
            None => Err(Error::interrupted(
                what,
                Some("the connection ended before the command finished".into()),
            )),
        }
    }

    pub(super) async fn resize(&self, id: &str, size: TerminalSize) -> Result<()> {
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
            Err(error) => Err(error),
        }
    }
}
