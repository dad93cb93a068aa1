//! Tests that machines that exist already can be adopted as nodes at run time, that `up` keeps them, that
//! they are released, and that an adoption has the same result although the manager crashes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use lifecycle_core::Error;
use lifecycle_core::api::wire::{InstanceStateV1, NewMachineV1, NodeV1, OverrideKindV1};
use lifecycle_core::bootstrap::Outcome;
use lifecycle_core::cloud::{CloudProvider as _, MachineLogin, MachineSpec};
use lifecycle_core::host::HostOutput;
use lifecycle_core::model::{NodeName, NodeSpec, PlatformId, Protocol, PublishedPort, ServiceName};
use lifecycle_core::platform::OverrideChange;
use lifecycle_core::registry::Registry as _;
use lifecycle_core::runtime::Owner;
use lifecycle_core::secret::Sensitive;
use lifecycle_core::sim::{Edge, EffectOutcome};

use crate::stage::Stage;

/// It occurs nowhere else.
const PASSWORD: &str = "ops-password";

fn service(name: &str) -> ServiceName {
    ServiceName::try_from(name).unwrap()
}

fn node(name: &str) -> NodeName {
    NodeName::try_from(name).unwrap()
}

/// Returns a platform that is up, with `db` on a published port, so that each node can run only one
/// replica of it, and the machine `n3`, which has no engine.
async fn running(seed: u64) -> Stage {
    let mut stage = Stage::new(seed).await;
    let db = stage.declaration.services.get_mut(&service("db")).unwrap();
    db.container.ports = vec![PublishedPort {
        host_port: Some(5432),
        container_port: 5432,
        protocol: Protocol::Tcp,
        host_ip: None,
    }];
    stage.up().await.unwrap();
    let mut machine = NodeSpec::new(node("n3"));
    machine.image = Some("bare".into());
    stage.world.add_machine(&machine);
    stage
}

fn machine() -> NewMachineV1 {
    let mut machine = NewMachineV1::new(node("n3"), "n3.example".into(), "ops".into());
    machine.password = Some(Sensitive::new(PASSWORD));
    machine
}

async fn adopt(stage: &Stage, machine: NewMachineV1) -> Result<(Outcome, Vec<String>), Error> {
    let bootstrapper = stage.bootstrapper().await;
    let adopted = bootstrapper.adopt_node(stage.declaration.id, &machine);
    let within = tokio::time::timeout(Duration::from_hours(1), adopted).await;
    within.unwrap_or_else(|_| panic!("{}", stage.world.transcript()))
}

async fn remove(stage: &Stage, name: &str) -> Result<Outcome, Error> {
    let bootstrapper = stage.bootstrapper().await;
    let removed = bootstrapper.remove_node(stage.declaration.id, name, false);
    let within = tokio::time::timeout(Duration::from_hours(1), removed).await;
    within.unwrap_or_else(|_| panic!("{}", stage.world.transcript()))
}

async fn scale(stage: &Stage, replicas: u16) -> Outcome {
    let (bootstrapper, db) = (stage.bootstrapper().await, service("db"));
    let change = OverrideChange::Scale(replicas);
    let scaled = bootstrapper.override_service(stage.declaration.id, &db, change);
    scaled.await.unwrap()
}

async fn ids(stage: &Stage) -> Vec<String> {
    let overrides = stage.api().await.overrides().await.unwrap();
    overrides.into_iter().map(|one| one.id).collect()
}

async fn nodes(stage: &Stage) -> Vec<NodeV1> {
    stage.api().await.nodes().await.unwrap()
}

/// Returns whether the machine `n3` belongs to no platform, and has no containers.
async fn is_released(stage: &Stage) -> bool {
    let other = Owner {
        id: PlatformId::new(uuid::Uuid::nil()),
        name: "other".try_into().unwrap(),
    };
    let (cloud, machine) = (stage.world.cloud(&other), machine_spec());
    let checked = cloud.check_machine(&node("n3"), &machine, &login()).await;
    checked.is_ok() && stage.world.containers(&node("n3")).is_empty()
}

