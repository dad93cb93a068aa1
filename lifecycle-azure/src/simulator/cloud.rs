//! Holds the state that all parts of a simulator share.

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

/// The shared state. Cloning is cheap, and all clones share the same state.
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
    /// Locked while the open ports of hosts are changed.
    pub(crate) inbound: tokio::sync::Mutex<()>,
    /// The tasks that run operations.
    pub(crate) tasks: TaskTracker,
    /// Cancels all tasks.
    pub(crate) stop: CancellationToken,
    pub(crate) state: Mutex<ArmState>,
}

impl Cloud {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Locks the state of Resource Manager, and sets the state's time to the current time. Do not
    /// hold the lock across an await.
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
