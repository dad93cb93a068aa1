//! Stores that code bases are published to, and what of a project differs from what such a
//! store holds.

use std::path::Path;

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{CodeBaseRef, CodeStore, DirectoryStore};
use crate::error::{Error, Result};

/// How many code bases are compared at once.
const AT_ONCE: usize = 4;

/// What a publish did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// What the store holds now.
    pub code: CodeBaseRef,
    /// Whether it held that before, so that nothing was written.
    pub unchanged: bool,
    /// How many bytes of contents were sent.
    pub bytes_sent: u64,
    /// How many files that nobody needs any more were removed from the store.
    pub files_removed: usize,
}

/// A code store that directories of this machine are published to.
///
/// # Guarantees
/// - A code base appears as a whole: whoever reads meanwhile gets the former contents or the new
///   ones. A publish that fails, or is broken off, leaves the former or the new ones.
/// - What the store holds then has the digest and the archive that [`DirectoryStore`] gives for
///   the same directory: `.dockerignore` is honoured, bits, links and empty directories are kept.
/// - Publishing what is there already writes nothing.
/// - Of several that publish one name at once each succeeds, or is told that another's is in
///   force.
///
/// # Caveats
/// Names are paths within the store; one code base may lie within another. `.` is the store's
/// own top, as it is the project's own directory on this machine.
///
/// # Errors
/// - [`Error::NotFound`] if there is no such directory.
/// - [`Error::Invalid`] for a name that the store cannot have, or that holds what was not
///   published.
/// - [`Error::Conflict`] if the directory changes meanwhile, or somebody else published the same
///   name and came last.
#[async_trait]
pub trait CodePublisher: CodeStore {
    /// Makes what `directory` holds the code base of this name.
    async fn publish(&self, name: &str, directory: &Path) -> Result<Published>;
}

/// A code base of this machine that the store holds otherwise, or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outdated {
    /// What lies on this machine.
    pub local: CodeBaseRef,
    /// The digest of what the store holds; none if it has no such code base.
    pub published: Option<String>,
}

/// Which of the named code bases lie on this machine, in the order of the names.
pub fn local(directory: &DirectoryStore, names: impl IntoIterator<Item = String>) -> Vec<String> {
    let names = names.into_iter();
    names
        .filter(|name| directory.directory(name).is_dir())
        .collect()
}

/// Which of the named code bases lie on this machine and differ from what the store holds, in
/// the order of the names. Contents are not fetched: digests are compared.
///
/// # Errors
/// Those of either store, but for a code base that is absent on one side.
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
        .buffered(AT_ONCE)
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

/// Publishes a code base of this machine under its own name, and asks the store what it holds
/// then.
///
/// # Errors
/// Those of [`CodePublisher::publish`]; [`Error::Conflict`] if the store then holds something
/// else.
pub async fn publish(
    directory: &DirectoryStore,
    store: &dyn CodePublisher,
    name: &str,
) -> Result<Published> {
    let published = store.publish(name, &directory.directory(name)).await?;
    // By the name as the store spells it.
    let there = store.digest(&published.code.name).await?;
    if there.digest == published.code.digest {
        return Ok(published);
    }
    Err(Error::Conflict {
        what: format!("code base `{}`", published.code.name),
        why: format!(
            "{} was published, and the store holds {}",
            published.code.digest, there.digest
        ),
    })
}
