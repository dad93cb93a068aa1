//! What all parts of a simulator share.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lifecycle_core::clock::{Clock, IdSource};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::arm::budget::Budgets;
use super::arm::world::World;
use super::entra::Tokens;
use super::maker::MachineMaker;
use super::options::SimulatorOptions;

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Cloud(Arc<Parts>);

/// What is shared.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) options: SimulatorOptions,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdSource>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) budgets: Budgets,
    pub(crate) maker: Arc<dyn MachineMaker>,
    /// What carries operations out.
    pub(crate) tasks: TaskTracker,
    /// Ends all of it.
    pub(crate) stop: CancellationToken,
    pub(crate) state: Mutex<World>,
}

impl Cloud {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// The world, locked, with its time brought up to now. Never held across an await.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        let mut world = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        world.now = self.clock.now();
        world
    }
}

impl Deref for Cloud {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}
