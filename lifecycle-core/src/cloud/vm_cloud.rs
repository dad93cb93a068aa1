//! Implements [`CloudProvider`] with a [`VmApi`], according to the tables in the documentation of
//! [`CloudProvider`].
//!
//! Each change runs in its own task, so that the change continues if the caller is cancelled. The
//! progress of another process's change is derived from what the cloud shows. Therefore, `begin`
//! returns only when the cloud shows the change, or when the change has ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::Instrument as _;
use uuid::Uuid;

use super::{
    CloudCapabilities, CloudOperation, CloudProgress, CloudProvider, Fenced, NodeChange,
    ObservedNode, Power, PreflightReport, Vm, VmApi,
};
use crate::clock::{Clock as _, IdSource as _, RandomIds, SystemClock};
use crate::error::{Error, Result, Retry};
use crate::model::{NodeName, NodeSpec, Owner, PublicPorts};

/// The interval for checking whether the cloud shows a change.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// The time limit for fencing.
const FENCE_LIMIT: Duration = Duration::from_mins(15);

/// Provides the VMs of a [`VmApi`] as the nodes of one platform.
///
/// # Caveats
/// Changes run as tasks of the tokio runtime in which they were started. If that runtime ends, a
/// change stops after the last step that the cloud has accepted. To complete the change, start it
/// again.
#[derive(Debug, Clone)]
pub struct VmCloud {
    api: Arc<dyn VmApi>,
    owner: Owner,
    /// The last change to each node that this process has started.
    calls: Arc<Mutex<BTreeMap<NodeName, Call>>>,
}

/// The contents of an operation's token.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Token {
    /// The id of the call. Only the process that started the call knows this id.
    call: Uuid,
    /// The VM before the change. Other processes compare it with what the cloud shows.
    before: Option<Before>,
}

/// The ids of a VM and of its boot before a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Before {
    vm: String,
    boot: Option<String>,
}

/// A change that this process has started. Clones refer to the same call.
#[derive(Debug, Clone)]
struct Call {
    id: Uuid,
    change: NodeChange,
    state: watch::Receiver<CallState>,
    /// The error, if the call failed. The first call of [`Call::progress`] takes the error.
    error: Arc<Mutex<Option<Error>>>,
    task: AbortHandle,
}

#[derive(Debug, Clone, Default)]
struct CallState {
    before: Option<Before>,
    phase: Phase,
}

#[derive(Debug, Clone, Default)]
enum Phase {
    /// The call has not requested a change from the cloud yet.
    #[default]
    Deciding,
    /// The call has requested a change from the cloud.
    Requested,
    /// The call waits for a change that another process started.
    Joined,
    Done,
    Failed {
        why: String,
    },
}

/// How a call ended.
enum Ended {
    Not,
    Done,
    Failed(String),
    /// A deletion or a fence aborted the task.
    Superseded,
}

impl Call {
    fn ended(&self) -> Ended {
        let state = self.state.borrow().clone();
        match state.phase {
            Phase::Done => Ended::Done,
            Phase::Failed { why } => Ended::Failed(why),
            _ if self.state.has_changed().is_err() => Ended::Superseded,
            Phase::Deciding | Phase::Requested | Phase::Joined => Ended::Not,
        }
    }

    fn runs(&self) -> bool {
        matches!(self.ended(), Ended::Not)
    }

    /// Returns whether the call performs this change. Specifications of `Provision` may differ: a
    /// node is created only once.
    fn is_for(&self, change: &NodeChange) -> bool {
        let provisions = |change: &NodeChange| matches!(change, NodeChange::Provision { .. });
        self.change == *change || (provisions(&self.change) && provisions(change))
    }

    /// Waits until the state changes or the task ends.
    async fn changed(&self) {
        // An error means that the task has ended.
        let _ = self.state.clone().changed().await;
    }

    /// Aborts the task, and returns when the task has ended.
    async fn abort(&self) {
        self.task.abort();
        let mut state = self.state.clone();
        while state.changed().await.is_ok() {}
    }

