//! The only place that writes to the terminal: data to standard output, talk to standard error.

use std::io::Write as _;

use serde::Serialize;

use crate::failure::Failure;

/// Data: text for people.
pub(crate) fn data(text: &str) {
    // Who closed the pipe does not want to read on.
    drop(writeln!(std::io::stdout().lock(), "{text}"));
}

/// Data: a document for programs.
pub(crate) fn document(document: &impl Serialize) {
    match serde_json::to_string_pretty(document) {
        Ok(text) => data(&text),
        Err(error) => talk(&format!("error: this cannot be shown as JSON: {error}")),
    }
}

/// Data: one line of JSON.
pub(crate) fn record(record: &impl Serialize) {
    match serde_json::to_string(record) {
        Ok(text) => data(&text),
        Err(error) => talk(&format!("error: this cannot be shown as JSON: {error}")),
    }
}

/// Talk.
pub(crate) fn talk(text: &str) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// Why a command failed, and what to do.
pub(crate) fn failure(failure: &Failure) {
    let text = match failure {
        Failure::Failed(error) => error.chain(),
        other => other.to_string(),
    };
    if let Failure::Unsupported(keys) = failure {
        for key in keys {
            talk(&key.to_string());
        }
    }
    if let Failure::Services(failed) = failure {
        for instance in failed {
            talk(&format!("{}: {}", instance.instance, instance.why));
            for line in &instance.last_lines {
                talk(&format!("    {line}"));
            }
        }
    }
    talk(&format!("error: {text}"));
    if let Some(hint) = failure.hint() {
        talk(&format!("hint: {hint}"));
    }
}
