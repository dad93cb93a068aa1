//! Publishes local code bases to a store, and compares them with those in the store.

use std::path::Path;

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{CodeBaseRef, CodeStore, DirectoryStore};
use crate::error::{Error, Result};

/// How many code bases are compared in parallel.
const PARALLEL_COMPARISONS: usize = 4;

/// The result of publishing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The code base as it is now stored.
    pub code: CodeBaseRef,
    /// Whether the store already contained this version. If so, nothing was written.
    pub unchanged: bool,
    pub bytes_sent: u64,
    /// The number of unused files that were removed from the store.
    pub files_removed: usize,
}

/// A code store to which local directories can be published.
///
/// # Guarantees
/// - A code base is replaced atomically: concurrent readers get either the previous or the new
///   contents. A failed or interrupted publish leaves one of the two.
/// - After publishing, the store returns the same digest and archive as [`DirectoryStore`] for the
///   same directory.
/// - Publishing unchanged contents writes nothing.
/// - If several processes publish the same name at the same time, each of them either succeeds or
///   gets [`Error::Conflict`].
///
/// # Caveats
/// Names are paths in the store, and a code base may be inside another one. The name `.` selects
/// the root of the store and, on this machine, the project directory.
///
/// # Errors
/// - [`Error::NotFound`] if the directory does not exist.
/// - [`Error::Invalid`] if the store does not support the name, or if the store contains files
///   under this name that [`publish`](Self::publish) did not create.
/// - [`Error::Conflict`] if the directory changes during the call, or if another process publishes
///   the same name afterwards.
#[async_trait]
pub trait CodePublisher: CodeStore {
    /// Publishes the contents of `directory` as the code base of this name.
    async fn publish(&self, name: &str, directory: &Path) -> Result<Published>;
}

/// A code base on this machine that is missing from the store or differs from the stored version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outdated {
    /// The code base on this machine.
    pub local: CodeBaseRef,
    /// The digest in the store; `None` if the code base is not in the store.
    pub published: Option<String>,
}

/// Returns the given code bases that exist on this machine, in the same order.
pub fn local(directory: &DirectoryStore, names: impl IntoIterator<Item = String>) -> Vec<String> {
    let names = names.into_iter();
    names
        .filter(|name| directory.directory(name).is_dir())
        .collect()
}

/// Returns the given code bases that exist on this machine and differ from the store's versions, in
/// the same order. Only digests are compared; no contents are fetched.
///
/// # Errors
/// Errors of both stores, except [`Error::NotFound`].
pub async fn outdated(
    directory: &DirectoryStore,
    store: &dyn CodeStore,
    names: impl IntoIterator<Item = String>,
) -> Result<Vec<Outdated>> {
    let compared: Vec<Option<Outdated>> = stream::iter(local(directory, names))
        .map(|name| async move {
            let (local, published) = tokio::join!(directory.digest(&name), store.digest(&name));
            let Some(local) = absent_is_none(local)? else {
                return Ok(None);
            };
            let published = absent_is_none(published)?.map(|code| code.digest);
            let differs = published.as_ref() != Some(&local.digest);
            Ok::<_, Error>(differs.then_some(Outdated { local, published }))
        })
        .buffered(PARALLEL_COMPARISONS)
        .try_collect()
        .await?;
    Ok(compared.into_iter().flatten().collect())
}

fn absent_is_none(digest: Result<CodeBaseRef>) -> Result<Option<CodeBaseRef>> {
    match digest {
        Ok(code) => Ok(Some(code)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Publishes a code base of this machine, and then verifies the digest in the store.
///
/// # Errors
/// Errors of [`CodePublisher::publish`], and [`Error::Conflict`] if the store contains another
/// version afterwards.
pub async fn publish(
    directory: &DirectoryStore,
    store: &dyn CodePublisher,
    name: &str,
) -> Result<Published> {
    let published = store.publish(name, &directory.directory(name)).await?;
    // Use the name that the store returned: the store may have normalized it.
    let there = store.digest(&published.code.name).await?;
    if there.digest == published.code.digest {
        return Ok(published);
    }
    Err(Error::Conflict {
        what: format!("code base `{}`", published.code.name),
        why: format!(
            "digest {} was published, but the store contains digest {}",
            published.code.digest, there.digest
        ),
    })
}
