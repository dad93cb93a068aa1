//! Implements [`CloudProvider`] on Azure. Each node is a VM.
//!
//! All state is stored in Azure. A VM's tags contain the platform, the attempt that created the VM,
//! and the VM's host key.
//!
//! - `ownership`: determines which VM is a node of the platform.
//! - `observation`: reads the state of nodes.
//! - `provision`: creates nodes.
//! - `settle`: applies the last settings of new nodes.
//! - `power`: changes the power state of nodes, and deletes nodes.

mod observation;
mod ownership;
mod power;
mod provision;
mod settle;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use lifecycle_core::clock::{Clock as _, SystemClock};
use lifecycle_core::cloud::{
    CloudCapabilities, CloudOperation, CloudProgress, CloudProvider, Fenced, Firewall, NodeChange,
    ObservedNode, Power, PreflightReport,
};
use lifecycle_core::model::{NodeName, NodeSpec, PublicPorts};
use lifecycle_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::arm::Client;
use crate::arm::consistency::VISIBLE_WITHIN;
use crate::arm::transport::Transport;
use crate::compute::{Action, Compute};
use crate::credential::Credential;
use crate::network::Shared;
use crate::options::AzureOptions;
use crate::preflight;
use crate::vm::Vm;

/// Time limit for a fence. Azure takes seconds to minutes to power off a VM without a shutdown.
const FENCE: Duration = Duration::from_mins(15);

/// The longest wait between two polls.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// Manages nodes that are VMs on Azure.
///
/// # Guarantees
/// The guarantees of [`CloudProvider`]. In addition, a node's disk, network interface, and public
/// address are created and deleted together with the VM.
///
/// # Caveats
/// - A stopped node is deallocated: it incurs no charge for compute, and keeps its private address.
/// - The boot id contains the time of the VM's last power change, so a reboot from inside the VM is
///   not detected.
/// - If the declaration of an existing node changes, the node keeps its size and its zone, and the
///   manager's identity is neither added nor removed.
/// - The shared network is never changed, except for the rules of public ports: a changed
///   `ssh_from` applies only to networks that are created later.
/// - A port counts as open if the platform's own rules open it, even if another rule denies the
///   traffic. If a VM was deleted by others, its rules are removed when the ports of another node
///   change, or with the platform.
///
/// # Errors
/// Returns [`Error::Conflict`] if a VM has a node's name but not this platform's id.
#[derive(Debug)]
pub struct Azure {
    options: AzureOptions,
    client: Client,
    compute: Compute,
    shared: Shared,
}

/// The stored state of a change in progress.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "wait")]
enum Token {
    /// There is nothing to wait for.
    Nothing,
    /// No request was sent: a change by another caller is in progress.
    Settles,
    /// A VM is being created. If `removes` is set, the VM with that id is removed first.
    Provision {
        removes: Option<String>,
        /// When Azure accepted the creation. `None` if the VM was visible already.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<DateTime<Utc>>,
        /// The earliest time at which Azure allows the next poll.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_before: Option<DateTime<Utc>>,
    },
    /// An Azure operation is in progress.
    Operation {
        url: String,
        /// When Azure accepted the operation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<DateTime<Utc>>,
        /// The earliest time at which Azure allows the next poll.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_before: Option<DateTime<Utc>>,
    },
}

impl Token {
    /// Returns the remaining wait before the next poll.
    fn wait(&self) -> Option<Duration> {
        let (Self::Provision { not_before, .. } | Self::Operation { not_before, .. }) = self else {
            return None;
        };
        let left = (*not_before)? - SystemClock.now();
        // Limit the wait, in case the clock was set back.
        left.to_std().ok().map(|left| left.min(LONGEST_WAIT))
    }
}

/// Returns whether Azure accepted a change so recently that some of its parts may not know the
/// change yet.
fn is_recent(since: Option<DateTime<Utc>>) -> bool {
    let passed = since.map(|since| SystemClock.now() - since);
    passed.is_some_and(|passed| passed.to_std().is_ok_and(|passed| passed < VISIBLE_WITHIN))
}

/// Returns the earliest time of the next poll, or `None` if Azure requests no wait.
fn not_before(after: Option<Duration>) -> Option<DateTime<Utc>> {
    let after = TimeDelta::from_std(after?).ok()?;
    SystemClock.now().checked_add_signed(after)
}

impl Azure {
    /// Validates the options without sending a request to Azure.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] for invalid options.
    pub fn new(options: AzureOptions) -> Result<Self> {
        let endpoint = options.check()?;
        // The scope is only the tokens' audience, which is the same in the simulator as in the
        // public cloud.
        let scope = "https://management.azure.com/.default";
        let authority = options.certificate_authority.as_deref();
        let credential = Arc::new(Credential::new(
            options.login.clone(),
            options.authority_host.as_deref(),
            authority,
            scope,
        )?);
        let role_wait = options.role_wait.clone();
        let transport = Transport::new(&endpoint, credential.clone(), authority, role_wait)?;
        let transport = Arc::new(transport);
        let client = Client::new(endpoint.clone(), transport.clone(), options.poll_every);
        let subscription = options.subscription.clone();
        let group = options.group();
        let compute = Compute::new(endpoint, scope, transport, credential, subscription, group)?;
        Ok(Self {
            shared: Shared::new(client.clone(), options.clone()),
            options,
            client,
            compute,
        })
    }
}

