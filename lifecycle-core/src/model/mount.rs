//! Mounts of containers: named volumes, paths of the node, memory, and the user's own files.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::VolumeName;
use super::chunk::{Chunk, ChunkDigest};
use super::container::is_default;
use crate::error::{Error, Result};
use crate::secret::Sensitive;

/// A named volume that is mounted in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    pub volume: VolumeName,
    /// The mount point in the container.
    pub target: String,
    #[serde(default)]
    pub read_only: bool,
    /// Options for creating and mounting the volume.
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: VolumeOptions,
}

/// How a volume is created and mounted. Default values are not serialized, so they do not affect
/// the spec digest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeOptions {
    /// The engine's volume driver; by default the local one.
    #[serde(skip_serializing_if = "is_default")]
    pub driver: Option<String>,
    /// The driver's options. Values may be secrets, such as the password of a share.
    #[serde(skip_serializing_if = "is_default")]
    pub driver_opts: BTreeMap<String, Sensitive>,
    /// The volume's name in the engine; by default derived from the names of platform and volume.
    #[serde(skip_serializing_if = "is_default")]
    pub engine_name: Option<String>,
    /// If true, the platform does not manage the volume: the volume must exist on the node, and is
    /// never removed.
    #[serde(skip_serializing_if = "is_default")]
    pub external: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    /// If true, a new volume starts empty; otherwise, the image's files are copied into it.
    #[serde(skip_serializing_if = "is_default")]
    pub no_copy: bool,
}

/// A path of the node that is mounted in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMount {
    /// The path on the node.
    pub source: String,
    /// The mount point in the container.
    pub target: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// Whether to create a missing directory; otherwise, a missing directory is an error.
    #[serde(default, skip_serializing_if = "is_default")]
    pub create: bool,
    /// The mount propagation between node and container, for example `rslave`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub propagation: Option<String>,
}

/// A file system in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryMount {
    /// The mount point in the container.
    pub target: String,
    /// Mount options, for example `size=64m,mode=1777`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: String,
}

/// The user's own files: they are written to the node before the container is created, and mounted
/// read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShippedMount {
    /// The mount point in the container.
    pub target: String,
    pub tree: FileTree,
    /// The chunks that contain the contents of [`FileContents::Chunked`] files, one file after the
    /// other in the order of the tree.
    #[serde(default, skip_serializing_if = "is_default")]
    pub chunks: Vec<ChunkDigest>,
}

impl ShippedMount {
    /// Checks that the chunks can contain the files.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the number of chunks does not match the sizes of the files.
    pub fn check(&self) -> Result<()> {
        let needed = self.chunked_size().div_ceil(Chunk::SIZE as u64);
        if needed == self.chunks.len() as u64 {
            return Ok(());
        }
        Err(Error::Invalid {
            what: format!("the mount at {}", self.target),
            why: format!(
                "its files need {needed} chunks, but {} are declared",
                self.chunks.len()
            ),
            hint: "create the declaration with the same version as the manager".into(),
        })
    }

    /// Returns the total size of the files whose contents are in chunks.
    pub fn chunked_size(&self) -> u64 {
        let sizes = self.tree.files().map(|file| match &file.contents {
            FileContents::Chunked(size) => *size,
            FileContents::Text(_) | FileContents::Hex(_) => 0,
        });
        sizes.fold(0, u64::saturating_add)
    }
}

/// A file, or a directory with its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileTree {
    File(ShippedFile),
    /// The entries of a directory by their relative paths, parents before children.
    Directory(BTreeMap<String, TreeEntry>),
}

impl FileTree {
    /// Returns the files, in order.
    pub fn files(&self) -> impl Iterator<Item = &ShippedFile> {
        let (file, entries) = match self {
            Self::File(file) => (Some(file), None),
            Self::Directory(entries) => (None, Some(entries)),
        };
        let entries = entries.into_iter().flat_map(BTreeMap::values);
        let below = entries.filter_map(|entry| match entry {
            TreeEntry::File(file) => Some(file),
            TreeEntry::Directory | TreeEntry::Link(_) => None,
        });
        file.into_iter().chain(below)
    }
}

/// An entry of a mounted directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TreeEntry {
    Directory,
    /// A symbolic link with its target.
    Link(String),
    File(ShippedFile),
}

/// A file with its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShippedFile {
    /// The permissions, for example `0o444`.
    pub mode: u32,
    /// The user id of the owner; root by default.
    #[serde(default, skip_serializing_if = "is_default")]
    pub uid: u32,
    /// The group id; root's group by default.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gid: u32,
    pub contents: FileContents,
}

/// The contents of a file. They may be secret, so `Debug` does not show them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileContents {
    /// Text in UTF-8.
    Text(Sensitive),
    /// Contents that are not valid UTF-8, in hexadecimal.
    Hex(Sensitive),
    /// This number of bytes in the chunks of the mount.
    Chunked(u64),
}

impl FileContents {
    /// Wraps bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self::Text(Sensitive::new(text)),
            Err(error) => Self::Hex(Sensitive::new(hex::encode(error.as_bytes()))),
        }
    }

    /// Returns the bytes, which may be secret; `None` if they are in chunks.
    pub fn expose(&self) -> Result<Option<Cow<'_, [u8]>>> {
        match self {
            Self::Chunked(_) => Ok(None),
            Self::Text(text) => Ok(Some(Cow::Borrowed(text.expose().as_bytes()))),
            Self::Hex(digits) => hex::decode(digits.expose())
                .map(|bytes| Some(Cow::Owned(bytes)))
                .map_err(|_| Error::Corrupt {
                    what: "the stored content of a declared file".to_owned(),
                    why: "it is not hexadecimal".to_owned(),
                }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_survive_serialization_and_debug_hides_them() {
        for bytes in [b"text".to_vec(), vec![0xff, 0, 0xfe], Vec::new()] {
            let contents = FileContents::new(bytes.clone());
            let written = serde_json::to_string(&contents).unwrap();
            let read: FileContents = serde_json::from_str(&written).unwrap();
            assert_eq!(*read.expose().unwrap().unwrap(), bytes);
        }
        let secret = FileContents::new(b"hunter2".to_vec());
        assert!(!format!("{secret:?}").contains("hunter2"));
        let damaged = FileContents::Hex(Sensitive::new("x"));
        assert!(damaged.expose().is_err());
    }

    #[test]
    fn a_mount_needs_as_many_chunks_as_its_files_fill() {
        let mount = |sizes: &[u64], chunks: usize| {
            let file = |size| ShippedFile {
                mode: 0o644,
                uid: 0,
                gid: 0,
                contents: FileContents::Chunked(size),
            };
            let sizes = sizes.iter().copied().enumerate();
            let entries = sizes.map(|(n, size)| (n.to_string(), TreeEntry::File(file(size))));
            ShippedMount {
                target: "/etc/app".into(),
                tree: FileTree::Directory(entries.collect()),
                chunks: vec![ChunkDigest::of(b""); chunks],
            }
        };
        let size = Chunk::SIZE as u64;
        for (sizes, chunks) in [
            (vec![], 0),
            (vec![0], 0),
            (vec![size - 1, 1], 1),
            (vec![size, 1], 2),
        ] {
            assert!(mount(&sizes, chunks).check().is_ok(), "{sizes:?}");
            assert!(mount(&sizes, chunks + 1).check().is_err(), "{sizes:?}");
        }
        assert!(mount(&[u64::MAX, u64::MAX], 1).check().is_err());
    }
}
