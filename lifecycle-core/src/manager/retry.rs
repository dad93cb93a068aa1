//! Requested retries: what failed runs again now, since its cause may be fixed.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::{Manager, not_leading};
use crate::error::{Error, Result};
use crate::model::Subject;
use crate::reconcile::RetryRequest;

/// How long the control loop may take to carry a request out; it may be writing the registry.
const TAKEN_WITHIN: Duration = Duration::from_secs(20);

/// Where requests go while this manager leads.
#[derive(Debug, Default)]
pub(super) struct Retries {
    to: Option<mpsc::UnboundedSender<RetryRequest>>,
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

    /// Passes a request on to the control loop. No round counts as settled before the request
    /// was carried out.
    pub(super) fn request_retry(
        &self,
        subject: Subject,
        answer: Option<oneshot::Sender<Vec<String>>>,
    ) -> Result<()> {
        let retries = self.retries();
        let to = retries.to.as_ref().ok_or_else(not_leading)?;
        to.send(RetryRequest { subject, answer })
            .map_err(|_| not_leading())?;
        // After the request: the control loop, which publishes rounds too, knows of it by now.
        self.rounds
            .send_modify(|round| Arc::make_mut(round).settled = false);
        Ok(())
    }

    /// Takes requests for a new control loop, which has no failures yet.
    pub(super) fn take_retries_for(&self, to: mpsc::UnboundedSender<RetryRequest>) {
        self.retries().to = Some(to);
    }

    fn retries(&self) -> MutexGuard<'_, Retries> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
