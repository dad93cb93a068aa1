//! Reads code bases that are stored on the manager's node. Each code base is one archive, whose
//! file name is the digest.

use std::io::ErrorKind;
use std::path::PathBuf;

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio_util::io::ReaderStream;

use super::{CodeBaseRef, CodeStore};
use crate::error::{Error, Result};
use crate::stream::ByteStream;

/// A code store that reads `<digest>.tar` files from a directory.
///
/// # Caveats
/// The store does not know the names of its code bases: `list` returns [`Error::Unsupported`], and
/// `digest` returns [`Error::NotFound`]. The digests are in the declaration.
#[derive(Debug, Clone)]
pub struct PublishedStore {
    directory: PathBuf,
}

impl PublishedStore {
    /// Creates a store for the archives in `directory`.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Returns the file name of a published code base.
    pub fn file_name(code: &CodeBaseRef) -> Result<String> {
        let is_digest = code.digest.len() == 64
            && code
                .digest
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if is_digest {
            Ok(format!("{}.tar", code.digest))
        } else {
            Err(Error::Invalid {
                what: format!("digest `{}` of code base `{}`", code.digest, code.name),
                why: "it is not a SHA-256 hash in lower-case hexadecimal".to_owned(),
                hint: "run `bootstrapper up` again".to_owned(),
            })
        }
    }
}

#[async_trait]
impl CodeStore for PublishedStore {
    async fn list(&self) -> Result<Vec<String>> {
        Err(Error::Unsupported {
            what: "listing code bases by name".to_owned(),
            backend: "the store of published code bases".into(),
        })
    }

    async fn digest(&self, name: &str) -> Result<CodeBaseRef> {
        Err(Error::not_found(format!(
            "a published code base with the name `{name}`"
        )))
    }

    async fn archive(&self, code: &CodeBaseRef) -> Result<ByteStream> {
        let path = self.directory.join(Self::file_name(code)?);
        match tokio::fs::File::open(&path).await {
            Ok(file) => Ok(ReaderStream::with_capacity(file, 64 * 1024).boxed()),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::not_found(format!(
                "the published code base `{}` with digest {}",
                code.name, code.digest
            ))),
            Err(error) => Err(Error::io(format!("opening `{}`", path.display()), error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::TryStreamExt;
    use tempfile::TempDir;

    use super::*;

    fn code(digest: &str) -> CodeBaseRef {
        CodeBaseRef {
            name: "svc".to_owned(),
            digest: digest.to_owned(),
        }
    }

    #[tokio::test]
    async fn returns_the_stored_archive() {
        let directory = TempDir::new().unwrap();
        let store = PublishedStore::new(directory.path().to_owned());
        let content = vec![7_u8; 200_000];
        let digest = "a".repeat(64);
        std::fs::write(directory.path().join(format!("{digest}.tar")), &content).unwrap();
        let chunks: Vec<Bytes> = store
            .archive(&code(&digest))
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        assert_eq!(chunks.concat(), content);
        let absent = store
            .archive(&code(&"b".repeat(64)))
            .await
            .map(drop)
            .unwrap_err();
        assert!(matches!(absent, Error::NotFound { .. }));
    }

    #[tokio::test]
    async fn a_digest_cannot_escape_the_directory() {
        let store = PublishedStore::new("/".into());
        for bad in ["../etc/passwd", "", &"A".repeat(64)] {
            let error = store.archive(&code(bad)).await.map(drop).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{bad}");
        }
    }
}
