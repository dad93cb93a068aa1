//! Removes a published code base.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lifecycle_core::code::digest::OWN_DIRECTORY;
use lifecycle_core::{Error, Result};

use super::name::Name;
use super::published;
use super::version;
use super::{AzureFiles, PARALLEL};

impl AzureFiles {
    /// Removes a published code base from the share. Succeeds if the code base does not exist.
    /// Keeps code bases in subdirectories.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] if `name` is a plain code base.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let name = Name::parse(name)?;
        let doing = format!("removing code base `{name}`");
        self.refuse_plain(&name, &doing).await?;
        // Remove the oldest version first. Otherwise, an older version would briefly become
        // current.
        let versions = version::directory(&name);
        for record in published::records(&self.share, &name, &doing).await? {
            let path = format!("{versions}/{}", record.name);
            self.share.delete(&path, &doing).await?;
        }
        self.memory().versions.remove(name.directory());
        for directory in [version::chunks(&name), versions] {
            let files = self.share.list(&directory, &doing).await?;
            let paths = files
                .iter()
                .map(|file| format!("{directory}/{}", file.name))
                .collect();
            self.delete_all(paths, &doing).await?;
            self.share.delete(&format!("{directory}/"), &doing).await?;
        }
        let own = format!("{}/", name.join(OWN_DIRECTORY));
        self.share.delete(&own, &doing).await?;
        if name.directory().is_empty() {
            return Ok(());
        }
        match self.share.delete(&format!("{name}/"), &doing).await {
            // The directory is not empty: it contains new files or another code base.
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
}
