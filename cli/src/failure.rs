//! How a command fails, and with which exit code.

pub(crate) mod document;

use std::path::PathBuf;
use std::process::ExitCode;

use lifecycle_core::bootstrap::{ExitStatus, Outcome, ServiceFailure};
use lifecycle_core::platform::{Diagnostics, UnsupportedKey};
use lifecycle_core::{Error, Retry};
use thiserror::Error as ThisError;

/// Why a command ended without doing what it was asked.
#[derive(Debug, ThisError)]
pub(crate) enum Failure {
    /// Something failed.
    #[error(transparent)]
    Failed(#[from] Error),
    /// There are no files to read.
    #[error(transparent)]
    NoFiles(Error),
    /// The platform exists, and this machine does not have its secrets.
    #[error(transparent)]
    NoSecrets(Error),
    /// The user's files cannot be used.
    #[error("{0}")]
    Files(Diagnostics),
    /// The user's files hold keys that would change behaviour and have no effect.
    #[error("{} keys of the files change behaviour and have no effect here", .0.len())]
    Unsupported(Vec<UnsupportedKey>),
    /// Services did not come up.
    #[error("{} of the platform's instances did not come up", .0.failures.len())]
    Services(Outcome),
    /// Nobody was there to confirm.
    #[error("this removes things, and there is no terminal to ask at")]
    Unconfirmed,
    /// The file that was to be written is there, and nobody said that it may be overwritten.
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    /// Something is wrong, and was told.
    #[error("{0} of the things that were looked at are wrong")]
    Unwell(usize),
    /// The document on standard output says what.
    #[error("something is wrong")]
    Told,
    /// The user said no.
    #[error("nothing was changed")]
    Refused,
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// A command in a container ended with this code, which is passed on.
    #[error("the command ended with exit code {0}")]
    CommandEnded(u8),
    /// Nobody reads the output any more. No failure of the command's.
    #[error("standard output was closed")]
    Unread,
}

impl Failure {
    /// The exit code, as `--help` tells.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Unread => ExitStatus::Done.code(),
            Self::Failed(_) | Self::Services(_) | Self::Refused | Self::Unwell(_) | Self::Told => {
                ExitStatus::Failed.code()
            }
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

    /// What went wrong, with its causes.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Failed(error) | Self::NoFiles(error) | Self::NoSecrets(error) => error.chain(),
            other => other.to_string(),
        }
    }

    /// Lines that come before the message.
    pub(crate) fn details(&self) -> Vec<String> {
        match self {
            Self::Unsupported(keys) => keys.iter().map(ToString::to_string).collect(),
            Self::Services(outcome) => outcome.failures.iter().flat_map(last_words).collect(),
            _ => Vec::new(),
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Failed(error) | Self::NoSecrets(error) => {
                error.hint().map_or_else(|| general(error), str::to_owned)
            }
            Self::NoFiles(_) => {
                "write a `compose.yaml`, or name the file with --file, or its directory with \
                 --project-dir"
                    .into()
            }
            Self::Files(_) => "correct the files at the lines named; nothing was touched".into(),
            Self::Unsupported(_) => {
                "remove these keys, or go on without them with --accept-unsupported".into()
            }
            Self::Services(outcome) => {
                let failed = outcome.failures.first().map_or("", |f| f.instance.as_str());
                let service = failed.rsplit_once('-').map_or(failed, |(name, _)| name);
                format!("`bootstrapper logs {service}` shows more; after a change, `up` goes on")
            }
            Self::Unconfirmed => "say --yes".into(),
            Self::Exists(_) => "edit it, or overwrite it with --force".into(),
            Self::Unwell(_) | Self::Told => "each says above what to do about it".into(),
            Self::Refused => "run it again when you are sure, or with --yes".into(),
            Self::Interrupted => "what runs already keeps running, and a manager that was started \
                                  goes on by itself; the same command goes on from here"
                .into(),
            Self::Unread | Self::CommandEnded(_) => "the same command goes on from here".into(),
        }
    }
}

fn last_words(failed: &ServiceFailure) -> impl Iterator<Item = String> {
    let head = format!("{}: {}", failed.instance, failed.why);
    let lines = failed.last_lines.iter().map(|line| format!("    {line}"));
    std::iter::once(head).chain(lines)
}

/// For errors that know no better.
fn general(error: &Error) -> String {
    let what = match error.retry() {
        Retry::After(_) => "this may pass: the same command goes on from here",
        Retry::Replan | Retry::Never => "once that is fixed, the same command continues from here",
    };
    format!("{what}; LIFECYCLE_LOG=debug shows more")
}
