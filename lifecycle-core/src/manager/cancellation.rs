//! Cancels operations. A cancelled restart starts the containers that it has stopped, and leaves the others
//! running, so that no container stays stopped.

use super::{Accepted, Manager};
use crate::error::{Error, Result};
use crate::model::{Operation, OperationId, OperationKind, OperationState};
use crate::registry::{Batch, Change};

impl Manager {
    /// Cancels a restart or a preparation. A restart completes what it has begun, and then ends as
    /// cancelled; if everything was restarted before, it ends as succeeded. A repeated call changes nothing.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if the operation does not exist
    /// - [`Error::Conflict`] if it has ended otherwise, or is of another kind
    pub async fn cancel(&self, id: OperationId) -> Result<Operation> {
        let write = self.begin_write(Accepted::Always).await?;
        if let Some(operation) = self.answered_operation(&write).await? {
            self.replace_open(&operation);
            return Ok(operation);
        }
        let mut operation = self.operation(id).await?;
        let conflict = |why: String| Error::Conflict {
            what: format!("cancelling operation {id} failed"),
            why,
        };
        match &operation.state {
            OperationState::Running if !operation.kind.is_cancelled() => {}
            OperationState::Running | OperationState::Cancelled { .. } => {
                // The call that recorded the cancellation may have failed afterwards.
                self.replace_open(&operation);
                return self.join(&write, &operation).await;
            }
            OperationState::Succeeded { .. } => {
                return Err(conflict("it has succeeded already".into()));
            }
            OperationState::Failed { why, .. } => {
                return Err(conflict(format!("it has failed already: {why}")));
            }
        }
        match &mut operation.kind {
            OperationKind::Restart { cancelled, .. }
            | OperationKind::RestartNode { cancelled, .. } => *cancelled = true,
            OperationKind::PrepareNode { .. } => {
                let at = self.backends.clock.now();
                operation.state = OperationState::Cancelled { at };
            }
            OperationKind::Declare { .. } => {
                let why = "the declaration has changed already; undo the change, for example by \
                           `bootstrapper rollback`";
                return Err(conflict(why.into()));
            }
            OperationKind::Rollout { service, .. } => {
                let why = format!(
                    "use `bootstrapper rollout pause {service}` or `bootstrapper rollout rollback \
                     {service}`"
                );
                return Err(conflict(why));
            }
            OperationKind::DeletePlatform { .. } => {
                let why =
                    "services have been deleted already; `bootstrapper up` declares them again";
                return Err(conflict(why.into()));
            }
        }
        let mut batch = Batch::of(Change::PutOperation(operation.clone()));
        batch.changes.extend(write.answer(&operation.id)?);
        let request = format!("cancel operation {id}");
        let audit = self.audit(&request, operation.subject());
        let registry = &self.backends.registry;
        registry.commit(write.epoch, batch.event(audit)).await?;
        self.replace_open(&operation);
        Ok(operation)
    }

    /// Carries out a changed operation instead of the previous version, or nothing if it has ended.
    fn replace_open(&self, operation: &Operation) {
        let mut open = self.open_operations();
        open.retain(|known| known.id != operation.id);
        if operation.ended_at().is_none() {
            open.push(operation.clone());
        }
        drop(open);
        self.aim_operations();
        self.accepted.notify_one();
    }
}
