//! Creates a VM: sends the request, polls the creation, and applies the final settings. After a
//! failure, creates the VM again or tries the next alternative.

use std::time::Duration;

use azure_mgmt_compute::models;
use chrono::{DateTime, Utc};
use lifecycle_core::clock::{Clock as _, IdSource as _, RandomIds, SystemClock};
use lifecycle_core::cloud::CloudProgress;
use lifecycle_core::model::{NodeName, NodeSpec};
use lifecycle_core::{Error, Result};
use tokio::time::{Instant, sleep};

use super::{Azure, Token, is_recent, not_before};
use crate::alternative::{Alternative, Tried};
use crate::arm::consistency::{VISIBLE_WITHIN, is_too_early};
use crate::arm::failure::{Failure, Refusal};
use crate::compute::{Action, COMPUTE};
use crate::first_boot::HostKey;
use crate::vm::{self, Attempt, State, Vm};

impl Azure {
    pub(super) async fn begin_provision(&self, spec: &NodeSpec) -> Result<Token> {
        let name = &spec.name;
        match self.owned(name).await? {
            // A VM whose creation failed is removed and re-created.
            Some(vm) if vm.never_ran() && matches!(vm.state, State::Failed(_)) => {
                if !vm.is_created() {
                    return Err(Error::failed(
                        format!("creating VM {name}"),
                        "the VM has failed, and this program replaces only VMs that it created",
                    ));
                }
                let after = self.remove_failed(spec, &vm).await?;
                Ok(Token::Provision {
                    removes: Some(vm.unique_id),
                    since: None,
                    not_before: not_before(after),
                })
            }
            Some(vm) if matches!(vm.state, State::Deleting) => Ok(Token::Provision {
                removes: Some(vm.unique_id),
                since: None,
                not_before: None,
            }),
            Some(_) => Ok(Token::Provision {
                removes: None,
                since: None,
                not_before: None,
            }),
            None => {
                let after = self.create(spec).await?;
                Ok(Token::Provision {
                    removes: None,
                    since: Some(SystemClock.now()),
                    not_before: not_before(after),
                })
            }
        }
    }

    /// Starts the removal of a VM whose creation failed. First records the VM's alternative, so
    /// that the next attempt continues after it. If no alternative is left, the next attempt starts
    /// with the first one again.
    async fn remove_failed(&self, spec: &NodeSpec, vm: &Vm) -> Result<Option<Duration>> {
        let name = &spec.name;
        let all = Alternative::of(&self.options, spec);
        if all.len() > 1 || vm.has_alternatives() {
            let noted = self.shared.tried(name).await?;
            let tried = if noted.ends_with(&vm.kind) {
                // An earlier attempt to remove the VM has recorded the alternative, but then
                // failed.
                noted
            } else {
                vm.tried()
            };
            let is_over = tried.rest(&all).is_empty();
            let tried = if is_over { Tried::default() } else { tried };
            self.shared.note_tried(name, &tried).await?;
        }
        tracing::info!(node = %name, kind = %vm.kind, run = vm.run(),
            "removing a VM that Azure could not create");
        let begun = self
            .compute
            .begin(vm.group(), &vm.name, Action::Delete)
            .await
            .map_err(|failure| failure.into_error(format!("removing VM {name}")))?;
        Ok(begun.after)
    }

    /// Requests a VM with the first alternative that Azure does not reject immediately. Returns how
    /// long to wait before the first poll, if Azure specifies a wait.
    async fn create(&self, spec: &NodeSpec) -> Result<Option<Duration>> {
        let name = &spec.name;
        self.shared.ensure().await?;
        let all = Alternative::of(&self.options, spec);
        let mut tried = Tried::default();
        if all.len() > 1 {
            let noted = self.shared.tried(name).await?;
            if !noted.rest(&all).is_empty() {
                tried = noted;
            }
        }
        let mut refused = None;
        let visible = Instant::now() + VISIBLE_WITHIN;
        let mut kinds = tried.rest(&all).to_vec().into_iter();
        let mut next = kinds.next();
        while let Some(kind) = next.take() {
            let run = RandomIds.uuid().to_string();
            let key = HostKey::generate()?;
            let attempt = Attempt {
                run: &run,
                kind: &kind,
                tried: (all.len() > 1).then_some(&tried),
                key: &key,
            };
            let vm = vm::create_request(&self.options, spec, &self.shared.subnet(), &attempt)?;
            tracing::info!(node = %name, %kind, run, "requesting a VM");
            match self.ask_for(name, vm).await? {
                Ok(after) => return Ok(after),
                Err(Failure::Refused(refusal)) if refusal.may_try_alternative() => {
                    tried = tried.with(&kind, &refusal);
                    refused = Some(refusal);
                    next = kinds.next();
                }
                // Another process of this platform has already created the VM.
                Err(failure) if failure.refusal().is_some_and(Refusal::is_taken) => {
                    let is_there = failure.refusal().is_some_and(Refusal::shows_existence);
                    // Azure may not show a new VM yet.
                    return match self.owned(name).await? {
                        Some(_) => Ok(None),
                        None if is_there => Ok(None),
                        None => Err(failure.into_error(format!("creating VM {name}"))),
                    };
                }
                // The network is new, or another process has removed it.
                Err(failure) if is_too_early(&failure) && Instant::now() < visible => {
                    self.shared.forget().await;
                    sleep(self.options.poll_every).await;
                    self.shared.ensure().await?;
                    next = Some(kind);
                }
                Err(failure) => {
                    // The network may be missing: another process may have removed it.
                    self.shared.forget().await;
                    return Err(failure.into_error(format!("creating VM {name}")));
                }
            }
        }
        if all.len() > 1 {
            self.shared.note_tried(name, &Tried::default()).await?;
        }
        Err(match refused {
            Some(refusal) => tried.exhausted(format!("creating VM {name}"), refusal),
            None => Error::failed(format!("creating VM {name}"), "no VM size is configured"),
        })
    }

