//! The only place that writes to the terminal: data to standard output, talk to standard error.

use std::io::Write as _;

use serde::Serialize;

use crate::failure::Failure;

/// Writes what a command has to say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    json: bool,
}

impl Printer {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether programs read what is printed.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Data: text for people.
    pub(crate) fn data(self, text: &str) {
        // Who closed the pipe does not want to read on.
        drop(writeln!(std::io::stdout().lock(), "{text}"));
    }

    /// Data: a document for programs.
    pub(crate) fn document(self, document: &impl Serialize) {
        match serde_json::to_string_pretty(document) {
            Ok(text) => self.data(&text),
            Err(error) => self.talk(&format!("error: this cannot be shown as JSON: {error}")),
        }
    }

    /// Data: one line of JSON.
    pub(crate) fn record(self, record: &impl Serialize) {
        match serde_json::to_string(record) {
            Ok(text) => self.data(&text),
            Err(error) => self.talk(&format!("error: this cannot be shown as JSON: {error}")),
        }
    }

    /// Talk.
    pub(crate) fn talk(self, text: &str) {
        drop(writeln!(std::io::stderr().lock(), "{text}"));
    }

    /// Why a command failed, and what to do.
    pub(crate) fn failure(self, failure: &Failure) {
        let text = match failure {
            Failure::Failed(error) => error.chain(),
            other => other.to_string(),
        };
        if let Failure::Unsupported(keys) = failure {
            for key in keys {
                self.talk(&key.to_string());
            }
        }
        if let Failure::Services(failed) = failure {
            for instance in failed {
                self.talk(&format!("{}: {}", instance.instance, instance.why));
                for line in &instance.last_lines {
                    self.talk(&format!("    {line}"));
                }
            }
        }
        self.talk(&format!("error: {text}"));
        if let Some(hint) = failure.hint() {
            self.talk(&format!("hint: {hint}"));
        }
    }
}
