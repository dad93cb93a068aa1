//! The failures of commands, with their messages, hints, and exit codes.

pub(crate) mod document;

use std::path::PathBuf;
use std::process::ExitCode;

use lifecycle_core::bootstrap::{ExitStatus, Outcome, ServiceFailure};
use lifecycle_core::platform::{Diagnostics, UnsupportedKey};
use lifecycle_core::{Error, Retry};
use thiserror::Error as ThisError;

/// The number of unsupported keys that are listed.
pub(crate) const UNSUPPORTED_SHOWN: usize = 50;

/// Why a command did not complete.
#[derive(Debug, ThisError)]
pub(crate) enum Failure {
    #[error(transparent)]
    Failed(#[from] Error),
    #[error(transparent)]
    NoFiles(Error),
    /// The platform exists, but this machine does not have its secrets.
    #[error(transparent)]
    NoSecrets(Error),
    /// The user's files are invalid.
    #[error("{0}")]
    Files(Diagnostics),
    /// The Compose files contain unsupported keys that affect how services behave.
    #[error(
        "the Compose files contain {} how services behave",
        counted(.0.len(), "unsupported key that affects", "unsupported keys that affect")
    )]
    Unsupported(Vec<UnsupportedKey>),
    /// Some instances do not run as declared.
    #[error(
        "{} as declared",
        counted(
            .0.failures.len(),
            "instance of the platform does not run",
            "instances of the platform do not run"
        )
    )]
    Services(Outcome),
    /// Confirmation is needed, but there is no terminal for the question.
    #[error("this command needs confirmation, but standard input is not a terminal")]
    Unconfirmed,
    /// The file to write exists, and `--force` is not set.
    #[error("{} already exists", .0.display())]
    Exists(PathBuf),
    /// `doctor` has found and printed this many problems.
    #[error("{} failed", counted(*.0, "check", "checks"))]
    ChecksFailed(usize),
    /// The JSON document on standard output already reports the failure.
    #[error("the command failed")]
    AlreadyReported,
    /// The user did not confirm.
    #[error("not confirmed; nothing was changed")]
    Refused,
    /// Interrupted by Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// A command in a container exited with this code; this process exits with the same code.
    #[error("the command ended with exit code {0}")]
    CommandEnded(u8),
    /// The connection to a running command in a container ended before the command.
    #[error(transparent)]
    CommandCut(Error),
    /// The reader closed standard output, which is not an error.
    #[error("standard output was closed")]
    OutputClosed,
}

impl Failure {
    /// Returns the exit code, as documented in `--help`.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::OutputClosed => ExitStatus::Done.code(),
            Self::Failed(_)
            | Self::CommandCut(_)
            | Self::Services(_)
            | Self::Refused
            | Self::ChecksFailed(_)
            | Self::AlreadyReported => ExitStatus::Failed.code(),
            Self::NoFiles(_)
            | Self::NoSecrets(_)
            | Self::Files(_)
            | Self::Unsupported(_)
            | Self::Unconfirmed
            | Self::Exists(_) => ExitStatus::Refused.code(),
            Self::Interrupted => ExitStatus::Interrupted.code(),
            Self::CommandEnded(code) => *code,
        })
    }

    /// Returns the error message, with its causes.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Failed(error)
            | Self::NoFiles(error)
            | Self::NoSecrets(error)
            | Self::CommandCut(error) => error.chain(),
            other => other.to_string(),
        }
    }

    /// Returns the lines to print before the message.
    pub(crate) fn details(&self) -> Vec<String> {
        match self {
            Self::Unsupported(keys) => {
                let shown = keys.iter().take(UNSUPPORTED_SHOWN);
                let mut lines: Vec<String> = shown.map(ToString::to_string).collect();
                match keys.len().saturating_sub(UNSUPPORTED_SHOWN) {
                    0 => {}
                    1 => lines.push("1 more key has no effect".to_owned()),
                    more => lines.push(format!("{more} more keys have no effect")),
                }
                lines
            }
            Self::Services(outcome) => outcome.failures.iter().flat_map(last_words).collect(),
            _ => Vec::new(),
        }
    }

    /// Returns the hint: how to fix the failure.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Failed(error) | Self::NoSecrets(error) => {
                error.hint().map_or_else(|| general(error), str::to_owned)
            }
            Self::NoFiles(_) => {
                "create a `compose.yaml`, or specify the file with --file or its directory with \
                 --project-dir"
                    .into()
            }
            Self::Files(_) => "fix the files at the lines above; nothing was changed".into(),
            Self::Unsupported(_) => {
                "remove these keys, or ignore them with --accept-unsupported".into()
            }
            Self::Services(outcome) => {
                let failed = outcome.first_cause().map_or("", |f| f.instance.as_str());
                let service = failed.rsplit_once('-').map_or(failed, |(name, _)| name);
                format!(
                    "find the cause with `bootstrapper logs {service}` and fix it, then run \
                         `bootstrapper up` again"
                )
            }
            Self::Unconfirmed => "confirm with --yes".into(),
            Self::Exists(_) => "edit the file, or overwrite it with --force".into(),
            Self::ChecksFailed(_) | Self::AlreadyReported => {
                "see the hint of each failed check above".into()
            }
            Self::Refused => "run the command again and confirm, or use --yes".into(),
            Self::Interrupted => "run the same command again to continue; until then, running \
                                  services and a started manager keep running"
                .into(),
            Self::CommandCut(_) => {
                "the command may have done a part of its work, so check that before you run it \
                 again; `bootstrapper status` shows whether the manager responds"
                    .into()
            }
            Self::OutputClosed | Self::CommandEnded(_) => "run the same command again".into(),
        }
    }
}

/// Returns a number with its noun in the singular or in the plural.
fn counted(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn last_words(failed: &ServiceFailure) -> impl Iterator<Item = String> {
    let head = format!("{}: {}", failed.instance, failed.why);
    let lines = failed.last_lines.iter().map(|line| format!("    {line}"));
    std::iter::once(head).chain(lines)
}

/// Returns the hint for an error that has no hint of its own.
fn general(error: &Error) -> String {
    let what = match error.retry() {
        Retry::After(_) => "this may be temporary: run the same command again",
        Retry::Replan | Retry::Never => "fix the cause, then run the same command again",
    };
    format!("{what}; set LIFECYCLE_LOG=debug to see details")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_right_form_of_their_noun() {
        let message = |count| Failure::ChecksFailed(count).to_string();
        assert_eq!(
            (message(1), message(2)),
            ("1 check failed".into(), "2 checks failed".into())
        );
        let failure = ServiceFailure {
            instance: "web-1".into(),
            why: "x".into(),
            waits_for: None,
            last_lines: Vec::new(),
        };
        let message = |failures: Vec<ServiceFailure>| {
            Failure::Services(Outcome {
                failures,
                ..Outcome::default()
            })
            .to_string()
        };
        let one = "1 instance of the platform does not run as declared";
        assert_eq!(message(vec![failure.clone()]), one);
        let two = "2 instances of the platform do not run as declared";
        assert_eq!(message(vec![failure.clone(), failure]), two);
    }
}
