//! Machines that are adopted as nodes at run time, while they are taken over, as nodes, and until they
//! are released.
//!
//! A machine is recorded before it is taken over, and declared as a node afterwards. So an interrupted
//! take-over is visible, can be repeated, and can be ended like a node.

use std::collections::{BTreeMap, BTreeSet};

use super::{AddedNode, LeavingMachine, Overrides, Requested};
use crate::cloud::{AdoptedMachine, AdoptionState, MachineSpec};
use crate::error::{Error, Result};
use crate::model::{Existing, NodeName, NodeSpec, Origin};
use crate::platform::{Declaration, HostPlace};

impl Overrides {
    /// Returns the machine of a node that was adopted, or is being adopted.
    pub(crate) fn machine(&self, node: &NodeName) -> Option<&MachineSpec> {
        let node = self.nodes.get(node).or_else(|| self.adopting.get(node))?;
        node.machine.as_ref()
    }

    /// Returns the adopted machines that belong to the platform, or may. `is_recorded` returns whether the
    /// registry contains the node. While the platform is being deleted (`deleting`), the machines that
    /// are being adopted are released, too.
    pub(crate) fn adopted_machines(
        &self,
        is_recorded: impl Fn(&NodeName) -> bool,
        deleting: bool,
    ) -> BTreeMap<NodeName, AdoptedMachine> {
        let of = |machine: &MachineSpec, state| AdoptedMachine {
            machine: machine.clone(),
            state,
        };
        let leaving = self.leaving.iter().filter_map(|(node, one)| {
            let state = match (one.was_observed, is_recorded(node)) {
                (true, true) => AdoptionState::Leaving,
                // The machine was released.
                (true, false) => return None,
                (false, _) => AdoptionState::Unclear,
            };
            Some((node.clone(), of(&one.machine, state)))
        });
        let adopting = self.adopting.iter().filter_map(|(node, one)| {
            let machine = one.machine.as_ref().filter(|_| deleting)?;
            Some((node.clone(), of(machine, AdoptionState::Unclear)))
        });
        let nodes = self.nodes.iter().filter_map(|(node, one)| {
            let machine = one.machine.as_ref()?;
            Some((node.clone(), of(machine, AdoptionState::Node)))
        });
        leaving.chain(adopting).chain(nodes).collect()
    }

    /// Returns the names of all machines that were adopted, are being adopted, or are being released.
    pub(crate) fn adopted_nodes(&self) -> BTreeSet<NodeName> {
        let nodes = self.nodes.iter().filter(|(_, one)| one.machine.is_some());
        let nodes = nodes.map(|(node, _)| node);
        let others = self.adopting.keys().chain(self.leaving.keys());
        nodes.chain(others).cloned().collect()
    }
}

impl Declaration {
    /// Keeps the machines that are being adopted and released, except those that the files declare.
    pub(super) fn keep_machines(
        &mut self,
        adopting: BTreeMap<NodeName, AddedNode>,
        leaving: BTreeMap<NodeName, LeavingMachine>,
    ) {
        let is_declared = |node: &NodeName| self.nodes.contains_key(node);
        let adopting = adopting.into_iter().filter(|(node, _)| !is_declared(node));
        self.overrides.adopting = adopting.collect();
        let leaving = leaving.into_iter().filter(|(node, _)| !is_declared(node));
        self.overrides.leaving = leaving.collect();
    }

    /// Fails if the files declare another machine for a node than the adopted one, which would then run
    /// unknown to the platform.
    pub(crate) fn check_adopted(&self, overrides: &Overrides) -> Result<()> {
        let adopted = { overrides.nodes.iter() }.chain(&overrides.adopting);
        let mut adopted = adopted.filter_map(|(node, one)| Some((node, one.machine.as_ref()?)));
        let is_other = |(node, machine): &(&NodeName, &MachineSpec)| {
            let host = self.cloud.host(node);
            let is_at = host.is_some_and(|host| match &host.place {
                HostPlace::Address { address, .. } => {
                    host.port == machine.port && address.eq_ignore_ascii_case(&machine.address)
                }
                HostPlace::Vm { .. } => false,
            });
            self.nodes.contains_key(*node) && !is_at
        };
        match adopted.find(is_other) {
            None => Ok(()),
            Some((node, machine)) => Err(Error::invalid(
                format!("node {node}"),
                format!(
                    "it is declared as another machine than the one adopted at run time, {}",
                    machine.address
                ),
                format!(
                    "choose another name, or remove the adopted one first with `bootstrapper node \
                     remove {node}`"
                ),
            )),
        }
    }

    /// Fails if a node has this name.
    pub(super) fn check_free(&self, node: &NodeName, request: &str) -> Result<()> {
        let is_adopting = self.overrides.adopting.contains_key(node);
        if !is_adopting && !self.nodes.contains_key(node) {
            return Ok(());
        }
        let why = if is_adopting {
            "a machine is being adopted as the node with this name"
        } else {
            "a node with this name is already declared"
        };
        Err(Error::Conflict {
            what: format!("{request} node {node}"),
            why: why.into(),
        })
    }

