//! Formats VMs for responses, with or without their instance view.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::{Power, VmResource};
use crate::simulator::arm::answer::Answer;
use crate::simulator::arm::call::Call;
use crate::simulator::arm::id::{Key, ResourceId};
use crate::simulator::arm::page::paged;
use crate::simulator::arm::problem::Refusal;
use crate::simulator::arm::resource::{Provisioning, Resource as _, find};
use crate::simulator::arm::state::ArmState;

pub(super) fn written(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

impl VmResource {
    fn statuses(&self) -> Vec<Value> {
        let time = written(self.changed);
        let provisioning = match &self.head.state {
            Provisioning::Failed(problem) => json!({
                "code": format!("ProvisioningState/failed/{}", problem.code),
                "level": "Error",
                "displayStatus": "Provisioning failed",
                "message": problem.message,
                "time": time,
            }),
            Provisioning::Succeeded => json!({
                "code": "ProvisioningState/succeeded",
                "level": "Info",
                "displayStatus": "Provisioning succeeded",
                "time": time,
            }),
            Provisioning::Creating | Provisioning::Updating | Provisioning::Deleting => json!({
                "code": format!("ProvisioningState/{}", self.head.state.name().to_lowercase()),
                "level": "Info",
                "displayStatus": self.head.state.name(),
            }),
        };
        let mut statuses = vec![provisioning];
        if let Some(power) = self.power {
            statuses.push(json!({
                "code": format!("PowerState/{}", power.name()),
                "level": "Info",
                "displayStatus": format!("VM {}", power.name()),
            }));
        }
        statuses
    }

    fn instance(&self) -> Value {
        let mut view = json!({
            "statuses": self.statuses(),
            "hyperVGeneration": self.image.generation(),
            "disks": self.disks.iter().map(|disk| json!({
                "name": disk.id.name,
                "statuses": [{
                    "code": "ProvisioningState/succeeded",
                    "level": "Info",
                    "displayStatus": "Provisioning succeeded",
                    "time": written(self.changed),
                }],
            })).collect::<Vec<_>>(),
        });
        // Only the agent inside a running VM reports these values.
        if self.power == Some(Power::Running) {
            view["computerName"] = self.system.computer_name.clone().into();
            view["osName"] = self.image.os_name.into();
            view["osVersion"] = self.image.os_version.into();
            view["vmAgent"] = json!({
                "vmAgentVersion": "2.9.1.1",
                "statuses": [{
                    "code": "ProvisioningState/succeeded",
                    "level": "Info",
                    "displayStatus": "Ready",
                    "message": "Guest Agent is running",
                    "time": written(self.changed),
                }],
                "extensionHandlers": [],
            });
        }
        view
    }

    fn show_expanded(&self, arm: &ArmState, expanded: bool) -> Value {
        let mut shown = self.show(arm);
        if expanded {
            shown["properties"]["instanceView"] = self.instance();
        }
        shown
    }
}

fn expanded(call: &Call<'_>) -> bool {
    call.parameter("$expand").is_some_and(|list| {
        list.split(',')
            .any(|one| one.trim().eq_ignore_ascii_case("instanceView"))
    })
}

/// Returns a VM. With `$expand=instanceView`, the response contains the VM's instance view.
pub(crate) fn get(call: &Call<'_>, arm: &ArmState, id: &ResourceId) -> Result<Answer, Refusal> {
    let vm = find::<VmResource>(arm, id)?;
    Ok(Answer::ok(vm.show_expanded(arm, expanded(call))))
}

pub(crate) fn instance_view(arm: &ArmState, id: &ResourceId) -> Result<Answer, Refusal> {
    find::<VmResource>(arm, id).map(|vm| Answer::ok(vm.instance()))
}

/// Returns a page of the VMs in a subscription or a group. Supports `statusOnly=true` and
/// `$expand=instanceView`.
pub(crate) fn list(call: &Call<'_>, arm: &ArmState, prefix: &Key) -> Result<Answer, Refusal> {
    let status = call
        .parameter("statusOnly")
        .is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let expanded = status || expanded(call);
    let inside = format!("{prefix}/");
    let found = arm
        .vms
        .range(inside.clone()..)
        .take_while(|(key, _)| key.starts_with(&inside))
        .map(|(key, vm)| (key.clone(), vm.show_expanded(arm, expanded)));
    paged(call, found)
}
