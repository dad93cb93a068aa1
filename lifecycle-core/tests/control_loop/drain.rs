//! Tests that a stop of a container waits until no agent sends it new connections, and then until
//! its open connections have ended.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use lifecycle_core::model::{InstanceId, InstanceState, NodeName};
use lifecycle_core::reconcile::Round;
use lifecycle_core::sim::{EffectOutcome, SimOptions};

use crate::platform::{instance, node, service};
use crate::stage::Stage;

const SERVICE: &str = "monitoring";
const ONE_IS_OPEN: &str = "waits for 1 connection to end";

/// A platform in which one replica is about to be stopped.
struct Scene {
    stage: Stage,
    id: InstanceId,
    /// The name of the replica's container.
    container: String,
    /// A node that runs neither the manager nor the replica.
    client: NodeName,
}

impl Scene {
    async fn new(seed: u64) -> Self {
        Self::with_grace(seed, None).await
    }

    async fn with_grace(seed: u64, grace: Option<Duration>) -> Self {
        let mut stage = Stage::shop_without_manager(SimOptions::seeded(seed)).await;
        stage.use_agents();
        let declared = stage.declaration.services.get_mut(&service(SERVICE));
        declared.unwrap().container.stop_grace = grace;
        stage.start();
        stage.settled().await;
        let id = instance(SERVICE, 1);
        let (at, container) = stage.place(&id);
        let client = ["n2", "n3"].map(node).into_iter().find(|node| *node != at);
        let scene = Self {
            stage,
            id,
            container: container.name,
            client: client.unwrap(),
        };
        scene.tables_list(false).await;
        scene
    }

    /// Sets the number of connections from the client's node to the container.
    fn connect(&self, open: u64) {
        let world = &self.stage.world;
        world
            .open_connections(&self.client, &self.container, open)
            .unwrap();
    }

    async fn restart(&self) {
        self.stage.manager.restart(SERVICE, None).await.unwrap();
    }

    /// Declares the platform without the service.
    async fn remove(&self) {
        let mut changed = self.stage.declaration.clone();
        changed.services.remove(&service(SERVICE)).unwrap();
        self.stage.manager.apply(changed).await.unwrap();
    }

    /// Makes the client's node unreachable and waits until it counts as unknown.
    async fn partition_client(&self) {
        let faults = self.stage.world.faults();
        faults.partition(&self.client).unwrap();
        let unknown = |round: &Round| {
            let observed = round.observed();
            observed.nodes[&self.client].engine_state().is_none()
        };
        let limit = Duration::from_mins(1);
        self.stage.until("unknown", limit, unknown).await;
    }

    /// Waits until every agent's table lists the container as draining, or as not draining.
    async fn tables_list(&self, draining: bool) {
        let nodes: Vec<&NodeName> = self.stage.declaration.nodes.keys().collect();
        let lists = |node: &&NodeName| {
            let table = self.stage.world.agent_table(node);
            let mut services = table.into_iter().flat_map(|table| table.services);
            services.any(|(_, entry)| {
                let mut backends = entry.backends.iter();
                backends.any(|b| b.container == self.container && b.draining == draining)
            })
        };
        self.poll("tables", || nodes.iter().all(lists)).await;
    }

    /// Returns how often the container was stopped.
    fn stops(&self) -> usize {
        let stop = format!("stop {}", self.container);
        let effects = self.stage.world.effects().into_iter();
        effects
            .filter(|e| e.what == stop && e.outcome == EffectOutcome::Changed)
            .count()
    }

    /// Waits until the container is stopped for the `count`-th time. Returns how long this takes.
    async fn stopped(&self, count: usize) -> Duration {
        let before = tokio::time::Instant::now();
        self.poll("stopped", || self.stops() == count).await;
        before.elapsed()
    }

