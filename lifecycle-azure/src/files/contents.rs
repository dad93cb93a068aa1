//! Describes the entries of a code base, published or plain, and where their bytes are in the
//! share.

use std::ops::Range;

use lifecycle_core::code::digest::{Hasher, Kind};

/// The current contents of a code base.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) digest: String,
    /// The entries, sorted by path.
    pub(super) entries: Vec<Entry>,
}

/// A file, directory or link of a code base.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) kind: Kind,
    /// The bytes of a regular file; `None` for directories and links.
    pub(super) body: Option<Body>,
}

#[derive(Debug)]
pub(super) struct Body {
    pub(super) size: u64,
    pub(super) sha256: [u8; 32],
    /// The pieces that contain the bytes, in order.
    pub(super) pieces: Vec<Piece>,
}

/// A byte range that is read in one request.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// The file in the share.
    pub(super) path: String,
    pub(super) range: Range<u64>,
    /// The expected hash of this piece. `None` if only the hash of the whole file is known.
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
