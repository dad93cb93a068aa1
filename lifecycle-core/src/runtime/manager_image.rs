//! The source of the manager's image, which contains only one static binary.

use std::fmt::Debug;
use std::fs::File;
use std::io::{BufWriter, Cursor, Read as _, Seek as _, Write as _, repeat};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::stream::ByteStream;

/// The name of the binary in the image.
const BINARY: &str = "lifecycle-manager";

/// The version of the image's format, which is part of its digest.
const FORMAT: &str = "2";

/// The name of the layer in the image's archive.
const LAYER: &str = "layer.tar";

/// The size of a tar archive's blocks, in bytes.
const BLOCK: u64 = 512;

/// The size of one read, in bytes.
const CHUNK: usize = 256 * 1024;

/// The source of the manager's image.
///
/// # Guarantees
/// The digest changes whenever the image changes.
#[async_trait]
pub trait ManagerImage: Debug + Send + Sync + 'static {
    /// Returns a digest of the contents, in hexadecimal.
    async fn digest(&self) -> Result<String>;

    /// Returns the image as an archive for
    /// [`import_image`](super::ContainerRuntime::import_image): in the format of
    /// `docker save`, with this name as its only tag.
    async fn archive(&self, name: &str) -> Result<ByteStream>;
}

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
            hash.update(FORMAT);
            File::open(&path)
                .and_then(|mut file| std::io::copy(&mut file, &mut Hashing(&mut hash)))
                .map(|_| hex::encode(hash.finalize()))
                .map_err(|error| Self::cannot_read(&path, error))
        });
        hashed
            .await
            .map_err(|error| Error::failed("reading the manager's program", error.to_string()))?
    }

    async fn archive(&self, name: &str) -> Result<ByteStream> {
        let file = File::open(&self.path).map_err(|error| Self::cannot_read(&self.path, error))?;
        let name = name.to_owned();
        let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let failed = sender.clone();
            if let Err(error) = write_image(file, &name, Sending(sender)) {
                // If the receiver is gone, nothing needs the error.
                drop(failed.blocking_send(Err(error)));
            }
        });
        Ok(Box::pin(futures_util::stream::poll_fn(move |context| {
            receiver.poll_recv(context)
        })))
    }
}

/// Writes an image with one layer, in the format of `docker save`
/// (<https://github.com/moby/docker-image-spec/blob/main/v1.2.md>).
fn write_image(mut binary: File, name: &str, sink: Sending) -> std::io::Result<()> {
    let mut head = [0; 20];
    binary.read_exact(&mut head)?;
    let architecture = architecture(head)?;
    let mut hash = Sha256::new();
    let (length, mut contents) = layer(&binary)?;
    std::io::copy(&mut contents, &mut Hashing(&mut hash))?;
    let config = serde_json::to_vec(&json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": [format!("/{BINARY}")]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex::encode(hash.finalize()))]},
    }))?;
    let config_file = format!("{}.json", hex::encode(Sha256::digest(&config)));
    let manifest = json!([{"Config": config_file, "RepoTags": [name], "Layers": [LAYER]}]);
    let manifest = serde_json::to_vec(&manifest)?;

    let mut archive = tar::Builder::new(BufWriter::with_capacity(CHUNK, sink));
    for (file, contents) in [(config_file.as_str(), config), ("manifest.json", manifest)] {
        let mut header = header(contents.len() as u64, 0o644);
        archive.append_data(&mut header, file, contents.as_slice())?;
    }
    let (_, contents) = layer(&binary)?;
    archive.append_data(&mut header(length, 0o644), LAYER, contents)?;
    archive.into_inner()?.flush()
}

/// Returns a layer with the binary, which is a tar archive, and its length.
fn layer(mut binary: &File) -> std::io::Result<(u64, impl std::io::Read)> {
    binary.rewind()?;
    let size = binary.metadata()?.len();
    let mut header = header(size, 0o755);
    header.set_path(BINARY)?;
    header.set_cksum();
    let header = Cursor::new(header.as_bytes().to_vec());
    // Two empty blocks mark the end.
    let zeros = size.next_multiple_of(BLOCK) - size + 2 * BLOCK;
    let contents = header.chain(binary.take(size)).chain(repeat(0).take(zeros));
    Ok((BLOCK + size + zeros, contents))
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header
}

/// Returns the engine's name for the machine in the header of an ELF file (`e_machine`).
fn architecture(head: [u8; 20]) -> std::io::Result<&'static str> {
    let machine = u16::from_le_bytes([head[18], head[19]]);
    match machine {
        _ if !head.starts_with(b"\x7fELF") => Err(std::io::Error::other(
            "the lifecycle manager's program is not a Linux program",
        )),
        0x3e => Ok("amd64"),
        0xb7 => Ok("arm64"),
        other => Err(std::io::Error::other(format!(
            "the lifecycle manager's program is for an unsupported machine (ELF {other:#x})"
        ))),
    }
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
    use std::collections::BTreeMap;

    use futures_util::TryStreamExt;
    use serde_json::Value;

    use super::*;

    /// Returns the files of a tar archive with their modes.
    fn unpacked(bytes: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut archive = tar::Archive::new(bytes);
        let entries = archive.entries().unwrap();
        let files = entries.map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mode = entry.header().mode().unwrap();
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).unwrap();
            (name, (mode, contents))
        });
        files.collect()
    }

    #[tokio::test]
    async fn the_image_contains_the_binary() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("binary");
        for size in [CHUNK * 2 + 3, 1024] {
            let mut contents = vec![7_u8; size];
            contents[..4].copy_from_slice(b"\x7fELF");
            contents[18..20].copy_from_slice(&[0xb7, 0]);
            std::fs::write(&path, &contents).unwrap();
            let image = StaticBinary::new(path.clone());
            let archive = image.archive("shop/manager:1").await.unwrap();
            let chunks: Vec<Bytes> = archive.try_collect().await.unwrap();
            let files = unpacked(&chunks.concat());
            let manifest: Value = serde_json::from_slice(&files["manifest.json"].1).unwrap();
            assert_eq!(manifest[0]["RepoTags"], json!(["shop/manager:1"]));
            let config = &files[manifest[0]["Config"].as_str().unwrap()].1;
            let config: Value = serde_json::from_slice(config).unwrap();
            assert_eq!(config["architecture"], "arm64");
            let layer = &files[LAYER].1;
            let digest = format!("sha256:{}", hex::encode(Sha256::digest(layer)));
            assert_eq!(config["rootfs"]["diff_ids"], json!([digest]));
            let expected = BTreeMap::from([(BINARY.to_owned(), (0o755, contents))]);
            assert_eq!(unpacked(layer), expected);
        }
    }

    #[tokio::test]
    async fn a_program_for_another_machine_is_rejected() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("binary");
        for (head, expected) in [
            (b"\x7fELF", "unsupported machine"),
            (b"#!/b", "not a Linux"),
        ] {
            std::fs::write(&path, [head.as_slice(), &[0; 60]].concat()).unwrap();
            let archive = StaticBinary::new(path.clone())
                .archive("a:1")
                .await
                .unwrap();
            let error = archive.try_collect::<Vec<Bytes>>().await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn the_digest_covers_the_binary() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("binary");
        let image = StaticBinary::new(path.clone());
        std::fs::write(&path, "one").unwrap();
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
