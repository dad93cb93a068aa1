//! A local cache of code bases that were read from a store.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Mutex;
use tokio_util::io::StreamReader;

use super::{CodeBaseRef, CodeStore, PublishedStore};
use crate::error::{Error, Result};
use crate::stream::ByteStream;

/// A store that caches the archives of another store in a directory. An image can then be rebuilt
/// even if the other store contains a newer version or does not respond.
///
/// # Caveats
/// This store never removes anything from the directory; the bootstrapper removes unused archives
/// on each `up`.
#[derive(Debug)]
pub struct CachingStore {
    directory: PathBuf,
    cached: PublishedStore,
    source: Arc<dyn CodeStore>,
    /// Held while fetching, so that concurrent requests for the same archive fetch it only once.
    fetching: Mutex<()>,
}

impl CachingStore {
    /// Creates a store that reads archives from `source` and caches them in `directory`. The
    /// directory is created on first use.
    pub fn new(directory: PathBuf, source: Arc<dyn CodeStore>) -> Self {
        Self {
            cached: PublishedStore::new(directory.clone()),
            directory,
            source,
            fetching: Mutex::new(()),
        }
    }

    /// Fetches an archive into a temporary file and then renames that file, so that the cache never
    /// contains an incomplete archive.
    async fn fetch(&self, code: &CodeBaseRef) -> Result<()> {
        let target = self.directory.join(PublishedStore::file_name(code)?);
        let draft = target.with_extension("part");
        let writing = |error| Error::io(format!("writing `{}`", draft.display()), error);
        tokio::fs::create_dir_all(&self.directory)
            .await
            .map_err(writing)?;
        let archive = self.source.archive(code).await?;
        let mut reader = StreamReader::new(archive.map_err(std::io::Error::other));
        let mut file = tokio::fs::File::create(&draft).await.map_err(writing)?;
        tokio::io::copy(&mut reader, &mut file)
            .await
            .map_err(|error| Error::io(format!("reading code base `{}`", code.name), error))?;
        file.flush().await.map_err(writing)?;
        file.sync_all().await.map_err(writing)?;
        drop(file);
        tokio::fs::rename(&draft, &target).await.map_err(writing)
    }
}

#[async_trait]
impl CodeStore for CachingStore {
    async fn list(&self) -> Result<Vec<String>> {
        self.source.list().await
    }

    async fn digest(&self, name: &str) -> Result<CodeBaseRef> {
        self.source.digest(name).await
    }

    async fn archive(&self, code: &CodeBaseRef) -> Result<ByteStream> {
        let is_absent = |error: &Error| matches!(error, Error::NotFound { .. });
        match self.cached.archive(code).await {
            Err(error) if is_absent(&error) => {}
            found => return found,
        }
        let _one_at_a_time = self.fetching.lock().await;
        match self.cached.archive(code).await {
            Err(error) if is_absent(&error) => {}
            found => return found,
        }
        self.fetch(code).await?;
        self.cached.archive(code).await
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::code::DirectoryStore;

    async fn read(store: &dyn CodeStore, code: &CodeBaseRef) -> Result<Vec<u8>> {
        let parts: Vec<_> = store
            .archive(code)
            .await?
            .try_collect()
            .await
            .map_err(|error| Error::io("reading", error))?;
        Ok(parts.concat())
    }

    #[tokio::test]
    async fn cached_archives_remain_when_the_store_changes() {
        let (home, source) = (
            tempfile::TempDir::new().unwrap(),
            tempfile::TempDir::new().unwrap(),
        );
        let base = source.path().join("api");
        fs::create_dir(&base).unwrap();
        fs::write(base.join("Dockerfile"), "FROM scratch\n").unwrap();
        let origin = Arc::new(DirectoryStore::new(source.path().into()));
        let cached = home.path().join("code");
        let store = CachingStore::new(cached.clone(), origin.clone());
        let code = store.digest("api").await.unwrap();
        let first = read(&store, &code).await.unwrap();
        assert_eq!(first, read(origin.as_ref(), &code).await.unwrap());

        fs::write(base.join("Dockerfile"), "FROM scratch\nEXPOSE 80\n").unwrap();
        assert!(read(origin.as_ref(), &code).await.is_err());
        assert_eq!(first, read(&store, &code).await.unwrap());
        let other = store.digest("api").await.unwrap();
        assert_ne!(read(&store, &other).await.unwrap(), first);
        let files = fs::read_dir(&cached).unwrap().count();
        assert_eq!(files, 2, "only the two archives are left");
    }

    #[tokio::test]
    async fn an_interrupted_read_is_not_cached() {
        #[derive(Debug)]
        struct Broken;
        #[async_trait]
        impl CodeStore for Broken {
            async fn list(&self) -> Result<Vec<String>> {
                Ok(Vec::new())
            }
            async fn digest(&self, name: &str) -> Result<CodeBaseRef> {
                Err(Error::not_found(name.to_owned()))
            }
            async fn archive(&self, _: &CodeBaseRef) -> Result<ByteStream> {
                let parts = [
                    Ok(bytes::Bytes::from_static(b"half")),
                    Err(std::io::Error::other("gone")),
                ];
                Ok(Box::pin(futures_util::stream::iter(parts)))
            }
        }
        let home = tempfile::TempDir::new().unwrap();
        let store = CachingStore::new(home.path().into(), Arc::new(Broken));
        let code = CodeBaseRef {
            name: "api".into(),
            digest: "a".repeat(64),
        };
        for _ in 0..2 {
            let error = read(&store, &code).await.unwrap_err();
            assert!(error.chain().contains("gone"), "{error:?}");
        }
    }
}
