//! The error type of this crate and of every backend.
//!
//! Each backend converts the errors of its client library to this type. The message of an error
//! does not repeat its source, because programs print the whole chain. No message may contain a
//! secret.
//!
//! The manager's API sends an error as a JSON object with `kind` and the fields of the variant
//! (`docs/api.md`). The source of an error is sent as text.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::epoch::Epoch;
use crate::similar::nearest;

/// The result of most functions of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause of an [`enum@Error`], of any type.
pub type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// An error of this crate or of a backend.
///
/// Other crates create errors with the constructors ([`Error::invalid`], [`Error::conflict`] …),
/// because variants may get more fields.
#[derive(Debug, Error, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Error {
    /// A named object does not exist.
    #[error("{what} does not exist")]
    #[non_exhaustive]
    NotFound {
        what: String,
        /// Advice for the user, usually a similar name that exists.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
    /// Something already exists, has changed since it was read, or is in use.
    #[error("{what}: {why}")]
    #[non_exhaustive]
    Conflict { what: String, why: String },
    /// A value cannot be used.
    #[error("{what} cannot be used: {why}")]
    #[non_exhaustive]
    Invalid {
        what: String,
        why: String,
        hint: String,
    },
    /// The backend does not support the operation.
    #[error("{what} is not supported by {backend}")]
    #[non_exhaustive]
    Unsupported {
        what: String,
        backend: Cow<'static, str>,
    },
    /// A permission is missing, or a credential is wrong.
    #[error("{what} was refused: {why}")]
    #[non_exhaustive]
    Denied {
        what: String,
        why: String,
        hint: String,
    },
    /// The caller's token does not permit the request.
    #[error("{what} is not permitted: {why}")]
    #[non_exhaustive]
    Forbidden {
        what: String,
        why: String,
        hint: String,
    },
    /// The connection could not be established, or there was no response.
    #[error("{what} cannot be reached")]
    #[non_exhaustive]
    Unreachable {
        what: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
        #[source]
        #[serde(default, skip_serializing_if = "Option::is_none", with = "source_text")]
        source: Option<Source>,
    },
    /// The request cannot be served yet, for example because this manager is not the leader.
    #[error("{what} is not ready: {why}")]
    #[non_exhaustive]
    NotReady {
        what: String,
        why: String,
        /// How long to wait before a retry.
        #[serde(with = "seconds")]
        after: Duration,
    },
    /// An operation took longer than its time limit.
    #[error("{what} timed out after {}", humantime::format_duration(*.after))]
    #[non_exhaustive]
    TimedOut {
        what: String,
        /// The time limit.
        #[serde(with = "seconds")]
        after: Duration,
    },
    /// A change in the cloud has exceeded its time limit, but is still in progress.
    #[error(
        "{what} did not complete within {}{}",
        humantime::format_duration(*.after),
        .reported.as_ref().map(|reported| format!("; the cloud last reported: {reported}")).unwrap_or_default()
    )]
    #[non_exhaustive]
    Overdue {
        what: String,
        /// The time limit.
        #[serde(with = "seconds")]
        after: Duration,
        /// The cloud's latest message about the change.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reported: Option<String>,
        hint: String,
    },
    /// The backend received too many requests.
    #[error("{what} was throttled: too many requests")]
    #[non_exhaustive]
    Throttled {
        what: String,
        /// The minimum delay before a retry, if the response contains one.
        #[serde(
            default,
            skip_serializing_if = "Option::is_none",
            with = "optional_seconds"
        )]
        after: Option<Duration>,
    },
    /// A quota or a capacity is exhausted.
    #[error("{what}: {why}")]
    #[non_exhaustive]
    Exhausted {
        what: String,
        why: String,
        hint: String,
    },
    /// A command or a request ran and failed.
    #[error("{what} failed: {why}")]
    #[non_exhaustive]
    Failed {
        what: String,
        why: String,
        #[source]
        #[serde(default, skip_serializing_if = "Option::is_none", with = "source_text")]
        source: Option<Source>,
    },
    /// The build of an image failed. A retry with the same files would fail in the same way.
    #[error("{what} failed at {place}: {why}")]
    #[non_exhaustive]
    Build {
        what: String,
        place: Box<BuildPlace>,
        /// The builder's message.
        why: String,
    },
    /// The connection broke, or the response was invalid. A repeated request may succeed.
    #[error("{what} was interrupted")]
    #[non_exhaustive]
    Interrupted {
        what: String,
        #[source]
        #[serde(default, skip_serializing_if = "Option::is_none", with = "source_text")]
        source: Option<Source>,
    },
    /// Stored data cannot be read.
    #[error("{what} is damaged: {why}")]
    #[non_exhaustive]
    Corrupt { what: String, why: String },
    /// A previous leader tried to write.
    #[error("epoch {ours} is no longer current: the registry is at epoch {current}")]
    #[non_exhaustive]
    StaleEpoch {
        /// The epoch of the writer.
        ours: Epoch,
        /// The registry's epoch.
        current: Epoch,
    },
    /// A name is invalid.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The operating system reported an error for a file or directory.
    #[error("{what} failed")]
    #[non_exhaustive]
    Io {
        /// The action that failed, and the path of the file.
        what: String,
        #[source]
        #[serde(with = "io_text")]
        source: std::io::Error,
    },
}

