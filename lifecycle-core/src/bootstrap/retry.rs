//! Makes the manager retry failed operations now.

use super::{ACCEPTED_WITHIN, Bootstrapper};
use crate::error::Result;
use crate::model::PlatformId;
use crate::reconcile::RetryOptions;

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