    /// Waits until the cloud shows the change, or until the change has ended.
    async fn accepted(&self, cloud: &VmCloud) {
        let mut state = self.state.clone();
        while self.runs() {
            let CallState { before, phase } = state.borrow_and_update().clone();
            match phase {
                Phase::Deciding => drop(state.changed().await),
                Phase::Joined | Phase::Done | Phase::Failed { .. } => return,
                Phase::Requested => {
                    if timeout(POLL_EVERY, state.changed()).await.is_err()
                        && let Ok(vms) = cloud.api.list().await
                        && is_shown(
                            &self.change,
                            before.as_ref(),
                            cloud.ours(&vms, &self.change),
                        )
                    {
                        return;
                    }
                }
            }
        }
    }

    /// Returns the progress of the call, or its error if the call failed.
    fn progress(&self) -> Result<CloudProgress> {
        match self.ended() {
            Ended::Not => Ok(in_progress()),
            Ended::Done => Ok(CloudProgress::Done),
            Ended::Failed(why) => {
                let error = lock(&self.error).take();
                Err(error.unwrap_or_else(|| Error::failed(doing(&self.change), why)))
            }
            Ended::Superseded => Err(Error::Conflict {
                what: format!("{} failed", doing(&self.change)),
                why: "another change replaced this change".into(),
            }),
        }
    }
}

impl VmCloud {
    /// Creates the provider for the VMs of `api` that belong to `owner`.
    pub fn new(api: impl VmApi, owner: Owner) -> Self {
        Self {
            api: Arc::new(api),
            owner,
            calls: Arc::default(),
        }
    }

