//! Machines that exist already, as a cloud. They are reached over SSH at their addresses.
//!
//! A machine becomes a node when the bootstrapper takes it over ([`enrolment`]): it logs in once
//! with the declared account and creates an account of the platform on the machine. From then on,
//! the bootstrapper and the manager use only this account, with the platform's own key.
//!
//! The machines cannot be created, started, stopped or fenced. [`MixedCloud`] combines them with the
//! nodes of another cloud, whose own existing VMs are taken over in the same way.

mod enrolment;
mod login;
mod machine;
mod mixed;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use lifecycle_core::cloud::{
    CloudCapabilities, CloudOperation, CloudProgress, CloudProvider, Fenced, Firewall, NodeChange,
    ObservedNode, PreflightReport,
};
use lifecycle_core::host::SshKeyPair;
use lifecycle_core::model::{NodeName, NodeSpec};
use lifecycle_core::platform::{HostsSpec, Membership, NodeLogin};
use lifecycle_core::runtime::Owner;
use lifecycle_core::secret::Sensitive;
use lifecycle_core::{Error, Result};

use login::Login;
use machine::{Machine, Standing};

pub use mixed::MixedCloud;

/// The environment variable with the socket of the operator's SSH agent.
const AGENT_SOCKET: &str = "SSH_AUTH_SOCK";

/// The interval for checking whether a machine has rebooted.
const POLL_EVERY: Duration = Duration::from_secs(1);

const NAME: &str = "existing machines";

/// The declared machines of one platform.
#[derive(Debug)]
pub struct Hosts {
    machines: BTreeMap<NodeName, Machine>,
    owner: Owner,
    /// The platform's public key. `None` in the manager, which cannot take machines over.
    public_key: Option<String>,
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
            let machine = Machine::new(node, host, ssh.private.clone(), Some(login));
            (node.clone(), machine)
        });
        Self {
            machines: machines.collect(),
            owner,
            public_key: Some(ssh.public.clone()),
        }
        .with_agent(std::env::var_os(AGENT_SOCKET).map(PathBuf::from))
    }

    /// Uses the SSH agent at this socket for accounts without a declared password or key. The
    /// default is the agent that the environment specifies (`SSH_AUTH_SOCK`).
    #[must_use]
    pub fn with_agent(mut self, socket: Option<PathBuf>) -> Self {
        let socket = socket.filter(|path| !path.as_os_str().is_empty());
        for machine in self.machines.values_mut() {
            machine.use_agent(socket.as_ref());
        }
        self
    }

    /// Creates the provider for the manager, which reaches the machines at their private addresses.
    pub fn for_manager(spec: &HostsSpec, owner: Owner, private_key: &Sensitive) -> Self {
        let machines = spec.hosts.iter().map(|(node, host)| {
            let machine = Machine::new(node, host, private_key.clone(), None);
            (node.clone(), machine)
        });
        Self {
            machines: machines.collect(),
            owner,
            public_key: None,
        }
    }

    /// Returns the machine of a node and its standing; `None` if no machine is declared.
    async fn find(&self, node: &NodeName) -> Result<Option<(&Machine, Standing)>> {
        let Some(machine) = self.machines.get(node) else {
            return Ok(None);
        };
        let standing = machine.standing(self.owner.id).await?;
        Ok(Some((machine, standing)))
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
                let Some(key) = &self.public_key else {
                    return Err(Error::unsupported(
                        format!("taking over machine {node}"),
                        "the manager, which has no login to the machine",
                    ));
                };
                machine.enrol(&self.owner, key).await.map(Some)
            }
        }
    }

    /// Returns the machines that are reached by address.
    fn by_address(&self) -> impl Iterator<Item = &Machine> {
        self.machines.values().filter(|machine| !machine.is_vm())
    }

    /// Returns why the platform cannot use a machine, with a hint.
    async fn problem(&self, node: &NodeName) -> Option<String> {
        let machine = self.machines.get(node)?;
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
        let listed = join_all(self.by_address().map(|machine| self.listed(machine)));
        listed
            .await
            .into_iter()
            .filter_map(Result::transpose)
            .collect()
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
        let boot = self.enrol(node, machine, standing).await?;
        Ok(machine.observed(boot))
    }

    async fn begin(&self, change: NodeChange) -> Result<CloudOperation> {
        let node = change.node();
        let found = self.find(node).await?;
        match (found, &change) {
            (Some((_, Standing::Unowned { .. })), _) => return Err(not_ours(node)),
            (Some((machine, Standing::Ours { boot } | Standing::Incomplete { boot })), change) => {
                self.change(machine, boot, change).await?;
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
        let machine = self.machines.get(node).ok_or_else(|| absent(node))?;
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
