//! Removing what nobody needs any more, after a publish.
//!
//! A former version stays for a while ([`AzureFilesBuilder::keep`]) after another took its place:
//! somebody may be reading it, and a publish that is under way may count on its chunks. Such a
//! publish ends within half of that time, so what is removed is needed by nobody. All times are
//! the share's own; no clock of another machine is asked.
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
    /// Removes former versions and what only they needed; returns how many files that were.
    /// `chunks` were listed before, so that every version that may count on one is seen here.
    pub(super) async fn tidy(&self, name: &Name, chunks: &[Listed], doing: &str) -> Result<usize> {
        let share = &self.share;
        let records = published::records(share, name, doing).await?;
        // The last record was written just now: its time is the share's present.
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
        // In force until a whole one came after it; one that is not whole never was.
        let superseded = |place: usize| {
            let mut later = versions[place + 1..].iter();
            later
                .find(|(_, version)| version.is_some())
                .is_some_and(|(next, _)| is_old(next))
        };
        let over = |place: usize| match &versions[place] {
            (_, Some(_)) => superseded(place),
            (record, None) => place + 1 < versions.len() && is_old(record),
        };
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for (place, (record, version)) in versions.iter().enumerate() {
            if over(place) {
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
        // Records first, and the oldest of them: none must ever lack a chunk.
        for record in gone {
            let path = format!("{}/{record}", version::directory(name));
            share.delete(&path, doing).await?;
        }
        self.delete_all(unneeded, doing).await?;
        Ok(removed)
    }
}
