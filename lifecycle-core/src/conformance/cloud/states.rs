//! Checks for changes of a node in each state.

use super::{
    Checked, CloudBench, DEADLINE, Subject, done, ensure, ensure_eq, is_not_found, is_unsupported,
    list, names,
};
use crate::cloud::{ObservedNode, Power, carry_out};
use crate::error::Error;
use crate::model::NodeName;

/// Checks that preflight accepts the nodes of the other checks.
pub async fn preflight_reports_no_problems(bench: &dyn CloudBench) -> Checked {
    let report = done("preflight", bench.ours().preflight(&bench.nodes()).await)?;
    ensure!(report.problems.is_empty(), "{:#?}", report.problems);
    Ok(())
}

/// Checks that deleting or fencing a missing node succeeds, and that a missing node cannot be
/// started, stopped or adopted.
pub async fn an_absent_node(bench: &dyn CloudBench) -> Checked {
    let (cloud, [spec, _]) = (bench.ours(), bench.nodes());
    let node = Subject::new(cloud.as_ref(), &spec);
    for _ in 0..2 {
        node.remove().await?;
    }
    for change in [node.start(), node.stop(), node.restart(None)] {
        node.refused(change, is_not_found, "NotFound").await?;
    }
    node.cannot_be_adopted().await?;
    node.fenced().await?;
    node.is_absent("after changes to an absent node").await
}

/// Checks that a provider that cannot create nodes rejects changes of a node that does not exist.
pub async fn an_undeclared_node(bench: &dyn CloudBench) -> Checked {
    let (cloud, [mut spec, _]) = (bench.ours(), bench.nodes());
    spec.name = done("naming a node", NodeName::try_from("undeclared"))?;
    let node = Subject::new(cloud.as_ref(), &spec);
    node.remove().await?;
    node.refused(node.provision(), is_unsupported, "Unsupported")
        .await?;
    for change in [node.start(), node.stop(), node.restart(None)] {
        node.refused(change, is_not_found, "NotFound").await?;
    }
    node.cannot_be_adopted().await?;
    node.is_absent("after changes to an undeclared node").await
}

/// Checks that provisioning a node several times, also concurrently, creates only one node.
pub async fn provision_is_idempotent(bench: &dyn CloudBench) -> Checked {
    let (cloud, [spec, _]) = (bench.ours(), bench.nodes());
    let node = Subject::new(cloud.as_ref(), &spec);
    let (left, right) = tokio::join!(
        carry_out(cloud.as_ref(), node.provision(), DEADLINE),
        carry_out(cloud.as_ref(), node.provision(), DEADLINE),
    );
    done("first of two concurrent provisions", left)?;
    done("second of two concurrent provisions", right)?;
    let first = node.has_power(Power::Running, "a new node").await?;
    ensure!(
        first.created,
        "`created` must be true for a node of this platform: {first:?}"
    );
    ensure!(
        first.addresses.private.is_some() || first.addresses.public.is_some(),
        "a running node must have an address: {first:?}"
    );
    ensure_eq!(
        !first.ssh.host_keys.is_empty(),
        cloud.capabilities().knows_host_keys,
        "a node must have host keys if and only if the provider knows host keys, {first:?}"
    );
    node.done(node.provision()).await?;
    node.is(&first, "provisioned twice").await?;
    let listed = list(cloud.as_ref()).await?;
    let times = listed.iter().filter(|seen| seen.name == spec.name).count();
    ensure_eq!(times, 1, "how often {} is listed", spec.name);
    node.remove().await
}

/// Checks that starting or adopting a running node changes nothing, and that the node can be
/// restarted, fenced and deleted.
pub async fn a_running_node(bench: &dyn CloudBench) -> Checked {
    let (cloud, [spec, _]) = (bench.ours(), bench.nodes());
    let node = Subject::new(cloud.as_ref(), &spec);
    node.done(node.provision()).await?;
    let first = node.get().await?;
    node.done(node.start()).await?;
    node.is(&first, "started while the node runs").await?;
    let adopted = done(
        "adopting a node of this platform",
        cloud.adopt(&spec.name).await,
    )?;
    ensure_eq!(
        adopted,
        first,
        "adopted, although the node belongs to this platform"
    );

    let restart = node.restart(first.boot_id.as_ref());
    node.done(restart.clone()).await?;
    let second = node.has_power(Power::Running, "after a restart").await?;
    ensure!(
        second.boot_id != first.boot_id,
        "a restart must change the boot id: {second:?}"
    );
    is_same_machine(&first, &second)?;
    for _ in 0..2 {
        node.done(restart.clone()).await?;
        node.is(&second, "after a restart of an earlier boot")
            .await?;
    }

    if cloud.capabilities().fences {
        node.fenced().await?;
        node.has_power(Power::Stopped, "after a fence").await?;
        node.done(node.start()).await?;
        let third = node.has_power(Power::Running, "started again").await?;
        ensure!(
            third.boot_id != second.boot_id,
            "a start after a fence must change the boot id: {third:?}"
        );
    } else {
        let outcome = cloud.fence(&spec.name).await;
        ensure!(
            matches!(outcome, Err(Error::Unsupported { .. })),
            "a provider without fencing must return Unsupported, but returned {outcome:?}"
        );
    }
    node.remove().await
}

