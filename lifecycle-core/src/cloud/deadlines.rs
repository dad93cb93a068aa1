//! How long changes of nodes may take, and what is said of one that takes longer.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{CloudOperation, CloudProgress, CloudProvider, NodeChange};
use crate::error::{Error, Result, Retry};
use crate::model::service::seconds;

/// How long to wait before asking again where the cloud does not say.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// How long each kind of change of a node may take before nobody waits for it any more. It goes on
/// in the cloud then, and is taken up again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CloudDeadlines {
    /// Making a node, all alternatives of its size together.
    #[serde(with = "seconds")]
    pub create: Duration,
    /// Starting one.
    #[serde(with = "seconds")]
    pub start: Duration,
    /// Stopping one.
    #[serde(with = "seconds")]
    pub stop: Duration,
    /// Restarting one.
    #[serde(with = "seconds")]
    pub restart: Duration,
    /// Deleting one.
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
    /// How long this change may take.
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

/// The key of a change's deadline, and what it does, in words.
fn told(change: &NodeChange) -> (&'static str, &'static str) {
    match change {
        NodeChange::Provision { .. } => ("create", "making"),
        NodeChange::Start { .. } => ("start", "starting"),
        NodeChange::Stop { .. } => ("stop", "stopping"),
        NodeChange::Restart { .. } => ("restart", "restarting"),
        NodeChange::Delete { .. } => ("delete", "deleting"),
    }
}

/// What the cloud says of a change under way: passed on to whoever listens, and kept for the
/// error of one that takes too long.
pub struct Hearing<'a> {
    tell: &'a (dyn for<'l> Fn(&'l str) + Send + Sync),
    last: Mutex<Option<String>>,
}

impl std::fmt::Debug for Hearing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hearing")
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

impl<'a> Hearing<'a> {
    /// Passes on to `tell`, which must not block.
    pub fn new(tell: &'a (dyn for<'l> Fn(&'l str) + Send + Sync)) -> Self {
        Self {
            tell,
            last: Mutex::default(),
        }
    }

    /// Asks until a change that was begun, by whatever process, is done, and passes on what the
    /// cloud says.
    ///
    /// # Errors
    /// Those of a change that failed. A question that cannot be answered just now is asked again.
    pub async fn see_through(
        &self,
        provider: &dyn CloudProvider,
        operation: &CloudOperation,
    ) -> Result<()> {
        loop {
            let after = match provider.poll(operation).await {
                Ok(CloudProgress::Done) => return Ok(()),
                Ok(CloudProgress::Running { after, says }) => {
                    if let Some(says) = says {
                        self.hear(&says);
                    }
                    after.unwrap_or(POLL_EVERY)
                }
                Err(error) => match error.retry() {
                    Retry::After(after) => {
                        self.hear(&error.chain());
                        after.max(POLL_EVERY)
                    }
                    Retry::Replan | Retry::Never => return Err(error),
                },
            };
            tokio::time::sleep(after).await;
        }
    }

    fn hear(&self, says: &str) {
        (self.tell)(says);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(says.to_owned());
    }

    /// Waits for a change no longer than `deadline`.
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
        let (key, what) = told(change);
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        Error::Overdue {
            what: format!("{what} node {}", change.node()),
            after,
            says: last.clone(),
            hint: format!(
                "it goes on in the cloud, and the next run takes it up; where it always takes so \
                 long, raise `cloud.deadlines.{key}`"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_declared_has_its_default() {
        let some: CloudDeadlines = serde_json::from_str(r#"{"create": 90}"#).unwrap();
        assert_eq!(some.create, Duration::from_secs(90));
        assert_eq!(some.delete, CloudDeadlines::default().delete);
        let text = serde_json::to_string(&some).unwrap();
        assert_eq!(serde_json::from_str::<CloudDeadlines>(&text).unwrap(), some);
    }
}
