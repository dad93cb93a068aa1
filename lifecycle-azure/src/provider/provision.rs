//! How a VM is made: begun, followed, made anew or as its next alternative after a failure, and
//! settled.

use std::time::Duration;

use azure_mgmt_compute::models;
use lifecycle_core::clock::{IdSource as _, RandomIds};
use lifecycle_core::cloud::CloudProgress;
use lifecycle_core::model::{NodeName, NodeSpec};
use lifecycle_core::{Error, Result};
use serde_json::{Value, json};

use super::{Azure, Token, not_before};
use crate::alternative::{Alternative, Tried};
use crate::arm::failure::{Failure, Refusal};
use crate::compute::{Action, COMPUTE};
use crate::first_boot::HostKey;
use crate::machine::{self, Attempt, Machine, State};
use crate::network::{NETWORK, is_failed, is_made};

impl Azure {
    pub(super) async fn begin_provision(&self, spec: &NodeSpec) -> Result<Token> {
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
                let after = self.make_way(spec, &machine).await?;
                Ok(Token::Provision {
                    removes: Some(machine.vm_id),
                    not_before: not_before(after),
                })
            }
            Some(machine) if matches!(machine.state, State::Deleting) => Ok(Token::Provision {
                removes: Some(machine.vm_id),
                not_before: None,
            }),
            Some(_) => Ok(Token::Provision {
                removes: None,
                not_before: None,
            }),
            None => {
                let after = self.create(spec).await?;
                Ok(Token::Provision {
                    removes: None,
                    not_before: not_before(after),
                })
            }
        }
    }

    /// Begins to remove a VM that could not be made. What it was is noted before, where the next
    /// attempt finds it; once all was tried, it is the first's turn again.
    async fn make_way(&self, spec: &NodeSpec, machine: &Machine) -> Result<Option<Duration>> {
        let name = &spec.name;
        let all = Alternative::of(&self.options, spec);
        if all.len() > 1 || machine.has_alternatives() {
            let noted = self.shared.tried(name).await?;
            let tried = if noted.ends_with(&machine.kind) {
                // Its removal was begun before, and failed.
                noted
            } else {
                machine.tried()
            };
            let is_over = tried.rest(&all).is_empty();
            let tried = if is_over { Tried::default() } else { tried };
            self.shared.note_tried(name, &tried).await?;
        }
        tracing::info!(node = %name, kind = %machine.kind, run = machine.run(),
            "a VM that Azure could not make is removed");
        let begun = self
            .compute
            .begin(machine.group(), &machine.name, Action::Delete)
            .await
            .map_err(|failure| failure.into_error(format!("removing VM {name}")))?;
        Ok(begun.after)
    }

    /// Asks for the VM, as the first alternative that Azure does not refuse at once.
    /// Returns how long to wait before asking how far it is, if Azure says.
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
        for kind in tried.rest(&all).to_vec() {
            let run = RandomIds.uuid().to_string();
            let key = HostKey::generate()?;
            let attempt = Attempt {
                run: &run,
                kind: &kind,
                tried: (all.len() > 1).then_some(&tried),
                key: &key,
            };
            let vm = machine::wanted(&self.options, spec, &self.shared.subnet(), &attempt)?;
            tracing::info!(node = %name, %kind, run, "a VM is asked for");
            match self.ask_for(name, vm).await? {
                Ok(after) => return Ok(after),
                Err(Failure::Refused(refusal)) if refusal.may_try_alternative() => {
                    tried = tried.with(&kind, &refusal);
                    refused = Some(refusal);
                }
                // Somebody was quicker, and it was one of us: then it is there.
                Err(failure) if failure.refusal().is_some_and(Refusal::is_taken) => {
                    return match self.ours(name).await? {
                        Some(_) => Ok(None),
                        None => Err(failure.into_error(format!("VM {name}"))),
                    };
                }
                Err(failure) => {
                    // It may be the network that is missing: another process may have removed it.
                    self.shared.forget().await;
                    return Err(failure.into_error(format!("VM {name}")));
                }
            }
        }
        if all.len() > 1 {
            self.shared.note_tried(name, &Tried::default()).await?;
        }
        Err(match refused {
            Some(refusal) => tried.exhausted(format!("VM {name}"), refusal),
            None => Error::failed(format!("VM {name}"), "it has no size"),
        })
    }

    /// Sends the request for a VM: with an identity for the manager's.
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
        let body = machine::with_identity(&vm, identity)?;
        Ok(self.client.create(&path, COMPUTE, &body).await)
    }

    /// Whether a VM that is not there is to be made, since its former attempt was removed.
    async fn goes_on_after_removal(&self, spec: &NodeSpec) -> Result<bool> {
        let has_others = Alternative::of(&self.options, spec).len() > 1;
        Ok(has_others && !self.shared.tried(&spec.name).await?.is_empty())
    }

    pub(super) async fn poll_provision(
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
            if removes.is_none() && !self.goes_on_after_removal(spec).await? {
                return Err(Error::failed(
                    format!("VM {name}"),
                    "it was removed while it was made",
                ));
            }
            let after = self.create(spec).await?;
            return Ok(CloudProgress::Running {
                after: after.or(Some(self.options.poll_every)),
                says: Some("Azure makes it anew".to_owned()),
            });
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
            State::Changing(ref state) => {
                goes_on(&format!("Azure says {state} ({})", machine.kind))
            }
            State::Deleting if self.goes_on_after_removal(spec).await? => {
                goes_on("Azure removes what it could not make")
            }
            State::Deleting => Err(Error::failed(format!("VM {name}"), "it is being removed")),
            State::Failed(ref refusal) if machine.never_ran() => {
                self.next(spec, &machine, refusal).await
            }
            // It runs, or ran: what failed was a later change.
            State::Failed(_) | State::Succeeded => {
                if !self.settle(&machine).await? {
                    return goes_on("Azure fixes its address");
                }
                if machine.has_alternatives() {
                    self.shared.note_tried(name, &Tried::default()).await?;
                }
                Ok(CloudProgress::Done)
            }
        }
    }

    /// What follows a VM that could not be made: the next alternative, if there is one and that
    /// may help.
    async fn next(
        &self,
        spec: &NodeSpec,
        machine: &Machine,
        refusal: &Refusal,
    ) -> Result<CloudProgress> {
        let name = &spec.name;
        if !refusal.may_try_alternative() || !machine.is_created() {
            return Err(refusal
                .clone()
                .into_error(format!("VM {name} (run {})", machine.run())));
        }
        let all = Alternative::of(&self.options, spec);
        let tried = machine.tried();
        let Some(next) = tried.rest(&all).first() else {
            return Err(tried.exhausted(format!("VM {name}"), refusal.clone()));
        };
        let after = self.make_way(spec, machine).await?;
        Ok(CloudProgress::Running {
            after: after.or(Some(self.options.poll_every)),
            says: Some(format!(
                "Azure has no room for {} ({}); next: {next}",
                machine.kind, refusal.code
            )),
        })
    }

    /// Sees to it that a VM of ours keeps its private address. What is made with a VM cannot be
    /// asked for so.
    pub(super) async fn settle(&self, machine: &Machine) -> Result<bool> {
        let Some(path) = machine.interface.as_ref().filter(|_| machine.is_created()) else {
            return Ok(true);
        };
        let Some(mut interface) = self.client.get(path, NETWORK).await? else {
            return Ok(true);
        };
        // Azure repairs a failed one when the same request is repeated.
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
}
