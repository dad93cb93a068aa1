//! Builds a bootstrapper from its parts.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    Bootstrapper, ManagerImage, OperatorState, PlatformSecrets, ReachManager, Reporter, ThroughNode,
};
use crate::error::{Error, Result};
use crate::model::PlatformId;
use crate::platform::{Access, ManagerEndpoint, RegistrySpec};
use crate::reconcile::{Backends, DriverOptions};
use crate::registry::{Databases, KindDatabase};
use crate::runtime::ContainerRuntime;
use crate::secret::{PlatformKey, Sensitive};

/// Builds a [`Bootstrapper`]. [`Bootstrapper::builder`] creates this builder.
#[derive(Debug)]
pub struct BootstrapperBuilder(Bootstrapper);

impl Bootstrapper {
    /// Creates a builder with these parts. By default, the manager is reached through the SSH
    /// server of its node, progress is not reported, and no database can be used.
    pub fn builder(
        backends: Backends,
        state: impl OperatorState,
        secrets: PlatformSecrets,
        manager_image: impl ManagerImage,
    ) -> BootstrapperBuilder {
        BootstrapperBuilder(Self {
            backends,
            operator_engine: None,
            state: Arc::new(state),
            reach: Arc::new(ThroughNode {
                authority: secrets.trusted(),
                token: secrets.admin_token.clone(),
            }),
            secrets,
            manager_image: Arc::new(manager_image),
            reporter: Arc::new(()),
            driver: DriverOptions::default(),
            registry: RegistrySpec::default(),
            access: Access::default(),
            databases: Arc::new(NoDatabases),
        })
    }
}

impl BootstrapperBuilder {
    /// Sets the container engine on the operator's machine. The manager's node receives images from
    /// this engine instead of pulling them.
    #[must_use]
    pub fn operator_engine(mut self, engine: Option<Arc<dyn ContainerRuntime>>) -> Self {
        self.0.operator_engine = engine;
        self
    }

    /// Sets the token for the manager's API. By default, this is the first token.
    #[must_use]
    pub fn token(self, token: Sensitive) -> Self {
        let authority = self.0.secrets.trusted();
        self.reach(ThroughNode { authority, token })
    }

    /// Sets how the manager's API is reached.
    #[must_use]
    pub fn reach(mut self, reach: impl ReachManager) -> Self {
        self.0.reach = Arc::new(reach);
        self
    }

    /// Sets the receiver of progress reports.
    #[must_use]
    pub fn reporter(mut self, reporter: Arc<dyn Reporter>) -> Self {
        self.0.reporter = reporter;
        self
    }

    /// Sets where code bases are read from, and the credentials that the manager receives.
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.0.access = access;
        self
    }

    /// Sets how the registry's databases are opened.
    #[must_use]
    pub fn databases(mut self, databases: impl Databases) -> Self {
        self.0.databases = Arc::new(databases);
        self
    }

    /// Returns the bootstrapper.
    pub fn build(self) -> Bootstrapper {
        self.0
    }
}

/// Rejects every database. A registry in a file needs none.
#[derive(Debug)]
struct NoDatabases;

fn unsupported<T>() -> Result<T> {
    Err(Error::unsupported(
        "a registry in a database",
        "this program",
    ))
}

#[async_trait]
impl Databases for NoDatabases {
    async fn check(&self, _: &Sensitive, _: PlatformId, _: &PlatformKey) -> Result<()> {
        unsupported()
    }

    async fn prepare(&self, _: &Sensitive, _: PlatformId, _: &PlatformKey) -> Result<()> {
        unsupported()
    }

    async fn record_manager(
        &self,
        _: &Sensitive,
        _: &PlatformKey,
        _: &ManagerEndpoint,
    ) -> Result<()> {
        unsupported()
    }

    async fn kind(
        &self,
        _: &Sensitive,
        _: PlatformId,
        _: &PlatformKey,
    ) -> Result<Arc<dyn KindDatabase>> {
        unsupported()
    }
}
