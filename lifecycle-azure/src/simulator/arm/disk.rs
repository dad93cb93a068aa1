//! Managed disks. They come and go with VMs here; a client lists, reads and deletes them.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::id::ResourceId;
use super::problem::Problem;
use super::resource::{Head, Resource, stands_on};
use super::world::World;

/// A managed disk.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) head: Head,
    pub(crate) sku: String,
    pub(crate) size_gib: u64,
    /// `Linux`, for a disk with an operating system.
    pub(crate) os: Option<&'static str>,
    pub(crate) machine: Option<ResourceId>,
    pub(crate) created: DateTime<Utc>,
}

impl Resource for Disk {
    const KIND: &'static str = "Microsoft.Compute/disks";
    const NAMESPACE: &'static str = "Microsoft.Compute";

    stands_on!(disks);

    fn properties(&self, _world: &World) -> Map<String, Value> {
        let created = self.created.to_rfc3339_opts(SecondsFormat::Micros, true);
        let state = if self.machine.is_some() {
            "Attached"
        } else {
            "Unattached"
        };
        let option = if self.os.is_some() {
            "FromImage"
        } else {
            "Empty"
        };
        let mut properties = Map::new();
        properties.insert("creationData".into(), json!({"createOption": option}));
        properties.insert("diskSizeGB".into(), self.size_gib.into());
        properties.insert("diskState".into(), state.into());
        properties.insert("timeCreated".into(), created.into());
        properties.insert("networkAccessPolicy".into(), "AllowAll".into());
        if let Some(os) = self.os {
            properties.insert("osType".into(), os.into());
        }
        properties
    }

    fn beside(&self) -> Map<String, Value> {
        let tier = self.sku.split('_').next().unwrap_or_default();
        let mut beside = Map::new();
        beside.insert("sku".into(), json!({"name": self.sku, "tier": tier}));
        if let Some(machine) = &self.machine {
            beside.insert("managedBy".into(), machine.to_string().into());
        }
        beside
    }

    fn in_use(&self, _world: &World) -> Option<Problem> {
        let machine = self.machine.as_ref()?;
        let message = format!("Disk {} is attached to VM {machine}.", self.head.id.name);
        Some(Problem::new("OperationNotAllowed", message))
    }
}
