//! What each [`CloudProvider`] must do. Each check takes the nodes that it needs, and leaves
//! them deleted.
#![expect(
    clippy::missing_panics_doc,
    reason = "each check panics when the provider fails it; that is what it is for"
)]

use std::fmt::Debug;
use std::time::Duration;

use crate::cloud::{CloudProgress, CloudProvider, NodeChange, ObservedNode, Power, carry_out};
use crate::error::{Error, Result};
use crate::model::{NodeName, NodeSpec};

/// Longer than any provider may take for one change in a test.
const DEADLINE: Duration = Duration::from_mins(15);
/// When the futures of [`a_dropped_change_goes_on`] are dropped.
const DROPS: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(2),
    Duration::from_millis(10),
    Duration::from_millis(40),
    Duration::from_millis(120),
    Duration::from_millis(300),
    Duration::from_millis(900),
];

/// All checks, one after the other. `nodes` must not exist.
pub async fn all(provider: &dyn CloudProvider, nodes: &[NodeSpec; 2]) {
    let [one, _] = nodes;
    preflight_finds_nothing_wrong(provider, nodes).await;
    delete_of_what_is_absent_is_ok(provider, &one.name).await;
    what_is_absent_cannot_be_switched(provider, &one.name).await;
    provision_is_idempotent(provider, one).await;
    list_shows_only_ours_and_completely(provider, nodes).await;
    start_stop_restart_are_idempotent_and_change_the_boot_id(provider, one).await;
    restart_of_a_former_boot_does_nothing(provider, one).await;
    fence_returns_only_when_it_is_stopped(provider, one).await;
    another_process_goes_on_polling(provider, one).await;
    a_dropped_change_goes_on(provider, one).await;
    shared_things_go_last(provider, one).await;
}

/// Nodes that will be had in the other checks are announced as possible.
pub async fn preflight_finds_nothing_wrong(provider: &dyn CloudProvider, nodes: &[NodeSpec]) {
    let report = done("preflight", provider.preflight(nodes).await);
    assert!(
        report.problems.is_empty(),
        "preflight: {:#?}",
        report.problems
    );
}

/// Deleting what is absent, and what was deleted, is Ok.
pub async fn delete_of_what_is_absent_is_ok(provider: &dyn CloudProvider, node: &NodeName) {
    for _ in 0..2 {
        delete(provider, node).await;
        let seen = done("get", provider.get(node).await);
        assert!(seen.is_none(), "{node} was deleted, but get shows {seen:?}");
    }
}

/// Start, stop and restart of what does not exist say so; a fence of it holds.
pub async fn what_is_absent_cannot_be_switched(provider: &dyn CloudProvider, node: &NodeName) {
    let changes = [
        NodeChange::Start { node: node.clone() },
        NodeChange::Stop { node: node.clone() },
        NodeChange::Restart {
            node: node.clone(),
            boot_id: "never".to_owned(),
        },
    ];
    for change in changes {
        let outcome = carry_out(provider, change.clone(), DEADLINE).await;
        assert!(
            matches!(outcome, Err(Error::NotFound { .. })),
            "{change:?} of an absent node must be NotFound, was {outcome:?}"
        );
    }
    if provider.capabilities().fences {
        let fenced = done("fence of an absent node", provider.fence(node).await);
        assert_eq!(&fenced.node, node);
    }
}

/// However often a node is asked for, at once or again, there is one, and it is left alone.
pub async fn provision_is_idempotent(provider: &dyn CloudProvider, spec: &NodeSpec) {
    let (left, right) = tokio::join!(
        carry_out(provider, provision(spec), DEADLINE),
        carry_out(provider, provision(spec), DEADLINE),
    );
    done("first of two provisions at once", left);
    done("second of two provisions at once", right);
    let first = get(provider, &spec.name).await;
    assert_eq!(first.power, Power::Running, "a new node runs: {first:?}");
    assert!(first.created, "we made it: {first:?}");
    assert!(
        first.boot_id.is_some(),
        "a node that runs has a boot: {first:?}"
    );
    assert!(
        first.addresses.private.is_some() || first.addresses.public.is_some(),
        "a node that runs has an address: {first:?}"
    );
    assert_eq!(
        !first.ssh.host_keys.is_empty(),
        provider.capabilities().knows_host_keys,
        "host keys are told exactly if the capabilities say so: {first:?}"
    );
    carry_through(provider, provision(spec)).await;
    assert_eq!(get(provider, &spec.name).await, first, "provisioned twice");
    let listed = list(provider).await;
    let times = listed.iter().filter(|node| node.name == spec.name).count();
    assert_eq!(
        times, 1,
        "{} is listed {times} times: {listed:?}",
        spec.name
    );
    delete(provider, &spec.name).await;
}

