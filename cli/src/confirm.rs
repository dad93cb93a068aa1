//! Asks questions on the terminal: for a confirmation, for a value, or for yes or no.

use std::io::{BufRead as _, IsTerminal as _};

use crate::failure::Failure;
use crate::printer;

/// Asks for confirmation unless `yes` is set. Returns `Ok` if the user confirms.
pub(crate) async fn confirm(yes: bool, question: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Unconfirmed);
    }
    if matches!(
        ask(&format!("{question} [y/N]")).await?.as_str(),
        "y" | "Y" | "yes"
    ) {
        Ok(())
    } else {
        Err(Failure::Refused)
    }
}

/// Asks a question; an empty answer means yes.
pub(crate) async fn yes_by_default(question: &str) -> Result<bool, Failure> {
    let answer = ask(&format!("{question} [Y/n]")).await?;
    Ok(matches!(answer.as_str(), "" | "y" | "Y" | "yes"))
}

/// Asks for a value until the answer is valid; an empty answer selects the default.
pub(crate) async fn value<T>(
    question: &str,
    default: T,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<T, Failure>
where
    T: std::fmt::Display,
{
    loop {
        let answer = ask(&format!("{question} [{default}]")).await?;
        if answer.is_empty() {
            return Ok(default);
        }
        match read(&answer) {
            Ok(value) => return Ok(value),
            Err(why) => printer::warning(&why),
        }
    }
}

/// Reads the answer on a separate thread, so that Ctrl-C works during the wait.
async fn ask(question: &str) -> Result<String, Failure> {
    printer::prompt(question);
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        // After an interrupt, there is no receiver, so ignore the error.
        drop(sender.send(read.map(|_| answer)));
    });
    let answer = receiver
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::UnexpectedEof.into()))
        .map_err(|error| lifecycle_core::Error::io("reading the answer", error))?;
    // An empty string, without a line break, means the end of the input, which counts as a refusal.
    if answer.is_empty() {
        return Err(Failure::Refused);
    }
    Ok(answer.trim().to_owned())
}