    /// Records that a machine is to be taken over as a node. Changes nothing if it was recorded before,
    /// or is this node already. `is_recorded` returns whether the registry contains a node.
    ///
    /// # Errors
    /// [`Error::Conflict`] if a different node has this name, if another node has this address, or if the
    /// machine of a removed node with this name has not been released yet
    pub(crate) fn adopting_node(
        mut self,
        spec: NodeSpec,
        machine: MachineSpec,
        requested: &Requested,
        is_recorded: impl Fn(&NodeName) -> bool,
    ) -> Result<Self> {
        let name = spec.name.clone();
        let conflict = |why: String| Error::Conflict {
            what: format!("adopting node {name}"),
            why,
        };
        let spec = NodeSpec {
            existing: Some(Existing::Host),
            origin: Origin::Api,
            ..spec
        };
        let overrides = &self.overrides;
        let known = overrides.nodes.get(&name);
        if let Some(known) = known.or_else(|| overrides.adopting.get(&name))
            && let Some(before) = &known.machine
        {
            let is_same = before.is_at(&machine)
                && before.private_address == machine.private_address
                && known.spec.labels == spec.labels;
            if !is_same {
                return Err(conflict(format!(
                    "the node has another address or other labels; remove it with `bootstrapper node \
                     remove {name}` first"
                )));
            }
            self.pin(&name, machine.host_keys);
            return Ok(self);
        }
        self.check_free(&name, "adopting")?;
        if self.cloud.host(&name).is_some() {
            return Err(conflict(
                "a machine with this name was declared before; run `bootstrapper up` first".into(),
            ));
        }
        let in_force = overrides.adopted_machines(&is_recorded, false);
        if let Some(AdoptionState::Leaving) = in_force.get(&name).map(|one| one.state) {
            return Err(conflict(
                "the machine of the removed node with this name has not been released yet".into(),
            ));
        }
        let adopting = overrides.adopting.iter();
        let adopting = adopting.filter_map(|(node, one)| Some((node, one.machine.as_ref()?)));
        let adopted = in_force.iter().map(|(node, one)| (node, &one.machine));
        let other = adopting.chain(adopted).find(|(_, one)| one.is_at(&machine));
        let declared = self.cloud.hosts().into_iter().flat_map(|spec| &spec.hosts);
        let declared = { declared }.find(|(node, host)| {
            let is_there = match &host.place {
                HostPlace::Address { address, .. } => {
                    address.eq_ignore_ascii_case(&machine.address)
                }
                HostPlace::Vm { .. } => false,
            };
            is_there && host.port == machine.port && self.nodes.contains_key(*node)
        });
        let other = other.map(|(node, _)| node);
        if let Some(other) = other.or_else(|| declared.map(|(node, _)| node))
            && *other != name
        {
            return Err(conflict(format!(
                "node {other} has the same address and port"
            )));
        }
        self.overrides
            .leaving
            .retain(|node, one| *node != name && (is_recorded(node) || !one.was_observed));
        let adopting = AddedNode {
            spec,
            machine: Some(machine),
            requested: requested.clone(),
        };
        self.overrides.adopting.insert(name, adopting);
        Ok(self)
    }

    /// Replaces the pinned host keys of an adopted machine, for example after it was installed again.
    fn pin(&mut self, node: &NodeName, host_keys: Vec<String>) {
        let overrides = &mut self.overrides;
        let known = overrides.nodes.get_mut(node);
        let known = known.or_else(|| overrides.adopting.get_mut(node));
        if let Some(machine) = known.and_then(|known| known.machine.as_mut())
            && !host_keys.is_empty()
        {
            machine.host_keys = host_keys;
        }
    }

    /// Declares the node whose machine has been taken over. Changes nothing if it is declared already.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the adoption was ended meanwhile
    pub(crate) fn adopted_node(mut self, node: &NodeName) -> Result<Self> {
        let known = self.overrides.nodes.get(node);
        if known.is_some_and(|known| known.machine.is_some()) {
            return Ok(self);
        }
        let Some(added) = self.overrides.adopting.remove(node) else {
            return Err(Error::Conflict {
                what: format!("adopting node {node}"),
                why: "the node was removed meanwhile".into(),
            });
        };
        self.nodes.insert(node.clone(), added.spec.clone());
        self.overrides.nodes.insert(node.clone(), added);
        Ok(self)
    }

    /// Forgets a machine whose take-over has failed, so that it does not belong to the platform.
    pub(crate) fn without_adoption(mut self, node: &NodeName) -> Self {
        self.overrides.adopting.remove(node);
        self
    }

    /// Ends the adoption of a node, if it is being adopted. Its machine is released if it was taken
    /// over.
    pub(super) fn ends_adoption(&mut self, node: &str) -> bool {
        let adopting = &mut self.overrides.adopting;
        let Some(name) = adopting.keys().find(|one| one.as_str() == node).cloned() else {
            return false;
        };
        if let Some(machine) = adopting.remove(&name).and_then(|one| one.machine) {
            let leaving = LeavingMachine {
                machine,
                was_observed: false,
            };
            self.overrides.leaving.insert(name, leaving);
        }
        true
    }
}
