//! Machines that were adopted at run time: the manager takes them over with a login that it gets in the
//! request, and reaches them with the platform's account afterwards.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use lifecycle_core::cloud::{AdoptedMachine, AdoptionState, MachineLogin, MachineSpec};
use lifecycle_core::model::NodeName;
use lifecycle_core::platform::{HostSpec, Membership, NodeLogin};
use lifecycle_core::secret::Sensitive;
use lifecycle_core::{Error, Result};

use super::Hosts;
use super::login::Login;
use super::machine::{Machine, Standing};

/// The adopted machines. They change while the manager runs.
#[derive(Debug, Default)]
pub(super) struct Adoptions(RwLock<BTreeMap<NodeName, Adopted>>);

/// An adopted machine.
#[derive(Debug, Clone)]
pub(super) struct Adopted {
    spec: AdoptedMachine,
    pub(super) machine: Arc<Machine>,
}

impl Adopted {
    /// Returns whether the machine is a declared node.
    pub(super) fn is_declared(&self) -> bool {
        self.spec.state == AdoptionState::Node
    }
}

impl Adoptions {
    /// Replaces the machines. Those that are unchanged keep their connections.
    pub(super) fn set(&self, machines: &BTreeMap<NodeName, AdoptedMachine>, key: &Sensitive) {
        let mut adopted = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *adopted);
        for (node, spec) in machines {
            let known = before.remove(node).filter(|known| known.spec == *spec);
            let new = || Adopted {
                spec: spec.clone(),
                machine: Arc::new(machine(node, spec, key.clone(), None)),
            };
            adopted.insert(node.clone(), known.unwrap_or_else(new));
        }
    }

    pub(super) fn machine(&self, node: &NodeName) -> Option<Arc<Machine>> {
        let adopted = self.0.read().unwrap_or_else(PoisonError::into_inner);
        adopted.get(node).map(|one| Arc::clone(&one.machine))
    }

    /// Returns all machines, except those that are declared meanwhile.
    pub(super) fn all(&self, declared: &BTreeMap<NodeName, Arc<Machine>>) -> Vec<Adopted> {
        let adopted = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let adopted = adopted.iter();
        let adopted = adopted.filter(|(node, _)| !declared.contains_key(*node));
        adopted.map(|(_, one)| one.clone()).collect()
    }
}

fn machine(
    node: &NodeName,
    spec: &AdoptedMachine,
    key: Sensitive,
    login: Option<Login>,
) -> Machine {
    let AdoptedMachine { machine, state } = spec;
    let host = HostSpec {
        membership: match state {
            AdoptionState::Node => Membership::Member,
            AdoptionState::Leaving => Membership::Removed,
            AdoptionState::Unclear => Membership::New,
        },
        ..HostSpec::from(machine)
    };
    Machine::new(node, &host, key, login, false)
}

impl Hosts {
    /// Returns a machine that is not recorded yet, with a login that is forgotten with the value.
    fn candidate(&self, node: &NodeName, spec: &MachineSpec, login: &MachineLogin) -> Machine {
        let declared = NodeLogin {
            password: login.password.clone(),
            key: login.key.clone(),
            unavailable: None,
        };
        let spec = AdoptedMachine {
            machine: spec.clone(),
            state: AdoptionState::Unclear,
        };
        let login = Login::new(spec.machine.user.clone(), declared);
        machine(node, &spec, self.private_key.clone(), Some(login))
    }

    /// Logs in to a machine, and returns it with its host keys.
    pub(super) async fn check(
        &self,
        node: &NodeName,
        spec: &MachineSpec,
        login: &MachineLogin,
    ) -> Result<MachineSpec> {
        let candidate = self.candidate(node, spec, login);
        check_owner(node, candidate.standing(self.owner.id).await?)?;
        Ok(MachineSpec {
            host_keys: candidate.host_keys(),
            ..spec.clone()
        })
    }

    /// Takes a machine over, unless it belongs to the platform already.
    pub(super) async fn take_over(
        &self,
        node: &NodeName,
        spec: &MachineSpec,
        login: &MachineLogin,
    ) -> Result<()> {
        let candidate = self.candidate(node, spec, login);
        let standing = candidate.standing(self.owner.id).await?;
        let was_unowned = matches!(standing, Standing::Unowned { .. });
        if check_owner(node, standing)? == IsEnrolled::Yes {
            return Ok(());
        }
        let enrolled = candidate.enrol(&self.owner, &self.public_key).await;
        // A machine that belonged to the platform before may run containers.
        if let Err(Error::Failed { .. }) = &enrolled
            && was_unowned
            && let Err(error) = candidate.release(self.owner.id).await
        {
            let host = candidate.host();
            tracing::warn!(error = %error.chain(), "the account on {host} could not be removed");
        }
        enrolled.map(drop)
    }
}

/// Whether a machine has been taken over completely.
#[derive(PartialEq)]
enum IsEnrolled {
    Yes,
    No,
}

/// Fails if a machine belongs to another platform or is another node.
fn check_owner(node: &NodeName, standing: Standing) -> Result<IsEnrolled> {
    let why = match standing {
        Standing::Ours { .. } => return Ok(IsEnrolled::Yes),
        Standing::Incomplete { .. } | Standing::Unowned { .. } => return Ok(IsEnrolled::No),
        Standing::Theirs => "the machine belongs to another platform".to_owned(),
        Standing::OtherNode { name } => {
            format!("the machine is node {name} of this platform, or was not released completely")
        }
    };
    Err(Error::conflict(format!("adopting node {node}"), why))
}
