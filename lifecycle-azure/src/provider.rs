//! [`CloudProvider`] on Azure: each node is a VM, and what Azure shows is all that is known.
//!
//! Nothing is kept in this process that a new one would miss: whose a VM is, which attempt made
//! it and which host key it has stands in its tags.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lifecycle_core::clock::{Clock, IdSource, RandomIds, SystemClock};
use lifecycle_core::cloud::{
    CloudCapabilities, CloudOperation, CloudProgress, CloudProvider, Fenced, NodeChange,
    ObservedNode, Power, PreflightReport, SshAddress,
};
use lifecycle_core::model::{Addresses, NodeName, NodeSpec};
use lifecycle_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::arm::Client;
use crate::arm::client::Progress;
use crate::arm::failure::Refusal;
use crate::arm::transport::Transport;
use crate::compute::{Action, COMPUTE, Compute};
use crate::credential::Credential;
use crate::first_boot::HostKey;
use crate::machine::{self, Machine, State};
use crate::network::{NETWORK, Shared, is_failed, is_made};
use crate::options::AzureOptions;
use crate::preflight;
use crate::tags;

/// SSH's port.
const SSH: u16 = 22;
/// How long a fence may take. Azure's power-off without a shutdown takes seconds, or minutes.
const FENCE: Duration = Duration::from_mins(15);

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
/// - A node that exists is left as it is, whatever its declaration says by now.
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
    Provision { removes: Option<String> },
    /// An operation of Azure's goes on.
    Operation { url: String },
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

    /// The VM that is a node, or would be if it were ours: the one of its name in the platform's
    /// group, or an adopted one.
    async fn machine(&self, node: &NodeName) -> Result<Option<Machine>> {
        let found = self
            .compute
            .get(&self.options.group(), node.as_str())
            .await?;
        if found.is_some() {
            return Ok(found);
        }
        let named = self.compute.named(node).await?;
        let (ours, others): (Vec<_>, Vec<_>) = named
            .into_iter()
            .partition(|machine| machine.tags.are_of(&self.options.owner));
        let group = self.options.group();
        // Another platform's node of this name is not what is asked for.
        let mut others = others.into_iter().filter(|other| {
            other.tags.get(tags::PLATFORM_ID).is_none()
                || other.group().eq_ignore_ascii_case(&group)
        });
        match (ours.into_iter().next(), others.next(), others.next()) {
            (Some(ours), ..) => Ok(Some(ours)),
            (None, Some(_), Some(_)) => Err(Error::Conflict {
                what: format!("VM {node}"),
                why: "several resource groups have one of this name".to_owned(),
            }),
            (None, other, _) => Ok(other),
        }
    }

    /// The node's VM, if it is ours.
    async fn ours(&self, node: &NodeName) -> Result<Option<Machine>> {
        match self.machine(node).await? {
            Some(machine) if !machine.tags.are_of(&self.options.owner) => Err(Error::Conflict {
                what: format!("VM {node}"),
                why: "it exists and does not carry this platform's id".to_owned(),
            }),
            found => Ok(found),
        }
    }

    fn observed(&self, machine: &Machine, addresses: Addresses) -> Option<ObservedNode> {
        let host_key = machine.tags.get(tags::HOST_KEY).map(str::to_owned);
        let account = machine
            .tags
            .get(tags::ACCOUNT)
            .or(machine.account.as_deref());
        Some(ObservedNode {
            name: machine.node()?,
            provider_id: machine.vm_id.clone(),
            power: machine.power(),
            addresses,
            ssh: SshAddress {
                user: account.unwrap_or(&self.options.account).to_owned(),
                port: SSH,
                host_keys: host_key.into_iter().collect(),
            },
            boot_id: machine.boot_id(),
            created: machine.is_created(),
        })
    }

    /// The addresses of a VM.
    async fn addresses(&self, machine: &Machine) -> Result<Addresses> {
        let Some(interface) = &machine.interface else {
            return Ok(Addresses::default());
        };
        let Some(interface) = self.client.get(interface, NETWORK).await? else {
            return Ok(Addresses::default());
        };
        let (private, public) = machine::addresses(&interface);
        let public = match public {
            Some(path) => self.client.get(&path, NETWORK).await?,
            None => None,
        };
        Ok(Addresses {
            private,
            public: public.as_ref().and_then(public_address),
        })
    }

    async fn begin_provision(&self, spec: &NodeSpec) -> Result<Token> {
        let name = &spec.name;
        match self.ours(name).await? {
            // One that could not be made is removed and made anew.
            Some(machine) if machine.never_ran() && matches!(machine.state, State::Failed(_)) => {
                if !machine.is_created() {
                    return Err(Error::failed(
                        format!("VM {name}"),
                        "Azure could not make it",
                    ));
                }
                self.compute
                    .begin(machine.group(), &machine.name, Action::Delete)
                    .await
                    .map_err(|failure| failure.into_error(format!("removing VM {name}")))?;
                Ok(Token::Provision {
                    removes: Some(machine.vm_id),
                })
            }
            Some(machine) if matches!(machine.state, State::Deleting) => Ok(Token::Provision {
                removes: Some(machine.vm_id),
            }),
            Some(_) => Ok(Token::Provision { removes: None }),
            None => {
                self.create(spec).await?;
                Ok(Token::Provision { removes: None })
            }
        }
    }

    async fn create(&self, spec: &NodeSpec) -> Result<()> {
        let name = &spec.name;
        self.shared.ensure().await?;
        let run = RandomIds.uuid().to_string();
        let key = HostKey::generate()?;
        let vm = machine::wanted(&self.options, spec, &self.shared.subnet(), &run, &key)?;
        match self.compute.create(name.as_str(), vm).await {
            Ok(()) => Ok(()),
            // Somebody was quicker, and it was one of us: then it is there.
            Err(failure) if failure.refusal().is_some_and(Refusal::is_taken) => {
                match self.ours(name).await? {
                    Some(_) => Ok(()),
                    None => Err(failure.into_error(format!("VM {name}"))),
                }
            }
            Err(failure) => {
                // It may be the network that is missing: another process may have removed it.
                self.shared.forget().await;
                Err(failure.into_error(format!("VM {name}")))
            }
        }
    }

    async fn poll_provision(
        &self,
        spec: &NodeSpec,
        removes: Option<&str>,
    ) -> Result<CloudProgress> {
        let name = &spec.name;
        let goes_on = |says: &str| {
            Ok(CloudProgress::Running {
                after: Some(self.options.poll_every),
                says: Some(says.to_owned()),
            })
        };
        let Some(machine) = self.ours(name).await? else {
            if removes.is_none() {
                return Err(Error::failed(
                    format!("VM {name}"),
                    "it was removed while it was made",
                ));
            }
            self.create(spec).await?;
            return goes_on("Azure makes it anew");
        };
        if removes == Some(machine.vm_id.as_str()) {
            return match machine.state {
                State::Failed(refusal) => Err(Error::failed(
                    format!("removing VM {name}"),
                    refusal.to_string(),
                )),
                _ => goes_on("Azure removes what it could not make"),
            };
        }
        match machine.state {
            State::Changing(state) => goes_on(&format!("Azure says {state}")),
            State::Deleting => Err(Error::failed(format!("VM {name}"), "it is being removed")),
            State::Failed(ref refusal) if machine.never_ran() => {
                Err(refusal.clone().into_error(format!("VM {name}")))
            }
            // It runs, or ran: what failed was a later change.
            State::Failed(_) | State::Succeeded => {
                if self.settle(&machine).await? {
                    Ok(CloudProgress::Done)
                } else {
                    goes_on("Azure fixes its address")
                }
            }
        }
    }

    /// Sees to it that a VM of ours keeps its private address. What is made with a VM cannot be
    /// asked for so.
    async fn settle(&self, machine: &Machine) -> Result<bool> {
        let Some(path) = machine.interface.as_ref().filter(|_| machine.is_created()) else {
            return Ok(true);
        };
        let Some(mut interface) = self.client.get(path, NETWORK).await? else {
            return Ok(true);
        };
        // One that failed is asked for once more, which is how Azure mends it.
        let mut changed = is_failed(&interface);
        if !changed && !is_made(path, &interface)? {
            return Ok(false);
        }
        let configurations = interface.pointer_mut("/properties/ipConfigurations");
        for one in configurations
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            let Some(properties) = one.get_mut("properties").and_then(Value::as_object_mut) else {
                continue;
            };
            let method = properties
                .get("privateIPAllocationMethod")
                .and_then(Value::as_str);
            let has_address = properties
                .get("privateIPAddress")
                .is_some_and(Value::is_string);
            if has_address && method != Some("Static") {
                properties.insert("privateIPAllocationMethod".to_owned(), json!("Static"));
                changed = true;
            }
        }
        if changed {
            interface = self.client.put(path, NETWORK, &interface).await?;
        }
        is_made(path, &interface)
    }

    /// Begins to switch a VM, unless it is so already.
    async fn begin_action(
        &self,
        node: &NodeName,
        action: Action,
        is_done: impl FnOnce(&Machine) -> bool,
    ) -> Result<Token> {
        let Some(machine) = self.ours(node).await? else {
            return match action {
                Action::Delete => Ok(Token::Nothing),
                _ => Err(Error::not_found(format!("node {node}"))),
            };
        };
        if is_done(&machine) {
            return Ok(match machine.state {
                State::Changing(_) => Token::Settles,
                _ => Token::Nothing,
            });
        }
        let begun = self
            .compute
            .begin(machine.group(), &machine.name, action)
            .await;
        match begun {
            Ok(Some(url)) => Ok(Token::Operation { url }),
            Ok(None) => Ok(Token::Nothing),
            Err(failure)
                if matches!(action, Action::Delete)
                    && failure.refusal().is_some_and(Refusal::is_absent) =>
            {
                Ok(Token::Nothing)
            }
            Err(failure) => Err(failure.into_error(format!("VM {node}"))),
        }
    }

    async fn poll_settling(&self, node: &NodeName) -> Result<CloudProgress> {
        let Some(machine) = self.ours(node).await? else {
            return Err(Error::not_found(format!("node {node}")));
        };
        match machine.state {
            State::Changing(state) => Ok(CloudProgress::Running {
                after: Some(self.options.poll_every),
                says: Some(format!("Azure says {state}")),
            }),
            State::Succeeded => Ok(CloudProgress::Done),
            State::Deleting => Err(Error::failed(format!("VM {node}"), "it is being removed")),
            State::Failed(refusal) => Err(refusal.into_error(format!("VM {node}"))),
        }
    }

    async fn poll_operation(&self, node: &NodeName, url: &str) -> Result<CloudProgress> {
        match self.client.operation(url).await? {
            Progress::Running { after } => Ok(CloudProgress::Running {
                after: after.or(Some(self.options.poll_every)),
                says: None,
            }),
            // What Azure has forgotten ended long ago; what became of it is seen by looking.
            Progress::Done | Progress::Gone => Ok(CloudProgress::Done),
            Progress::Failed(refusal) => Err(refusal.into_error(format!("VM {node}"))),
        }
    }

    /// Waits until a fence's operation has ended.
    async fn see_off(&self, node: &NodeName, url: &str) -> Result<()> {
        loop {
            match self.client.operation(url).await? {
                Progress::Running { after } => {
                    tokio::time::sleep(after.unwrap_or(self.options.poll_every)).await;
                }
                Progress::Done | Progress::Gone => return Ok(()),
                Progress::Failed(refusal) if refusal.is_preempted() => {
                    tokio::time::sleep(self.options.poll_every).await;
                    return Ok(());
                }
                Progress::Failed(refusal) => {
                    return Err(refusal.into_error(format!("fencing VM {node}")));
                }
            }
        }
    }

    /// Removes a node that was adopted from the platform: it is nobody's then, and goes on.
    async fn release(&self, machine: &Machine) -> Result<()> {
        let tags = machine.tags.clone();
        let ours = [tags::PLATFORM, tags::PLATFORM_ID, tags::NODE, tags::CREATED];
        let left = ours.iter().fold(tags, |tags, key| tags.without(key));
        let body = json!({ "tags": left.to_value() });
        self.client.patch(&machine.id, COMPUTE, &body).await
    }
}

