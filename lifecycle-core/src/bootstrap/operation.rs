//! Lists the operations of the manager, and follows one of them until it ends.

use super::follow::{Following, follow_operation};
use super::{ACCEPTED_WITHIN, Bootstrapper};
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
        if operation.ended_at.is_some() {
            return Ok(operation);
        }
        let (reporter, clock) = (self.reporter.as_ref(), self.backends.clock.as_ref());
        let mut following = Following::new(reporter, clock, cursor);
        follow_operation(client, id, &mut following).await
    }
}
