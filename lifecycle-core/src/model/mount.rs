//! Mounts of containers: named volumes, paths of the node, memory, and files from the declaration.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::VolumeName;
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

/// Files from the declaration: they are written to the node before the container is created, and
/// mounted read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShippedMount {
    /// The mount point in the container.
    pub target: String,
    pub tree: FileTree,
}

/// A file, or a directory with its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileTree {
    File(ShippedFile),
    /// The entries of a directory by their relative paths, parents before children.
    Directory(BTreeMap<String, TreeEntry>),
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
}

impl FileContents {
    /// Wraps bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self::Text(Sensitive::new(text)),
            Err(error) => Self::Hex(Sensitive::new(hex::encode(error.as_bytes()))),
        }
    }

    /// Returns the bytes, which may be secret.
    pub fn expose(&self) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::Text(text) => Ok(Cow::Borrowed(text.expose().as_bytes())),
            Self::Hex(digits) => {
                hex::decode(digits.expose())
                    .map(Cow::Owned)
                    .map_err(|_| Error::Corrupt {
                        what: "the stored content of a declared file".to_owned(),
                        why: "it is not hexadecimal".to_owned(),
                    })
            }
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
            assert_eq!(read.expose().unwrap(), bytes);
        }
        let secret = FileContents::new(b"hunter2".to_vec());
        assert!(!format!("{secret:?}").contains("hunter2"));
        let damaged = FileContents::Hex(Sensitive::new("x"));
        assert!(damaged.expose().is_err());
    }
}
