//! Changing a VM that is there: size, tags, identity. All else is as it was created.

use axum::http::StatusCode;
use serde_json::Value;

use super::action::{changeable, replace_operation};
use super::create::begin_making;
use super::request::beside_of;
use super::{Machine, set};
use crate::simulator::arm::answer::Answer;
use crate::simulator::arm::call::Call;
use crate::simulator::arm::id::ResourceId;
use crate::simulator::arm::operation::Begin;
use crate::simulator::arm::problem::{Problem, Refusal};
use crate::simulator::arm::resource::{Provisioning, Resource as _, find, head_of, tags_of};
use crate::simulator::arm::sku::{Size, size_of};
use crate::simulator::arm::usage;
use crate::simulator::arm::world::World;

/// What no PUT changes: (where it stands in a body and in what is shown, Azure's name for it).
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

/// A PUT over a VM that is there.
pub(super) fn put(call: &Call<'_>, world: &mut World, id: &ResourceId) -> Result<Answer, Refusal> {
    let machine = changeable(world, id)?;
    let head = head_of(call, id, Some(&machine.head), Provisioning::Updating)?;
    check_fixed(call, world, machine)?;
    let size = asked_size(call, machine)?.unwrap_or(machine.size);
    change(call, world, id, size, Some(head.tags))
}

/// A PATCH: what it does not name stays.
pub(crate) fn patch(
    call: &Call<'_>,
    world: &mut World,
    id: &ResourceId,
) -> Result<Answer, Refusal> {
    let machine = changeable(world, id)?;
    check_fixed(call, world, machine)?;
    let tags = tags_of(call.body)?;
    let size = asked_size(call, machine)?.unwrap_or(machine.size);
    change(call, world, id, size, tags)
}

fn check_fixed(call: &Call<'_>, world: &World, machine: &Machine) -> Result<(), Refusal> {
    let shown = machine.show(world);
    for (pointer, name) in FIXED {
        let asked = call.body.pointer(pointer).filter(|asked| !asked.is_null());
        if asked.is_some() && asked != shown.pointer(pointer) {
            return Err(fixed(name));
        }
    }
    let data = call.body.pointer("/properties/osProfile/customData");
    let data = data.and_then(Value::as_str);
    let known = machine.system.custom_data.as_ref();
    if data.is_some() && data != known.map(lifecycle_core::secret::Sensitive::expose) {
        return Err(fixed("osProfile.customData"));
    }
    check_interfaces(call, machine)
}

/// Interfaces can neither be added nor taken away here.
fn check_interfaces(call: &Call<'_>, machine: &Machine) -> Result<(), Refusal> {
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
        let known = machine.interfaces.iter().map(|one| Some(one.id.key()));
        same(
            list.iter().map(|one| text(one, "id")).collect(),
            known.collect(),
        )
    });
    let configured = network("networkInterfaceConfigurations").is_none_or(|list| {
        let known = machine.interfaces.iter();
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

fn asked_size(call: &Call<'_>, machine: &Machine) -> Result<Option<&'static Size>, Refusal> {
    let asked = call.body.pointer("/properties/hardwareProfile/vmSize");
    let asked = asked.and_then(Value::as_str);
    asked
        .map(|asked| size_of(call, &machine.head.location, asked))
        .transpose()
}

fn change(
    call: &Call<'_>,
    world: &mut World,
    id: &ResourceId,
    size: &'static Size,
    tags: Option<crate::simulator::arm::resource::Tags>,
) -> Result<Answer, Refusal> {
    let machine = find::<Machine>(world, id)?;
    let location = machine.head.location.clone();
    if size != machine.size {
        if size.architecture != machine.size.architecture {
            return Err(fixed("hardwareProfile.vmSize"));
        }
        let forced = call.injected.quota_exceeded;
        // Its present cores are counted as used too, a little more strictly than Azure does.
        usage::fits(world, &call.cloud.options, id, &location, size, forced)?;
    }
    let never_made = machine.power.is_none();
    let power = machine.power;
    let mut beside = beside_of(call);
    let etag = call.cloud.ids.uuid();
    if let Some(machine) = world.machines.get_mut(&id.key()) {
        // An identity that it has keeps its ids.
        if machine.beside.contains_key("identity") {
            beside.remove("identity");
        }
        machine.beside.append(&mut beside);
        machine.size = size;
        machine.head.etag = etag;
        if let Some(tags) = tags {
            machine.head.tags = tags;
        }
    }
    let (operation, state) = if never_made {
        // Its creation failed, or is under way: it is tried once more.
        (begin_making(call, world, id)?, Provisioning::Creating)
    } else {
        let delay = call.cloud.options.delays.create;
        let begin = Begin::on::<Machine>(call, id, &location, delay).showing(id.to_string());
        let key = id.key();
        let finish = move |world: &mut World, worked: Result<(), Problem>| {
            set(world, &key, Provisioning::after(&worked), power);
            worked
        };
        let operation = replace_operation(call, world, id, begin, async { Ok(()) }, finish);
        (operation, Provisioning::Updating)
    };
    set(world, &id.key(), state, power);
    let shown = find::<Machine>(world, id)?.show(world);
    Ok(Answer::new(StatusCode::OK).body(shown).following(operation))
}