    fn node<'v>(&self, vms: &'v [Vm], node: &NodeName) -> Option<&'v ObservedNode> {
        let is_owned = |vm: &&Vm| vm.platform == Some(self.owner.id) && vm.node.name == *node;
        vms.iter().find(is_owned).map(|vm| &vm.node)
    }

    fn ours<'v>(&self, vms: &'v [Vm], change: &NodeChange) -> Option<&'v ObservedNode> {
        self.node(vms, change.node())
    }

    /// Returns the running call of this process for a node.
    fn running(&self, node: &NodeName) -> Option<Call> {
        let call = lock(&self.calls).get(node).cloned();
        call.filter(Call::runs)
    }

    /// Returns the running call for this change, or starts a new one.
    fn call(&self, change: NodeChange) -> Result<Call> {
        let node = change.node().clone();
        let mut calls = lock(&self.calls);
        let previous = calls.get(&node).filter(|call| call.runs()).cloned();
        if let Some(previous) = &previous {
            if previous.is_for(&change) {
                return Ok(previous.clone());
            }
            if !matches!(change, NodeChange::Delete { .. }) {
                return Err(under_way(&node));
            }
        }
        let (state, receiver) = watch::channel(CallState::default());
        let error = Arc::new(Mutex::new(None));
        let work = {
            let (cloud, change, error) = (self.clone(), change.clone(), error.clone());
            async move {
                let outcome = cloud.carry_out(&change, previous, &state).await;
                let phase = match outcome {
                    Ok(()) => Phase::Done,
                    Err(failure) => {
                        let why = failure.chain();
                        *lock(&error) = Some(failure);
                        Phase::Failed { why }
                    }
                };
                state.send_modify(|state| state.phase = phase);
            }
        };
        let call = Call {
            id: RandomIds.uuid(),
            change,
            state: receiver,
            error,
            task: tokio::spawn(work.in_current_span()).abort_handle(),
        };
        calls.insert(node, call.clone());
        Ok(call)
    }

    /// Executes a change according to the tables in the documentation of [`CloudProvider`].
    async fn carry_out(
        &self,
        change: &NodeChange,
        previous: Option<Call>,
        state: &watch::Sender<CallState>,
    ) -> Result<()> {
        let node = change.node();
        let vms = match previous {
            Some(previous) => self.take_over(node, &previous).await?,
            None => self.api.list().await?,
        };
        let enter = |phase| state.send_modify(|state| state.phase = phase);
        let Some(vm) = self.node(&vms, node) else {
            if unowned(&vms, node)?.is_some() {
                return Err(not_ours(node));
            }
            return match change {
                NodeChange::Provision { spec } => {
                    enter(Phase::Requested);
                    self.api.create(spec, &self.owner).await
                }
                NodeChange::Delete { .. } => Ok(()),
                NodeChange::Start { .. } | NodeChange::Stop { .. } | NodeChange::Restart { .. } => {
                    Err(absent(node))
                }
            };
        };
        let before = Before {
            vm: vm.provider_id.clone(),
            boot: vm.boot_id.clone(),
        };
        state.send_modify(|state| state.before = Some(before.clone()));
        match (change, vm.power) {
            (NodeChange::Delete { .. }, _) => {
                enter(Phase::Requested);
                if vm.created {
                    self.api.delete(vm).await
                } else {
                    self.api.set_owner(vm, None).await
                }
            }
            (NodeChange::Provision { spec }, Power::Failed) if vm.created => {
                enter(Phase::Requested);
                self.api.delete(vm).await?;
                self.api.create(spec, &self.owner).await
            }
            (NodeChange::Start { .. }, Power::Stopped | Power::Failed) => {
                enter(Phase::Requested);
                self.api.start(vm).await
            }
            (NodeChange::Stop { .. }, Power::Running) => {
                enter(Phase::Requested);
                self.api.stop(vm).await
            }
            (NodeChange::Restart { boot_id, .. }, Power::Running)
                if vm.boot_id.as_ref() == Some(boot_id) =>
            {
                enter(Phase::Requested);
                self.api.restart(vm).await
            }
            // Another process has started a change, which may or may not be the same one.
            (
                NodeChange::Provision { .. }
                | NodeChange::Start { .. }
                | NodeChange::Restart { .. },
                Power::Stopping,
            )
            | (NodeChange::Stop { .. }, Power::Starting) => Err(under_way(node)),
            (
                NodeChange::Provision { .. }
                | NodeChange::Start { .. }
                | NodeChange::Restart { .. },
                Power::Starting,
            )
            | (NodeChange::Stop { .. }, Power::Stopping) => {
                enter(Phase::Joined);
                self.follow(change, &before).await
            }
            (NodeChange::Provision { .. }, Power::Failed) => Err(Error::failed(
                doing(change),
                "the cloud reports that the node failed, and this platform did not create the node",
            )),
            (NodeChange::Provision { .. }, Power::Running | Power::Stopped)
            | (NodeChange::Start { .. }, Power::Running)
            | (NodeChange::Stop { .. }, Power::Stopped | Power::Failed)
            | (NodeChange::Restart { .. }, Power::Running | Power::Stopped | Power::Failed) => {
                Ok(())
            }
        }
    }

    /// Ends a running call, and returns the existing VMs. A VM that is being created can be deleted
    /// only once the cloud shows it.
    async fn take_over(&self, node: &NodeName, previous: &Call) -> Result<Vec<Vm>> {
        loop {
            let creates =
                matches!(previous.change, NodeChange::Provision { .. }) && previous.runs();
            let vms = self.api.list().await?;
            if !creates || self.node(&vms, node).is_some() {
                previous.abort().await;
                return Ok(vms);
            }
            // Check again, even if the state has not changed.
            let _ = timeout(POLL_EVERY, previous.changed()).await;
        }
    }

    /// Waits for the end of another process's change.
    async fn follow(&self, change: &NodeChange, before: &Before) -> Result<()> {
        loop {
            sleep(POLL_EVERY).await;
            let vms = self.api.list().await?;
            match observed(change, Some(before), self.ours(&vms, change))? {
                CloudProgress::Done => return Ok(()),
                CloudProgress::Running { .. } => {}
            }
        }
    }

    async fn power_off(&self, node: &NodeName) -> Result<Fenced> {
        loop {
            let call = self.running(node);
            let vms = self.api.list().await?;
            let vm = self.node(&vms, node);
            match (vm, call) {
                // Wait if the cloud does not show the new VM yet, or if the VM is about to be
                // deleted.
                (None, Some(call)) if matches!(call.change, NodeChange::Provision { .. }) => {
                    let _ = timeout(POLL_EVERY, call.changed()).await;
                }
                (Some(_), Some(call)) if matches!(call.change, NodeChange::Delete { .. }) => {
                    let _ = timeout(POLL_EVERY, call.changed()).await;
                }
                (Some(_), Some(call)) => call.abort().await,
                (Some(vm), None) if !matches!(vm.power, Power::Stopped | Power::Failed) => {
                    self.api.power_off(vm).await?;
                    let vms = self.api.list().await?;
                    let left = self.node(&vms, node);
                    if left.is_some_and(|vm| vm.power != Power::Stopped) {
                        sleep(POLL_EVERY).await;
                    }
                }
                (None, _) if unowned(&vms, node)?.is_some() => return Err(not_ours(node)),
                (Some(_) | None, _) => {
                    return Ok(Fenced {
                        node: node.clone(),
                        at: SystemClock.now(),
                    });
                }
            }
        }
    }
}

