//! A cloud whose platform also has nodes that exist already: VMs of the cloud, and machines that the
//! cloud does not know.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use lifecycle_core::cloud::{
    AdoptedMachine, CloudCapabilities, CloudOperation, CloudProgress, CloudProvider, Fenced,
    MachineLogin, MachineSpec, NodeChange, ObservedNode, Power, PreflightReport, carry_out,
};
use lifecycle_core::model::{Existing, NodeName, NodeSpec, PublicPorts};
use lifecycle_core::platform::Membership;
use lifecycle_core::{Error, Result};

use super::machine::{Machine, Standing};
use super::{Hosts, NAME};

/// Time limit for removing the cloud's record of an existing VM.
const RELEASED_WITHIN: Duration = Duration::from_mins(5);

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

/// The kind of a node.
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
            None if self.hosts.machine(node).is_some() => Kind::Host,
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

    /// Returns the nodes that the cloud lists.
    async fn listed(&self) -> Result<Vec<ObservedNode>> {
        let nodes = self.cloud.list().await?;
        Ok(nodes
            .into_iter()
            .map(|node| self.with_account(node))
            .collect())
    }

    /// Returns the VMs that the platform has taken over and that the cloud does not list: their
    /// release was interrupted, or others removed the record of the cloud. Services may still run
    /// on them.
    async fn unlisted(&self, listed: &[ObservedNode]) -> Result<Vec<ObservedNode>> {
        let mut unlisted = Vec::new();
        for (node, machine) in &self.hosts.machines {
            let is_member = machine.is_vm() && machine.membership() != Membership::New;
            let is_listed = listed.iter().any(|vm| vm.name == *node);
            if !is_member || is_listed || machine.is_released() {
                continue;
            }
            let vm = self.cloud.get(node).await?;
            let Some(vm) = vm.filter(|vm| !machine.is_another(vm)) else {
                continue;
            };
            machine.use_addresses(&vm.addresses);
            if let Standing::Ours { .. } | Standing::Incomplete { .. } =
                machine.standing(self.hosts.owner.id).await?
            {
                unlisted.push(machine.through_account(vm));
            }
        }
        Ok(unlisted)
    }

    /// Releases a VM: removes the cloud's record, then the account and the files of the platform. A
    /// VM without the record remains listed until the account is removed.
    async fn release(&self, node: &NodeName, machine: &Machine) -> Result<()> {
        if self.listed().await?.iter().any(|vm| vm.name == *node) {
            let node = node.clone();
            let change = NodeChange::Delete { node };
            carry_out(self.cloud.as_ref(), change, RELEASED_WITHIN).await?;
        }
        let vm = self.cloud.get(node).await?;
        let Some(vm) = vm.filter(|vm| !machine.is_another(vm)) else {
            return Ok(());
        };
        machine.use_addresses(&vm.addresses);
        let platform = self.hosts.owner.id;
        let released = match machine.standing(platform).await {
            Ok(Standing::Ours { .. } | Standing::Incomplete { .. }) => {
                machine.release(platform).await
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        match released {
            // The account was never created.
            Err(error @ Error::Denied { .. }) if machine.is_new_vm() => {
                tracing::warn!(error = %error.chain(), "an existing VM is released as it is");
                Ok(())
            }
            released => released,
        }
    }

    /// Returns why the platform cannot use an existing VM.
    async fn problem_of_vm(&self, node: &NodeName, machine: &Machine) -> Result<Option<String>> {
        let Some(vm) = self.cloud.get(node).await? else {
            return Ok(Some(format!(
                "{} does not exist, or belongs to another platform or node (see its tags \
                 `lifecycle.*`): check `existing`",
                machine.host()
            )));
        };
        machine.use_addresses(&vm.addresses);
        let mut listed = self.listed().await?.into_iter();
        let listed = listed.find(|listed| listed.name == *node);
        match listed {
            Some(listed) if listed.provider_id != vm.provider_id => {
                Ok(Some(self.declared_again(node)))
            }
            // A VM of the platform may be down for a while.
            Some(_) if vm.power != Power::Running => Ok(None),
            None if vm.power != Power::Running => Ok(Some(format!(
                "{} is not running: start it, so that `bootstrapper up` can log in",
                machine.host()
            ))),
            _ => Ok(self.hosts.problem(node).await),
        }
    }

    fn declared_again(&self, node: &NodeName) -> String {
        let machine = self.hosts.machines.get(node).map(|one| one.host());
        let machine = machine.unwrap_or_else(|| "another machine".to_owned());
        format!(
            "node {node} still is another machine than the declared one (it is, or was to become, \
             {machine}): remove the node with one `bootstrapper up`, then declare it again"
        )
    }

    async fn problem(&self, spec: &NodeSpec) -> Result<Option<String>> {
        let node = &spec.name;
        match (self.kind(node), spec.existing) {
            (Kind::OfCloud, _) => Ok(None),
            (Kind::Vm(machine), Some(Existing::Vm))
                if machine.membership() != Membership::Removed =>
            {
                match self.problem_of_vm(node, machine).await {
                    Err(error @ Error::Conflict { .. }) => Ok(Some(error.chain())),
                    problem => problem,
                }
            }
            (Kind::Host, Some(Existing::Host)) => {
                let of_cloud = self.cloud.list().await?;
                if of_cloud.iter().any(|vm| vm.name == *node) {
                    return Ok(Some(self.declared_again(node)));
                }
                Ok(self.hosts.problem(node).await)
            }
            (Kind::Vm(_) | Kind::Host, _) => Ok(Some(self.declared_again(node))),
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
        let of_cloud = async {
            let mut listed = self.listed().await?;
            listed.extend(self.unlisted(&listed).await?);
            Ok(listed)
        };
        let (mut nodes, hosts) = tokio::try_join!(of_cloud, self.hosts.list())?;
        nodes.extend(hosts);
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
        let is_new = !self.listed().await?.iter().any(|vm| vm.name == *node);
        let vm = self.cloud.adopt(node).await?;
        machine.use_addresses(&vm.addresses);
        let platform = self.hosts.owner.id;
        let standing = if is_new {
            // The record of the node may be about another machine, so log in to this one.
            let inspected = machine.inspected(platform).await?;
            inspected.ok_or_else(|| machine.no_login())?
        } else {
            machine.standing(platform).await?
        };
        if standing == Standing::Theirs {
            return Err(Error::conflict(
                format!("taking over {} failed", machine.host()),
                "another platform took it over",
            ));
        }
        self.hosts.enrol(node, machine, standing).await?;
        Ok(machine.through_account(vm))
    }

    async fn begin(&self, change: NodeChange) -> Result<CloudOperation> {
        let node = change.node();
        if let Kind::Vm(machine) = self.kind(node) {
            match &change {
                NodeChange::Delete { .. } => {
                    self.release(node, machine).await?;
                    return Ok(CloudOperation {
                        change,
                        token: String::new(),
                    });
                }
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
        let node = operation.change.node();
        if let (Kind::Vm(_), NodeChange::Delete { .. }) = (self.kind(node), &operation.change) {
            return Ok(CloudProgress::Done);
        }
        self.provider(node).poll(operation).await
    }

    async fn fence(&self, node: &NodeName) -> Result<Fenced> {
        self.provider(node).fence(node).await
    }

    async fn set_public_ports(&self, node: &NodeName, ports: &PublicPorts) -> Result<()> {
        self.provider(node).set_public_ports(node, ports).await
    }

    fn set_adopted_machines(&self, machines: &BTreeMap<NodeName, AdoptedMachine>) {
        self.hosts.set_adopted_machines(machines);
    }

    async fn check_machine(
        &self,
        node: &NodeName,
        machine: &MachineSpec,
        login: &MachineLogin,
    ) -> Result<MachineSpec> {
        self.hosts.check_machine(node, machine, login).await
    }

    async fn take_over_machine(
        &self,
        node: &NodeName,
        machine: &MachineSpec,
        login: &MachineLogin,
    ) -> Result<()> {
        self.hosts.take_over_machine(node, machine, login).await
    }

    async fn delete_shared(&self) -> Result<()> {
        self.cloud.delete_shared().await
    }
}