    async fn poll(&self, what: &str, condition: impl Fn() -> bool) {
        let wait = async {
            while !condition() {
                self.stage.pass(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_mins(5), wait).await;
        waited.unwrap_or_else(|_| panic!("seed {}: {what}", self.stage.seed));
    }

    /// Waits until the running step shows this line.
    async fn shows(&self, line: &str) -> Arc<Round> {
        // Long enough for a manager that has just started.
        let shows = |round: &Round| {
            let mut lines = round
                .running
                .iter()
                .filter_map(|step| step.last_line.as_ref());
            lines.any(|shown| shown == line)
        };
        let limit = Duration::from_secs(30);
        self.stage.until(line, limit, shows).await
    }
}

/// Asserts that `passed` is `expected` seconds, or up to two seconds more, for the time that calls
/// take.
fn assert_about(passed: Duration, expected: u64) {
    let expected = Duration::from_secs(expected);
    let most = expected + Duration::from_secs(2);
    assert!((expected..most).contains(&passed), "{passed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_without_open_connections_waits_only_for_the_agents() {
    let scene = Scene::new(201).await;
    scene.restart().await;
    assert_about(scene.stopped(1).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_until_open_connections_end() {
    let scene = Scene::new(202).await;
    scene.connect(3);
    scene.restart().await;
    scene.shows("waits for 3 connections to end").await;
    scene.tables_list(true).await;
    scene.connect(1);
    let round = scene.shows(ONE_IS_OPEN).await;
    let step = &round.running[0];
    let limit = step.until.unwrap() - step.since;
    // The deadline of a stop, and the longest drain.
    assert!(limit > TimeDelta::minutes(3) + TimeDelta::seconds(50));
    let records = scene.stage.records().await;
    assert!(records[&scene.id].endpoints.is_empty());
    scene.stage.pass(Duration::from_secs(4)).await;
    assert_eq!(scene.stops(), 0);
    scene.connect(0);
    assert_about(scene.stopped(1).await, 0);
    scene.stage.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_open_connections_no_longer_than_the_grace_period() {
    // New connections wait for the only replica, for at most 30 seconds.
    for (grace, expected) in [(None, 10), (Some(5), 5), (Some(25), 15)] {
        let scene = Scene::with_grace(203, grace.map(Duration::from_secs)).await;
        scene.connect(1);
        scene.restart().await;
        scene.tables_list(true).await;
        assert_about(scene.stopped(1).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_a_slow_agent() {
    let scene = Scene::new(204).await;
    let faults = scene.stage.world.faults();
    let delay = Duration::from_secs(8);
    faults.delay_tables(&scene.client, delay).unwrap();
    scene.restart().await;
    let line = format!(
        "waits for the agents on {} to stop new connections",
        scene.client
    );
    let before = tokio::time::Instant::now();
    scene.shows(&line).await;
    scene.stopped(1).await;
    assert_about(before.elapsed(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_connections_through_a_slow_agent() {
    let scene = Scene::new(205).await;
    let faults = scene.stage.world.faults();
    let delay = Duration::from_secs(8);
    faults.delay_tables(&scene.client, delay).unwrap();
    scene.connect(1);
    scene.restart().await;
    // The grace period begins when the last agent has accepted the table.
    assert_about(scene.stopped(1).await, 18);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_a_restarted_agent() {
    let scene = Scene::new(206).await;
    let faults = scene.stage.world.faults();
    let delay = Duration::from_secs(8);
    faults.delay_tables(&scene.client, delay).unwrap();
    let containers = scene.stage.containers();
    let agent = containers.into_iter().find(|(node, container)| {
        *node == scene.client && container.role == lifecycle_core::runtime::Role::Agent
    });
    let (_, agent) = agent.unwrap();
    faults
        .kill_container(&scene.client, &agent.name, 1)
        .unwrap();
    let restarted = |_: &Round| {
        let containers = scene.stage.world.containers(&scene.client);
        let mut started = containers.into_iter().filter(|c| c.name == agent.name);
        started.any(|now| now.started_at > agent.started_at)
    };
    let limit = Duration::from_mins(1);
    scene.stage.until("restarted", limit, restarted).await;
    scene.restart().await;
    let passed = scene.stopped(1).await;
    assert!(passed > Duration::from_secs(6), "{passed:?}");
    scene.stage.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_an_unreachable_node() {
    let scene = Scene::new(207).await;
    scene.partition_client().await;
    // A restart would be held, because services on the unreachable node start before this one.
    scene.remove().await;
    assert_about(scene.stopped(1).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_becomes_unreachable_ends_the_waits_for_it() {
    // The connections of the first scene stay open through an agent that has accepted the table;
    // the agent of the second scene does not accept it.
    for accepts in [true, false] {
        let scene = Scene::with_grace(208, Some(Duration::from_mins(2))).await;
        let faults = scene.stage.world.faults();
        if accepts {
            scene.connect(1);
        } else {
            let delay = Duration::from_hours(1);
            faults.delay_tables(&scene.client, delay).unwrap();
        }
        scene.restart().await;
        scene.stage.pass(Duration::from_secs(5)).await;
        assert_eq!(scene.stops(), 0);
        scene.partition_client().await;
        assert_about(scene.stopped(1).await, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_skips_a_broken_agent() {
    let scene = Scene::new(209).await;
    let faults = scene.stage.world.faults();
    let delay = Duration::from_hours(1);
    faults.delay_tables(&scene.client, delay).unwrap();
    scene.connect(1);
    scene.restart().await;
    // The feed waits for ten seconds, and the agent is skipped after 30 more.
    assert_about(scene.stopped(1).await, 40);
    // The observation of the restarted container must have arrived, so that the next restart is
    // about this container.
    let limit = Duration::from_mins(1);
    let (place, container) = scene.stage.place(&scene.id);
    let started = |round: &Round| {
        let observed = round.observed();
        let state = observed.nodes[&place].engine_state();
        let mut containers = state.into_iter().flat_map(|state| &state.containers);
        containers.any(|c| c.name == container.name && c.started_at > container.started_at)
            && round.running.is_empty()
            && round.plan.instances[&scene.id].state == InstanceState::Ready
    };
    scene.stage.until("started", limit, started).await;
    // The agent is still broken, so the next stop skips it immediately.
    scene.restart().await;
    assert_about(scene.stopped(2).await, 0);
}

#[tokio::test(start_paused = true)]
async fn connections_of_a_removed_service_are_not_waited_for() {
    let scene = Scene::new(210).await;
    scene.connect(5);
    scene.remove().await;
    assert_about(scene.stopped(1).await, 0);

    let scene = Scene::new(210).await;
    scene.connect(5);
    scene.stage.manager.delete_platform(false).await.unwrap();
    assert_about(scene.stopped(1).await, 0);
}

#[tokio::test(start_paused = true)]
async fn removing_a_service_ends_the_wait_for_its_connections() {
    let scene = Scene::with_grace(211, Some(Duration::from_mins(2))).await;
    scene.connect(5);
    scene.restart().await;
    scene.shows("waits for 5 connections to end").await;
    scene.remove().await;
    assert_about(scene.stopped(1).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_exits_ends_the_wait_for_its_connections() {
    let scene = Scene::with_grace(212, Some(Duration::from_mins(2))).await;
    scene.connect(1);
    scene.restart().await;
    scene.shows(ONE_IS_OPEN).await;
    let (at, _) = scene.stage.place(&scene.id);
    let faults = scene.stage.world.faults();
    faults.kill_container(&at, &scene.container, 0).unwrap();
    let ended = scene.stage.until("settled", Duration::from_secs(20), |s| {
        s.settled && s.is_idle()
    });
    ended.await;
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_the_next_manager_waits_again() {
    let mut scene = Scene::new(213).await;
    scene.connect(1);
    scene.restart().await;
    scene.shows(ONE_IS_OPEN).await;
    scene.stage.crash().await;
    scene.stage.start();
    scene.shows(ONE_IS_OPEN).await;
    assert_eq!(scene.stops(), 0);
    scene.tables_list(true).await;
    scene.connect(0);
    assert_about(scene.stopped(1).await, 0);
    scene.stage.settled().await;
    assert_eq!(scene.stops(), 1);
    scene.tables_list(false).await;
}
