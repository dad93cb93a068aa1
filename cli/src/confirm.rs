//! Asks the user: before something is removed, for a value, whether something is wanted.

use std::io::{BufRead as _, IsTerminal as _};

use crate::failure::Failure;
use crate::printer;

/// Goes on if the user says yes.
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

/// Whether the user wants that; an empty answer is a yes.
pub(crate) async fn wanted(question: &str) -> Result<bool, Failure> {
    let answer = ask(&format!("{question} [Y/n]")).await?;
    Ok(matches!(answer.as_str(), "" | "y" | "Y" | "yes"))
}

/// Asks for a value until there is one that can be used; the default for an empty answer.
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

/// The answer is read on a thread of its own, so that Ctrl-C is heard while it is waited for;
/// nobody waits for that thread.
async fn ask(question: &str) -> Result<String, Failure> {
    printer::prompt(question);
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
    // The end of the input is no answer.
    if answer.is_empty() {
        return Err(Failure::Refused);
    }
    Ok(answer.trim().to_owned())
}
