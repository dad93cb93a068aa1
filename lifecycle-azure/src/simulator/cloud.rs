//! The state that all parts of a simulator share.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lifecycle_core::clock::{Clock, IdSource};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::arm::budget::Budgets;
use super::arm::state::ArmState;
use super::entra::Tokens;
use super::host::HostBackend;
use super::options::SimulatorOptions;

/// Cheap to clone; all clones share one state.
#[derive(Debug, Clone)]
pub(crate) struct Cloud(Arc<Parts>);

#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) options: SimulatorOptions,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdSource>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) budgets: Budgets,
    pub(crate) hosts: Arc<dyn HostBackend>,
    /// The tasks that run operations.
    pub(crate) tasks: TaskTracker,
    /// Cancels all of them.
    pub(crate) stop: CancellationToken,
    pub(crate) state: Mutex<ArmState>,
}

impl Cloud {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// The state of Resource Manager, locked, with its time set to now. Never held across an await.
    pub(crate) fn arm(&self) -> MutexGuard<'_, ArmState> {
        let mut arm = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        arm.now = self.clock.now();
        arm
    }
}

impl Deref for Cloud {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}
