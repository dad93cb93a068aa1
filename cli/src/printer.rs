//! The only module that writes to the terminal: data to standard output, messages to standard
//! error.

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use lifecycle_core::Error;
use serde::Serialize;

use crate::arguments::Colors;
use crate::failure::Failure;
use crate::failure::document::Document;
use crate::paint::{Tone, paint};

/// Prints data as text.
pub(crate) fn data(text: &str) -> Result<(), Failure> {
    let mut output = anstream::stdout().lock();
    let written = writeln!(output, "{text}").and_then(|()| output.flush());
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Error::io("writing to standard output", error).into(),
    })
}

/// Prints bytes unchanged.
pub(crate) fn raw(bytes: &[u8], stderr: bool) -> Result<(), Failure> {
    let written = if stderr {
        let mut output = std::io::stderr().lock();
        output.write_all(bytes).and_then(|()| output.flush())
    } else {
        let mut output = std::io::stdout().lock();
        output.write_all(bytes).and_then(|()| output.flush())
    };
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Error::io("writing the command's output", error).into(),
    })
}

/// Prints data as a JSON document.
pub(crate) fn document(document: &impl Serialize) -> Result<(), Failure> {
    data(&serde_json::to_string_pretty(document).map_err(|error| no_json(&error))?)
}

/// Prints data as one line of JSON.
pub(crate) fn record(record: &impl Serialize) -> Result<(), Failure> {
    data(&serde_json::to_string(record).map_err(|error| no_json(&error))?)
}

fn no_json(error: &serde_json::Error) -> Failure {
    Error::failed("writing JSON", error.to_string()).into()
}

/// Prints a message.
pub(crate) fn message(text: &str) {
    // If the reader closed the pipe, there is nothing left to do.
    drop(writeln!(anstream::stderr().lock(), "{text}"));
}

/// Prints a question; the cursor stays on the same line.
pub(crate) fn prompt(question: &str) {
    let mut output = anstream::stderr().lock();
    // Write the question and the space together, so that an immediate answer cannot appear between
    // them.
    let question = format!("{question} ");
    drop(
        output
            .write_all(question.as_bytes())
            .and_then(|()| output.flush()),
    );
}

/// Prints a warning; the command continues.
pub(crate) fn warning(text: &str) {
    message(&format!("{} {text}", paint(Tone::Caution, "warning:")));
}

/// Prints what has happened, apart from the command's data.
pub(crate) fn note(text: &str) {
    message(&format!("{} {text}", paint(Tone::Accent, "note:")));
}

/// The maximum number of warnings that are printed.
const WARNINGS: usize = 50;

/// Prints the first warnings and the number of the others.
pub(crate) fn warnings<W: std::fmt::Display>(warnings: &[W]) {
    for text in warnings.iter().take(WARNINGS) {
        warning(&text.to_string());
    }
    match warnings.len().saturating_sub(WARNINGS) {
        0 => {}
        1 => warning("and 1 more warning"),
        more => warning(&format!("and {more} more warnings")),
    }
}

/// Chooses when to use colors. By default, they are used on a terminal, unless `NO_COLOR` is set.
pub(crate) fn choose_colors(colors: Colors) {
    match colors {
        Colors::Auto => {}
        Colors::Always => anstream::ColorChoice::Always.write_global(),
        Colors::Never => anstream::ColorChoice::Never.write_global(),
    }
}

/// Returns the width of standard output, if it is a terminal.
pub(crate) fn width() -> Option<usize> {
    let stdout = std::io::stdout();
    let (width, _) = terminal_size::terminal_size_of(stdout)?;
    Some(width.0.into())
}

/// Prints an error and its hint; with `json`, also prints the error's document to standard output.
pub(crate) fn failure(failure: &Failure, json: bool) {
    for line in failure.details() {
        message(&line);
    }
    message(&format!(
        "{} {}",
        paint(Tone::Bad, "error:"),
        failure.message()
    ));
    message(&format!(
        "{} {}",
        paint(Tone::Accent, "hint:"),
        failure.hint()
    ));
    if json && let Some(document) = Document::of(failure) {
        // If writing to standard output fails, there is no other place to report that.
        drop(record(&document));
    }
}

/// Prints the error in the arguments, or the requested help.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    drop(error.print());
    // Clap prints errors to standard error, and requested help to standard output.
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|argument| argument == "--json") {
        drop(record(&Document::of_arguments(error.to_string().trim())));
    }
    ExitCode::from(2)
}
