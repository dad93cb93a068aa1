//! Determines which VM is a node, and adopts and releases existing VMs.

use std::time::Duration;

use lifecycle_core::model::NodeName;
use lifecycle_core::{Error, Result};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::Azure;
use crate::compute::COMPUTE;
use crate::tags::{self, Tags};
use crate::vm::{State, Vm};

/// Time limit for changing tags, which usually takes seconds.
const TAGS: Duration = Duration::from_mins(5);

impl Azure {
    /// Returns the VM of a node, even if this platform does not own the VM. The VM is the declared
    /// existing one, or the one with the node's name in the platform's group, or an adopted VM. A VM
    /// in another group does not become a node because of its name.
    pub(super) async fn vm(&self, node: &NodeName) -> Result<Option<Vm>> {
        let named = if let Some(name) = self.options.existing.get(node) {
            // Azure ignores the case of names.
            let is_named = |vm: &Vm| vm.name.eq_ignore_ascii_case(name);
            self.compute.find(is_named).await?
        } else {
            let group = self.options.group();
            let found = self.compute.get(&group, node.as_str()).await?;
            if let Some(found) = found {
                return self.unless_other_node(node, found).map(Some);
            }
            let is_node = |vm: &Vm| {
                vm.tags.are_of(&self.options.owner)
                    && self.options.node_of(vm).as_ref() == Some(node)
            };
            self.compute.find(is_node).await?
        };
        let (owned, others): (Vec<_>, Vec<_>) = named
            .into_iter()
            .filter(|vm| !self.is_other_node(node, vm))
            .partition(|vm| vm.tags.are_of(&self.options.owner));
        let group = self.options.group();
        // Ignore nodes of other platforms, except in this platform's own group.
        let mut others = others.into_iter().filter(|other| {
            other.tags.get(tags::PLATFORM_ID).is_none()
                || other.group().eq_ignore_ascii_case(&group)
        });
        match (owned.into_iter().next(), others.next(), others.next()) {
            (Some(owned), ..) => Ok(Some(owned)),
            (None, Some(one), Some(other)) => Err(Error::conflict(
                format!("VM {}", one.name),
                format!(
                    "the resource groups {} and {} both contain a VM with this name",
                    one.group(),
                    other.group()
                ),
            )),
            (None, other, _) => Ok(other),
        }
    }

    /// Returns whether the VM is another node of this platform.
    fn is_other_node(&self, node: &NodeName, vm: &Vm) -> bool {
        let other = self.options.node_of(vm);
        vm.tags.are_of(&self.options.owner) && other.is_some_and(|other| other != *node)
    }

    fn unless_other_node(&self, node: &NodeName, vm: Vm) -> Result<Vm> {
        let other = self.options.node_of(&vm);
        match other.filter(|_| self.is_other_node(node, &vm)) {
            Some(other) => Err(Error::conflict(
                format!("VM {}", vm.name),
                format!(
                    "the VM is node {other} of this platform; choose another name for node {node}"
                ),
            )),
            None => Ok(vm),
        }
    }

    /// Returns the node's VM. Fails if the VM does not belong to this platform.
    pub(super) async fn owned(&self, node: &NodeName) -> Result<Option<Vm>> {
        match self.vm(node).await? {
            Some(vm) if !vm.tags.are_of(&self.options.owner) => Err(Error::conflict(
                format!("VM {node}"),
                "the VM exists, but does not carry this platform's id; if the platform took it over, \
                 `bootstrapper up` sets the tags again",
            )),
            found => Ok(found),
        }
    }

    /// Marks an existing VM as a node of this platform. Also marks the VM as not created by this
    /// program, so that this program never deletes it.
    pub(super) async fn mark(&self, node: &NodeName) -> Result<()> {
        let Some(vm) = self.vm(node).await? else {
            let vm = self.options.existing.get(node).map(String::as_str);
            return Err(Error::not_found(format!(
                "VM {}",
                vm.unwrap_or(node.as_str())
            )));
        };
        if !vm.tags.are_of(&self.options.owner) {
            let is_node = |other: &Vm| {
                other.tags.are_of(&self.options.owner)
                    && self.options.node_of(other).as_ref() == Some(node)
            };
            if let Some(other) = self.compute.find(is_node).await?.first() {
                return Err(Error::conflict(
                    format!("VM {}", vm.name),
                    format!(
                        "node {node} is VM {} already; remove the node with one `bootstrapper up`, \
                         then declare it again",
                        other.name
                    ),
                ));
            }
            if vm.tags.get(tags::PLATFORM_ID).is_some() {
                return Err(Error::conflict(
                    format!("VM {}", vm.name),
                    "the VM is a node of another platform",
                ));
            }
            let owner = &self.options.owner;
            let tags = vm
                .tags
                .clone()
                .with(tags::PLATFORM, owner.name.as_str())
                .with(tags::PLATFORM_ID, &owner.id.to_string())
                .with(tags::NODE, node.as_str())
                // Overwrite a value that a previous platform may have set.
                .with(tags::CREATED, "no");
            self.set_tags(&vm, &tags).await?;
        }
        Ok(())
    }

    /// Releases an adopted node from the platform. The VM keeps running.
    pub(super) async fn release(&self, vm: &Vm) -> Result<()> {
        let tags = vm.tags.clone();
        let owned = [tags::PLATFORM, tags::PLATFORM_ID, tags::NODE, tags::CREATED];
        let left = owned.iter().fold(tags, |tags, key| tags.without(key));
        self.set_tags(vm, &left).await
    }

    /// Replaces a VM's tags and waits until Azure has finished. Until then, Azure reports the VM as
    /// changing, and other changes are rejected.
    async fn set_tags(&self, vm: &Vm, tags: &Tags) -> Result<()> {
        let body = json!({ "tags": tags.to_value() });
        self.client.patch(&vm.id, COMPUTE, &body).await?;
        let settled = async {
            loop {
                let now = self.compute.get(vm.group(), &vm.name).await?;
                match now.map(|now| now.state) {
                    Some(State::Changing(_)) => sleep(self.options.poll_every).await,
                    Some(State::Deleting | State::Succeeded | State::Failed(_)) | None => {
                        return Ok(());
                    }
                }
            }
        };
        let what = || format!("changing the tags of VM {}", vm.name);
        timeout(TAGS, settled)
            .await
            .unwrap_or_else(|_| Err(Error::timed_out(what(), TAGS)))
    }
}
