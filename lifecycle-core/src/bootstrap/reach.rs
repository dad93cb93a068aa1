//! Connects to the manager's API through the SSH server of the manager's node, so that no other
//! port must be reachable from outside.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::api::{ApiClient, Dial, ManagerApi};
use crate::cloud::ObservedNode;
use crate::error::{Error, Result};
use crate::host::{Duplex, ForwardTarget, NodeHandle};
use crate::model::{NodeName, PlatformId};
use crate::runtime::{ObservedContainer, Role};
use crate::secret::Sensitive;

/// How long listing the containers on the manager's node may take, to explain why nothing answers.
const OBSERVED_WITHIN: Duration = Duration::from_secs(5);

/// Connects to the manager on a node.
#[async_trait]
pub trait ReachManager: Debug + Send + Sync + 'static {
    /// Creates a client of the manager's API. The manager need not answer yet.
    async fn reach(
        &self,
        machine: &ObservedNode,
        node: &NodeHandle,
        platform: PlatformId,
        port: u16,
    ) -> Result<Arc<dyn ManagerApi>>;
}

/// Connects with TLS through the node's SSH server.
#[derive(Debug, Clone)]
pub struct ThroughNode {
    /// The certificates of the authorities to trust, in PEM.
    pub authority: String,
    pub token: Sensitive,
}

#[async_trait]
impl ReachManager for ThroughNode {
    async fn reach(
        &self,
        machine: &ObservedNode,
        node: &NodeHandle,
        platform: PlatformId,
        port: u16,
    ) -> Result<Arc<dyn ManagerApi>> {
        let dial = Arc::new(LoopbackOfNode {
            node: node.clone(),
            name: machine.name.clone(),
            port,
        });
        let client = ApiClient::new(dial, platform, &self.authority, self.token.clone())?;
        Ok(Arc::new(client))
    }
}

#[derive(Debug)]
struct LoopbackOfNode {
    node: NodeHandle,
    name: NodeName,
    port: u16,
}

impl LoopbackOfNode {
    /// Returns why nothing answers, if the manager's container explains it. `None` if the container is
    /// running or cannot be observed.
    async fn cause(&self) -> Option<Error> {
        let state = tokio::time::timeout(OBSERVED_WITHIN, self.node.runtime.state());
        let state = state.await.ok()?.ok()?;
        let mut managers = { state.containers.iter() }
            .filter(|container| container.role == Role::Manager)
            .peekable();
        let why = if managers.peek().is_none() {
            format!("its container is missing on {}", self.name)
        } else {
            let ends: Option<Vec<String>> = managers.map(ObservedContainer::exit).collect();
            let end = ends?.pop()?;
            format!("its container on {} ended with {end}", self.name)
        };
        Some(Error::unreachable_with_hint(
            "the manager",
            "run `bootstrapper up`, which starts the manager",
            why.into(),
        ))
    }
}

#[async_trait]
impl Dial for LoopbackOfNode {
    async fn dial(&self) -> Result<Box<dyn Duplex>> {
        let target = ForwardTarget::Tcp {
            host: "127.0.0.1".into(),
            port: self.port,
        };
        match self.node.host.connect(target).await {
            Err(error @ Error::Unreachable { .. }) => Err(self.cause().await.unwrap_or(error)),
            connected => connected,
        }
    }
}
