//! Tests which services may run on the manager's node, whose identity controls the platform.

use lifecycle_core::code::DirectoryStore;
use lifecycle_core::model::PlatformId;
use lifecycle_core::platform::{Diagnostics, Loaded, Sources, load};

use super::project::directory_with;

const AZURE: &str = r#"provider = "azure"
subscription = "00000000-0000-4000-8000-000000000001"
location = "westeurope"
identity = "/subscriptions/00000000-0000-4000-8000-000000000001/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/manager"
"#;
const LOCAL: &str = "provider = \"local\"\n";

/// Reads a service `s` with these keys, for a platform with these nodes.
async fn read(cloud: &str, nodes: &[&str], keys: &str) -> Result<Loaded, Diagnostics> {
    let nodes: Vec<String> = { nodes.iter() }
        .map(|node| format!("[nodes.{node}]\n"))
        .collect();
    let nodes = nodes.concat();
    let toml = format!("[cloud]\n{cloud}{nodes}[manager]\nnode = \"a\"\n");
    let compose = format!("services:\n  s: {{image: x, {keys}}}\n");
    let directory = directory_with(&[("compose.yaml", &compose), ("platform.toml", &toml)]);
    let sources = Sources {
        compose_files: vec![directory.path().join("compose.yaml")],
        platform_toml: Some(directory.path().join("platform.toml")),
        nodes: 1,
        project_dir: directory.path().to_owned(),
        env_files: Vec::new(),
        environment: [].into(),
        name: Some("shop".try_into().unwrap()),
        profiles: Vec::new(),
    };
    let store = DirectoryStore::new(directory.path().to_owned());
    load(&sources, PlatformId::new(uuid::Uuid::nil()), &store).await
}

#[tokio::test]
async fn services_that_reach_the_metadata_service_never_run_on_the_managers_node() {
    for (cloud, keys, expected) in [
        (AZURE, "network_mode: host", Some("services.s.network_mode")),
        (
            AZURE,
            "x-lifecycle: {metadata: true}",
            Some("services.s.x-lifecycle.metadata"),
        ),
        (AZURE, "network_mode: none", None),
        (LOCAL, "network_mode: host", None),
    ] {
        let alone = read(cloud, &["a"], keys).await;
        let Some(place) = expected else {
            let loaded = alone.unwrap_or_else(|problems| panic!("{keys}: {problems}"));
            let mut services = loaded.declaration.services.values();
            assert!(
                services.all(|service| service.constraints.is_empty()),
                "{keys}"
            );
            continue;
        };
        let problems = alone.unwrap_err().to_string();
        assert!(problems.contains(place), "{problems}");
        assert!(problems.contains("the manager's node"), "{problems}");
        let two = read(cloud, &["a", "b"], keys).await;
        let loaded = two.unwrap_or_else(|problems| panic!("{keys}: {problems}"));
        let service = loaded.declaration.services.values().next().unwrap();
        let constraints: Vec<String> = service
            .constraints
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(constraints, ["node.hostname != a"], "{keys}");
    }
}