    /// Sends the create request for a VM. Adds the identity if the VM is for the manager's node.
    async fn ask_for(
        &self,
        name: &NodeName,
        vm: models::VirtualMachine,
    ) -> Result<Result<Option<Duration>, Failure>> {
        let is_manager = self.options.manager_node.as_ref() == Some(name);
        let Some(identity) = self.options.identity.as_ref().filter(|_| is_manager) else {
            return Ok(self.compute.create(name.as_str(), vm).await);
        };
        let path = format!(
            "{}/providers/Microsoft.Compute/virtualMachines/{name}",
            self.shared.group()
        );
        let body = vm::with_identity(&vm, identity)?;
        Ok(self.client.create(&path, COMPUTE, &body).await)
    }

    /// Returns whether a missing VM was removed after a failed attempt and must be created again.
    async fn continues_after_removal(&self, spec: &NodeSpec) -> Result<bool> {
        let has_others = Alternative::of(&self.options, spec).len() > 1;
        Ok(has_others && !self.shared.tried(&spec.name).await?.is_empty())
    }

    pub(super) async fn poll_provision(
        &self,
        spec: &NodeSpec,
        removes: Option<&str>,
        since: Option<DateTime<Utc>>,
    ) -> Result<CloudProgress> {
        let name = &spec.name;
        let in_progress = |status: &str| {
            Ok(CloudProgress::Running {
                after: Some(self.options.poll_every),
                message: Some(status.to_owned()),
            })
        };
        let Some(vm) = self.owned(name).await? else {
            if removes.is_none() && !self.continues_after_removal(spec).await? {
                if is_recent(since) {
                    return in_progress("Azure does not show the VM yet");
                }
                return Err(Error::failed(
                    format!("creating VM {name}"),
                    "the VM was removed while it was being created",
                ));
            }
            let after = self.create(spec).await?;
            return Ok(CloudProgress::Running {
                after: after.or(Some(self.options.poll_every)),
                message: Some("Azure is re-creating the VM".to_owned()),
            });
        };
        if removes == Some(vm.unique_id.as_str()) {
            return match vm.state {
                State::Failed(refusal) => Err(Error::failed(
                    format!("removing VM {name}"),
                    refusal.to_string(),
                )),
                _ => in_progress("Azure is removing the VM that it could not create"),
            };
        }
        match vm.state {
            State::Changing(ref state) => {
                in_progress(&format!("Azure reports {state} ({})", vm.kind))
            }
            State::Deleting if self.continues_after_removal(spec).await? => {
                in_progress("Azure is removing the VM that it could not create")
            }
            State::Deleting => Err(Error::failed(
                format!("creating VM {name}"),
                "the VM is being removed",
            )),
            State::Failed(ref refusal) if vm.never_ran() => self.next(spec, &vm, refusal).await,
            // The VM has run, so its creation succeeded. Only a later change can have failed.
            State::Failed(_) | State::Succeeded => {
                if !self.settle(&vm).await? {
                    return in_progress("Azure is making the VM's address static");
                }
                if vm.has_alternatives() {
                    self.shared.note_tried(name, &Tried::default()).await?;
                }
                Ok(CloudProgress::Done)
            }
        }
    }

    /// Handles a failed creation: continues with the next alternative if one is left and may
    /// succeed.
    async fn next(&self, spec: &NodeSpec, vm: &Vm, refusal: &Refusal) -> Result<CloudProgress> {
        let name = &spec.name;
        if !refusal.may_try_alternative() || !vm.is_created() {
            return Err(refusal
                .clone()
                .into_error(format!("creating VM {name} (run {})", vm.run())));
        }
        let all = Alternative::of(&self.options, spec);
        let tried = vm.tried();
        let Some(next) = tried.rest(&all).first() else {
            return Err(tried.exhausted(format!("creating VM {name}"), refusal.clone()));
        };
        let after = self.remove_failed(spec, vm).await?;
        Ok(CloudProgress::Running {
            after: after.or(Some(self.options.poll_every)),
            message: Some(format!(
                "Azure has no capacity for {} ({}); next: {next}",
                vm.kind, refusal.code
            )),
        })
    }
}