#[async_trait]
impl CloudProvider for VmCloud {
    fn capabilities(&self) -> CloudCapabilities {
        self.api.capabilities()
    }

    async fn preflight(&self, specs: &[NodeSpec]) -> Result<PreflightReport> {
        self.api.preflight(specs).await
    }

    async fn list(&self) -> Result<Vec<ObservedNode>> {
        let mut vms = self.api.list().await?;
        vms.retain(|vm| vm.platform == Some(self.owner.id));
        let mut nodes: Vec<_> = vms.into_iter().map(|vm| vm.node).collect();
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(nodes)
    }

    async fn get(&self, node: &NodeName) -> Result<Option<ObservedNode>> {
        let vms = self.api.list().await?;
        match self.node(&vms, node) {
            Some(vm) => Ok(Some(vm.clone())),
            None => Ok(unowned(&vms, node)?.cloned()),
        }
    }

    async fn adopt(&self, node: &NodeName) -> Result<ObservedNode> {
        let vms = self.api.list().await?;
        if let Some(vm) = self.node(&vms, node) {
            return Ok(vm.clone());
        }
        let capabilities = self.capabilities();
        if !capabilities.adopts {
            return Err(Error::Unsupported {
                what: format!("adopting {node}"),
                backend: capabilities.name.into(),
            });
        }
        let vm = unowned(&vms, node)?.ok_or_else(|| absent(node))?;
        self.api.set_owner(vm, Some(&self.owner)).await?;
        let vms = self.api.list().await?;
        self.node(&vms, node).cloned().ok_or_else(|| absent(node))
    }

    async fn begin(&self, change: NodeChange) -> Result<CloudOperation> {
        let call = self.call(change.clone())?;
        call.accepted(self).await;
        call.progress()?;
        let token = Token {
            call: call.id,
            before: call.state.borrow().before.clone(),
        };
        let token = serde_json::to_string(&token).map_err(|error| {
            Error::failed("serializing the token of a change", error.to_string())
        })?;
        Ok(CloudOperation { change, token })
    }

    async fn poll(&self, operation: &CloudOperation) -> Result<CloudProgress> {
        let change = &operation.change;
        let token: Token =
            serde_json::from_str(&operation.token).map_err(|error| Error::Corrupt {
                what: format!("the stored token for {}", doing(change)),
                why: error.to_string(),
            })?;
        let call = lock(&self.calls).get(change.node()).cloned();
        if let Some(call) = call.filter(|call| call.id == token.call) {
            return match call.progress() {
                // Return an error that makes callers start the change again instead of polling it
                // again.
                Err(error) if matches!(error.retry(), Retry::After(_)) => Err(Error::Failed {
                    what: doing(change),
                    why: error.to_string(),
                    source: Some(Box::new(error)),
                }),
                progress => progress,
            };
        }
        let vms = self.api.list().await?;
        observed(change, token.before.as_ref(), self.ours(&vms, change))
    }

    async fn fence(&self, node: &NodeName) -> Result<Fenced> {
        let capabilities = self.capabilities();
        if !capabilities.fences {
            return Err(Error::Unsupported {
                what: format!("fencing node {node}"),
                backend: capabilities.name.into(),
            });
        }
        let fenced = timeout(FENCE_LIMIT, self.power_off(node)).await;
        fenced.unwrap_or_else(|_| {
            Err(Error::TimedOut {
                what: format!("fencing node {node}"),
                after: FENCE_LIMIT,
            })
        })
    }

    async fn set_public_ports(&self, node: &NodeName, ports: &PublicPorts) -> Result<()> {
        let vms = self.api.list().await?;
        let vm = self.node(&vms, node).ok_or_else(|| absent(node))?;
        self.api.set_public_ports(vm, ports).await
    }

    async fn delete_shared(&self) -> Result<()> {
        let mut left = self.list().await?;
        left.retain(|node| node.created);
        if left.is_empty() {
            return self.api.delete_shared(&self.owner).await;
        }
        let names: Vec<_> = left.iter().map(|node| node.name.as_str()).collect();
        Err(Error::Conflict {
            what: "deleting the nodes' shared resources failed".into(),
            why: format!("these nodes still use them: {}", names.join(", ")),
        })
    }
}

