//! Tests that all containers on a node run again after the node reboots.

use std::time::Duration;

use crate::docker::docker;
use crate::project::Project;
use crate::subprocess::until;

const SERVICES: &str = r#"
  second:
    build: ./web
    ports: ["8082:8080"]
    depends_on:
      first: {condition: service_healthy}
  first:
    build: ./web
    ports: ["8081:8080"]
    healthcheck:
      test: [CMD, perl, -MIO::Socket::INET, -e, "IO::Socket::INET->new('127.0.0.1:8080') or exit 1"]
      interval: 1s
"#;

#[test]
fn services_start_in_order_after_a_reboot() {
    let project = Project::new();
    project.compose(SERVICES);
    project.web_server("web");
    project.ends(0, &["up"]);
    let (api, node) = (project.api(), project.node());
    let before = [node.service("first"), node.service("second")];
    let manager = node.manager();

    docker(&["restart", &node.container]);
    until("the API answers", Duration::from_mins(1), || {
        api.is_healthy().then_some(())
    });
    until("everything is ready", Duration::from_secs(90), || {
        api.is_ready().then_some(())
    });
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
    assert_eq!(project.status()["platform"]["state"], "running");
    project.ends(0, &["down", "--yes"]);
}
