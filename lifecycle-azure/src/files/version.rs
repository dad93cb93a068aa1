//! Defines the layout of a published code base in the share.
//!
//! ```text
//! <name>/.lifecycle/chunks/<SHA-256>-<id>      at most 2 MiB, written once, never changed
//! <name>/.lifecycle/versions/<number>-<id>     the record of one version
//! ```
//!
//! The first line of a record is the SHA-256 of the rest, and shows readers whether the record is
//! complete. An incomplete record is still being written, or was abandoned. The rest of a record
//! names the chunks of the index, which lists all entries with their type, digest, and chunks. The
//! complete record with the highest number is the current version.
//!
//! Every write attempt uses a file name with a unique id. Nothing can therefore overwrite a file
//! that is in use, not even a cancelled request that arrives late.

use std::collections::BTreeMap;

use bytes::Bytes;
use lifecycle_core::code::digest::{Kind, OWN_DIRECTORY};
use lifecycle_core::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::contents::{Body, Contents, Entry, Piece};
use super::name::Name;
use super::share::Listed;

/// The version of the format. Increment it if an older reader would misread the new format.
const FORM: u32 = 1;

/// The maximum size of a record: Azure's limit for a single write.
pub(super) const MOST_OF_RECORD: usize = 4 << 20;

/// The maximum size of an index: enough for several million files.
const MOST_OF_INDEX: u64 = 512 << 20;

/// A SHA-256 hash. Serialized as hexadecimal text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(super) struct Sha(pub(super) [u8; 32]);

impl From<Sha> for String {
    fn from(sha: Sha) -> Self {
        hex::encode(sha.0)
    }
}

impl TryFrom<String> for Sha {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

/// A file in the chunk directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chunk {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) sha256: Sha,
}

impl Chunk {
    /// Returns whether the chunk's name is valid and the chunk can be read in one request.
    fn is_sound(&self) -> bool {
        let mut bytes = self.name.bytes();
        !self.name.is_empty()
            && bytes.all(|b| b.is_ascii_hexdigit() || b == b'-')
            && (1..=MOST_OF_RECORD as u64).contains(&self.size)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stored {
    Directory,
    File {
        executable: bool,
        sha256: Sha,
        chunks: Vec<Chunk>,
    },
    Symlink {
        target: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) digest: String,
    pub(super) index: Vec<Chunk>,
    pub(super) entries: BTreeMap<String, Stored>,
}

/// The contents of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    form: u32,
    pub(super) digest: String,
    pub(super) index: Vec<Chunk>,
}

/// Returns the directory that contains a code base's records.
pub(super) fn directory(name: &Name) -> String {
    name.join(&format!("{OWN_DIRECTORY}/versions"))
}

/// Returns the directory that contains a code base's chunks.
pub(super) fn chunks(name: &Name) -> String {
    name.join(&format!("{OWN_DIRECTORY}/chunks"))
}

/// Returns the file name of a record. Sorting these file names alphabetically also sorts them by
/// number.
pub(super) fn file_name(number: u64, id: Uuid) -> String {
    format!("{number:020}-{}", id.simple())
}

/// Returns the number in a record's file name, or `None` if the file is not a record.
pub(super) fn number(file_name: &str) -> Option<u64> {
    let (number, id) = file_name.split_once('-')?;
    Uuid::try_parse(id).ok()?;
    (number.len() == 20).then(|| number.parse().ok())?
}

impl Record {
    pub(super) fn new(digest: String, index: Vec<Chunk>) -> Self {
        Self {
            form: FORM,
            digest,
            index,
        }
    }

    /// Serializes the record.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] if the record is larger than a single write allows.
    pub(super) fn write(&self, name: &Name) -> Result<Bytes> {
        let body = json(self)?;
        let mut text = hex::encode(Sha256::digest(&body));
        text.push('\n');
        let mut bytes = text.into_bytes();
        bytes.extend(body);
        if bytes.len() > MOST_OF_RECORD {
            return Err(too_large(name));
        }
        Ok(bytes.into())
    }

