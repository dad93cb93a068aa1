//! Creates the manager's image, which contains only one static binary.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::manager_container::ManagerImage;
use crate::error::{Error, Result};
use crate::host::ByteStream;

/// The Dockerfile for the binary in the build context.
const DOCKERFILE: &str = "\
FROM scratch
COPY lifecycle-manager /lifecycle-manager
ENTRYPOINT [\"/lifecycle-manager\"]
";

/// The name of the binary in the build context.
const BINARY: &str = "lifecycle-manager";

/// The size of one read, in bytes.
const CHUNK: usize = 256 * 1024;

/// An image that contains a static Linux binary.
#[derive(Debug, Clone)]
pub struct StaticBinary {
    path: PathBuf,
}

impl StaticBinary {
    /// Creates the image for the binary at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn cannot_read(path: &Path, error: std::io::Error) -> Error {
        if error.kind() == std::io::ErrorKind::NotFound {
            return Error::Invalid {
                what: path.display().to_string(),
                why: "the lifecycle manager's program does not exist".into(),
                hint: "build the program (`cargo build -p lifecycle-manager`), or copy it to the \
                       directory of the bootstrapper"
                    .into(),
            };
        }
        Error::io(format!("reading {}", path.display()), error)
    }
}

#[async_trait]
impl ManagerImage for StaticBinary {
    async fn digest(&self) -> Result<String> {
        let path = self.path.clone();
        let hashed = tokio::task::spawn_blocking(move || {
            let mut hash = Sha256::new();
            hash.update(DOCKERFILE);
            std::fs::File::open(&path)
                .and_then(|mut file| std::io::copy(&mut file, &mut Hashing(&mut hash)))
                .map(|_| hex::encode(hash.finalize()))
                .map_err(|error| Self::cannot_read(&path, error))
        });
        hashed
            .await
            .map_err(|error| Error::failed("reading the manager's program", error.to_string()))?
    }

    async fn context(&self) -> Result<ByteStream> {
        let file = std::fs::File::open(&self.path)
            .map_err(|error| Self::cannot_read(&self.path, error))?;
        let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let failed = sender.clone();
            if let Err(error) = archive(file, Sending(sender)) {
                // If the receiver is gone, nothing needs the error.
                drop(failed.blocking_send(Err(error)));
            }
        });
        Ok(Box::pin(futures_util::stream::poll_fn(move |context| {
            receiver.poll_recv(context)
        })))
    }
}

fn archive(binary: std::fs::File, sink: Sending) -> std::io::Result<()> {
    let mut archive = tar::Builder::new(std::io::BufWriter::with_capacity(CHUNK, sink));
    let header = |size: u64, mode: u32| {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(mode);
        header.set_mtime(0);
        header
    };
    let size = binary.metadata()?.len();
    archive.append_data(
        &mut header(DOCKERFILE.len() as u64, 0o644),
        "Dockerfile",
        DOCKERFILE.as_bytes(),
    )?;
    archive.append_data(&mut header(size, 0o755), BINARY, binary)?;
    std::io::Write::flush(&mut archive.into_inner()?)
}

/// A writer that hashes its input.
struct Hashing<'a>(&'a mut Sha256);

impl std::io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A writer that sends its input to a channel.
struct Sending(tokio::sync::mpsc::Sender<std::io::Result<Bytes>>);

impl std::io::Write for Sending {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn the_digest_covers_the_binary_in_the_context() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("binary");
        let contents = vec![7_u8; CHUNK * 2 + 3];
        std::fs::write(&path, &contents).unwrap();
        let image = StaticBinary::new(path.clone());
        let chunks: Vec<Bytes> = image.context().await.unwrap().try_collect().await.unwrap();
        let bytes = chunks.concat();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut found = std::collections::BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mode = entry.header().mode().unwrap();
            let mut text = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut text).unwrap();
            found.insert(name, (mode, text));
        }
        assert_eq!(found["lifecycle-manager"], (0o755, contents));
        assert!(found["Dockerfile"].1.starts_with(b"FROM scratch"));

        let before = image.digest().await.unwrap();
        assert_eq!(before, image.digest().await.unwrap());
        std::fs::write(&path, "other").unwrap();
        assert_ne!(before, image.digest().await.unwrap());
    }

    #[tokio::test]
    async fn a_missing_program_has_a_hint() {
        let image = StaticBinary::new("/nowhere/lifecycle-manager".into());
        let error = image.digest().await.unwrap_err();
        assert!(error.hint().unwrap().contains("cargo build"), "{error}");
    }
}
