//! Creates a VM, with existing interfaces or with interfaces that are created together with the VM.

use axum::http::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::request::{DiskRequest, NetworkRequest, VmRequest};
use super::{Attached, DiskUse, Power, VmResource, is_delete, set, update};
use crate::simulator::arm::address::PublicAddress;
use crate::simulator::arm::answer::Answer;
use crate::simulator::arm::call::Call;
use crate::simulator::arm::disk::Disk;
use crate::simulator::arm::id::{Key, ResourceId, key_of};
use crate::simulator::arm::inbound;
use crate::simulator::arm::interface::Interface;
use crate::simulator::arm::network::missing_reference;
use crate::simulator::arm::operation::{Begin, OperationId};
use crate::simulator::arm::problem::{Problem, Refusal, required};
use crate::simulator::arm::resource::{
    Declared as _, Head, Provisioning, Resource, conditions, find, head_of, tags_of,
};
use crate::simulator::arm::state::ArmState;
use crate::simulator::arm::usage;
use crate::simulator::host::{HostChange, HostRequest};

/// Creates a VM or changes an existing one.
pub(crate) fn put(call: &Call<'_>, arm: &mut ArmState, id: &ResourceId) -> Result<Answer, Refusal> {
    arm.open_group(&id.subscription, &id.group)?;
    let before = arm.vms.get(&id.key());
    conditions(call, before.map(Resource::head))?;
    if before.is_some() {
        return update::put(call, arm, id);
    }
    if !valid_name(&id.name) {
        let message = "Virtual machine name must be between 1 and 64 characters, and cannot end with a \
                       hyphen or a period, or hold other characters than letters, digits, '-', '_', '.'.";
        return Err(Problem::new("InvalidParameter", message)
            .at("vmName")
            .bad_request());
    }
    let head = head_of(call, id, None, Provisioning::Creating)?;
    let request = VmRequest::read(call, &head.location)?;
    disks_are_new(arm, id, &request)?;
    let named = named_interfaces(arm, id, &head.location, &request.network)?;
    let forced = call.injected.quota_exceeded;
    let options = &call.cloud.options;
    usage::fits(arm, options, id, &head.location, request.size, forced).inspect_err(|_| {
        // As in Azure, the interfaces stay reserved for a while, although the VM was not created.
        let until = arm.now + options.nic_reservation;
        for attached in named.iter().flatten() {
            if let Some(interface) = arm.interfaces.get_mut(&attached.id.key()) {
                interface.reserve(id, until);
            }
        }
    })?;
    let interfaces = match (named, &request.network) {
        (Some(named), _) => named,
        (None, NetworkRequest::Configured(configured)) => {
            make_interfaces(call, arm, &head, configured)?
        }
        (None, NetworkRequest::Existing(_)) => Vec::new(),
    };
    let vm = assemble(call, arm, head, request, interfaces);
    for attached in &vm.interfaces {
        if let Some(interface) = arm.interfaces.get_mut(&attached.id.key()) {
            interface.attach(id);
        }
    }
    arm.vms.insert(id.key(), vm);
    let shown = find::<VmResource>(arm, id)?.show(arm);
    let operation = begin_creation(call, arm, id)?;
    Ok(Answer::new(StatusCode::CREATED)
        .body(shown)
        .following(operation))
}

fn valid_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=64).contains(&name.len()) && name.chars().all(allowed) && !name.ends_with(['-', '.'])
}

