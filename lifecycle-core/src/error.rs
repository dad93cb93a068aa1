//! The one error of the core and of every backend behind its traits.
//!
//! A backend keeps its client's errors private and maps them here, in one place of its own.
//! Messages leave out their source: the chain is printed once, at the edge. No message may
//! hold a secret.

use std::time::Duration;

use thiserror::Error;

use crate::epoch::Epoch;
use crate::similar::nearest;

/// What this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A cause of any type, kept for the chain.
pub type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What went wrong.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Something that was named does not exist.
    #[error("{what} does not exist")]
    NotFound {
        /// What was looked for.
        what: String,
        /// What may have been meant, where that can be guessed.
        hint: Option<String>,
    },
    /// Something exists already, or changed since it was read.
    #[error("{what} is in conflict: {why}")]
    Conflict {
        /// What is in conflict.
        what: String,
        /// With what.
        why: String,
    },
    /// A value that cannot be used.
    #[error("{what} cannot be used: {why}")]
    Invalid {
        /// Which value.
        what: String,
        /// What is wrong with it.
        why: String,
        /// What to do about it.
        hint: String,
    },
    /// The backend cannot do this at all.
    #[error("{what} is not supported by {backend}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Of whom.
        backend: &'static str,
    },
    /// Refused for lack of a permission or by a wrong credential.
    #[error("{what} was refused: {why}")]
    Denied {
        /// What was refused.
        what: String,
        /// Why.
        why: String,
        /// What to do about it.
        hint: String,
    },
    /// Nobody answers there.
    #[error("{what} cannot be reached")]
    Unreachable {
        /// Who does not answer.
        what: String,
        /// Why not.
        #[source]
        source: Option<Source>,
    },
    /// It took longer than it may.
    #[error("{what} did not end within {}", humantime::format_duration(*.after))]
    TimedOut {
        /// What took too long.
        what: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// A change that the cloud was asked for has not ended in time, and goes on there.
    #[error(
        "{what} did not end within {}{}",
        humantime::format_duration(*.after),
        .says.as_ref().map(|says| format!("; the cloud last said: {says}")).unwrap_or_default()
    )]
    Overdue {
        /// What takes so long.
        what: String,
        /// How long it was waited for.
        after: Duration,
        /// What the cloud said last.
        says: Option<String>,
        /// What to do about it.
        hint: String,
    },
    /// The other side asks to come back later.
    #[error("{what} is throttled")]
    Throttled {
        /// What was asked for.
        what: String,
        /// How long to wait at least, where the other side says.
        after: Option<Duration>,
    },
    /// A quota or a capacity is used up.
    #[error("{what}: {why}")]
    Exhausted {
        /// What ran out.
        what: String,
        /// What the other side says.
        why: String,
        /// What to do about it.
        hint: String,
    },
    /// A command, a build or a request ran and failed.
    #[error("{what} failed: {why}")]
    Failed {
        /// What ran.
        what: String,
        /// What it said.
        why: String,
        /// What caused it.
        #[source]
        source: Option<Source>,
    },
    /// An image that cannot be built from its files: the same files fail the same way.
    #[error("{what} failed at {place}: {why}")]
    Build {
        /// What is built.
        what: String,
        /// Where it failed.
        place: Box<BuildPlace>,
        /// What the builder said.
        why: String,
    },
    /// The other side answered with what it should not, or broke off; it may do better later.
    #[error("{what} was interrupted")]
    Interrupted {
        /// What was interrupted.
        what: String,
        /// By what.
        #[source]
        source: Option<Source>,
    },
    /// Stored data cannot be read.
    #[error("{what} is damaged: {why}")]
    Corrupt {
        /// What is damaged.
        what: String,
        /// How it shows.
        why: String,
    },
    /// A former leader tried to write.
    #[error("epoch {ours} is over, the registry is at {current}")]
    StaleEpoch {
        /// The epoch of who tried.
        ours: Epoch,
        /// The epoch in force.
        current: Epoch,
    },
    /// A name that breaks its rule.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A file or directory of this machine.
    #[error("{what}")]
    Io {
        /// What was being done with which file.
        what: String,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
}

/// Where in a Dockerfile a build failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildPlace {
    /// The Dockerfile, by its path within the code base.
    pub file: String,
    /// The line, from 1, as far as it is known.
    pub line: Option<usize>,
    /// Which instruction of the file it is, from 1.
    pub number: Option<usize>,
    /// The instruction.
    pub instruction: Option<String>,
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

/// A name that breaks the rule of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{value}` is no valid {kind}: {rule}")]
pub struct InvalidName {
    /// What the name was meant for, for example `node name`.
    pub kind: &'static str,
    /// The refused value.
    pub value: String,
    /// The rule in words.
    pub rule: &'static str,
}

/// What may be done after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same call may succeed after at least this long; zero leaves it to the caller.
    After(Duration),
    /// Look again and decide anew.
    Replan,
    /// Only a person or another declaration changes this.
    Never,
}

/// An error and its causes in one line; a cause that is in the text already is not told again.
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
    /// Whether and how the failed call may be repeated.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Overdue { .. }
            | Self::Interrupted { .. } => Retry::After(Duration::ZERO),
            Self::Throttled { after, .. } => Retry::After(after.unwrap_or_default()),
            Self::NotFound { .. } | Self::Conflict { .. } | Self::Failed { .. } => Retry::Replan,
            Self::Invalid { .. }
            | Self::Unsupported { .. }
            | Self::Denied { .. }
            | Self::Exhausted { .. }
            | Self::Build { .. }
            | Self::Corrupt { .. }
            | Self::StaleEpoch { .. }
            | Self::Name(_)
            | Self::Io { .. } => Retry::Never,
        }
    }

    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Invalid { hint, .. }
            | Self::Denied { hint, .. }
            | Self::Overdue { hint, .. }
            | Self::Exhausted { hint, .. } => Some(hint),
            Self::NotFound { hint, .. } => hint.as_deref(),
            Self::Build { .. } => Some(
                "correct the Dockerfile or its files and run `bootstrapper up`; if the cause was \
                 elsewhere, `bootstrapper retry NAME` builds it again",
            ),
            Self::Name(name) => Some(name.rule),
            _ => None,
        }
    }

    /// The error and its causes in one line, for a record or an event.
    pub fn chain(&self) -> String {
        chain(self)
    }

    /// An error of the operating system, with what was being done.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io {
            what: what.into(),
            source,
        }
    }

    /// A [`Error::Failed`] without a further cause.
    pub fn failed(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Failed {
            what: what.into(),
            why: why.into(),
            source: None,
        }
    }

    /// A name that is none of `known`, with the one that it may have been meant for.
    pub fn unknown_name<'k>(
        what: impl Into<String>,
        name: &str,
        known: impl IntoIterator<Item = &'k str>,
    ) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let hint = match nearest(name, known.iter().copied()) {
            Some(near) => Some(format!("did you mean `{near}`?")),
            None if (1..=12).contains(&known.len()) => {
                Some(format!("there are: {}", known.join(", ")))
            }
            None => None,
        };
        Self::NotFound {
            what: what.into(),
            hint,
        }
    }

    /// A [`Error::NotFound`].
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound {
            what: what.into(),
            hint: None,
        }
    }
}
