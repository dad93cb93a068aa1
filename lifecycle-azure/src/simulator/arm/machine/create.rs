//! Creating a VM: with interfaces that are there, or with some that are made with it.

use axum::http::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::request::{DiskRequest, MachineRequest, NetworkRequest};
use super::{Attached, DiskUse, Machine, Power, is_delete, set, update};
use crate::simulator::arm::address::PublicAddress;
use crate::simulator::arm::answer::Answer;
use crate::simulator::arm::call::Call;
use crate::simulator::arm::disk::Disk;
use crate::simulator::arm::id::{Key, ResourceId, key_of};
use crate::simulator::arm::inbound::open_from_outside;
use crate::simulator::arm::interface::Interface;
use crate::simulator::arm::network::missing_reference;
use crate::simulator::arm::operation::{Begin, OperationId};
use crate::simulator::arm::problem::{Problem, Refusal, required};
use crate::simulator::arm::resource::{
    Declared as _, Head, Provisioning, Resource, conditions, find, head_of, tags_of,
};
use crate::simulator::arm::usage;
use crate::simulator::arm::world::World;
use crate::simulator::maker::{MachineChange, MachineOrder};

/// Creates a VM, or changes the one that is there.
pub(crate) fn put(call: &Call<'_>, world: &mut World, id: &ResourceId) -> Result<Answer, Refusal> {
    world.open_group(&id.subscription, &id.group)?;
    let before = world.machines.get(&id.key());
    conditions(call, before.map(Resource::head))?;
    if before.is_some() {
        return update::put(call, world, id);
    }
    if !valid_name(&id.name) {
        let message = "Virtual machine name must be between 1 and 64 characters, and cannot end with a \
                       hyphen or a period, or hold other characters than letters, digits, '-', '_', '.'.";
        return Err(Problem::new("InvalidParameter", message)
            .at("vmName")
            .bad_request());
    }
    let head = head_of(call, id, None, Provisioning::Creating)?;
    let request = MachineRequest::read(call, &head.location)?;
    disks_are_new(world, id, &request)?;
    let named = named_interfaces(world, id, &head.location, &request.network)?;
    let forced = call.injected.quota_exceeded;
    let options = &call.cloud.options;
    usage::fits(world, options, id, &head.location, request.size, forced).inspect_err(|_| {
        // The interfaces stay reserved for a while, though there is no VM: Azure's best-known trap.
        let until = world.now + options.nic_reservation;
        for attached in named.iter().flatten() {
            if let Some(interface) = world.interfaces.get_mut(&attached.id.key()) {
                interface.reserve(id, until);
            }
        }
    })?;
    let interfaces = match (named, &request.network) {
        (Some(named), _) => named,
        (None, NetworkRequest::Configured(configured)) => {
            make_interfaces(call, world, &head, configured)?
        }
        (None, NetworkRequest::Existing(_)) => Vec::new(),
    };
    let machine = assemble(call, world, head, request, interfaces);
    for attached in &machine.interfaces {
        if let Some(interface) = world.interfaces.get_mut(&attached.id.key()) {
            interface.attach(id);
        }
    }
    world.machines.insert(id.key(), machine);
    let shown = find::<Machine>(world, id)?.show(world);
    let operation = begin_making(call, world, id)?;
    Ok(Answer::new(StatusCode::CREATED)
        .body(shown)
        .following(operation))
}

fn valid_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=64).contains(&name.len()) && name.chars().all(allowed) && !name.ends_with(['-', '.'])
}

/// Has the machine behind a VM made; also once more, after that has failed.
pub(super) fn begin_making(
    call: &Call<'_>,
    world: &mut World,
    id: &ResourceId,
) -> Result<OperationId, Refusal> {
    let machine = find::<Machine>(world, id)?;
    let order = MachineOrder {
        machine: id.key(),
        host_name: machine.system.computer_name.clone(),
        cores: machine.size.cores,
        system: machine.image.os_name.to_owned(),
        admin: machine.system.admin.clone(),
        custom_data: machine.system.custom_data.clone(),
        ssh_keys: machine.system.ssh_keys.clone(),
        private_address: machine.private_address(world),
        subnet: machine.subnet(world),
        inbound_ports: machine
            .primary_interface(world)
            .map(|interface| open_from_outside(world, interface))
            .unwrap_or_default(),
    };
    let begin = Begin {
        subscription: id.subscription.clone(),
        namespace: Machine::NAMESPACE,
        location: machine.head.location.clone(),
        result: Some(id.to_string()),
        delay: call.cloud.options.delays.create,
        injected: call.injected.clone(),
    };
    let maker = call.cloud.maker.clone();
    let reached_at = order
        .private_address
        .and_then(|at| maker.public_address(at));
    if let Some(machine) = world.machines.get_mut(&id.key()) {
        machine.reached_at = reached_at;
    }
    let no_room = call.injected.allocation_fails;
    let work = async move {
        if no_room {
            return Err(allocation_failed());
        }
        Ok(maker.change(MachineChange::Make(order)).await?)
    };
    let key = id.key();
    let finish = move |world: &mut World, worked: Result<(), Problem>| {
        // A VM of which nothing could be made stays, as `Failed`, until it is deleted.
        let power = worked.is_ok().then_some(Power::Running);
        set(world, &key, Provisioning::after(&worked), power);
        worked
    };
    Ok(super::action::replace_operation(
        call, world, id, begin, work, finish,
    ))
}