#[async_trait]
impl CloudProvider for Azure {
    fn capabilities(&self) -> CloudCapabilities {
        CloudCapabilities {
            name: "azure",
            provisions: true,
            powers: true,
            knows_host_keys: true,
            fences: true,
            adopts: true,
            firewall: Firewall::Managed,
        }
    }

    async fn preflight(&self, nodes: &[NodeSpec]) -> Result<PreflightReport> {
        preflight::check(&self.options, &self.client, &self.compute, nodes).await
    }

    async fn list(&self) -> Result<Vec<ObservedNode>> {
        self.nodes().await
    }

    async fn get(&self, node: &NodeName) -> Result<Option<ObservedNode>> {
        let Some(vm) = self.vm(node).await? else {
            return Ok(None);
        };
        let read = async { tokio::try_join!(self.addresses(&vm), self.shared.security_groups()) };
        let ((addresses, location), groups) = read.await?;
        let node = node.clone();
        let observed = self.observed(node, &vm, addresses, location.as_ref(), &groups);
        Ok(Some(observed))
    }

    async fn adopt(&self, node: &NodeName) -> Result<ObservedNode> {
        self.mark(node).await?;
        let adopted = self.get(node).await?;
        adopted.ok_or_else(|| Error::not_found(format!("VM {node}")))
    }

    async fn begin(&self, change: NodeChange) -> Result<CloudOperation> {
        let token = match &change {
            NodeChange::Provision { spec } => self.begin_provision(spec).await?,
            NodeChange::Start { node } => {
                let runs = |vm: &Vm| vm.power() == Power::Running || vm.is_being_created();
                self.begin_action(node, Action::Start, runs).await?
            }
            NodeChange::Stop { node } => {
                let stopped = |vm: &Vm| vm.is_deallocated && vm.is_off();
                self.begin_action(node, Action::Deallocate, stopped).await?
            }
            NodeChange::Restart { node, boot_id } => {
                let is_over = |vm: &Vm| vm.boot_id().as_ref() != Some(boot_id);
                self.begin_action(node, Action::Restart, is_over).await?
            }
            NodeChange::Delete { node } => self.begin_delete(node).await?,
        };
        let token = serde_json::to_string(&token)
            .map_err(|error| Error::failed("serializing a token", error.to_string()))?;
        Ok(CloudOperation { change, token })
    }

    async fn poll(&self, operation: &CloudOperation) -> Result<CloudProgress> {
        let token = serde_json::from_str(&operation.token)
            .map_err(|error| Error::corrupt("the token of a change on Azure", error.to_string()))?;
        if let Some(after) = Token::wait(&token) {
            return Ok(CloudProgress::Running {
                after: Some(after),
                message: None,
            });
        }
        match (&operation.change, token) {
            (_, Token::Nothing) => Ok(CloudProgress::Done),
            (change, Token::Settles) => self.poll_settling(change).await,
            (NodeChange::Provision { spec }, Token::Provision { removes, since, .. }) => {
                self.poll_provision(spec, removes.as_deref(), since).await
            }
            (change, Token::Operation { url, since, .. }) => {
                self.poll_operation(change, &url, since).await
            }
            (change, Token::Provision { .. }) => Err(Error::corrupt(
                "the token of a change on Azure",
                format!(
                    "the token belongs to the creation of a node, but the change to node {} is \
                     not a creation",
                    change.node()
                ),
            )),
        }
    }

    async fn fence(&self, node: &NodeName) -> Result<Fenced> {
        tokio::time::timeout(FENCE, self.power_off(node))
            .await
            .unwrap_or_else(|_| Err(Error::timed_out(format!("fencing VM {node}"), FENCE)))
    }

    async fn set_public_ports(&self, node: &NodeName, ports: &PublicPorts) -> Result<()> {
        let absent = || Error::not_found(format!("node {node}"));
        let vm = self.owned(node).await?.ok_or_else(absent)?;
        let (_, location) = self.addresses(&vm).await?;
        let location = location.ok_or_else(|| {
            Error::interrupted(
                format!("opening ports of node {node}"),
                Some("the VM has no network interface yet".into()),
            )
        })?;
        let nodes = async || {
            let nodes = self.nodes().await?;
            let listed = nodes.into_iter().map(|node| node.name);
            // The ports of an existing VM stay open although its tags were removed.
            Ok(listed
                .chain(self.options.existing.keys().cloned())
                .collect())
        };
        self.shared.open_ports(node, &location, ports, nodes).await
    }

    async fn delete_shared(&self) -> Result<()> {
        self.shared.remove().await
    }
}
