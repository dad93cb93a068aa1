//! How a VM that exists is switched: started, stopped, restarted, deleted, fenced.

use std::time::Duration;

use lifecycle_core::clock::{Clock as _, SystemClock};
use lifecycle_core::cloud::{CloudProgress, Fenced, NodeChange};
use lifecycle_core::model::NodeName;
use lifecycle_core::{Error, Result};

use super::{Azure, Token, not_before};
use crate::alternative::Tried;
use crate::arm::client::Progress;
use crate::arm::failure::Refusal;
use crate::compute::{Action, Begun};
use crate::machine::{Machine, State};

impl Azure {
    /// Begins to switch a VM, unless `is_done` says that there is nothing to do. Azure would let it
    /// take the place of another change that is under way: only a deletion may, and the same change
    /// again, since one that Azure has lost track of ends only so.
    pub(super) async fn begin_action(
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
        if !matches!(action, Action::Delete) {
            let is_done = is_done(&machine);
            match machine.state {
                State::Deleting => return Err(under_way(node, "it is being deleted")),
                State::Changing(_) if is_done => return Ok(Token::Settles),
                State::Changing(_) if !is_under_way(action, &machine) => {
                    return Err(under_way(node, "another change is under way"));
                }
                State::Succeeded | State::Failed(_) if is_done => return Ok(Token::Nothing),
                State::Changing(_) | State::Succeeded | State::Failed(_) => {}
            }
        }
        let begun = self
            .compute
            .begin(machine.group(), &machine.name, action)
            .await;
        match begun {
            Ok(Begun {
                url: Some(url),
                after,
            }) => Ok(Token::Operation {
                url,
                not_before: not_before(after),
            }),
            Ok(Begun { url: None, .. }) => Ok(Token::Nothing),
            Err(failure)
                if matches!(action, Action::Delete)
                    && failure.refusal().is_some_and(Refusal::is_absent) =>
            {
                Ok(Token::Nothing)
            }
            Err(failure) => Err(failure.into_error(format!("VM {node}"))),
        }
    }

    /// Begins to delete a VM that we made, and lets any other go.
    pub(super) async fn begin_delete(&self, node: &NodeName) -> Result<Token> {
        let Some(machine) = self.ours(node).await? else {
            self.shared.note_tried(node, &Tried::default()).await?;
            return Ok(Token::Nothing);
        };
        if !machine.is_created() {
            self.release(&machine).await?;
            return Ok(Token::Nothing);
        }
        if machine.has_alternatives() && !machine.tried().is_empty() && machine.never_ran() {
            // Whoever deletes what could not be made may want it made: then as the next alternative.
            self.shared.note_tried(node, &machine.tried()).await?;
        }
        self.begin_action(node, Action::Delete, |_| false).await
    }

    /// Answers from the VM itself, for a change whose operation does not tell how it ends.
    pub(super) async fn poll_settling(&self, change: &NodeChange) -> Result<CloudProgress> {
        let node = change.node();
        let is_deletion = matches!(change, NodeChange::Delete { .. });
        let Some(machine) = self.ours(node).await? else {
            return if is_deletion {
                Ok(CloudProgress::Done)
            } else {
                Err(Error::not_found(format!("node {node}")))
            };
        };
        match machine.state {
            State::Deleting if is_deletion => Ok(CloudProgress::Running {
                after: Some(self.options.poll_every),
                says: Some("Azure says Deleting".into()),
            }),
            State::Succeeded if is_deletion => Err(under_way(
                node,
                "another change has taken the place of its deletion",
            )),
            State::Changing(state) => Ok(CloudProgress::Running {
                after: Some(self.options.poll_every),
                says: Some(format!("Azure says {state}")),
            }),
            State::Succeeded => Ok(CloudProgress::Done),
            State::Deleting => Err(Error::failed(format!("VM {node}"), "it is being removed")),
            State::Failed(refusal) => Err(refusal.into_error(format!("VM {node}"))),
        }
    }

    pub(super) async fn poll_operation(
        &self,
        change: &NodeChange,
        url: &str,
    ) -> Result<CloudProgress> {
        let node = change.node();
        match self.client.operation(url).await? {
            Progress::Running { after, status } => Ok(CloudProgress::Running {
                after: after.or(Some(self.options.poll_every)),
                says: status.map(|status| format!("Azure says {status}")),
            }),
            // What Azure has forgotten ended long ago; what became of it is seen by looking.
            Progress::Done | Progress::Gone => Ok(CloudProgress::Done),
            // By the same change, which goes on, or by one that has taken over.
            Progress::Failed(refusal) if refusal.is_preempted() => self.poll_settling(change).await,
            Progress::Failed(refusal) => Err(refusal.into_error(format!("VM {node}"))),
        }
    }

    /// Waits until a fence's operation has ended.
    async fn see_off(&self, node: &NodeName, url: &str, after: Option<Duration>) -> Result<()> {
        tokio::time::sleep(after.unwrap_or_default()).await;
        loop {
            match self.client.operation(url).await? {
                Progress::Running { after, .. } => {
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

    /// Powers a VM off; returns only when Azure says that it does not run.
    pub(super) async fn power_off(&self, node: &NodeName) -> Result<Fenced> {
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
                Ok(Begun {
                    url: Some(url),
                    after,
                }) => self.see_off(node, &url, after).await?,
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

/// Whether this very change is under way.
fn is_under_way(action: Action, machine: &Machine) -> bool {
    match action {
        Action::Start => machine.is_being_started(),
        Action::Deallocate => machine.is_deallocating,
        Action::Restart | Action::PowerOff | Action::Delete => false,
    }
}

fn under_way(node: &NodeName, why: &str) -> Error {
    Error::conflict(format!("VM {node}"), why)
}
