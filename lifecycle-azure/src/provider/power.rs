//! Changes an existing VM: starts, stops, restarts, deletes, or fences it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use lifecycle_core::clock::{Clock as _, SystemClock};
use lifecycle_core::cloud::{CloudProgress, Fenced, NodeChange, Power};
use lifecycle_core::model::NodeName;
use lifecycle_core::{Error, Result};
use tokio::time::{Instant, sleep};

use super::{Azure, Token, is_recent, not_before};
use crate::alternative::Tried;
use crate::arm::client::Progress;
use crate::arm::consistency::{VISIBLE_WITHIN, is_too_early};
use crate::arm::failure::{Failure, Refusal};
use crate::compute::{Action, Begun};
use crate::vm::{State, Vm};

impl Azure {
    /// Starts an action on a VM, unless `is_done` returns true for the VM.
    ///
    /// Azure lets any action replace a change in progress. This function allows that only for a
    /// deletion, or if the same action is in progress. Repeating an action is the only way to
    /// finish a change that Azure has lost track of.
    pub(super) async fn begin_action(
        &self,
        node: &NodeName,
        action: Action,
        is_done: impl FnOnce(&Vm) -> bool,
    ) -> Result<Token> {
        let Some(vm) = self.owned(node).await? else {
            return match action {
                Action::Delete => Ok(Token::Nothing),
                _ => Err(Error::not_found(format!("node {node}"))),
            };
        };
        if !matches!(action, Action::Delete) {
            let is_done = is_done(&vm);
            match vm.state {
                State::Deleting => return Err(busy(node, "the VM is being deleted")),
                State::Changing(_) if is_done => return Ok(Token::Settles),
                State::Changing(_) if !is_in_progress(action, &vm) => {
                    return Err(busy(node, "another change is in progress"));
                }
                State::Succeeded | State::Failed(_) if is_done => return Ok(Token::Nothing),
                State::Changing(_) | State::Succeeded | State::Failed(_) => {}
            }
        }
        let begun = self.begin_on(&vm, action).await;
        match begun {
            Ok(Begun {
                url: Some(url),
                after,
            }) => Ok(Token::Operation {
                url,
                since: Some(SystemClock.now()),
                not_before: not_before(after),
            }),
            Ok(Begun { url: None, .. }) => Ok(Token::Nothing),
            Err(failure)
                if matches!(action, Action::Delete)
                    && failure.refusal().is_some_and(Refusal::is_absent) =>
            {
                Ok(Token::Nothing)
            }
            Err(failure) => Err(failure.into_error(format!("changing VM {node}"))),
        }
    }

    /// Sends the request for an action. Repeats it if Azure does not know the VM, although it shows
    /// the VM.
    async fn begin_on(&self, vm: &Vm, action: Action) -> Result<Begun, Failure> {
        let until = Instant::now() + VISIBLE_WITHIN;
        loop {
            let begun = self.compute.begin(vm.group(), &vm.name, action).await;
            let Err(failure) = begun else { return begun };
            let is_deletion = matches!(action, Action::Delete);
            if is_deletion || !is_too_early(&failure) || Instant::now() >= until {
                return Err(failure);
            }
            sleep(self.options.poll_every).await;
            let seen = self.compute.get(vm.group(), &vm.name).await;
            if !matches!(seen, Ok(Some(seen)) if seen.unique_id == vm.unique_id) {
                return Err(failure);
            }
        }
    }

    /// Starts the deletion of a VM that this program created. Releases any other VM.
    pub(super) async fn begin_delete(&self, node: &NodeName) -> Result<Token> {
        let vm = self.owned(node).await?;
        // Close the node's ports first: another VM may get its address.
        self.shared.close_ports(Some(node)).await?;
        let Some(vm) = vm else {
            self.shared.note_tried(node, &Tried::default()).await?;
            return Ok(Token::Nothing);
        };
        if !vm.is_created() {
            self.release(&vm).await?;
            return Ok(Token::Nothing);
        }
        if vm.has_alternatives() && !vm.tried().is_empty() && vm.never_ran() {
            // Record the failed alternatives: if the node is created again, the new attempt
            // continues after them.
            self.shared.note_tried(node, &vm.tried()).await?;
        }
        self.begin_action(node, Action::Delete, |_| false).await
    }

    /// Determines the progress of a change from the VM's state. Used if no operation reports the
    /// result.
    pub(super) async fn poll_settling(&self, change: &NodeChange) -> Result<CloudProgress> {
        let node = change.node();
        let is_deletion = matches!(change, NodeChange::Delete { .. });
        let Some(vm) = self.owned(node).await? else {
            return if is_deletion {
                Ok(CloudProgress::Done)
            } else {
                Err(Error::not_found(format!("node {node}")))
            };
        };
        match vm.state {
            State::Deleting if is_deletion => Ok(CloudProgress::Running {
                after: Some(self.options.poll_every),
                message: Some("Azure reports Deleting".into()),
            }),
            State::Succeeded if is_deletion => {
                Err(busy(node, "another change has replaced the deletion"))
            }
            State::Changing(state) => Ok(CloudProgress::Running {
                after: Some(self.options.poll_every),
                message: Some(format!("Azure reports {state}")),
            }),
            State::Succeeded => Ok(CloudProgress::Done),
            State::Deleting => Err(Error::failed(
                format!("changing VM {node}"),
                "the VM is being removed",
            )),
            State::Failed(refusal) => Err(refusal.into_error(format!("changing VM {node}"))),
        }
    }

