//! Chunks: the contents of mounted files, in parts. A declaration refers to chunks by their SHA-256,
//! and they are sent and stored apart from it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, InvalidName, Result};

/// The SHA-256 of a chunk. Short contents could be guessed from it, so `Debug` does not show it, and it
/// appears in no log, event or error.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ChunkDigest([u8; 32]);

impl ChunkDigest {
    /// Returns the digest of these contents.
    pub fn of(contents: &[u8]) -> Self {
        Self(Sha256::digest(contents).into())
    }
}

impl fmt::Display for ChunkDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ChunkDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChunkDigest([redacted])")
    }
}

impl FromStr for ChunkDigest {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let mut digest = [0; 32];
        let is_lower = !text.contains(|c: char| c.is_ascii_uppercase());
        if is_lower && hex::decode_to_slice(text, &mut digest).is_ok() {
            return Ok(Self(digest));
        }
        Err(InvalidName {
            what: "digest of a chunk".into(),
            value: "[redacted]".to_owned(),
            rule: "use 64 lowercase hexadecimal digits".into(),
        })
    }
}

impl TryFrom<String> for ChunkDigest {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<ChunkDigest> for String {
    fn from(digest: ChunkDigest) -> Self {
        digest.to_string()
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for ChunkDigest {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ChunkDigest".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "The SHA-256 of a chunk in lowercase hexadecimal digits.",
            "pattern": "^[0-9a-f]{64}$",
        })
    }
}

/// A part of the contents of mounted files. The contents may be secret, so `Debug` does not show
/// them. Cloning is cheap.
#[derive(Clone, PartialEq, Eq)]
pub struct Chunk {
    digest: ChunkDigest,
    contents: Bytes,
}

impl Chunk {
    /// The size of every chunk of a mount except the last one, in bytes. A change of this number
    /// changes the digests of specifications.
    pub const SIZE: usize = 1 << 20;

    /// Creates a chunk.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the chunk is larger than [`Self::SIZE`].
    pub fn new(contents: Bytes) -> Result<Self> {
        if contents.len() > Self::SIZE {
            return Err(Error::Invalid {
                what: "the chunk".into(),
                why: format!("it is larger than {} KiB", Self::SIZE >> 10),
                hint: "split the contents into smaller chunks".into(),
            });
        }
        let digest = ChunkDigest::of(&contents);
        Ok(Self { digest, contents })
    }

    /// Returns the digest of the contents.
    pub fn digest(&self) -> ChunkDigest {
        self.digest
    }

    /// Returns the contents, which may be secret.
    pub fn contents(&self) -> &Bytes {
        &self.contents
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("contents", &format_args!("{} bytes", self.contents.len()))
            .finish_non_exhaustive()
    }
}

/// The chunks of a declaration's mounted files. Cloning is cheap: the contents are shared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chunks {
    chunks: BTreeMap<ChunkDigest, Chunk>,
    size: u64,
}

impl Chunks {
    /// Adds a chunk. Equal chunks are kept once.
    pub fn insert(&mut self, chunk: Chunk) {
        let size = chunk.contents.len() as u64;
        if self.chunks.insert(chunk.digest, chunk).is_none() {
            self.size += size;
        }
    }

    /// Returns the chunk with this digest.
    pub fn get(&self, digest: &ChunkDigest) -> Option<&Chunk> {
        self.chunks.get(digest)
    }

    /// Returns the total size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_survive_serialization_and_debug_hides_contents() {
        let chunk = Chunk::new(Bytes::from_static(b"hunter2")).unwrap();
        assert!(!format!("{chunk:?}").contains("hunter2"));
        let written = serde_json::to_string(&chunk.digest()).unwrap();
        let read: ChunkDigest = serde_json::from_str(&written).unwrap();
        assert_eq!(read, chunk.digest());
        let text = chunk.digest().to_string();
        for wrong in [
            &text[1..],
            &text.to_uppercase(),
            "",
            &text.replace('f', "g"),
        ] {
            assert!(wrong.parse::<ChunkDigest>().is_err(), "{wrong}");
        }
        assert!(Chunk::new(vec![0; Chunk::SIZE + 1].into()).is_err());
    }

    #[test]
    fn equal_chunks_count_once() {
        let mut chunks = Chunks::default();
        for text in ["one", "two", "one"] {
            chunks.insert(Chunk::new(text.into()).unwrap());
        }
        assert_eq!(chunks.size(), 6);
        let one = ChunkDigest::of(b"one");
        assert_eq!(chunks.get(&one).unwrap().contents(), "one");
    }
}
