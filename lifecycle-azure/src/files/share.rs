//! What is done with a share: lists, reads, writes and deletes, each tried again while that may
//! help. All of them may be repeated, since no path is ever written twice.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use bytes::Bytes;
use lifecycle_core::{Error, Result, Retry};
use opendal::Operator;
use tokio::time::Instant;

use super::error::Place;

/// How often something is tried again.
const TRIES: usize = 3;
/// The first wait; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// A longer wait is left to the caller.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// An entry of a directory.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    /// Its name in the directory.
    pub(super) name: String,
    pub(super) is_directory: bool,
    /// In bytes.
    pub(super) size: u64,
    /// What changes with the file.
    pub(super) etag: Option<String>,
    /// By the share's own clock, in seconds since 1970.
    pub(super) modified: Option<i64>,
}

/// A share, or the directory of it that holds the code bases.
#[derive(Debug, Clone)]
pub(super) struct Share {
    operator: Operator,
    place: Arc<Place>,
    /// The directory that paths begin in, with `/` at its end unless it is the share's own.
    /// Not opendal's: that makes no more than the last of several directories that are absent.
    root: String,
    /// Until when Azure wants to be left alone. One for all requests: each that comes earlier
    /// lengthens it.
    quiet: Arc<Mutex<Option<Instant>>>,
}

impl Share {
    pub(super) fn new(operator: Operator, place: Arc<Place>, root: &str) -> Self {
        let root = root.trim_matches('/');
        Self {
            operator,
            place,
            root: if root.is_empty() {
                String::new()
            } else {
                format!("{root}/")
            },
            quiet: Arc::default(),
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// What a directory holds, in no order. One that is absent holds nothing.
    pub(super) async fn list(&self, directory: &str, doing: &str) -> Result<Vec<Listed>> {
        let path = match directory {
            "" => self.root.clone(),
            directory => format!("{}{directory}/", self.root),
        };
        let entries = self
            .try_often(&path, doing, || self.operator.list(&path))
            .await?;
        let inside = |entry: &opendal::Entry| {
            // The directory itself comes along.
            entry.path() != path && entry.path() != "/"
        };
        let listed = entries.iter().filter(|entry| inside(entry)).map(|entry| {
            let metadata = entry.metadata();
            Listed {
                name: entry.name().trim_end_matches('/').to_owned(),
                is_directory: metadata.is_dir(),
                size: if metadata.is_dir() {
                    0
                } else {
                    metadata.content_length()
                },
                etag: metadata.etag().map(str::to_owned),
                modified: metadata
                    .last_modified()
                    .map(|time| time.into_inner().as_second()),
            }
        });
        Ok(listed.collect())
    }

    /// Some bytes of a file; fails if it has not as many.
    pub(super) async fn read(&self, path: &str, range: Range<u64>, doing: &str) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let wanted = range.end - range.start;
        let path = &format!("{}{path}", self.root);
        let read = || async {
            let options = opendal::options::ReadOptions {
                range: range.clone().into(),
                ..Default::default()
            };
            self.operator.read_options(path, options).await
        };
        let bytes = self.try_often(path, doing, read).await?.to_bytes();
        if bytes.len() as u64 == wanted {
            return Ok(bytes);
        }
        Err(Error::interrupted(
            format!("{doing} ({})", self.place),
            Some(format!("{} of {wanted} bytes came", bytes.len()).into()),
        ))
    }

    /// Writes a new file of at most 4 MiB into a directory, and makes the directories that lead
    /// to it. Each try asks for a name: a file is made, as zeros, before it is written, so a
    /// request that was given up and comes late would undo a later try of the same name. Returns
    /// the name under which it was written.
    pub(super) async fn write_new(
        &self,
        directory: &str,
        name: impl Fn() -> String,
        bytes: Bytes,
        doing: &str,
    ) -> Result<String> {
        let directory = &format!("{}{directory}", self.root);
        let write = || {
            let (name, bytes) = (name(), bytes.clone());
            async move {
                self.operator
                    .write(&format!("{directory}/{name}"), bytes)
                    .await?;
                Ok(name)
            }
        };
        self.try_often(directory, doing, write).await
    }

    /// Deletes a file, or a directory (with `/` at its end) that holds nothing. Absent is fine.
    pub(super) async fn delete(&self, path: &str, doing: &str) -> Result<()> {
        let path = &format!("{}{path}", self.root);
        self.try_often(path, doing, || self.operator.delete(path))
            .await
    }

    /// Waits while Azure wants to be left alone.
    ///
    /// # Errors
    /// [`Error::Throttled`] if that is long.
    async fn wait(&self, doing: &str) -> Result<()> {
        let until = *self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(until) = until else { return Ok(()) };
        let left = until.saturating_duration_since(Instant::now());
        if left > LONGEST_WAIT {
            return Err(Error::throttled(
                format!("{doing} ({})", self.place),
                Some(left),
            ));
        }
        tokio::time::sleep_until(until).await;
        Ok(())
    }

    fn heed(&self, error: &Error) {
        if let Error::Throttled {
            after: Some(wait), ..
        } = error
        {
            let until = Instant::now() + *wait;
            let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
            *quiet = Some(quiet.map_or(until, |former| former.max(until)));
        }
    }

    async fn try_often<T, F>(&self, path: &str, doing: &str, attempt: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = opendal::Result<T>>,
    {
        let attempt = || async {
            self.wait(doing).await?;
            let outcome = attempt().await;
            outcome.map_err(|error| {
                let error = self.place.explain(path, doing, &error);
                self.heed(&error);
                error
            })
        };
        let wait = ExponentialBuilder::default()
            .with_min_delay(FIRST_WAIT)
            .with_max_times(TRIES)
            .with_jitter();
        attempt
            .retry(wait)
            .sleep(tokio::time::sleep)
            .when(|error| matches!(error.retry(), Retry::After(wait) if wait <= LONGEST_WAIT))
            .adjust(|error, ours| match error.retry() {
                Retry::After(theirs) => ours.map(|ours| ours.max(theirs)),
                Retry::Replan | Retry::Never => None,
            })
            .await
    }
}
