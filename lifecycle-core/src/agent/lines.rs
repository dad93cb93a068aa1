//! Reads lines of bounded length.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::codec::{AnyDelimiterCodec, AnyDelimiterCodecError, Decoder as _};

/// The maximum length of a line. A table of 1,000 services with 10 replicas each needs about a
/// tenth of this length.
pub(super) const LONGEST: usize = 32 << 20;

/// Minimum number of bytes per read.
const CHUNK: usize = 8 << 10;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A complete line, without its newline.
    Whole(Bytes),
    /// A line that exceeds the limit. Its contents are skipped.
    TooLong,
}

/// Reads lines. Unlike `FramedRead`, drops an incomplete last line, and continues after a line that
/// is too long.
#[derive(Debug)]
pub(super) struct Lines<R> {
    from: R,
    codec: AnyDelimiterCodec,
    read: BytesMut,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(from: R, longest: usize) -> Self {
        Self {
            from,
            codec: AnyDelimiterCodec::new_with_max_length(b"\n".to_vec(), Vec::new(), longest),
            read: BytesMut::new(),
        }
    }

    /// Returns the next line, or `None` at the end of the input. Drops a last line without a
    /// newline. Cancel safe.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            match self.codec.decode(&mut self.read) {
                Ok(Some(line)) => return Ok(Some(Line::Whole(line))),
                Ok(None) => {}
                Err(AnyDelimiterCodecError::MaxChunkLengthExceeded) => {
                    return Ok(Some(Line::TooLong));
                }
                Err(AnyDelimiterCodecError::Io(error)) => return Err(error),
            }
            if self.read.is_empty() {
                // Release the memory of a long line.
                self.read = BytesMut::new();
            }
            self.read.reserve(CHUNK);
            if self.from.read_buf(&mut self.read).await? == 0 {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn skips_long_lines_and_drops_incomplete_ones() {
        let text: &'static [u8] = b"one\n\n1234567890\ntwo\nhalf";
        let (mut end, from) = tokio::io::duplex(3);
        let write = tokio::spawn(async move { end.write_all(text).await });
        let mut lines = Lines::new(from, 5);
        let mut read = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            read.push(line);
        }
        write.await.unwrap().unwrap();
        let whole = |text: &'static str| Line::Whole(text.into());
        assert_eq!(read, [whole("one"), whole(""), Line::TooLong, whole("two")]);
    }
}
