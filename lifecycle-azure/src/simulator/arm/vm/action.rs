//! Performs actions on an existing VM: start, restart, power off, deallocate, and delete. A later
//! operation replaces an operation in progress.

use axum::http::StatusCode;

use super::create::{allocation_failed, begin_creation};
use super::{Power, VmResource, set};
use crate::simulator::arm::answer::Answer;
use crate::simulator::arm::call::Call;
use crate::simulator::arm::id::ResourceId;
use crate::simulator::arm::operation::{self, Begin, OperationId};
use crate::simulator::arm::problem::{Problem, Refusal};
use crate::simulator::arm::resource::{Provisioning, Resource as _, find};
use crate::simulator::arm::state::ArmState;
use crate::simulator::host::HostChange;

/// Starts an operation on a VM. The new operation replaces any operation in progress.
pub(super) fn replace_operation(
    call: &Call<'_>,
    arm: &mut ArmState,
    id: &ResourceId,
    begin: Begin,
    work: impl Future<Output = Result<(), Problem>> + Send + 'static,
    finish: impl FnOnce(&mut ArmState, Result<(), Problem>) -> Result<(), Problem> + Send + 'static,
) -> OperationId {
    let key = id.key();
    let now = arm.now;
    if let Some(previous) = arm.vms.get_mut(&key).and_then(|m| m.operation.take()) {
        arm.operations.preempt(previous, now);
    }
    let finish_key = key.clone();
    let finish = move |arm: &mut ArmState, worked| {
        if let Some(vm) = arm.vms.get_mut(&finish_key) {
            vm.operation = None;
        }
        finish(arm, worked)
    };
    let operation = operation::begin(call.cloud, arm, begin, work, finish);
    if let Some(vm) = arm.vms.get_mut(&key) {
        vm.operation = Some(operation);
    }
    operation
}

/// Returns the VM. Fails if the VM is being deleted.
pub(super) fn changeable<'w>(
    arm: &'w ArmState,
    id: &ResourceId,
) -> Result<&'w VmResource, Refusal> {
    arm.open_group(&id.subscription, &id.group)?;
    let vm = find::<VmResource>(arm, id)?;
    if vm.head.state == Provisioning::Deleting {
        let message = "The request failed due to conflict with a concurrent request. To resolve it, \
                       please refer to https://aka.ms/activitylog to get more details on the conflicting \
                       requests.";
        return Err(Problem::new("Conflict", message).conflict());
    }
    Ok(vm)
}

/// Performs `action`, the last part of a path. Returns `None` if the action is unknown.
pub(crate) fn act(
    call: &Call<'_>,
    arm: &mut ArmState,
    id: &ResourceId,
    action: &str,
) -> Option<Result<Answer, Refusal>> {
    let vm = id.key();
    let delays = &call.cloud.options.delays;
    let skip_shutdown = call
        .parameter("skipShutdown")
        .is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let (change, delay) = match action {
        "start" => (HostChange::Start { vm }, delays.start),
        // In the simulator, `redeploy` and `reapply` only restart the VM.
        "restart" | "redeploy" | "reapply" => (HostChange::Restart { vm }, delays.restart),
        "poweroff" => {
            let change = HostChange::PowerOff { vm, skip_shutdown };
            (change, delays.power_off)
        }
        "deallocate" => (HostChange::Deallocate { vm }, delays.deallocate),
        _ => return None,
    };
    Some(change_power(call, arm, id, change, delay))
}

fn change_power(
    call: &Call<'_>,
    arm: &mut ArmState,
    id: &ResourceId,
    change: HostChange,
    delay: std::time::Duration,
) -> Result<Answer, Refusal> {
    let vm = changeable(arm, id)?;
    let before = vm.power;
    let has_host = before.is_some();
    let (during, after) = match &change {
        // To start a VM without a host, try again to create the host.
        HostChange::Start { .. } if !has_host => {
            let operation = begin_creation(call, arm, id)?;
            set(arm, &id.key(), Provisioning::Updating, None);
            return Ok(Answer::new(StatusCode::ACCEPTED).following(operation));
        }
        HostChange::Start { .. } if before == Some(Power::Running) => {
            (Power::Running, Power::Running)
        }
        HostChange::Start { .. } => (Power::Starting, Power::Running),
        HostChange::Restart { .. } => {
            if !matches!(before, Some(Power::Running | Power::Starting)) {
                let message = "The operation requires the VM to be running (or set to run).";
                return Err(Problem::new("OperationNotAllowed", message).conflict());
            }
            (Power::Running, Power::Running)
        }
        // A deallocated VM is already off and stays deallocated.
        HostChange::PowerOff { .. } if before == Some(Power::Deallocated) => {
            (Power::Deallocated, Power::Deallocated)
        }
        HostChange::PowerOff { .. } => (Power::Stopping, Power::Stopped),
        HostChange::Deallocate { .. } => (Power::Deallocating, Power::Deallocated),
        HostChange::Create(_) | HostChange::SetInbound { .. } | HostChange::Delete { .. } => {
            return Err(unmade(id));
        }
    };
    if !has_host && !matches!(change, HostChange::Deallocate { .. }) {
        return Err(unmade(id));
    }
    let starts = matches!(change, HostChange::Start { .. }) && before != Some(Power::Running);
    let no_room = starts && call.injected.allocation_fails;
    let begin = Begin::on::<VmResource>(call, id, &vm.head.location, delay);
    let hosts = call.cloud.hosts.clone();
    let work = async move {
        if no_room {
            return Err(allocation_failed());
        }
        Ok(hosts.change(change).await?)
    };
    let key = id.key();
    let finish_key = key.clone();
    let finish = move |arm: &mut ArmState, worked: Result<(), Problem>| {
        // A failed action leaves the power state unchanged.
        let power = if worked.is_ok() { Some(after) } else { before };
        set(arm, &finish_key, Provisioning::after(&worked), power);
        worked
    };
    let operation = replace_operation(call, arm, id, begin, work, finish);
    set(arm, &key, Provisioning::Updating, Some(during));
    Ok(Answer::new(StatusCode::ACCEPTED).following(operation))
}

fn unmade(id: &ResourceId) -> Refusal {
    let message = format!(
        "The operation is not allowed on VM '{}', which has not been provisioned.",
        id.name
    );
    Problem::new("OperationNotAllowed", message).conflict()
}

/// Deletes a VM, and its resources that have `deleteOption: Delete`.
pub(crate) fn delete(call: &Call<'_>, arm: &mut ArmState, id: &ResourceId) -> Answer {
    let Ok(vm) = find::<VmResource>(arm, id) else {
        return Answer::new(StatusCode::NO_CONTENT);
    };
    let power = vm.power;
    let delay = call.cloud.options.delays.delete;
    let begin = Begin::on::<VmResource>(call, id, &vm.head.location, delay);
    let hosts = call.cloud.hosts.clone();
    let change = HostChange::Delete { vm: id.key() };
    let work = async move { Ok(hosts.change(change).await?) };
    let key = id.key();
    let finish_key = key.clone();
    let finish = move |arm: &mut ArmState, worked: Result<(), Problem>| {
        if worked.is_ok() {
            if let Some(vm) = arm.vms.remove(&finish_key) {
                vm.removed(arm);
            }
        } else {
            set(arm, &finish_key, Provisioning::after(&worked), power);
        }
        worked
    };
    let operation = replace_operation(call, arm, id, begin, work, finish);
    set(arm, &key, Provisioning::Deleting, power);
    Answer::new(StatusCode::ACCEPTED).following(operation)
}
