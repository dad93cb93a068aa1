//! Groups the traits through which the control loop uses everything outside its process.

use std::sync::Arc;

use crate::clock::{Clock, IdSource};
use crate::cloud::CloudProvider;
use crate::code::CodeStore;
use crate::host::{HostPreparer, NodeConnector};
use crate::registry::Registry;
use crate::runtime::{ManagerImage, ReadinessProbe};

/// One implementation of each trait. Clones share the implementations.
#[derive(Debug, Clone)]
pub struct Backends {
    pub registry: Arc<dyn Registry>,
    /// Creates, starts and deletes nodes.
    pub cloud: Arc<dyn CloudProvider>,
    pub connector: Arc<dyn NodeConnector>,
    /// Prepares nodes for Docker.
    pub preparer: Arc<dyn HostPreparer>,
    pub probe: Arc<dyn ReadinessProbe>,
    pub code: Arc<dyn CodeStore>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
    /// The image of this process, in the manager. The agents run from it.
    pub own_image: Option<OwnImage>,
}

/// An image that need not be read from an engine.
#[derive(Debug, Clone)]
pub struct OwnImage {
    pub name: String,
    pub source: Arc<dyn ManagerImage>,
}
