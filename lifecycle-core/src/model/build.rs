//! The sources of built images.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Protocol;
use super::container::is_default;
use crate::secret::Sensitive;

/// A code base, identified by name and contents.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CodeBaseRef {
    /// The name of the code base in the code store, or its path relative to the Compose file.
    pub name: String,
    /// SHA-256 of the code base's files (paths, modes and contents, sorted), in hexadecimal.
    pub digest: String,
}

/// Everything that determines a built image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSource {
    pub code: CodeBaseRef,
    /// The path of the Dockerfile in the code base.
    pub dockerfile: String,
    #[serde(default)]
    pub args: BTreeMap<String, Sensitive>,
    /// The images in the Dockerfile's `FROM` lines, except `scratch` and the Dockerfile's own
    /// stages.
    #[serde(default)]
    pub bases: Vec<String>,
    /// The ports in the Dockerfile's `EXPOSE` lines.
    #[serde(default, skip_serializing_if = "is_default")]
    pub exposes: BTreeSet<(u16, Protocol)>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: BuildOptions,
}

/// Options of the build other than context, Dockerfile and arguments. Default values are not
/// serialized, so they do not affect the digest of the build inputs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildOptions {
    /// The text of a Dockerfile that replaces the code base's own Dockerfile.
    #[serde(skip_serializing_if = "is_default")]
    pub inline: Option<String>,
    /// The stage to build; the last one by default.
    #[serde(skip_serializing_if = "is_default")]
    pub target: Option<String>,
    /// The network of the build steps: `host`, `none` or the engine's default.
    #[serde(skip_serializing_if = "is_default")]
    pub network: Option<String>,
    /// The size of `/dev/shm` for the build steps, in bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub shm_bytes: Option<u64>,
    /// Additional lines for `/etc/hosts` in the build steps: `name:address`.
    #[serde(skip_serializing_if = "is_default")]
    pub extra_hosts: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    /// Images whose layers are used as a cache, if the engine has them.
    #[serde(skip_serializing_if = "is_default")]
    pub cache_from: Vec<String>,
}
