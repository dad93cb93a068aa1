//! The operations that have not ended: what they ask of the control loop.

use std::sync::{MutexGuard, PoisonError};

use super::{Manager, is_platform_deletion};
use crate::model::Operation;

impl Manager {
    /// Takes over the operations that a previous leader accepted.
    pub(super) fn take_operations(&self, open: Vec<Operation>) {
        let others = open.into_iter().filter(|o| !is_platform_deletion(o));
        *self.open_operations() = others.collect();
    }

    pub(super) fn open_operations(&self) -> MutexGuard<'_, Vec<Operation>> {
        self.operations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that an operation is carried out. The call that recorded it may have failed afterwards.
    pub(super) fn take_up(&self, operation: &Operation) {
        if operation.ended_at().is_some() || is_platform_deletion(operation) {
            return;
        }
        let mut open = self.open_operations();
        if open.iter().all(|known| known.id != operation.id) {
            open.push(operation.clone());
            drop(open);
            self.aim_operations();
            self.accepted.notify_one();
        }
    }

    /// Passes the requests of the open operations to the control loop.
    pub(super) fn aim_operations(&self) {
        let (restarts, node_restarts) = (self.runs_to_end(), self.boots_to_end());
        let (preparations, rollouts) = (self.preparations(), self.rollout_requests());
        self.target.send_if_modified(|target| {
            let Some(target) = target else { return false };
            let is_same = target.restarts == restarts
                && target.node_restarts == node_restarts
                && target.preparations == preparations
                && target.rollouts == rollouts;
            target.restarts = restarts;
            target.node_restarts = node_restarts;
            target.preparations = preparations;
            target.rollouts = rollouts;
            !is_same
        });
    }
}
