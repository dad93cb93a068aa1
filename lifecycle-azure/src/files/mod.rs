//! Code bases on an Azure Files share.
//!
//! A code base is stored in the share in one of two layouts:
//!
//! - **published** ([`CodePublisher`](lifecycle_core::code::CodePublisher)): the directory
//!   `<name>/.lifecycle/` contains immutable chunks of the contents, and records of versions (see
//!   [`version`]). This layout preserves what a share cannot store: executable bits, symbolic links,
//!   and names that Windows forbids or that differ only in case. A publish ends with a single small
//!   write that makes the whole new version visible. Readers therefore see either the previous
//!   version or the new one, even if several publishers work concurrently;
//! - **plain**: files that were copied to the share over SMB or with any other tool. These files are
//!   read unchanged ([`plain`]); the share's entity tags show which of them have changed.
//!
//! | module | contents |
//! |---|---|
//! | [`options`] | the validated options of a share |
//! | [`transport`] | requests with timeouts, and error responses |
//! | [`share`] | list, read, write, delete, with retries |
//! | [`version`], [`published`], [`plain`] | the two layouts |
//! | [`archive`] | a code base as a build context |
//! | [`local`], [`publish`], [`tidy`], [`remove`] | publishing and removing |
//! | [`error`] | maps Azure's errors to the core's |

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

/// The number of concurrent requests. Together with [`CHUNK`], this number bounds the memory of a
/// transfer, regardless of the files' sizes.
const PARALLEL: usize = 8;

/// The maximum number of bytes per read or write. Smaller than Azure's limit of 4 MiB for a write,
/// so that a request finishes within its timeout even over a slow connection.
const CHUNK: usize = 2 << 20;

/// The file that identifies a plain code base.
const DOCKERFILE: &str = "Dockerfile";

/// A code store on an Azure Files share.
///
/// # Caveats
/// Plain files have no executable bit, because a share cannot store one. If a code base contains
/// executables, publish it, or set the bit in the Dockerfile. Names are case-insensitive, as on
/// Windows.
#[derive(Debug, Clone)]
pub struct AzureFiles {
    share: Share,
    ids: Arc<dyn IdSource>,
    keep: Duration,
    memory: Arc<Mutex<Memory>>,
}

/// Caches the current versions and the digests of plain files, by the name of the code base.
#[derive(Debug, Default)]
struct Memory {
    versions: BTreeMap<String, (String, Arc<Version>)>,
    plain: BTreeMap<String, Known>,
}

impl AzureFiles {
    /// Returns a builder for a share of a storage account.
    pub fn builder(account: &str, share: &str, credential: FilesCredential) -> AzureFilesBuilder {
        AzureFilesBuilder::new(account, share, credential)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn contents(&self, name: &Name) -> Result<Contents> {
        let doing = format!("reading code base `{name}`");
        let top = self.share.list(name.directory(), &doing).await?;
        let is_published = top
            .iter()
            .any(|item| item.is_directory && item.name == OWN_DIRECTORY);
        let current = if is_published {
            self.current(name, &doing).await?
        } else {
            None
        };
        match (current, self.stray(name, &top, &doing).await?) {
            (Some(version), None) => Ok(version.contents(name)),
            (Some(_), Some(stray)) => Err(Error::invalid(
                format!("code base `{name}` in {}", self.share.info()),
                format!(
                    "the code base was published, but its directory on the share also contains \
                     files that `publish` did not create, such as `{stray}`"
                ),
                format!(
                    "to keep the published code base, remove these files from the share; to use \
                     these files instead, remove `{}`",
                    name.join(OWN_DIRECTORY)
                ),
            )),
            (None, Some(_)) => self.plain_contents(name, top, &doing).await,
            (None, None) => {
                self.memory().plain.remove(name.directory());
                Err(Error::not_found_with_hint(
                    format!("code base `{name}` in {}", self.share.info()),
                    format!("publish the code base: `bootstrapper publish {name}`"),
                ))
            }
        }
    }

    async fn is_code_base(&self, name: &Name) -> Result<bool> {
        let doing = "listing code bases";
        let top = self.share.list(name.directory(), doing).await?;
        let has = |expected: &str, is_directory: bool| {
            top.iter()
                .any(|item| item.is_directory == is_directory && item.name == expected)
        };
        if has(DOCKERFILE, false) {
            return Ok(true);
        }
        if !has(OWN_DIRECTORY, true) {
            return Ok(false);
        }
        match self.current(name, doing).await {
            // The code base exists but cannot be read. A request for its contents returns the
            // reason.
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
            // Skip directories whose names a code base cannot have.
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
                format!(
                    "its current digest is {}, not {}",
                    contents.digest, code.digest
                ),
            ));
        }
        archive::stream(self.share.clone(), &name, contents)
    }
}
