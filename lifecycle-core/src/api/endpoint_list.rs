//! The endpoints of a service, kept up to date for a program that connects to them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::ManagerApi;
use super::wire::EndpointV1;
use crate::error::{Error, Result};
use crate::model::ServiceName;

/// The pause before the first attempt to watch the endpoints again. It doubles with each attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The current endpoints of a service. They are updated until this list is dropped.
///
/// While the manager does not respond, the list contains the latest known endpoints, because the
/// service continues to run.
///
/// ```no_run
/// # async fn example() -> lifecycle_core::Result<()> {
/// use std::sync::Arc;
///
/// use lifecycle_core::api::{ApiClient, EndpointList};
/// use lifecycle_core::model::ServiceName;
///
/// let api = Arc::new(ApiClient::of_this_service()?);
/// let peers = EndpointList::watch(api, ServiceName::try_from("sensor-manager")?).await?;
/// for peer in peers.current().iter() {
///     println!("{}:{}", peer.ip, peer.port);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct EndpointList {
    latest: watch::Receiver<Arc<[EndpointV1]>>,
    task: AbortHandle,
}

impl EndpointList {
    /// Reads the endpoints of a service and starts to watch them. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// The error of the first read, for example [`Error::NotFound`] for an unknown service. Later errors
    /// are retried: a service that is removed has no endpoints until it is declared again.
    pub async fn watch(api: Arc<dyn ManagerApi>, service: ServiceName) -> Result<Self> {
        let mut stream = api.watch_endpoints(&service).await?;
        let first = match stream.next().await {
            Some(first) => first?,
            None => Vec::new(),
        };
        let (sender, latest) = watch::channel(Arc::from(first));
        let task = tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                while let Some(Ok(endpoints)) = stream.next().await {
                    pause = FIRST_PAUSE;
                    sender.send_replace(endpoints.into());
                }
                stream = loop {
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(LONGEST_PAUSE);
                    match api.watch_endpoints(&service).await {
                        Ok(stream) => break stream,
                        Err(Error::NotFound { .. }) => {
                            sender.send_replace(Arc::default());
                        }
                        Err(error) => {
                            tracing::debug!(%error, %service, "cannot watch the endpoints");
                        }
                    }
                };
            }
        });
        let task = task.abort_handle();
        Ok(Self { latest, task })
    }

    /// Returns the latest known endpoints.
    pub fn current(&self) -> Arc<[EndpointV1]> {
        Arc::clone(&self.latest.borrow())
    }

    /// Waits until the endpoints change, and returns the new ones. Changes that this method has not
    /// returned yet are skipped, except for the latest.
    pub async fn changed(&mut self) -> Arc<[EndpointV1]> {
        if self.latest.changed().await.is_err() {
            // The runtime of the task ends, so there are no more changes.
            std::future::pending::<()>().await;
        }
        Arc::clone(&self.latest.borrow_and_update())
    }
}

impl Drop for EndpointList {
    fn drop(&mut self) {
        self.task.abort();
    }
}
