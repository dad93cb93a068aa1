//! Adopts machines that exist already as nodes at run time.
//!
//! The machine is recorded before it is taken over, so that no manager can lose it. It is declared as a
//! node afterwards. A repeated request continues from any of these points.

use std::net::IpAddr;

use super::overrides::nothing_declared;
use super::{Accepted, Applied, Manager, Write};
use crate::cloud::{MachineLogin, MachineSpec, NodeChange};
use crate::error::{Error, Result, Retry};
use crate::model::{NodeName, NodeSpec, Subject};
use crate::platform::{Declaration, Requested};
use crate::registry::Snapshot;

/// The result of the adoption of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// The change of the declaration.
    pub applied: Applied,
    /// The pinned host keys of the machine, in OpenSSH format.
    pub host_keys: Vec<String>,
}

impl Manager {
    /// Takes over a machine that exists already, and declares it as a node, which is then prepared. The
    /// login is used once, and not stored. Without host keys in `machine`, the key that the machine
    /// offers is trusted and pinned. Returns when the machine is taken over, which may take minutes. A
    /// repeated call continues an interrupted one, and otherwise changes nothing.
    ///
    /// # Errors
    /// - [`Error::Unsupported`] if the provider cannot take machines over
    /// - [`Error::Invalid`] if the machine rejects the login or its host key is another one
    /// - [`Error::Unreachable`] or [`Error::TimedOut`] if the machine does not respond
    /// - [`Error::Conflict`] if the machine belongs to another platform or is another node, if a different
    ///   node has this name, or if the platform is being deleted
    /// - [`Error::NotReady`] before the end of the first round
    pub async fn adopt_node(
        &self,
        spec: NodeSpec,
        machine: MachineSpec,
        login: &MachineLogin,
    ) -> Result<Adopted> {
        let _adopting = self.adopting.lock().await;
        let (cloud, node) = (&self.backends.cloud, spec.name.clone());
        let subject = Subject::Node(node.clone());
        let machine = match self.check_adoption(&spec, machine).await? {
            Checked::Answered(adopted) => return Ok(adopted),
            Checked::New(machine) => machine,
        };
        let checked = cloud.check_machine(&node, &machine, login).await;
        let machine = checked.map_err(rejected)?;
        let write = self.begin_part().await?;
        let begin = |snapshot: &Snapshot, declaration: Declaration, requested: &Requested| {
            let is_recorded = |node: &NodeName| snapshot.nodes.contains_key(node);
            declaration.adopting_node(spec, machine.clone(), requested, is_recorded)
        };
        self.redeclare_in(write, "begin to adopt", subject.clone(), begin)
            .await?;
        if let Err(error) = cloud.take_over_machine(&node, &machine, login).await {
            if !matches!(error.retry(), Retry::After(_)) {
                self.abandon_adoption(&node).await;
            }
            return Err(rejected(error));
        }
        let adopted = self.redeclare("adopt", subject, |_, declaration, _| {
            declaration.adopted_node(&node)
        });
        match adopted.await {
            Ok(applied) => Ok(Adopted {
                applied,
                host_keys: machine.host_keys,
            }),
            Err(error) => {
                if let Error::Conflict { .. } = &error {
                    self.release_machine(&node).await;
                }
                Err(error)
            }
        }
    }

    /// Rejects an adoption that cannot succeed, before the login. Returns the machine with its pinned
    /// host keys, if they are known, or the answer to an earlier request with the same key.
    async fn check_adoption(&self, spec: &NodeSpec, machine: MachineSpec) -> Result<Checked> {
        let write = self.begin_write(Accepted::AfterFirstRound).await?;
        let answered = self.answered_change::<Applied>(&write).await?;
        let node = &spec.name;
        self.reject_while_deleting(&format!("adoption of node {node}"))
            .await?;
        let snapshot = self.snapshot().await?;
        let Some((_, declaration)) = &snapshot.declaration else {
            return Err(nothing_declared(node));
        };
        let known = declaration.overrides.machine(node);
        if let Some(applied) = answered {
            let host_keys = known.map(|known| known.host_keys.clone());
            return Ok(Checked::Answered(Adopted {
                applied,
                host_keys: host_keys.unwrap_or_default(),
            }));
        }
        check_address(node, &machine, &snapshot)?;
        let machine = match known {
            Some(known) if known.is_at(&machine) => machine.pinned_as(known),
            _ => machine,
        };
        let is_recorded = |node: &NodeName| snapshot.nodes.contains_key(node);
        let requested = self.requested();
        declaration.clone().adopting_node(
            spec.clone(),
            machine.clone(),
            &requested,
            is_recorded,
        )?;
        Ok(Checked::New(machine))
    }

    /// Starts a write that is a part of a request. The answer to the request is recorded by a later one.
    async fn begin_part(&self) -> Result<Write<'_>> {
        let write = self.begin_write(Accepted::AfterFirstRound).await?;
        Ok(Write {
            record: None,
            answered: None,
            ..write
        })
    }

    /// Forgets a machine whose take-over has failed.
    async fn abandon_adoption(&self, node: &NodeName) {
        let abandoned = async {
            let write = self.begin_part().await?;
            let subject = Subject::Node(node.clone());
            self.redeclare_in(
                write,
                "abandon the adoption",
                subject,
                |_, declaration, _| Ok(declaration.without_adoption(node)),
            )
            .await
        };
        if let Err(error) = abandoned.await {
            tracing::warn!(error = %error.chain(), "the adoption of {node} is still recorded");
        }
    }

    /// Releases a machine whose adoption was ended while it was taken over. If this fails, the control
    /// loop releases it.
    async fn release_machine(&self, node: &NodeName) {
        let node = node.clone();
        let release = NodeChange::Delete { node };
        if let Err(error) = self.backends.cloud.begin(release).await {
            tracing::warn!(error = %error.chain(), "a machine is not released yet");
        }
    }
}

/// Rejects a machine whose address is that of another node.
fn check_address(node: &NodeName, machine: &MachineSpec, snapshot: &Snapshot) -> Result<()> {
    let address = machine.address.parse::<IpAddr>().ok();
    let requested = address.into_iter().chain(machine.private_address);
    let requested: Vec<IpAddr> = requested.collect();
    let mut others = snapshot.nodes.values().filter(|other| other.name != *node);
    let other = others.find(|other| {
        let Some(other) = other.observed.as_ref() else {
            return false;
        };
        let addresses = other.addresses.private.into_iter();
        let mut addresses = addresses.chain(other.addresses.public);
        other.ssh.port == machine.port && addresses.any(|address| requested.contains(&address))
    });
    match other {
        None => Ok(()),
        Some(other) => Err(Error::conflict(
            format!("adopting node {node}"),
            format!("node {} has the same address and port", other.name),
        )),
    }
}

/// Returns the error for a login or a host key that the machine rejects: they are parts of the request.
fn rejected(error: Error) -> Error {
    match error {
        Error::Denied { what, why, hint } => Error::Invalid { what, why, hint },
        error => error,
    }
}

/// The result of checking a request for an adoption.
enum Checked {
    New(MachineSpec),
    Answered(Adopted),
}
