//! Publishing: a directory of this machine becomes a version of a code base in the share.
//!
//! Only chunks that the share lacks are sent. What others may be reading is never touched; the
//! version appears with the one write of its record, which comes last.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lifecycle_core::code::digest::OWN_DIRECTORY;
use lifecycle_core::code::{CodeBaseRef, CodePublisher, Published};
use lifecycle_core::{Error, Result};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::local::{Local, Source, local};
use super::name::{self, Name};
use super::published;
use super::share::Listed;
use super::version::{self, Chunk, Record, Sha, Version};
use super::{AzureFiles, CHUNK, DOCKERFILE, PARALLEL};

/// What the share holds before a publish.
struct Former {
    version: Option<Arc<Version>>,
    /// The names and sizes of the files in the directory of chunks.
    chunks: BTreeSet<(String, u64)>,
}

impl Former {
    /// The chunks that need not be sent, by what they hold. One that somebody removed is.
    fn usable(&self) -> BTreeMap<Sha, Chunk> {
        let named = self.version.iter().flat_map(|version| version.chunks());
        named
            .filter(|chunk| self.has(chunk))
            .map(|chunk| (chunk.sha256, chunk.clone()))
            .collect()
    }

    fn has(&self, chunk: &Chunk) -> bool {
        self.chunks.contains(&(chunk.name.clone(), chunk.size))
    }

    /// Whether it is this, and whole.
    fn is(&self, digest: &str) -> bool {
        let version = self.version.as_ref().filter(|one| one.digest == digest);
        version.is_some_and(|version| version.chunks().all(|chunk| self.has(chunk)))
    }
}

/// A publish that is broken off has no effect but some files that later ones remove. One that
/// takes more than half the time that versions are kept is given up ([`Error::TimedOut`]).
#[async_trait]
impl CodePublisher for AzureFiles {
    async fn publish(&self, name: &str, directory: &Path) -> Result<Published> {
        let name = Name::parse(name)?;
        let doing = format!("publishing code base `{name}`");
        let local = local(directory, &doing).await?;
        let begun = Instant::now();
        self.refuse_confusion(&name, &doing).await?;
        self.refuse_plain(&name, &doing).await?;

        let former = self.former(&name, &doing).await?;
        let code = CodeBaseRef {
            name: name.to_string(),
            digest: local.digest.clone(),
        };
        if former.is(&local.digest) {
            return Ok(Published {
                code,
                unchanged: true,
                bytes_sent: 0,
                files_removed: 0,
            });
        }
        let (record, bytes_sent) = self.send(&name, &local, former.usable(), &doing).await?;
        if begun.elapsed() > self.keep / 2 {
            // Others may have begun to remove what this version counts on.
            return Err(Error::timed_out(doing, self.keep / 2));
        }
        let chunks = self.commit(&name, &record, &doing).await?;
        let files_removed = match self.tidy(&name, &chunks, &doing).await {
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
            bytes_sent,
            files_removed,
        })
    }
}

impl AzureFiles {
    /// A share takes names that differ in capitals for one, and would give one code base the
    /// other's contents. And what lies within files that are read as they are becomes a part of
    /// these.
    async fn refuse_confusion(&self, name: &Name, doing: &str) -> Result<()> {
        for (directory, next) in name.ancestors() {
            let listed = self.share.list(directory, doing).await?;
            let is_other = |item: &&Listed| {
                item.name != next && item.name.to_lowercase() == next.to_lowercase()
            };
            if let Some(other) = listed.iter().find(is_other) {
                return Err(Error::invalid(
                    format!("code base `{name}` in {}", self.share.place()),
                    format!(
                        "there is `{}` already, and a share does not tell capitals apart",
                        name::join(directory, &other.name)
                    ),
                    "give one of the two another name",
                ));
            }
            if listed
                .iter()
                .any(|one| !one.is_directory && one.name == DOCKERFILE)
            {
                return Err(Error::invalid(
                    format!("code base `{name}` in {}", self.share.place()),
                    format!(
                        "`{}` around it holds files that were not published",
                        if directory.is_empty() { "." } else { directory }
                    ),
                    "publish that one too, after removing its files from the share, or take \
                           another name",
                ));
            }
        }
        Ok(())
    }

    /// Files that somebody put there by other means are theirs.
    pub(super) async fn refuse_plain(&self, name: &Name, doing: &str) -> Result<()> {
        let top = self.share.list(name.directory(), doing).await?;
        match self.stray(name, &top, doing).await? {
            None => Ok(()),
            Some(stray) => Err(Error::invalid(
                format!("code base `{name}` in {}", self.share.place()),
                format!("files that were not published lie there, such as `{stray}`"),
                "remove them from the share, or take another name",
            )),
        }
    }