/// The list has each node, running or not, in the order of their names, as `get` shows it.
pub async fn list_shows_only_ours_and_completely(
    provider: &dyn CloudProvider,
    nodes: &[NodeSpec; 2],
) {
    let before = names(&list(provider).await);
    let [one, two] = nodes;
    let (left, right) = tokio::join!(
        carry_out(provider, provision(one), DEADLINE),
        carry_out(provider, provision(two), DEADLINE),
    );
    done("provisioning one of two", left);
    done("provisioning two of two", right);
    let mut wanted = before.clone();
    wanted.extend([one.name.clone(), two.name.clone()]);
    wanted.sort();
    let listed = list(provider).await;
    assert_eq!(names(&listed), wanted, "after two provisions");
    for node in &listed {
        assert_eq!(
            &get(provider, &node.name).await,
            node,
            "get and list differ"
        );
    }
    let addresses = |name: &NodeName| {
        let node = listed.iter().find(|node| &node.name == name);
        node.map(|node| node.addresses)
    };
    assert_ne!(
        addresses(&one.name),
        addresses(&two.name),
        "two nodes have one address"
    );

    let stop = NodeChange::Stop {
        node: two.name.clone(),
    };
    carry_through(provider, stop).await;
    let listed = list(provider).await;
    assert_eq!(names(&listed), wanted, "after one was stopped");
    let stopped = get(provider, &two.name).await;
    assert_eq!(
        (stopped.power, stopped.boot_id.as_ref()),
        (Power::Stopped, None)
    );
    assert_eq!(
        get(provider, &one.name).await.power,
        Power::Running,
        "stopping one node stopped another"
    );
    delete(provider, &one.name).await;
    delete(provider, &two.name).await;
    assert_eq!(
        names(&list(provider).await),
        before,
        "after both were deleted"
    );
}

/// Two platforms in one account: neither sees nor touches the other's nodes, whatever their
/// names.
pub async fn platforms_are_apart(
    ours: &dyn CloudProvider,
    theirs: &dyn CloudProvider,
    spec: &NodeSpec,
) {
    carry_through(theirs, provision(spec)).await;
    let other = get(theirs, &spec.name).await;
    assert!(
        !names(&list(ours).await).contains(&spec.name),
        "the other platform's {} is listed as ours",
        spec.name
    );
    carry_through(ours, provision(spec)).await;
    let own = get(ours, &spec.name).await;
    assert_ne!(own.provider_id, other.provider_id, "both have one machine");
    carry_through(
        ours,
        NodeChange::Stop {
            node: spec.name.clone(),
        },
    )
    .await;
    delete(ours, &spec.name).await;
    done("removing what our nodes share", ours.delete_shared().await);
    assert_eq!(
        get(theirs, &spec.name).await,
        other,
        "what was done to our node changed theirs"
    );
    delete(theirs, &spec.name).await;
    done(
        "removing what their nodes share",
        theirs.delete_shared().await,
    );
}

