//! Where code bases live, and how their contents are told apart.

use std::fmt::Debug;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::host::ByteStream;

/// A code base by name and content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CodeBaseRef {
    /// Its name in the code store, or its path beside the compose file.
    pub name: String,
    /// SHA-256 over its files (paths, modes, contents, sorted), in hexadecimal.
    pub digest: String,
}

/// A place that holds code bases.
///
/// # Guarantees
/// - `digest` honours `.dockerignore`; the same files give the same digest on every machine.
/// - `archive` is an uncompressed tar in sorted order without times and owners, of exactly the
///   files that the digest covers.
///
/// # Errors
/// A code base that is absent is [`crate::Error::NotFound`].
#[async_trait]
pub trait CodeStore: Debug + Send + Sync + 'static {
    /// The names of all code bases, sorted.
    async fn list(&self) -> Result<Vec<String>>;

    /// What a code base holds now.
    async fn digest(&self, name: &str) -> Result<CodeBaseRef>;

    /// The code base as a build context. Fails with [`crate::Error::Conflict`] if its digest
    /// is no longer the one asked for.
    async fn archive(&self, code: &CodeBaseRef) -> Result<ByteStream>;
}
