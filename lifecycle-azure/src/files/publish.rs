//! Publishing: a directory of this machine becomes a version of a code base in the share.
//!
//! Only chunks that the current version lacks are sent. What others may be reading is never
//! touched; the version appears with the one write of its record, which comes last.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lifecycle_core::code::CodeBaseRef;
use lifecycle_core::code::digest::{self, Hasher, Kind, OWN_DIRECTORY};
use lifecycle_core::{Error, Result};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use super::name::Name;
use super::published;
use super::version::{self, Chunk, MOST_OF_RECORD, Record, Sha, Stored, Version};
use super::{AzureFiles, CHUNK, PARALLEL};

/// What a publish did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// What the share holds now.
    pub code: CodeBaseRef,
    /// Whether it held that before.
    pub unchanged: bool,
    /// How many bytes of contents were sent.
    pub bytes_sent: u64,
    /// How many files that nobody needs any more were removed from the share.
    pub files_removed: usize,
}

/// A directory of this machine, read once.
struct Local {
    digest: String,
    entries: Vec<(String, LocalEntry)>,
    /// Where each chunk's bytes are found.
    sources: BTreeMap<Sha, Source>,
}

enum LocalEntry {
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

/// Some bytes of a file.
#[derive(Debug, Clone)]
struct Source {
    path: PathBuf,
    offset: u64,
    size: usize,
}

impl AzureFiles {
    /// Makes the directory the code base of this name, as [`DirectoryStore`] reads it: what its
    /// `.dockerignore` leaves out is not sent. The same files have the same digest here and there.
    ///
    /// Whoever reads meanwhile gets the former version or the new one. A publish that is broken
    /// off has no effect but some files that later ones remove.
    ///
    /// # Errors
    /// [`Error::Conflict`] if somebody else published the same name at the same time and came
    /// last, or if the directory changes meanwhile; [`Error::TimedOut`] if it takes more than half
    /// the time that versions are kept.
    ///
    /// [`DirectoryStore`]: lifecycle_core::code::DirectoryStore
    pub async fn publish(&self, name: &str, directory: &Path) -> Result<Published> {
        let name = Name::parse(name)?;
        let doing = format!("publishing code base `{name}`");
        let begun = Instant::now();
        let local = local(directory, &doing).await?;
        self.refuse_plain(&name, &doing).await?;

        let former = self.current_of_publish(&name, &doing).await?;
        let code = CodeBaseRef {
            name: name.to_string(),
            digest: local.digest.clone(),
        };
        if former
            .as_ref()
            .is_some_and(|former| former.digest == local.digest)
        {
            return Ok(Published {
                code,
                unchanged: true,
                bytes_sent: 0,
                files_removed: 0,
            });
        }
        let publish = self.ids.uuid();
        let version = self
            .send(&name, publish, &local, former.as_deref(), &doing)
            .await?;
        if begun.elapsed() > self.keep / 2 {
            // Others may have begun to remove what this version counts on.
            return Err(Error::TimedOut {
                what: doing,
                after: self.keep / 2,
            });
        }
        self.commit(&name, publish, &version.0, &doing).await?;
        let files_removed = match self.tidy(&name, &doing).await {
            Ok(removed) => removed,
            Err(error) => {
                // The next publish removes it.
                tracing::warn!(%name, error = error.chain(), "former versions are left over");
                0
            }
        };
        Ok(Published {
            code,
            unchanged: false,
            bytes_sent: version.1,
            files_removed,
        })
    }

