//! Defines the trait for clouds. It lists, creates, starts, stops, deletes and fences VMs.

mod deadlines;
mod machine;
mod vm_api;
mod vm_cloud;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::{Addresses, NodeName, NodeSpec, PublicPort, PublicPorts};

pub use deadlines::{CloudDeadlines, ProgressListener};
pub use machine::{AdoptedMachine, AdoptionState, MachineLogin, MachineSpec};
pub use vm_api::{Vm, VmApi};
pub use vm_cloud::VmCloud;

/// The capabilities of a provider.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudCapabilities {
    /// The provider's name, for messages.
    pub name: &'static str,
    /// Whether the provider can create nodes. If not, every declared node must exist beforehand.
    pub provisions: bool,
    /// Whether the provider can start and stop nodes. If not, such a change of a node returns
    /// `Unsupported` unless the node already is in the requested state.
    pub powers: bool,
    /// Whether the provider reports the SSH host keys of new nodes. If so, even the first
    /// connection to a node is verified.
    pub knows_host_keys: bool,
    /// Whether [`CloudProvider::fence`] is supported.
    pub fences: bool,
    /// Whether [`CloudProvider::adopt`] is supported.
    pub adopts: bool,
    /// The firewall between the nodes and the outside.
    pub firewall: Firewall,
}

/// The firewall that blocks traffic to the nodes from outside their network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firewall {
    /// A firewall of the cloud, in which [`CloudProvider::set_public_ports`] opens ports.
    Managed,
    /// Nothing: a published port is reachable by everyone who can reach the node's address.
    Absent,
    /// Unknown to the provider, which can neither observe nor change it.
    External,
}

/// The ports of a node that the cloud's firewall opens for this platform. Empty unless the firewall
/// is [`Firewall::Managed`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPorts {
    /// The ports that are reachable from everywhere, unless a foreign rule denies the traffic.
    #[serde(default, skip_serializing_if = "PublicPorts::is_empty")]
    pub open: PublicPorts,
    /// The ports that have some, but not all of the rules that they need, and the ports of rules
    /// that are no longer correct, for example because the node's address has changed.
    #[serde(default, skip_serializing_if = "PublicPorts::is_empty")]
    pub partly: PublicPorts,
}

impl OpenPorts {
    fn is_empty(&self) -> bool {
        self.open.is_empty() && self.partly.is_empty()
    }

    /// Returns whether exactly these ports are open.
    pub fn are(&self, ports: &PublicPorts) -> bool {
        self.open == *ports && self.partly.is_empty()
    }

    /// Returns whether a port may be reachable from outside.
    pub fn may_contain(&self, port: &PublicPort) -> bool {
        self.open.0.contains(port) || self.partly.0.contains(port)
    }
}

/// The power state of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// The node is being created or started.
    Starting,
    /// The node is running, as far as the cloud knows.
    Running,
    /// The node is being stopped or deleted.
    Stopping,
    Stopped,
    /// The cloud reports that it could not create the node.
    Failed,
}

/// The account, port and host keys for SSH connections to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshAddress {
    pub user: String,
    pub port: u16,
    /// The public host keys in OpenSSH format, if the provider reports them.
    pub host_keys: Vec<String>,
}

impl SshAddress {
    /// Creates an address with the default SSH port and without host keys.
    pub fn new(user: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            port: 22,
            host_keys: Vec::new(),
        }
    }
}

/// A node as the cloud reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedNode {
    pub name: NodeName,
    /// The provider's id of the machine.
    pub provider_id: String,
    pub power: Power,
    pub addresses: Addresses,
    pub ssh: SshAddress,
    /// An opaque value that changes at each boot. `None` while the node is not running.
    pub boot_id: Option<String>,
    /// Whether this platform created the node. Only such a node may be deleted.
    pub created: bool,
    /// The ports that the cloud's firewall opens for this platform.
    #[serde(default, skip_serializing_if = "OpenPorts::is_empty")]
    pub open_ports: OpenPorts,
}

/// A change to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum NodeChange {
    /// Create the node, if it does not exist.
    Provision { spec: NodeSpec },
    /// Start the node, if it is stopped.
    Start { node: NodeName },
    /// Stop the node, if it is running.
    Stop { node: NodeName },
    /// Restart the node, if `boot_id` is still its current boot.
    Restart {
        node: NodeName,
        /// The boot that the restart ends.
        boot_id: String,
    },
    /// Delete the node with all its resources.
    Delete { node: NodeName },
}

