//! Lists what a command would delete, so that the operator can confirm the deletion.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use super::Bootstrapper;
use crate::cloud::{ObservedNode, Power};
use crate::error::{Error, Result};
use crate::model::{InstanceId, NodeName, PlatformId, VolumeName};
use crate::platform::Declaration;
use crate::runtime::{EngineState, Role};

/// How long a node may take to report its state.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);

/// How many nodes are queried in parallel.
const PARALLEL_QUERIES: usize = 8;

/// A node that is deleted, or from which the platform's resources are removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    pub node: ObservedNode,
    /// The resources that are deleted with the node.
    pub contents: Contents,
}

/// The platform's resources on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// The engine reported the resources.
    Known {
        /// The instances that have a container on the node.
        instances: BTreeSet<InstanceId>,
        volumes: BTreeSet<VolumeName>,
    },
    /// The engine cannot be queried.
    Unknown { why: String },
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
            Self::Unknown { why } => {
                return write!(f, "its services and volumes are unknown: {why}");
            }
            Self::Known { instances, volumes } => (instances, volumes),
        };
        let instances: Vec<String> = instances.iter().map(ToString::to_string).collect();
        let volumes: Vec<&str> = volumes.iter().map(VolumeName::as_str).collect();
        match (instances.as_slice(), volumes.as_slice()) {
            ([], []) => f.write_str("no services or named volumes on it"),
            (instances, []) => write!(f, "replicas: {}; no named volumes", instances.join(", ")),
            ([], volumes) => write!(f, "no services; volumes: {}", volumes.join(", ")),
            (instances, volumes) => write!(
                f,
                "replicas: {}; volumes: {}",
                instances.join(", "),
                volumes.join(", ")
            ),
        }
    }
}

impl Bootstrapper {
    /// Returns the nodes that `down` deletes or clears, which are all nodes of the platform.
    pub async fn removed_by_down(&self) -> Result<Vec<Removal>> {
        let nodes = self.list_nodes().await?;
        self.with_contents(nodes).await
    }

    /// Returns what is deleted with a node, if the node exists.
    pub async fn removed_with(&self, node: &str) -> Result<Vec<Removal>> {
        let nodes = self.list_nodes().await?.into_iter();
        let same = nodes.filter(|one| one.name.as_str() == node);
        self.with_contents(same.collect()).await
    }

    /// Returns the nodes that `up` with `declaration` deletes or releases: those that are no longer
    /// declared, and were not added at run time. Replaced containers and removed services are not
    /// listed, because their data remains in named volumes.
    pub async fn removed_by_up(&self, declaration: &Declaration) -> Result<Vec<Removal>> {
        let nodes = self.list_nodes().await?.into_iter();
        let dropped = nodes.filter(|node| {
            node.name != declaration.manager.node && !declaration.nodes.contains_key(&node.name)
        });
        let mut dropped: Vec<ObservedNode> = dropped.collect();
        if !dropped.is_empty() {
            let added = self.added_nodes(declaration.id).await;
            dropped.retain(|node| !added.contains(&node.name));
        }
        self.with_contents(dropped).await
    }

    /// Returns the nodes that were added at run time; none if the manager does not respond, so that
    /// the operator is asked about too many nodes rather than too few.
    async fn added_nodes(&self, platform: PlatformId) -> BTreeSet<NodeName> {
        let overrides = async {
            let client = self.client(platform).await?;
            client.overrides().await
        };
        let overrides = tokio::time::timeout(ANSWERED_WITHIN, overrides).await;
        let overrides = overrides.ok().and_then(Result::ok).unwrap_or_default();
        let added = overrides.into_iter();
        let added = added.filter(|one| one.kind.is_addition());
        added.filter_map(|one| one.node).collect()
    }

    /// Returns the nodes that were added at run time and that only the manager knows, such as adopted
    /// machines. The manager removes them. Returns none if the manager does not respond.
    pub async fn known_to_manager_only(&self, platform: PlatformId) -> Result<BTreeSet<NodeName>> {
        let mut added = self.added_nodes(platform).await;
        if !added.is_empty() {
            for node in self.list_nodes().await? {
                added.remove(&node.name);
            }
        }
        Ok(added)
    }

    async fn with_contents(&self, nodes: Vec<ObservedNode>) -> Result<Vec<Removal>> {
        let rounds = u32::try_from(nodes.len().div_ceil(PARALLEL_QUERIES)).unwrap_or(u32::MAX);
        let limit = ANSWERED_WITHIN.saturating_mul(rounds.saturating_add(1));
        let asked = stream::iter(nodes)
            .map(|node| async move {
                let asked = tokio::time::timeout(ANSWERED_WITHIN, self.contents(&node)).await;
                let contents = match asked {
                    Ok(Ok(state)) => state.into(),
                    Ok(Err(error)) => Contents::Unknown { why: error.chain() },
                    Err(_) => Contents::Unknown {
                        why: "the node does not respond".into(),
                    },
                };
                Removal { node, contents }
            })
            .buffered(PARALLEL_QUERIES)
            .collect::<Vec<_>>();
        self.wait("the services and volumes on the nodes", limit)
            .until(async { Ok(asked.await) })
            .await
    }

    async fn contents(&self, node: &ObservedNode) -> Result<EngineState> {
        if node.power != Power::Running {
            return Err(Error::failed(
                "listing containers",
                "the node is not running",
            ));
        }
        let handle = self.backends.connector.connect(node).await?;
        handle.runtime.state().await
    }
}
