//! Stores a file's bytes. Unwritten ranges are zeros and use no memory.

use std::collections::BTreeMap;

use axum::body::Bytes;
use bytes::BytesMut;

/// The bytes of a file. Clones share the memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Contents {
    size: u64,
    /// The written ranges by offset. They do not overlap, and none extends beyond the file's size.
    written: BTreeMap<u64, Bytes>,
}

impl Contents {
    pub(super) fn zeros(size: u64) -> Self {
        Self {
            size,
            written: BTreeMap::new(),
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Extends or truncates the file.
    pub(super) fn resize(&mut self, size: u64) {
        self.clear(size, self.size);
        self.size = size;
    }

    /// Writes bytes at an offset. The caller must make sure that the file is long enough.
    pub(super) fn write(&mut self, offset: u64, bytes: Bytes) {
        self.clear(offset, offset + bytes.len() as u64);
        if !bytes.is_empty() {
            self.written.insert(offset, bytes);
        }
    }

    /// Sets the range from `start` to `end` to zeros.
    pub(super) fn clear(&mut self, start: u64, end: u64) {
        let before = self
            .written
            .range(..end)
            .filter(|(offset, bytes)| **offset + bytes.len() as u64 > start);
        let overlapped: Vec<u64> = before.map(|(offset, _)| *offset).collect();
        for offset in overlapped {
            let Some(bytes) = self.written.remove(&offset) else {
                continue;
            };
            let cut = |at: u64| usize::try_from(at - offset).unwrap_or(bytes.len());
            if offset < start {
                self.written.insert(offset, bytes.slice(..cut(start)));
            }
            if offset + bytes.len() as u64 > end {
                self.written.insert(end, bytes.slice(cut(end)..));
            }
        }
    }

    /// Returns the bytes from `start` to `end`. Both offsets must be within the file.
    pub(super) fn read(&self, start: u64, end: u64) -> Bytes {
        let length = usize::try_from(end.saturating_sub(start)).unwrap_or_default();
        let mut all = BytesMut::zeroed(length);
        for (offset, bytes) in self.written.range(..end) {
            let (from, to) = (start.max(*offset), end.min(offset + bytes.len() as u64));
            if from < to {
                let target = usize::try_from(from - start).unwrap_or_default();
                let source = usize::try_from(from - offset).unwrap_or_default();
                let count = usize::try_from(to - from).unwrap_or_default();
                all[target..target + count].copy_from_slice(&bytes[source..source + count]);
            }
        }
        all.freeze()
    }

    /// Returns the first and the last byte of each written range. As in Azure, ranges consist of
    /// whole sectors of 512 bytes.
    pub(super) fn ranges(&self) -> Vec<(u64, u64)> {
        const SECTOR: u64 = 512;
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (offset, bytes) in &self.written {
            let start = offset / SECTOR * SECTOR;
            let end = (offset + bytes.len() as u64).next_multiple_of(SECTOR);
            match ranges.last_mut() {
                Some(last) if last.1 >= start => last.1 = last.1.max(end),
                _ => ranges.push((start, end)),
            }
        }
        for range in &mut ranges {
            range.1 = range.1.min(self.size) - 1;
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_writes_replace_earlier_ones_and_unwritten_bytes_are_zeros() {
        let mut contents = Contents::zeros(12);
        contents.write(2, Bytes::from_static(b"abcdef"));
        contents.write(4, Bytes::from_static(b"XY"));
        assert_eq!(contents.read(0, 12), &b"\0\0abXYef\0\0\0\0"[..]);
        assert_eq!(contents.read(5, 7), &b"Ye"[..]);
        contents.clear(3, 7);
        assert_eq!(contents.read(0, 12), &b"\0\0a\0\0\0\0f\0\0\0\0"[..]);
        contents.resize(3);
        assert_eq!(contents.read(0, 3), &b"\0\0a"[..]);
        contents.resize(5);
        assert_eq!(contents.read(0, 5), &b"\0\0a\0\0"[..]);
    }

    #[test]
    fn ranges_are_merged_and_consist_of_whole_sectors() {
        let mut contents = Contents::zeros(1 << 40);
        contents.write(0, Bytes::from_static(b"a"));
        contents.write(512, Bytes::from_static(b"b"));
        contents.write(5000, Bytes::from_static(b"c"));
        assert_eq!(contents.ranges(), [(0, 1023), (4608, 5119)]);
        assert_eq!(Contents::zeros(5).ranges(), []);
    }
}
