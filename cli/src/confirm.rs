//! Asks before something is removed.

use std::io::{BufRead as _, IsTerminal as _};

use crate::failure::Failure;
use crate::printer;

/// Goes on if the user says yes. The answer is read on a thread of its own, so that Ctrl-C is
/// heard while it is waited for; nobody waits for that thread.
pub(crate) async fn confirm(yes: bool, question: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Unconfirmed);
    }
    printer::talk(&format!("{question} [y/N]"));
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        // Who was interrupted wants no answer any more.
        drop(sender.send(read.map(|_| answer)));
    });
    let answer = receiver
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::UnexpectedEof.into()))
        .map_err(|error| lifecycle_core::Error::io("reading the answer", error))?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Failure::Refused)
    }
}
