//! How a command fails, and with which exit code.

use std::process::ExitCode;

use lifecycle_core::Error;
use lifecycle_core::bootstrap::ServiceFailure;
use lifecycle_core::platform::{Diagnostics, UnsupportedKey};
use thiserror::Error as ThisError;

/// Why a command ended without doing what it was asked.
#[derive(Debug, ThisError)]
pub(crate) enum Failure {
    /// Something failed.
    #[error(transparent)]
    Failed(#[from] Error),
    /// The user's files cannot be used.
    #[error("{0}")]
    Files(Diagnostics),
    /// The user's files hold keys that would change behaviour and have no effect.
    #[error("{} keys of the files change behaviour and have no effect here", .0.len())]
    Unsupported(Vec<UnsupportedKey>),
    /// Services did not come up.
    #[error("{} of the platform's instances did not come up", .0.len())]
    Services(Vec<ServiceFailure>),
    /// Nobody was there to confirm.
    #[error("this removes things, and there is no terminal to ask at")]
    Unconfirmed,
    /// The user said no.
    #[error("nothing was changed")]
    Refused,
    /// Ctrl-C.
    #[error("interrupted; the same command goes on from here")]
    Interrupted,
}

impl Failure {
    /// The exit code, as `--help` tells.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) | Self::Services(_) | Self::Refused => 1,
            Self::Files(_) | Self::Unsupported(_) | Self::Unconfirmed => 2,
            Self::Interrupted => 130,
        })
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Failed(error) => error.hint().map(str::to_owned),
            Self::Files(_) => Some("mend the files at the lines named; nothing was touched".into()),
            Self::Unsupported(_) => {
                Some("remove these keys, or go on without them with --accept-unsupported".into())
            }
            Self::Services(failed) => failed.first().map(|f| {
                let service = f.instance.rsplit_once('-').map_or("", |(name, _)| name);
                format!("`bootstrapper logs {service}` shows more; after a change, `up` goes on")
            }),
            Self::Unconfirmed => Some("say --yes".into()),
            Self::Refused | Self::Interrupted => None,
        }
    }
}
