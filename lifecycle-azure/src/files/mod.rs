//! Code bases on an Azure Files share.
//!
//! A code base lies in the share in one of two forms:
//!
//! - **published** by [`AzureFiles::publish`]: under `<name>/.lifecycle/` lie contents in chunks
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
//! | [`publish`], [`tidy`] | the writing side |
//! | [`error`] | Azure's errors as the core's |

mod archive;
mod contents;
mod error;
mod name;
mod options;
mod plain;
mod publish;
mod published;
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
pub use publish::Published;
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
        let top = self.share.list(name.as_str(), &doing).await?;
        let ours = top
            .iter()
            .any(|item| item.is_directory && item.name == OWN_DIRECTORY);
        let others = top.iter().filter(|item| item.name != OWN_DIRECTORY).count();
        if ours && let Some(version) = self.current(name, &doing).await? {
            if others > 0 {
                return Err(Error::Invalid {
                    what: format!("code base `{name}` in {}", self.share.place()),
                    why: format!(
                        "it was published, and {others} further files or directories lie beside \
                         what was published"
                    ),
                    mend: format!(
                        "remove them and publish them instead, or remove \
                         `{name}/{OWN_DIRECTORY}` if they are the code base"
                    ),
                });
            }
            return Ok(version.contents(name));
        }
        if others == 0 {
            self.memory().plain.remove(name.as_str());
            return Err(Error::not_found(format!(
                "code base `{name}` in {}",
                self.share.place()
            )));
        }
        self.plain_contents(name, top, &doing).await
    }

    async fn is_code_base(&self, name: &str) -> Result<bool> {
        let doing = "listing code bases";
        let top = self.share.list(name, doing).await?;
        if top
            .iter()
            .any(|item| !item.is_directory && item.name == DOCKERFILE)
        {
            return Ok(true);
        }
        if !top
            .iter()
            .any(|item| item.is_directory && item.name == OWN_DIRECTORY)
        {
            return Ok(false);
        }
        let versions = version::directory(name);
        Ok(!self.share.list(&versions, doing).await?.is_empty())
    }
}

#[async_trait]
impl CodeStore for AzureFiles {
    async fn list(&self) -> Result<Vec<String>> {
        let top = self.share.list("", "listing code bases").await?;
        let names = top
            .into_iter()
            // What no code base can be called is none.
            .filter(|item| item.is_directory && Name::parse(&item.name).is_ok())
            .map(|item| item.name);
        let mut found: Vec<String> = stream::iter(names)
            .map(|name| async move {
                let is_one = self.is_code_base(&name).await?;
                Ok::<_, Error>(is_one.then_some(name))
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
            return Err(Error::Conflict {
                what: format!("code base `{name}`"),
                why: format!("its digest is now {}, not {}", contents.digest, code.digest),
            });
        }
        archive::stream(self.share.clone(), &name, contents)
    }
}
