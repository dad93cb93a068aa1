//! Lists the revisions, returns to an earlier one, and waits until the platform has settled.

use super::{ACCEPTED_WITHIN, Bootstrapper, Outcome};
use crate::api::wire::{AppliedV1, RevisionV1, RollbackPlanV1};
use crate::error::{Error, Result};
use crate::model::{Generation, PlatformId};
use crate::platform::RestoredSecrets;

/// How long the manager may take to plan a rollback.
const PLANNED_WITHIN: std::time::Duration = std::time::Duration::from_mins(2);

impl Bootstrapper {
    /// Returns the stored revisions, oldest first. The last one is the current one.
    pub async fn revisions(&self, platform: PlatformId) -> Result<Vec<RevisionV1>> {
        let client = self.client(platform).await?;
        self.wait("the manager's response", ACCEPTED_WITHIN)
            .repeat(|| client.revisions())
            .await
    }

    /// Returns the revision before the current one.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no earlier revision is stored
    pub async fn previous_revision(&self, platform: PlatformId) -> Result<Generation> {
        let revisions = self.revisions(platform).await?;
        let previous = revisions.iter().rev().nth(1);
        let previous = previous.map(|revision| Generation(revision.generation));
        previous.ok_or_else(|| {
            let hint = "nothing was changed since the platform was started";
            Error::not_found_with_hint("an earlier revision", hint)
        })
    }

    /// Plans what [`Self::rollback`] would change.
    pub async fn plan_rollback(
        &self,
        platform: PlatformId,
        to: Generation,
        secrets: RestoredSecrets,
    ) -> Result<RollbackPlanV1> {
        let client = self.client(platform).await?;
        self.wait("the manager's plan", PLANNED_WITHIN)
            .repeat(|| client.plan_rollback(to, secrets))
            .await
    }

    /// Restores the services of an earlier revision, and their overrides, and waits until the platform
    /// has settled.
    pub async fn rollback(
        &self,
        platform: PlatformId,
        to: Generation,
        secrets: RestoredSecrets,
    ) -> Result<Outcome> {
        let client = self.client(platform).await?;
        let client = client.as_ref();
        self.requested(
            client,
            |_| true,
            || async {
                let done = client.rollback(to, secrets).await?;
                Ok(AppliedV1 {
                    generation: done.generation,
                    changed: done.changed,
                    operation: done.operation,
                })
            },
        )
        .await
    }
}
