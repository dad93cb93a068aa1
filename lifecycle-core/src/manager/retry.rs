//! Requested retries: what failed runs again now, since its cause may be fixed.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::{Manager, not_leading};
use crate::error::{Error, Result};
use crate::model::Subject;
use crate::reconcile::{RetryRequest, Status};

/// How long the control loop may take to carry a request out; it may be writing the registry.
const TAKEN_WITHIN: Duration = Duration::from_secs(20);

/// Where requests go while this manager leads.
#[derive(Debug, Default)]
pub(super) struct Retries {
    to: Option<mpsc::UnboundedSender<RetryRequest>>,
    /// How many were sent; each has its place as its number.
    sent: u64,
}

impl Manager {
    /// Forgets the failures of a service, of one replica (`web-2`) or of a node, so that what
    /// failed is tried again at once. Returns what is tried again, in words.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a name that is neither declared nor known.
    pub async fn retry(&self, name: &str) -> Result<Vec<String>> {
        let subject = self.snapshot().await?.subject_named(name)?;
        let (answer, answered) = oneshot::channel();
        self.request_retry(subject, Some(answer))?;
        match tokio::time::timeout(TAKEN_WITHIN, answered).await {
            Ok(Ok(retried)) => Ok(retried),
            // The control loop ended, and its successor begins without failures.
            Ok(Err(_)) => Ok(Vec::new()),
            Err(_) => Err(Error::TimedOut {
                what: format!("the retry of {name}"),
                after: TAKEN_WITHIN,
            }),
        }
    }

    /// Passes a request on to the control loop. The status counts as settled only once it
    /// contains the request.
    pub(super) fn request_retry(
        &self,
        subject: Subject,
        answer: Option<oneshot::Sender<Vec<String>>>,
    ) -> Result<()> {
        let mut retries = self.retries();
        let number = retries.sent + 1;
        let request = RetryRequest {
            number,
            subject,
            answer,
        };
        let to = retries.to.as_ref().ok_or_else(not_leading)?;
        to.send(request).map_err(|_| not_leading())?;
        retries.sent = number;
        self.status.send_modify(|status| status.settled = false);
        Ok(())
    }

    /// Takes requests for a new control loop, which has no failures yet.
    pub(super) fn take_retries_for(&self, to: mpsc::UnboundedSender<RetryRequest>) {
        *self.retries() = Retries {
            to: Some(to),
            sent: 0,
        };
    }

    /// Passes a status on, unsettled if it does not contain the latest request.
    pub(super) fn publish_status(&self, mut status: Status) {
        let retries = self.retries();
        status.settled &= status.retry >= retries.sent;
        self.status.send_replace(status);
    }

    fn retries(&self) -> MutexGuard<'_, Retries> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
