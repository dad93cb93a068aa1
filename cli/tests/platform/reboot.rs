//! Tests that all containers on a node run again, in order, after the node reboots: by itself, and on
//! request.

use std::time::Duration;

use crate::docker::{Node, docker};
use crate::project::Project;
use crate::subprocess::until;
use crate::terminal::OnTerminal;

const SERVICES: &str = r#"
  second:
    build: ./web
    ports: ["8082:8080"]
    depends_on:
      first: {condition: service_healthy}
    deploy: {placement: {constraints: ["node.hostname == a"]}}
  first:
    build: ./web
    ports: ["8081:8080"]
    healthcheck:
      test: [CMD, perl, -MIO::Socket::INET, -e, "IO::Socket::INET->new('127.0.0.1:8080') or exit 1"]
      interval: 1s
    deploy: {placement: {constraints: ["node.hostname == a"]}}
  far:
    build: ./web
    restart: "no"
    deploy: {placement: {constraints: ["node.hostname == b"]}}
"#;

#[test]
fn services_start_in_order_after_a_reboot() {
    let project = Project::new();
    project.compose(SERVICES);
    project.web_server("web");
    project.write("platform.toml", "[nodes.a]\n[nodes.b]\n");
    project.ends(0, &["up"]);
    let (api, node) = (project.api(), Node::find(&project.id(), "a").unwrap());

    restarts_in_order(&project, &node, || {
        docker(&["restart", &node.container]);
        until("the API answers", Duration::from_mins(1), || {
            api.is_healthy().then_some(())
        });
        until("everything is ready", Duration::from_secs(90), || {
            api.is_ready().then_some(())
        });
    });
    let logs = OnTerminal::start(project.command(&["logs", "-f", "--tail", "1"]));
    logs.shows("far-1    | listening");
    logs.shows("first-1  | listening");
    // The manager also runs on this node.
    restarts_in_order(&project, &node, || {
        let done = project.ends(0, &["node", "restart", "a"]);
        assert!(done.stderr.contains("Restarted: a."), "{}", done.stderr);
    });
    let lines = |of: &str| logs.text().matches(&format!("{of} | listening")).count();
    until("both services write again", Duration::from_secs(30), || {
        (lines("first-1 ") == 2 && lines("second-1") == 2).then_some(())
    });
    let said = logs
        .text()
        .matches("the manager does not respond; the output continues")
        .count();
    assert_eq!((said, lines("far-1   ")), (1, 1), "{}", logs.text());
    another_node_is_restarted(&project, &node);
    a_node_is_added_and_removed(&project);
    a_node_is_stopped(&project);
    let events = OnTerminal::start(project.command(&["events", "-f", "--tail", "1000"]));
    events.shows("restart");
    project.ends(0, &["down", "--yes"]);
    assert!(events.ends(0).contains("note: the platform was deleted"));
    logs.ends(0);
}

/// Checks that the containers on the node are kept, and start again in order.
fn restarts_in_order(project: &Project, node: &Node, restart: impl FnOnce()) {
    let before = [node.service("first"), node.service("second")];
    let (manager, far) = (node.manager(), Node::find(&project.id(), "b").unwrap());
    let elsewhere = far.service("far");
    restart();
    let after = [node.service("first"), node.service("second")];
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.id, after.id, "a container was replaced");
        assert!(before.started_at < after.started_at);
    }
    assert!(
        after[0].started_at < after[1].started_at,
        "a service started before its dependency: {after:?}"
    );
    assert_eq!(node.manager().id, manager.id);
    assert!(node.manager().started_at > manager.started_at);
    assert_eq!(far.service("far").started_at, elsewhere.started_at);
    assert_eq!(project.status()["platform"]["state"], "running");
}

