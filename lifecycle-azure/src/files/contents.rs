//! What a code base consists of and where in the share the bytes lie, whichever its form.

use std::ops::Range;

use lifecycle_core::code::digest::{Hasher, Kind};

/// A code base as it is now.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) digest: String,
    /// In the order of their paths.
    pub(super) entries: Vec<Entry>,
}

/// A file, directory or link of a code base.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) kind: Kind,
    /// A file's bytes.
    pub(super) body: Option<Body>,
}

/// The bytes of a file.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) size: u64,
    pub(super) sha256: [u8; 32],
    /// Where they lie, one after the other.
    pub(super) pieces: Vec<Piece>,
}

/// Bytes that are read at once.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// The file in the share.
    pub(super) path: String,
    pub(super) range: Range<u64>,
    /// What they must be, where that is known of the piece by itself.
    pub(super) sha256: Option<[u8; 32]>,
}

impl Contents {
    pub(super) fn new(entries: Vec<Entry>) -> Self {
        let mut hasher = Hasher::new();
        for entry in &entries {
            let content = entry.body.as_ref().map(|body| body.sha256);
            hasher.add(&entry.path, &entry.kind, content);
        }
        Self {
            digest: hasher.finish(),
            entries,
        }
    }
}
