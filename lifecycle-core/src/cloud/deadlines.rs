//! Defines time limits for changes to nodes, and waits for changes within these limits.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{CloudOperation, CloudProgress, CloudProvider, NodeChange};
use crate::error::{Error, Result, Retry};
use crate::model::service::seconds;

/// The polling interval if the cloud does not request one.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// The time limits for changes to nodes. A change that exceeds its limit continues in the cloud,
/// and a later call resumes waiting for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CloudDeadlines {
    /// The time limit for creating a node, including attempts with alternative sizes.
    #[serde(with = "seconds")]
    pub create: Duration,
    #[serde(with = "seconds")]
    pub start: Duration,
    #[serde(with = "seconds")]
    pub stop: Duration,
    #[serde(with = "seconds")]
    pub restart: Duration,
    #[serde(with = "seconds")]
    pub delete: Duration,
}

impl Default for CloudDeadlines {
    fn default() -> Self {
        Self {
            create: Duration::from_mins(30),
            start: Duration::from_mins(10),
            stop: Duration::from_mins(10),
            restart: Duration::from_mins(10),
            delete: Duration::from_mins(15),
        }
    }
}

impl CloudDeadlines {
    /// Returns the time limit for this change.
    pub fn of(&self, change: &NodeChange) -> Duration {
        match change {
            NodeChange::Provision { .. } => self.create,
            NodeChange::Start { .. } => self.start,
            NodeChange::Stop { .. } => self.stop,
            NodeChange::Restart { .. } => self.restart,
            NodeChange::Delete { .. } => self.delete,
        }
    }
}

/// Returns the configuration key of a change's limit, and a verb for messages.
fn describe(change: &NodeChange) -> (&'static str, &'static str) {
    match change {
        NodeChange::Provision { .. } => ("create", "creating"),
        NodeChange::Start { .. } => ("start", "starting"),
        NodeChange::Stop { .. } => ("stop", "stopping"),
        NodeChange::Restart { .. } => ("restart", "restarting"),
        NodeChange::Delete { .. } => ("delete", "deleting"),
    }
}

/// Forwards the cloud's messages about a change in progress. Keeps the last message for the error
/// after a timeout.
pub struct ProgressListener<'a> {
    report: &'a (dyn for<'l> Fn(&'l str) + Send + Sync),
    last: Mutex<Option<String>>,
}

impl std::fmt::Debug for ProgressListener<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProgressListener")
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

impl<'a> ProgressListener<'a> {
    /// Creates a listener that forwards messages to `report`, which must not block.
    pub fn new(report: &'a (dyn for<'l> Fn(&'l str) + Send + Sync)) -> Self {
        Self {
            report,
            last: Mutex::default(),
        }
    }

    /// Polls a change until it is done, and forwards the cloud's messages. Repeats a failed poll if
    /// it may succeed later.
    ///
    /// # Errors
    /// The error of a failed change.
    pub async fn poll_to_end(
        &self,
        provider: &dyn CloudProvider,
        operation: &CloudOperation,
    ) -> Result<()> {
        loop {
            let after = match provider.poll(operation).await {
                Ok(CloudProgress::Done) => return Ok(()),
                Ok(CloudProgress::Running { after, message }) => {
                    if let Some(message) = message {
                        self.forward(&message);
                    }
                    after.unwrap_or(POLL_EVERY)
                }
                Err(error) => match error.retry() {
                    Retry::After(after) => {
                        self.forward(&error.chain());
                        after.max(POLL_EVERY)
                    }
                    Retry::Replan | Retry::Never => return Err(error),
                },
            };
            tokio::time::sleep(after).await;
        }
    }

    fn forward(&self, message: &str) {
        (self.report)(message);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(message.to_owned());
    }

    /// Waits at most `deadline` for `work`, which carries out `change`.
    ///
    /// # Errors
    /// The error of `work`, or [`Error::Overdue`] after the deadline.
    pub async fn within(
        &self,
        deadline: Duration,
        change: &NodeChange,
        work: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let ended = tokio::time::timeout(deadline, work).await;
        ended.unwrap_or_else(|_| Err(self.overdue(change, deadline)))
    }

    fn overdue(&self, change: &NodeChange, after: Duration) -> Error {
        let (key, what) = describe(change);
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        Error::Overdue {
            what: format!("{what} node {}", change.node()),
            after,
            reported: last.clone(),
            hint: format!(
                "wait: the change continues in the cloud, and the next attempt resumes waiting \
                 for it; if such changes always take this long, raise `cloud.deadlines.{key}`"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_limits_have_defaults() {
        let some: CloudDeadlines = serde_json::from_str(r#"{"create": 90}"#).unwrap();
        assert_eq!(some.create, Duration::from_secs(90));
        assert_eq!(some.delete, CloudDeadlines::default().delete);
        let text = serde_json::to_string(&some).unwrap();
        assert_eq!(serde_json::from_str::<CloudDeadlines>(&text).unwrap(), some);
    }
}
