//! Simulates managed disks. A disk is created and deleted with its VM; clients can list, read, and
//! delete disks.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::id::ResourceId;
use super::problem::Problem;
use super::resource::{Head, Resource, stored_in};
use super::state::ArmState;

#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) head: Head,
    pub(crate) sku: String,
    pub(crate) size_gib: u64,
    /// `Linux` for a disk with an operating system.
    pub(crate) os: Option<&'static str>,
    pub(crate) vm: Option<ResourceId>,
    pub(crate) created: DateTime<Utc>,
}

impl Resource for Disk {
    const KIND: &'static str = "Microsoft.Compute/disks";
    const NAMESPACE: &'static str = "Microsoft.Compute";

    stored_in!(disks);

    fn properties(&self, _world: &ArmState) -> Map<String, Value> {
        let created = self.created.to_rfc3339_opts(SecondsFormat::Micros, true);
        let state = if self.vm.is_some() {
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

    fn top_level(&self) -> Map<String, Value> {
        let tier = self.sku.split('_').next().unwrap_or_default();
        let mut top_level = Map::new();
        top_level.insert("sku".into(), json!({"name": self.sku, "tier": tier}));
        if let Some(vm) = &self.vm {
            top_level.insert("managedBy".into(), vm.to_string().into());
        }
        top_level
    }

    fn in_use(&self, _world: &ArmState) -> Option<Problem> {
        let vm = self.vm.as_ref()?;
        let message = format!("Disk {} is attached to VM {vm}.", self.head.id.name);
        Some(Problem::new("OperationNotAllowed", message))
    }
}
