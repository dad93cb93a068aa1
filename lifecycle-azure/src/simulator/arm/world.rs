//! What exists: the resource groups, their resources, and the operations under way.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::address::PublicAddress;
use super::disk::Disk;
use super::group::Group;
use super::id::{Key, group_key};
use super::interface::Interface;
use super::machine::Machine;
use super::network::Network;
use super::operation::Operations;
use super::problem::{Problem, Refusal};
use super::security_group::SecurityGroup;

/// Resources of a kind, by their keys.
pub(crate) type Shelf<R> = BTreeMap<Key, R>;

/// Everything, as plain data; one lock is around it.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) groups: Shelf<Group>,
    pub(crate) networks: Shelf<Network>,
    pub(crate) security_groups: Shelf<SecurityGroup>,
    pub(crate) addresses: Shelf<PublicAddress>,
    pub(crate) interfaces: Shelf<Interface>,
    pub(crate) disks: Shelf<Disk>,
    pub(crate) machines: Shelf<Machine>,
    pub(crate) operations: Operations,
    /// How many public addresses were ever given out: none is given out twice.
    pub(crate) given_addresses: u32,
    /// The time of the request that is being handled.
    pub(crate) now: DateTime<Utc>,
}

impl World {
    /// A group that exists.
    pub(crate) fn group(&self, subscription: &str, group: &str) -> Result<&Group, Refusal> {
        self.groups
            .get(&group_key(subscription, group))
            .ok_or_else(|| {
                let message = format!("Resource group '{group}' could not be found.");
                Problem::new("ResourceGroupNotFound", message).not_found()
            })
    }

    /// A group in which something may be made or changed.
    pub(crate) fn open_group(&self, subscription: &str, name: &str) -> Result<&Group, Refusal> {
        let group = self.group(subscription, name)?;
        if group.deleting {
            let message = format!(
                "The resource group '{name}' is in deprovisioning state and cannot perform this operation."
            );
            return Err(Problem::new("ResourceGroupBeingDeleted", message).conflict());
        }
        Ok(group)
    }
}
