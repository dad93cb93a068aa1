//! How a VM is made: begun, followed, made anew after a failure, and settled.

use lifecycle_core::clock::{IdSource as _, RandomIds};
use lifecycle_core::cloud::CloudProgress;
use lifecycle_core::model::NodeSpec;
use lifecycle_core::{Error, Result};
use serde_json::{Value, json};

use super::{Azure, Token};
use crate::arm::failure::Refusal;
use crate::compute::Action;
use crate::first_boot::HostKey;
use crate::machine::{self, Machine, State};
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
                self.compute
                    .begin(machine.group(), &machine.name, Action::Delete)
                    .await
                    .map_err(|failure| failure.into_error(format!("removing VM {name}")))?;
                Ok(Token::Provision {
                    removes: Some(machine.vm_id),
                })
            }
            Some(machine) if matches!(machine.state, State::Deleting) => Ok(Token::Provision {
                removes: Some(machine.vm_id),
            }),
            Some(_) => Ok(Token::Provision { removes: None }),
            None => {
                self.create(spec).await?;
                Ok(Token::Provision { removes: None })
            }
        }
    }

    pub(super) async fn create(&self, spec: &NodeSpec) -> Result<()> {
        let name = &spec.name;
        self.shared.ensure().await?;
        let run = RandomIds.uuid().to_string();
        let key = HostKey::generate()?;
        let vm = machine::wanted(&self.options, spec, &self.shared.subnet(), &run, &key)?;
        match self.compute.create(name.as_str(), vm).await {
            Ok(()) => Ok(()),
            // Somebody was quicker, and it was one of us: then it is there.
            Err(failure) if failure.refusal().is_some_and(Refusal::is_taken) => {
                match self.ours(name).await? {
                    Some(_) => Ok(()),
                    None => Err(failure.into_error(format!("VM {name}"))),
                }
            }
            Err(failure) => {
                // It may be the network that is missing: another process may have removed it.
                self.shared.forget().await;
                Err(failure.into_error(format!("VM {name}")))
            }
        }
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
            if removes.is_none() {
                return Err(Error::failed(
                    format!("VM {name}"),
                    "it was removed while it was made",
                ));
            }
            self.create(spec).await?;
            return goes_on("Azure makes it anew");
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
            State::Changing(state) => goes_on(&format!("Azure says {state}")),
            State::Deleting => Err(Error::failed(format!("VM {name}"), "it is being removed")),
            State::Failed(ref refusal) if machine.never_ran() => {
                Err(refusal.clone().into_error(format!("VM {name}")))
            }
            // It runs, or ran: what failed was a later change.
            State::Failed(_) | State::Succeeded => {
                if self.settle(&machine).await? {
                    Ok(CloudProgress::Done)
                } else {
                    goes_on("Azure fixes its address")
                }
            }
        }
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
        // One that failed is asked for once more, which is how Azure mends it.
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
