//! The trait behind which a cloud lies: VMs that can be listed, made, switched and fenced.

use std::fmt::Debug;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::model::{Addresses, NodeName, NodeSpec};

/// What a provider can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudCapabilities {
    /// How the provider calls itself, for messages.
    pub name: &'static str,
    /// Whether it can make nodes; without it they must exist.
    pub provisions: bool,
    /// Whether it tells a new node's SSH host key, so that the first connection is checked.
    pub knows_host_keys: bool,
    /// Whether `fence` is possible.
    pub fences: bool,
}

/// Whether a node is powered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// Being made or started.
    Starting,
    /// Running, as far as the cloud knows.
    Running,
    /// Being stopped or deleted.
    Stopping,
    /// Stopped.
    Stopped,
    /// The cloud made it, but says that it failed.
    Failed,
}

/// How the SSH server of a node is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshAddress {
    /// The account.
    pub user: String,
    /// The port.
    pub port: u16,
    /// The host's public keys in OpenSSH form, where the provider can say.
    pub host_keys: Vec<String>,
}

/// A node as the cloud sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedNode {
    /// The node's name.
    pub name: NodeName,
    /// The provider's own id of the machine.
    pub provider_id: String,
    /// Whether it runs.
    pub power: Power,
    /// Where it is reached.
    pub addresses: Addresses,
    /// How its SSH server is reached.
    pub ssh: SshAddress,
    /// Changes at each boot; opaque. `None` while it does not run.
    pub boot_id: Option<String>,
    /// Whether we made it, and so may delete it.
    pub created: bool,
}

/// A change to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum NodeChange {
    /// Make it, if it does not exist.
    Provision {
        /// What is wanted.
        spec: NodeSpec,
    },
    /// Start it, if it is stopped.
    Start {
        /// Which one.
        node: NodeName,
    },
    /// Stop it, if it runs.
    Stop {
        /// Which one.
        node: NodeName,
    },
    /// Restart it, if it still is in this boot.
    Restart {
        /// Which one.
        node: NodeName,
        /// The boot that is to end.
        boot_id: String,
    },
    /// Delete it with all that belongs to it.
    Delete {
        /// Which one.
        node: NodeName,
    },
}

impl NodeChange {
    /// The node that is changed.
    pub fn node(&self) -> &NodeName {
        match self {
            Self::Provision { spec } => &spec.name,
            Self::Start { node }
            | Self::Stop { node }
            | Self::Restart { node, .. }
            | Self::Delete { node } => node,
        }
    }
}

/// A change under way; stored, so that a new process can go on asking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudOperation {
    /// What was begun.
    pub change: NodeChange,
    /// The provider's own token.
    pub token: String,
}

/// How far a change is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloudProgress {
    /// Ask again, not before `after` where the cloud says so.
    Running {
        /// How long to wait before asking again.
        after: Option<std::time::Duration>,
        /// What the cloud says, for the user.
        says: Option<String>,
    },
    /// Done.
    Done,
}

/// What was found wrong before anything was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PreflightReport {
    /// Each problem in one sentence, with its mend.
    pub problems: Vec<String>,
}

/// Proof that a node could not run at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fenced {
    /// The node.
    pub node: NodeName,
    /// When the cloud said so.
    pub at: DateTime<Utc>,
}

/// A cloud account that holds the nodes of one platform.
///
/// # Guarantees
/// - Every call may be repeated: same node, same thing. Provisioning what exists returns an
///   operation that is done; starting what runs, stopping what is stopped, deleting what is
///   absent are Ok.
/// - Whatever is made carries the platform's id before it is used, so that a crash at any
///   moment leaves nothing that `list` does not show.
/// - `list` is complete or an error, never partial, and shows nodes of this platform only.
/// - A future that is dropped leaves a state from which the same call goes on.
///
/// # Caveats
/// `Power::Running` says nothing about the operating system: its SSH server may not answer yet.
///
/// # Errors
/// Throttling is [`crate::Error::Throttled`] with the cloud's own delay; a quota or a missing
/// size is [`crate::Error::Exhausted`]; implementers do not retry by themselves.
#[async_trait]
pub trait CloudProvider: Debug + Send + Sync + 'static {
    /// What this provider can do.
    fn capabilities(&self) -> CloudCapabilities;

    /// Checks in seconds, changing nothing, whether `wanted` can be had.
    async fn preflight(&self, wanted: &[NodeSpec]) -> Result<PreflightReport>;

    /// All nodes that carry the platform's id, in the order of their names.
    async fn list(&self) -> Result<Vec<ObservedNode>>;

    /// One machine by its name, ours or not.
    async fn get(&self, node: &NodeName) -> Result<Option<ObservedNode>>;

    /// Marks an existing machine as a node of this platform; it will not be deleted.
    async fn adopt(&self, node: &NodeName) -> Result<ObservedNode>;

    /// Begins a change and returns once the cloud has accepted it.
    async fn begin(&self, change: NodeChange) -> Result<CloudOperation>;

    /// Asks how far a change is. A change that failed is an error.
    async fn poll(&self, operation: &CloudOperation) -> Result<CloudProgress>;

    /// Makes sure that the node does not run, and returns only when the cloud says so.
    async fn fence(&self, node: &NodeName) -> Result<Fenced>;

    /// Removes what the platform's nodes share (a network, a resource group), once no node
    /// is left. Absent is Ok.
    async fn delete_shared(&self) -> Result<()>;
}

/// Begins a change and asks until it is done, at the cloud's own pace.
///
/// # Errors
/// The change's own error, or [`crate::Error::TimedOut`] after `deadline`; the change may then
/// still be under way, and the same call goes on with it.
pub async fn carry_out(
    provider: &dyn CloudProvider,
    change: NodeChange,
    deadline: std::time::Duration,
) -> Result<()> {
    const PACE: std::time::Duration = std::time::Duration::from_millis(250);
    let what = format!("the change of node {}", change.node());
    let work = async {
        let operation = provider.begin(change).await?;
        loop {
            match provider.poll(&operation).await? {
                CloudProgress::Done => return Ok(()),
                CloudProgress::Running { after, .. } => {
                    tokio::time::sleep(after.unwrap_or(PACE)).await;
                }
            }
        }
    };
    tokio::time::timeout(deadline, work)
        .await
        .unwrap_or_else(|_| {
            Err(crate::Error::TimedOut {
                what,
                after: deadline,
            })
        })
}