    pub(super) async fn poll_operation(
        &self,
        change: &NodeChange,
        url: &str,
        since: Option<DateTime<Utc>>,
    ) -> Result<CloudProgress> {
        let node = change.node();
        match self.client.operation(url).await? {
            // Azure may not know a new operation yet.
            Progress::Gone if is_recent(since) && !self.is_reached(change).await? => {
                Ok(CloudProgress::Running {
                    after: Some(self.options.poll_every),
                    message: Some("Azure does not show the operation yet".to_owned()),
                })
            }
            Progress::Running { after, status } => Ok(CloudProgress::Running {
                after: after.or(Some(self.options.poll_every)),
                message: status.map(|status| format!("Azure reports {status}")),
            }),
            // Azure forgets an operation only long after its end.
            Progress::Done | Progress::Gone => match change {
                NodeChange::Start { .. } | NodeChange::Restart { .. } => {
                    self.poll_started(node).await
                }
                _ => Ok(CloudProgress::Done),
            },
            // Another request replaced the operation. If that request is for the same action, the
            // action is still running.
            Progress::Failed(refusal) if refusal.is_preempted() => self.poll_settling(change).await,
            Progress::Failed(refusal) => Err(refusal.into_error(format!("changing VM {node}"))),
        }
    }

    /// Returns whether the VM is in the state to which a change leads.
    async fn is_reached(&self, change: &NodeChange) -> Result<bool> {
        let vm = self.owned(change.node()).await?;
        let is = |reached: fn(&Vm) -> bool| {
            let is_settled = |vm: &Vm| matches!(vm.state, State::Succeeded | State::Failed(_));
            vm.as_ref().is_some_and(|vm| is_settled(vm) && reached(vm))
        };
        Ok(match change {
            NodeChange::Provision { .. } | NodeChange::Start { .. } => {
                is(|vm| vm.power() == Power::Running)
            }
            NodeChange::Stop { .. } => is(|vm| vm.is_deallocated),
            NodeChange::Restart { boot_id, .. } => {
                let boot = vm.as_ref().and_then(Vm::boot_id);
                boot.is_some_and(|boot| boot != *boot_id) && is(|_| true)
            }
            NodeChange::Delete { .. } => vm.is_none(),
        })
    }

    /// Checks that the VM shows the end of its start. Until then, its boot id may still change.
    async fn poll_started(&self, node: &NodeName) -> Result<CloudProgress> {
        match self.vm(node).await?.map(|vm| vm.state) {
            Some(State::Changing(state)) => Ok(CloudProgress::Running {
                after: Some(self.options.poll_every),
                message: Some(format!("Azure reports {state}")),
            }),
            _ => Ok(CloudProgress::Done),
        }
    }

    /// Waits until the operation of a fence has ended.
    async fn await_fence(&self, node: &NodeName, url: &str, after: Option<Duration>) -> Result<()> {
        tokio::time::sleep(after.unwrap_or_default()).await;
        loop {
            match self.client.operation(url).await? {
                Progress::Running { after, .. } => {
                    tokio::time::sleep(after.unwrap_or(self.options.poll_every)).await;
                }
                Progress::Done => return Ok(()),
                // Azure may not know the operation yet. The caller checks the VM.
                Progress::Gone => {
                    tokio::time::sleep(self.options.poll_every).await;
                    return Ok(());
                }
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

    /// Powers off a VM. Returns only after Azure reports that the VM is off.
    pub(super) async fn power_off(&self, node: &NodeName) -> Result<Fenced> {
        while let Some(vm) = self.owned(node).await? {
            if vm.is_off() {
                break;
            }
            // A VM whose creation failed cannot be powered off. Deallocate the VM instead.
            let action = match vm.state {
                State::Failed(_) if vm.never_ran() => Action::Deallocate,
                _ => Action::PowerOff,
            };
            // Send the request once, and then poll the operation: another request would restart the
            // operation.
            let begun = self.compute.begin(vm.group(), &vm.name, action).await;
            match begun {
                Ok(Begun {
                    url: Some(url),
                    after,
                }) => self.await_fence(node, &url, after).await?,
                Ok(Begun { url: None, .. }) => tokio::time::sleep(self.options.poll_every).await,
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
    }
}

/// Returns whether `action` is in progress on the VM.
fn is_in_progress(action: Action, vm: &Vm) -> bool {
    match action {
        Action::Start => vm.is_being_started(),
        Action::Deallocate => vm.is_deallocating,
        Action::Restart | Action::PowerOff | Action::Delete => false,
    }
}

fn busy(node: &NodeName, why: &str) -> Error {
    Error::conflict(format!("changing VM {node}"), why)
}