fn machine_spec() -> MachineSpec {
    MachineSpec {
        address: "n3.example".into(),
        private_address: None,
        port: 22,
        user: "ops".into(),
        host_keys: Vec::new(),
    }
}

fn login() -> MachineLogin {
    MachineLogin {
        password: Some(Sensitive::new(PASSWORD)),
        key: None,
    }
}

/// Checks that the password is not in the recorded declarations, operations, and events.
async fn assert_no_password(stage: &Stage) {
    let registry = stage.managers.registry(&node("n1")).unwrap();
    let snapshot = registry.snapshot().await.unwrap();
    let declaration = snapshot.declaration.map(|(_, declaration)| declaration);
    let declaration = serde_json::to_string(&declaration).unwrap();
    assert!(declaration.contains("n3.example"), "{declaration}");
    let operations = registry.operations(1000).await.unwrap();
    let events = registry.events(0, 10_000).await.unwrap();
    for text in [
        declaration,
        format!("{operations:?}"),
        format!("{events:?}"),
    ] {
        assert!(!text.contains(PASSWORD), "{text}");
    }
}

/// The third replica of `db` fits only on the adopted machine.
#[tokio::test(start_paused = true)]
async fn a_machine_is_adopted_and_released() {
    let stage = running(700).await;
    let outcome = scale(&stage, 3).await;
    let failed = outcome.failures.iter().map(|one| one.instance.as_str());
    assert_eq!(failed.collect::<Vec<_>>(), ["db-3"]);

    // Nothing is recorded about a machine that cannot be adopted.
    let mut without_login = machine();
    without_login.password = None;
    let refused = adopt(&stage, without_login.clone()).await.unwrap_err();
    assert!(matches!(refused, Error::Invalid { .. }), "{refused:?}");
    let mut invalid = machine();
    invalid.address = "a b".into();
    let refused = adopt(&stage, invalid).await.unwrap_err();
    assert!(matches!(refused, Error::Invalid { .. }), "{refused:?}");
    let declared = NewMachineV1::new(node("n2"), "n2.example".into(), "ops".into());
    let refused = adopt(&stage, declared).await.unwrap_err();
    assert!(matches!(refused, Error::Conflict { .. }), "{refused:?}");
    assert_eq!(ids(&stage).await, ["db.replicas"]);

    let (outcome, host_keys) = adopt(&stage, machine()).await.unwrap();
    assert_eq!(outcome.nodes.len(), 3);
    assert!(!host_keys.is_empty());
    let services = stage.api().await.services().await.unwrap();
    let mut instances = services.iter().flat_map(|service| &service.instances);
    assert!(
        instances.all(|one| one.state == InstanceStateV1::Ready),
        "{services:#?}"
    );
    assert_eq!(stage.agents(&node("n3")).len(), 1);
    assert!(!is_released(&stage).await);
    assert_no_password(&stage).await;

    // `up` keeps the node, and so does a repeated request, which needs no login.
    assert_eq!(stage.removed_by_up().await, []);
    for _ in 0..2 {
        let outcome = stage.up().await.unwrap();
        assert_eq!(outcome.nodes.len(), 3);
    }
    let (_, again) = adopt(&stage, without_login.clone()).await.unwrap();
    assert_eq!(again, host_keys);
    let mut moved = machine();
    moved.address = "elsewhere.example".into();
    let refused = adopt(&stage, moved).await.unwrap_err();
    assert!(matches!(refused, Error::Conflict { .. }), "{refused:?}");
    // Files cannot declare another machine with this name.
    let mut other = stage.declaration.clone();
    other.nodes.insert(node("n3"), NodeSpec::new(node("n3")));
    for refused in [
        stage.api().await.apply(&other).await.err(),
        stage.api().await.plan(&other).await.err(),
    ] {
        let error = refused.unwrap().to_string();
        assert!(error.contains("another machine than the one"), "{error}");
    }
    let stop = stage.api().await;
    let stopped = stop
        .change_nodes(&["n3".into()], lifecycle_core::model::NodeRequest::Stop)
        .await;
    assert!(matches!(stopped, Err(Error::Invalid { .. })), "{stopped:?}");

    scale(&stage, 1).await;
    let outcome = remove(&stage, "n3").await.unwrap();
    assert_eq!(outcome.nodes.len(), 2);
    assert!(is_released(&stage).await);
    assert_eq!(ids(&stage).await, [""; 0]);
    // It can be adopted again.
    adopt(&stage, machine()).await.unwrap();
    assert_eq!(nodes(&stage).await.len(), 3);
    assert_eq!(stage.world.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn down_releases_an_adopted_machine() {
    let stage = running(701).await;
    adopt(&stage, machine()).await.unwrap();
    stage.down().await.unwrap();
    assert!(is_released(&stage).await);
    let left = stage.leftovers();
    assert!(left.is_empty(), "{left:?}");
}

/// An adoption that was interrupted is shown, survives `up`, and can be ended.
#[tokio::test(start_paused = true)]
async fn an_interrupted_adoption_can_be_ended() {
    let edges = [Edge::Before, Edge::After];
    for (edge, is_down) in edges
        .into_iter()
        .flat_map(|edge| [(edge, false), (edge, true)])
    {
        let stage = running(702).await;
        // The machine has no engine.
        let absent = HostOutput {
            code: 1,
            stdout: String::new(),
            stderr: String::new(),
        };
        stage.world.answer("command -v dockerd", absent);
        let context = || format!("{edge:?} {is_down}\n{}", stage.world.transcript());
        let effect = u64::try_from(stage.world.effects().len()).unwrap() + 1;
        stage.world.faults().crash_at(effect, edge);
        tokio::select! {
            biased;
            () = stage.world.crashed() => {}
            ended = adopt(&stage, machine()) => panic!("{ended:?}"),
        }
        stage.world.next_incarnation();
        stage.up().await.unwrap();
        let overrides = stage.api().await.overrides().await.unwrap();
        let kinds: Vec<OverrideKindV1> = overrides.iter().map(|one| one.kind).collect();
        assert_eq!(kinds, [OverrideKindV1::Adopting], "{}", context());
        assert_eq!(nodes(&stage).await.len(), 2, "{}", context());
        if is_down {
            stage.down().await.unwrap();
        } else {
            remove(&stage, "n3").await.unwrap();
            assert_eq!(ids(&stage).await, [""; 0], "{}", context());
        }
        let released = async {
            while !is_released(&stage).await {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let released = tokio::time::timeout(Duration::from_mins(5), released).await;
        assert!(released.is_ok(), "{}", context());
    }
}

/// Crashes the manager before and after each effect of an adoption.
#[tokio::test(start_paused = true)]
async fn a_machine_is_adopted_once_although_the_manager_crashes() {
    let whole = running(703).await;
    let begin = whole.world.effects().len();
    adopt(&whole, machine()).await.unwrap();
    let end = whole.world.effects().len();
    assert!(end >= begin + 4, "{}", whole.world.transcript());
    for effect in begin + 1..=end {
        for edge in [Edge::Before, Edge::After] {
            let stage = running(703).await;
            let number = u64::try_from(effect).unwrap();
            stage.world.faults().crash_at(number, edge);
            tokio::select! {
                biased;
                () = stage.world.crashed() => {}
                ended = adopt(&stage, machine()) => {
                    panic!("effect {effect} {edge:?} did not occur: {ended:?}");
                }
            }
            stage.world.next_incarnation();
            let context = || format!("effect {effect} {edge:?}\n{}", stage.world.transcript());
            // The new manager may not lead yet.
            while adopt(&stage, machine()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            assert_eq!(ids(&stage).await, ["n3.added"], "{}", context());
            assert_eq!(stage.agents(&node("n3")).len(), 1, "{}", context());
            let effects = stage.world.effects();
            let taken_over = effects.iter().filter(|one| {
                one.what == "take over machine" && one.outcome == EffectOutcome::Changed
            });
            assert_eq!(taken_over.count(), 1, "{}", context());
            assert_no_password(&stage).await;
            remove(&stage, "n3").await.unwrap();
            assert!(is_released(&stage).await, "{}", context());
            assert_eq!(stage.world.violations(), [], "{}", context());
        }
    }
}