/// Restarts the node whose container no restart policy would start again.
fn another_node_is_restarted(project: &Project, other: &Node) {
    let boot = || {
        let nodes = project.status()["nodes"].clone();
        let nodes = nodes.as_array().unwrap().iter();
        let mut boots = nodes.filter(|node| node["name"] == "b");
        boots.next().unwrap()["boot_id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (first, node) = (boot(), Node::find(&project.id(), "b").unwrap());
    let (before, elsewhere) = (node.service("far"), other.service("first"));
    project.ends(0, &["node", "restart", "b"]);
    let after = node.service("far");
    assert_ne!(boot(), first);
    assert_eq!(after.id, before.id);
    assert!(after.started_at > before.started_at);
    assert_eq!(other.service("first").started_at, elsewhere.started_at);
    assert_eq!(project.status()["platform"]["state"], "running");
    let unknown = project.ends(1, &["node", "restart", "c"]);
    assert!(
        unknown.stderr.contains("node c does not exist"),
        "{}",
        unknown.stderr
    );
}

/// Adds a node for a replica that does not fit on the others. `up` keeps the node.
fn a_node_is_added_and_removed(project: &Project) {
    project.ends(0, &["node", "add", "c", "--like", "b"]);
    let status = project.ends(0, &["status"]).stderr;
    assert!(status.contains("note: node c was added"), "{status}");
    project.ends(0, &["up"]);
    let added = Node::find(&project.id(), "c").unwrap();
    assert_eq!(added.exec(&["docker", "ps", "--quiet"]).lines().count(), 1);
    a_node_is_prepared(project, &added);
    a_node_is_drained(project, &added);
    let declared = project.ends(1, &["node", "remove", "b", "--yes"]).stderr;
    assert!(
        declared.contains("it is declared in platform.toml"),
        "{declared}"
    );
    project.ends(0, &["node", "remove", "c", "--yes"]);
    assert!(Node::find(&project.id(), "c").is_none());
    assert_eq!(project.status()["platform"]["state"], "running");
}

/// Prepares a node whose engine runs, cannot start, and can start again.
fn a_node_is_prepared(project: &Project, node: &Node) {
    let agent = node.docker(&["ps", "--quiet"]);
    let running = project.ends(0, &["node", "prepare", "c"]).stderr;
    assert!(running.contains("was already running"), "{running}");
    assert_eq!(node.docker(&["ps", "--quiet"]), agent);

    let broken = "cp /usr/local/bin/node-engine /root && \
                  echo 'echo the disk is read-only >&2; exit 1' > /usr/local/bin/node-engine";
    node.exec(&["sh", "-c", broken]);
    node.stop_engine();
    let failed = project.ends(1, &["node", "prepare", "c"]).stderr;
    assert!(failed.contains("preparing node c failed"), "{failed}");
    assert!(failed.contains("the disk is read-only"), "{failed}");
    node.exec(&["cp", "/root/node-engine", "/usr/local/bin/node-engine"]);
    // The platform itself would wait before it tries again.
    let prepared = project.ends(0, &["node", "prepare", "c"]).stderr;
    assert!(prepared.contains("Prepared node c: engine "), "{prepared}");
    node.docker(&["version"]);
    until("the agent runs again", Duration::from_mins(1), || {
        (node.docker(&["ps", "--quiet"]).lines().count() == 1).then_some(())
    });
    let operations = project.ends(0, &["operation", "list"]).stdout;
    assert_eq!(
        operations.matches("prepare-node").count(),
        3,
        "{operations}"
    );
}

/// Moves the only replica of a node to another node.
fn a_node_is_drained(project: &Project, node: &Node) {
    let service = r#"{"image": "debian:bookworm-slim", "command": ["sleep", "infinity"]}"#;
    project.write("guest.json", service);
    let file = project.path("guest.json").display().to_string();
    project.ends(0, &["service", "apply", "guest", &file]);
    // The other nodes have more replicas.
    let first = node.service("guest");
    let drained = project.ends(0, &["node", "drain", "c"]).stdout;
    assert!(drained.contains("running, drained"), "{drained}");
    assert_eq!(node.exec(&["docker", "ps", "--quiet"]).lines().count(), 1);
    let moved = project.ends(0, &["status", "--json"]).stdout;
    assert!(
        moved.contains("guest-1") && !moved.contains(&first.id),
        "{moved}"
    );
    let stays = project.ends(0, &["node", "drain", "b"]).stderr;
    assert!(
        stays.contains("far-1 stays, because it fits on no other node"),
        "{stays}"
    );
    let opened = project.ends(0, &["node", "uncordon", "b", "c"]).stdout;
    assert!(!opened.contains("drained"), "{opened}");
    project.ends(0, &["service", "remove", "guest"]);
}

/// Stops the node of a replica that no restart policy would start again, and starts it.
fn a_node_is_stopped(project: &Project) {
    let node = Node::find(&project.id(), "b").unwrap();
    let before = node.service("far");
    let stopped = project.ends(0, &["node", "stop", "b"]);
    assert!(
        stopped.stderr.contains("far-1 has stopped with its node"),
        "{}",
        stopped.stderr
    );
    let is_running = || {
        let format = "--format={{.State.Running}}";
        docker(&["inspect", format, &node.container]).trim() == "true"
    };
    assert!(!is_running());
    // `up` does not start it.
    let up = project.ends(1, &["up"]);
    assert!(
        up.stderr.contains("far-1: node b was stopped on request"),
        "{}",
        up.stderr
    );
    assert!(!is_running());
    let own = project.ends(1, &["node", "stop", "a"]).stderr;
    assert!(own.contains("the manager runs on it"), "{own}");
    project.ends(0, &["node", "start", "b"]);
    let after = Node::find(&project.id(), "b").unwrap().service("far");
    assert_eq!(after.id, before.id);
    assert!(after.started_at > before.started_at);
    assert_eq!(project.status()["platform"]["state"], "running");
    let operations = project.ends(0, &["operation", "list"]).stdout;
    assert!(operations.contains("stop, node b"), "{operations}");
}
