//! What a command would remove for good, for the operator to confirm.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use super::Bootstrapper;
use crate::cloud::{ObservedNode, Power};
use crate::error::{Error, Result};
use crate::model::{InstanceId, VolumeName};
use crate::platform::Declaration;
use crate::runtime::{EngineState, Role};

/// How long a node may take to tell what is on it.
const PATIENCE: Duration = Duration::from_secs(15);

/// How many nodes are asked in parallel.
const LOOKS: usize = 8;

/// A node that is removed, or cleared of what is the platform's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The node.
    pub node: ObservedNode,
    /// What goes with it.
    pub contents: Contents,
}

/// What is the platform's on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// The engine told it.
    Known {
        /// Instances that have a container there.
        instances: BTreeSet<InstanceId>,
        /// Named volumes.
        volumes: BTreeSet<VolumeName>,
    },
    /// The engine cannot be asked.
    Unknown {
        /// Why.
        why: String,
    },
}

impl From<EngineState> for Contents {
    fn from(state: EngineState) -> Self {
        Self::Known {
            instances: state
                .containers
                .into_iter()
                .filter_map(|container| match container.role {
                    Role::Instance(id) => Some(id),
                    Role::Manager | Role::Agent => None,
                })
                .collect(),
            volumes: state.volumes,
        }
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (instances, volumes) = match self {
            Self::Unknown { why } => return write!(f, "what is on it is unknown: {why}"),
            Self::Known { instances, volumes } => (instances, volumes),
        };
        let instances: Vec<String> = instances.iter().map(ToString::to_string).collect();
        let volumes: Vec<&str> = volumes.iter().map(VolumeName::as_str).collect();
        match (instances.as_slice(), volumes.as_slice()) {
            ([], []) => f.write_str("no service and no named volume is on it"),
            (instances, []) => write!(f, "on it: {}; no named volume", instances.join(", ")),
            ([], volumes) => write!(f, "on it: the volumes {}", volumes.join(", ")),
            (instances, volumes) => write!(
                f,
                "on it: {}; the volumes {}",
                instances.join(", "),
                volumes.join(", ")
            ),
        }
    }
}

impl Bootstrapper {
    /// What `down` removes or clears: all nodes of the platform.
    pub async fn removed_by_down(&self) -> Result<Vec<Removal>> {
        let nodes = self.list_nodes().await?;
        self.with_contents(nodes).await
    }

    /// What bringing `declaration` up deletes for good: nodes that were made for the platform and
    /// are declared no longer. Containers that are replaced, and services that left the
    /// declaration, lose nothing that a named volume holds.
    pub async fn removed_by_up(&self, declaration: &Declaration) -> Result<Vec<Removal>> {
        let nodes = self.list_nodes().await?;
        let dropped = nodes.into_iter().filter(|node| {
            node.created
                && node.name != declaration.manager.node
                && !declaration.nodes.contains_key(&node.name)
        });
        self.with_contents(dropped.collect()).await
    }

    async fn with_contents(&self, nodes: Vec<ObservedNode>) -> Result<Vec<Removal>> {
        let rounds = u32::try_from(nodes.len().div_ceil(LOOKS)).unwrap_or(u32::MAX);
        let limit = PATIENCE.saturating_mul(rounds.saturating_add(1));
        let asked = stream::iter(nodes)
            .map(|node| async move {
                let asked = tokio::time::timeout(PATIENCE, self.contents(&node)).await;
                let contents = match asked {
                    Ok(Ok(state)) => state.into(),
                    Ok(Err(error)) => Contents::Unknown { why: error.chain() },
                    Err(_) => Contents::Unknown {
                        why: "it does not answer".into(),
                    },
                };
                Removal { node, contents }
            })
            .buffered(LOOKS)
            .collect::<Vec<_>>();
        self.wait("what the nodes say is on them", limit)
            .until(async { Ok(asked.await) })
            .await
    }

    async fn contents(&self, node: &ObservedNode) -> Result<EngineState> {
        if node.power != Power::Running {
            return Err(Error::failed("asking it", "it does not run"));
        }
        let handle = self.backends.connector.connect(node).await?;
        handle.runtime.state().await
    }
}
