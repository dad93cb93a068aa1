//! Checks for machines that this platform did not create: machines of another platform, machines
//! without a platform, and adopted machines.

use super::{
    Checked, CloudBench, Failed, Subject, done, ensure, ensure_eq, is_conflict, is_not_found,
    is_unsupported, list, names,
};
use crate::cloud::{Firewall, ObservedNode, Power};
use crate::model::{Protocol, PublicPort, PublicPorts};

/// Checks that two platforms in one account cannot see or change each other's nodes, even if the
/// nodes have the same names.
pub async fn platforms_are_separate(bench: &dyn CloudBench) -> Checked {
    let (ours, theirs, [spec, _]) = (bench.ours(), bench.theirs(), bench.nodes());
    let own = Subject::new(ours.as_ref(), &spec);
    let their = Subject::new(theirs.as_ref(), &spec);
    their.done(their.provision()).await?;
    let other = their.get().await?;
    own.is_absent("only another platform has a node with this name")
        .await?;
    let boot_id = other.boot_id.as_ref();
    for change in [own.start(), own.stop(), own.restart(boot_id)] {
        let after = format!("{change:?} by another platform");
        own.refused(change, is_not_found, "NotFound").await?;
        their.is(&other, &after).await?;
    }
    own.cannot_be_adopted().await?;
    own.fenced().await?;
    their.is(&other, "fenced by another platform").await?;
    own.remove().await?;
    their.is(&other, "deleted by another platform").await?;

    own.done(own.provision()).await?;
    let seen = own.get().await?;
    ensure!(
        seen.provider_id != other.provider_id,
        "both platforms have the same machine: {seen:?}"
    );
    own.done(own.stop()).await?;
    own.remove().await?;
    done("delete_shared", ours.delete_shared().await)?;
    their
        .is(
            &other,
            "this platform's node with the same name was changed",
        )
        .await?;
    their.remove().await?;
    done("delete_shared", theirs.delete_shared().await)
}

/// Checks that a machine without a platform is not changed until a platform adopts the machine. An
/// adopted machine must behave like any other node, but deleting the node must only release the
/// machine.
pub async fn an_adopted_machine_is_released_and_never_deleted(bench: &dyn CloudBench) -> Checked {
    let (ours, theirs, [_, spec]) = (bench.ours(), bench.theirs(), bench.nodes());
    let node = Subject::new(ours.as_ref(), &spec);
    if !ours.capabilities().adopts {
        return node.cannot_be_adopted().await;
    }
    done("adding a machine", bench.add_unowned(&spec).await)?;
    let found = node.get().await?;
    ensure!(
        !found.created,
        "`created` must be false if no platform created the machine: {found:?}"
    );
    is_not_listed(&node).await?;
    let boot_id = found.boot_id.as_ref();
    for change in [
        node.provision(),
        node.start(),
        node.stop(),
        node.restart(boot_id),
        node.delete(),
    ] {
        let after = format!("{change:?} of a machine that belongs to no platform");
        node.refused(change, is_conflict, "Conflict").await?;
        node.is(&found, &after).await?;
    }
    if ours.capabilities().fences {
        let outcome = ours.fence(&spec.name).await;
        ensure!(
            outcome.as_ref().is_err_and(is_conflict),
            "fencing a machine that belongs to no platform must return Conflict, but \
             returned {outcome:?}"
        );
        node.is(
            &found,
            "fenced, although the machine does not belong to this platform",
        )
        .await?;
    }

    let adopted = done("adopt", ours.adopt(&spec.name).await)?;
    is_unchanged(&found, &adopted, "adopted")?;
    let adopted = node.get().await?;
    let again = done("adopt", ours.adopt(&spec.name).await)?;
    ensure_eq!(again, adopted, "adopted twice");
    let listed = list(ours.as_ref()).await?;
    ensure!(
        listed.contains(&adopted),
        "the machine was adopted, but is not listed: {listed:?}"
    );
    let their = Subject::new(theirs.as_ref(), &spec);
    their
        .is_absent("another platform adopted the machine")
        .await?;
    their.cannot_be_adopted().await?;
    their.remove().await?;
    node.is(&adopted, "deleted by another platform").await?;

    node.done(node.provision()).await?;
    node.is(&adopted, "provisioned, although the machine exists")
        .await?;
    if ours.capabilities().powers {
        node.done(node.stop()).await?;
        node.has_power(Power::Stopped, "adopted and stopped")
            .await?;
    } else {
        node.refused(node.stop(), is_unsupported, "Unsupported")
            .await?;
    }
    node.done(node.start()).await?;
    let second = node
        .has_power(Power::Running, "adopted and started")
        .await?;
    node.done(node.restart(second.boot_id.as_ref())).await?;
    let third = node
        .has_power(Power::Running, "adopted and restarted")
        .await?;
    ensure!(
        third.boot_id != second.boot_id,
        "a restart must change the boot id: {third:?}"
    );
    done("delete_shared", ours.delete_shared().await)?;
    node.is(&third, "the shared resources were deleted").await?;
    let port = PublicPort {
        port: 8080,
        protocol: Protocol::Tcp,
    };
    let ports = PublicPorts::from_iter([port]);
    let opened = ours.set_public_ports(&spec.name, &ports).await;
    if ours.capabilities().firewall == Firewall::Managed {
        done("opening a port of an adopted machine", opened)?;
    } else {
        ensure!(
            opened.as_ref().is_err_and(is_unsupported),
            "without a managed firewall, set_public_ports must return Unsupported, but returned \
             {opened:?}"
        );
    }

    node.done(node.delete()).await?;
    let Some(released) = node.seen().await? else {
        return Err(Failed::new("an adopted machine was deleted".to_owned()));
    };
    is_unchanged(&found, &released, "released")?;
    ensure_eq!(
        released.open_ports,
        found.open_ports,
        "the open ports of a released machine"
    );
    is_not_listed(&node).await?;
    done("adopt, by another platform", theirs.adopt(&spec.name).await)?;
    their.done(their.delete()).await?;
    done(
        "removing the machine",
        bench.remove_unowned(&spec.name).await,
    )
}

/// Checks that a machine is unchanged. Ignores the boot id, which may change when the owner
/// changes.
fn is_unchanged(before: &ObservedNode, after: &ObservedNode, what: &str) -> Checked {
    let machine = |node: &ObservedNode| {
        let id = node.provider_id.clone();
        (id, node.power, node.addresses.private, node.created)
    };
    ensure_eq!(machine(after), machine(before), "a machine that was {what}");
    Ok(())
}

async fn is_not_listed(node: &Subject<'_>) -> Checked {
    let listed = list(node.cloud).await?;
    ensure!(
        !names(&listed).contains(&node.spec.name),
        "the machine does not belong to this platform, but is listed: {listed:?}"
    );
    Ok(())
}
