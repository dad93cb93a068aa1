//! Makes the manager retry failed operations now.

use std::time::Duration;

use super::Bootstrapper;
use crate::error::Result;
use crate::model::PlatformId;
use crate::reconcile::RetryOptions;

/// How long a manager may take to accept a request.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(30);

impl Bootstrapper {
    /// Clears the failures of a service, a replica (`web-2`) or a node, so that the failed
    /// operations are retried now. Returns descriptions of these operations, without waiting for
    /// their results.
    pub async fn retry(
        &self,
        platform: PlatformId,
        name: &str,
        options: RetryOptions,
    ) -> Result<Vec<String>> {
        let client = self.client(platform).await?;
        let answer = self
            .wait("the manager's acceptance of the request", ACCEPTED_WITHIN)
            .repeat(|| client.retry(name, options))
            .await?;
        Ok(answer.retried)
    }
}
