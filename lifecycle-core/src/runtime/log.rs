//! Lines of a container's output, and the position of a reader that follows them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Selects which lines of a container's output are returned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Return only the last lines, at most this many.
    pub tail: Option<u32>,
    /// Keep returning new lines.
    pub follow: bool,
    /// Return only lines that were written at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Include the time of each line.
    pub timestamps: bool,
}

impl LogOptions {
    /// Selects the last existing lines, at most this many.
    pub fn last(lines: u32) -> Self {
        Self {
            tail: Some(lines),
            ..Self::default()
        }
    }
}

/// A line of a container's output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogLine {
    /// Whether the line was written to standard error.
    pub stderr: bool,
    /// The line without its line break; invalid UTF-8 is replaced.
    pub text: String,
    /// When the line was written, if requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
    /// Whether the line was too long and was cut. Its next part follows as another line.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// The position of a reader in a container's output: the time of the last line, and the number of
/// lines of that time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LogPosition {
    pub(crate) at: Option<DateTime<Utc>>,
    lines: usize,
}

impl LogPosition {
    /// Moves the position after a line.
    pub(crate) fn note(&mut self, line: &LogLine) {
        if line.at > self.at {
            *self = Self {
                at: line.at,
                lines: 1,
            };
        } else if line.at == self.at && line.at.is_some() {
            self.lines += 1;
        }
    }

    /// Returns whether the next line of a new stream was returned before.
    pub(crate) fn contains(&mut self, line: &LogLine) -> bool {
        if line.at.is_none() || line.at > self.at {
            return false;
        }
        if line.at < self.at {
            return true;
        }
        let is_known = self.lines > 0;
        self.lines -= usize::from(is_known);
        is_known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(second: i64, text: &str) -> LogLine {
        LogLine {
            at: DateTime::from_timestamp(second, 0),
            text: text.into(),
            ..LogLine::default()
        }
    }

    #[test]
    fn a_stream_that_begins_again_repeats_and_omits_no_line() {
        let mut position = LogPosition::default();
        for line in [line(1, "a"), line(2, "b"), line(2, "c")] {
            position.note(&line);
        }
        let again = [(1, "a"), (2, "b"), (2, "c"), (2, "d"), (3, "e")];
        let again = again.map(|(second, text)| line(second, text));
        let mut known = position.clone();
        let new: Vec<_> = again.iter().filter(|line| !known.contains(line)).collect();
        assert_eq!(new, [&line(2, "d"), &line(3, "e")]);
    }
}
