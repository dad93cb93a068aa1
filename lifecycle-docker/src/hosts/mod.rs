//! Machines that exist already, as a cloud. They are reached over SSH at their addresses.
//!
//! A machine becomes a node when the bootstrapper takes it over ([`enrolment`]): it logs in once
//! with the declared account and creates an account of the platform on the machine. From then on,
//! the bootstrapper and the manager use only this account, with the platform's own key. At run time,
//! the manager takes machines over ([`adopted`]).
//!
//! The machines cannot be created, started, stopped or fenced. [`MixedCloud`] combines them with the
//! nodes of another cloud, whose own existing VMs are taken over in the same way.

mod adopted;
mod enrolment;
mod login;
mod machine;
mod mixed;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use lifecycle_core::cloud::{
    AdoptedMachine, CloudCapabilities, CloudOperation, CloudProgress, CloudProvider, Fenced,
    Firewall, MachineLogin, MachineSpec, NodeChange, ObservedNode, PreflightReport,
};
use lifecycle_core::host::SshKeyPair;
use lifecycle_core::model::{NodeName, NodeSpec};
use lifecycle_core::platform::{HostsSpec, Membership, NodeLogin};
use lifecycle_core::runtime::Owner;
use lifecycle_core::secret::Sensitive;
use lifecycle_core::{Error, Result};

use adopted::{Adopted, Adoptions};
use login::Login;
use machine::{Machine, Standing};

pub use mixed::MixedCloud;

/// The environment variable with the socket of the operator's SSH agent.
const AGENT_SOCKET: &str = "SSH_AUTH_SOCK";

/// The interval for checking whether a machine has rebooted.
const POLL_EVERY: Duration = Duration::from_secs(1);

const NAME: &str = "existing machines";

/// The machines of one platform.
#[derive(Debug)]
pub struct Hosts {
    /// The declared machines.
    machines: BTreeMap<NodeName, Arc<Machine>>,
    /// The machines that were adopted at run time.
    adoptions: Adoptions,
    owner: Owner,
    /// The platform's private key.
    private_key: Sensitive,
    /// The platform's public key.
    public_key: String,
}

impl Hosts {
    /// Creates the provider for the bootstrapper, which takes machines over with `logins`, by the
    /// names of their nodes. `ssh` is the platform's own key.
    pub fn for_bootstrapper(
        spec: &HostsSpec,
        logins: &BTreeMap<NodeName, NodeLogin>,
        owner: Owner,
        ssh: &SshKeyPair,
    ) -> Self {
        let machines = spec.hosts.iter().map(|(node, host)| {
            let declared = logins.get(node).cloned().unwrap_or_default();
            let login = Login::new(host.user.clone(), declared);
            let machine = Machine::new(node, host, ssh.private.clone(), Some(login), true);
            (node.clone(), Arc::new(machine))
        });
        Self {
            machines: machines.collect(),
            adoptions: Adoptions::default(),
            owner,
            private_key: ssh.private.clone(),
            public_key: ssh.public.clone(),
        }
        .with_agent(std::env::var_os(AGENT_SOCKET).map(PathBuf::from))
    }

    /// Uses the SSH agent at this socket for accounts without a declared password or key. The
    /// default is the agent that the environment specifies (`SSH_AUTH_SOCK`).
    #[must_use]
    pub fn with_agent(mut self, socket: Option<PathBuf>) -> Self {
        let socket = socket.filter(|path| !path.as_os_str().is_empty());
        // Nothing else refers to the machines yet.
        for machine in self.machines.values_mut().filter_map(Arc::get_mut) {
            machine.use_agent(socket.as_ref());
        }
        self
    }

    /// Creates the provider for the manager, which reaches the machines at their private addresses.
    /// `ssh` is the platform's own key.
    pub fn for_manager(spec: &HostsSpec, owner: Owner, ssh: &SshKeyPair) -> Self {
        let machines = spec.hosts.iter().map(|(node, host)| {
            let machine = Machine::new(node, host, ssh.private.clone(), None, false);
            (node.clone(), Arc::new(machine))
        });
        Self {
            machines: machines.collect(),
            adoptions: Adoptions::default(),
            owner,
            private_key: ssh.private.clone(),
            public_key: ssh.public.clone(),
        }
    }

