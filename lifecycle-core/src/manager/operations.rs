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

    /// Passes the requests of the open operations to the control loop.
    pub(super) fn aim_operations(&self) {
        let (restarts, node_restarts) = (self.runs_to_end(), self.boots_to_end());
        let rollouts = self.rollout_requests();
        self.target.send_modify(|target| {
            if let Some(target) = target {
                target.restarts = restarts;
                target.node_restarts = node_restarts;
                target.rollouts = rollouts;
            }
        });
    }
}
