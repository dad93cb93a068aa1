//! Output that comes in pieces, cut into lines.

use std::collections::VecDeque;

use lifecycle_core::runtime::LogLine;

/// A line longer than this is given out in parts, so that output without line ends needs no
/// endless memory.
const LONGEST_LINE: usize = 256 << 10;

/// Cuts one stream of bytes into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// The lines that `bytes` completes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut bytes = bytes;
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.rest.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            lines.push(self.cut());
        }
        self.rest.extend_from_slice(bytes);
        if self.rest.len() > LONGEST_LINE {
            lines.push(self.cut());
        }
        lines
    }

    /// What is left at the stream's end without a line end.
    pub(super) fn finish(&mut self) -> Option<String> {
        (!self.rest.is_empty()).then(|| self.cut())
    }

    fn cut(&mut self) -> String {
        let line = std::mem::take(&mut self.rest);
        let text = String::from_utf8_lossy(&line);
        text.trim_end_matches('\r').to_owned()
    }
}

/// Cuts a container's two outputs into lines, each by itself.
#[derive(Debug, Default)]
pub(super) struct LogLines {
    stdout: Lines,
    stderr: Lines,
}

impl LogLines {
    pub(super) fn push(&mut self, stderr: bool, bytes: &[u8]) -> Vec<LogLine> {
        let lines = if stderr {
            &mut self.stderr
        } else {
            &mut self.stdout
        };
        let lines = lines.push(bytes).into_iter();
        lines.map(|text| LogLine { stderr, text }).collect()
    }

    pub(super) fn finish(&mut self) -> Vec<LogLine> {
        let rest = [(false, self.stdout.finish()), (true, self.stderr.finish())];
        rest.into_iter()
            .filter_map(|(stderr, text)| text.map(|text| LogLine { stderr, text }))
            .collect()
    }
}

/// The last lines of an output, for an error's message.
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
    fn lines_are_whole_however_the_pieces_fall() {
        let text = "one\r\ntwo\n\nthree".as_bytes();
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut got: Vec<String> = text.chunks(size).flat_map(|c| lines.push(c)).collect();
            got.extend(lines.finish());
            assert_eq!(got, ["one", "two", "", "three"], "pieces of {size}");
        }
    }

    #[test]
    fn a_character_that_falls_into_two_pieces_survives() {
        let mut lines = Lines::default();
        let text = "grün\n".as_bytes();
        assert!(lines.push(&text[..3]).is_empty());
        assert_eq!(lines.push(&text[3..]), ["grün"]);
    }

    #[test]
    fn a_line_without_end_is_given_out_in_parts() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(&vec![b'x'; LONGEST_LINE + 1]).len(), 1);
        assert_eq!(lines.finish(), None);
    }

    #[test]
    fn the_two_outputs_do_not_mix() {
        let mut lines = LogLines::default();
        assert!(lines.push(false, b"out ").is_empty());
        assert_eq!(
            lines.push(true, b"err\n"),
            [LogLine {
                stderr: true,
                text: "err".into()
            }]
        );
        assert_eq!(
            lines.push(false, b"put\nrest"),
            [LogLine {
                stderr: false,
                text: "out put".into()
            }]
        );
        assert_eq!(
            lines.finish(),
            [LogLine {
                stderr: false,
                text: "rest".into()
            }]
        );
    }

    #[test]
    fn the_last_lines_are_the_last() {
        let mut last = LastLines::default();
        for n in 0..100 {
            last.push(&n.to_string());
        }
        assert!(last.joined().starts_with("88 / "), "{}", last.joined());
        assert!(last.joined().ends_with(" / 99"));
    }
}