    /// Returns the machine of a node.
    fn machine(&self, node: &NodeName) -> Option<Arc<Machine>> {
        let declared = self.machines.get(node).map(Arc::clone);
        declared.or_else(|| self.adoptions.machine(node))
    }

    /// Returns the machine of a node and its standing; `None` if no machine is declared.
    async fn find(&self, node: &NodeName) -> Result<Option<(Arc<Machine>, Standing)>> {
        let Some(machine) = self.machine(node) else {
            return Ok(None);
        };
        let standing = machine.standing(self.owner.id).await?;
        Ok(Some((machine, standing)))
    }

    /// Returns an adopted machine as a node; `None` if it is no node of this platform. A machine that is
    /// not declared is not inspected again once it is known not to belong to the platform.
    async fn listed_adopted(&self, adopted: &Adopted) -> Result<Option<ObservedNode>> {
        if adopted.is_declared() {
            return self.listed(&adopted.machine).await;
        }
        if adopted.machine.is_released() {
            return Ok(None);
        }
        match adopted.machine.standing(self.owner.id).await {
            Ok(Standing::Theirs | Standing::OtherNode { .. } | Standing::Unowned { .. })
            | Err(Error::Denied { .. }) => {
                adopted.machine.leave();
                Ok(None)
            }
            _ => self.listed(&adopted.machine).await,
        }
    }

