//! A cloud whose platform also has nodes that exist already: VMs of the cloud, and machines that the
//! cloud does not know.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join_all;
use lifecycle_core::cloud::{
    CloudCapabilities, CloudOperation, CloudProgress, CloudProvider, Fenced, NodeChange,
    ObservedNode, Power, PreflightReport,
};
use lifecycle_core::model::{Existing, NodeName, NodeSpec, PublicPorts};
use lifecycle_core::platform::Membership;
use lifecycle_core::{Error, Result};

use super::machine::{Machine, Standing};
use super::{Hosts, NAME};

/// The nodes of a cloud and the machines of [`Hosts`], as one cloud.
///
/// A machine that is reached by address is managed by [`Hosts`] alone. An existing VM belongs to the
/// platform when the cloud and the VM itself have recorded this: the cloud manages its power and its
/// firewall, and [`Hosts`] its account.
///
/// The capabilities are those of the cloud. A machine that is reached by address has those of
/// [`Hosts`].
#[derive(Debug)]
pub struct MixedCloud {
    cloud: Arc<dyn CloudProvider>,
    hosts: Hosts,
}

/// What a node is.
enum Kind<'m> {
    OfCloud,
    Vm(&'m Machine),
    Host,
}

impl MixedCloud {
    /// Combines a cloud with machines. The cloud must find the existing VMs by the names of their
    /// nodes.
    pub fn new(cloud: Arc<dyn CloudProvider>, hosts: Hosts) -> Self {
        Self { cloud, hosts }
    }

    fn kind(&self, node: &NodeName) -> Kind<'_> {
        match self.hosts.machines.get(node) {
            None => Kind::OfCloud,
            Some(machine) if machine.is_vm() => Kind::Vm(machine),
            Some(_) => Kind::Host,
        }
    }

    /// Returns the provider that manages the power of a node.
    fn provider(&self, node: &NodeName) -> &dyn CloudProvider {
        match self.kind(node) {
            Kind::OfCloud | Kind::Vm(_) => self.cloud.as_ref(),
            Kind::Host => &self.hosts,
        }
    }

    /// Returns a node of the cloud with its account.
    fn with_account(&self, node: ObservedNode) -> ObservedNode {
        match self.kind(&node.name) {
            Kind::Vm(machine) => {
                machine.use_addresses(&node.addresses);
                machine.through_account(node)
            }
            Kind::OfCloud | Kind::Host => node,
        }
    }

    /// Removes the account and the files of the platform from a VM, if the VM belongs to this
    /// platform.
    async fn release(&self, node: &NodeName, machine: &Machine) -> Result<()> {
        let listed = self.cloud.list().await?;
        let Some(vm) = listed.into_iter().find(|vm| vm.name == *node) else {
            return Ok(());
        };
        machine.use_addresses(&vm.addresses);
        let platform = self.hosts.owner.id;
        match machine.standing(platform).await {
            Ok(Standing::Ours { .. } | Standing::Incomplete { .. }) => {
                machine.release(platform).await
            }
            Ok(_) => Ok(()),
            // The login to a new VM failed, so there is nothing on it.
            Err(error) => {
                tracing::debug!(error = %error.chain(), "an existing VM is released as it is");
                Ok(())
            }
        }
    }

    /// Returns why the platform cannot use an existing VM.
    async fn problem_of_vm(&self, node: &NodeName, machine: &Machine) -> Result<Option<String>> {
        let Some(vm) = self.cloud.get(node).await? else {
            return Ok(Some(format!(
                "{} does not exist, or belongs to another platform: check `existing` of node {node}",
                machine.host()
            )));
        };
        machine.use_addresses(&vm.addresses);
        if vm.power == Power::Running {
            return Ok(self.hosts.problem(node).await);
        }
        let is_new = machine.membership() == Membership::New;
        Ok(is_new.then(|| {
            format!(
                "{} is not running: start it, so that `bootstrapper up` can log in",
                machine.host()
            )
        }))
    }

    async fn problem(&self, spec: &NodeSpec) -> Result<Option<String>> {
        let node = &spec.name;
        let declared_again = || {
            format!(
                "node {node} is another machine until that machine is released: remove the node with \
                 one `bootstrapper up`, then declare it again"
            )
        };
        match (self.kind(node), spec.existing) {
            (Kind::OfCloud, _) => Ok(None),
            (Kind::Vm(machine), Some(Existing::Vm)) => self.problem_of_vm(node, machine).await,
            (Kind::Host, Some(Existing::Host)) => {
                let of_cloud = self.cloud.list().await?;
                if of_cloud.iter().any(|vm| vm.name == *node) {
                    return Ok(Some(declared_again()));
                }
                Ok(self.hosts.problem(node).await)
            }
            (Kind::Vm(_) | Kind::Host, _) => Ok(Some(declared_again())),
        }
    }
}

