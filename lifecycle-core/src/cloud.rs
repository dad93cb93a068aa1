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
    /// Whether it can create nodes; otherwise they must exist.
    pub provisions: bool,
    /// Whether it reports the SSH host keys of new nodes, so that the first connection is verified.
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
    /// An account on the default SSH port of a host whose keys are not known.
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
    /// An opaque value that changes at each boot. `None` while it is not running.
    pub boot_id: Option<String>,
    /// Whether this platform created it, so that it may be deleted.
    pub created: bool,
}

/// A change to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum NodeChange {
    /// Create it, if it does not exist.
    Provision { spec: NodeSpec },
    /// Start it, if it is stopped.
    Start { node: NodeName },
    /// Stop it, if it is running.
    Stop { node: NodeName },
    /// Restart it, if it is still in this boot.
    Restart {
        node: NodeName,
        /// The boot that is replaced.
        boot_id: String,
    },
    /// Delete it with all its resources.
    Delete { node: NodeName },
}

impl NodeChange {
    /// The node that is changed.
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
/// The columns are the state of the node when the change begins. "Done" is an operation that
/// changes nothing and ends well.
///
/// | change | absent | running | stopped | failed¹ | another change under way² |
/// |---|---|---|---|---|---|
/// | `Provision` | is created, and runs | done | done; it stays stopped | is created again | `Conflict`, or waits |
/// | `Start` | `NotFound` | done | runs, in a new boot | – | `Conflict`, or waits |
/// | `Stop` | `NotFound` | is stopped | done | – | `Conflict`, or waits |
/// | `Restart` | `NotFound` | runs in a new boot if it still is in the given one; otherwise done | done³ | – | `Conflict`, or waits |
/// | `Delete` | done | is deleted | is deleted | is deleted | takes over: the node is deleted |
/// | `fence` | holds | is off when the call returns | holds | holds | takes over: the node is off |
/// | `adopt` | `NotFound` | returns it, unchanged | returns it, unchanged | – | – |
///
/// ¹ `Power::Failed`: the cloud could not create it. Power changes of it may fail.
///
/// ² The same change, or another `Provision` of the node, joins the one under way: it happens
/// once, and both operations end with it. Any other change never overwrites the one under way,
/// which comes to its own end. `Start`, `Stop` and `Restart` of a node that is being deleted fail.
/// A change that `Delete` or `fence` took over is an error when it is polled, or done, and has no
/// effect any more.
///
/// ³ If the given boot was its last one, the node may be started: a restart can break off between
/// its two halves.
///
/// Machines that this platform did not create:
///
/// | change | adopted by this platform | no platform's | another platform's |
/// |---|---|---|---|
/// | `Provision` | done | `Conflict` | as if absent: both have a node of this name |
/// | `Start`, `Stop`, `Restart` | as any node | `Conflict` | `NotFound` |
/// | `Delete` | is released: no platform's again, otherwise unchanged | `Conflict` | done |
/// | `fence` | as any node | `Conflict` | holds |
/// | `adopt` | returns it, unchanged | becomes this platform's, otherwise unchanged | `NotFound` |
/// | `list` | shows it, not `created` | does not show it | does not show it |
/// | `get` | shows it, not `created` | shows it, not `created` | is `None` |
///
/// Nothing in these tables changes a machine of another platform. Without
/// [`adopts`](CloudCapabilities::adopts) a machine is never adopted, and `adopt` of what is not a
/// node of this platform is `Unsupported`.
///
/// # Guarantees
/// - Every call may be repeated: same node, same thing.
/// - Whatever is created carries the platform's id from the beginning, so that a crash at any
///   moment leaves nothing that `list` does not show.
/// - `list` is complete or an error, never partial, and shows nodes of this platform only.
/// - A future that is dropped leaves a state from which the same call goes on.
/// - Any process can poll an operation that another one began, also when that one is gone.
///
/// # Caveats
/// `Power::Running` is independent of the operating system, whose SSH server may not answer yet.
///
/// # Errors
/// Throttling is [`crate::Error::Throttled`] with the cloud's own delay; a quota or a missing
/// size is [`crate::Error::Exhausted`]; implementers do not retry by themselves.
#[async_trait]
pub trait CloudProvider: Debug + Send + Sync + 'static {
    /// The capabilities of this provider.
    fn capabilities(&self) -> CloudCapabilities;

    /// Checks within seconds, without changing anything, whether the nodes can be created.
    async fn preflight(&self, specs: &[NodeSpec]) -> Result<PreflightReport>;

    /// All nodes with the platform's id, sorted by name.
    async fn list(&self) -> Result<Vec<ObservedNode>>;

    /// A machine by its name: a node of this platform, or else a machine without a platform.
    async fn get(&self, node: &NodeName) -> Result<Option<ObservedNode>>;

    /// Makes a machine without a platform a node of this one. `Delete` releases it and does not
    /// delete it.
    async fn adopt(&self, node: &NodeName) -> Result<ObservedNode>;

    /// Starts a change and returns when the cloud has accepted it.
    async fn begin(&self, change: NodeChange) -> Result<CloudOperation>;

    /// Returns the progress of a change. A failed change is an error.
    async fn poll(&self, operation: &CloudOperation) -> Result<CloudProgress>;

    /// Ensures that the node is not running; returns when the cloud confirms it.
    async fn fence(&self, node: &NodeName) -> Result<Fenced>;

    /// Deletes what the platform's nodes share (a network, a resource group). Returns `Conflict`
    /// while a node that the platform created exists. Ok if nothing exists.
    async fn delete_shared(&self) -> Result<()>;
}

/// Starts a change and polls it until it is done, at the interval that the cloud requests.
///
/// A failed poll is retried if it may succeed later; a failed change returns its error. After
/// `deadline`, the change continues in the cloud; the same call resumes it.
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
            "starting node n1 did not end within 1m; the cloud last reported: it updates"
        );
        assert!(error.hint().unwrap().contains("cloud.deadlines.start"));
        assert_eq!(took.as_secs(), 60);
    }
}
