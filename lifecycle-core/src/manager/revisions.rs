//! Lists the revisions, and returns to an earlier one.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::declaration::Cause;
use super::{Accepted, Applied, Manager};
use crate::error::{Error, Result};
use crate::model::{Generation, Subject};
use crate::platform::{Declaration, Restored, RestoredSecrets, Revision, SecretValue};
use crate::reconcile::Plan;

/// The result of [`Manager::rollback`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    pub applied: Applied,
    /// The values that were not restored, because they may be secrets.
    pub kept: BTreeSet<SecretValue>,
    /// The values that may be secrets, and were restored, because they have no current value.
    pub without_current: BTreeSet<SecretValue>,
}

impl Manager {
    /// Returns the stored revisions, oldest first. The last one is the current one.
    pub async fn revisions(&self) -> Result<Vec<Revision>> {
        self.backends.registry.revisions().await
    }

    /// Restores the services of an earlier generation, and their overrides, as a new generation. Nodes
    /// and the settings of the platform stay. A repeated call changes nothing.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if the generation is not stored
    /// - [`Error::Conflict`] if mounted files of the generation are no longer stored, or the platform
    ///   is being deleted
    /// - [`Error::Invalid`] if the services cannot run on the platform as it is now
    pub async fn rollback(&self, to: Generation, secrets: RestoredSecrets) -> Result<RolledBack> {
        let write = self.begin_write(Accepted::Always).await?;
        if let Some(answered) = self.answered_change(&write).await? {
            return Ok(answered);
        }
        let (previous, restored) = self.restored(to, secrets).await?;
        let request = format!("rollback to {to}");
        let cause = Cause {
            what: format!("{request} of {}", self.options.name),
            request,
            subject: Subject::Platform,
        };
        let answer = |applied| RolledBack {
            applied,
            kept: restored.kept,
            without_current: restored.without_current,
        };
        let previous = Some(previous);
        self.declare(&write, previous, restored.declaration, cause, answer)
            .await
    }

    /// Plans, from the latest observation, what [`Self::rollback`] would change. Changes nothing.
    ///
    /// # Errors
    /// As for [`Self::rollback`]; [`Error::NotReady`] until every node has been observed once
    pub async fn plan_rollback(
        &self,
        to: Generation,
        secrets: RestoredSecrets,
    ) -> Result<(Plan, Restored)> {
        let (_, restored) = self.restored(to, secrets).await?;
        Ok((self.plan_effective(&restored.declaration)?, restored))
    }

    /// Returns the current declaration, and the restored one.
    async fn restored(
        &self,
        to: Generation,
        secrets: RestoredSecrets,
    ) -> Result<((Generation, Declaration), Restored)> {
        self.reject_while_deleting("rollback").await?;
        let registry = &self.backends.registry;
        let (current, earlier) = tokio::try_join!(self.snapshot(), registry.declaration(to))?;
        let (Some(current), Some(earlier)) = (current.declaration, earlier) else {
            let hint = "`bootstrapper history` lists the stored revisions";
            return Err(Error::not_found_with_hint(format!("revision {to}"), hint));
        };
        let restored = current.1.clone().restoring(earlier, secrets);
        self.check(&restored.declaration)?;
        self.check_effective(&restored.declaration)?;
        let chunks = restored.declaration.chunks();
        let missing = self.missing_chunks(chunks).await?.len();
        if missing > 0 {
            return Err(Error::Conflict {
                what: format!("the rollback to {to} was rejected"),
                why: format!("{missing} chunks of its mounted files are no longer stored"),
            });
        }
        Ok((current, restored))
    }
}
