//! The conformance suite for [`CloudProvider`]. The checks cover every cell of the tables in the
//! trait's documentation. Each check creates the nodes that it needs, and deletes them afterwards.
//!
//! - `states`: changes of a node in each state.
//! - `public_ports`: ports that are reachable from outside.
//! - `under_way`: changes of a node while another change is in progress.
//! - `owners`: machines of other platforms, machines without a platform, and adopted machines.

mod owners;
mod public_ports;
mod states;
mod under_way;

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use super::{Checked, Failed, done, ensure, ensure_eq, run_checks};
use crate::cloud::{
    CloudOperation, CloudProvider, NodeChange, ObservedNode, Power, ProgressListener, carry_out,
};
use crate::error::{Error, Result};
use crate::model::{NodeName, NodeSpec};

pub use owners::{an_adopted_machine_is_released_and_never_deleted, platforms_are_separate};
pub use public_ports::public_ports_are_opened_and_closed;
pub use states::{
    a_failed_node_is_created_again, a_running_node, a_stopped_node, an_absent_node,
    an_undeclared_node, list_is_complete_and_shows_only_this_platform,
    preflight_reports_no_problems, provision_is_idempotent, shared_resources_are_deleted_last,
};
pub use under_way::{
    a_cancelled_change_can_be_repeated, a_change_in_progress_is_not_overwritten,
    a_fence_replaces_a_change_in_progress, another_process_can_poll,
};

/// The time limit of one change.
const DEADLINE: Duration = Duration::from_mins(15);

/// A test setup: a cloud account for two platforms, with additional functions for the checks.
#[async_trait]
pub trait CloudBench: Debug + Send + Sync {
    /// Creates a provider for the platform under test. Two providers share only the state of the
    /// cloud, as in two processes.
    fn ours(&self) -> Box<dyn CloudProvider>;

    /// Creates a provider for another platform in the same account.
    fn theirs(&self) -> Box<dyn CloudProvider>;

    /// Returns the specifications of two nodes that neither platform has.
    fn nodes(&self) -> [NodeSpec; 2];

    /// Creates a running machine that belongs to no platform. Required if
    /// [`adopts`](crate::cloud::CloudCapabilities::adopts) is set.
    async fn add_unowned(&self, spec: &NodeSpec) -> Result<()> {
        Err(unsupported(format!("creating a machine {}", spec.name)))
    }

    /// Deletes a machine that belongs to no platform.
    async fn remove_unowned(&self, node: &NodeName) -> Result<()> {
        Err(unsupported(format!("deleting the machine {node}")))
    }

    /// Makes the cloud fail to create nodes if `fail` is true, and succeed again if it is false.
    /// Returns false if the test setup cannot do this; the suite then does not check failed nodes.
    async fn fail_provisions(&self, fail: bool) -> bool {
        let _ = fail;
        false
    }
}

fn unsupported(what: String) -> Error {
    Error::Unsupported {
        what,
        backend: "this test setup".into(),
    }
}

/// Runs all checks in sequence. For a provider that cannot create nodes, runs the checks of
/// machines that exist already.
///
/// # Errors
/// The first failed check.
pub async fn all(bench: &dyn CloudBench) -> Checked {
    if !bench.ours().capabilities().provisions {
        run_checks!(bench;
            preflight_reports_no_problems,
            an_undeclared_node,
            an_adopted_machine_is_released_and_never_deleted,
        );
        return Ok(());
    }
    run_checks!(bench;
        preflight_reports_no_problems,
        an_absent_node,
        provision_is_idempotent,
        a_running_node,
        a_stopped_node,
        a_failed_node_is_created_again,
        list_is_complete_and_shows_only_this_platform,
        a_change_in_progress_is_not_overwritten,
        a_fence_replaces_a_change_in_progress,
        another_process_can_poll,
        a_cancelled_change_can_be_repeated,
        platforms_are_separate,
        an_adopted_machine_is_released_and_never_deleted,
        public_ports_are_opened_and_closed,
        shared_resources_are_deleted_last,
    );
    Ok(())
}

/// A node that a check changes, and its provider.
struct Subject<'a> {
    cloud: &'a dyn CloudProvider,
    spec: NodeSpec,
}

impl<'a> Subject<'a> {
    fn new(cloud: &'a dyn CloudProvider, spec: &NodeSpec) -> Self {
        Self {
            cloud,
            spec: spec.clone(),
        }
    }

    fn name(&self) -> NodeName {
        self.spec.name.clone()
    }

    fn provision(&self) -> NodeChange {
        NodeChange::Provision {
            spec: self.spec.clone(),
        }
    }

    fn start(&self) -> NodeChange {
        NodeChange::Start { node: self.name() }
    }