#[async_trait]
impl CloudProvider for MixedCloud {
    fn capabilities(&self) -> CloudCapabilities {
        self.cloud.capabilities()
    }

    async fn preflight(&self, specs: &[NodeSpec]) -> Result<PreflightReport> {
        let is_created = |spec: &&NodeSpec| matches!(self.kind(&spec.name), Kind::OfCloud);
        let created: Vec<NodeSpec> = specs.iter().filter(is_created).cloned().collect();
        let existing = join_all(specs.iter().map(|spec| self.problem(spec)));
        let (report, existing) = tokio::join!(self.cloud.preflight(&created), existing);
        let mut report = report?;
        for problem in existing {
            report.problems.extend(problem?);
        }
        Ok(report)
    }

    async fn list(&self) -> Result<Vec<ObservedNode>> {
        let (of_cloud, hosts) = tokio::try_join!(self.cloud.list(), self.hosts.list())?;
        let of_cloud = of_cloud.into_iter().map(|node| self.with_account(node));
        let mut nodes: Vec<ObservedNode> = of_cloud.chain(hosts).collect();
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(nodes)
    }

    async fn get(&self, node: &NodeName) -> Result<Option<ObservedNode>> {
        let found = self.provider(node).get(node).await?;
        Ok(found.map(|found| self.with_account(found)))
    }

    async fn adopt(&self, node: &NodeName) -> Result<ObservedNode> {
        let Kind::Vm(machine) = self.kind(node) else {
            return self.provider(node).adopt(node).await;
        };
        let vm = self.cloud.adopt(node).await?;
        machine.use_addresses(&vm.addresses);
        let standing = machine.standing(self.hosts.owner.id).await?;
        self.hosts.enrol(node, machine, standing).await?;
        Ok(machine.through_account(vm))
    }

    async fn begin(&self, change: NodeChange) -> Result<CloudOperation> {
        let node = change.node();
        if let Kind::Vm(machine) = self.kind(node) {
            match &change {
                NodeChange::Delete { .. } => self.release(node, machine).await?,
                NodeChange::Provision { .. } if self.cloud.get(node).await?.is_none() => {
                    return Err(Error::unsupported(format!("creating node {node}"), NAME));
                }
                NodeChange::Provision { .. }
                | NodeChange::Start { .. }
                | NodeChange::Stop { .. }
                | NodeChange::Restart { .. } => {}
            }
        }
        self.provider(node).begin(change).await
    }

    async fn poll(&self, operation: &CloudOperation) -> Result<CloudProgress> {
        self.provider(operation.change.node()).poll(operation).await
    }

    async fn fence(&self, node: &NodeName) -> Result<Fenced> {
        self.provider(node).fence(node).await
    }

    async fn set_public_ports(&self, node: &NodeName, ports: &PublicPorts) -> Result<()> {
        self.provider(node).set_public_ports(node, ports).await
    }

    async fn delete_shared(&self) -> Result<()> {
        self.cloud.delete_shared().await
    }
}