    /// Returns a machine as a node; `None` if it is no node of this platform.
    async fn listed(&self, machine: &Machine) -> Result<Option<ObservedNode>> {
        match machine.standing(self.owner.id).await {
            Ok(Standing::Ours { boot } | Standing::Incomplete { boot }) => {
                Ok(Some(machine.observed(boot)))
            }
            Ok(Standing::Theirs | Standing::OtherNode { .. } | Standing::Unowned { .. }) => {
                Ok(None)
            }
            // A machine that was never taken over and cannot be reached is no node.
            Err(error) if machine.membership() == Membership::New => {
                tracing::debug!(error = %error.chain(), "a machine is not reachable");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Changes a machine of this platform. The machine exists and is running.
    async fn change(
        &self,
        machine: &Machine,
        boot: Option<String>,
        change: &NodeChange,
    ) -> Result<()> {
        match change {
            NodeChange::Restart { boot_id, .. } if boot.as_ref() == Some(boot_id) => {
                machine.reboot().await
            }
            NodeChange::Provision { .. }
            | NodeChange::Start { .. }
            | NodeChange::Restart { .. } => Ok(()),
            NodeChange::Stop { node } => {
                Err(Error::unsupported(format!("stopping node {node}"), NAME))
            }
            NodeChange::Delete { .. } => machine.release(self.owner.id).await,
        }
    }

    /// Ensures that the machine has the platform's account. Returns the machine's boot, if it is
    /// known.
    async fn enrol(
        &self,
        node: &NodeName,
        machine: &Machine,
        standing: Standing,
    ) -> Result<Option<String>> {
        match standing {
            Standing::Ours { boot } => Ok(boot),
            Standing::Theirs => Err(absent(node)),
            Standing::OtherNode { name } => Err(Error::conflict(
                format!("taking over machine {node} failed"),
                format!(
                    "it is node {name} of this platform; remove that node with one `bootstrapper up`, \
                     then declare {node}"
                ),
            )),
            Standing::Incomplete { .. } | Standing::Unowned { .. } => {
                let enrolled = machine.enrol(&self.owner, &self.public_key).await;
                enrolled.map(Some)
            }
        }
    }

    /// Returns the machines that are reached by address.
    fn by_address(&self) -> impl Iterator<Item = &Arc<Machine>> {
        self.machines.values().filter(|machine| !machine.is_vm())
    }

    /// Returns why the platform cannot use a machine, with a hint.
    async fn problem(&self, node: &NodeName) -> Option<String> {
        let machine = self.machine(node)?;
        let error = machine.problem(self.owner.id).await?;
        let hint = error.hint().filter(|hint| !hint.is_empty());
        let hint = hint.map(|hint| format!(": {hint}"));
        Some(format!("{}{}", error.chain(), hint.unwrap_or_default()))
    }
}

#[async_trait]
impl CloudProvider for Hosts {
    fn capabilities(&self) -> CloudCapabilities {
        CloudCapabilities {
            name: NAME,
            provisions: false,
            powers: false,
            knows_host_keys: true,
            fences: false,
            adopts: true,
            firewall: Firewall::External,
        }
    }

    async fn preflight(&self, specs: &[NodeSpec]) -> Result<PreflightReport> {
        let declared = specs.iter().map(|spec| self.problem(&spec.name));
        let problems = join_all(declared).await;
        Ok(PreflightReport {
            problems: problems.into_iter().flatten().collect(),
            ..PreflightReport::default()
        })
    }

    async fn list(&self) -> Result<Vec<ObservedNode>> {
        let declared = join_all(self.by_address().map(|machine| self.listed(machine)));
        let adopted = self.adoptions.all(&self.machines);
        let adopted = join_all(adopted.iter().map(|one| self.listed_adopted(one)));
        let (declared, adopted) = tokio::join!(declared, adopted);
        let listed = declared.into_iter().chain(adopted);
        let listed: Result<Vec<ObservedNode>> = listed.filter_map(Result::transpose).collect();
        let mut listed = listed?;
        listed.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(listed)
    }

    async fn get(&self, node: &NodeName) -> Result<Option<ObservedNode>> {
        Ok(self
            .find(node)
            .await?
            .and_then(|(machine, standing)| match standing {
                Standing::Ours { boot }
                | Standing::Incomplete { boot }
                | Standing::Unowned { boot } => Some(machine.observed(boot)),
                Standing::Theirs | Standing::OtherNode { .. } => None,
            }))
    }

    async fn adopt(&self, node: &NodeName) -> Result<ObservedNode> {
        let Some((machine, standing)) = self.find(node).await? else {
            return Err(absent(node));
        };
        let boot = self.enrol(node, &machine, standing).await?;
        Ok(machine.observed(boot))
    }

    async fn begin(&self, change: NodeChange) -> Result<CloudOperation> {
        let node = change.node();
        let found = self.find(node).await?;
        match (found, &change) {
            (Some((_, Standing::Unowned { .. })), _) => return Err(not_ours(node)),
            (Some((machine, Standing::Ours { boot } | Standing::Incomplete { boot })), change) => {
                self.change(&machine, boot, change).await?;
            }
            // The machine is not a node of this platform.
            (_, NodeChange::Delete { .. }) => {}
            (_, NodeChange::Provision { .. }) => {
                return Err(Error::unsupported(format!("creating node {node}"), NAME));
            }
            (
                _,
                NodeChange::Start { .. } | NodeChange::Stop { .. } | NodeChange::Restart { .. },
            ) => return Err(absent(node)),
        }
        Ok(CloudOperation {
            change,
            token: String::new(),
        })
    }

    async fn poll(&self, operation: &CloudOperation) -> Result<CloudProgress> {
        let NodeChange::Restart { node, boot_id } = &operation.change else {
            return Ok(CloudProgress::Done);
        };
        let machine = self.machine(node).ok_or_else(|| absent(node))?;
        let running = match machine.boot().await {
            Ok(boot) if boot != *boot_id => return Ok(CloudProgress::Done),
            Ok(_) => "the machine has not shut down yet",
            Err(_) => "the machine does not respond yet",
        };
        Ok(CloudProgress::Running {
            after: Some(POLL_EVERY),
            message: Some(running.to_owned()),
        })
    }

    async fn fence(&self, node: &NodeName) -> Result<Fenced> {
        Err(Error::unsupported(format!("fencing node {node}"), NAME))
    }

    fn set_adopted_machines(&self, machines: &BTreeMap<NodeName, AdoptedMachine>) {
        self.adoptions.set(machines, &self.private_key);
    }

    async fn check_machine(
        &self,
        node: &NodeName,
        machine: &MachineSpec,
        login: &MachineLogin,
    ) -> Result<MachineSpec> {
        self.check(node, machine, login).await
    }

    async fn take_over_machine(
        &self,
        node: &NodeName,
        machine: &MachineSpec,
        login: &MachineLogin,
    ) -> Result<()> {
        self.take_over(node, machine, login).await
    }

    async fn delete_shared(&self) -> Result<()> {
        Ok(())
    }
}

fn absent(node: &NodeName) -> Error {
    Error::not_found(format!("node {node}"))
}

fn not_ours(node: &NodeName) -> Error {
    Error::conflict(
        format!("changing machine {node} failed"),
        "the machine does not belong to this platform",
    )
}
