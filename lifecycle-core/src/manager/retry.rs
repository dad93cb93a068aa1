//! Forwards retry requests to the control loop.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::{Accepted, Manager, not_leading};
use crate::error::{Error, Result};
use crate::model::Subject;
use crate::reconcile::{RetryOptions, RetryRequest};
use crate::registry::Batch;

/// How long the control loop may take to handle a request.
const HANDLED_WITHIN: Duration = Duration::from_secs(20);

/// The channel to the control loop. It is missing until this manager leads for the first time.
#[derive(Debug, Default)]
pub(super) struct Retries {
    to: Option<mpsc::UnboundedSender<RetryRequest>>,
}

impl Manager {
    /// Clears the failures of a service, a replica (`web-2`) or a node, so that its failed steps
    /// are retried immediately. Returns descriptions of these steps.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a name that is neither declared nor recorded.
    pub async fn retry(&self, name: &str, options: RetryOptions) -> Result<Vec<String>> {
        let subject = self.snapshot().await?.subject_named(name)?;
        // A retry changes nothing in the registry, so record the request first.
        let write = self.begin_write(Accepted::Always).await?;
        let request = if options.recreate_volumes {
            "retry with new volumes"
        } else {
            "retry"
        };
        let audit = Batch::default().event(self.audit(request, subject.clone()));
        self.backends.registry.commit(write.epoch, audit).await?;
        drop(write);
        let (answer, answered) = oneshot::channel();
        self.request_retry(subject, options, Some(answer))?;
        match tokio::time::timeout(HANDLED_WITHIN, answered).await {
            Ok(Ok(retried)) => Ok(retried),
            // The control loop has ended; the next one starts without failures.
            Ok(Err(_)) => Ok(Vec::new()),
            Err(_) => Err(Error::TimedOut {
                what: format!("retrying {name}"),
                after: HANDLED_WITHIN,
            }),
        }
    }

    /// Sends a request to the control loop. No round counts as settled until the control loop has
    /// handled the request.
    pub(super) fn request_retry(
        &self,
        subject: Subject,
        options: RetryOptions,
        answer: Option<oneshot::Sender<Vec<String>>>,
    ) -> Result<()> {
        let retries = self.retries();
        let to = retries.to.as_ref().ok_or_else(not_leading)?;
        let request = RetryRequest {
            subject,
            options,
            answer,
        };
        to.send(request).map_err(|_| not_leading())?;
        // Send the request before changing the round. Otherwise, the control loop could publish a
        // settled round in between.
        self.rounds
            .send_modify(|round| Arc::make_mut(round).settled = false);
        Ok(())
    }

    /// Sends later requests to a new control loop.
    pub(super) fn take_retries_for(&self, to: mpsc::UnboundedSender<RetryRequest>) {
        self.retries().to = Some(to);
    }

    fn retries(&self) -> MutexGuard<'_, Retries> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
