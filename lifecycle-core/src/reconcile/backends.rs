//! Everything outside the process that the control loop uses, behind traits.

use std::sync::Arc;

use crate::clock::{Clock, IdSource};
use crate::cloud::CloudProvider;
use crate::code::CodeStore;
use crate::host::{HostPreparer, NodeConnector};
use crate::registry::Registry;
use crate::runtime::ReadinessProbe;

/// One implementation of each trait. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Backends {
    /// The manager's database.
    pub registry: Arc<dyn Registry>,
    /// Creates, starts and deletes nodes.
    pub cloud: Arc<dyn CloudProvider>,
    /// Connects to nodes.
    pub connector: Arc<dyn NodeConnector>,
    /// Prepares nodes for Docker.
    pub preparer: Arc<dyn HostPreparer>,
    /// Checks readiness.
    pub probe: Arc<dyn ReadinessProbe>,
    /// Stores code bases.
    pub code: Arc<dyn CodeStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Creates ids.
    pub ids: Arc<dyn IdSource>,
}