    /// Removes a published code base from the share; one that is absent is fine.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the name is that of files that were not published from here.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let name = Name::parse(name)?;
        let doing = format!("removing code base `{name}`");
        self.refuse_plain(&name, &doing).await?;
        // The oldest first, so that no former version comes back for a moment.
        let versions = version::directory(name.as_str());
        for record in published::records(&self.share, &name, &doing).await? {
            let path = format!("{versions}/{}", record.name);
            self.share.delete(&path, &doing).await?;
        }
        self.memory().versions.remove(name.as_str());
        let chunks = version::chunks(name.as_str());
        for directory in [&chunks, &versions] {
            let files = self.share.list(directory, &doing).await?;
            let paths = files
                .iter()
                .map(|file| format!("{directory}/{}", file.name))
                .collect();
            self.delete_all(paths, &doing).await?;
            self.share.delete(&format!("{directory}/"), &doing).await?;
        }
        let own = format!("{name}/{OWN_DIRECTORY}/");
        self.share.delete(&own, &doing).await?;
        match self.share.delete(&format!("{name}/"), &doing).await {
            // Somebody put something there meanwhile, and it is theirs.
            Err(Error::Conflict { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    pub(super) async fn delete_all(&self, paths: Vec<String>, doing: &str) -> Result<()> {
        stream::iter(paths)
            .map(|path| async move { self.share.delete(&path, doing).await })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    /// Files that somebody put there by other means are theirs.
    async fn refuse_plain(&self, name: &Name, doing: &str) -> Result<()> {
        let top = self.share.list(name.as_str(), doing).await?;
        match top.iter().filter(|item| item.name != OWN_DIRECTORY).count() {
            0 => Ok(()),
            count => Err(Error::Invalid {
                what: format!("code base `{name}` in {}", self.share.place()),
                why: format!("{count} files or directories that were not published lie there"),
                mend: format!(
                    "remove them from directory `{name}` of the share, or take another name"
                ),
            }),
        }
    }

    /// The former version, if there is one that can be built upon.
    async fn current_of_publish(&self, name: &Name, doing: &str) -> Result<Option<Arc<Version>>> {
        match self.current(name, doing).await {
            // The first publish was broken off, or is going on; nothing of it can be used.
            Err(Error::Conflict { .. }) => Ok(None),
            outcome => outcome,
        }
    }

    /// Sends what the former version lacks; returns the record and how many bytes were sent.
    async fn send(
        &self,
        name: &Name,
        publish: Uuid,
        local: &Local,
        former: Option<&Version>,
        doing: &str,
    ) -> Result<(Record, u64)> {
        let mut chunks: BTreeMap<Sha, Chunk> = former
            .into_iter()
            .flat_map(Version::chunks)
            .map(|chunk| (chunk.sha256, chunk.clone()))
            .collect();
        let missing: Vec<(Sha, Source)> = local
            .sources
            .iter()
            .filter(|(sha, _)| !chunks.contains_key(sha))
            .map(|(sha, source)| (*sha, source.clone()))
            .collect();
        let sent: Vec<Chunk> = stream::iter(missing)
            .map(|(sha, source)| async move {
                let bytes = source.read(sha, doing).await?;
                self.send_chunk(name, publish, sha, bytes, doing).await
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await?;
        let mut bytes_sent: u64 = sent.iter().map(|chunk| chunk.size).sum();
        chunks.extend(sent.into_iter().map(|chunk| (chunk.sha256, chunk)));

        let mut entries = BTreeMap::new();
        for (path, entry) in &local.entries {
            entries.insert(path.clone(), entry.stored(&chunks, doing)?);
        }
        let index = Bytes::from(version::write_index(&entries)?);
        let parts = (0..index.len().div_ceil(CHUNK))
            .map(|number| index.slice(number * CHUNK..index.len().min((number + 1) * CHUNK)));
        let chunks = &chunks;
        let index: Vec<(Chunk, u64)> = stream::iter(parts)
            .map(|part| async move {
                let sha = Sha(Sha256::digest(&part).into());
                if let Some(there) = chunks.get(&sha) {
                    return Ok((there.clone(), 0));
                }
                let sent = self.send_chunk(name, publish, sha, part, doing).await?;
                let size = sent.size;
                Ok::<_, Error>((sent, size))
            })
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        bytes_sent += index.iter().map(|(_, sent)| sent).sum::<u64>();
        let index = index.into_iter().map(|(chunk, _)| chunk).collect();
        Ok((Record::new(local.digest.clone(), index), bytes_sent))
    }

    async fn send_chunk(
        &self,
        name: &Name,
        publish: Uuid,
        sha256: Sha,
        bytes: Bytes,
        doing: &str,
    ) -> Result<Chunk> {
        let chunk = Chunk {
            name: version::chunk_name(sha256, publish),
            size: bytes.len() as u64,
            sha256,
        };
        let path = format!("{}/{}", version::chunks(name.as_str()), chunk.name);
        self.share.write(&path, bytes, doing).await?;
        Ok(chunk)
    }

    /// Makes the version the current one.
    async fn commit(&self, name: &Name, publish: Uuid, record: &Record, doing: &str) -> Result<()> {
        let bytes = record.write()?;
        if bytes.len() > MOST_OF_RECORD {
            return Err(Error::Invalid {
                what: format!("code base `{name}`"),
                why: "it has too many files".to_owned(),
                mend: "leave out what no build needs, in a `.dockerignore`".to_owned(),
            });
        }
        let records = published::records(&self.share, name, doing).await?;
        let last = records
            .iter()
            .rev()
            .find_map(|one| version::number(&one.name));
        let file = version::file_name(last.map_or(1, |last| last.saturating_add(1)), publish);
        let path = format!("{}/{file}", version::directory(name.as_str()));
        self.share.write(&path, bytes, doing).await?;
        // Read back as any reader would.
        match self.current_named(name, doing).await? {
            Some((current, _)) if current == file => Ok(()),
            _ => Err(Error::Conflict {
                what: format!("code base `{name}` in {}", self.share.place()),
                why: "somebody else published it at the same time, and theirs is in force"
                    .to_owned(),
            }),
        }
    }
}

impl LocalEntry {
    fn stored(&self, chunks: &BTreeMap<Sha, Chunk>, doing: &str) -> Result<Stored> {
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
    /// The bytes, if they are still those that were read before.
    async fn read(self, wanted: Sha, doing: &str) -> Result<Bytes> {
        let read = move || {
            let failed = |error| Error::io(format!("reading `{}`", self.path.display()), error);
            let mut file = File::open(&self.path).map_err(failed)?;
            file.seek(SeekFrom::Start(self.offset)).map_err(failed)?;
            let mut bytes = Vec::with_capacity(self.size);
            file.take(self.size as u64)
                .read_to_end(&mut bytes)
                .map_err(failed)?;
            if Sha256::digest(&bytes)[..] == wanted.0 {
                return Ok(Bytes::from(bytes));
            }
            Err(Error::Conflict {
                what: format!("`{}`", self.path.display()),
                why: "it was changed while it was published".to_owned(),
            })
        };
        blocking(doing, read).await
    }
}

/// Reads a directory: what belongs to the code base, and which chunks its files consist of.
async fn local(directory: &Path, doing: &str) -> Result<Local> {
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
                        return Err(Error::Invalid {
                            what: format!("symbolic link `{}`", root.join(&path).display()),
                            why: "its target is not UTF-8".to_owned(),
                            mend: "let it lead elsewhere, or leave it out in `.dockerignore`"
                                .to_owned(),
                        });
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

/// Runs work that waits for the disk where it holds up nobody.
async fn blocking<T: Send + 'static>(
    doing: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::failed(doing, error.to_string())),
    }
}
