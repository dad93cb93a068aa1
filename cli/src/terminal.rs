//! Connects this program's terminal to a command in a container.

use std::io::{IsTerminal as _, Read as _};

use bytes::Bytes;
use lifecycle_core::manager::CommandInput;
use lifecycle_core::runtime::TerminalSize;
use lifecycle_core::{Error, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// The largest number of bytes per read.
const CHUNK: usize = 16 * 1024;

/// Returns whether standard input and standard output are both terminals.
pub(crate) fn is_available() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Returns the size of the terminal; `None` if the terminal does not know its size.
pub(crate) fn size() -> Option<TerminalSize> {
    let (width, height) = terminal_size::terminal_size()?;
    Some(TerminalSize {
        columns: width.0,
        rows: height.0,
    })
}

/// Switches the terminal to raw mode, which passes on each key as soon as it is pressed. Dropping
/// this value restores the previous mode.
#[derive(Debug)]
pub(crate) struct Raw(Termios);

impl Raw {
    pub(crate) fn new() -> Result<Self> {
        let failed = |error: rustix::io::Errno| {
            Error::io("switching the terminal to raw mode", error.into())
        };
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &raw).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // If the terminal is gone, there is nothing to restore.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.0);
    }
}

/// Forwards standard input to the command, on a separate thread that is never joined.
pub(crate) fn read(input: mpsc::Sender<CommandInput>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        let mut stdin = std::io::stdin().lock();
        loop {
            let piece = match stdin.read(&mut buffer) {
                Ok(0) | Err(_) => CommandInput::End,
                Ok(length) => CommandInput::Data(Bytes::copy_from_slice(&buffer[..length])),
            };
            let is_end = piece == CommandInput::End;
            if input.blocking_send(piece).is_err() || is_end {
                return;
            }
        }
    });
}

/// Forwards changes of the terminal's size to the command. Runs until dropped.
pub(crate) async fn resizes(input: mpsc::Sender<CommandInput>) -> Result<()> {
    let mut changes = signal(SignalKind::window_change())
        .map_err(|error| Error::io("listening for changes of the terminal's size", error))?;
    while changes.recv().await.is_some() {
        if let Some(size) = size()
            && input.send(CommandInput::Resize(size)).await.is_err()
        {
            break;
        }
    }
    std::future::pending().await
}
