//! Tests that `up` rejects a concurrent `up`, and that `up` deletes a node with data only after a
//! confirmation.

use std::time::Duration;

use serde_json::Value;

use crate::docker::{Belongings, docker};
use crate::project::Project;

const TWO_NODES: &str = "[nodes.a]\n[nodes.b]\n";
const ONE_NODE: &str = "[nodes.a]\n";

const SERVICES: &str = "  db:
    image: debian:bookworm-slim
    command: [sleep, infinity]
    volumes: [data:/data]
    deploy: {placement: {constraints: [\"node.hostname == b\"]}}
volumes:
  data: {}
";

/// Time limit for an `up`, whether it succeeds or is rejected.
const TIMEOUT: Duration = Duration::from_mins(4);

fn nodes(project: &Project) -> Vec<String> {
    let of = format!("label=lifecycle.platform-id={}", project.id());
    let names = docker(&["ps", "--filter", &of, "--format", "{{.Names}}"]);
    let mut nodes: Vec<String> = names
        .lines()
        .filter_map(|name| name.rsplit_once("-node-"))
        .map(|(_, node)| node.to_owned())
        .collect();
    nodes.sort();
    nodes
}

#[test]
fn concurrent_up_and_data_loss_are_prevented() {
    let project = Project::new();
    project.compose(SERVICES);
    project.write("platform.toml", TWO_NODES);

    let both = [project.start(&["up"]), project.start(&["up"])];
    let ended = both.map(|running| running.finish(TIMEOUT));
    for finished in &ended {
        project.keep(finished);
    }
    let mut codes = ended.each_ref().map(|finished| finished.status.code());
    codes.sort_unstable();
    assert_eq!(codes, [Some(0), Some(1)], "{}", project.said());
    let refused = ended.iter().find(|f| f.status.code() == Some(1)).unwrap();
    assert!(
        refused.stderr.contains("another `up`") && refused.stderr.contains("hint: wait"),
        "{}",
        refused.stderr
    );
    assert_eq!(nodes(&project), ["a", "b"]);

    // Node b has a volume, which would be lost with the node.
    let status = project.status();
    assert_eq!(status["services"][0]["instances"][0]["node"], "b");
    project.compose(&SERVICES.replace("node.hostname == b", "node.hostname == a"));
    project.write("platform.toml", ONE_NODE);
    let before = Belongings::of(&project.id());
    let unconfirmed = project.ends(2, &["--json", "up"]);
    assert!(
        unconfirmed.stderr.contains(
            "node b is no longer declared and will be deleted, with everything on it \
                       (replicas: db-1; volumes: data)"
        ),
        "{}",
        unconfirmed.stderr
    );
    let document: Value = serde_json::from_str(&unconfirmed.stdout).unwrap();
    assert_eq!(document["error"]["kind"], "unconfirmed");
    assert_eq!(Belongings::of(&project.id()), before);
    assert_eq!(project.status(), status);

    project.ends(0, &["up", "--yes"]);
    assert_eq!(nodes(&project), ["a"]);
    project.ends(0, &["up"]);
}