fn public_address(resource: &Value) -> Option<IpAddr> {
    resource
        .pointer("/properties/ipAddress")?
        .as_str()?
        .parse()
        .ok()
}

#[async_trait]
impl CloudProvider for Azure {
    fn capabilities(&self) -> CloudCapabilities {
        CloudCapabilities {
            name: "azure",
            provisions: true,
            knows_host_keys: true,
            fences: true,
        }
    }

    async fn preflight(&self, wanted: &[NodeSpec]) -> Result<PreflightReport> {
        preflight::check(&self.options, &self.client, &self.compute, wanted).await
    }

    async fn list(&self) -> Result<Vec<ObservedNode>> {
        let mut machines = self.compute.list().await?;
        machines.retain(|machine| machine.tags.are_of(&self.options.owner));
        if machines.is_empty() {
            return Ok(Vec::new());
        }
        // Of the whole subscription, in two requests however many nodes there are.
        let of_network = |kind: &str| {
            let subscription = &self.options.subscription;
            format!("/subscriptions/{subscription}/providers/Microsoft.Network/{kind}")
        };
        let (interfaces, publics) = (
            of_network("networkInterfaces"),
            of_network("publicIPAddresses"),
        );
        let (interfaces, publics) = tokio::try_join!(
            self.client.list(&interfaces, NETWORK),
            self.client.list(&publics, NETWORK),
        )?;
        let by_id = |all: Vec<Value>| -> HashMap<String, Value> {
            let keyed = |one: Value| Some((one.get("id")?.as_str()?.to_lowercase(), one));
            all.into_iter().filter_map(keyed).collect()
        };
        let (interfaces, publics) = (by_id(interfaces), by_id(publics));
        let addresses = |machine: &Machine| {
            let interface = machine.interface.as_ref()?;
            let (private, public) = machine::addresses(interfaces.get(&interface.to_lowercase())?);
            let public = match public {
                Some(path) => public_address(publics.get(&path.to_lowercase())?),
                None => None,
            };
            Some(Addresses { private, public })
        };
        let mut nodes = Vec::with_capacity(machines.len());
        for machine in &machines {
            let addresses = match addresses(machine) {
                Some(addresses) => addresses,
                // Not in the lists, which Azure makes one after the other.
                None => self.addresses(machine).await?,
            };
            let node = self.observed(machine, addresses);
            nodes.push(node.ok_or_else(|| Error::Corrupt {
                what: format!("VM {} of this platform", machine.id),
                why: format!("neither its tag `{}` nor its name is a node's", tags::NODE),
            })?);
        }
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(nodes)
    }

