//! Takes over existing machines as nodes, and forgets machines that were released.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use super::Bootstrapper;
use super::progress::Progress;
use crate::cloud::{NodeChange, ObservedNode, carry_out};
use crate::error::Result;
use crate::model::NodeName;
use crate::platform::{Declaration, HostSpec};

/// How long taking over one machine may take, including the installation of sudo and the time until
/// a new permission takes effect.
const TAKEN_OVER_WITHIN: Duration = Duration::from_mins(15);

/// How many machines are taken over in parallel.
const PARALLEL: usize = 8;

impl Bootstrapper {
    /// Makes each declared machine that exists already a node of this platform, and pins its host
    /// keys. A machine that is a node already remains unchanged. Returns the nodes that were not
    /// nodes before.
    pub(super) async fn take_over_machines(
        &self,
        declaration: &mut Declaration,
    ) -> Result<BTreeSet<NodeName>> {
        self.release_new_vms(declaration).await?;
        let existing = |node: &NodeName| declaration.cloud.host(node).is_some();
        if !declaration.nodes.keys().any(existing) {
            return Ok(BTreeSet::new());
        }
        let listed = self.list_nodes().await?;
        let is_listed = |node: &NodeName| listed.iter().any(|machine| machine.name == *node);
        let nodes: Vec<(NodeName, bool)> = { declaration.nodes.keys() }
            .filter(|node| existing(node))
            .map(|node| (node.clone(), is_listed(node)))
            .collect();
        let new = nodes.iter().filter(|(_, is_listed)| !is_listed);
        let new = new.map(|(node, _)| node.clone()).collect();
        // Let each take-over end, and record all that succeeded.
        let taken: Vec<Result<ObservedNode>> = stream::iter(nodes)
            .map(async |(node, is_listed)| self.take_over(&node, is_listed, declaration).await)
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        let mut failed = Ok(());
        for machine in taken {
            match machine {
                Ok(machine) => declaration.cloud.join(&machine),
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        self.store_placement(declaration).await?;
        failed.map(|()| new)
    }

    /// Releases the VMs that are no longer declared and whose take-over has failed. The manager
    /// cannot log in to them.
    async fn release_new_vms(&self, declaration: &mut Declaration) -> Result<()> {
        let removed = declaration.cloud.removed_hosts();
        let is_new = |node: &&NodeName| {
            declaration
                .cloud
                .host(node)
                .is_some_and(HostSpec::is_new_vm)
        };
        let removed: Vec<NodeName> = removed.filter(is_new).cloned().collect();
        for node in removed {
            if self.list_nodes().await?.iter().any(|vm| vm.name == node) {
                let release = NodeChange::Delete { node: node.clone() };
                carry_out(self.backends.cloud.as_ref(), release, TAKEN_OVER_WITHIN).await?;
            }
            declaration.cloud.forget(&node);
            self.store_placement(declaration).await?;
        }
        Ok(())
    }

    /// Takes one machine over, and reports this unless the machine is listed already.
    async fn take_over(
        &self,
        node: &NodeName,
        is_listed: bool,
        declaration: &Declaration,
    ) -> Result<ObservedNode> {
        let what = format!("take over machine {node}");
        let adopt = self.backends.cloud.adopt(node);
        if is_listed {
            return self.wait(what, TAKEN_OVER_WITHIN).until(adopt).await;
        }
        let machine = self.stage(what, TAKEN_OVER_WITHIN).run(adopt).await?;
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
