//! A failure as `--json` writes it.

use lifecycle_core::bootstrap::{Outcome, ServiceFailure};
use lifecycle_core::platform::Diagnostic;
use schemars::JsonSchema;
use serde::Serialize;

use super::Failure;
use crate::documents::{BroughtUp, KeyWithoutEffect};

/// What is written; one of two forms.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Document {
    /// Nothing but the failure is told.
    Failed(Failed),
    /// What came up is told with it.
    NotAllUp(NotAllUp),
}

/// A command failed.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Failed {
    /// Why.
    error: Why,
}

/// `up` brought the platform up, but for some replicas.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NotAllUp {
    /// Why not all of it.
    error: Why,
    #[serde(flatten)]
    brought_up: BroughtUp,
}

/// Why a command failed, and what to do.
#[derive(Debug, Serialize, JsonSchema)]
struct Why {
    #[serde(flatten)]
    kind: Kind,
    /// What went wrong, with its causes.
    message: String,
    /// What to do about it.
    hint: String,
}

/// What kind of failure it is, with what that kind can tell.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "kind")]
enum Kind {
    /// The arguments cannot be understood.
    Arguments,
    /// There are no files, or they cannot be used.
    Files {
        /// What is wrong with them, where there are any.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        problems: Vec<Problem>,
    },
    /// Keys of the files change behaviour and have no effect here.
    Unsupported {
        /// Which ones.
        keys: Vec<KeyWithoutEffect>,
    },
    /// This machine does not have the platform's secrets.
    NoSecrets,
    /// Replicas did not come up.
    Services {
        /// Which ones.
        instances: Vec<NotUp>,
    },
    /// Nobody was there to confirm.
    Unconfirmed,
    /// The file that was to be written is there already.
    Exists,
    /// The user said no.
    Refused,
    /// It was interrupted; the same command goes on.
    Interrupted,
    /// Something else failed.
    Failed,
}

/// One thing that is wrong with a file.
#[derive(Debug, Serialize, JsonSchema)]
struct Problem {
    /// The file, relative to the project's directory where it lies there.
    file: String,
    /// The line, from 1; null where the whole file is meant.
    line: Option<usize>,
    /// The column, from 1, in characters.
    column: Option<usize>,
    /// The path of the key, for example `services.web.ports[0]`; may be empty.
    key: String,
    /// What is wrong.
    message: String,
    /// What to do about it.
    help: Option<String>,
}

/// A replica that did not come up.
#[derive(Debug, Serialize, JsonSchema)]
struct NotUp {
    /// `<service>-<replica>`.
    id: String,
    /// Why.
    why: String,
    /// Its last lines.
    last_lines: Vec<String>,
}

impl Document {
    /// The arguments cannot be understood.
    pub(crate) fn of_arguments(message: &str) -> Self {
        let error = Why {
            kind: Kind::Arguments,
            message: message.to_owned(),
            hint: "`bootstrapper --help` shows all arguments".into(),
        };
        Self::Failed(Failed { error })
    }

    /// What there is to say of a failure: nothing where the command's own output has said it.
    pub(crate) fn of(failure: &Failure) -> Option<Self> {
        let kind = match failure {
            Failure::Failed(_) => Kind::Failed,
            Failure::NoSecrets(_) => Kind::NoSecrets,
            Failure::NoFiles(_) => Kind::Files {
                problems: Vec::new(),
            },
            Failure::Files(diagnostics) => Kind::Files {
                problems: diagnostics.iter().map(Problem::from).collect(),
            },
            Failure::Unsupported(keys) => Kind::Unsupported {
                keys: keys.iter().map(KeyWithoutEffect::from).collect(),
            },
            Failure::Services(Outcome { failures, .. }) => Kind::Services {
                instances: failures.iter().map(NotUp::from).collect(),
            },
            Failure::Unconfirmed => Kind::Unconfirmed,
            Failure::Exists(_) => Kind::Exists,
            Failure::Refused => Kind::Refused,
            Failure::Interrupted => Kind::Interrupted,
            Failure::Unwell(_) | Failure::Told | Failure::CommandEnded(_) | Failure::Unread => {
                return None;
            }
        };
        let error = Why {
            kind,
            message: failure.message(),
            hint: failure.hint(),
        };
        Some(match failure {
            Failure::Services(outcome) => Self::NotAllUp(NotAllUp {
                error,
                brought_up: outcome.into(),
            }),
            _ => Self::Failed(Failed { error }),
        })
    }
}

impl From<&Diagnostic> for Problem {
    fn from(diagnostic: &Diagnostic) -> Self {
        Self {
            file: diagnostic.file.clone(),
            line: diagnostic.line,
            column: diagnostic.column,
            key: diagnostic.path.clone(),
            message: diagnostic.message.clone(),
            help: diagnostic.help.clone(),
        }
    }
}

impl From<&ServiceFailure> for NotUp {
    fn from(failure: &ServiceFailure) -> Self {
        Self {
            id: failure.instance.clone(),
            why: failure.why.clone(),
            last_lines: failure.last_lines.clone(),
        }
    }
}