/// Checks that a stopped node remains stopped until it is started, and that it can be deleted.
pub async fn a_stopped_node(bench: &dyn CloudBench) -> Checked {
    let (cloud, [spec, _]) = (bench.ours(), bench.nodes());
    let node = Subject::new(cloud.as_ref(), &spec);
    node.done(node.provision()).await?;
    let first = node.get().await?;
    for _ in 0..2 {
        node.done(node.stop()).await?;
        node.has_power(Power::Stopped, "after a stop").await?;
    }
    for change in [node.provision(), node.restart(None)] {
        let after = format!("{change:?} of a stopped node must leave it stopped");
        node.done(change).await?;
        node.has_power(Power::Stopped, &after).await?;
    }
    let stopped = node.get().await?;
    let adopted = done(
        "adopting a node of this platform",
        cloud.adopt(&spec.name).await,
    )?;
    ensure_eq!(
        adopted,
        stopped,
        "adopted, although the node belongs to this platform"
    );
    node.fenced().await?;
    node.has_power(Power::Stopped, "after a fence").await?;

    node.done(node.start()).await?;
    let second = node.has_power(Power::Running, "after a start").await?;
    ensure!(
        second.boot_id != first.boot_id,
        "a start must change the boot id: {second:?}"
    );
    is_same_machine(&first, &second)?;
    node.done(node.start()).await?;
    node.is(&second, "started twice").await?;
    node.done(node.stop()).await?;
    node.remove().await
}

/// Checks that the private address, the host keys and the machine are unchanged.
fn is_same_machine(one: &ObservedNode, other: &ObservedNode) -> Checked {
    ensure!(
        one.provider_id == other.provider_id
            && one.addresses.private == other.addresses.private
            && one.ssh == other.ssh,
        "a new boot must not change the machine: it was {one:?}, and is {other:?}"
    );
    Ok(())
}

/// Checks that a failed node can be created again or deleted. Requires a test setup
/// ([`CloudBench`]) that can make the cloud fail.
pub async fn a_failed_node_is_created_again(bench: &dyn CloudBench) -> Checked {
    let (cloud, [spec, _]) = (bench.ours(), bench.nodes());
    let node = Subject::new(cloud.as_ref(), &spec);
    for is_deleted in [false, true] {
        if !bench.fail_provisions(true).await {
            return Ok(());
        }
        let outcome = carry_out(cloud.as_ref(), node.provision(), DEADLINE).await;
        bench.fail_provisions(false).await;
        ensure!(
            outcome.is_err(),
            "the cloud failed to create the node, but provision returned Ok"
        );
        node.has_power(Power::Failed, "the cloud failed to create it")
            .await?;
        if is_deleted {
            node.fenced().await?;
        } else {
            node.done(node.provision()).await?;
            node.has_power(Power::Running, "created again").await?;
        }
        node.remove().await?;
    }
    Ok(())
}

/// Checks that the list contains each node, running or not, sorted by name, with the same values as
/// `get`.
pub async fn list_is_complete_and_shows_only_this_platform(bench: &dyn CloudBench) -> Checked {
    let cloud = bench.ours();
    let cloud = cloud.as_ref();
    let [one, two] = bench.nodes().map(|spec| Subject::new(cloud, &spec));
    let before = names(&list(cloud).await?);
    let (left, right) = tokio::join!(
        carry_out(cloud, one.provision(), DEADLINE),
        carry_out(cloud, two.provision(), DEADLINE),
    );
    done("provisioning one of two", left)?;
    done("provisioning two of two", right)?;
    let mut expected = before.clone();
    expected.extend([one.name(), two.name()]);
    expected.sort();
    let listed = list(cloud).await?;
    ensure_eq!(names(&listed), expected, "after two provisions");
    for seen in &listed {
        let got = done("get", cloud.get(&seen.name).await)?;
        ensure_eq!(got.as_ref(), Some(seen), "get and list differ");
    }
    let addresses = |name| listed.iter().find(|seen| seen.name == name);
    ensure!(
        addresses(one.name()).map(|seen| seen.addresses)
            != addresses(two.name()).map(|seen| seen.addresses),
        "two nodes have the same address: {listed:?}"
    );

    two.done(two.stop()).await?;
    ensure_eq!(
        names(&list(cloud).await?),
        expected,
        "after one node was stopped"
    );
    two.has_power(Power::Stopped, "stopped").await?;
    one.has_power(Power::Running, "another node was stopped")
        .await?;
    one.remove().await?;
    two.remove().await?;
    ensure_eq!(
        names(&list(cloud).await?),
        before,
        "after both nodes were deleted"
    );
    Ok(())
}

/// Checks that shared resources cannot be deleted while a node exists, that deleting them twice
/// succeeds, and that a new node creates them again.
pub async fn shared_resources_are_deleted_last(bench: &dyn CloudBench) -> Checked {
    let (cloud, [spec, _]) = (bench.ours(), bench.nodes());
    let node = Subject::new(cloud.as_ref(), &spec);
    node.done(node.provision()).await?;
    let outcome = cloud.delete_shared().await;
    ensure!(
        matches!(outcome, Err(Error::Conflict { .. })),
        "while a node exists, delete_shared must return Conflict, but returned {outcome:?}"
    );
    node.has_power(Power::Running, "delete_shared was refused")
        .await?;
    node.remove().await?;
    for _ in 0..2 {
        done("delete_shared", cloud.delete_shared().await)?;
    }
    node.done(node.provision()).await?;
    node.remove().await?;
    done("delete_shared", cloud.delete_shared().await)
}
