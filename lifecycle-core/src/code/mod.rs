//! Code stores, and the digests of code bases.
//!
//! - [`DirectoryStore`] reads code bases from the user's directories.
//! - A [`CodePublisher`] is a store to which the user's directories can be published.
//! - [`PublishedStore`] reads archives that are stored on the manager's node.
//! - [`CachingStore`] caches the archives of another store on the manager's node.

pub mod archive;
mod caching;
pub mod digest;
mod directory;
mod dockerignore;
mod inline;
mod pack;
mod published;
pub mod publishing;
pub(crate) mod regular;
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
pub(crate) use tree::{read_chunked_tree, read_small_tree, read_tree};

/// A store of code bases.
///
/// # Guarantees
/// - `digest` applies `.dockerignore`. The same files have the same digest on every machine and in
///   every store. To compute digests and archives, use [`pack`] for files in memory and
///   [`pack_entries`] for all other files.
/// - `archive` is an uncompressed tar archive of exactly the files that the digest covers, sorted
///   and without times and owners.
///
/// # Errors
/// [`crate::Error::NotFound`] if the code base does not exist.
#[async_trait]
pub trait CodeStore: Debug + Send + Sync + 'static {
    /// Returns the names of all code bases, sorted.
    async fn list(&self) -> Result<Vec<String>>;

    /// Returns the current digest of a code base.
    async fn digest(&self, name: &str) -> Result<CodeBaseRef>;

    /// Returns the code base as a build context, or [`crate::Error::Conflict`] if the code base's
    /// digest has changed.
    async fn archive(&self, code: &CodeBaseRef) -> Result<ByteStream>;
}

/// Returns the first `limit` bytes of a file in a code base, or `None` if the file does not exist.
/// Searches the code base's archive for the file.
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
