//! Runs the conformance suite for code stores with directories and with published archives. Only a
//! part of the suite applies to published archives.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use lifecycle_core::code::{CodeBaseRef, CodeStore, DirectoryStore, PublishedStore};
use lifecycle_core::conformance::code::{self, CodeBench};
use lifecycle_core::host::ByteStream;
use lifecycle_core::{Error, Result};
use tempfile::TempDir;

fn io<T>(outcome: std::io::Result<T>) -> Result<T> {
    outcome.map_err(|error| Error::io("a code base", error))
}

/// Code bases in a temporary directory.
#[derive(Debug)]
struct Directory {
    root: TempDir,
    store: DirectoryStore,
}

impl Directory {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(root.path().to_owned());
        Self { root, store }
    }

    fn clear(path: &Path) -> Result<()> {
        if path.exists() {
            io(fs::remove_dir_all(path))?;
        }
        Ok(())
    }
}

#[async_trait]
impl CodeBench for Directory {
    fn store(&self) -> &dyn CodeStore {
        &self.store
    }

    async fn write(&self, name: &str, files: &[(&str, &str)]) -> Result<()> {
        let base = self.root.path().join(name);
        Self::clear(&base)?;
        for (path, text) in files {
            let path = base.join(path);
            io(fs::create_dir_all(path.parent().unwrap()))?;
            io(fs::write(path, text))?;
        }
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<()> {
        Self::clear(&self.root.path().join(name))
    }
}

/// A directory whose code bases are published as archives when they are written. Names and digests
/// come from the directory, archives from the published files.
#[derive(Debug)]
struct Published {
    source: Directory,
    directory: TempDir,
    store: PublishedStore,
}

impl Published {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = PublishedStore::new(directory.path().to_owned());
        Self {
            source: Directory::new(),
            directory,
            store,
        }
    }
}

#[async_trait]
impl CodeStore for Published {
    async fn list(&self) -> Result<Vec<String>> {
        self.source.store.list().await
    }

    async fn digest(&self, name: &str) -> Result<CodeBaseRef> {
        self.source.store.digest(name).await
    }

    async fn archive(&self, code: &CodeBaseRef) -> Result<ByteStream> {
        self.store.archive(code).await
    }
}

#[async_trait]
impl CodeBench for Published {
    fn store(&self) -> &dyn CodeStore {
        self
    }

    async fn write(&self, name: &str, files: &[(&str, &str)]) -> Result<()> {
        self.source.write(name, files).await?;
        let code = self.source.store.digest(name).await?;
        let archive = self.source.store.archive(&code).await?;
        let archive: Vec<_> = io(archive.try_collect().await)?;
        let file = self
            .directory
            .path()
            .join(PublishedStore::file_name(&code)?);
        io(fs::write(file, archive.concat()))
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.source.remove(name).await
    }
}

#[tokio::test]
async fn directories_pass_the_suite() {
    code::all(&Directory::new()).await.unwrap();
}

/// Some checks of the suite do not apply: the store cannot list code bases, and it returns outdated
/// archives as long as they exist.
#[tokio::test]
async fn published_archives_match_their_digest() {
    let published = Published::new();
    code::a_missing_code_base_is_not_found(&published)
        .await
        .unwrap();
    code::an_archive_contains_what_the_digest_covers(&published)
        .await
        .unwrap();
    code::ignored_files_are_excluded(&published).await.unwrap();

    let listed = published.store.list().await;
    assert!(
        matches!(listed, Err(Error::Unsupported { .. })),
        "{listed:?}"
    );
    let named = published.store.digest("conformance-archive").await;
    assert!(matches!(named, Err(Error::NotFound { .. })), "{named:?}");
}