/// The location in a Dockerfile at which a build failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BuildPlace {
    /// The Dockerfile's path within the code base.
    pub file: String,
    /// The line number, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The number of the instruction, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<usize>,
    /// The instruction's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
}

impl BuildPlace {
    /// Returns the location of a line, or of the whole file.
    pub fn at_line(file: impl Into<String>, line: Option<usize>) -> Self {
        Self {
            file: file.into(),
            line,
            number: None,
            instruction: None,
        }
    }

    /// Returns the location of the instruction with this number and text.
    pub fn at_instruction(file: impl Into<String>, number: usize, text: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: None,
            number: Some(number),
            instruction: Some(text.into()),
        }
    }
}

impl std::fmt::Display for BuildPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.line, self.number) {
            (Some(line), _) => write!(f, "{}:{line}", self.file)?,
            (None, Some(number)) => write!(f, "{}, instruction {number}", self.file)?,
            (None, None) => f.write_str(&self.file)?,
        }
        match &self.instruction {
            Some(instruction) => write!(f, " ({instruction})"),
            None => Ok(()),
        }
    }
}

/// The error for an invalid name.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("`{value}` is not a valid {what}: {rule}")]
#[non_exhaustive]
pub struct InvalidName {
    /// The kind of name, for example `node name`.
    pub what: Cow<'static, str>,
    /// The rejected name.
    pub value: String,
    /// The rule that valid names follow, in words.
    pub rule: Cow<'static, str>,
}

/// How a caller can continue after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Wait for at least this duration, then repeat the call. If the duration is zero, the caller
    /// chooses how long to wait.
    After(Duration),
    /// Observe again and make a new plan.
    Replan,
    /// Do not retry until a person or a new declaration removes the cause.
    Never,
}

/// Returns an error and its causes in one line. Skips a cause whose text the line already contains.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

