//! Asks before something is removed.

use std::io::{BufRead as _, IsTerminal as _};

use crate::failure::Failure;
use crate::printer;

/// Goes on if the user says yes.
pub(crate) fn confirm(yes: bool, question: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Unconfirmed);
    }
    printer::talk(&format!("{question} [y/N]"));
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| lifecycle_core::Error::io("reading the answer", error))?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Failure::Refused)
    }
}
