//! `exec`: runs a command in a container, connected to this terminal.

use futures_util::StreamExt as _;
use lifecycle_core::Error;
use lifecycle_core::manager::Conversation;
use lifecycle_core::runtime::{ExecCommand, ExecOutput, TerminalSize};

use crate::arguments::{Arguments, Exec};
use crate::failure::Failure;
use crate::progress::ProgressLines;
use crate::{commands, printer, terminal};

pub(crate) async fn run(arguments: &Arguments, options: &Exec) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    let client = bootstrapper.client(identity.id).await?;
    let has_terminal = terminal::is_available() && !options.no_tty;
    let command = ExecCommand {
        command: options.command.clone(),
        user: options.user.clone(),
        working_dir: options.workdir.clone(),
        terminal: has_terminal.then(|| terminal::size().unwrap_or(TerminalSize::DEFAULT)),
    };
    let name = match options.index {
        Some(index) => format!("{}-{index}", options.name),
        None => options.name.clone(),
    };
    let Conversation { input, mut output } = bootstrapper
        .wait("the start of the command", commands::ANSWERED_WITHIN)
        .until(client.exec(&name, command))
        .await?;
    let raw = has_terminal.then(terminal::Raw::new).transpose()?;
    terminal::read(input.clone());
    let output_ended = async {
        while let Some(piece) = output.next().await {
            match piece.map_err(cut)? {
                ExecOutput::Stdout(bytes) => printer::raw(&bytes, false)?,
                ExecOutput::Stderr(bytes) => printer::raw(&bytes, true)?,
                ExecOutput::Exit(code) => return Ok::<i64, Failure>(code),
            }
        }
        Err(Error::failed("running the command", "the manager returned no exit code").into())
    };
    let code = if has_terminal {
        tokio::select! {
            code = output_ended => code,
            failed = terminal::resizes(input) => Err(failed.err().map_or(Failure::Interrupted, Failure::from)),
        }
    } else {
        output_ended.await
    };
    // Restore the terminal before printing anything.
    drop(raw);
    match code? {
        0 => Ok(()),
        code => Err(Failure::CommandEnded(u8::try_from(code).unwrap_or(u8::MAX))),
    }
}

/// Converts an error after the start of the command.
fn cut(error: Error) -> Failure {
    match error {
        Error::Interrupted { .. } | Error::Unreachable { .. } => Failure::CommandCut(error),
        error => error.into(),
    }
}
