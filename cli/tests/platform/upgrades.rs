//! Tests that an upgrade of the manager's program, which replaces all agents, loses no request and
//! cuts no connection, also between two releases. Clients send requests all the time through the agent of another node than
//! their server's.

use std::collections::BTreeMap;
use std::path::Path;

use crate::docker::Node;
use crate::load::{self, TIMEOUT, repeat};
use crate::project::Project;
use crate::rollouts;
use crate::subprocess::until;

/// Returns the images of the agents that run on a node.
fn agents(node: &Node) -> Vec<String> {
    let containers = node.inspect_all().into_iter();
    containers
        .filter(|container| {
            container["Config"]["Labels"]["lifecycle.role"] == "agent"
                && container["State"]["Running"] == true
        })
        .map(|container| container["Config"]["Image"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn upgrades_lose_no_request() {
    let loaded = rollouts::start();
    let nodes = Node::all(&loaded.project.id());
    let images = || -> BTreeMap<_, _> {
        nodes
            .iter()
            .map(|(name, node)| (name.as_str(), agents(node)))
            .collect()
    };
    let mut before = images();
    let mut version = 0;
    let mut upgrade = || {
        version += 1;
        loaded.upgrade(&format!("upgrade {version}"));
        // The connections of the keep-alive clients are open through the first agent.
        let after = images();
        assert_eq!(after["a"].len(), version + 1, "{after:?}");
        let is_new = |image: &String| !before["a"].contains(image);
        for (node, agents) in &after {
            assert_eq!(
                agents.iter().filter(|i| is_new(i)).count(),
                1,
                "{node}: {agents:?}"
            );
        }
        before = after;
    };
    upgrade();
    // The second agent passes on what the first one reports.
    repeat(upgrade);
    // No connection is open through the agents of the servers' node.
    until("the previous agents are removed", TIMEOUT, || {
        (agents(&nodes["b"]).len() == 1).then_some(())
    });
    // The last connections through the previous agents end with the clients.
    let web = rollouts::web(loaded.version, loaded.serving.1, "");
    loaded.project.compose(&web);
    loaded.project.ends(0, &["up"]);
    until("the previous agents are removed", TIMEOUT, || {
        (agents(&nodes["a"]).len() == 1).then_some(())
    });
    loaded.project.ends(0, &["down", "--yes"]);
}

#[test]
#[ignore = "needs the programs of the previous release, which script/endure builds"]
fn upgrades_between_releases_lose_no_request() {
    let path = std::env::var("LIFECYCLE_PREVIOUS_RELEASE");
    let path = path.expect("set LIFECYCLE_PREVIOUS_RELEASE=$(script/previous-release)");
    let programs = Path::new(&path);
    let project = load::project(rollouts::NODES);
    project.use_programs(programs);
    let loaded = rollouts::start_in(project);
    let nodes = Node::all(&loaded.project.id());
    let images = || nodes.values().map(agents).collect::<Vec<_>>();
    let before = images();
    loaded.upgrade_to("upgrade", &Project::use_built_programs);
    for (before, after) in before.iter().zip(images()) {
        let is_new = |image: &&String| !before.contains(image);
        assert_eq!(after.iter().filter(is_new).count(), 1, "{after:?}");
    }
    // An agent that still has connections is started again as the current one, so requests may fail.
    loaded.project.use_programs(programs);
    loaded.project.ends(0, &["up"]);
    loaded.report();
    loaded.calm();
    loaded.project.ends(0, &["down", "--yes"]);
}