    /// Parses a record. Returns `None` if the record is incomplete.
    pub(super) fn read(bytes: &[u8], path: &str) -> Result<Option<Self>> {
        let Some((sum, body)) = bytes.split_at_checked(65) else {
            return Ok(None);
        };
        if sum[..64] != *hex::encode(Sha256::digest(body)).as_bytes() {
            return Ok(None);
        }
        let corrupt = |why: String| Error::corrupt(format!("record `{path}`"), why);
        let form: Form =
            serde_json::from_slice(body).map_err(|error| corrupt(error.to_string()))?;
        if form.form != FORM {
            return Err(Error::invalid(
                format!("record `{path}`"),
                format!(
                    "it has format {}, but only format {FORM} is supported",
                    form.form
                ),
                "use the release that published the code base, or a newer release",
            ));
        }
        let record: Self =
            serde_json::from_slice(body).map_err(|error| corrupt(error.to_string()))?;
        if !record.index.iter().all(Chunk::is_sound) {
            return Err(corrupt("its index has an invalid chunk".to_owned()));
        }
        if record.index.iter().map(|chunk| chunk.size).sum::<u64>() > MOST_OF_INDEX {
            return Err(corrupt("its index is too large".to_owned()));
        }
        Ok(Some(record))
    }
}

/// The part of a record that all versions of the format have in common.
#[derive(Deserialize)]
struct Form {
    form: u32,
}

/// Serializes the index of a code base.
///
/// # Errors
/// Returns [`Error::Invalid`] if the index is larger than readers accept.
pub(super) fn write_index(name: &Name, entries: &BTreeMap<String, Stored>) -> Result<Vec<u8>> {
    let index = json(entries)?;
    if index.len() as u64 > MOST_OF_INDEX {
        return Err(too_large(name));
    }
    Ok(index)
}

fn too_large(name: &Name) -> Error {
    Error::invalid(
        format!("code base `{name}`"),
        "it has too many files",
        "use a `.dockerignore` to exclude files that no build needs",
    )
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::failed("serializing the index", error.to_string()))
}

impl Version {
    /// Combines a record and its index, and verifies the digest.
    pub(super) fn read(record: Record, index: &[u8], path: &str) -> Result<Self> {
        let corrupt = |why: String| Error::corrupt(format!("the index of `{path}`"), why);
        let entries: BTreeMap<String, Stored> =
            serde_json::from_slice(index).map_err(|error| corrupt(error.to_string()))?;
        for (path, stored) in &entries {
            // Reject paths outside the code base: the entry will be written to a disk under this
            // path.
            let leads_out = path.split('/').any(|part| matches!(part, "" | "." | ".."));
            if leads_out {
                return Err(corrupt(format!("`{path}` is not a path in a code base")));
            }
            if let Stored::File { chunks, .. } = stored
                && !chunks.iter().all(Chunk::is_sound)
            {
                return Err(corrupt(format!("`{path}` has an invalid chunk")));
            }
        }
        let version = Self {
            digest: record.digest,
            index: record.index,
            entries,
        };
        let digest = version.entries_at("").digest;
        if digest == version.digest {
            Ok(version)
        } else {
            Err(corrupt(format!(
                "its digest is {digest}, not {}",
                version.digest
            )))
        }
    }

    /// Iterates over all chunks, including the chunks of the index.
    pub(super) fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        let of_files = self.entries.values().flat_map(|stored| match stored {
            Stored::File { chunks, .. } => chunks.as_slice(),
            Stored::Directory | Stored::Symlink { .. } => &[],
        });
        self.index.iter().chain(of_files)
    }

    /// Returns whether all chunks exist. `files` contains the entries of the chunk directory.
    pub(super) fn is_there(&self, files: &[Listed]) -> bool {
        let there: BTreeMap<&str, u64> = files
            .iter()
            .map(|file| (file.name.as_str(), file.size))
            .collect();
        self.chunks()
            .all(|chunk| there.get(chunk.name.as_str()) == Some(&chunk.size))
    }

    pub(super) fn contents(&self, name: &Name) -> Contents {
        self.entries_at(&chunks(name))
    }

    fn entries_at(&self, directory: &str) -> Contents {
        let entries = self.entries.iter().map(|(path, stored)| {
            let (kind, body) = match stored {
                Stored::Directory => (Kind::Directory, None),
                Stored::Symlink { target } => {
                    let target = target.into();
                    (Kind::Symlink { target }, None)
                }
                Stored::File {
                    executable,
                    sha256,
                    chunks,
                } => {
                    let executable = *executable;
                    let pieces = chunks.iter().map(|chunk| piece(directory, chunk));
                    let body = Body {
                        size: chunks.iter().map(|chunk| chunk.size).sum(),
                        sha256: sha256.0,
                        pieces: pieces.collect(),
                    };
                    (Kind::File { executable }, Some(body))
                }
            };
            Entry {
                path: path.clone(),
                kind,
                body,
            }
        });
        Contents::new(entries.collect())
    }
}