/// Starts the creation of a VM's host, for a new VM or for a VM whose host could not be created
/// earlier.
pub(super) fn begin_creation(
    call: &Call<'_>,
    arm: &mut ArmState,
    id: &ResourceId,
) -> Result<OperationId, Refusal> {
    let vm = find::<VmResource>(arm, id)?;
    let order = HostRequest {
        vm: id.key(),
        host_name: vm.system.computer_name.clone(),
        cores: vm.size.cores,
        system: vm.image.os_name.to_owned(),
        admin: vm.system.admin.clone(),
        custom_data: vm.system.custom_data.clone(),
        ssh_keys: vm.system.ssh_keys.clone(),
        private_address: vm.private_address(arm),
        subnet: vm.subnet(arm),
        inbound_ports: vm.open_ports(arm),
    };
    let delay = call.cloud.options.delays.create;
    let begin = Begin::on::<VmResource>(call, id, &vm.head.location, delay).showing(id.to_string());
    let hosts = call.cloud.hosts.clone();
    let reached_at = order
        .private_address
        .and_then(|at| hosts.public_address(at));
    if let Some(vm) = arm.vms.get_mut(&id.key()) {
        vm.reached_at = reached_at;
    }
    let no_room = call.injected.allocation_fails;
    let key = id.key();
    let (cloud, vm_key) = (call.cloud.clone(), key.clone());
    let work = async move {
        if no_room {
            return Err(allocation_failed());
        }
        let ports = order.inbound_ports.clone();
        hosts.change(HostChange::Create(order)).await?;
        if let Some(vm) = cloud.arm().vms.get_mut(&vm_key) {
            vm.set_inbound(ports);
        }
        // The security groups may have changed meanwhile.
        inbound::enforce(&cloud).await
    };
    let finish = move |arm: &mut ArmState, worked: Result<(), Problem>| {
        // A VM whose host could not be created stays `Failed` until the VM is deleted or its
        // creation is retried.
        let power = worked.is_ok().then_some(Power::Running);
        set(arm, &key, Provisioning::after(&worked), power);
        worked
    };
    Ok(super::action::replace_operation(
        call, arm, id, begin, work, finish,
    ))
}

/// Returns Azure's error for missing capacity.
pub(super) fn allocation_failed() -> Problem {
    Problem::new(
        "AllocationFailed",
        "Allocation failed. We do not have sufficient capacity for the requested VM size in this \
         region. Read more about improving likelihood of allocation success at \
         https://aka.ms/allocation-guidance",
    )
}

