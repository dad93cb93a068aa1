//! What is done to a VM that is there: start, restart, power off, deallocate, delete. A later
//! operation takes the place of one under way.

use axum::http::StatusCode;

use super::create::{allocation_failed, begin_making};
use super::{Machine, Power, set};
use crate::simulator::arm::answer::Answer;
use crate::simulator::arm::call::Call;
use crate::simulator::arm::id::ResourceId;
use crate::simulator::arm::operation::{self, Begin, OperationId};
use crate::simulator::arm::problem::{Problem, Refusal};
use crate::simulator::arm::resource::{Provisioning, Resource as _, find};
use crate::simulator::arm::world::World;
use crate::simulator::maker::MachineChange;

/// Begins an operation on a VM, in place of the one that is under way.
pub(super) fn replace_operation(
    call: &Call<'_>,
    world: &mut World,
    id: &ResourceId,
    begin: Begin,
    work: impl Future<Output = Result<(), Problem>> + Send + 'static,
    finish: impl FnOnce(&mut World, Result<(), Problem>) -> Result<(), Problem> + Send + 'static,
) -> OperationId {
    let key = id.key();
    let now = world.now;
    if let Some(former) = world
        .machines
        .get_mut(&key)
        .and_then(|m| m.operation.take())
    {
        world.operations.preempt(former, now);
    }
    let finish_key = key.clone();
    let finish = move |world: &mut World, worked| {
        if let Some(machine) = world.machines.get_mut(&finish_key) {
            machine.operation = None;
        }
        finish(world, worked)
    };
    let operation = operation::begin(call.cloud, world, begin, work, finish);
    if let Some(machine) = world.machines.get_mut(&key) {
        machine.operation = Some(operation);
    }
    operation
}

/// The VM, unless it is being deleted.
pub(super) fn changeable<'w>(world: &'w World, id: &ResourceId) -> Result<&'w Machine, Refusal> {
    world.open_group(&id.subscription, &id.group)?;
    let machine = find::<Machine>(world, id)?;
    if machine.head.state == Provisioning::Deleting {
        let message = "The request failed due to conflict with a concurrent request. To resolve it, \
                       please refer to https://aka.ms/activitylog to get more details on the conflicting \
                       requests.";
        return Err(Problem::new("Conflict", message).conflict());
    }
    Ok(machine)
}

/// Carries out the action that a path's end names; none if there is no such action.
pub(crate) fn act(
    call: &Call<'_>,
    world: &mut World,
    id: &ResourceId,
    action: &str,
) -> Option<Result<Answer, Refusal>> {
    let machine = id.key();
    let delays = &call.cloud.options.delays;
    let skip_shutdown = call
        .parameter("skipShutdown")
        .is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let (change, delay) = match action {
        "start" => (MachineChange::Start { machine }, delays.start),
        // Neither moves nor repairs anything here: a restart is all that can be seen of them.
        "restart" | "redeploy" | "reapply" => (MachineChange::Restart { machine }, delays.restart),
        "poweroff" => {
            let change = MachineChange::PowerOff {
                machine,
                skip_shutdown,
            };
            (change, delays.power_off)
        }
        "deallocate" => (MachineChange::Deallocate { machine }, delays.deallocate),
        _ => return None,
    };
    Some(change_power(call, world, id, change, delay))
}

fn change_power(
    call: &Call<'_>,
    world: &mut World,
    id: &ResourceId,
    change: MachineChange,
    delay: std::time::Duration,
) -> Result<Answer, Refusal> {
    let machine = changeable(world, id)?;
    let before = machine.power;
    let made = before.is_some();
    let (during, after) = match &change {
        // Nothing was ever made of it: starting it tries once more.
        MachineChange::Start { .. } if !made => {
            let operation = begin_making(call, world, id)?;
            set(world, &id.key(), Provisioning::Updating, None);
            return Ok(Answer::new(StatusCode::ACCEPTED).following(operation));
        }
        MachineChange::Start { .. } if before == Some(Power::Running) => {
            (Power::Running, Power::Running)
        }
        MachineChange::Start { .. } => (Power::Starting, Power::Running),
        MachineChange::Restart { .. } => {
            if !matches!(before, Some(Power::Running | Power::Starting)) {
                let message = "The operation requires the VM to be running (or set to run).";
                return Err(Problem::new("OperationNotAllowed", message).conflict());
            }
            (Power::Running, Power::Running)
        }
        // What is deallocated is off already, and stays deallocated.
        MachineChange::PowerOff { .. } if before == Some(Power::Deallocated) => {
            (Power::Deallocated, Power::Deallocated)
        }
        MachineChange::PowerOff { .. } => (Power::Stopping, Power::Stopped),
        MachineChange::Deallocate { .. } => (Power::Deallocating, Power::Deallocated),
        MachineChange::Make(_) | MachineChange::Delete { .. } => return Err(unmade(id)),
    };
    if !made && !matches!(change, MachineChange::Deallocate { .. }) {
        return Err(unmade(id));
    }
    let starts = matches!(change, MachineChange::Start { .. }) && before != Some(Power::Running);
    let no_room = starts && call.injected.allocation_fails;
    let begin = Begin::on::<Machine>(call, id, &machine.head.location, delay);
    let maker = call.cloud.maker.clone();
    let work = async move {
        if no_room {
            return Err(allocation_failed());
        }
        Ok(maker.change(change).await?)
    };
    let key = id.key();
    let finish_key = key.clone();
    let finish = move |world: &mut World, worked: Result<(), Problem>| {
        // A failed action leaves the machine as it was.
        let power = if worked.is_ok() { Some(after) } else { before };
        set(world, &finish_key, Provisioning::after(&worked), power);
        worked
    };
    let operation = replace_operation(call, world, id, begin, work, finish);
    set(world, &key, Provisioning::Updating, Some(during));
    Ok(Answer::new(StatusCode::ACCEPTED).following(operation))
}

fn unmade(id: &ResourceId) -> Refusal {
    let message = format!(
        "The operation is not allowed on VM '{}', which has not been provisioned.",
        id.name
    );
    Problem::new("OperationNotAllowed", message).conflict()
}

/// Deletes a VM, and with it what has `deleteOption: Delete`.
pub(crate) fn delete(call: &Call<'_>, world: &mut World, id: &ResourceId) -> Answer {
    let Ok(machine) = find::<Machine>(world, id) else {
        return Answer::new(StatusCode::NO_CONTENT);
    };
    let power = machine.power;
    let delay = call.cloud.options.delays.delete;
    let begin = Begin::on::<Machine>(call, id, &machine.head.location, delay);
    let maker = call.cloud.maker.clone();
    let change = MachineChange::Delete { machine: id.key() };
    let work = async move { Ok(maker.change(change).await?) };
    let key = id.key();
    let finish_key = key.clone();
    let finish = move |world: &mut World, worked: Result<(), Problem>| {
        if worked.is_ok() {
            if let Some(machine) = world.machines.remove(&finish_key) {
                machine.removed(world);
            }
        } else {
            set(world, &finish_key, Provisioning::after(&worked), power);
        }
        worked
    };
    let operation = replace_operation(call, world, id, begin, work, finish);
    set(world, &key, Provisioning::Deleting, power);
    Answer::new(StatusCode::ACCEPTED).following(operation)
}
