//! Tests that a recorded input contains no secrets and still yields the same plan.

use std::collections::BTreeMap;

use lifecycle_core::model::{
    BuildOptions, FileContents, FileTree, Healthcheck, HealthcheckTest, ImageSource, ShippedFile,
    ShippedMount, VolumeMount, VolumeName, VolumeOptions,
};
use lifecycle_core::reconcile::{PlanningInput, plan};
use lifecycle_core::secret::Sensitive;

use super::builder::{ServiceChanges, declared, service};
use super::model::World;

const SECRET: &str = "hunter2";

#[test]
fn a_recorded_input_contains_no_secret_and_gives_the_same_plan() {
    let secrets = || BTreeMap::from([("PASSWORD".to_owned(), Sensitive::new(SECRET))]);
    let mut db = service("db").host_port(5432);
    let ImageSource::Build(source) = &mut db.source else {
        panic!("{:?} is built", db.name);
    };
    source.args = secrets();
    source.options = BuildOptions {
        inline: Some(format!("FROM debian:12\nENV P={SECRET}")),
        ..BuildOptions::default()
    };
    let container = &mut db.container;
    container.environment = secrets();
    container.volumes.push(VolumeMount {
        volume: VolumeName::try_from("data").unwrap(),
        target: "/data".into(),
        read_only: false,
        options: VolumeOptions {
            driver_opts: secrets(),
            ..VolumeOptions::default()
        },
    });
    container.files.push(ShippedMount {
        target: "/run/secrets/password".into(),
        tree: FileTree::File(ShippedFile {
            mode: 0o400,
            uid: 0,
            gid: 0,
            contents: FileContents::Text(Sensitive::new(SECRET)),
        }),
        chunks: Vec::new(),
    });
    // The types of these fields are not secret types, but users may write secrets into the fields.
    container.command = Some(vec![format!("--password={SECRET}")]);
    container.labels.insert("password".into(), SECRET.into());
    container.healthcheck = Some(Healthcheck {
        test: HealthcheckTest::Shell(format!("check {SECRET}")),
        interval: None,
        timeout: None,
        retries: None,
        start_period: None,
    });

    let declared = declared(&["n1", "n2"], vec![db, service("web").ready_after("db")]);
    let mut world = World::empty();
    for _ in 0..12 {
        let input = world.input(&declared);
        let recorded = serde_json::to_string(&input).unwrap();
        assert!(!recorded.contains(SECRET), "{recorded}");
        let read: PlanningInput = serde_json::from_str(&recorded).unwrap();
        let planned = plan(&input);
        assert_eq!(
            serde_json::to_string(&planned).unwrap(),
            serde_json::to_string(&plan(&read)).unwrap()
        );
        let Some(step) = planned.steps.first() else {
            return;
        };
        world.apply(&declared, &step.action);
        world.tick(&declared);
    }
    panic!("the platform has not settled: {:?}", world.plan(&declared));
}