    /// What there is and can be built upon.
    async fn former(&self, name: &Name, doing: &str) -> Result<Former> {
        let version = match self.current(name, doing).await {
            // Parts of it are missing.
            Err(Error::Conflict { .. }) => None,
            outcome => outcome?,
        };
        let chunks = match version {
            None => Vec::new(),
            Some(_) => self.share.list(&version::chunks(name), doing).await?,
        };
        let chunks = chunks.into_iter().map(|file| (file.name, file.size));
        Ok(Former {
            version,
            chunks: chunks.collect(),
        })
    }

    /// Sends what the share lacks; returns the record and how many bytes were sent.
    async fn send(
        &self,
        name: &Name,
        local: &Local,
        mut chunks: BTreeMap<Sha, Chunk>,
        doing: &str,
    ) -> Result<(Record, u64)> {
        let missing: Vec<(Sha, Source)> = local
            .sources
            .iter()
            .filter(|(sha, _)| !chunks.contains_key(sha))
            .map(|(sha, source)| (*sha, source.clone()))
            .collect();
        let sent: Vec<Chunk> = stream::iter(missing)
            .map(|(sha, source)| async move {
                let bytes = source.read(sha, doing).await?;
                self.send_chunk(name, sha, bytes, doing).await
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
        let index = Bytes::from(version::write_index(name, &entries)?);
        let parts = (0..index.len().div_ceil(CHUNK))
            .map(|number| index.slice(number * CHUNK..index.len().min((number + 1) * CHUNK)));
        let chunks = &chunks;
        let index: Vec<(Chunk, u64)> = stream::iter(parts)
            .map(|part| async move {
                let sha = Sha(Sha256::digest(&part).into());
                if let Some(there) = chunks.get(&sha) {
                    return Ok((there.clone(), 0));
                }
                let sent = self.send_chunk(name, sha, part, doing).await?;
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
        sha256: Sha,
        bytes: Bytes,
        doing: &str,
    ) -> Result<Chunk> {
        let size = bytes.len() as u64;
        let file = || version::chunk_name(sha256, self.ids.uuid());
        let directory = version::chunks(name);
        let name = self.share.write_new(&directory, file, bytes, doing).await?;
        Ok(Chunk { name, size, sha256 })
    }

    /// Makes the version the current one; returns the files in the directory of chunks.
    async fn commit(&self, name: &Name, record: &Record, doing: &str) -> Result<Vec<Listed>> {
        let bytes = record.write(name)?;
        let records = published::records(&self.share, name, doing).await?;
        let last = records
            .iter()
            .rev()
            .find_map(|one| version::number(&one.name));
        let number = last.map_or(1, |last| last.saturating_add(1));
        let file = || version::file_name(number, self.ids.uuid());
        let directory = version::directory(name);
        self.share.write_new(&directory, file, bytes, doing).await?;
        // Read back as any reader would.
        let conflict = |why: &str| {
            Error::conflict(format!("code base `{name}` in {}", self.share.place()), why)
        };
        let (file, version) = match self.current_named(name, doing).await? {
            Some((file, version)) if version.digest == record.digest => (file, version),
            _ => {
                return Err(conflict(
                    "somebody else published it at the same time, and theirs is in force",
                ));
            }
        };
        let chunks = self.share.list(&version::chunks(name), doing).await?;
        if version.is_there(&chunks) {
            return Ok(chunks);
        }
        // Nobody could read it.
        self.share
            .delete(&format!("{directory}/{file}"), doing)
            .await?;
        Err(conflict(
            "parts of it were removed while it was published; publish it again",
        ))
    }

    /// A file of this directory that is no part of any published code base, there or below.
    pub(super) async fn stray(
        &self,
        name: &Name,
        top: &[Listed],
        doing: &str,
    ) -> Result<Option<String>> {
        let mut found = vec![(String::new(), top.to_vec())];
        while !found.is_empty() {
            let mut below = Vec::new();
            for (directory, items) in found {
                for item in items {
                    let path = name::join(&directory, &item.name);
                    if !item.is_directory {
                        return Ok(Some(name.join(&path)));
                    }
                    if item.name != OWN_DIRECTORY {
                        below.push(path);
                    }
                }
            }
            found = stream::iter(below)
                .map(|path| async move {
                    let items = self.share.list(&name.join(&path), doing).await?;
                    Ok::<_, Error>((path, items))
                })
                .buffer_unordered(PARALLEL)
                .try_collect()
                .await?;
        }
        Ok(None)
    }
}
