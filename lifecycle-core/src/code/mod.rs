//! Code stores, and the digests of code bases.
//!
//! [`DirectoryStore`] reads code bases from the user's directories; a [`CodePublisher`] receives
//! them, for others to build from; [`PublishedStore`] contains their archives on the manager's
//! node; [`CachingStore`] caches on that node what the manager reads from another store.

pub mod archive;
mod caching;
pub mod digest;
mod directory;
mod dockerignore;
mod inline;
mod pack;
mod published;
pub mod publishing;
mod tree;

use std::fmt::Debug;
use std::io::Read;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::error::{Error, Result};
use crate::stream::ByteStream;

pub use crate::model::CodeBaseRef;
pub use caching::CachingStore;
pub use directory::DirectoryStore;
pub(crate) use inline::with_file;
pub use pack::{FileContent, Packed, pack, pack_entries};
pub use published::PublishedStore;
pub use publishing::{CodePublisher, Published};
pub(crate) use tree::read_tree;

/// A store of code bases.
///
/// # Guarantees
/// - `digest` applies `.dockerignore`; the same files give the same digest on every machine and in
///   every store. [`pack`] computes the digest and the archive of files in memory, [`pack_entries`]
///   those of files that are stored anywhere else.
/// - `archive` is an uncompressed tar archive that contains exactly the files that the digest
///   covers, in sorted order and without times and owners.
///
/// # Errors
/// A missing code base is [`crate::Error::NotFound`].
#[async_trait]
pub trait CodeStore: Debug + Send + Sync + 'static {
    /// Returns the names of all code bases, sorted.
    async fn list(&self) -> Result<Vec<String>>;

    /// Returns the current digest of a code base.
    async fn digest(&self, name: &str) -> Result<CodeBaseRef>;

    /// Returns the code base as a build context. Returns [`crate::Error::Conflict`] if its digest
    /// has changed.
    async fn archive(&self, code: &CodeBaseRef) -> Result<ByteStream>;
}

/// Reads one file of a code base, at most `limit` bytes of it; returns `None` if the code base has
/// no such file. Reads the archive up to that file, so that it works with any store.
pub async fn read_file(
    store: &dyn CodeStore,
    code: &CodeBaseRef,
    path: &str,
    limit: u64,
) -> Result<Option<Vec<u8>>> {
    let archive = store.archive(code).await?;
    let reader = SyncIoBridge::new(StreamReader::new(archive.map_err(std::io::Error::other)));
    let searched = path.to_owned();
    let what = format!("reading `{path}` of code base `{}`", code.name);
    let found = tokio::task::spawn_blocking(move || -> std::io::Result<Option<Vec<u8>>> {
        let mut archive = tar::Archive::new(reader);
        for entry in archive.entries()? {
            let entry = entry?;
            if entry.header().entry_type().is_file() && *entry.path_bytes() == *searched.as_bytes()
            {
                let mut content = Vec::new();
                entry.take(limit).read_to_end(&mut content)?;
                return Ok(Some(content));
            }
        }
        Ok(None)
    })
    .await
    .map_err(|error| Error::failed(what.clone(), error.to_string()))?;
    found.map_err(|error| Error::io(what, error))
}