/// Returns whether the cloud shows that a change is in progress or finished.
fn is_shown(change: &NodeChange, before: Option<&Before>, vm: Option<&ObservedNode>) -> bool {
    let id = before.map(|before| &before.vm);
    let is_same = vm.map(|vm| &vm.provider_id) == id;
    match (change, vm) {
        (NodeChange::Provision { .. }, vm) => vm.is_some() && !is_same,
        (_, None) => true,
        (NodeChange::Start { .. }, Some(vm)) => !matches!(vm.power, Power::Stopped | Power::Failed),
        (NodeChange::Stop { .. }, Some(vm)) => vm.power != Power::Running,
        (NodeChange::Restart { boot_id, .. }, Some(vm)) => vm.boot_id.as_ref() != Some(boot_id),
        (NodeChange::Delete { .. }, Some(vm)) => !is_same || vm.power == Power::Stopping,
    }
}

/// Returns the progress that the cloud shows. Starts nothing: polling must not re-create a deleted
/// node.
fn observed(
    change: &NodeChange,
    before: Option<&Before>,
    vm: Option<&ObservedNode>,
) -> Result<CloudProgress> {
    let is_other = |vm: &&ObservedNode| before.is_some_and(|before| before.vm != vm.provider_id);
    let is_gone = || match change {
        NodeChange::Delete { .. } => Ok(CloudProgress::Done),
        _ => Err(absent(change.node())),
    };
    let vm = match (vm, change) {
        (None, _) => return is_gone(),
        // Accept a new VM, because `Provision` replaces a failed VM.
        (Some(vm), NodeChange::Provision { .. }) => vm,
        (Some(vm), _) if is_other(&vm) => return is_gone(),
        (Some(vm), _) => vm,
    };
    let without_effect = |why: &str| {
        Err(Error::failed(
            doing(change),
            format!(
                "{why}, and the process that started the change has exited; start the change \
                     again"
            ),
        ))
    };
    match (change, vm.power) {
        (NodeChange::Delete { .. }, Power::Stopping) => Ok(in_progress()),
        (NodeChange::Delete { .. }, _) => without_effect("the node still exists"),
        (_, Power::Failed) => Err(Error::failed(
            doing(change),
            "the cloud reports that the node failed",
        )),
        // A node that is starting was stopped before.
        (NodeChange::Stop { .. }, Power::Starting | Power::Stopped)
        | (NodeChange::Provision { .. }, Power::Running | Power::Stopped)
        | (NodeChange::Start { .. }, Power::Running)
        | (NodeChange::Restart { .. }, Power::Stopped) => Ok(CloudProgress::Done),
        (_, Power::Starting | Power::Stopping) => Ok(in_progress()),
        (NodeChange::Start { .. }, Power::Stopped) => without_effect("the node is stopped"),
        (NodeChange::Stop { .. }, Power::Running) => {
            match before.and_then(|before| before.boot.as_ref()) {
                boot @ Some(_) if vm.boot_id.as_ref() == boot => {
                    without_effect("the node is still running")
                }
                // The node was stopped and has been started again.
                Some(_) | None => Ok(CloudProgress::Done),
            }
        }
        (NodeChange::Restart { boot_id, .. }, Power::Running) => {
            if vm.boot_id.as_ref() == Some(boot_id) {
                without_effect("the node is still in the same boot")
            } else {
                Ok(CloudProgress::Done)
            }
        }
    }
}

/// Returns the VM with this name that belongs to no platform.
fn unowned<'v>(vms: &'v [Vm], node: &NodeName) -> Result<Option<&'v ObservedNode>> {
    let mut found = vms
        .iter()
        .filter(|vm| vm.platform.is_none() && vm.node.name == *node);
    match (found.next(), found.next()) {
        (Some(_), Some(_)) => Err(Error::Conflict {
            what: format!("VM {node}"),
            why: "the account has several VMs with this name".into(),
        }),
        (one, _) => Ok(one.map(|vm| &vm.node)),
    }
}

fn in_progress() -> CloudProgress {
    CloudProgress::Running {
        after: Some(POLL_EVERY),
        message: None,
    }
}