/// Switching twice is switching once; each boot has an id of its own; the address and the host
/// keys stay.
pub async fn start_stop_restart_are_idempotent_and_change_the_boot_id(
    provider: &dyn CloudProvider,
    spec: &NodeSpec,
) {
    let node = &spec.name;
    let start = NodeChange::Start { node: node.clone() };
    let stop = NodeChange::Stop { node: node.clone() };
    carry_through(provider, provision(spec)).await;
    let first = get(provider, node).await;
    carry_through(provider, start.clone()).await;
    assert_eq!(
        get(provider, node).await,
        first,
        "starting what runs changed it"
    );

    for _ in 0..2 {
        carry_through(provider, stop.clone()).await;
        let stopped = get(provider, node).await;
        assert_eq!(stopped.power, Power::Stopped, "{stopped:?}");
        assert_eq!(stopped.boot_id, None, "what is stopped has no boot");
    }
    carry_through(provider, provision(spec)).await;
    assert_eq!(
        get(provider, node).await.power,
        Power::Stopped,
        "provisioning what exists must leave it as it is"
    );

    carry_through(provider, start.clone()).await;
    let second = get(provider, node).await;
    assert_eq!(second.power, Power::Running, "{second:?}");
    assert_ne!(second.boot_id, first.boot_id, "a start is another boot");
    carry_through(provider, start).await;
    assert_eq!(get(provider, node).await, second, "started twice");

    carry_through(provider, restart(&second)).await;
    let third = get(provider, node).await;
    assert_eq!(third.power, Power::Running, "{third:?}");
    assert_ne!(third.boot_id, second.boot_id, "a restart is another boot");
    let same = |one: &ObservedNode, other: &ObservedNode| {
        one.provider_id == other.provider_id
            && one.addresses.private == other.addresses.private
            && one.ssh == other.ssh
    };
    assert!(
        same(&first, &third),
        "a restart changed {first:?} to {third:?}"
    );
    delete(provider, node).await;
}

/// A restart names the boot that it ends: repeated, or late, it ends no other.
pub async fn restart_of_a_former_boot_does_nothing(provider: &dyn CloudProvider, spec: &NodeSpec) {
    carry_through(provider, provision(spec)).await;
    let first = get(provider, &spec.name).await;
    carry_through(provider, restart(&first)).await;
    let second = get(provider, &spec.name).await;
    for _ in 0..2 {
        carry_through(provider, restart(&first)).await;
        assert_eq!(
            get(provider, &spec.name).await,
            second,
            "a restart of a former boot restarted this one"
        );
    }
    delete(provider, &spec.name).await;
}

/// After a fence the node does not run; fencing again is fine; it can be started again.
pub async fn fence_returns_only_when_it_is_stopped(provider: &dyn CloudProvider, spec: &NodeSpec) {
    if !provider.capabilities().fences {
        let outcome = provider.fence(&spec.name).await;
        assert!(
            matches!(outcome, Err(Error::Unsupported { .. })),
            "a provider that cannot fence says so, not {outcome:?}"
        );
        return;
    }
    carry_through(provider, provision(spec)).await;
    let before = get(provider, &spec.name).await;
    for _ in 0..2 {
        let fenced = done("fence", provider.fence(&spec.name).await);
        assert_eq!(fenced.node, spec.name);
        let after = get(provider, &spec.name).await;
        assert_eq!(after.power, Power::Stopped, "fenced, but {after:?}");
    }
    carry_through(
        provider,
        NodeChange::Start {
            node: spec.name.clone(),
        },
    )
    .await;
    let again = get(provider, &spec.name).await;
    assert_eq!(again.power, Power::Running, "{again:?}");
    assert_ne!(again.boot_id, before.boot_id, "started after a fence");
    delete(provider, &spec.name).await;
}

/// An operation survives being stored: what is read back can be polled to its end.
pub async fn another_process_goes_on_polling(provider: &dyn CloudProvider, spec: &NodeSpec) {
    let operation = done("begin", provider.begin(provision(spec)).await);
    let stored = done("storing", serde_json::to_string(&operation));
    let read = done("reading back", serde_json::from_str(&stored));
    assert_eq!(operation, read, "an operation changed in the store");
    let polls = async {
        while let CloudProgress::Running { after, .. } = done("poll", provider.poll(&read).await) {
            tokio::time::sleep(after.unwrap_or(Duration::from_secs(1))).await;
        }
    };
    done("provisioning", tokio::time::timeout(DEADLINE, polls).await);
    assert_eq!(get(provider, &spec.name).await.power, Power::Running);
    delete(provider, &spec.name).await;
}

