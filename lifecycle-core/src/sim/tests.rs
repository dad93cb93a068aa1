//! Tests of the simulated world through its public interface.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use uuid::Uuid;

use super::*;
use crate::clock::Clock;
use crate::cloud::{CloudOperation, CloudProgress, CloudProvider, NodeChange, ObservedNode, Power};
use crate::code::CodeStore;
use crate::error::{Error, Retry};
use crate::host::{Account, HostPreparer, NodeConnector, NodeHandle};
use crate::model::{
    ContainerTemplate, InstanceId, NodeName, NodeSpec, PlatformId, PlatformName, Protocol, Replica,
    ServiceName, SpecDigest,
};
use crate::runtime::{
    BuildRequest, ContainerSpec, ContainerState, Health, ImageLogins, Owner, ReadinessProbe, Role,
};

fn owner(number: u128) -> Owner {
    Owner {
        id: PlatformId::new(Uuid::from_u128(number << 104)),
        name: PlatformName::try_from("demo").unwrap(),
    }
}

fn node(name: &str) -> NodeName {
    NodeName::try_from(name).unwrap()
}

fn bare(name: &str) -> NodeSpec {
    NodeSpec {
        image: Some("bare".into()),
        ..NodeSpec::new(node(name))
    }
}

fn spec(owner: &Owner, service: &str, port: u16) -> ContainerSpec {
    ContainerSpec {
        template_digest: None,
        name: format!("demo-{}-{service}-1", owner.id.short()),
        owner: owner.clone(),
        role: Role::Instance(InstanceId {
            service: ServiceName::try_from(service).unwrap(),
            replica: Replica(1),
        }),
        digest: SpecDigest::from_hex("ab".repeat(32)),
        image: "base:1".into(),
        template: ContainerTemplate::default(),
        used_volumes: std::collections::BTreeSet::new(),
        ports: BTreeMap::from([((80, Protocol::Tcp), port)]),
        binds: Vec::new(),
        host_network: false,
        joins: None,
        starts_with_engine: false,
    }
}

async fn finish(cloud: &SimCloud, operation: &CloudOperation) {
    while let CloudProgress::Running { after, .. } = cloud.poll(operation).await.unwrap() {
        tokio::time::sleep(after.unwrap()).await;
    }
}

async fn change(cloud: &SimCloud, change: NodeChange) {
    let operation = cloud.begin(change).await.unwrap();
    finish(cloud, &operation).await;
}

