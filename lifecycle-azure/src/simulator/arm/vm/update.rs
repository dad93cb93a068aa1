//! Changes an existing VM: its size, tags, and identity. Other properties cannot be changed.

use axum::http::StatusCode;
use serde_json::Value;

use super::action::{changeable, replace_operation};
use super::create::begin_creation;
use super::request::top_level_of;
use super::{VmResource, set};
use crate::simulator::arm::answer::Answer;
use crate::simulator::arm::call::Call;
use crate::simulator::arm::id::ResourceId;
use crate::simulator::arm::operation::Begin;
use crate::simulator::arm::problem::{Problem, Refusal};
use crate::simulator::arm::resource::{Provisioning, Resource as _, find, head_of, tags_of};
use crate::simulator::arm::sku::{Size, size_of};
use crate::simulator::arm::state::ArmState;
use crate::simulator::arm::usage;

/// The properties that a PUT cannot change, as (path in bodies and responses, Azure's name for the
/// property).
const FIXED: [(&str, &str); 9] = [
    (
        "/properties/storageProfile/imageReference/publisher",
        "imageReference",
    ),
    (
        "/properties/storageProfile/imageReference/offer",
        "imageReference",
    ),
    (
        "/properties/storageProfile/imageReference/sku",
        "imageReference",
    ),
    (
        "/properties/osProfile/computerName",
        "osProfile.computerName",
    ),
    (
        "/properties/osProfile/adminUsername",
        "osProfile.adminUsername",
    ),
    (
        "/properties/osProfile/linuxConfiguration/ssh/publicKeys",
        "linuxConfiguration.ssh.publicKeys",
    ),
    (
        "/properties/osProfile/linuxConfiguration/disablePasswordAuthentication",
        "linuxConfiguration.disablePasswordAuthentication",
    ),
    ("/properties/storageProfile/osDisk/name", "osDisk.name"),
    ("/zones", "zones"),
];

fn fixed(property: &str) -> Refusal {
    let message = format!("Changing property '{property}' is not allowed.");
    Problem::new("PropertyChangeNotAllowed", message)
        .at(property)
        .conflict()
}

/// Handles a PUT for an existing VM.
pub(super) fn put(call: &Call<'_>, arm: &mut ArmState, id: &ResourceId) -> Result<Answer, Refusal> {
    let vm = changeable(arm, id)?;
    let head = head_of(call, id, Some(&vm.head), Provisioning::Updating)?;
    check_fixed(call, arm, vm)?;
    let size = asked_size(call, vm)?.unwrap_or(vm.size);
    change(call, arm, id, size, Some(head.tags))
}

/// Handles a PATCH. Members that the body does not contain stay unchanged.
pub(crate) fn patch(
    call: &Call<'_>,
    arm: &mut ArmState,
    id: &ResourceId,
) -> Result<Answer, Refusal> {
    let vm = changeable(arm, id)?;
    check_fixed(call, arm, vm)?;
    let tags = tags_of(call.body)?;
    let size = asked_size(call, vm)?.unwrap_or(vm.size);
    change(call, arm, id, size, tags)
}

fn check_fixed(call: &Call<'_>, arm: &ArmState, vm: &VmResource) -> Result<(), Refusal> {
    let shown = vm.show(arm);
    for (pointer, name) in FIXED {
        let asked = call.body.pointer(pointer).filter(|asked| !asked.is_null());
        if asked.is_some() && asked != shown.pointer(pointer) {
            return Err(fixed(name));
        }
    }
    let data = call.body.pointer("/properties/osProfile/customData");
    let data = data.and_then(Value::as_str);
    let known = vm.system.custom_data.as_ref();
    if data.is_some() && data != known.map(lifecycle_core::secret::Sensitive::expose) {
        return Err(fixed("osProfile.customData"));
    }
    check_interfaces(call, vm)
}

/// Checks that a request does not change the interfaces. Adding and removing interfaces is not
/// supported.
fn check_interfaces(call: &Call<'_>, vm: &VmResource) -> Result<(), Refusal> {
    let network = |list: &str| {
        let pointer = format!("/properties/networkProfile/{list}");
        call.body.pointer(&pointer).and_then(Value::as_array)
    };
    let text =
        |one: &Value, name: &str| one.get(name).and_then(Value::as_str).map(str::to_lowercase);
    let same = |mut asked: Vec<Option<String>>, mut known: Vec<Option<String>>| {
        asked.sort();
        known.sort();
        asked == known
    };
    let named = network("networkInterfaces").is_none_or(|list| {
        let known = vm.interfaces.iter().map(|one| Some(one.id.key()));
        same(
            list.iter().map(|one| text(one, "id")).collect(),
            known.collect(),
        )
    });
    let configured = network("networkInterfaceConfigurations").is_none_or(|list| {
        let known = vm.interfaces.iter();
        let known = known.map(|one| one.configuration.as_ref().map(|name| name.to_lowercase()));
        same(
            list.iter().map(|one| text(one, "name")).collect(),
            known.collect(),
        )
    });
    if named && configured {
        Ok(())
    } else {
        Err(fixed("networkProfile"))
    }
}

fn asked_size(call: &Call<'_>, vm: &VmResource) -> Result<Option<&'static Size>, Refusal> {
    let asked = call.body.pointer("/properties/hardwareProfile/vmSize");
    let asked = asked.and_then(Value::as_str);
    asked
        .map(|asked| size_of(call, &vm.head.location, asked))
        .transpose()
}

fn change(
    call: &Call<'_>,
    arm: &mut ArmState,
    id: &ResourceId,
    size: &'static Size,
    tags: Option<crate::simulator::arm::resource::Tags>,
) -> Result<Answer, Refusal> {
    let vm = find::<VmResource>(arm, id)?;
    let location = vm.head.location.clone();
    if size != vm.size {
        if size.architecture != vm.size.architecture {
            return Err(fixed("hardwareProfile.vmSize"));
        }
        let forced = call.injected.quota_exceeded;
        // The VM's current cores also count as used, which makes this check slightly stricter than
        // Azure's.
        usage::fits(arm, &call.cloud.options, id, &location, size, forced)?;
    }
    let never_made = vm.power.is_none();
    let power = vm.power;
    let mut top_level = top_level_of(call);
    let etag = call.cloud.ids.uuid();
    if let Some(vm) = arm.vms.get_mut(&id.key()) {
        // An existing identity keeps its ids.
        if vm.top_level.contains_key("identity") {
            top_level.remove("identity");
        }
        vm.top_level.append(&mut top_level);
        vm.size = size;
        vm.head.etag = etag;
        if let Some(tags) = tags {
            vm.head.tags = tags;
        }
    }
    let (operation, state) = if never_made {
        // The VM's creation has failed or is in progress, so start the creation again.
        (begin_creation(call, arm, id)?, Provisioning::Creating)
    } else {
        let delay = call.cloud.options.delays.create;
        let begin = Begin::on::<VmResource>(call, id, &location, delay).showing(id.to_string());
        let key = id.key();
        let finish = move |arm: &mut ArmState, worked: Result<(), Problem>| {
            set(arm, &key, Provisioning::after(&worked), power);
            worked
        };
        let operation = replace_operation(call, arm, id, begin, async { Ok(()) }, finish);
        (operation, Provisioning::Updating)
    };
    set(arm, &id.key(), state, power);
    let shown = find::<VmResource>(arm, id)?.show(arm);
    Ok(Answer::new(StatusCode::OK).body(shown).following(operation))
}