/// Checks that the disks do not exist yet.
fn disks_are_new(arm: &ArmState, id: &ResourceId, request: &VmRequest) -> Result<(), Refusal> {
    let disks = request.data_disks.iter().chain([&request.os_disk]);
    for name in disks.filter_map(|disk| disk.name.as_deref()) {
        let disk = id.sibling(Disk::KIND, name);
        if arm.disks.contains_key(&disk.key()) {
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

/// Returns the existing interfaces that a request refers to. Fails if the VM cannot use one of
/// them.
fn named_interfaces(
    arm: &ArmState,
    id: &ResourceId,
    location: &str,
    network: &NetworkRequest,
) -> Result<Option<Vec<Attached>>, Refusal> {
    let NetworkRequest::Existing(named) = network else {
        return Ok(None);
    };
    let mut attached = Vec::new();
    for (named, primary, option) in named {
        let found = arm
            .interfaces
            .get(&key_of(named))
            .filter(|found| found.head().location == location)
            .ok_or_else(|| missing_reference(named, id))?;
        if let Some(problem) = found.held_from(id, arm.now) {
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

/// Creates all interfaces that are declared inside the VM. If a creation fails, removes the
/// interfaces that were created so far.
fn make_interfaces(
    call: &Call<'_>,
    arm: &mut ArmState,
    vm: &Head,
    configured: &[Value],
) -> Result<Vec<Attached>, Refusal> {
    let mut created = Created::default();
    for configuration in configured {
        if let Err(refusal) = make_interface(call, arm, vm, configuration, &mut created) {
            for key in &created.interfaces {
                arm.interfaces.remove(key);
            }
            for key in &created.addresses {
                arm.addresses.remove(key);
            }
            return Err(refusal);
        }
    }
    Ok(created.attached)
}

/// The resources that have been created so far.
#[derive(Debug, Default)]
struct Created {
    attached: Vec<Attached>,
    interfaces: Vec<Key>,
    addresses: Vec<Key>,
}

/// Returns the id of a resource that is created together with a VM. Clients cannot predict the
/// suffix of the name, but the same requests always result in the same suffixes.
fn id_for_part<R: Resource>(arm: &ArmState, vm: &Head, name: &str, digits: usize) -> ResourceId {
    let mut tried = 0_u32;
    loop {
        let mut hash = Sha256::new();
        hash.update(vm.id.key());
        hash.update(name);
        hash.update(tried.to_be_bytes());
        let digest = hex::encode(hash.finalize());
        let part = digest.get(..digits).unwrap_or_default();
        let id = vm.id.sibling(R::KIND, &format!("{name}{part}"));
        if !R::table(arm).contains_key(&id.key()) {
            return id;
        }
        tried += 1;
    }
}

fn head_for_part(
    call: &Call<'_>,
    vm: &Head,
    id: ResourceId,
    tags: &Value,
) -> Result<Head, Refusal> {
    Ok(Head {
        id,
        location: vm.location.clone(),
        tags: tags_of(tags)?.unwrap_or_default(),
        etag: call.cloud.ids.uuid(),
        state: Provisioning::Succeeded,
    })
}

fn make_interface(
    call: &Call<'_>,
    arm: &mut ArmState,
    vm: &Head,
    configuration: &Value,
    created: &mut Created,
) -> Result<(), Refusal> {
    let ids = call.cloud.ids.as_ref();
    let name = configuration
        .get("name")
        .and_then(Value::as_str)
        .ok_or_else(|| required("networkInterfaceConfigurations.name"))?;
    let id = id_for_part::<Interface>(arm, vm, &format!("{name}-"), 8);
    let head = head_for_part(call, vm, id.clone(), configuration)?;
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
        let id = id_for_part::<PublicAddress>(arm, vm, &format!("{name}-"), 8);
        let head = head_for_part(call, vm, id.clone(), &asked)?;
        let address = PublicAddress::declare(arm, head, &asked, None, ids)?;
        arm.addresses.insert(id.key(), address);
        created.addresses.push(id.key());
        one["properties"]["publicIPAddress"] = json!({"id": id.to_string()});
    }
    let interface = Interface::declare(arm, head, &body, None, ids)?;
    arm.interfaces.insert(id.key(), interface);
    created.interfaces.push(id.key());
    let property = |name: &str| configuration.pointer(&format!("/properties/{name}"));
    created.attached.push(Attached {
        id,
        primary: property("primary").and_then(Value::as_bool),
        delete_option: property("deleteOption")
            .and_then(Value::as_str)
            .map(str::to_owned),
        configuration: Some(name.to_owned()),
    });
    Ok(())
}

/// Creates a disk and returns its description for the VM.
fn make_disk(
    call: &Call<'_>,
    arm: &mut ArmState,
    vm: &Head,
    request: &DiskRequest,
    os: Option<&'static str>,
    disks: &mut Vec<DiskUse>,
) -> Value {
    let kind = if os.is_some() { "OsDisk_1" } else { "disk" };
    let id = match &request.name {
        Some(name) => vm.id.sibling(Disk::KIND, name),
        None => id_for_part::<Disk>(arm, vm, &format!("{}_{kind}_", vm.id.name), 32),
    };
    let disk = Disk {
        head: Head {
            id: id.clone(),
            location: vm.location.clone(),
            tags: vm.tags.clone(),
            etag: call.cloud.ids.uuid(),
            state: Provisioning::Succeeded,
        },
        sku: request.sku.clone(),
        size_gib: request.size_gib,
        os,
        vm: Some(vm.id.clone()),
        created: arm.now,
    };
    arm.disks.insert(id.key(), disk);
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
    arm: &mut ArmState,
    head: Head,
    request: VmRequest,
    interfaces: Vec<Attached>,
) -> VmResource {
    let mut disks = Vec::new();
    let os_disk = make_disk(
        call,
        arm,
        &head,
        &request.os_disk,
        Some("Linux"),
        &mut disks,
    );
    let data_disks: Vec<_> = request
        .data_disks
        .iter()
        .map(|disk| make_disk(call, arm, &head, disk, None, &mut disks))
        .collect();
    VmResource {
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
        top_level: request.top_level,
        power: None,
        reached_at: None,
        inbound: None,
        operation: None,
        created: arm.now,
        changed: arm.now,
    }
}
