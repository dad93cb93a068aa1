//! Reads a local directory twice for a publish: first to compute the digest and the chunks, and
//! then to send the chunks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use lifecycle_core::code::digest::{self, Hasher, Kind};
use lifecycle_core::{Error, Result};
use sha2::{Digest as _, Sha256};

use super::CHUNK;
use super::version::{Chunk, Sha, Stored};

pub(super) struct Local {
    pub(super) digest: String,
    pub(super) entries: Vec<(String, LocalEntry)>,
    /// The location of each chunk's bytes.
    pub(super) sources: BTreeMap<Sha, Source>,
}

pub(super) enum LocalEntry {
    Directory,
    File {
        executable: bool,
        sha256: Sha,
        chunks: Vec<Sha>,
    },
    Symlink {
        target: String,
    },
}

/// The range of a file that contains a chunk.
#[derive(Debug, Clone)]
pub(super) struct Source {
    path: PathBuf,
    offset: u64,
    size: usize,
}

impl LocalEntry {
    /// Converts the entry to the format of the index.
    pub(super) fn stored(&self, chunks: &BTreeMap<Sha, Chunk>, doing: &str) -> Result<Stored> {
        let found = |sha: &Sha| match chunks.get(sha) {
            Some(chunk) => Ok(chunk.clone()),
            None => Err(Error::failed(doing, "a chunk was not sent")),
        };
        Ok(match self {
            Self::Directory => Stored::Directory,
            Self::Symlink { target } => Stored::Symlink {
                target: target.clone(),
            },
            Self::File {
                executable,
                sha256,
                chunks,
            } => Stored::File {
                executable: *executable,
                sha256: *sha256,
                chunks: chunks.iter().map(found).collect::<Result<_>>()?,
            },
        })
    }
}

impl Source {
    /// Reads the bytes and checks that the file has not changed.
    pub(super) async fn read(self, expected: Sha, doing: &str) -> Result<Bytes> {
        let read = move || {
            let failed = |error| Error::io(format!("reading `{}`", self.path.display()), error);
            let mut file = File::open(&self.path).map_err(failed)?;
            file.seek(SeekFrom::Start(self.offset)).map_err(failed)?;
            let mut bytes = Vec::with_capacity(self.size);
            file.take(self.size as u64)
                .read_to_end(&mut bytes)
                .map_err(failed)?;
            if Sha256::digest(&bytes)[..] == expected.0 {
                return Ok(Bytes::from(bytes));
            }
            Err(Error::conflict(
                format!("`{}`", self.path.display()),
                "the file changed while it was being published",
            ))
        };
        blocking(doing, read).await
    }
}

/// Reads the entries of a directory and computes the chunks of its files.
pub(super) async fn local(directory: &Path, doing: &str) -> Result<Local> {
    let root = directory.to_owned();
    blocking(doing, move || {
        if !root.is_dir() {
            return Err(Error::not_found(format!("directory `{}`", root.display())));
        }
        let mut hasher = Hasher::new();
        let (mut entries, mut sources) = (Vec::new(), BTreeMap::new());
        for (path, kind) in digest::entries(&root)? {
            let (entry, content) = match &kind {
                Kind::Directory => (LocalEntry::Directory, None),
                Kind::Symlink { target } => match target.to_str() {
                    Some(target) => {
                        let target = target.to_owned();
                        (LocalEntry::Symlink { target }, None)
                    }
                    None => {
                        return Err(Error::invalid(
                            format!("symbolic link `{}`", root.join(&path).display()),
                            "the target is not UTF-8",
                            "change the target, or add the link to `.dockerignore`",
                        ));
                    }
                },
                Kind::File { executable } => {
                    let (sha256, chunks) = chunks_of(&root.join(&path), &mut sources)?;
                    let executable = *executable;
                    let entry = LocalEntry::File {
                        executable,
                        sha256,
                        chunks,
                    };
                    (entry, Some(sha256.0))
                }
            };
            hasher.add(&path, &kind, content);
            entries.push((path, entry));
        }
        Ok(Local {
            digest: hasher.finish(),
            entries,
            sources,
        })
    })
    .await
}

fn chunks_of(path: &Path, sources: &mut BTreeMap<Sha, Source>) -> Result<(Sha, Vec<Sha>)> {
    let failed = |error| Error::io(format!("reading `{}`", path.display()), error);
    let mut file = File::open(path).map_err(failed)?;
    let mut whole = Sha256::new();
    let mut chunks = Vec::new();
    let mut offset = 0;
    let mut bytes = Vec::with_capacity(CHUNK);
    loop {
        bytes.clear();
        let part = file.by_ref().take(CHUNK as u64);
        let size = { part }.read_to_end(&mut bytes).map_err(failed)?;
        if size == 0 {
            return Ok((Sha(whole.finalize().into()), chunks));
        }
        whole.update(&bytes);
        let sha = Sha(Sha256::digest(&bytes).into());
        chunks.push(sha);
        sources.entry(sha).or_insert_with(|| Source {
            path: path.to_owned(),
            offset,
            size,
        });
        offset += size as u64;
    }
}

/// Runs `work`, which may block, on one of the runtime's threads for blocking work.
async fn blocking<T: Send + 'static>(
    doing: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::failed(doing, error.to_string())),
    }
}
