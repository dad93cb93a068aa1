//! The trait behind which a cloud lies: VMs that can be listed, made, switched and fenced.

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

pub use deadlines::{CloudDeadlines, Hearing};
pub use vm_api::{Vm, VmApi};
pub use vm_cloud::VmCloud;

/// What a provider can do.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says one thing, and they are independent"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudCapabilities {
    /// How the provider calls itself, for messages.
    pub name: &'static str,
    /// Whether it can make nodes; without it they must exist.
    pub provisions: bool,
    /// Whether it tells a new node's SSH host key, so that the first connection is checked.
    pub knows_host_keys: bool,
    /// Whether `fence` is possible.
    pub fences: bool,
    /// Whether `adopt` is possible.
    pub adopts: bool,
}

/// Whether a node is powered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// Being made or started.
    Starting,
    /// Running, as far as the cloud knows.
    Running,
    /// Being stopped or deleted.
    Stopping,
    /// Stopped.
    Stopped,
    /// The cloud made it, but says that it failed.
    Failed,
}

/// How the SSH server of a node is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshAddress {
    /// The account.
    pub user: String,
    /// The port.
    pub port: u16,
    /// The host's public keys in OpenSSH form, where the provider can say.
    pub host_keys: Vec<String>,
}

impl SshAddress {
    /// An account on SSH's own port of a host whose keys are not known.
    pub fn new(user: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            port: 22,
            host_keys: Vec::new(),
        }
    }
}

/// A node as the cloud sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedNode {
    /// The node's name.
    pub name: NodeName,
    /// The provider's own id of the machine.
    pub provider_id: String,
    /// Whether it runs.
    pub power: Power,
    /// Where it is reached.
    pub addresses: Addresses,
    /// How its SSH server is reached.
    pub ssh: SshAddress,
    /// Changes at each boot; opaque. `None` while it does not run.
    pub boot_id: Option<String>,
    /// Whether we made it, and so may delete it.
    pub created: bool,
}

/// A change to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum NodeChange {
    /// Make it, if it does not exist.
    Provision {
        /// What is wanted.
        spec: NodeSpec,
    },
    /// Start it, if it is stopped.
    Start {
        /// Which one.
        node: NodeName,
    },
    /// Stop it, if it runs.
    Stop {
        /// Which one.
        node: NodeName,
    },
    /// Restart it, if it still is in this boot.
    Restart {
        /// Which one.
        node: NodeName,
        /// The boot that is to end.
        boot_id: String,
    },
    /// Delete it with all that belongs to it.
    Delete {
        /// Which one.
        node: NodeName,
    },
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

/// A change under way; stored, so that a new process can go on asking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudOperation {
    /// What was begun.
    pub change: NodeChange,
    /// The provider's own token.
    pub token: String,
}

/// How far a change is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloudProgress {
    /// Ask again, not before `after` where the cloud says so.
    Running {
        /// How long to wait before asking again.
        after: Option<Duration>,
        /// What the cloud says, for the user.
        says: Option<String>,
    },
    /// Done.
    Done,
}

/// What was found wrong before anything was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PreflightReport {
    /// Each problem in one sentence, with a hint.
    pub problems: Vec<String>,
    /// What will be otherwise than was wished first, each in one sentence.
    pub remarks: Vec<String>,
    /// How long the nodes that do not exist yet will take, made beside each other; none where
    /// that cannot be said, or all exist.
    pub predicted: Option<Duration>,
}

/// Proof that a node could not run at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fenced {
    /// The node.
    pub node: NodeName,
    /// When the cloud said so.
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
/// `Power::Running` says nothing about the operating system: its SSH server may not answer yet.
///
/// # Errors
/// Throttling is [`crate::Error::Throttled`] with the cloud's own delay; a quota or a missing
/// size is [`crate::Error::Exhausted`]; implementers do not retry by themselves.
#[async_trait]
pub trait CloudProvider: Debug + Send + Sync + 'static {
    /// What this provider can do.
    fn capabilities(&self) -> CloudCapabilities;

    /// Checks in seconds, changing nothing, whether `wanted` can be had.
    async fn preflight(&self, wanted: &[NodeSpec]) -> Result<PreflightReport>;

    /// All nodes that carry the platform's id, in the order of their names.
    async fn list(&self) -> Result<Vec<ObservedNode>>;

    /// One machine by its name: a node of this platform, or else a machine of no platform.
    async fn get(&self, node: &NodeName) -> Result<Option<ObservedNode>>;

    /// Makes a machine of no platform a node of this one, which `Delete` releases and does not
    /// delete.
    async fn adopt(&self, node: &NodeName) -> Result<ObservedNode>;

    /// Begins a change and returns once the cloud has accepted it.
    async fn begin(&self, change: NodeChange) -> Result<CloudOperation>;

    /// Asks how far a change is. A change that failed is an error.
    async fn poll(&self, operation: &CloudOperation) -> Result<CloudProgress>;

    /// Makes sure that the node does not run, and returns only when the cloud says so.
    async fn fence(&self, node: &NodeName) -> Result<Fenced>;

    /// Deletes what the platform's nodes share (a network, a resource group), once no node is left
    /// that it created: until then it is a `Conflict`. Absent is Ok.
    async fn delete_shared(&self) -> Result<()>;
}

/// Begins a change and asks until it is done, as often as the cloud wants to be asked.
///
/// A question that cannot be answered just now is asked again; a change that failed is its
/// error. What is not done after `deadline` goes on in the cloud: the same call takes it up.
///
/// # Errors
/// [`crate::Error::Overdue`] after the deadline, with what the cloud said last.
pub async fn carry_out(
    provider: &dyn CloudProvider,
    change: NodeChange,
    deadline: Duration,
) -> Result<()> {
    carry_out_with_progress(provider, change, deadline, &|_| ()).await
}

/// The same; what the cloud says meanwhile goes to `tell`, which must not block.
///
/// # Errors
/// Those of [`carry_out`].
pub async fn carry_out_with_progress(
    provider: &dyn CloudProvider,
    change: NodeChange,
    deadline: Duration,
    tell: &(dyn for<'a> Fn(&'a str) + Send + Sync),
) -> Result<()> {
    let hearing = Hearing::new(tell);
    let work = async {
        let operation = provider.begin(change.clone()).await?;
        hearing.see_through(provider, &operation).await
    };
    hearing.within(deadline, &change, work).await
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;
    use crate::error::Error;

    /// Answers polls as it was told to.
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
                says: None,
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
    async fn the_clouds_own_delays_are_kept() {
        let (outcome, took) = run(vec![
            Ok(CloudProgress::Running {
                after: Some(Duration::from_secs(7)),
                says: None,
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
    async fn a_change_that_failed_is_its_error_and_one_without_end_is_given_up() {
        let (outcome, _) = run(vec![Err(Error::failed("it", "no capacity"))]).await;
        assert!(matches!(outcome, Err(Error::Failed { .. })), "{outcome:?}");
        let (outcome, took) = run(vec![Ok(CloudProgress::Running {
            after: None,
            says: Some("it updates".into()),
        })])
        .await;
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::Overdue { .. }), "{error:?}");
        assert_eq!(
            error.chain(),
            "starting node n1 did not end within 1m; the cloud last said: it updates"
        );
        assert!(error.hint().unwrap().contains("cloud.deadlines.start"));
        assert_eq!(took.as_secs(), 60);
    }
}
