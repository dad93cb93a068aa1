//! [`CloudProvider`] on Azure: each node is a VM, and what Azure shows is all that is known.
//!
//! Nothing is kept in this process that a new one would miss: whose a VM is, which attempt made
//! it and which host key it has stands in its tags.
//!
//! - `ownership`: whose a VM is.
//! - `observation`: how it is.
//! - `provision`: how it is made.
//! - `power`: how it is switched.

mod observation;
mod ownership;
mod power;
mod provision;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use lifecycle_core::clock::{Clock as _, SystemClock};
use lifecycle_core::cloud::{
    CloudCapabilities, CloudOperation, CloudProgress, CloudProvider, Fenced, NodeChange,
    ObservedNode, Power, PreflightReport,
};
use lifecycle_core::model::{NodeName, NodeSpec};
use lifecycle_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::arm::Client;
use crate::arm::transport::Transport;
use crate::compute::{Action, Compute};
use crate::credential::Credential;
use crate::machine::Machine;
use crate::network::Shared;
use crate::options::AzureOptions;
use crate::preflight;

/// How long a fence may take. Azure's power-off without a shutdown takes seconds, or minutes.
const FENCE: Duration = Duration::from_mins(15);

/// How long Azure is left alone at most before it is asked how far something is.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// Nodes that are VMs on Azure.
///
/// # Guarantees
/// Those of [`CloudProvider`]. A node's disk, network interface and public address are made with
/// the VM and go with it.
///
/// # Caveats
/// - Stopped means deallocated: it costs no processor, and its private address stays.
/// - A boot is told from others by the time of the VM's last change: a reboot from inside the
///   system is not seen.
/// - A node that exists is left as it is, whatever its declaration says by now: its size, its zone,
///   and whether it has the manager's identity.
/// - The network that nodes share is left as it was made: another `ssh_from` holds for networks
///   that are made from then on.
///
/// # Errors
/// A VM of a node's name without this platform's id is [`Error::Conflict`].
#[derive(Debug)]
pub struct Azure {
    options: AzureOptions,
    client: Client,
    compute: Compute,
    shared: Shared,
}

/// What is stored of a change under way.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "wait")]
enum Token {
    /// There is nothing to wait for.
    Nothing,
    /// Nothing was begun, but something that somebody else began goes on.
    Settles,
    /// A VM is made; before, the one that could not be made is removed.
    Provision {
        removes: Option<String>,
        /// Azure does not want to be asked sooner.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_before: Option<DateTime<Utc>>,
    },
    /// An operation of Azure's goes on.
    Operation {
        url: String,
        /// Azure does not want to be asked sooner.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_before: Option<DateTime<Utc>>,
    },
}

impl Token {
    /// How long Azure does not want to be asked yet.
    fn wait(&self) -> Option<Duration> {
        let (Self::Provision { not_before, .. } | Self::Operation { not_before, .. }) = self else {
            return None;
        };
        let left = (*not_before)? - SystemClock.now();
        // A clock that was set back does not make it longer than Azure ever says.
        left.to_std().ok().map(|left| left.min(LONGEST_WAIT))
    }
}

/// When Azure may be asked, if it wants to be left alone for so long.
fn not_before(after: Option<Duration>) -> Option<DateTime<Utc>> {
    let after = TimeDelta::from_std(after?).ok()?;
    SystemClock.now().checked_add_signed(after)
}

impl Azure {
    /// Checks the options. Azure is not asked for anything yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] for options that cannot be used.
    pub fn new(options: AzureOptions) -> Result<Self> {
        let endpoint = options.check()?;
        // The public address's scope, also where Azure is simulated: tokens name what they are for.
        let scope = "https://management.azure.com/.default";
        let authority = options.certificate_authority.as_deref();
        let credential = Arc::new(Credential::new(
            options.login.clone(),
            options.authority_host.as_deref(),
            authority,
            scope,
        )?);
        let transport = Transport::new(&endpoint, credential.clone(), authority)?;
        let transport = Arc::new(transport);
        let client = Client::new(endpoint.clone(), transport.clone());
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
            knows_host_keys: true,
            fences: true,
            adopts: true,
        }
    }

    async fn preflight(&self, wanted: &[NodeSpec]) -> Result<PreflightReport> {
        preflight::check(&self.options, &self.client, &self.compute, wanted).await
    }

    async fn list(&self) -> Result<Vec<ObservedNode>> {
        self.nodes().await
    }

    async fn get(&self, node: &NodeName) -> Result<Option<ObservedNode>> {
        let Some(machine) = self.machine(node).await? else {
            return Ok(None);
        };
        let addresses = self.addresses(&machine).await?;
        Ok(self.observed(&machine, addresses))
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
                let runs = |machine: &Machine| {
                    machine.power() == Power::Running || machine.is_being_created()
                };
                self.begin_action(node, Action::Start, runs).await?
            }
            NodeChange::Stop { node } => {
                let stopped = |machine: &Machine| machine.is_deallocated && machine.is_off();
                self.begin_action(node, Action::Deallocate, stopped).await?
            }
            NodeChange::Restart { node, boot_id } => {
                let is_over = |machine: &Machine| machine.boot_id().as_ref() != Some(boot_id);
                self.begin_action(node, Action::Restart, is_over).await?
            }
            NodeChange::Delete { node } => self.begin_delete(node).await?,
        };
        let token = serde_json::to_string(&token)
            .map_err(|error| Error::failed("writing a token", error.to_string()))?;
        Ok(CloudOperation { change, token })
    }

    async fn poll(&self, operation: &CloudOperation) -> Result<CloudProgress> {
        let token = serde_json::from_str(&operation.token)
            .map_err(|error| Error::corrupt("the token of a change on Azure", error.to_string()))?;
        if let Some(after) = Token::wait(&token) {
            return Ok(CloudProgress::Running {
                after: Some(after),
                says: None,
            });
        }
        match (&operation.change, token) {
            (_, Token::Nothing) => Ok(CloudProgress::Done),
            (change, Token::Settles) => self.poll_settling(change).await,
            (NodeChange::Provision { spec }, Token::Provision { removes, .. }) => {
                self.poll_provision(spec, removes.as_deref()).await
            }
            (change, Token::Operation { url, .. }) => self.poll_operation(change, &url).await,
            (change, Token::Provision { .. }) => Err(Error::corrupt(
                "the token of a change on Azure",
                format!(
                    "it is of a provision, and the change is of {}",
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

    async fn delete_shared(&self) -> Result<()> {
        self.shared.remove().await
    }
}
