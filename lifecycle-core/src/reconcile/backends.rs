//! Everything outside the process that the heart works with, behind its traits.

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
    /// The central database.
    pub registry: Arc<dyn Registry>,
    /// Where nodes come from.
    pub cloud: Arc<dyn CloudProvider>,
    /// How nodes are reached.
    pub connector: Arc<dyn NodeConnector>,
    /// How hosts are prepared.
    pub preparer: Arc<dyn HostPreparer>,
    /// How readiness is checked.
    pub probe: Arc<dyn ReadinessProbe>,
    /// Where build contexts come from.
    pub code: Arc<dyn CodeStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// New ids.
    pub ids: Arc<dyn IdSource>,
}
