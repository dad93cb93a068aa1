//! Lists the operations of the manager, follows one of them until it ends, and cancels one.

use super::follow::{Following, follow_operation};
use super::{ACCEPTED_WITHIN, Bootstrapper};
use crate::api::ManagerApi;
use crate::api::wire::OperationV1;
use crate::error::Result;
use crate::model::{OperationId, PlatformId};

impl Bootstrapper {
    /// Returns the latest operations, oldest first, also those that have ended in the last 30 days.
    pub async fn operations(&self, platform: PlatformId) -> Result<Vec<OperationV1>> {
        let client = self.client(platform).await?;
        self.wait("the manager's response", ACCEPTED_WITHIN)
            .repeat(|| client.operations())
            .await
    }

    /// Follows an operation until it ends, and reports events meanwhile. Returns its final state.
    pub async fn watch_operation(
        &self,
        platform: PlatformId,
        id: OperationId,
    ) -> Result<OperationV1> {
        let client = self.client(platform).await?;
        let client = client.as_ref();
        let (operation, cursor) = self
            .wait("the manager's response", ACCEPTED_WITHIN)
            .until(async { tokio::try_join!(client.operation(id), client.last_event()) })
            .await?;
        self.follow_to_end(client, operation, cursor).await
    }

    /// Cancels a restart or a preparation, and waits until what it has begun is completed. Returns its final
    /// state, which is succeeded if everything had been done.
    pub async fn cancel_operation(
        &self,
        platform: PlatformId,
        id: OperationId,
    ) -> Result<OperationV1> {
        let client = self.client(platform).await?;
        let client = client.as_ref();
        let cursor = self
            .wait("the manager's response", ACCEPTED_WITHIN)
            .until(client.last_event())
            .await?;
        let operation = self
            .wait("the manager's acceptance of the request", ACCEPTED_WITHIN)
            .repeat(|| client.cancel(id))
            .await?;
        self.follow_to_end(client, operation, cursor).await
    }

    async fn follow_to_end(
        &self,
        client: &dyn ManagerApi,
        operation: OperationV1,
        cursor: u64,
    ) -> Result<OperationV1> {
        if operation.ended_at.is_some() {
            return Ok(operation);
        }
        let (reporter, clock) = (self.reporter.as_ref(), self.backends.clock.as_ref());
        let mut following = Following::new(reporter, clock, cursor);
        follow_operation(client, operation.id(), &mut following).await
    }
}