    async fn get(&self, node: &NodeName) -> Result<Option<ObservedNode>> {
        let Some(machine) = self.machine(node).await? else {
            return Ok(None);
        };
        let addresses = self.addresses(&machine).await?;
        Ok(self.observed(&machine, addresses))
    }

    async fn adopt(&self, node: &NodeName) -> Result<ObservedNode> {
        let Some(machine) = self.machine(node).await? else {
            return Err(Error::not_found(format!("VM {node}")));
        };
        if !machine.tags.are_of(&self.options.owner) {
            if machine.tags.get(tags::PLATFORM_ID).is_some() {
                return Err(Error::Conflict {
                    what: format!("VM {node}"),
                    why: "it is another platform's node".to_owned(),
                });
            }
            let owner = &self.options.owner;
            let tags = machine
                .tags
                .clone()
                .with(tags::PLATFORM, owner.name.as_str())
                .with(tags::PLATFORM_ID, &owner.id.to_string())
                .with(tags::NODE, node.as_str())
                // Whatever a former platform has left there.
                .with(tags::CREATED, "no");
            let body = json!({ "tags": tags.to_value() });
            self.client.patch(&machine.id, COMPUTE, &body).await?;
        }
        let adopted = self.get(node).await?;
        adopted.ok_or_else(|| Error::not_found(format!("VM {node}")))
    }

