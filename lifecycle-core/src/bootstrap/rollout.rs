//! Pauses, resumes or rolls back the rollout of a service.

use super::{ACCEPTED_WITHIN, Bootstrapper};
use crate::error::Result;
use crate::model::{OperationId, PlatformId, RolloutRequest};

impl Bootstrapper {
    /// Pauses, resumes or rolls back the rollout of a service. Returns the rollout's operation,
    /// without waiting for its end.
    pub async fn rollout(
        &self,
        platform: PlatformId,
        service: &str,
        request: RolloutRequest,
    ) -> Result<OperationId> {
        let client = self.client(platform).await?;
        let operation = self
            .wait("the manager's acceptance of the request", ACCEPTED_WITHIN)
            .repeat(|| client.rollout(service, request))
            .await?;
        Ok(operation.id())
    }
}
