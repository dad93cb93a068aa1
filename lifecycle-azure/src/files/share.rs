//! Lists, reads, writes, and deletes files of a share, with retries. Every operation is safe to
//! repeat: no path is ever written twice.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use bytes::Bytes;
use lifecycle_core::{Error, Result, Retry};
use opendal::Operator;
use tokio::time::Instant;

use super::error::ShareInfo;

const TRIES: usize = 3;
/// The wait before the first retry. Each further retry doubles the wait.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// How long an attempt to connect is repeated. Short, because most causes are settings that only a
/// person can correct.
const CONNECTED_WITHIN: Duration = Duration::from_secs(2);
/// The longest wait within an operation. If Azure requests a longer wait, the operation fails, and
/// the caller decides whether to retry.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) is_directory: bool,
    pub(super) size: u64,
    /// The entity tag, which changes whenever the file changes.
    pub(super) etag: Option<String>,
    /// The time of the last change by the share's clock, in seconds since 1970.
    pub(super) modified: Option<i64>,
}

/// A share, or the directory in a share that contains the code bases.
#[derive(Debug, Clone)]
pub(super) struct Share {
    operator: Operator,
    info: Arc<ShareInfo>,
    /// The directory that all paths are relative to, with a trailing `/`; empty for the root of the
    /// share. opendal's own root option is unsuitable: it cannot create several missing parents.
    root: String,
    /// No request is sent before this time. Set when Azure throttles a request; shared by all
    /// clones of this value.
    throttled_until: Arc<Mutex<Option<Instant>>>,
}

impl Share {
    pub(super) fn new(operator: Operator, info: Arc<ShareInfo>, root: &str) -> Self {
        let root = root.trim_matches('/');
        Self {
            operator,
            info,
            root: if root.is_empty() {
                String::new()
            } else {
                format!("{root}/")
            },
            throttled_until: Arc::default(),
        }
    }

    pub(super) fn info(&self) -> &ShareInfo {
        &self.info
    }

    /// Returns the entries of a directory in any order. An absent directory counts as empty.
    pub(super) async fn list(&self, directory: &str, doing: &str) -> Result<Vec<Listed>> {
        let path = match directory {
            "" => self.root.clone(),
            directory => format!("{}{directory}/", self.root),
        };
        let entries = self
            .try_often(&path, doing, || self.operator.list(&path))
            .await?;
        let inside = |entry: &opendal::Entry| {
            // The list also contains the directory itself.
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

    /// Reads a range of a file. Fails if the file is too short.
    pub(super) async fn read(&self, path: &str, range: Range<u64>, doing: &str) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let expected = range.end - range.start;
        let path = &format!("{}{path}", self.root);
        let read = || async {
            let options = opendal::options::ReadOptions {
                range: range.clone().into(),
                ..Default::default()
            };
            self.operator.read_options(path, options).await
        };
        let bytes = self.try_often(path, doing, read).await?.to_bytes();
        if bytes.len() as u64 == expected {
            return Ok(bytes);
        }
        Err(Error::interrupted(
            format!("{doing} ({})", self.info),
            Some(format!("received {} of {expected} bytes", bytes.len()).into()),
        ))
    }

    /// Writes a new file of at most 4 MiB into a directory, and creates missing parent directories.
    /// Returns the name of the file.
    ///
    /// `name` must return a new file name for each attempt. Otherwise, a cancelled request that
    /// arrives late could overwrite the file of a later attempt with zeros.
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

    /// Deletes a file, or an empty directory if `path` ends with `/`. Succeeds if nothing exists at
    /// `path`.
    pub(super) async fn delete(&self, path: &str, doing: &str) -> Result<()> {
        let path = &format!("{}{path}", self.root);
        self.try_often(path, doing, || self.operator.delete(path))
            .await
    }

    /// Waits until Azure accepts requests again.
    ///
    /// # Errors
    /// Returns [`Error::Throttled`] if the wait would be longer than [`LONGEST_WAIT`].
    async fn wait(&self, doing: &str) -> Result<()> {
        let until = *self
            .throttled_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(until) = until else { return Ok(()) };
        let left = until.saturating_duration_since(Instant::now());
        if left > LONGEST_WAIT {
            return Err(Error::throttled(
                format!("{doing} ({})", self.info),
                Some(left),
            ));
        }
        tokio::time::sleep_until(until).await;
        Ok(())
    }

    fn note_throttling(&self, error: &Error) {
        if let Error::Throttled {
            after: Some(wait), ..
        } = error
        {
            let until = Instant::now() + *wait;
            let mut throttled_until = self
                .throttled_until
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *throttled_until = Some(throttled_until.map_or(until, |earlier| earlier.max(until)));
        }
    }

    async fn try_often<T, F>(&self, path: &str, doing: &str, attempt: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = opendal::Result<T>>,
    {
        let begun = Instant::now();
        let may_connect = |error: &Error| {
            !matches!(error, Error::Unreachable { .. }) || begun.elapsed() < CONNECTED_WITHIN
        };
        let attempt = || async {
            self.wait(doing).await?;
            let outcome = attempt().await;
            outcome.map_err(|error| {
                let error = self.info.explain(path, doing, &error);
                self.note_throttling(&error);
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
            .when(|error| {
                matches!(error.retry(), Retry::After(wait) if wait <= LONGEST_WAIT)
                    && may_connect(error)
            })
            .adjust(|error, planned| match error.retry() {
                Retry::After(requested) => planned.map(|planned| planned.max(requested)),
                Retry::Replan | Retry::Never => None,
            })
            .await
    }
}
