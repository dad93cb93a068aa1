//! Another version of the manager's program: it replaces the former one, or that one comes back
//! with what it had.

use std::sync::Arc;

use async_trait::async_trait;
use lifecycle_core::Result;
use lifecycle_core::bootstrap::{ManagerImage, handover_directory};
use lifecycle_core::host::ByteStream;
use lifecycle_core::runtime::Role;
use lifecycle_core::secret::Sensitive;
use lifecycle_core::sim::{Edge, SimManagerImage};

use crate::stage::Stage;

/// An image of other contents.
#[derive(Debug)]
struct Version(&'static str);

#[async_trait]
impl ManagerImage for Version {
    async fn digest(&self) -> Result<String> {
        Ok(self.0.repeat(64))
    }

    async fn context(&self) -> Result<ByteStream> {
        SimManagerImage.context().await
    }
}

fn managers(stage: &Stage) -> Vec<(String, String)> {
    let node = &stage.declaration.manager.node;
    let all = stage.world.containers(node).into_iter();
    let ours = all.filter(|c| c.role == Role::Manager);
    ours.map(|c| (c.id.to_string(), format!("{:?}", c.state)))
        .collect()
}

/// The directories of former managers on the manager's node, by a file in them.
fn kept(stage: &Stage) -> bool {
    let node = &stage.declaration.manager.node;
    let transcript = stage.world.files(node);
    transcript.iter().any(|path| path.contains("/former-"))
}

#[tokio::test(start_paused = true)]
async fn a_new_version_replaces_the_manager_and_the_agents_alone() {
    let mut stage = Stage::new(41).await;
    stage.up().await.unwrap();
    let before = stage.containers();
    stage.manager_image = Some(Arc::new(Version("a")));
    stage.up().await.unwrap();
    assert_eq!(before.intersection(&stage.containers()).count(), 4);
    assert_eq!(managers(&stage).len(), 1);
    assert!(
        !kept(&stage),
        "{:?}",
        stage.world.files(&stage.declaration.manager.node)
    );
}

#[tokio::test(start_paused = true)]
async fn of_the_managers_images_the_present_and_the_former_stay() {
    let mut stage = Stage::new(9).await;
    let mut images = Vec::new();
    for version in ["a", "b", "c", "d"] {
        stage.manager_image = Some(Arc::new(Version(version)));
        let outcome = stage.up().await.unwrap();
        assert_eq!(outcome.failures, []);
        images.push(stage.manager_images());
    }
    let counts: Vec<_> = images.iter().map(Vec::len).collect();
    assert_eq!(counts, [1, 2, 2, 2], "{images:#?}");
    for (before, after) in images.iter().zip(&images[1..]) {
        let kept = after.iter().filter(|image| before.contains(image)).count();
        assert_eq!(kept, 1, "the former one: {images:#?}");
    }
    stage.up().await.unwrap();
    assert_eq!(stage.manager_images(), images[3], "nothing was replaced");
    assert_eq!(stage.world.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_never_answers_gives_way_to_the_former_one_and_its_registry() {
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
        error.to_string().contains("the former one runs again"),
        "{error}"
    );
    let after = managers(&stage);
    assert_eq!(after.len(), 1);
    assert_eq!(after[0].0, before[0].0, "the same container");
    assert_eq!(handover(&stage).unwrap(), handed, "what it was handed");
    assert!(!kept(&stage));

    // It answers, on its registry: the file had been brought to a form that it does not read.
    stage.manager_image = None;
    stage.registry.central = None;
    let outcome = stage.up().await.unwrap();
    assert_eq!((outcome.generation, outcome.failures.len()), (1, 0));
    let now = stage.containers();
    assert_eq!(now.intersection(&services).count(), 6, "{now:?}");
}

/// The bootstrapper dies anywhere while a version is tried that never answers; the next one
/// finds the way back all the same.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_effect_of_an_upgrade_that_fails_is_survived() {
    let upgrade = async |crash: Option<(u64, Edge)>| {
        let mut stage = Stage::new(43).await;
        stage.up().await.unwrap();
        let former = managers(&stage);
        let first = stage.world.effects().len() as u64;
        stage.manager_image = Some(Arc::new(Version("c")));
        stage.managers.break_image(&"c".repeat(64));
        if let Some((effect, edge)) = crash {
            stage.world.faults().crash_at(effect, edge);
            tokio::select! {
                biased;
                () = stage.world.crashed() => {}
                ended = stage.up() => panic!("effect {effect} {edge:?} never came: {ended:?}"),
            }
            stage.world.next_incarnation();
        }
        let told = |stage: &Stage| format!("{crash:?}\n{}", stage.world.transcript());
        let again = stage.up().await;
        assert!(again.is_err(), "{}", told(&stage));
        assert_eq!(managers(&stage)[0].0, former[0].0, "{}", told(&stage));
        let last = stage.world.effects().len() as u64;
        stage.manager_image = None;
        let outcome = stage.up().await;
        let outcome = outcome.unwrap_or_else(|e| panic!("{}: {}", e.chain(), told(&stage)));
        assert_eq!(outcome.failures, [], "{}", told(&stage));
        assert_eq!(managers(&stage).len(), 1, "{}", told(&stage));
        assert!(!kept(&stage), "{}", told(&stage));
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
