//! Holds the state of Resource Manager: resource groups, their resources, and operations.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::address::PublicAddress;
use super::disk::Disk;
use super::group::Group;
use super::id::{Key, group_key};
use super::interface::Interface;
use super::network::Network;
use super::operation::Operations;
use super::problem::{Problem, Refusal};
use super::security_group::SecurityGroup;
use super::vm::VmResource;

/// The resources of one type, by key.
pub(crate) type Table<R> = BTreeMap<Key, R>;

/// The complete state. All access is protected by a single lock.
#[derive(Debug, Default)]
pub(crate) struct ArmState {
    pub(crate) groups: Table<Group>,
    pub(crate) networks: Table<Network>,
    pub(crate) security_groups: Table<SecurityGroup>,
    pub(crate) addresses: Table<PublicAddress>,
    pub(crate) interfaces: Table<Interface>,
    pub(crate) disks: Table<Disk>,
    pub(crate) vms: Table<VmResource>,
    pub(crate) operations: Operations,
    /// The number of public addresses allocated so far. An address is never reused.
    pub(crate) given_addresses: u32,
    /// The time of the request that is being handled.
    pub(crate) now: DateTime<Utc>,
}

impl ArmState {
    pub(crate) fn group(&self, subscription: &str, group: &str) -> Result<&Group, Refusal> {
        self.groups
            .get(&group_key(subscription, group))
            .ok_or_else(|| {
                let message = format!("Resource group '{group}' could not be found.");
                Problem::new("ResourceGroupNotFound", message).not_found()
            })
    }

    /// Returns a group in which resources may be created or changed. Fails if the group is being
    /// deleted.
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
