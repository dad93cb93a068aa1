//! Finds the current version of a published code base.

use std::sync::Arc;

use bytes::BytesMut;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lifecycle_core::{Error, Result};

use super::name::Name;
use super::share::{Listed, Share};
use super::version::{self, MOST_OF_RECORD, Record, Version};
use super::{AzureFiles, PARALLEL};

/// The maximum number of times the records are listed. The records are listed again if one of them
/// was removed before it was read.
const LISTS: usize = 3;

impl AzureFiles {
    /// Returns the current version, or `None` if no version was published completely or the code
    /// base was removed.
    pub(super) async fn current(&self, name: &Name, doing: &str) -> Result<Option<Arc<Version>>> {
        Ok(self
            .current_named(name, doing)
            .await?
            .map(|(_, version)| version))
    }

    /// Returns the current version and the file name of its record.
    pub(super) async fn current_named(
        &self,
        name: &Name,
        doing: &str,
    ) -> Result<Option<(String, Arc<Version>)>> {
        for _ in 0..LISTS {
            let records = records(&self.share, name, doing).await?;
            if records.is_empty() {
                self.memory().versions.remove(name.directory());
                return Ok(None);
            }
            match self.newest(name, &records, doing).await {
                // The record, or a chunk of its index, was removed after the records were listed.
                Err(Error::NotFound { .. }) => {}
                outcome => return outcome,
            }
        }
        Err(Error::conflict(
            format!("code base `{name}` in {}", self.share.info()),
            "parts of the published version are missing or being removed; publish the code base again",
        ))
    }

    async fn newest(
        &self,
        name: &Name,
        records: &[Listed],
        doing: &str,
    ) -> Result<Option<(String, Arc<Version>)>> {
        for record in records.iter().rev() {
            let known = self.memory().versions.get(name.directory()).cloned();
            if let Some((file, version)) = known
                && file == record.name
            {
                return Ok(Some((file, version)));
            }
            if let Some(version) = read(&self.share, name, record, doing).await? {
                let found = (record.name.clone(), Arc::new(version));
                self.memory()
                    .versions
                    .insert(name.directory().to_owned(), found.clone());
                return Ok(Some(found));
            }
            tracing::debug!(%name, record = record.name, "a record is incomplete");
        }
        // No record is complete: the first publish of this code base has not finished.
        Ok(None)
    }
}

/// Returns the records of a code base, oldest first.
pub(super) async fn records(share: &Share, name: &Name, doing: &str) -> Result<Vec<Listed>> {
    let mut records = share.list(&version::directory(name), doing).await?;
    records.retain(|one| !one.is_directory && version::number(&one.name).is_some());
    records.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(records)
}

/// Reads the version of a record. Returns `None` if the record is incomplete.
pub(super) async fn read(
    share: &Share,
    name: &Name,
    listed: &Listed,
    doing: &str,
) -> Result<Option<Version>> {
    let path = format!("{}/{}", version::directory(name), listed.name);
    if listed.size > MOST_OF_RECORD as u64 {
        return Err(Error::corrupt(
            format!("record `{path}` in {}", share.info()),
            "it is too large",
        ));
    }
    let bytes = share.read(&path, 0..listed.size, doing).await?;
    let Some(record) = Record::read(&bytes, &path)? else {
        return Ok(None);
    };
    let directory = version::chunks(name);
    let pieces: Vec<_> = record
        .index
        .iter()
        .map(|chunk| version::piece(&directory, chunk))
        .collect();
    let index: BytesMut = stream::iter(pieces)
        .map(|piece| async move { share.fetch(&piece, doing).await })
        .buffered(PARALLEL)
        .try_fold(BytesMut::new(), |mut all, part| async move {
            all.extend_from_slice(&part);
            Ok(all)
        })
        .await?;
    Version::read(record, &index, &path).map(Some)
}