/// A caller that dies at any moment of a change leaves nothing that the same call does not
/// take up, and nothing that the list does not show.
pub async fn a_dropped_change_goes_on(provider: &dyn CloudProvider, spec: &NodeSpec) {
    for after in DROPS {
        dropped(provider, provision(spec), after).await;
        let listed = list(provider).await;
        let seen = done("get", provider.get(&spec.name).await);
        assert_eq!(
            listed
                .iter()
                .find(|node| node.name == spec.name)
                .map(|node| &node.provider_id),
            seen.as_ref().map(|node| &node.provider_id),
            "dropped after {after:?}, get and list differ"
        );
        carry_through(provider, provision(spec)).await;
        let made = get(provider, &spec.name).await;
        assert_eq!(
            made.power,
            Power::Running,
            "provision dropped after {after:?}: {made:?}"
        );

        dropped(provider, restart(&made), after).await;
        carry_through(provider, restart(&made)).await;
        let restarted = get(provider, &spec.name).await;
        assert_eq!(
            restarted.power,
            Power::Running,
            "restart dropped after {after:?}: {restarted:?}"
        );
        assert_ne!(
            restarted.boot_id, made.boot_id,
            "restart dropped after {after:?}"
        );

        let end = NodeChange::Delete {
            node: spec.name.clone(),
        };
        dropped(provider, end, after).await;
        delete(provider, &spec.name).await;
    }
}

/// What nodes share stays while there is one, goes with the last, and comes again.
pub async fn shared_things_go_last(provider: &dyn CloudProvider, spec: &NodeSpec) {
    carry_through(provider, provision(spec)).await;
    let outcome = provider.delete_shared().await;
    assert!(
        matches!(outcome, Err(Error::Conflict { .. })),
        "with a node left, delete_shared must be a Conflict, was {outcome:?}"
    );
    assert_eq!(get(provider, &spec.name).await.power, Power::Running);
    delete(provider, &spec.name).await;
    for _ in 0..2 {
        done("delete_shared", provider.delete_shared().await);
    }
    carry_through(provider, provision(spec)).await;
    delete(provider, &spec.name).await;
    done("delete_shared", provider.delete_shared().await);
}

/// Begins a change and drops it, as a process does that dies.
async fn dropped(provider: &dyn CloudProvider, change: NodeChange, after: Duration) {
    let work = carry_out(provider, change.clone(), DEADLINE);
    if let Ok(Err(error)) = tokio::time::timeout(after, work).await {
        panic!(
            "{change:?}, to be dropped after {after:?}, failed: {}",
            error.chain()
        );
    }
}

async fn carry_through(provider: &dyn CloudProvider, change: NodeChange) {
    let what = format!("{change:?}");
    done(&what, carry_out(provider, change, DEADLINE).await);
}

async fn delete(provider: &dyn CloudProvider, node: &NodeName) {
    carry_through(provider, NodeChange::Delete { node: node.clone() }).await;
    let left = done("get", provider.get(node).await);
    assert!(left.is_none(), "{node} was deleted, but get shows {left:?}");
}

async fn get(provider: &dyn CloudProvider, node: &NodeName) -> ObservedNode {
    match done("get", provider.get(node).await) {
        Some(seen) => seen,
        None => panic!("get does not show {node}"),
    }
}

async fn list(provider: &dyn CloudProvider) -> Vec<ObservedNode> {
    let listed = done("list", provider.list().await);
    let names = names(&listed);
    assert!(
        names.is_sorted(),
        "the list is not in the order of names: {names:?}"
    );
    listed
}

fn names(nodes: &[ObservedNode]) -> Vec<NodeName> {
    nodes.iter().map(|node| node.name.clone()).collect()
}

fn provision(spec: &NodeSpec) -> NodeChange {
    NodeChange::Provision { spec: spec.clone() }
}

fn restart(node: &ObservedNode) -> NodeChange {
    NodeChange::Restart {
        node: node.name.clone(),
        boot_id: node.boot_id.clone().unwrap_or_default(),
    }
}

fn done<T, E: Debug>(what: &str, outcome: Result<T, E>) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error:?}"),
    }
}
