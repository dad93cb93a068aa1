//! Reading lines of bounded length.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// The longest line: a table of 1,000 services with 10 replicas each takes a good tenth of it.
pub(super) const LONGEST: usize = 32 << 20;

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line, without its end.
    Whole(Vec<u8>),
    /// A line that was longer than it may be; it was skipped.
    TooLong,
}

/// Reads one line after the other.
#[derive(Debug)]
pub(super) struct Lines<R> {
    from: R,
    longest: usize,
    line: Vec<u8>,
    too_long: bool,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(super) fn new(from: R, longest: usize) -> Self {
        Self {
            from,
            longest,
            line: Vec::new(),
            too_long: false,
        }
    }

    /// The next line; `None` at the end, where a line without an end is dropped: half a table is
    /// none. Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let read = self.from.fill_buf().await?;
            if read.is_empty() {
                return Ok(None);
            }
            let end = read.iter().position(|byte| *byte == b'\n');
            let part = &read[..end.unwrap_or(read.len())];
            if self.line.len() + part.len() > self.longest {
                self.too_long = true;
                self.line = Vec::new();
            }
            if !self.too_long {
                self.line.extend_from_slice(part);
            }
            let used = end.map_or(read.len(), |end| end + 1);
            self.from.consume(used);
            if end.is_some() {
                if std::mem::take(&mut self.too_long) {
                    return Ok(Some(Line::TooLong));
                }
                return Ok(Some(Line::Whole(std::mem::take(&mut self.line))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_lines_are_skipped_and_half_ones_dropped() {
        let text: &[u8] = b"one\n\n1234567890\ntwo\nhalf";
        let from = tokio::io::BufReader::with_capacity(3, text);
        let mut lines = Lines::new(from, 5);
        let mut read = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            read.push(line);
        }
        let whole = |text: &str| Line::Whole(text.into());
        assert_eq!(read, [whole("one"), whole(""), Line::TooLong, whole("two")]);
    }
}
