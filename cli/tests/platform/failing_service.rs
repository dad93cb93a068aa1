//! Tests a service that always fails. `up` must report the service with the reason and the last
//! output. After a fix, another `up` must start the service. Also tests other failures that commands
//! report.

use std::time::Duration;

use lifecycle_core::api::wire::InstanceStateV1;

use crate::project::Project;
use crate::subprocess::until;

const OTHER: &str = r#"
  other:
    image: debian:bookworm-slim
    command: [perl, -e, "$$SIG{TERM} = sub { exit }; sleep 1 while 1"]
"#;

#[test]
fn a_failing_service_is_reported_and_fixed() {
    let project = Project::new();
    let broken = r#"
  broken:
    image: debian:bookworm-slim
    command: [sh, -c, "echo the flux is missing; exit 3"]
    x-lifecycle:
      ready_within: 10s
"#;
    let dependent = r"
  app:
    image: debian:bookworm-slim
    command: [sleep, infinity]
    depends_on: {broken: {condition: service_healthy}}
";
    project.compose(&format!("{broken}{OTHER}{dependent}"));
    let failed = project.ends(1, &["--json", "up"]);
    for text in [
        "broken-1: ",
        "exit code 3",
        "    the flux is missing",
        "hint: find the cause with `bootstrapper logs broken`",
    ] {
        assert!(failed.stderr.contains(text), "{text}: {}", failed.stderr);
    }
    let status = project.status();
    assert_eq!(status["platform"]["state"], "degraded");
    let why = project.ends(0, &["why", "app"]).stdout;
    for text in [
        "waits for broken to be ready, but broken-1 failed",
        "the flux is missing",
    ] {
        assert!(why.contains(text), "{text}: {why}");
    }
    let state = |name: &str| {
        let services = project.status()["services"].clone();
        let services = services.as_array().unwrap().clone();
        let service = services.into_iter().find(|s| s["name"] == name).unwrap();
        service["instances"][0]["state"].clone()
    };
    assert_eq!(state("broken"), "failed");
    assert_eq!(state("other"), "ready");
    let other = project.node().service("other");
    // The user can retry a failed step without changing the declaration.
    let retried = project.ends(0, &["retry", "broken"]).stderr;
    assert!(
        retried.contains("Retrying now: start broken-1"),
        "{retried}"
    );
    let retried = project.ends(0, &["retry", "other"]).stderr;
    assert!(retried.contains("Nothing was retried"), "{retried}");

    let fixed = r#"
  broken:
    image: debian:bookworm-slim
    command: [perl, -e, "$$SIG{TERM} = sub { exit }; sleep 1 while 1"]
"#;
    project.compose(&format!("{fixed}{OTHER}"));
    project.ends(0, &["up"]);
    assert_eq!(state("broken"), "ready");
    assert_eq!(project.status()["platform"]["state"], "running");
    assert_eq!(project.node().service("other"), other);
    project.ends(0, &["down", "--yes"]);
}

/// Ends of containers that `up` reports: of a service that needs more memory than its limit, and of a
/// job that fails while another service waits for it.
#[test]
fn ends_of_containers_are_reported() {
    let project = Project::new();
    project.compose(
        r#"
  hungry:
    image: debian:bookworm-slim
    command: [perl, -e, "sleep 1; my $$x = 'x' x 300_000_000; sleep 60"]
    mem_limit: 16m
    memswap_limit: 16m
    x-lifecycle:
      ready_within: 10s
  job:
    image: debian:bookworm-slim
    command: [sh, -c, "sleep 20; exit 9"]
  after:
    image: debian:bookworm-slim
    command: [sleep, infinity]
    depends_on: {job: {condition: service_completed_successfully}}
  db:
    image: debian:bookworm-slim
    command: [sleep, infinity]
    volumes: ["data:/data"]
volumes: {data: {}}
"#,
    );
    let killed = "exit code 137 (SIGKILL), killed because it exceeded its memory limit of 16 MiB";
    let failed = project.ends(1, &["up"]);
    assert!(failed.stderr.contains(killed), "{}", failed.stderr);
    let job = "waits for job to complete, but job-1 failed: its container ended with exit code 9";
    assert!(failed.stderr.contains(job), "{}", failed.stderr);
    // The engine may report the reason after the end of the container, and thus after the event.
    until(
        "the status names the limit",
        Duration::from_secs(30),
        || {
            let status = project.ends(0, &["status"]).stdout;
            (status.contains("its container ended ") && status.contains(killed)).then_some(())
        },
    );
    let why = until(
        "the reason names the limit",
        Duration::from_secs(30),
        || {
            let why = project.ends(0, &["why", "hungry"]).stdout;
            let (before, _) = why.split_once("evidence\n").unwrap();
            before.contains(killed).then_some(why)
        },
    );
    let (_, evidence) = why.split_once("evidence\n").unwrap();
    assert!(evidence.contains("exit code 137 (SIGKILL)"), "{why}");
    a_removed_volume_holds_its_replica(&project);
    project.ends(0, &["down", "--yes", "--volumes"]);
}

/// Removes a container and its volume. Until both are gone, the manager is paused, because it would
/// start another container that uses the volume.
fn a_removed_volume_holds_its_replica(project: &Project) {
    let (node, api) = (project.node(), project.api());
    let held = || {
        let db = api.service("db").instances.remove(0);
        let is_held = db
            .why
            .is_some_and(|why| why.contains("data no longer exists"));
        is_held.then_some(())
    };
    let pid = node.inspect("lifecycle.role=manager")["State"]["Pid"].to_string();
    let remove = format!(
        "kill -STOP {pid} && docker rm --force $(docker ps --quiet --filter label=lifecycle.service=db) \
         && docker volume rm $(docker volume ls --quiet --filter name=data) && kill -CONT {pid}"
    );
    node.exec(&["sh", "-c", &remove]);
    until("the replica is held", Duration::from_secs(30), held);
    assert_eq!(node.exec(&["docker", "volume", "ls", "--quiet"]), "");
    project.ends(0, &["retry", "db"]);
    until("the replica is held again", Duration::from_secs(30), held);
    project.ends(0, &["retry", "db", "--recreate-volume"]);
    until(
        "the replica is ready again",
        Duration::from_secs(30),
        || (api.service("db").instances[0].state == InstanceStateV1::Ready).then_some(()),
    );
}
