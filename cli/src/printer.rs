//! The only place that writes to the terminal: data to standard output, talk to standard error.

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use lifecycle_core::Error;
use serde::Serialize;

use crate::arguments::Colors;
use crate::failure::Failure;
use crate::failure::document::Document;
use crate::paint::{Tone, paint};

/// Data: text for people.
pub(crate) fn data(text: &str) -> Result<(), Failure> {
    let mut output = anstream::stdout().lock();
    let written = writeln!(output, "{text}").and_then(|()| output.flush());
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::Unread,
        _ => Error::io("writing to standard output", error).into(),
    })
}

/// Data as it comes, whatever it is.
pub(crate) fn raw(bytes: &[u8], stderr: bool) -> Result<(), Failure> {
    let written = if stderr {
        let mut output = std::io::stderr().lock();
        output.write_all(bytes).and_then(|()| output.flush())
    } else {
        let mut output = std::io::stdout().lock();
        output.write_all(bytes).and_then(|()| output.flush())
    };
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::Unread,
        _ => Error::io("writing the command's output", error).into(),
    })
}

/// Data: a document for programs.
pub(crate) fn document(document: &impl Serialize) -> Result<(), Failure> {
    data(&serde_json::to_string_pretty(document).map_err(|error| no_json(&error))?)
}

/// Data: one line of JSON.
pub(crate) fn record(record: &impl Serialize) -> Result<(), Failure> {
    data(&serde_json::to_string(record).map_err(|error| no_json(&error))?)
}

fn no_json(error: &serde_json::Error) -> Failure {
    Error::failed("writing JSON", error.to_string()).into()
}

/// Talk.
pub(crate) fn talk(text: &str) {
    // Who closed the pipe does not want to read on.
    drop(writeln!(anstream::stderr().lock(), "{text}"));
}

/// A question; the answer stands behind it.
pub(crate) fn prompt(question: &str) {
    let mut output = anstream::stderr().lock();
    // In one piece: the answer may be there before it.
    let question = format!("{question} ");
    drop(
        output
            .write_all(question.as_bytes())
            .and_then(|()| output.flush()),
    );
}

/// Something that is not as it should be, and does not end the command.
pub(crate) fn warning(text: &str) {
    talk(&format!("{} {text}", paint(Tone::Caution, "warning:")));
}

/// When colours are used. Without a word: on a terminal, unless `NO_COLOR` is set.
pub(crate) fn choose_colors(colors: Colors) {
    match colors {
        Colors::Auto => {}
        Colors::Always => anstream::ColorChoice::Always.write_global(),
        Colors::Never => anstream::ColorChoice::Never.write_global(),
    }
}

/// How wide standard output is, where it is a terminal.
pub(crate) fn width() -> Option<usize> {
    let stdout = std::io::stdout();
    let (width, _) = terminal_size::terminal_size_of(stdout)?;
    Some(width.0.into())
}

/// Why a command failed, and what to do: for people, and with `json` for programs too.
pub(crate) fn failure(failure: &Failure, json: bool) {
    for line in failure.details() {
        talk(&line);
    }
    talk(&format!(
        "{} {}",
        paint(Tone::Bad, "error:"),
        failure.message()
    ));
    talk(&format!(
        "{} {}",
        paint(Tone::Accent, "hint:"),
        failure.hint()
    ));
    if json && let Some(document) = Document::of(failure) {
        // Standard output is where this would be told.
        drop(record(&document));
    }
}

/// What is wrong with the arguments; or the help that was asked for.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    drop(error.print());
    // Clap tells these two apart: help goes to standard output.
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|argument| argument == "--json") {
        drop(record(&Document::of_arguments(error.to_string().trim())));
    }
    ExitCode::from(2)
}
