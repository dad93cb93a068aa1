//! Applies the settings of a new VM's parts that the request that creates the VM cannot contain: a
//! static private address, and the tags of the interface, the public address, and the disk.

use lifecycle_core::Result;
use serde_json::{Value, json};

use super::Azure;
use crate::network::{NETWORK, is_failed, is_ready};
use crate::tags::{self, Tags};
use crate::vm::{self, Vm};

/// The API version of the requests for disks.
const DISKS: &str = "2023-04-02";

impl Azure {
    /// Makes the private address of a VM static, and tags the VM's parts. Returns whether the change
    /// is complete.
    pub(super) async fn settle(&self, vm: &Vm) -> Result<bool> {
        let Some(path) = vm.interface.as_ref().filter(|_| vm.is_created()) else {
            return Ok(true);
        };
        let Some(mut interface) = self.client.get(path, NETWORK).await? else {
            // Azure does not show the interface yet: it cannot be removed before the VM.
            return Ok(false);
        };
        // Azure repairs a failed change when the same request is repeated.
        let mut changed = is_failed(&interface);
        if !changed && !is_ready(path, &interface)? {
            return Ok(false);
        }
        if let Some(tags) = self.missing_tags(vm, &interface) {
            interface["tags"] = tags.to_value();
            changed = true;
        }
        changed |= make_static(&mut interface);
        let (_, public) = vm::addresses(&interface);
        if changed {
            interface = self.client.put(path, NETWORK, &interface).await?;
        }
        if let Some(public) = public {
            self.tag(vm, &public, NETWORK).await?;
        }
        if let Some(disk) = &vm.disk {
            self.tag(vm, disk, DISKS).await?;
        }
        is_ready(path, &interface)
    }

    /// Tags a resource that Azure created together with a VM, unless it has the tags.
    async fn tag(&self, vm: &Vm, path: &str, version: &str) -> Result<()> {
        let Some(resource) = self.client.get_existing(path, version).await? else {
            return Ok(());
        };
        match self.missing_tags(vm, &resource) {
            Some(tags) => {
                let body = json!({ "tags": tags.to_value() });
                self.client.patch(path, version, &body).await
            }
            None => Ok(()),
        }
    }

    /// Returns all tags for a resource that Azure created together with a VM, or `None` if the
    /// resource has them.
    fn missing_tags(&self, vm: &Vm, resource: &Value) -> Option<Tags> {
        let owner = &self.options.owner;
        let node = self.options.node_of(vm)?;
        let found = Tags::read(resource.get("tags"));
        let complete = found
            .clone()
            .with(tags::PLATFORM, owner.name.as_str())
            .with(tags::PLATFORM_ID, &owner.id.to_string())
            .with(tags::NODE, node.as_str());
        (complete != found).then_some(complete)
    }
}

/// Makes the private addresses of an interface static. Returns whether this is a change.
fn make_static(interface: &mut Value) -> bool {
    let mut changed = false;
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
    changed
}