/// What an operation ends with if there is no room for a VM.
pub(super) fn allocation_failed() -> Problem {
    Problem::new(
        "AllocationFailed",
        "Allocation failed. We do not have sufficient capacity for the requested VM size in this \
         region. Read more about improving likelihood of allocation success at \
         https://aka.ms/allocation-guidance",
    )
}

/// A disk is made from an image, or empty: never over one that is there.
fn disks_are_new(world: &World, id: &ResourceId, request: &MachineRequest) -> Result<(), Refusal> {
    let disks = request.data_disks.iter().chain([&request.os_disk]);
    for name in disks.filter_map(|disk| disk.name.as_deref()) {
        let disk = id.sibling(Disk::KIND, name);
        if world.disks.contains_key(&disk.key()) {
            let message = format!(
                "Disk {name} already exists in resource group {}. Only CreateOption.Attach is supported.",
                id.group.to_uppercase()
            );
            return Err(Problem::new("ConflictingUserInput", message)
                .at(&disk.to_string())
                .conflict());
        }
    }
    Ok(())
}

/// The interfaces that a request names, if it names any and the VM can have them.
fn named_interfaces(
    world: &World,
    id: &ResourceId,
    location: &str,
    network: &NetworkRequest,
) -> Result<Option<Vec<Attached>>, Refusal> {
    let NetworkRequest::Existing(named) = network else {
        return Ok(None);
    };
    let mut attached = Vec::new();
    for (named, primary, option) in named {
        let found = world
            .interfaces
            .get(&key_of(named))
            .filter(|found| found.head().location == location)
            .ok_or_else(|| missing_reference(named, id))?;
        if let Some(problem) = found.held_from(id, world.now) {
            return Err(problem.bad_request());
        }
        attached.push(Attached {
            id: found.head().id.clone(),
            primary: *primary,
            delete_option: option.clone(),
            configuration: None,
        });
    }
    Ok(Some(attached))
}

/// Makes the interfaces that are declared inside the VM, or none of them.
fn make_interfaces(
    call: &Call<'_>,
    world: &mut World,
    machine: &Head,
    configured: &[Value],
) -> Result<Vec<Attached>, Refusal> {
    let mut made = Made::default();
    for configuration in configured {
        if let Err(refusal) = make_interface(call, world, machine, configuration, &mut made) {
            for key in &made.interfaces {
                world.interfaces.remove(key);
            }
            for key in &made.addresses {
                world.addresses.remove(key);
            }
            return Err(refusal);
        }
    }
    Ok(made.attached)
}

/// What has been made so far.
#[derive(Debug, Default)]
struct Made {
    attached: Vec<Attached>,
    interfaces: Vec<Key>,
    addresses: Vec<Key>,
}

/// The id of something new that is made with a VM. Its name has a part that no client would guess, so
/// that it is read from what the VM shows; and which is the same in every run, for faults by a seed.
fn id_beside<R: Resource>(world: &World, machine: &Head, name: &str, digits: usize) -> ResourceId {
    let mut tried = 0_u32;
    loop {
        let mut hash = Sha256::new();
        hash.update(machine.id.key());
        hash.update(name);
        hash.update(tried.to_be_bytes());
        let digest = hex::encode(hash.finalize());
        let part = digest.get(..digits).unwrap_or_default();
        let id = machine.id.sibling(R::KIND, &format!("{name}{part}"));
        if !R::shelf(world).contains_key(&id.key()) {
            return id;
        }
        tried += 1;
    }
}

fn head_beside(
    call: &Call<'_>,
    machine: &Head,
    id: ResourceId,
    tags: &Value,
) -> Result<Head, Refusal> {
    Ok(Head {
        id,
        location: machine.location.clone(),
        tags: tags_of(tags)?.unwrap_or_default(),
        etag: call.cloud.ids.uuid(),
        state: Provisioning::Succeeded,
    })
}

