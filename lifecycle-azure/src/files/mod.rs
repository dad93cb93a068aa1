//! Code bases on an Azure Files share.
//!
//! A code base lies in the share in one of two forms:
//!
//! - **published** ([`CodePublisher`](lifecycle_core::code::CodePublisher)): under `<name>/.lifecycle/` lie contents in chunks
//!   that are never changed, and records of versions ([`version`] says how). What the share
//!   itself cannot hold is kept: executable bits, symbolic links, names that Windows forbids or
//!   would take for one another. A version appears as a whole, with the one small write that
//!   ends a publish, so that a reader sees the former or the new one and publishers do not mix;
//! - **plain**: files that somebody put there, by SMB or with any tool. They are read as they
//!   are ([`plain`]); the share's entity tags tell which have changed.
//!
//! | module | what it holds |
//! |---|---|
//! | [`options`] | what it takes to reach a share, validated once |
//! | [`transport`] | requests with time limits, and answers that are refusals |
//! | [`share`] | lists, reads, writes, deletes, each tried again while that may help |
//! | [`version`], [`published`], [`plain`] | the two forms |
//! | [`archive`] | a code base as a build context |
//! | [`local`], [`publish`], [`tidy`], [`remove`] | the writing side |
//! | [`error`] | Azure's errors as the core's |

mod archive;
mod contents;
mod error;
mod local;
mod name;
mod options;
mod plain;
mod publish;
mod published;
mod remove;
mod share;
mod tidy;
mod transport;
mod version;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lifecycle_core::clock::IdSource;
use lifecycle_core::code::digest::OWN_DIRECTORY;
use lifecycle_core::code::{CodeBaseRef, CodeStore};
use lifecycle_core::host::ByteStream;
use lifecycle_core::{Error, Result};

use contents::Contents;
use name::Name;
pub use options::{AzureFilesBuilder, FilesCredential};
use plain::Known;
use share::Share;
use version::Version;

/// How many requests go on at once. With chunks of at most [`CHUNK`] this bounds the memory of
/// a transfer, whatever the size of the files.
const PARALLEL: usize = 8;

/// The most bytes that are read or written at once. Below Azure's limit of 4 MiB for one write,
/// so that a slow line too carries one within the time limit.
const CHUNK: usize = 2 << 20;

/// A file that a plain code base is known by.
const DOCKERFILE: &str = "Dockerfile";

/// A code store on an Azure Files share.
///
/// # Caveats
/// Plain files have no executable bit, since a share has none; publish a code base whose files
/// are run, or give them the bit in the Dockerfile. Names are found whichever way they are
/// capitalised, as everywhere on Windows.
#[derive(Debug, Clone)]
pub struct AzureFiles {
    share: Share,
    ids: Arc<dyn IdSource>,
    keep: Duration,
    memory: Arc<Mutex<Memory>>,
}

/// What has been read before and cannot have changed, by the code base's name.
#[derive(Debug, Default)]
struct Memory {
    versions: BTreeMap<String, (String, Arc<Version>)>,
    plain: BTreeMap<String, Known>,
}

impl AzureFiles {
    /// What it takes to reach a share of a storage account.
    pub fn builder(account: &str, share: &str, credential: FilesCredential) -> AzureFilesBuilder {
        AzureFilesBuilder::new(account, share, credential)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn contents(&self, name: &Name) -> Result<Contents> {
        let doing = format!("reading code base `{name}`");
        let top = self.share.list(name.directory(), &doing).await?;
        let ours = top
            .iter()
            .any(|item| item.is_directory && item.name == OWN_DIRECTORY);
        let current = if ours {
            self.current(name, &doing).await?
        } else {
            None
        };
        match (current, self.stray(name, &top, &doing).await?) {
            (Some(version), None) => Ok(version.contents(name)),
            (Some(_), Some(stray)) => Err(Error::invalid(
                format!("code base `{name}` in {}", self.share.place()),
                format!("it was published, and beside that lie others' files, as `{stray}`"),
                format!(
                    "remove them and publish them instead, or remove `{}` if they are the code \
                     base",
                    name.join(OWN_DIRECTORY)
                ),
            )),
            (None, Some(_)) => self.plain_contents(name, top, &doing).await,
            (None, None) => {
                self.memory().plain.remove(name.directory());
                Err(Error::not_found_with_hint(
                    format!("code base `{name}` in {}", self.share.place()),
                    format!("publish it: `bootstrapper publish {name}`"),
                ))
            }
        }
    }

    async fn is_code_base(&self, name: &Name) -> Result<bool> {
        let doing = "listing code bases";
        let top = self.share.list(name.directory(), doing).await?;
        let has = |wanted: &str, is_directory: bool| {
            top.iter()
                .any(|item| item.is_directory == is_directory && item.name == wanted)
        };
        if has(DOCKERFILE, false) {
            return Ok(true);
        }
        if !has(OWN_DIRECTORY, true) {
            return Ok(false);
        }
        match self.current(name, doing).await {
            // It is there, and cannot be read; who asks for it is told why.
            Err(Error::Conflict { .. } | Error::Corrupt { .. } | Error::Invalid { .. }) => Ok(true),
            outcome => Ok(outcome?.is_some()),
        }
    }
}

#[async_trait]
impl CodeStore for AzureFiles {
    async fn list(&self) -> Result<Vec<String>> {
        let top = self.share.list("", "listing code bases").await?;
        let names = top
            .into_iter()
            .filter(|item| item.is_directory)
            // What no code base can be called is none.
            .filter_map(|item| Name::parse(&item.name).ok());
        let mut found: Vec<String> = stream::iter(names)
            .map(|name| async move {
                let is_one = self.is_code_base(&name).await?;
                Ok::<_, Error>(is_one.then(|| name.to_string()))
            })
            .buffer_unordered(PARALLEL)
            .try_filter_map(|found| std::future::ready(Ok(found)))
            .try_collect()
            .await?;
        found.sort();
        Ok(found)
    }

    async fn digest(&self, name: &str) -> Result<CodeBaseRef> {
        let name = Name::parse(name)?;
        let digest = self.contents(&name).await?.digest;
        Ok(CodeBaseRef {
            name: name.to_string(),
            digest,
        })
    }

    async fn archive(&self, code: &CodeBaseRef) -> Result<ByteStream> {
        let name = Name::parse(&code.name)?;
        let contents = self.contents(&name).await?;
        if contents.digest != code.digest {
            return Err(Error::conflict(
                format!("code base `{name}`"),
                format!("its digest is now {}, not {}", contents.digest, code.digest),
            ));
        }
        archive::stream(self.share.clone(), &name, contents)
    }
}
