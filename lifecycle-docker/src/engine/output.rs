//! Splits streamed output into lines.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use lifecycle_core::runtime::LogLine;

/// The maximum length of a line. A longer line is returned in parts, to limit memory use.
const LONGEST_LINE: usize = 256 << 10;

/// An upper limit for the length of the engine's timestamps.
const LONGEST_STAMP: usize = 48;

/// Splits one byte stream into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
}

/// A line, or a part of a line that is too long.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    /// Whether the next part of the line follows.
    cut: bool,
}

impl Lines {
    /// Returns the lines that `bytes` completes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut bytes = bytes;
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.rest.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            lines.push(self.end());
        }
        self.rest.extend_from_slice(bytes);
        if self.rest.len() > LONGEST_LINE {
            // Do not cut within a character.
            let whole = match std::str::from_utf8(&self.rest) {
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                _ => self.rest.len(),
            };
            let next = self.rest.split_off(whole);
            let text = self.end().text;
            lines.push(Line { text, cut: true });
            self.rest = next;
        }
        lines
    }

    /// Returns the text after the last line break, at the end of the stream.
    pub(super) fn finish(&mut self) -> Option<Line> {
        (!self.rest.is_empty()).then(|| self.end())
    }

    fn end(&mut self) -> Line {
        let line = std::mem::take(&mut self.rest);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches('\r').to_owned();
        Line { text, cut: false }
    }
}

/// Splits a container's two outputs into lines, each output separately.
#[derive(Debug, Default)]
pub(super) struct LogLines {
    stdout: Side,
    stderr: Side,
    /// Whether the engine puts a timestamp before each message.
    stamped: bool,
}

#[derive(Debug, Default)]
struct Side {
    lines: Lines,
    /// The timestamp of the incomplete line.
    at: Option<DateTime<Utc>>,
}

impl LogLines {
    pub(super) fn new(stamped: bool) -> Self {
        Self {
            stamped,
            ..Self::default()
        }
    }

    /// Adds a message of one of the outputs. The engine splits a long line into several messages.
    pub(super) fn push(&mut self, stderr: bool, bytes: &[u8]) -> Vec<LogLine> {
        let (at, bytes) = match stamp(bytes) {
            Some((at, rest)) if self.stamped => (Some(at), rest),
            _ => (None, bytes),
        };
        let side = if stderr {
            &mut self.stderr
        } else {
            &mut self.stdout
        };
        side.at = side.at.or(at);
        let mut lines = Vec::new();
        for Line { text, cut } in side.lines.push(bytes) {
            let at = std::mem::replace(&mut side.at, at);
            lines.push(LogLine {
                stderr,
                text,
                at,
                cut,
            });
        }
        if side.lines.rest.is_empty() {
            side.at = None;
        }
        lines
    }

    /// Adds a piece of a terminal's output, which is not split into messages.
    pub(super) fn push_terminal(&mut self, bytes: &[u8]) -> Vec<LogLine> {
        let lines = self.stdout.lines.push(bytes).into_iter();
        lines.map(|line| of_terminal(line, self.stamped)).collect()
    }

    /// Forgets incomplete lines, when the stream has broken. They are complete in the next stream.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.stamped);
    }

    pub(super) fn finish(&mut self) -> Vec<LogLine> {
        let stamped = self.stamped;
        let mut rest = Vec::new();
        for (stderr, side) in [(false, &mut self.stdout), (true, &mut self.stderr)] {
            let at = side.at.take();
            rest.extend(side.lines.finish().map(|line| match at {
                None if !stderr => of_terminal(line, stamped),
                at => LogLine {
                    stderr,
                    text: line.text,
                    at,
                    cut: line.cut,
                },
            }));
        }
        rest
    }
}

fn of_terminal(line: Line, stamped: bool) -> LogLine {
    let (at, text) = match stamp(line.text.as_bytes()) {
        Some((at, rest)) if stamped => (Some(at), String::from_utf8_lossy(rest).into_owned()),
        _ => (None, line.text),
    };
    LogLine {
        stderr: false,
        text,
        at,
        cut: line.cut,
    }
}

/// Splits a message into the engine's timestamp and the rest.
fn stamp(bytes: &[u8]) -> Option<(DateTime<Utc>, &[u8])> {
    let end = bytes.iter().take(LONGEST_STAMP).position(|b| *b == b' ')?;
    let at = std::str::from_utf8(&bytes[..end]).ok()?;
    let at = DateTime::parse_from_rfc3339(at).ok()?;
    Some((at.to_utc(), &bytes[end + 1..]))
}

