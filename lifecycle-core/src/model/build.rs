//! What an image is built from.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Protocol;
use super::container::is_default;
use crate::secret::Sensitive;

/// A code base by name and content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CodeBaseRef {
    /// Its name in the code store, or its path relative to the Compose file.
    pub name: String,
    /// SHA-256 over its files (paths, modes, contents, sorted), in hexadecimal.
    pub digest: String,
}

/// What an image is built from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSource {
    /// The code base, by name and content.
    pub code: CodeBaseRef,
    /// The Dockerfile's path within the code base.
    pub dockerfile: String,
    /// Build arguments.
    #[serde(default)]
    pub args: BTreeMap<String, Sensitive>,
    /// The images that the Dockerfile's `FROM` lines name, without its own stages and `scratch`.
    #[serde(default)]
    pub bases: Vec<String>,
    /// The ports that the Dockerfile's `EXPOSE` lines name: known before the image is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub exposes: BTreeSet<(u16, Protocol)>,
    /// What else the builder is told.
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: BuildOptions,
}

/// What the builder is told beyond context, Dockerfile and arguments. Every field serialises to
/// nothing at its default, as the image digest asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildOptions {
    /// A Dockerfile in place of the code base's own.
    #[serde(skip_serializing_if = "is_default")]
    pub inline: Option<String>,
    /// The stage that is built; the last one without it.
    #[serde(skip_serializing_if = "is_default")]
    pub target: Option<String>,
    /// The network of the steps: `host`, `none` or the engine's default.
    #[serde(skip_serializing_if = "is_default")]
    pub network: Option<String>,
    /// Bytes of `/dev/shm` in the steps.
    #[serde(skip_serializing_if = "is_default")]
    pub shm_bytes: Option<u64>,
    /// Further lines of `/etc/hosts` in the steps: `name:address`.
    #[serde(skip_serializing_if = "is_default")]
    pub extra_hosts: Vec<String>,
    /// Labels of the image.
    #[serde(skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    /// Images whose layers serve as a cache, if the engine has them.
    #[serde(skip_serializing_if = "is_default")]
    pub cache_from: Vec<String>,
}