    async fn begin(&self, change: NodeChange) -> Result<CloudOperation> {
        let token = match &change {
            NodeChange::Provision { spec } => self.begin_provision(spec).await?,
            NodeChange::Start { node } => {
                let runs = |machine: &Machine| machine.power() == Power::Running;
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
            NodeChange::Delete { node } => match self.ours(node).await? {
                Some(machine) if !machine.is_created() => {
                    self.release(&machine).await?;
                    Token::Nothing
                }
                _ => self.begin_action(node, Action::Delete, |_| false).await?,
            },
        };
        let token = serde_json::to_string(&token)
            .map_err(|error| Error::failed("writing a token", error.to_string()))?;
        Ok(CloudOperation { change, token })
    }

    async fn poll(&self, operation: &CloudOperation) -> Result<CloudProgress> {
        let token = serde_json::from_str(&operation.token).map_err(|error| Error::Corrupt {
            what: "the token of a change on Azure".to_owned(),
            why: error.to_string(),
        })?;
        match (&operation.change, token) {
            (_, Token::Nothing) => Ok(CloudProgress::Done),
            (change, Token::Settles) => self.poll_settling(change.node()).await,
            (NodeChange::Provision { spec }, Token::Provision { removes }) => {
                self.poll_provision(spec, removes.as_deref()).await
            }
            (change, Token::Operation { url }) => self.poll_operation(change.node(), &url).await,
            (change, Token::Provision { .. }) => Err(Error::Corrupt {
                what: "the token of a change on Azure".to_owned(),
                why: format!(
                    "it is of a provision, and the change is of {}",
                    change.node()
                ),
            }),
        }
    }

    async fn fence(&self, node: &NodeName) -> Result<Fenced> {
        let fence = async {
            while let Some(machine) = self.ours(node).await? {
                if machine.is_off() {
                    break;
                }
                // One that was never made cannot be powered off, but what it holds given back.
                let action = match machine.state {
                    State::Failed(_) if machine.never_ran() => Action::Deallocate,
                    _ => Action::PowerOff,
                };
                // Asked for once, and then waited for: each request begins it anew.
                let begun = self
                    .compute
                    .begin(machine.group(), &machine.name, action)
                    .await;
                match begun {
                    Ok(Some(url)) => self.see_off(node, &url).await?,
                    Ok(None) => tokio::time::sleep(self.options.poll_every).await,
                    Err(failure)
                        if failure
                            .refusal()
                            .is_some_and(|refusal| refusal.is_taken() || refusal.is_absent()) =>
                    {
                        tokio::time::sleep(self.options.poll_every).await;
                    }
                    Err(failure) => return Err(failure.into_error(format!("fencing VM {node}"))),
                }
            }
            Ok(Fenced {
                node: node.clone(),
                at: SystemClock.now(),
            })
        };
        tokio::time::timeout(FENCE, fence)
            .await
            .unwrap_or_else(|_| {
                Err(Error::TimedOut {
                    what: format!("fencing VM {node}"),
                    after: FENCE,
                })
            })
    }

    async fn delete_shared(&self) -> Result<()> {
        self.shared.remove().await
    }
}
