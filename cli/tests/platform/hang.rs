//! Tests a node that hangs during or after a bring-up. `status` must show the node as unknown, with
//! a reason; other nodes must not be delayed.

use std::time::Duration;

use lifecycle_core::model::EventKind;
use serde_json::Value;

use crate::docker::{Node, docker};
use crate::document::{endpoints, instance};
use crate::https::plain_get;
use crate::project::{Project, STATIC_SERVER};
use crate::subprocess::until;

const NODES: &str = "[nodes.a]\n[nodes.b]\n[nodes.c]\n[manager]\nnode = \"a\"\n";

/// Time limit for the manager to detect an unresponsive node, even on a busy machine.
const DETECTED_WITHIN: Duration = Duration::from_secs(90);

/// Time limit for each wait.
const TIMEOUT: Duration = Duration::from_mins(4);

fn service(name: &str, node: &str) -> String {
    format!(
        "  {name}:{STATIC_SERVER}    ports: [\"8080:8000\"]\n    \
         deploy: {{placement: {{constraints: [\"node.hostname == {node}\"]}}}}\n"
    )
}

fn node<'a>(status: &'a Value, name: &str) -> &'a Value {
    let nodes = status["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["name"] == name).unwrap()
}

/// Returns the status, if the manager responds.
fn try_status(project: &Project) -> Option<Value> {
    let finished = project.call(&["--json", "status"]);
    let document = || serde_json::from_str(&finished.stdout).unwrap();
    finished.status.success().then(document)
}

fn is_ready(status: &Value, service: &str) -> bool {
    instance(status, service)["state"] == "ready"
}

#[test]
fn hanging_node_is_shown_and_delays_no_other() {
    let project = Project::new();
    let both = format!(
        "  both:{STATIC_SERVER}    expose: [\"8000\"]\n    \
         deploy: {{replicas: 2, placement: {{constraints: [\"node.hostname != a\"]}}}}\n"
    );
    let services = [service("at-b", "b"), service("at-c", "c"), both];
    project.compose(&services.concat());
    project.write("platform.toml", NODES);
    project.static_server("server");

    let mut up = project.start(&["up"]);
    let c = until("c is created", TIMEOUT, || {
        assert!(up.runs(), "`up` ended before c was created");
        Node::find(&project.identity()?, "c")
    });
    docker(&["pause", &c.container]);
    let status = until("the service on b is ready", TIMEOUT, || {
        assert!(up.runs(), "`up` ended before c was ready");
        let status = try_status(&project)?;
        // The status lists no services until the manager has read the declaration.
        let is_declared = status["services"].as_array().is_some_and(|s| s.len() == 3);
        (is_declared && is_ready(&status, "at-b")).then_some(status)
    });
    assert!(!is_ready(&status, "at-c"), "{status}");
    assert!(up.runs(), "`up` ended before c was ready");
    docker(&["unpause", &c.container]);
    let up = up.finish(TIMEOUT);
    project.keep(&up);
    assert_eq!(up.status.code(), Some(0), "{}", up.stderr);

    hangs_later(&project, &c);
    project.ends(0, &["down", "--yes"]);
}

fn hangs_later(project: &Project, c: &Node) {
    let api = project.api();
    let b = Node::find(&project.id(), "b").unwrap();
    let (cursor, at_c, at_b) = (api.last_event(), c.service("at-c"), b.service("at-b"));
    let before = b.exec(&["date", "--utc", "+%Y-%m-%dT%H:%M:%S.%6NZ"]);
    docker(&["pause", &c.container]);
    logs_of_other_nodes_are_shown(project);
    let status = until("c is unknown", DETECTED_WITHIN, || {
        let status = project.status();
        // The requests to c run concurrently and time out separately, so wait for both states.
        let is_noticed = status["platform"]["state"] == "degraded"
            && instance(&status, "at-c")["state"] == "unknown"
            && node(&status, "c")["state"] == "unknown";
        is_noticed.then_some(status)
    });
    let unknown = node(&status, "c");
    let since = unknown["unknown_since"].as_str().unwrap();
    // These times have the same format, so they can be compared as text.
    assert!(
        since >= before.as_str(),
        "unknown since {since}, hangs since {before}"
    );
    let why = unknown["unknown_why"].as_str().unwrap();
    assert!(!why.is_empty(), "{unknown}");
    let shown = project.ends(0, &["status"]).stdout;
    let message = format!("unknown since {since}: {why}");
    assert!(shown.contains(&message), "{message} in {shown}");
    assert_eq!(instance(&status, "at-c")["why"], why, "{status}");
    logs_of_other_nodes_are_shown(project);
    for other in ["a", "b"] {
        assert_eq!(node(&status, other)["state"], "running", "{status}");
    }

    b.docker(&["rm", "--force", &at_b.id]);
    let status = until(
        "the lost service on b is ready again",
        Duration::from_secs(30),
        || {
            let status = project.status();
            let at_b_now = instance(&status, "at-b");
            (at_b_now["state"] == "ready" && at_b_now["container"] != at_b.id.as_str())
                .then_some(status)
        },
    );
    let (ip, port) = &endpoints(instance(&status, "at-b"))[0];
    assert!(plain_get(ip, *port, "/health").contains("200 OK"));
    assert_eq!(node(&status, "c")["state"], "unknown");
    assert_eq!(
        node(&status, "c")["unknown_since"],
        since,
        "the time of the first failure must be shown"
    );

    docker(&["unpause", &c.container]);
    until("everything is ready again", DETECTED_WITHIN, || {
        (project.status()["platform"]["state"] == "running").then_some(())
    });
    let status = project.status();
    assert_eq!(node(&status, "c")["state"], "running");
    assert!(
        node(&status, "c").get("unknown_since").is_none(),
        "{status}"
    );
    assert!(is_ready(&status, "at-c"), "{status}");
    assert_eq!(c.service("at-c"), at_c, "the service on c was replaced");

    let events = api.events(cursor);
    for kind in [EventKind::NodeUnknown, EventKind::NodeKnown] {
        let message = events.iter().filter(|e| e.event.kind == kind);
        assert_eq!(message.count(), 1, "{kind:?} in {events:#?}");
    }
    let planned = events.iter().filter(|e| e.event.kind == EventKind::Planned);
    for step in planned.flat_map(|e| e.event.data["steps"].as_array().unwrap()) {
        assert_eq!(step["instance"], "at-b-1", "{events:#?}");
    }
}

/// Checks `logs` for a service on the hanging node and on another node. The command must show the
/// available output, and warn why the rest is missing.
fn logs_of_other_nodes_are_shown(project: &Project) {
    let logs = project.ends(0, &["logs", "both"]);
    let lines: Vec<&str> = logs.stdout.lines().collect();
    let instances: Vec<_> = lines
        .iter()
        .map(|l| l.split(" | ").next().unwrap())
        .collect();
    assert!(
        !lines.is_empty() && instances.iter().all(|i| *i == instances[0]),
        "{lines:#?}"
    );
    let status = project.status();
    let both = status["services"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["name"] == "both");
    let both = both.unwrap()["instances"].as_array().unwrap();
    let on = |name: &str| {
        both.iter().find(|i| i["node"] == name).unwrap()["id"]
            .as_str()
            .unwrap()
    };
    assert_eq!(instances[0], on("b"), "{lines:#?}");
    let message = format!(
        "warning: {}: the rest of the output is unavailable: ",
        on("c")
    );
    assert!(
        logs.stderr.contains(&message),
        "{message} in {}",
        logs.stderr
    );
}
