//! What a container sees of other file systems: named volumes, paths of its node, memory, and
//! files that the declaration itself carries.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::VolumeName;
use super::container::is_default;
use crate::error::{Error, Result};
use crate::secret::Sensitive;

/// A named volume in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// The volume.
    pub volume: VolumeName,
    /// Where the container sees it.
    pub target: String,
    /// Whether the container may only read.
    #[serde(default)]
    pub read_only: bool,
    /// How the volume is made and mounted, beyond the engine's defaults.
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: VolumeOptions,
}

/// How a volume is made and mounted. Every field serialises to nothing at its default, as the
/// spec digest asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeOptions {
    /// The engine's volume driver; its local one without it.
    #[serde(skip_serializing_if = "is_default")]
    pub driver: Option<String>,
    /// The driver's options. Values may be secrets, such as a share's password.
    #[serde(skip_serializing_if = "is_default")]
    pub driver_opts: BTreeMap<String, Sensitive>,
    /// The engine's own name of it; made of the platform's and the volume's without one.
    #[serde(skip_serializing_if = "is_default")]
    pub engine_name: Option<String>,
    /// Whether somebody else made it and keeps it: it must exist on the node, and is never
    /// removed.
    #[serde(skip_serializing_if = "is_default")]
    pub external: bool,
    /// The user's own labels.
    #[serde(skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    /// Whether a new volume stays empty instead of getting what the image has there.
    #[serde(skip_serializing_if = "is_default")]
    pub no_copy: bool,
}

/// A path of the node in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMount {
    /// The path on the node.
    pub source: String,
    /// Where the container sees it.
    pub target: String,
    /// Whether the container may only read.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// Whether a directory is made where nothing is; without it that is a failure.
    #[serde(default, skip_serializing_if = "is_default")]
    pub create: bool,
    /// How mounts below it pass between node and container (`rslave`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub propagation: Option<String>,
}

/// A file system in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryMount {
    /// Where the container sees it.
    pub target: String,
    /// The mount's options, as `mount` has them (`size=64m,mode=1777`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: String,
}

/// Files that the declaration carries: they are put on the node before the container is made,
/// and it may only read them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShippedMount {
    /// Where the container sees them.
    pub target: String,
    /// What they are.
    pub tree: FileTree,
}

/// A file, or a directory with all that is below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileTree {
    /// One file.
    File(ShippedFile),
    /// A directory's entries by their paths below it, parents before children.
    Directory(BTreeMap<String, TreeEntry>),
}

/// What lies in a shipped directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TreeEntry {
    /// A directory.
    Directory,
    /// A symbolic link and where it leads.
    Link(String),
    /// A file.
    File(ShippedFile),
}

/// A file with its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShippedFile {
    /// Its permissions, for example `0o444`.
    pub mode: u32,
    /// The number of the user that owns it; root without one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub uid: u32,
    /// The number of the group that owns it; root's without one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gid: u32,
    /// What is in it.
    pub contents: FileContents,
}

/// What is in a file. It may be a secret, so that nothing shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileContents {
    /// Text in UTF-8.
    Text(Sensitive),
    /// Anything else, in hexadecimal.
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

    /// The bytes themselves, for the one place that writes them.
    pub fn expose(&self) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::Text(text) => Ok(Cow::Borrowed(text.expose().as_bytes())),
            Self::Hex(digits) => {
                hex::decode(digits.expose())
                    .map(Cow::Owned)
                    .map_err(|_| Error::Corrupt {
                        what: "the contents of a declared file".to_owned(),
                        why: "they are not hexadecimal".to_owned(),
                    })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_come_back_as_they_were_and_show_nothing() {
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