async fn connected(world: &SimWorld, owner: &Owner, name: &str) -> (ObservedNode, NodeHandle) {
    let cloud = world.cloud(owner);
    let connector = world.connector(owner);
    loop {
        let observed = cloud.get(&node(name)).await.unwrap().unwrap();
        match connector.connect(&observed).await {
            Ok(handle) => return (observed, handle),
            Err(error) => assert!(matches!(error.retry(), Retry::After(_)), "{error}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Creates a world with one node that has an engine and the image `base:1`.
async fn one_node() -> (SimWorld, Owner, NodeHandle) {
    let world = SimWorld::new(1);
    world.preload_image("base:1");
    let owner = owner(1);
    let spec = NodeSpec::new(node("n1"));
    change(&world.cloud(&owner), NodeChange::Provision { spec }).await;
    let (_, handle) = connected(&world, &owner, "n1").await;
    (world, owner, handle)
}

#[tokio::test(start_paused = true)]
async fn a_bare_node_can_be_created_prepared_and_used() {
    let world = SimWorld::new(1);
    let owner = owner(1);
    let cloud = world.cloud(&owner);
    let spec_of_node = bare("n1");
    let began = world.clock().now();
    let operation = cloud
        .begin(NodeChange::Provision {
            spec: spec_of_node.clone(),
        })
        .await
        .unwrap();
    let listed = cloud.list().await.unwrap();
    assert_eq!(listed.len(), 1, "a node must be listed immediately");
    assert_eq!(
        (listed[0].power, &listed[0].boot_id),
        (Power::Starting, &None)
    );
    finish(&cloud, &operation).await;
    let took = world.clock().now() - began;
    assert!(took.num_seconds() >= 30, "{took}");

    let (observed, handle) = connected(&world, &owner, "n1").await;
    assert_eq!(observed.power, Power::Running);
    assert!(observed.boot_id.is_some() && observed.created);
    assert!(
        observed
            .addresses
            .private
            .unwrap()
            .to_string()
            .starts_with("10.")
    );
    let error = handle.runtime.state().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");

    let preparer = world.preparer();
    preparer
        .prepare(&*handle.host, Account::Created, &|_| {})
        .await
        .unwrap();
    preparer
        .prepare(&*handle.host, Account::Created, &|_| {})
        .await
        .unwrap();
    assert_eq!(world.installed(&node("n1")), 1);

    world
        .code()
        .put("web", &[("Dockerfile", "FROM scratch\nEXPOSE 80\n")]);
    let code = world.code().digest("web").await.unwrap();
    let image = handle
        .runtime
        .build_image(
            BuildRequest {
                logins: ImageLogins::new(),
                earlier: Vec::new(),
                tag: "base:1".into(),
                dockerfile: "Dockerfile".into(),
                args: BTreeMap::new(),
                options: crate::model::BuildOptions::default(),
                context: world.code().archive(&code).await.unwrap(),
            },
            &|_| {},
        )
        .await
        .unwrap();
    assert_eq!(image.exposed, [(80, Protocol::Tcp)]);

    let container = handle
        .runtime
        .ensure_container(&spec(&owner, "web", 20_100))
        .await
        .unwrap();
    assert_eq!(container.ports, [(80, Protocol::Tcp, 20_100)]);
    let (ip, probe) = (observed.addresses.private.unwrap(), world.probe());
    let second = Duration::from_secs(1);
    assert_eq!(
        probe.tcp(ip, 20_101, second).await,
        Err("connection refused".to_owned())
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(probe.tcp(ip, 20_100, second).await, Ok(()));
    assert_eq!(probe.http(ip, 20_100, "/", second).await, Ok(()));
    assert_eq!(world.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn a_build_needs_its_base_image_on_the_engine() {
    let (world, _, handle) = one_node().await;
    world.code().put("a", &[("Dockerfile", "FROM absent:1\n")]);
    let code = world.code().digest("a").await.unwrap();
    let context = world.code().archive(&code).await.unwrap();
    let request = BuildRequest {
        logins: ImageLogins::new(),
        earlier: Vec::new(),
        tag: "demo/a:1".into(),
        dockerfile: "Dockerfile".into(),
        args: BTreeMap::new(),
        options: crate::model::BuildOptions::default(),
        context,
    };
    let error = handle
        .runtime
        .build_image(request, &|_| {})
        .await
        .unwrap_err();
    assert!(error.chain().contains("absent:1"), "{}", error.chain());
    assert!(handle.runtime.pull_image("absent:1", None).await.is_err());
    world.publish_image("absent:1");
    handle.runtime.pull_image("absent:1", None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn health_changes_as_specified_and_is_reported() {
    let (world, owner, handle) = one_node().await;
    let behaviour = Behaviour::default()
        .with_healthcheck()
        .ready_after(Duration::from_secs(3))
        .unhealthy_after(Duration::from_secs(10))
        .exits(Duration::from_secs(20), 7);
    world.behave("web", behaviour);
    let mut events = handle.runtime.events().await.unwrap();
    let created = handle
        .runtime
        .ensure_container(&spec(&owner, "web", 20_000))
        .await
        .unwrap();
    let running = |health| ContainerState::Running {
        health: Some(health),
    };
    assert_eq!(created.state, running(Health::Starting));
    let mut seen = Vec::new();
    while seen.len() < 5 {
        let event = events.next().await.unwrap().unwrap();
        let state = handle
            .runtime
            .state()
            .await
            .unwrap()
            .containers
            .remove(0)
            .state;
        seen.push((event.action, state));
    }
    let words: Vec<&str> = seen.iter().map(|(action, _)| action.as_str()).collect();
    assert_eq!(
        words,
        [
            "create",
            "start",
            "health_status: healthy",
            "health_status: unhealthy",
            "die"
        ]
    );
    assert_eq!(seen[2].1, running(Health::Healthy));
    assert_eq!(seen[3].1, running(Health::Unhealthy));
    let started = created.started_at.unwrap();
    let at = Some(started + Duration::from_secs(20));
    assert_eq!(seen[4].1, ContainerState::Exited { code: 7, at });
}

#[tokio::test(start_paused = true)]
async fn a_reboot_restarts_only_containers_that_start_with_the_engine() {
    let (world, owner, handle) = one_node().await;
    let manager = ContainerSpec {
        name: "demo-manager".into(),
        role: Role::Manager,
        starts_with_engine: true,
        ..spec(&owner, "web", 20_001)
    };
    let workload = spec(&owner, "web", 20_000);
    handle.runtime.ensure_container(&manager).await.unwrap();
    handle.runtime.ensure_container(&workload).await.unwrap();
    let mut events = handle.runtime.events().await.unwrap();
    let cloud = world.cloud(&owner);
    let before = cloud.get(&node("n1")).await.unwrap().unwrap();
    let restart = NodeChange::Restart {
        node: node("n1"),
        boot_id: before.boot_id.clone().unwrap(),
    };
    change(&cloud, restart.clone()).await;
    assert!(
        events.next().await.is_none(),
        "events must end with the engine"
    );
    let (after, again) = connected(&world, &owner, "n1").await;
    assert_ne!(before.boot_id, after.boot_id);
    let states: Vec<_> = again.runtime.state().await.unwrap().containers;
    assert_eq!(states[0].name, workload.name);
    assert!(matches!(
        states[0].state,
        ContainerState::Exited { code: 255, .. }
    ));
    assert!(matches!(states[1].state, ContainerState::Running { .. }));
    assert!(
        handle.runtime.state().await.is_err(),
        "a handle must be valid for one boot only"
    );
    // The boot that the restart replaces has ended, so a repeated restart changes nothing.
    change(&cloud, restart).await;
    assert_eq!(
        cloud.get(&node("n1")).await.unwrap().unwrap().boot_id,
        after.boot_id
    );
}

#[tokio::test(start_paused = true)]
async fn unreachable_nodes_recover() {
    let (world, owner, handle) = one_node().await;
    handle
        .runtime
        .ensure_container(&spec(&owner, "web", 20_000))
        .await
        .unwrap();
    for cut in [Faults::partition, Faults::pause] {
        let mut events = handle.runtime.events().await.unwrap();
        cut(&world.faults(), &node("n1")).unwrap();
        assert!(events.next().await.unwrap().is_err());
        let began = world.clock().now();
        let error = handle.runtime.state().await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        assert!((world.clock().now() - began).num_seconds() >= 4);
        let listed = world.cloud(&owner).list().await.unwrap();
        assert_eq!(
            listed[0].power,
            Power::Running,
            "the cloud must still report the node as running"
        );
        world.faults().heal(&node("n1")).unwrap();
        assert_eq!(handle.runtime.state().await.unwrap().containers.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fenced_node_is_off_when_the_fence_returns() {
    let (world, owner, handle) = one_node().await;
    world.faults().partition(&node("n1")).unwrap();
    let cloud = world.cloud(&owner);
    cloud.fence(&node("n1")).await.unwrap();
    assert_eq!(world.node(&node("n1")).unwrap().power, Power::Stopped);
    cloud.fence(&node("n1")).await.unwrap();
    cloud.fence(&node("absent")).await.unwrap();
    assert!(handle.runtime.state().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn one_instance_in_two_containers_is_a_violation() {
    let (world, owner, first) = one_node().await;
    let spec_of_node = NodeSpec::new(node("n2"));
    change(
        &world.cloud(&owner),
        NodeChange::Provision { spec: spec_of_node },
    )
    .await;
    let (_, second) = connected(&world, &owner, "n2").await;
    let spec = spec(&owner, "web", 20_000);
    first.runtime.ensure_container(&spec).await.unwrap();
    assert_eq!(world.violations(), []);
    second.runtime.ensure_container(&spec).await.unwrap();
    let violations = world.violations();
    assert!(
        matches!(&violations[..], [Violation::Duplicated { containers, .. }] if containers.len() == 2),
        "{violations:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_crash_loses_the_reply_and_ends_the_incarnation() {
    for (edge, created) in [(Edge::Before, 0), (Edge::After, 1)] {
        let (world, owner, handle) = one_node().await;
        let next = world.effects().len() as u64 + 1;
        world.faults().crash_at(next, edge);
        let runtime = Arc::clone(&handle.runtime);
        let lost = spec(&owner, "web", 20_000);
        let again = lost.clone();
        let call = tokio::spawn(async move { runtime.ensure_container(&lost).await });
        world.crashed().await;
        // No call of this incarnation ever returns.
        let hour = Duration::from_hours(1);
        assert!(
            tokio::time::timeout(hour, handle.runtime.state())
                .await
                .is_err()
        );
        assert!(!call.is_finished());
        call.abort();
        assert_eq!(world.containers(&node("n1")).len(), created);

        world.next_incarnation();
        assert!(
            tokio::time::timeout(hour, handle.runtime.state())
                .await
                .is_err()
        );
        let (_, handle) = connected(&world, &owner, "n1").await;
        handle.runtime.ensure_container(&again).await.unwrap();
        assert_eq!(world.containers(&node("n1")).len(), 1);
        let effects = world.effects();
        let both = &effects[effects.len() - 2..];
        let outcomes: Vec<_> = both.iter().map(|e| (e.incarnation, &e.outcome)).collect();
        let expected = match edge {
            Edge::Before => [(1, &EffectOutcome::NotDone), (2, &EffectOutcome::Changed)],
            Edge::After => [(1, &EffectOutcome::Changed), (2, &EffectOutcome::Unchanged)],
        };
        assert_eq!(outcomes, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_cloud_throttles_and_has_quotas() {
    let world = SimWorld::new(1);
    let owner = owner(1);
    let cloud = world.cloud(&owner);
    world.faults().throttle(1, Duration::from_secs(7));
    let error = cloud.list().await.unwrap_err();
    assert_eq!(error.retry(), Retry::After(Duration::from_secs(7)));
    cloud.list().await.unwrap();

    world.faults().quota(Some(1));
    change(
        &cloud,
        NodeChange::Provision {
            spec: NodeSpec::new(node("n1")),
        },
    )
    .await;
    let more = NodeSpec::new(node("n2"));
    let report = cloud.preflight(std::slice::from_ref(&more)).await.unwrap();
    assert_eq!(report.problems.len(), 1);
    let error = cloud
        .begin(NodeChange::Provision { spec: more })
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Exhausted { .. }), "{error}");

    world.faults().budget(3, Duration::from_secs(10));
    let mut allowed = 0;
    let wait = loop {
        match cloud.list().await {
            Ok(_) => allowed += 1,
            Err(error) => break error.retry(),
        }
    };
    assert_eq!(allowed, 3);
    let Retry::After(wait) = wait else {
        panic!("{wait:?}")
    };
    assert!(
        wait > Duration::from_secs(9) && wait <= Duration::from_secs(10),
        "{wait:?}"
    );
    tokio::time::sleep(wait).await;
    cloud.list().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn scripted_failures_affect_the_named_call() {
    let (world, owner, handle) = one_node().await;
    let faults = world.faults();
    faults.fail_next("n1: ensure", Error::failed("engine", "disk full"));
    handle.runtime.state().await.unwrap();
    let spec = spec(&owner, "web", 20_000);
    assert!(handle.runtime.ensure_container(&spec).await.is_err());
    handle.runtime.ensure_container(&spec).await.unwrap();
    faults.kill_container(&node("n1"), &spec.name, 137).unwrap();
    let state = handle
        .runtime
        .state()
        .await
        .unwrap()
        .containers
        .remove(0)
        .state;
    assert!(matches!(state, ContainerState::Exited { code: 137, .. }));
    faults.remove_container(&node("n1"), &spec.name).unwrap();
    assert!(handle.runtime.state().await.unwrap().containers.is_empty());
    assert!(faults.remove_container(&node("n1"), &spec.name).is_err());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_after_removing_everything() {
    let (world, owner, handle) = one_node().await;
    handle
        .runtime
        .ensure_container(&spec(&owner, "web", 20_000))
        .await
        .unwrap();
    let cloud = world.cloud(&owner);
    assert!(cloud.delete_shared().await.is_err());
    change(&cloud, NodeChange::Delete { node: node("n1") }).await;
    change(&cloud, NodeChange::Delete { node: node("n1") }).await;
    assert_eq!(world.leftovers(&owner), ["network"]);
    cloud.delete_shared().await.unwrap();
    cloud.delete_shared().await.unwrap();
    assert_eq!(world.leftovers(&owner), Vec::<String>::new());
    assert_eq!(cloud.list().await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn adopted_machines_are_released_not_deleted() {
    let world = SimWorld::new(1);
    world.add_machine(&bare("old"));
    let owner = owner(1);
    let cloud = world.cloud(&owner);
    assert_eq!(cloud.list().await.unwrap(), []);
    assert!(cloud.get(&node("old")).await.unwrap().is_some());
    let adopted = cloud.adopt(&node("old")).await.unwrap();
    assert!(!adopted.created);
    assert_eq!(cloud.adopt(&node("old")).await.unwrap(), adopted);
    assert_eq!(cloud.list().await.unwrap(), [adopted]);
    change(&cloud, NodeChange::Delete { node: node("old") }).await;
    assert_eq!(cloud.list().await.unwrap(), []);
    assert!(cloud.get(&node("old")).await.unwrap().is_some());
    assert!(cloud.adopt(&node("absent")).await.is_err());
}

async fn transcript(seed: u64) -> String {
    let world = SimWorld::with_options(SimOptions {
        rates: FaultRates {
            reply_lost: 0.2,
            interrupted: 0.2,
            throttled: 0.1,
            ..FaultRates::default()
        },
        ..SimOptions::seeded(seed)
    });
    world.preload_image("base:1");
    let owner = owner(1);
    let runs = (0..20).map(|number| {
        let (world, owner) = (world.clone(), owner.clone());
        async move {
            let cloud = world.cloud(&owner);
            let name = format!("n{number}");
            let spec_of_node = NodeSpec::new(node(&name));
            while let Err(error) = cloud
                .begin(NodeChange::Provision {
                    spec: spec_of_node.clone(),
                })
                .await
            {
                let Retry::After(wait) = error.retry() else {
                    panic!("{error}")
                };
                tokio::time::sleep(wait).await;
            }
            let connector = world.connector(&owner);
            let container = spec(&owner, &format!("s{number}"), 20_000);
            loop {
                tokio::time::sleep(Duration::from_secs(5)).await;
                let Ok(Some(observed)) = cloud.get(&node(&name)).await else {
                    continue;
                };
                let Ok(handle) = connector.connect(&observed).await else {
                    continue;
                };
                if handle.runtime.ensure_container(&container).await.is_ok() {
                    return;
                }
            }
        }
    });
    futures_util::future::join_all(runs).await;
    assert_eq!(world.violations(), []);
    world.transcript()
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_produces_the_same_run() {
    let first = transcript(42).await;
    assert!(first.lines().count() > 40, "{first}");
    assert_eq!(first, transcript(42).await);
    assert_ne!(first, transcript(43).await);
}

#[tokio::test(start_paused = true)]
async fn handles_thousands_of_nodes() {
    const NODES: u64 = 1_000;
    const CONTAINERS: u16 = 10;
    let world = SimWorld::new(7);
    world.preload_image("base:1");
    let owner = owner(1);
    let (cloud, connector) = (world.cloud(&owner), world.connector(&owner));
    let runs = (0..NODES).map(|number| {
        let (world, owner, cloud, connector) = (&world, &owner, &cloud, &connector);
        async move {
            let name = node(&format!("n{number}"));
            let spec_of_node = NodeSpec::new(name.clone());
            change(cloud, NodeChange::Provision { spec: spec_of_node }).await;
            tokio::time::sleep(Duration::from_secs(30)).await;
            let observed = cloud.get(&name).await.unwrap().unwrap();
            let runtime = connector.connect(&observed).await.unwrap().runtime;
            for replica in 0..CONTAINERS {
                let service = format!("s{number}-{replica}");
                let container = spec(owner, &service, 20_000 + replica);
                runtime.ensure_container(&container).await.unwrap();
            }
            tokio::time::sleep(Duration::from_secs(3)).await;
            let (ip, probe) = (observed.addresses.private.unwrap(), world.probe());
            assert_eq!(probe.tcp(ip, 20_000, Duration::from_secs(1)).await, Ok(()));
            runtime.state().await.unwrap().containers.len()
        }
    });
    let counts = futures_util::future::join_all(runs).await;
    assert!(counts.iter().all(|count| *count == usize::from(CONTAINERS)));
    assert_eq!(cloud.list().await.unwrap().len(), counts.len());
    assert_eq!(world.violations(), []);
    assert_eq!(
        world.effects().len() as u64,
        NODES * (1 + u64::from(CONTAINERS))
    );
}

#[cfg(feature = "conformance")]
mod conformance {
    //! Runs the conformance suites on the simulation.

    use async_trait::async_trait;

    use super::*;
    use crate::conformance::cloud::CloudBench;
    use crate::conformance::code::CodeBench;
    use crate::conformance::runtime::RuntimeFixture;
    use crate::conformance::{cloud, code, publishing, runtime};
    use crate::error::Result;

    fn command(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[derive(Debug)]
    struct Bench(SimWorld);

    #[async_trait]
    impl CloudBench for Bench {
        fn ours(&self) -> Box<dyn CloudProvider> {
            Box::new(self.0.cloud(&owner(1)))
        }

        fn theirs(&self) -> Box<dyn CloudProvider> {
            Box::new(self.0.cloud(&owner(2)))
        }

        fn nodes(&self) -> [NodeSpec; 2] {
            ["n1", "n2"].map(|name| NodeSpec::new(node(name)))
        }

        async fn add_unowned(&self, spec: &NodeSpec) -> Result<()> {
            self.0.add_machine(spec);
            Ok(())
        }

        async fn remove_unowned(&self, node: &NodeName) -> Result<()> {
            let gone = self
                .0
                .with_machine(node, |machine, _, _| machine.gone = true);
            gone.map(drop)
        }

        async fn fail_provisions(&self, fail: bool) -> bool {
            self.0.lock().rules.rates.provision_fails = f64::from(u8::from(fail));
            true
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_cloud_passes_the_suite() {
        cloud::all(&Bench(SimWorld::new(1))).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn engines_pass_the_suite() {
        let (world, ours, handle) = one_node().await;
        let spec_of_node = NodeSpec::new(node("n2"));
        let cloud = world.cloud(&ours);
        change(&cloud, NodeChange::Provision { spec: spec_of_node }).await;
        let (_, other) = connected(&world, &ours, "n2").await;
        let theirs = owner(2);
        let observed = cloud.get(&node("n1")).await.unwrap().unwrap();
        let stranger = world.connector(&theirs).connect(&observed).await.unwrap();
        runtime::all(&RuntimeFixture {
            runtime: handle.runtime,
            owner: ours,
            stranger: (stranger.runtime, theirs),
            other_engine: Some(other.runtime),
            prefix: "suite".into(),
            image: "base:1".into(),
            runs_long: command(&["sleep", "600"]),
            exits_0: command(&["true"]),
            exits_3: command(&["sh", "-c", "exit 3"]),
            prints: command(&["sh", "-c", "echo out; echo err >&2"]),
            free_port: 20_500,
        })
        .await;
        assert_eq!(world.violations(), []);
    }

    #[async_trait]
    impl CodeBench for SimCodeStore {
        fn store(&self) -> &dyn CodeStore {
            self
        }

        async fn write(&self, name: &str, files: &[(&str, &str)]) -> Result<()> {
            self.put(name, files);
            Ok(())
        }

        async fn remove(&self, name: &str) -> Result<()> {
            SimCodeStore::remove(self, name);
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_code_store_passes_the_suite() {
        code::all(&SimWorld::new(1).code()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_code_store_passes_the_publishing_suite() {
        let work = tempfile::tempdir().unwrap();
        publishing::all(&SimWorld::new(1).code(), work.path()).await;
    }
}
