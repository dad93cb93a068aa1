//! Reads forty projects in the style of published Compose files, and plans each of them on two
//! nodes.
//!
//! Each directory contains a project. All projects use `published/platform.toml`, which declares
//! two nodes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use lifecycle_core::model::{Generation, ImageSource};
use lifecycle_core::platform::{Loaded, find};
use lifecycle_core::reconcile::placement::place;
use lifecycle_core::reconcile::{Declared, History, Observed, PlanningInput, plan};
use lifecycle_core::secret::PlatformKey;

/// The projects in which every service uses `build`, and every Dockerfile is based only on
/// `debian:bookworm-slim`.
const BUILT_HERE: [&str; 6] = [
    "build-inline",
    "built-configured",
    "built-jobs",
    "built-merged",
    "built-networks",
    "built-pair",
];

fn directory() -> PathBuf {
    super::tests().join("published")
}

fn cases() -> Vec<String> {
    let mut cases: Vec<String> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir() && entry.file_name() != "snapshots")
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    cases.sort();
    cases
}

async fn read(case: &str) -> Result<Loaded, String> {
    let mut sources = find(&directory().join(case), &[]).unwrap();
    sources.platform_toml = Some(directory().join("platform.toml"));
    // The result must not depend on the environment of the test process.
    sources.environment.clear();
    super::loaded(&sources)
        .await
        .map_err(|problems| problems.to_string())
}

/// Describes the services in start order, each with the nodes of its replicas.
fn describe(loaded: &Loaded) -> String {
    let declaration = &loaded.declaration;
    let key = PlatformKey::from_hex(&"07".repeat(32)).unwrap();
    let declared = Arc::new(Declared::new(Generation(1), declaration, &key).unwrap());
    let placement = place(&declared, &Observed::default(), &History::default());
    let now = chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::days(20_000);
    let plan = plan(&PlanningInput::new(Arc::clone(&declared), now));
    assert!(!plan.steps.is_empty() && !plan.settled);

    let mut services: Vec<_> = declared.services.values().collect();
    services.sort_by_key(|service| (service.rank, service.spec.name.clone()));
    let mut text = format!("{}\n", declaration.name);
    for service in services {
        let spec = &service.spec;
        let nodes: Vec<&str> = placement
            .nodes
            .iter()
            .filter(|(id, _)| id.service == spec.name)
            .map(|(_, node)| node.as_str())
            .collect();
        let source = match &spec.source {
            ImageSource::Build(build) => format!("built from {}", build.code.name),
            ImageSource::Image(image) => image.clone(),
        };
        let nodes = nodes.join(", ");
        writeln!(text, "{} {} ({source}): {nodes}", service.rank, spec.name).unwrap();
    }
    for (id, why) in &placement.unplaceable {
        writeln!(text, "no node for {id}: {why}").unwrap();
    }
    text
}

#[tokio::test]
async fn all_projects_are_read_and_planned() {
    let cases = cases();
    assert!(cases.len() >= 40, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        match read(&case).await {
            Ok(loaded) => insta::assert_snapshot!(case, describe(&loaded)),
            Err(problems) => wrong.push(format!("{case}: {problems}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn projects_built_here_need_no_registry() {
    let base = "debian:bookworm-slim";
    let mut built = Vec::new();
    for case in cases() {
        let Ok(loaded) = read(&case).await else {
            continue;
        };
        let all = loaded
            .declaration
            .services
            .values()
            .all(|service| match &service.source {
                ImageSource::Build(source) => source.bases.iter().all(|one| one == base),
                ImageSource::Image(_) => false,
            });
        if all {
            built.push(case);
        }
    }
    assert_eq!(built, BUILT_HERE);
}
