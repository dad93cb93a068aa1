//! Connects to the manager's API through the SSH server of the manager's node, so that no other
//! port must be reachable from outside.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use crate::api::{ApiClient, Dial, ManagerApi};
use crate::cloud::ObservedNode;
use crate::error::Result;
use crate::host::{Duplex, ForwardTarget, NodeAccess, NodeHandle};
use crate::model::PlatformId;
use crate::secret::Sensitive;

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
    /// The platform's CA certificate, in PEM.
    pub authority: String,
    pub token: Sensitive,
}

#[async_trait]
impl ReachManager for ThroughNode {
    async fn reach(
        &self,
        _: &ObservedNode,
        node: &NodeHandle,
        platform: PlatformId,
        port: u16,
    ) -> Result<Arc<dyn ManagerApi>> {
        let dial = Arc::new(LoopbackOfNode {
            host: Arc::clone(&node.host),
            port,
        });
        let client = ApiClient::new(dial, platform, &self.authority, self.token.clone())?;
        Ok(Arc::new(client))
    }
}

#[derive(Debug)]
struct LoopbackOfNode {
    host: Arc<dyn NodeAccess>,
    port: u16,
}

#[async_trait]
impl Dial for LoopbackOfNode {
    async fn dial(&self) -> Result<Box<dyn Duplex>> {
        self.host
            .connect(ForwardTarget::Tcp {
                host: "127.0.0.1".into(),
                port: self.port,
            })
            .await
    }
}