/// Returns the piece that contains the bytes of a chunk.
pub(super) fn piece(directory: &str, chunk: &Chunk) -> Piece {
    Piece {
        path: format!("{directory}/{}", chunk.name),
        range: 0..chunk.size,
        sha256: Some(chunk.sha256.0),
    }
}

pub(super) fn chunk_name(sha256: Sha, id: Uuid) -> String {
    format!("{}-{}", String::from(sha256), id.simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Name {
        Name::parse("svc").unwrap()
    }

    fn version() -> (Record, Vec<u8>) {
        let file = Stored::File {
            executable: true,
            sha256: Sha(Sha256::digest(b"abc").into()),
            chunks: vec![Chunk {
                name: chunk_name(Sha([1; 32]), Uuid::nil()),
                size: 3,
                sha256: Sha(Sha256::digest(b"abc").into()),
            }],
        };
        let link = Stored::Symlink {
            target: "b".to_owned(),
        };
        let entries = BTreeMap::from([
            ("a".to_owned(), Stored::Directory),
            ("a/b".to_owned(), file),
            ("a/c".to_owned(), link),
        ]);
        let index = write_index(&name(), &entries).unwrap();
        let mut version = Version {
            digest: String::new(),
            index: Vec::new(),
            entries,
        };
        version.digest = version.entries_at("").digest;
        (Record::new(version.digest, Vec::new()), index)
    }

    #[test]
    fn records_and_indexes_round_trip() {
        let (record, index) = version();
        let bytes = record.write(&name()).unwrap();
        assert_eq!(Record::read(&bytes, "x").unwrap(), Some(record.clone()));
        let version = Version::read(record, &index, "x").unwrap();
        assert_eq!(version.chunks().count(), 1);
    }

    #[test]
    fn an_incomplete_record_is_ignored() {
        let bytes = version().0.write(&name()).unwrap();
        for length in 0..bytes.len() {
            let mut part = bytes.to_vec();
            part[length..].fill(0);
            assert_eq!(Record::read(&part, "x").unwrap(), None, "{length}");
            assert_eq!(Record::read(&part[..length], "x").unwrap(), None);
        }
    }

    #[test]
    fn a_record_of_another_format_is_an_error() {
        let mut record = version().0;
        record.form = 2;
        let error = Record::read(&record.write(&name()).unwrap(), "x").unwrap_err();
        assert!(error.to_string().contains("format 2"), "{error}");
    }

    #[test]
    fn a_changed_index_is_corrupt() {
        let (record, index) = version();
        let index = String::from_utf8(index).unwrap();
        for changed in [
            index.replace("true", "false"),
            index.replace("a/c", "../c"),
            index.replace("a/c", "/c"),
            index.replace("\"0101", "\"../01"),
            index.replace("\"size\":3", "\"size\":9000000000"),
            index.replace("\"b\"}", "\"x\"}"),
            index[1..].to_owned(),
        ] {
            assert_ne!(changed, index);
            let error = Version::read(record.clone(), changed.as_bytes(), "x").unwrap_err();
            assert!(
                matches!(error, Error::Corrupt { .. }),
                "{changed}: {error:?}"
            );
        }
    }

    #[test]
    fn file_names_sort_by_number() {
        let names: Vec<_> = [1, 9, 10, 99, 100]
            .map(|n| file_name(n, Uuid::from_u128(u128::from(200 - n))))
            .into();
        assert!(names.is_sorted());
        assert_eq!(number(&names[3]), Some(99));
        assert_eq!(number("readme"), None);
    }
}
