//! The terminal that this program runs on, handed over to a command elsewhere.

use std::io::{IsTerminal as _, Read as _};

use bytes::Bytes;
use lifecycle_core::manager::CommandInput;
use lifecycle_core::runtime::TerminalSize;
use lifecycle_core::{Error, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// How much is read at a time.
const CHUNK: usize = 16 * 1024;

/// Whether this program has a terminal for both directions.
pub(crate) fn is_here() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// The terminal's size.
pub(crate) fn size() -> Option<TerminalSize> {
    let (width, height) = terminal_size::terminal_size()?;
    Some(TerminalSize {
        columns: width.0,
        rows: height.0,
    })
}

/// Every key goes through as it is pressed, as long as this lives.
#[derive(Debug)]
pub(crate) struct Raw(Termios);

impl Raw {
    pub(crate) fn new() -> Result<Self> {
        let failed = |error: rustix::io::Errno| Error::io("taking the terminal over", error.into());
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &raw).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.0);
    }
}

/// Gives the command what is written here, on a thread of its own that nobody waits for.
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

/// Tells the command whenever the terminal has another size. Runs until it is dropped.
pub(crate) async fn resizes(input: mpsc::Sender<CommandInput>) -> Result<()> {
    let mut changes = signal(SignalKind::window_change())
        .map_err(|error| Error::io("waiting for the terminal's size", error))?;
    while changes.recv().await.is_some() {
        if let Some(size) = size()
            && input.send(CommandInput::Resize(size)).await.is_err()
        {
            break;
        }
    }
    std::future::pending().await
}