impl NodeChange {
    /// Returns the node that is changed.
    pub fn node(&self) -> &NodeName {
        match self {
            Self::Provision { spec } => &spec.name,
            Self::Start { node }
            | Self::Stop { node }
            | Self::Restart { node, .. }
            | Self::Delete { node } => node,
        }
    }
}

/// A change in progress. The manager stores this value, so that another process can continue to
/// poll the change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudOperation {
    pub change: NodeChange,
    /// The provider's own data, with which it recognizes the change.
    pub token: String,
}

/// The progress of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloudProgress {
    /// The change is in progress. Poll again after the requested delay.
    Running {
        /// The delay before the next poll, if the cloud requests one.
        after: Option<Duration>,
        /// The state that the cloud reports, for the user.
        message: Option<String>,
    },
    Done,
}

/// The result of checking a declaration before anything is created.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PreflightReport {
    /// Each problem in one sentence, with a hint.
    pub problems: Vec<String>,
    /// The differences between the result and the first choices in the declaration, each in one
    /// sentence.
    pub remarks: Vec<String>,
    /// How long creating the missing nodes in parallel will take. `None` if this is unknown or if
    /// no nodes are missing.
    pub predicted: Option<Duration>,
}

/// Confirms that a node was not running at a certain time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fenced {
    pub node: NodeName,
    /// When the cloud confirmed that the node was not running.
    pub at: DateTime<Utc>,
}

