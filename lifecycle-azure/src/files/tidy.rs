//! Removes unused files after a publish.
//!
//! A superseded version is kept for a while ([`AzureFilesBuilder::keep`]): readers may still use
//! it, and a publish in progress may reuse its chunks. A publish must finish within half of the
//! retention time, so no reader or publisher needs the removed files. All times are from the
//! share's clock, never from another machine's.
//!
//! [`AzureFilesBuilder::keep`]: super::AzureFilesBuilder::keep

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lifecycle_core::Result;

use super::name::Name;
use super::published;
use super::share::Listed;
use super::version::{self, Version};
use super::{AzureFiles, PARALLEL};

impl AzureFiles {
    /// Removes superseded versions and the chunks that no other version uses. Returns the number of
    /// removed files. `chunks` must be listed before this call, so that every version that may use
    /// a listed chunk is found.
    pub(super) async fn tidy(&self, name: &Name, chunks: &[Listed], doing: &str) -> Result<usize> {
        let share = &self.share;
        let records = published::records(share, name, doing).await?;
        // The last record was written just now, so its time is the current time of the share's
        // clock.
        let Some(now) = records.last().and_then(|last| last.modified) else {
            return Ok(0);
        };
        let keep = i64::try_from(self.keep.as_secs()).unwrap_or(i64::MAX);
        let is_old = |item: &Listed| item.modified.is_some_and(|time| now - time >= keep);

        let directory = version::chunks(name);
        if !records.iter().any(is_old) && !chunks.iter().any(is_old) {
            return Ok(0);
        }
        let versions: Vec<(Listed, Option<Version>)> = stream::iter(records)
            .map(|record| async move {
                let version = published::read(share, name, &record, doing).await?;
                Ok::<_, lifecycle_core::Error>((record, version))
            })
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        // A version is superseded by the next complete version. An incomplete version was never
        // current.
        let superseded = |index: usize| {
            let mut later = versions[index + 1..].iter();
            later
                .find(|(_, version)| version.is_some())
                .is_some_and(|(next, _)| is_old(next))
        };
        let over = |index: usize| match &versions[index] {
            (_, Some(_)) => superseded(index),
            (record, None) => index + 1 < versions.len() && is_old(record),
        };
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for (index, (record, version)) in versions.iter().enumerate() {
            if over(index) {
                gone.push(&record.name);
            } else {
                kept.extend(version);
            }
        }
        let needed: BTreeSet<&str> = kept
            .iter()
            .flat_map(|version| version.chunks())
            .map(|chunk| chunk.name.as_str())
            .collect();
        let unneeded: Vec<String> = chunks
            .iter()
            .filter(|chunk| is_old(chunk) && !needed.contains(chunk.name.as_str()))
            .map(|chunk| format!("{directory}/{}", chunk.name))
            .collect();
        let removed = gone.len() + unneeded.len();
        // Remove each record before its chunks, starting with the oldest record, so that no record
        // ever refers to a missing chunk.
        for record in gone {
            let path = format!("{}/{record}", version::directory(name));
            share.delete(&path, doing).await?;
        }
        self.delete_all(unneeded, doing).await?;
        Ok(removed)
    }
}
