//! Tests upgrades of the manager's program. If the new version does not respond, the previous
//! version must be restored with its files.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lifecycle_core::Result;
use lifecycle_core::bootstrap::{ManagerImage, handover_directory};
use lifecycle_core::host::ByteStream;
use lifecycle_core::model::NodeName;
use lifecycle_core::runtime::Role;
use lifecycle_core::secret::Sensitive;
use lifecycle_core::sim::{Edge, EffectOutcome, SimManagerImage};

use crate::stage::Stage;

/// A version of the manager's image. Each version has a different digest.
#[derive(Debug)]
struct Version(&'static str);

#[async_trait]
impl ManagerImage for Version {
    async fn digest(&self) -> Result<String> {
        Ok(self.0.repeat(64))
    }

    async fn archive(&self, name: &str) -> Result<ByteStream> {
        SimManagerImage.archive(name).await
    }
}

fn managers(stage: &Stage) -> Vec<(String, String)> {
    let node = &stage.declaration.manager.node;
    let all = stage.world.containers(node).into_iter();
    let ours = all.filter(|c| c.role == Role::Manager);
    ours.map(|c| (c.id.to_string(), format!("{:?}", c.state)))
        .collect()
}

/// Returns whether the manager's node still has the saved files of a previous manager.
fn kept(stage: &Stage) -> bool {
    let node = &stage.declaration.manager.node;
    let transcript = stage.world.files(node);
    transcript.iter().any(|path| path.contains("/previous-"))
}

#[tokio::test(start_paused = true)]
async fn new_version_replaces_only_the_manager_and_the_agents() {
    let mut stage = Stage::new(41).await;
    stage.up().await.unwrap();
    let before = stage.containers();
    stage.manager_image = Some(Arc::new(Version("a")));
    stage.up().await.unwrap();
    stage.agents_finish().await;
    assert_eq!(before.intersection(&stage.containers()).count(), 4);
    assert_eq!(managers(&stage).len(), 1);
    assert!(
        !kept(&stage),
        "{:?}",
        stage.world.files(&stage.declaration.manager.node)
    );
}

#[tokio::test(start_paused = true)]
async fn current_and_previous_manager_images_are_kept() {
    let mut stage = Stage::new(9).await;
    let mut images = Vec::new();
    for version in ["a", "b", "c", "d"] {
        stage.manager_image = Some(Arc::new(Version(version)));
        let outcome = stage.up().await.unwrap();
        assert_eq!(outcome.failures, []);
        stage.agents_finish().await;
        images.push(stage.manager_images());
    }
    let counts: Vec<_> = images.iter().map(Vec::len).collect();
    assert_eq!(counts, [1, 2, 2, 2], "{images:#?}");
    for (before, after) in images.iter().zip(&images[1..]) {
        let kept = after.iter().filter(|image| before.contains(image)).count();
        assert_eq!(
            kept, 1,
            "expected only the previous image to be kept: {images:#?}"
        );
    }
    stage.up().await.unwrap();
    assert_eq!(stage.manager_images(), images[3], "an image was replaced");
    assert_eq!(stage.world.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn unresponsive_version_is_replaced_by_the_previous_one_with_its_registry() {
    let mut stage = Stage::new(42).await;
    stage.up().await.unwrap();
    let (before, services) = (managers(&stage), stage.containers());
    let node = stage.declaration.manager.node.clone();
    let directory = handover_directory(stage.declaration.id);
    let handover = |stage: &Stage| {
        stage
            .world
            .file(&node, &format!("{directory}/registry.json"))
    };
    let handed = handover(&stage).unwrap();

    stage.manager_image = Some(Arc::new(Version("b")));
    stage.managers.break_image(&"b".repeat(64));
    stage.registry.central = Some(Sensitive::new("postgres://lifecycle@db/never-used"));
    let error = stage.up().await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the previous manager was started again"),
        "{error}"
    );
    let after = managers(&stage);
    assert_eq!(after.len(), 1);
    assert_eq!(after[0].0, before[0].0, "the container was replaced");
    assert_eq!(
        handover(&stage).unwrap(),
        handed,
        "the manager's files were changed"
    );
    assert!(!kept(&stage));

    // The new version has converted the registry to a format that the previous version cannot read.
    // The previous version must therefore use its own copy of the registry.
    stage.manager_image = None;
    stage.registry.central = None;
    let outcome = stage.up().await.unwrap();
    assert_eq!((outcome.generation, outcome.failures.len()), (1, 0));
    let now = stage.containers();
    assert_eq!(now.intersection(&services).count(), 6, "{now:?}");
}

/// The new agents, by node, in the order in which they were started, and the removed agents.
fn agent_effects(stage: &Stage, since: usize) -> (Vec<NodeName>, Vec<NodeName>) {
    let effects = stage.world.effects();
    let new = effects[since..].iter();
    let nodes = |verb: &str| {
        let ours = new.clone().filter(|effect| {
            effect.what.starts_with(verb)
                && effect.what.contains("-lifecycle-agent-")
                && effect.outcome == EffectOutcome::Changed
        });
        ours.filter_map(|effect| effect.node.clone()).collect()
    };
    (nodes("ensure"), nodes("remove"))
}

#[tokio::test(start_paused = true)]
async fn agents_overlap_and_are_replaced_one_node_at_a_time() {
    let mut stage = Stage::new(44).await;
    stage.up().await.unwrap();
    let before = stage.world.effects().len();
    let nodes: Vec<NodeName> = stage.declaration.nodes.keys().cloned().collect();
    let agents = |stage: &Stage| -> Vec<_> { nodes.iter().map(|n| stage.agents(n)).collect() };
    let old = agents(&stage);
    stage.manager_image = Some(Arc::new(Version("a")));
    let overlap = async {
        // Each node has both agents for a time, and the old one is not stopped.
        for (node, old) in nodes.iter().zip(&old) {
            while stage.agents(node).len() < 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(stage.agents(node).iter().any(|agent| *agent == old[0]));
        }
    };
    let (outcome, ()) = tokio::join!(stage.up(), overlap);
    assert_eq!(outcome.unwrap().failures, []);
    for (node, old) in nodes.iter().zip(&old) {
        let new = stage
            .agents(node)
            .into_iter()
            .find(|new| new.name != old[0].name);
        assert!(new.unwrap().state.is_running(), "`up` waits for all agents");
    }
    stage.agents_finish().await;
    let (started, removed) = agent_effects(&stage, before);
    assert_eq!(started, nodes);
    assert_eq!(removed.len(), nodes.len());
    for (now, old) in agents(&stage).iter().zip(&old) {
        assert_ne!(now[0].name, old[0].name);
    }
    assert_eq!(stage.world.violations(), []);
}

/// A rollback declares an agent again that still finishes the connections from before the upgrade.
#[tokio::test(start_paused = true)]
async fn agents_take_over_again_after_a_rollback() {
    let mut stage = Stage::new(46).await;
    stage.up().await.unwrap();
    let nodes: Vec<NodeName> = stage.declaration.nodes.keys().cloned().collect();
    stage.manager_image = Some(Arc::new(Version("a")));
    stage.up().await.unwrap();
    let before = stage.world.effects().len();
    for node in &nodes {
        let running = stage.agents(node).into_iter();
        assert_eq!(running.filter(|agent| agent.state.is_running()).count(), 2);
    }
    stage.manager_image = None;
    assert_eq!(stage.up().await.unwrap().failures, []);
    // The agents of the upgrade finish their connections too.
    for node in &nodes {
        assert_eq!(stage.agents(node).len(), 2);
    }
    let (started, removed) = agent_effects(&stage, before);
    assert_eq!(started, nodes);
    assert_eq!(removed, nodes);
    stage.agents_finish().await;
    assert_eq!(stage.world.violations(), []);
}

/// Crashes the manager and the bootstrapper at each effect from the first new agent on.
#[tokio::test(start_paused = true)]
async fn replacement_of_agents_continues_after_a_crash_at_any_effect() {
    let upgrade = async |crash: Option<(u64, Edge)>| {
        let mut stage = Stage::new(45).await;
        stage.up().await.unwrap();
        let (old, before) = (stage.names(), stage.world.effects().len());
        stage.manager_image = Some(Arc::new(Version("d")));
        if let Some((effect, edge)) = crash {
            stage.world.faults().crash_at(effect, edge);
            let up = async {
                stage.up().await.unwrap();
                stage.agents_finish().await;
            };
            tokio::select! {
                biased;
                () = stage.world.crashed() => {}
                () = up => panic!("effect {effect} {edge:?} did not occur"),
            }
            stage.world.next_incarnation();
        }
        let context = |stage: &Stage| format!("{crash:?}\n{}", stage.world.transcript());
        let outcome = stage.up().await;
        let outcome = outcome.unwrap_or_else(|e| panic!("{}: {}", e.chain(), context(&stage)));
        assert_eq!(outcome.failures, [], "{}", context(&stage));
        stage.agents_finish().await;
        assert_eq!(stage.names(), old, "{}", context(&stage));
        assert_eq!(stage.world.violations(), [], "{}", context(&stage));
        let effects = stage.world.effects();
        let mut new = effects.iter().skip(before);
        let first = new.find(|effect| effect.what.contains("-lifecycle-agent-"));
        (first.unwrap().number, effects.len() as u64)
    };
    let (first, last) = upgrade(None).await;
    assert!(last > first + 4);
    // The effect before the first container creates the agent's directory.
    for effect in first - 1..=last {
        for edge in [Edge::Before, Edge::After] {
            upgrade(Some((effect, edge))).await;
        }
    }
}

/// Crashes the bootstrapper at each effect of the upgrade to a version that never responds. The
/// next `up` must still restore the previous version.
#[tokio::test(start_paused = true)]
async fn failed_upgrade_continues_after_a_crash_at_any_effect() {
    let upgrade = async |crash: Option<(u64, Edge)>| {
        let mut stage = Stage::new(43).await;
        stage.up().await.unwrap();
        let previous = managers(&stage);
        let first = stage.world.effects().len() as u64;
        stage.manager_image = Some(Arc::new(Version("c")));
        stage.managers.break_image(&"c".repeat(64));
        if let Some((effect, edge)) = crash {
            stage.world.faults().crash_at(effect, edge);
            tokio::select! {
                biased;
                () = stage.world.crashed() => {}
                ended = stage.up() => panic!("effect {effect} {edge:?} did not occur: {ended:?}"),
            }
            stage.world.next_incarnation();
        }
        let context = |stage: &Stage| format!("{crash:?}\n{}", stage.world.transcript());
        let again = stage.up().await;
        assert!(again.is_err(), "{}", context(&stage));
        assert_eq!(managers(&stage)[0].0, previous[0].0, "{}", context(&stage));
        let last = stage.world.effects().len() as u64;
        stage.manager_image = None;
        let outcome = stage.up().await;
        let outcome = outcome.unwrap_or_else(|e| panic!("{}: {}", e.chain(), context(&stage)));
        assert_eq!(outcome.failures, [], "{}", context(&stage));
        assert_eq!(managers(&stage).len(), 1, "{}", context(&stage));
        assert!(!kept(&stage), "{}", context(&stage));
        (first, last)
    };
    let (first, last) = upgrade(None).await;
    assert!(last > first + 8);
    for effect in first + 1..=last {
        for edge in [Edge::Before, Edge::After] {
            upgrade(Some((effect, edge))).await;
        }
    }
}