/// A cloud account that holds the nodes of one platform.
///
/// For many clouds, it is easier to implement the smaller trait [`VmApi`]; [`VmCloud`] then
/// implements this trait. `conformance::cloud::all` (feature `conformance`) checks an
/// implementation.
///
/// # What each change does in each state
/// The columns are the states of the node when the change begins. "Done" means that the change
/// succeeds without an effect.
///
/// | change | absent | running | stopped | failed¹ | another change in progress² |
/// |---|---|---|---|---|---|
/// | `Provision` | creates and starts the node | done | done; the node stays stopped | creates the node again | `Conflict`, or waits |
/// | `Start` | `NotFound` | done | starts the node, in a new boot | – | `Conflict`, or waits |
/// | `Stop` | `NotFound` | stops the node | done | – | `Conflict`, or waits |
/// | `Restart` | `NotFound` | restarts the node if it is still in the given boot; otherwise done | done³ | – | `Conflict`, or waits |
/// | `Delete` | done | deletes the node | deletes the node | deletes the node | replaces the other change: the node is deleted |
/// | `fence` | done | the node is off when the call returns | done | done | replaces the other change: the node is off |
/// | `adopt` | `NotFound` | returns it, unchanged | returns it, unchanged | – | – |
///
/// ¹ `Power::Failed`: the cloud could not create the node. `Start`, `Stop` and `Restart` may fail
/// for such a node.
///
/// ² The same change, or another `Provision` of the node, joins the change in progress: the change
/// happens once, and both operations end with it. A request for any other change, except `Delete`
/// and `fence`, does not affect the change in progress. `Start`, `Stop` and `Restart` fail for a
/// node that is being deleted. A change that `Delete` or `fence` replaced has no further effect.
/// Polling such a change returns an error or `Done`.
///
/// ³ An interrupted restart may have stopped the node without starting it again. Therefore,
/// `Restart` may start the node if the given boot was its last one.
///
/// The following table applies to machines that this platform did not create:
///
/// | change | adopted by this platform | belongs to no platform | belongs to another platform |
/// |---|---|---|---|
/// | `Provision` | done | `Conflict` | as if absent: both platforms have a node of this name |
/// | `Start`, `Stop`, `Restart` | as for any node | `Conflict` | `NotFound` |
/// | `Delete` | releases it: it then belongs to no platform, and is otherwise unchanged | `Conflict` | done |
/// | `fence` | as for any node | `Conflict` | done |
/// | `adopt` | returns it, unchanged | assigns it to this platform, otherwise unchanged | `NotFound` |
/// | `list` | contains it, with `created` false | does not contain it | does not contain it |
/// | `get` | returns it, with `created` false | returns it, with `created` false | returns `None` |
///
/// No call in these tables changes a machine of another platform. Without
/// [`adopts`](CloudCapabilities::adopts), `adopt` returns `Unsupported` for a machine that is not a
/// node of this platform.
///
/// # Guarantees
/// - Every call may be repeated: a second call for the same node has no further effect.
/// - Every created resource has the platform's id from the beginning, so that `list` shows a node
///   even after a crash during its creation.
/// - `list` returns exactly the nodes of this platform, or an error. It never returns an incomplete
///   list.
/// - If a future is dropped, repeating the call continues the change.
/// - Any process can poll an operation that another process started, even if that process has
///   ended.
///
/// # Caveats
/// `Power::Running` means only that the machine is on. Its SSH server may not answer yet.
///
/// # Errors
/// - [`crate::Error::Throttled`] if the cloud receives too many requests, with the delay that the
///   cloud requests. Implementations do not retry requests themselves.
/// - [`crate::Error::Exhausted`] if a quota is exceeded or a size is unavailable.
#[async_trait]
pub trait CloudProvider: Debug + Send + Sync + 'static {
    /// Returns the capabilities of this provider.
    fn capabilities(&self) -> CloudCapabilities;

    /// Checks within seconds, without changing anything, whether the nodes can be created.
    async fn preflight(&self, specs: &[NodeSpec]) -> Result<PreflightReport>;

    /// Returns all nodes with the platform's id, sorted by name.
    async fn list(&self) -> Result<Vec<ObservedNode>>;

    /// Returns the node of this platform with this name. If there is none, returns the machine with
    /// this name that belongs to no platform.
    async fn get(&self, node: &NodeName) -> Result<Option<ObservedNode>>;

    /// Makes an existing machine a node of this platform. The machine must not belong to another
    /// platform. `Delete` later releases the machine and does not delete it.
    async fn adopt(&self, node: &NodeName) -> Result<ObservedNode>;

    /// Starts a change, and returns when the cloud has accepted the change.
    async fn begin(&self, change: NodeChange) -> Result<CloudOperation>;

    /// Returns the progress of a change, or an error if the change has failed.
    async fn poll(&self, operation: &CloudOperation) -> Result<CloudProgress>;

    /// Stops the node in any state, and returns when the cloud confirms that it is not running.
    async fn fence(&self, node: &NodeName) -> Result<Fenced>;

    /// Makes exactly these ports of a node of this platform reachable from outside, and closes all
    /// other ports that this platform has opened. The call changes neither ports that others have
    /// opened nor those of other nodes, except that it may close ports of nodes that no longer
    /// exist. Returns when the change is complete; `list` and `get` then return the ports as
    /// [`ObservedNode::open_ports`]. An interrupted call is completed by repeating it.
    ///
    /// `Delete` closes all ports of the node, also when it releases an adopted machine.
    ///
    /// Returns `Unsupported` unless the firewall is [`Firewall::Managed`], and `NotFound` if the
    /// platform has no such node.
    async fn set_public_ports(&self, node: &NodeName, ports: &PublicPorts) -> Result<()> {
        let _ = ports;
        Err(Error::Unsupported {
            what: format!("opening ports of node {node}"),
            backend: self.capabilities().name.into(),
        })
    }

    /// Sets the machines that were adopted at run time. They are nodes in addition to those that the
    /// provider has been created with, and replace those of an earlier call. A provider that cannot take
    /// machines over never gets any.
    fn set_adopted_machines(&self, machines: &BTreeMap<NodeName, AdoptedMachine>) {
        let _ = machines;
    }

    /// Logs in to a machine that is to become this node, and changes nothing. Returns the machine with
    /// the host keys of this connection. Without host keys in `machine`, the offered key is trusted.
    ///
    /// Returns `Unsupported` if the provider cannot take machines over at run time, and `Conflict` if the
    /// machine belongs to another platform or is another node.
    async fn check_machine(
        &self,
        node: &NodeName,
        machine: &MachineSpec,
        login: &MachineLogin,
    ) -> Result<MachineSpec> {
        let _ = (machine, login);
        Err(Error::Unsupported {
            what: format!("adopting a machine as node {node} at run time"),
            backend: self.capabilities().name.into(),
        })
    }

    /// Takes a machine over as this node, with the host keys that [`Self::check_machine`] returned.
    /// Succeeds without an effect if the platform has taken it over before. If the error is final, the
    /// machine does not belong to the platform; otherwise, it may, and a repeated call continues.
    async fn take_over_machine(
        &self,
        node: &NodeName,
        machine: &MachineSpec,
        login: &MachineLogin,
    ) -> Result<()> {
        self.check_machine(node, machine, login).await.map(drop)
    }

    /// Deletes the resources that the platform's nodes share (a network, a resource group). Fails
    /// with `Conflict` while a node that the platform created exists. Succeeds if there are no such
    /// resources.
    async fn delete_shared(&self) -> Result<()>;
}

