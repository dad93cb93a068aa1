//! The trait for clouds: listing, creating, starting, stopping and fencing VMs.

mod deadlines;
mod vm_api;
mod vm_cloud;

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::model::{Addresses, NodeName, NodeSpec};

pub use deadlines::{CloudDeadlines, ProgressListener};
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
    /// Whether the provider can create nodes; if not, they must exist already.
    pub provisions: bool,
    /// Whether the provider reports the SSH host keys of new nodes, so that the first connection is
    /// verified.
    pub knows_host_keys: bool,
    /// Whether `fence` is supported.
    pub fences: bool,
    /// Whether `adopt` is supported.
    pub adopts: bool,
}

/// The power state of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// Being created or started.
    Starting,
    /// Running, as far as the cloud knows.
    Running,
    /// Being stopped or deleted.
    Stopping,
    Stopped,
    /// The cloud reports that creating it failed.
    Failed,
}

/// How to reach the SSH server of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshAddress {
    pub user: String,
    pub port: u16,
    /// The public host keys in OpenSSH format, if the provider reports them.
    pub host_keys: Vec<String>,
}

impl SshAddress {
    /// Creates the address of an account on a host that uses the default SSH port and whose keys
    /// are not known.
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
    /// Whether this platform created the node, so that it may be deleted.
    pub created: bool,
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
    /// Restart the node, if it is still in this boot.
    Restart {
        node: NodeName,
        /// The boot that is replaced.
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

/// A change in progress. It is stored, so that a new process can continue polling it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudOperation {
    pub change: NodeChange,
    /// The provider's token.
    pub token: String,
}

/// The progress of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloudProgress {
    /// Poll again, but not before `after`.
    Running {
        /// The delay that the cloud requests.
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
    /// Where the result will differ from the first choice, each in one sentence.
    pub remarks: Vec<String>,
    /// How long creating the missing nodes in parallel will take; `None` if unknown or if all
    /// exist.
    pub predicted: Option<Duration>,
}

/// Proof that a node was not running at this time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fenced {
    pub node: NodeName,
    /// When the cloud confirmed it.
    pub at: DateTime<Utc>,
}

/// A cloud account that holds the nodes of one platform.
///
/// [`VmCloud`] implements this trait over a simpler one, [`VmApi`], whose calls return when the
/// cloud has finished; `conformance::cloud::all` checks an implementation (feature `conformance`).
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
/// ¹ `Power::Failed`: the cloud could not create the node. Power changes of such a node may fail.
///
/// ² The same change, or another `Provision` of the node, joins the change in progress: it happens
/// once, and both operations end with it. Any other change leaves the change in progress to
/// complete normally. `Start`, `Stop` and `Restart` fail for a node that is being deleted. A change
/// that `Delete` or `fence` replaced has no further effect; polling it returns an error, or that it
/// is done.
///
/// ³ If the given boot was the node's last one, the node may be started, because an interrupted
/// restart may have stopped the node without starting it.
///
/// Machines that this platform did not create:
///
/// | change | adopted by this platform | belongs to no platform | belongs to another platform |
/// |---|---|---|---|
/// | `Provision` | done | `Conflict` | as if absent: both platforms have a node of this name |
/// | `Start`, `Stop`, `Restart` | as for any node | `Conflict` | `NotFound` |
/// | `Delete` | releases it: it belongs to no platform again, and is otherwise unchanged | `Conflict` | done |
/// | `fence` | as for any node | `Conflict` | done |
/// | `adopt` | returns it, unchanged | assigns it to this platform, otherwise unchanged | `NotFound` |
/// | `list` | contains it, not as `created` | does not contain it | does not contain it |
/// | `get` | returns it, not as `created` | returns it, not as `created` | returns `None` |
///
/// No call in these tables changes a machine of another platform. Without
/// [`adopts`](CloudCapabilities::adopts), machines are never adopted, and `adopt` of a machine that
/// is not a node of this platform is `Unsupported`.
///
/// # Guarantees
/// - Every call may be repeated: a second call for the same node has no further effect.
/// - Everything that is created has the platform's id from the beginning, so that `list` shows it
///   even after a crash.
/// - `list` returns all nodes of this platform and no others, or an error; never a part of the
///   nodes.
/// - If a future is dropped, the same call can continue the change.
/// - Any process can poll an operation that another process started, even if that process has
///   ended.
///
/// # Caveats
/// `Power::Running` shows only that the machine is on; the SSH server of its operating system may
/// not answer yet.
///
/// # Errors
/// Throttling is [`crate::Error::Throttled`] with the delay that the cloud requests; an exceeded
/// quota or an unavailable size is [`crate::Error::Exhausted`]. Implementations do not retry by
/// themselves.
#[async_trait]
pub trait CloudProvider: Debug + Send + Sync + 'static {
    /// Returns the capabilities of this provider.
    fn capabilities(&self) -> CloudCapabilities;

    /// Checks within seconds, without changing anything, whether the nodes can be created.
    async fn preflight(&self, specs: &[NodeSpec]) -> Result<PreflightReport>;

    /// Returns all nodes with the platform's id, sorted by name.
    async fn list(&self) -> Result<Vec<ObservedNode>>;

    /// Returns a machine by its name: a node of this platform, or else a machine that belongs to no
    /// platform.
    async fn get(&self, node: &NodeName) -> Result<Option<ObservedNode>>;

    /// Makes a machine that belongs to no platform a node of this platform. `Delete` later releases
    /// the machine and does not delete it.
    async fn adopt(&self, node: &NodeName) -> Result<ObservedNode>;

    /// Starts a change and returns when the cloud has accepted it.
    async fn begin(&self, change: NodeChange) -> Result<CloudOperation>;

    /// Returns the progress of a change. A failed change is an error.
    async fn poll(&self, operation: &CloudOperation) -> Result<CloudProgress>;

    /// Ensures that the node is not running; returns when the cloud confirms it.
    async fn fence(&self, node: &NodeName) -> Result<Fenced>;

    /// Deletes the resources that the platform's nodes share (a network, a resource group). Returns
    /// `Conflict` while a node that the platform created exists, and Ok if nothing exists.
    async fn delete_shared(&self) -> Result<()>;
}

/// Starts a change and polls it until it is done, at the interval that the cloud requests.
///
/// A failed poll is retried if it may succeed later; if the change fails, its error is returned.
/// After `deadline`, the change continues in the cloud; the same call resumes polling it.
///
/// # Errors
/// [`crate::Error::Overdue`] after the deadline, with the last message of the cloud.
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
/// Those of [`carry_out`].
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
    use crate::error::Error;

    /// Answers polls from a script.
    #[derive(Debug)]
    struct Scripted(Mutex<VecDeque<Result<CloudProgress>>>);

    #[async_trait]
    impl CloudProvider for Scripted {
        fn capabilities(&self) -> CloudCapabilities {
            CloudCapabilities {
                name: "script",
                provisions: true,
                knows_host_keys: false,
                fences: false,
                adopts: false,
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