/// Keeps the last lines of an output, for an error message.
#[derive(Debug, Default)]
pub(super) struct LastLines(VecDeque<String>);

impl LastLines {
    const KEPT: usize = 12;

    pub(super) fn push(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        if self.0.len() == Self::KEPT {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }

    pub(super) fn joined(&self) -> String {
        self.0
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(" / ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_lines_across_pieces_of_any_size() {
        let text = "one\r\ntwo\n\nthree".as_bytes();
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut got: Vec<Line> = text.chunks(size).flat_map(|c| lines.push(c)).collect();
            got.extend(lines.finish());
            let got: Vec<&str> = got.iter().map(|line| line.text.as_str()).collect();
            assert_eq!(got, ["one", "two", "", "three"], "pieces of {size}");
        }
    }

    #[test]
    fn joins_a_character_split_across_pieces() {
        let mut lines = Lines::default();
        let text = "grün\n".as_bytes();
        assert!(lines.push(&text[..3]).is_empty());
        let got = lines.push(&text[3..]);
        assert_eq!((got[0].text.as_str(), got[0].cut), ("grün", false));
    }

    #[test]
    fn returns_an_endless_line_in_parts_that_are_marked_as_cut() {
        let mut lines = LogLines::default();
        // The last byte is the first half of a character.
        let mut bytes = vec![b'x'; LONGEST_LINE];
        bytes.extend_from_slice(&"ü".as_bytes()[..1]);
        let first = lines.push(false, &bytes);
        assert_eq!(first.len(), 1);
        assert_eq!((first[0].text.len(), first[0].cut), (LONGEST_LINE, true));
        let rest = lines.push(false, &[&"ü".as_bytes()[1..], b" end\n"].concat());
        assert_eq!((rest[0].text.as_str(), rest[0].cut), ("ü end", false));
        assert!(lines.finish().is_empty());
    }

    #[test]
    fn a_broken_stream_returns_no_incomplete_line() {
        let mut lines = LogLines::new(true);
        lines.push(false, b"2026-01-02T03:04:05.000000001Z incompl");
        lines.forget();
        assert!(lines.finish().is_empty());
    }

    #[test]
    fn keeps_stdout_and_stderr_apart() {
        let mut lines = LogLines::default();
        assert!(lines.push(false, b"out ").is_empty());
        assert_eq!(
            lines.push(true, b"err\n"),
            [LogLine {
                stderr: true,
                text: "err".into(),
                ..LogLine::default()
            }]
        );
        assert_eq!(
            lines.push(false, b"put\nrest"),
            [LogLine {
                stderr: false,
                text: "out put".into(),
                ..LogLine::default()
            }]
        );
        assert_eq!(
            lines.finish(),
            [LogLine {
                stderr: false,
                text: "rest".into(),
                ..LogLine::default()
            }]
        );
    }

    #[test]
    fn removes_the_timestamp_from_each_message() {
        let mut lines = LogLines::new(true);
        let first = "2026-01-02T03:04:05.000000001Z ";
        let second = "2026-01-02T03:04:06.000000002Z ";
        let mut got = lines.push(false, format!("{first}one\n").as_bytes());
        // A long line arrives as several messages.
        assert!(
            lines
                .push(false, format!("{first}tw").as_bytes())
                .is_empty()
        );
        got.extend(lines.push(false, format!("{second}o\n").as_bytes()));
        got.extend(lines.push_terminal(format!("{second}three\r\n").as_bytes()));
        let texts: Vec<&str> = got.iter().map(|line| &*line.text).collect();
        assert_eq!(texts, ["one", "two", "three"]);
        let seconds: Vec<_> = got.iter().map(|l| l.at.unwrap().timestamp() % 60).collect();
        assert_eq!(seconds, [5, 5, 6]);
        assert!(
            LogLines::new(false)
                .push(false, first.as_bytes())
                .is_empty()
        );
    }

    #[test]
    fn keeps_only_the_last_lines() {
        let mut last = LastLines::default();
        for n in 0..100 {
            last.push(&n.to_string());
        }
        assert!(last.joined().starts_with("88 / "), "{}", last.joined());
        assert!(last.joined().ends_with(" / 99"));
    }
}
