//! Publishes a local directory as a new version of a code base in the share.
//!
//! Sends only the chunks that the share lacks, and never changes files that may be in use. The last
//! step writes the record of the version, which makes the version visible.

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

/// The state of the code base in the share before a publish.
struct Previous {
    version: Option<Arc<Version>>,
    /// The names and sizes of the files in the chunk directory.
    chunks: BTreeSet<(String, u64)>,
}

impl Previous {
    /// Returns the chunks that need not be sent again, by hash. A chunk of the previous version is
    /// omitted if its file is missing in the share.
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

    /// Returns whether the previous version has this digest and is complete.
    fn is(&self, digest: &str) -> bool {
        let version = self.version.as_ref().filter(|one| one.digest == digest);
        version.is_some_and(|version| version.chunks().all(|chunk| self.has(chunk)))
    }
}

/// If a publish is interrupted, it leaves only files that later publishes remove. A publish that
/// takes more than half of the retention time fails with [`Error::TimedOut`].
#[async_trait]
impl CodePublisher for AzureFiles {
    async fn publish(&self, name: &str, directory: &Path) -> Result<Published> {
        let name = Name::parse(name)?;
        let doing = format!("publishing code base `{name}`");
        let local = local(directory, &doing).await?;
        let begun = Instant::now();
        self.refuse_confusion(&name, &doing).await?;
        self.refuse_plain(&name, &doing).await?;

        let previous = self.previous(&name, &doing).await?;
        let code = CodeBaseRef {
            name: name.to_string(),
            digest: local.digest.clone(),
        };
        if previous.is(&local.digest) {
            return Ok(Published {
                code,
                unchanged: true,
                bytes_sent: 0,
                files_removed: 0,
            });
        }
        let (record, bytes_sent) = self.send(&name, &local, previous.usable(), &doing).await?;
        if begun.elapsed() > self.keep / 2 {
            // Other publishers may have started to remove chunks that this version needs.
            return Err(Error::timed_out(doing, self.keep / 2));
        }
        let chunks = self.commit(&name, &record, &doing).await?;
        let files_removed = match self.tidy(&name, &chunks, &doing).await {
            Ok(removed) => removed,
            Err(error) => {
                // Ignore the error: the next publish retries the removal.
                tracing::warn!(%name, error = error.chain(), "cannot remove superseded versions");
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
    /// Rejects names that would mix code bases. Names in a share are case-insensitive, so two names
    /// that differ only in case would refer to the same directory. Moreover, a code base in a
    /// subdirectory of a plain code base would become part of the plain code base.
    async fn refuse_confusion(&self, name: &Name, doing: &str) -> Result<()> {
        for (directory, next) in name.ancestors() {
            let listed = self.share.list(directory, doing).await?;
            let is_other = |item: &&Listed| {
                item.name != next && item.name.to_lowercase() == next.to_lowercase()
            };
            if let Some(other) = listed.iter().find(is_other) {
                return Err(Error::invalid(
                    format!("code base `{name}` in {}", self.share.info()),
                    format!(
                        "`{}` already exists, and names in a share are case-insensitive",
                        name::join(directory, &other.name)
                    ),
                    "rename one of the code bases",
                ));
            }
            if listed
                .iter()
                .any(|one| !one.is_directory && one.name == DOCKERFILE)
            {
                return Err(Error::invalid(
                    format!("code base `{name}` in {}", self.share.info()),
                    format!(
                        "the parent directory `{}` contains files that `publish` did not create",
                        if directory.is_empty() { "." } else { directory }
                    ),
                    "remove these files from the share and also publish the parent directory as a \
                     code base, or choose another name",
                ));
            }
        }
        Ok(())
    }

    /// Rejects a directory that contains files of a plain code base, because publishing must never
    /// overwrite such files.
    pub(super) async fn refuse_plain(&self, name: &Name, doing: &str) -> Result<()> {
        let top = self.share.list(name.directory(), doing).await?;
        match self.stray(name, &top, doing).await? {
            None => Ok(()),
            Some(stray) => Err(Error::invalid(
                format!("code base `{name}` in {}", self.share.info()),
                format!(
                    "its directory on the share contains files that `publish` did not create, \
                     such as `{stray}`"
                ),
                "remove these files from the share, or choose another name",
            )),
        }
    }

    /// Reads the previous version and the chunks that can be reused.
    async fn previous(&self, name: &Name, doing: &str) -> Result<Previous> {
        let version = match self.current(name, doing).await {
            // Parts of the previous version are missing, so send all chunks again.
            Err(Error::Conflict { .. }) => None,
            outcome => outcome?,
        };
        let chunks = match version {
            None => Vec::new(),
            Some(_) => self.share.list(&version::chunks(name), doing).await?,
        };
        let chunks = chunks.into_iter().map(|file| (file.name, file.size));
        Ok(Previous {
            version,
            chunks: chunks.collect(),
        })
    }

    /// Sends the chunks that the share lacks. Returns the record and the number of bytes that were
    /// sent.
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

    /// Makes the version the current one. Returns the files in the chunk directory.
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
        // Read the version back, as a reader would.
        let conflict = |why: &str| {
            Error::conflict(format!("code base `{name}` in {}", self.share.info()), why)
        };
        let (file, version) = match self.current_named(name, doing).await? {
            Some((file, version)) if version.digest == record.digest => (file, version),
            _ => {
                return Err(conflict(
                    "another publisher published a version at the same time, and that version is \
                     now current",
                ));
            }
        };
        let chunks = self.share.list(&version::chunks(name), doing).await?;
        if version.is_there(&chunks) {
            return Ok(chunks);
        }
        // Remove this version, which no reader could use.
        self.share
            .delete(&format!("{directory}/{file}"), doing)
            .await?;
        Err(conflict(
            "parts of the code base were removed while it was being published; publish it again",
        ))
    }

    /// Returns a file in this directory tree that does not belong to a published code base, if
    /// there is one.
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
