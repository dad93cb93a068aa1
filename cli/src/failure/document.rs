//! The JSON document of a failure (`--json`).

use lifecycle_core::bootstrap::{Outcome, ServiceFailure};
use lifecycle_core::platform::Diagnostic;
use schemars::JsonSchema;
use serde::Serialize;

use super::Failure;
use crate::documents::{BroughtUp, KeyWithoutEffect};

/// The document of a failure.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Document {
    /// Only the error.
    Failed(Failed),
    /// The error, with the part of the platform that is up.
    NotAllUp(NotAllUp),
}

/// A command failed.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Failed {
    /// The error.
    error: Why,
}

/// `up` started the platform, except for some replicas.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NotAllUp {
    /// Why some replicas do not run as declared.
    error: Why,
    #[serde(flatten)]
    brought_up: BroughtUp,
}

/// An error: what failed and how to fix it.
#[derive(Debug, Serialize, JsonSchema)]
struct Why {
    #[serde(flatten)]
    kind: Kind,
    /// The error message, with its causes.
    message: String,
    /// How to fix it.
    hint: String,
}

/// The kind of the failure, with its fields.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "kind")]
enum Kind {
    /// The arguments are invalid.
    Arguments,
    /// The files are missing or invalid.
    Files {
        /// The problems in the files; absent if a file is missing.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        problems: Vec<Problem>,
    },
    /// The Compose files contain unsupported keys that affect how services behave.
    Unsupported {
        /// The unsupported keys.
        keys: Vec<KeyWithoutEffect>,
    },
    /// This machine does not have the secrets of the platform.
    NoSecrets,
    /// Some replicas do not run as declared.
    Services {
        /// The replicas that do not run as declared.
        instances: Vec<NotUp>,
    },
    /// Confirmation is needed, but there is no terminal for the question.
    Unconfirmed,
    /// The file to write already exists.
    Exists,
    /// The user did not confirm.
    Refused,
    /// The command was interrupted; run it again to continue.
    Interrupted,
    /// Any other failure.
    Failed,
}

/// One problem in a file.
#[derive(Debug, Serialize, JsonSchema)]
struct Problem {
    /// The path of the file; relative if the file is inside the project directory.
    file: String,
    /// The line, starting at 1; null if the problem concerns the whole file.
    line: Option<usize>,
    /// The column in characters, starting at 1.
    column: Option<usize>,
    /// The path of the key, for example `services.web.ports[0]`; may be empty.
    key: String,
    /// What is wrong.
    message: String,
    /// How to fix it.
    help: Option<String>,
}

/// A replica that does not run as declared.
#[derive(Debug, Serialize, JsonSchema)]
struct NotUp {
    /// The replica's name, `<service>-<replica>`.
    id: String,
    /// Why the replica does not run as declared.
    why: String,
    /// The service that the replica waits for; absent if the replica itself failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<String>,
    /// The last lines of the replica's output.
    last_lines: Vec<String>,
}

impl Document {
    /// Returns the document for invalid arguments.
    pub(crate) fn of_arguments(message: &str) -> Self {
        let error = Why {
            kind: Kind::Arguments,
            message: message.to_owned(),
            hint: "`bootstrapper --help` shows all arguments".into(),
        };
        Self::Failed(Failed { error })
    }

    /// Returns the document of a failure, or `None` if the command's output already reports the
    /// failure.
    pub(crate) fn of(failure: &Failure) -> Option<Self> {
        let kind = match failure {
            Failure::Failed(_) | Failure::CommandCut(_) => Kind::Failed,
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
            Failure::ChecksFailed(_)
            | Failure::AlreadyReported
            | Failure::CommandEnded(_)
            | Failure::OutputClosed => {
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
            waits_for: failure.waits_for.as_ref().map(ToString::to_string),
            last_lines: failure.last_lines.clone(),
        }
    }
}
