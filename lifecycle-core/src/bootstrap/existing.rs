//! Takes machines that exist already over as nodes, and forgets machines that were released.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::Bootstrapper;
use super::progress::Progress;
use crate::cloud::ObservedNode;
use crate::error::Result;
use crate::model::NodeName;
use crate::platform::Declaration;

/// How long taking over one machine may take, including the installation of sudo.
const TAKEN_OVER_WITHIN: Duration = Duration::from_mins(5);

/// How many machines are taken over in parallel.
const PARALLEL: usize = 8;

impl Bootstrapper {
    /// Makes each declared machine that exists already a node of this platform, and pins its host
    /// keys. A machine that is a node already remains unchanged.
    pub(super) async fn take_over_machines(&self, declaration: &mut Declaration) -> Result<()> {
        let existing = |node: &NodeName| declaration.cloud.host(node).is_some();
        if !declaration.nodes.keys().any(existing) {
            return Ok(());
        }
        let listed = self.list_nodes().await?;
        let is_listed = |node: &NodeName| listed.iter().any(|machine| machine.name == *node);
        let new: Vec<NodeName> = declaration
            .nodes
            .keys()
            .filter(|node| existing(node) && !is_listed(node))
            .cloned()
            .collect();
        let mut machines: Vec<ObservedNode> = stream::iter(new)
            .map(async |node| self.take_over(&node, declaration).await)
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await?;
        machines.extend(listed);
        for machine in &machines {
            declaration.cloud.join(machine);
        }
        self.store_placement(declaration).await
    }

    async fn take_over(&self, node: &NodeName, declaration: &Declaration) -> Result<ObservedNode> {
        let stage = self.stage(format!("take over machine {node}"), TAKEN_OVER_WITHIN);
        let machine = stage.part(self.backends.cloud.adopt(node)).await?;
        stage.done();
        let declared = declaration.cloud.host(node);
        if declared.is_some_and(|host| host.host_keys.is_empty()) {
            let keys = machine.ssh.host_keys.join(", ");
            self.reporter.report(Progress::Note {
                text: format!("trusting the host key of machine {node} on first use: {keys}"),
            });
        }
        Ok(machine)
    }

    /// Forgets the machines that are no longer declared and that the manager has released.
    pub(super) async fn forget_released_machines(&self, declaration: &Declaration) -> Result<()> {
        let removed: Vec<NodeName> = declaration.cloud.removed_hosts().cloned().collect();
        if removed.is_empty() {
            return Ok(());
        }
        let left = self.list_nodes().await?;
        let mut declaration = declaration.clone();
        for node in removed {
            if left.iter().all(|machine| machine.name != node) {
                declaration.cloud.forget(&node);
            }
        }
        self.store_placement(&declaration).await
    }
}