    fn stop(&self) -> NodeChange {
        NodeChange::Stop { node: self.name() }
    }

    /// Returns a change that restarts the boot `boot_id`, or, for `None`, a boot that never
    /// existed.
    fn restart(&self, boot_id: Option<&String>) -> NodeChange {
        NodeChange::Restart {
            node: self.name(),
            boot_id: boot_id.map_or("never", String::as_str).to_owned(),
        }
    }

    fn delete(&self) -> NodeChange {
        NodeChange::Delete { node: self.name() }
    }

    /// Executes a change that must succeed.
    async fn done(&self, change: NodeChange) -> Checked {
        let what = format!("{change:?}");
        done(what, carry_out(self.cloud, change, DEADLINE).await)
    }

    /// Executes a change that must fail.
    async fn refused(&self, change: NodeChange, how: fn(&Error) -> bool, as_what: &str) -> Checked {
        let what = format!("{change:?}");
        let outcome = carry_out(self.cloud, change, DEADLINE).await;
        ensure!(
            outcome.as_ref().is_err_and(how),
            "{what} must return {as_what}, but returned {outcome:?}"
        );
        Ok(())
    }

    async fn seen(&self) -> Checked<Option<ObservedNode>> {
        done("get", self.cloud.get(&self.spec.name).await)
    }

    async fn get(&self) -> Checked<ObservedNode> {
        let seen = self.seen().await?;
        seen.ok_or_else(|| Failed::new(format!("get returned no node {}", self.spec.name)))
    }

    async fn is(&self, expected: &ObservedNode, after: &str) -> Checked {
        ensure_eq!(self.get().await?, *expected, "{after}");
        Ok(())
    }

    async fn has_power(&self, power: Power, after: &str) -> Checked<ObservedNode> {
        let seen = self.get().await?;
        ensure_eq!(seen.power, power, "{after}, {seen:?}");
        let runs = power == Power::Running;
        ensure_eq!(
            seen.boot_id.is_some(),
            runs,
            "{after}: a node must have a boot id if and only if the node is running, {seen:?}"
        );
        Ok(seen)
    }

    async fn is_absent(&self, after: &str) -> Checked {
        let seen = self.seen().await?;
        ensure!(seen.is_none(), "{after}: get returned {seen:?}");
        let name = self.name();
        let listed = list(self.cloud).await?;
        ensure!(
            !names(&listed).contains(&name),
            "{after}: {name} is listed: {listed:?}"
        );
        Ok(())
    }

    /// Deletes the node and checks that it no longer exists.
    async fn remove(&self) -> Checked {
        self.done(self.delete()).await?;
        self.is_absent("after a deletion").await
    }

    async fn begin(&self, change: NodeChange) -> Checked<CloudOperation> {
        let what = format!("beginning {change:?}");
        done(what, self.cloud.begin(change).await)
    }

    /// Polls an operation until it ends.
    async fn end(&self, operation: &CloudOperation) -> Checked<Result<()>> {
        let listener = ProgressListener::new(&|_| ());
        let polls = listener.poll_to_end(self.cloud, operation);
        let ended = tokio::time::timeout(DEADLINE, polls).await;
        done(format!("waiting for {operation:?}"), ended)
    }

    /// Fences the node, if the provider supports it.
    async fn fenced(&self) -> Checked {
        if self.cloud.capabilities().fences {
            let fenced = done("fence", self.cloud.fence(&self.spec.name).await)?;
            ensure_eq!(fenced.node, self.spec.name, "the node that was fenced");
        }
        Ok(())
    }

    /// Checks that missing nodes and nodes of other platforms cannot be adopted.
    async fn cannot_be_adopted(&self) -> Checked {
        let outcome = self.cloud.adopt(&self.spec.name).await;
        let is_refused = match &outcome {
            Err(Error::NotFound { .. }) => self.cloud.capabilities().adopts,
            Err(Error::Unsupported { .. }) => !self.cloud.capabilities().adopts,
            _ => false,
        };
        ensure!(
            is_refused,
            "adopting a missing node must return NotFound, or Unsupported if the provider cannot \
             adopt nodes; it returned {outcome:?}"
        );
        Ok(())
    }
}

async fn list(cloud: &dyn CloudProvider) -> Checked<Vec<ObservedNode>> {
    let listed = done("list", cloud.list().await)?;
    let names = names(&listed);
    ensure!(
        names.is_sorted(),
        "the list is not sorted by name: {names:?}"
    );
    Ok(listed)
}

fn names(nodes: &[ObservedNode]) -> Vec<NodeName> {
    nodes.iter().map(|node| node.name.clone()).collect()
}

fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. })
}

fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Conflict { .. })
}

fn is_unsupported(error: &Error) -> bool {
    matches!(error, Error::Unsupported { .. })
}