/// Starts a change and polls it until it is done, at the interval that the cloud requests.
///
/// Repeats a failed poll if it may succeed later. After `deadline`, the change continues in the
/// cloud, and the same call resumes polling the change.
///
/// # Errors
/// The error of a failed change, or [`crate::Error::Overdue`] after the deadline, with the last
/// message of the cloud.
pub async fn carry_out(
    provider: &dyn CloudProvider,
    change: NodeChange,
    deadline: Duration,
) -> Result<()> {
    carry_out_with_progress(provider, change, deadline, &|_| ()).await
}

/// Like [`carry_out`], but passes messages of the cloud to `report`, which must not block.
///
/// # Errors
/// The same as for [`carry_out`].
pub async fn carry_out_with_progress(
    provider: &dyn CloudProvider,
    change: NodeChange,
    deadline: Duration,
    report: &(dyn for<'a> Fn(&'a str) + Send + Sync),
) -> Result<()> {
    let listener = ProgressListener::new(report);
    let work = async {
        let operation = provider.begin(change.clone()).await?;
        listener.poll_to_end(provider, &operation).await
    };
    listener.within(deadline, &change, work).await
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;

    /// Answers polls with prepared results, in order.
    #[derive(Debug)]
    struct Scripted(Mutex<VecDeque<Result<CloudProgress>>>);

    #[async_trait]
    impl CloudProvider for Scripted {
        fn capabilities(&self) -> CloudCapabilities {
            CloudCapabilities {
                name: "script",
                provisions: true,
                powers: true,
                knows_host_keys: false,
                fences: false,
                adopts: false,
                firewall: Firewall::Absent,
            }
        }
        async fn preflight(&self, _: &[NodeSpec]) -> Result<PreflightReport> {
            Ok(PreflightReport::default())
        }
        async fn list(&self) -> Result<Vec<ObservedNode>> {
            Ok(Vec::new())
        }
        async fn get(&self, _: &NodeName) -> Result<Option<ObservedNode>> {
            Ok(None)
        }
        async fn adopt(&self, node: &NodeName) -> Result<ObservedNode> {
            Err(Error::not_found(node.to_string()))
        }
        async fn begin(&self, change: NodeChange) -> Result<CloudOperation> {
            Ok(CloudOperation {
                change,
                token: String::new(),
            })
        }
        async fn poll(&self, _: &CloudOperation) -> Result<CloudProgress> {
            let next = self.0.lock().unwrap().pop_front();
            next.unwrap_or(Ok(CloudProgress::Running {
                after: None,
                message: None,
            }))
        }
        async fn fence(&self, node: &NodeName) -> Result<Fenced> {
            Err(Error::not_found(node.to_string()))
        }
        async fn delete_shared(&self) -> Result<()> {
            Ok(())
        }
    }

    async fn run(answers: Vec<Result<CloudProgress>>) -> (Result<()>, Duration) {
        let cloud = Scripted(Mutex::new(answers.into()));
        let node = NodeName::try_from("n1").unwrap();
        let since = tokio::time::Instant::now();
        let change = NodeChange::Start { node };
        let outcome = carry_out(&cloud, change, Duration::from_mins(1)).await;
        (outcome, since.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn polls_at_the_interval_that_the_cloud_requests() {
        let (outcome, took) = run(vec![
            Ok(CloudProgress::Running {
                after: Some(Duration::from_secs(7)),
                message: None,
            }),
            Err(Error::Throttled {
                what: "reads".into(),
                after: Some(Duration::from_secs(20)),
            }),
            Ok(CloudProgress::Done),
        ])
        .await;
        outcome.unwrap();
        assert_eq!(took.as_secs(), 27);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_change_returns_its_error_and_an_endless_one_times_out() {
        let (outcome, _) = run(vec![Err(Error::failed("it", "no capacity"))]).await;
        assert!(matches!(outcome, Err(Error::Failed { .. })), "{outcome:?}");
        let (outcome, took) = run(vec![Ok(CloudProgress::Running {
            after: None,
            message: Some("it updates".into()),
        })])
        .await;
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::Overdue { .. }), "{error:?}");
        assert_eq!(
            error.chain(),
            "starting node n1 did not complete within 1m; the cloud last reported: it updates"
        );
        assert!(error.hint().unwrap().contains("cloud.deadlines.start"));
        assert_eq!(took.as_secs(), 60);
    }
}