fn doing(change: &NodeChange) -> String {
    let verb = match change {
        NodeChange::Provision { .. } => "creating",
        NodeChange::Start { .. } => "starting",
        NodeChange::Stop { .. } => "stopping",
        NodeChange::Restart { .. } => "restarting",
        NodeChange::Delete { .. } => "deleting",
    };
    format!("{verb} node {}", change.node())
}

fn absent(node: &NodeName) -> Error {
    Error::not_found(format!("node {node}"))
}

fn under_way(node: &NodeName) -> Error {
    Error::Conflict {
        what: format!("node {node}"),
        why: "another change is in progress".into(),
    }
}

fn not_ours(node: &NodeName) -> Error {
    Error::Conflict {
        what: format!("VM {node}"),
        why: "the VM exists, but does not belong to this platform".into(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::{OpenPorts, SshAddress};
    use super::*;
    use crate::model::Addresses;

    fn vm(power: Power, boot: Option<&str>) -> ObservedNode {
        ObservedNode {
            name: NodeName::try_from("n1").unwrap(),
            provider_id: "vm-1".into(),
            power,
            addresses: Addresses::default(),
            ssh: SshAddress::new("admin"),
            boot_id: boot.map(str::to_owned),
            created: true,
            open_ports: OpenPorts::default(),
        }
    }

    /// Returns the progress that a process reports for a change that another process started: done, under
    /// way, or failed.
    fn answer(change: &NodeChange, boot: Option<&str>, now: Option<&ObservedNode>) -> &'static str {
        let before = Before {
            vm: "vm-1".into(),
            boot: boot.map(str::to_owned),
        };
        match observed(change, Some(&before), now) {
            Ok(CloudProgress::Done) => "done",
            Ok(CloudProgress::Running { .. }) => "under way",
            Err(error) => {
                assert_eq!(error.retry(), Retry::Replan, "{error:?}");
                "failed"
            }
        }
    }

    #[test]
    fn operations_of_ended_processes_are_judged_by_the_state_of_the_cloud() {
        let node = || NodeName::try_from("n1").unwrap();
        let spec = NodeSpec::new(node());
        let boot_id = "one".to_owned();
        let is = |change: &NodeChange, boot, now: Option<ObservedNode>, expected| {
            let shown = now.as_ref().map(|now| (now.power, now.boot_id.clone()));
            assert_eq!(
                answer(change, boot, now.as_ref()),
                expected,
                "{change:?}, {shown:?}"
            );
        };
        let (starting, stopping) = (vm(Power::Starting, None), vm(Power::Stopping, None));
        let stopped = vm(Power::Stopped, None);
        let (one, two) = (
            vm(Power::Running, Some("one")),
            vm(Power::Running, Some("two")),
        );
        let another = ObservedNode {
            provider_id: "vm-2".into(),
            ..one.clone()
        };

        let provision = NodeChange::Provision { spec };
        is(&provision, None, None, "failed");
        is(&provision, None, Some(starting.clone()), "under way");
        is(&provision, None, Some(one.clone()), "done");
        is(&provision, None, Some(vm(Power::Failed, None)), "failed");

        let start = NodeChange::Start { node: node() };
        is(&start, None, Some(stopped.clone()), "failed");
        is(&start, None, Some(starting.clone()), "under way");
        is(&start, None, Some(one.clone()), "done");
        is(&start, None, None, "failed");
        is(&start, None, Some(another.clone()), "failed");

        let stop = NodeChange::Stop { node: node() };
        is(&stop, Some("one"), Some(one.clone()), "failed");
        is(&stop, Some("one"), Some(stopping.clone()), "under way");
        is(&stop, Some("one"), Some(stopped.clone()), "done");
        is(&stop, Some("one"), Some(two.clone()), "done");

        let restart = NodeChange::Restart {
            node: node(),
            boot_id,
        };
        is(&restart, Some("one"), Some(one.clone()), "failed");
        is(&restart, Some("one"), Some(starting), "under way");
        is(&restart, Some("one"), Some(two), "done");

        let delete = NodeChange::Delete { node: node() };
        is(&delete, Some("one"), Some(one), "failed");
        is(&delete, Some("one"), Some(stopping), "under way");
        is(&delete, Some("one"), None, "done");
        is(&delete, Some("one"), Some(another), "done");
    }
}