impl Error {
    /// Returns whether and when the failed call may be repeated.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Overdue { .. }
            | Self::Interrupted { .. } => Retry::After(Duration::ZERO),
            Self::NotReady { after, .. } => Retry::After(*after),
            Self::Throttled { after, .. } => Retry::After(after.unwrap_or_default()),
            Self::NotFound { .. } | Self::Conflict { .. } | Self::Failed { .. } => Retry::Replan,
            Self::Invalid { .. }
            | Self::Unsupported { .. }
            | Self::Denied { .. }
            | Self::Forbidden { .. }
            | Self::Exhausted { .. }
            | Self::Build { .. }
            | Self::Corrupt { .. }
            | Self::StaleEpoch { .. }
            | Self::Name(_)
            | Self::Io { .. } => Retry::Never,
        }
    }

    /// Returns a hint that explains how the user can fix the problem, if the error has one.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Invalid { hint, .. }
            | Self::Denied { hint, .. }
            | Self::Forbidden { hint, .. }
            | Self::Overdue { hint, .. }
            | Self::Exhausted { hint, .. } => Some(hint),
            Self::NotFound { hint, .. } | Self::Unreachable { hint, .. } => hint.as_deref(),
            Self::Build { .. } => Some(
                "correct the Dockerfile or its files and run `bootstrapper up`; if \
                 the files are correct, run `bootstrapper retry NAME` to build the image again",
            ),
            Self::Name(name) => Some(&name.rule),
            Self::Conflict { .. }
            | Self::Unsupported { .. }
            | Self::NotReady { .. }
            | Self::TimedOut { .. }
            | Self::Throttled { .. }
            | Self::Failed { .. }
            | Self::Interrupted { .. }
            | Self::Corrupt { .. }
            | Self::StaleEpoch { .. }
            | Self::Io { .. } => None,
        }
    }

    /// Returns the error and its causes in one line, for a record or an event.
    pub fn chain(&self) -> String {
        chain(self)
    }

    /// Creates an [`Error::NotFound`] for `what`, without a hint.
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound {
            what: what.into(),
            hint: None,
        }
    }

    /// Creates an [`Error::NotFound`] for `what`, with a hint.
    pub fn not_found_with_hint(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::NotFound {
            what: what.into(),
            hint: Some(hint.into()),
        }
    }

    /// Creates an [`Error::NotFound`] for a name that is not in `known`. The hint suggests the most
    /// similar known name. If no known name is similar, the hint lists up to 12 known names, or is
    /// omitted if there are more.
    pub fn unknown_name<'k>(
        what: impl Into<String>,
        name: &str,
        known: impl IntoIterator<Item = &'k str>,
    ) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let hint = match nearest(name, known.iter().copied()) {
            Some(near) => Some(format!("did you mean `{near}`?")),
            None if (1..=12).contains(&known.len()) => {
                Some(format!("existing names: {}", known.join(", ")))
            }
            None => None,
        };
        Self::NotFound {
            what: what.into(),
            hint,
        }
    }

    /// Creates an [`Error::Conflict`].
    pub fn conflict(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Conflict {
            what: what.into(),
            why: why.into(),
        }
    }

    /// Creates an [`Error::Invalid`].
    pub fn invalid(
        what: impl Into<String>,
        why: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Invalid {
            what: what.into(),
            why: why.into(),
            hint: hint.into(),
        }
    }

    /// Creates an [`Error::Unsupported`].
    pub fn unsupported(what: impl Into<String>, backend: impl Into<Cow<'static, str>>) -> Self {
        Self::Unsupported {
            what: what.into(),
            backend: backend.into(),
        }
    }

    /// Creates an [`Error::Denied`].
    pub fn denied(
        what: impl Into<String>,
        why: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Denied {
            what: what.into(),
            why: why.into(),
            hint: hint.into(),
        }
    }

    /// Creates an [`Error::Forbidden`].
    pub fn forbidden(
        what: impl Into<String>,
        why: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Forbidden {
            what: what.into(),
            why: why.into(),
            hint: hint.into(),
        }
    }

    /// Creates an [`Error::Unreachable`].
    pub fn unreachable(what: impl Into<String>, source: Option<Source>) -> Self {
        Self::Unreachable {
            what: what.into(),
            hint: None,
            source,
        }
    }

    /// Creates an [`Error::Unreachable`] with a hint.
    pub fn unreachable_with_hint(
        what: impl Into<String>,
        hint: impl Into<String>,
        source: Source,
    ) -> Self {
        Self::Unreachable {
            what: what.into(),
            hint: Some(hint.into()),
            source: Some(source),
        }
    }

    /// Creates an [`Error::NotReady`] that suggests a retry after a second.
    pub fn not_ready(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::NotReady {
            what: what.into(),
            why: why.into(),
            after: Duration::from_secs(1),
        }
    }

    /// Creates an [`Error::TimedOut`].
    pub fn timed_out(what: impl Into<String>, after: Duration) -> Self {
        Self::TimedOut {
            what: what.into(),
            after,
        }
    }

    /// Creates an [`Error::Overdue`].
    pub fn overdue(
        what: impl Into<String>,
        after: Duration,
        reported: Option<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Overdue {
            what: what.into(),
            after,
            reported,
            hint: hint.into(),
        }
    }

    /// Creates an [`Error::Throttled`].
    pub fn throttled(what: impl Into<String>, after: Option<Duration>) -> Self {
        Self::Throttled {
            what: what.into(),
            after,
        }
    }

    /// Creates an [`Error::Exhausted`].
    pub fn exhausted(
        what: impl Into<String>,
        why: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Exhausted {
            what: what.into(),
            why: why.into(),
            hint: hint.into(),
        }
    }

    /// Creates an [`Error::Failed`] without a further cause.
    pub fn failed(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Failed {
            what: what.into(),
            why: why.into(),
            source: None,
        }
    }

    /// Creates an [`Error::Failed`] with its cause.
    pub fn failed_by(what: impl Into<String>, why: impl Into<String>, source: Source) -> Self {
        Self::Failed {
            what: what.into(),
            why: why.into(),
            source: Some(source),
        }
    }

    /// Creates an [`Error::Build`].
    pub fn build(what: impl Into<String>, place: BuildPlace, why: impl Into<String>) -> Self {
        Self::Build {
            what: what.into(),
            place: Box::new(place),
            why: why.into(),
        }
    }

    /// Creates an [`Error::Interrupted`].
    pub fn interrupted(what: impl Into<String>, source: Option<Source>) -> Self {
        Self::Interrupted {
            what: what.into(),
            source,
        }
    }

    /// Creates an [`Error::Corrupt`].
    pub fn corrupt(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Corrupt {
            what: what.into(),
            why: why.into(),
        }
    }

    /// Creates an [`Error::StaleEpoch`].
    pub fn stale_epoch(ours: Epoch, current: Epoch) -> Self {
        Self::StaleEpoch { ours, current }
    }

    /// Creates an [`Error::Io`].
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io {
            what: what.into(),
            source,
        }
    }
}

/// Serializes a duration as a number of seconds.
mod seconds {
    use std::time::Duration;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(after: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(after.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(from)?;
        Duration::try_from_secs_f64(seconds).map_err(D::Error::custom)
    }
}

/// Serializes an optional duration as a number of seconds.
mod optional_seconds {
    use std::time::Duration;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde requires this signature")]
    pub(super) fn serialize<S: Serializer>(
        after: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match after {
            Some(after) => to.serialize_some(&after.as_secs_f64()),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        let seconds = Option::<f64>::deserialize(from)?;
        let duration = seconds.map(Duration::try_from_secs_f64).transpose();
        duration.map_err(D::Error::custom)
    }
}

/// Serializes a source and its causes as text.
mod source_text {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Source, chain};

    #[expect(clippy::ref_option, reason = "serde requires this signature")]
    pub(super) fn serialize<S: Serializer>(
        source: &Option<Source>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match source {
            Some(source) => to.serialize_some(&chain(source.as_ref())),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Source>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(Source::from))
    }
}

/// Serializes an operating system error as text.
mod io_text {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        source: &std::io::Error,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::chain(source))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<std::io::Error, D::Error> {
        String::deserialize(from).map(std::io::Error::other)
    }
}