fn make_interface(
    call: &Call<'_>,
    world: &mut World,
    machine: &Head,
    configuration: &Value,
    made: &mut Made,
) -> Result<(), Refusal> {
    let ids = call.cloud.ids.as_ref();
    let name = configuration
        .get("name")
        .and_then(Value::as_str)
        .ok_or_else(|| required("networkInterfaceConfigurations.name"))?;
    let id = id_beside::<Interface>(world, machine, &format!("{name}-"), 8);
    let head = head_beside(call, machine, id.clone(), configuration)?;
    let mut body =
        json!({"properties": configuration.get("properties").cloned().unwrap_or_default()});
    let listed = body
        .pointer_mut("/properties/ipConfigurations")
        .and_then(Value::as_array_mut);
    for one in listed.into_iter().flatten() {
        let asked = one
            .pointer("/properties/publicIPAddressConfiguration")
            .cloned();
        let Some(asked) = asked.filter(|asked| !asked.is_null()) else {
            continue;
        };
        let name = asked.get("name").and_then(Value::as_str).ok_or_else(|| {
            required("networkInterfaceConfigurations.publicIPAddressConfiguration.name")
        })?;
        let id = id_beside::<PublicAddress>(world, machine, &format!("{name}-"), 8);
        let head = head_beside(call, machine, id.clone(), &asked)?;
        let address = PublicAddress::declare(world, head, &asked, None, ids)?;
        world.addresses.insert(id.key(), address);
        made.addresses.push(id.key());
        one["properties"]["publicIPAddress"] = json!({"id": id.to_string()});
    }
    let interface = Interface::declare(world, head, &body, None, ids)?;
    world.interfaces.insert(id.key(), interface);
    made.interfaces.push(id.key());
    let property = |name: &str| configuration.pointer(&format!("/properties/{name}"));
    made.attached.push(Attached {
        id,
        primary: property("primary").and_then(Value::as_bool),
        delete_option: property("deleteOption")
            .and_then(Value::as_str)
            .map(str::to_owned),
        configuration: Some(name.to_owned()),
    });
    Ok(())
}

/// Makes a disk and says how the VM shows it.
fn make_disk(
    call: &Call<'_>,
    world: &mut World,
    machine: &Head,
    request: &DiskRequest,
    os: Option<&'static str>,
    disks: &mut Vec<DiskUse>,
) -> Value {
    let kind = if os.is_some() { "OsDisk_1" } else { "disk" };
    let id = match &request.name {
        Some(name) => machine.id.sibling(Disk::KIND, name),
        None => id_beside::<Disk>(world, machine, &format!("{}_{kind}_", machine.id.name), 32),
    };
    let disk = Disk {
        head: Head {
            id: id.clone(),
            location: machine.location.clone(),
            tags: machine.tags.clone(),
            etag: call.cloud.ids.uuid(),
            state: Provisioning::Succeeded,
        },
        sku: request.sku.clone(),
        size_gib: request.size_gib,
        os,
        machine: Some(machine.id.clone()),
        created: world.now,
    };
    world.disks.insert(id.key(), disk);
    let mut shown = json!({
        "name": id.name,
        "createOption": if os.is_some() { "FromImage" } else { "Empty" },
        "caching": request.caching,
        "managedDisk": {"storageAccountType": request.sku, "id": id.to_string()},
        "deleteOption": request.delete_option.as_deref().unwrap_or("Detach"),
        "diskSizeGB": request.size_gib,
    });
    if let Some(os) = os {
        shown["osType"] = os.into();
    }
    if let Some(lun) = request.lun {
        shown["lun"] = lun.into();
    }
    disks.push(DiskUse {
        id,
        goes_with_machine: is_delete(request.delete_option.as_deref()),
    });
    shown
}

fn assemble(
    call: &Call<'_>,
    world: &mut World,
    head: Head,
    request: MachineRequest,
    interfaces: Vec<Attached>,
) -> Machine {
    let mut disks = Vec::new();
    let os_disk = make_disk(
        call,
        world,
        &head,
        &request.os_disk,
        Some("Linux"),
        &mut disks,
    );
    let data_disks: Vec<_> = request
        .data_disks
        .iter()
        .map(|disk| make_disk(call, world, &head, disk, None, &mut disks))
        .collect();
    Machine {
        head,
        vm_id: call.cloud.ids.uuid(),
        size: request.size,
        image: request.image,
        storage: json!({
            "imageReference": request.image_reference,
            "osDisk": os_disk,
            "dataDisks": data_disks,
        }),
        system: request.system,
        interfaces,
        disks,
        others: request.others,
        beside: request.beside,
        power: None,
        reached_at: None,
        operation: None,
        created: world.now,
        changed: world.now,
    }
}
