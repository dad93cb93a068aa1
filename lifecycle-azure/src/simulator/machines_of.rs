//! Machines that are nodes of some other cloud: what is asked of a VM here is done to a node there.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lifecycle_core::cloud::{CloudProvider, NodeChange, carry_out};
use lifecycle_core::model::NodeSpec;
use lifecycle_core::{Error, Result};

use super::maker::{MachineChange, MachineFailure, MachineMaker, MachineOrder};

/// How long a change may take. A first machine may have to wait for its image.
const LIMIT: Duration = Duration::from_mins(30);

/// Says in which cloud machines are made. Machines differ in their accounts and in what their
/// first boot does, so each may have a provider of its own.
pub trait MachineClouds: fmt::Debug + Send + Sync + 'static {
    /// Where a machine is made, and as which node. The same order gets the same place.
    ///
    /// # Errors
    /// If there can be no such machine.
    fn place(&self, order: &MachineOrder) -> Result<PlacedMachine>;

    /// Where the machine at a private address is reached from outside.
    fn public_address(&self, private: Ipv4Addr) -> Option<Ipv4Addr>;
}

/// A machine's place.
#[derive(Debug, Clone)]
pub struct PlacedMachine {
    /// The cloud that makes it.
    pub cloud: Arc<dyn CloudProvider>,
    /// What it is there.
    pub node: NodeSpec,
}

/// Makes machines as nodes of other clouds.
#[derive(Debug)]
pub struct MachinesOf {
    clouds: Arc<dyn MachineClouds>,
    places: Mutex<BTreeMap<String, PlacedMachine>>,
    /// Held together by those who make a machine; what machines share goes while nobody does.
    making: tokio::sync::RwLock<()>,
}

impl MachinesOf {
    /// Machines in the clouds that `clouds` says.
    pub fn new(clouds: Arc<dyn MachineClouds>) -> Self {
        Self {
            clouds,
            places: Mutex::default(),
            making: tokio::sync::RwLock::default(),
        }
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<String, PlacedMachine>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, machine: &str) -> Result<PlacedMachine> {
        let found = self.places().get(machine).cloned();
        found.ok_or_else(|| Error::not_found(format!("the machine behind {machine}")))
    }

    async fn carry_out(&self, change: MachineChange) -> Result<()> {
        match change {
            MachineChange::Make(order) => self.make(&order).await,
            MachineChange::Start { machine } => self.start(&self.place(&machine)?).await,
            MachineChange::Restart { machine } => self.restart(&self.place(&machine)?).await,
            MachineChange::PowerOff {
                machine,
                skip_shutdown: true,
            } => {
                let place = self.place(&machine)?;
                place.cloud.fence(&place.node.name).await.map(drop)
            }
            MachineChange::PowerOff { machine, .. } | MachineChange::Deallocate { machine } => {
                let place = self.place(&machine)?;
                let node = place.node.name.clone();
                carry_out(place.cloud.as_ref(), NodeChange::Stop { node }, LIMIT).await
            }
            MachineChange::Delete { machine } => self.delete(&machine).await,
        }
    }

    async fn make(&self, order: &MachineOrder) -> Result<()> {
        let place = self.clouds.place(order)?;
        // Known before it is made: what breaks off half-way is deleted with its VM.
        self.places().insert(order.machine.clone(), place.clone());
        let _making = self.making.read().await;
        let spec = place.node.clone();
        carry_out(place.cloud.as_ref(), NodeChange::Provision { spec }, LIMIT).await?;
        // One that was there, from a call that broke off, may have been stopped since.
        self.start(&place).await
    }

    async fn start(&self, place: &PlacedMachine) -> Result<()> {
        let node = place.node.name.clone();
        carry_out(place.cloud.as_ref(), NodeChange::Start { node }, LIMIT).await
    }

    async fn restart(&self, place: &PlacedMachine) -> Result<()> {
        let node = place.node.name.clone();
        let seen = place.cloud.get(&node).await?;
        match seen.and_then(|seen| seen.boot_id) {
            Some(boot_id) => {
                let change = NodeChange::Restart { node, boot_id };
                carry_out(place.cloud.as_ref(), change, LIMIT).await
            }
            None => self.start(place).await,
        }
    }

    async fn delete(&self, machine: &str) -> Result<()> {
        let Some(place) = self.places().get(machine).cloned() else {
            return Ok(());
        };
        let node = place.node.name.clone();
        carry_out(place.cloud.as_ref(), NodeChange::Delete { node }, LIMIT).await?;
        self.places().remove(machine);
        // Whoever is being made needs what machines share, and takes care of it when it goes.
        let Ok(_nobody_makes) = self.making.try_write() else {
            return Ok(());
        };
        match place.cloud.delete_shared().await {
            Err(Error::Conflict { .. }) => Ok(()),
            other => other,
        }
    }
}

#[async_trait]
impl MachineMaker for MachinesOf {
    async fn change(&self, change: MachineChange) -> Result<(), MachineFailure> {
        self.carry_out(change).await.map_err(|error| {
            tracing::warn!(error = error.chain(), "a machine could not be changed");
            MachineFailure::from(&error)
        })
    }

    fn public_address(&self, private: Ipv4Addr) -> Option<Ipv4Addr> {
        self.clouds.public_address(private)
    }
}

impl From<&Error> for MachineFailure {
    fn from(error: &Error) -> Self {
        let code = match error {
            Error::Exhausted { .. } => "AllocationFailed",
            Error::Invalid { .. } => "InvalidParameter",
            Error::TimedOut { .. } => "OSProvisioningTimedOut",
            _ => "InternalOperationError",
        };
        let hint = error.hint().map(|hint| format!(" ({hint})"));
        Self {
            code: code.to_owned(),
            message: format!("{}{}", error.chain(), hint.unwrap_or_default()),
        }
    }
}
