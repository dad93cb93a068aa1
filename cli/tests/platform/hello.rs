//! Tests a small platform from `up` to `down`: a second `up`, a lost container, changed code, and
//! logs.

use std::collections::BTreeSet;
use std::time::Duration;

use lifecycle_core::model::EventKind;
use lifecycle_core::reconcile::{RecordedPlan, plan};
use serde_json::{Value, json};

use crate::docker::Belongings;
use crate::document::{assert_documented_shape, endpoints, instance};
use crate::host::Traces;
use crate::https::plain_get;
use crate::project::Project;
use crate::subprocess::until;

const SERVICES: &str = r#"
  hello:
    build: .
    ports: ["8080:8080"]
    environment:
      GREETING: Good morning
  other:
    build: ./other
    ports: ["8081:8080"]
    environment:
      GREETING: Good evening
"#;

#[test]
fn platform_life_cycle() {
    let project = Project::new();
    project.compose(SERVICES);
    project.web_server(".");
    project.web_server("other");
    // Another user starts a platform with the same name on the same engine.
    let other = Project::named(&project.name);
    other.compose("  only:\n    image: debian:bookworm-slim\n    command: [sleep, infinity]\n");

    project.ends(0, &["up"]);
    let status = project.status();
    assert_documented_shape(&status, &project);
    has_two_services(&status);
    assert_all_endpoints_respond(&status);

    second_up_changes_nothing(&project);
    lost_container_is_replaced(&project);
    changed_code_replaces_only_its_service(&project);
    unchanged_image_replaces_nothing(&project);

    the_latest_plan_is_recorded_without_secrets(&project);

    let logs = project.ends(0, &["logs", "hello"]);
    assert!(
        logs.stdout.contains("hello-1 | listening on port 8080"),
        "{}",
        logs.stdout
    );
    let logs = project.ends(0, &["--json", "logs", "hello", "--tail", "1"]);
    let line: Value = serde_json::from_str(logs.stdout.trim()).unwrap();
    assert_eq!(line["instance"], "hello-1");
    let unknown = project.ends(1, &["logs", "nobody"]);
    assert!(unknown.stderr.contains("nobody"), "{}", unknown.stderr);

    other.ends(0, &["up"]);
    let others = Belongings::of(&other.id());
    let others_node = other.node();
    let others_run = (others_node.run(), others_node.service("only"));
    assert!(!others.is_empty());

    let (id, state) = (project.id(), project.state());
    let belongings = Belongings::of(&id);
    assert!(!belongings.is_empty());
    // Without a terminal, `down` cannot ask for confirmation.
    let unconfirmed = project.ends(2, &["down"]);
    assert!(
        unconfirmed.stderr.contains("hint: confirm with --yes"),
        "{}",
        unconfirmed.stderr
    );
    assert_eq!(Belongings::of(&id), belongings);
    let traces = Traces::of(&project);
    project.ends(0, &["down", "--yes"]);
    traces.assert_removed(&project);
    assert!(Belongings::of(&id).is_empty(), "{:?}", Belongings::of(&id));
    assert!(!state.exists(), "{}", state.display());
    assert_eq!(Belongings::of(&other.id()), others);
    assert_eq!(
        (others_node.run(), others_node.service("only")),
        others_run,
        "the other platform was changed"
    );
    assert_eq!(other.status()["platform"]["state"], "running");

    let after = project.ends(1, &["status"]);
    assert!(after.stderr.contains("hint: "), "{}", after.stderr);
    assert!(after.stderr.contains("up"), "{}", after.stderr);
}

fn second_up_changes_nothing(project: &Project) {
    let node = project.node();
    let runs = || {
        let services = ["hello", "other"].map(|service| node.service(service));
        (node.run(), node.manager(), services)
    };
    let before = (runs(), project.status());
    project.ends(0, &["up"]);
    let after = (runs(), project.status());
    assert_eq!(before.0, after.0);
    assert_eq!(before.1, after.1, "a second `up` changed something");
}

fn lost_container_is_replaced(project: &Project) {
    let (api, node) = (project.api(), project.node());
    let (lost, other) = (node.service("hello"), node.service("other"));
    let cursor = api.last_event();
    node.docker(&["rm", "--force", &lost.id]);
    until("hello is ready again", Duration::from_mins(1), || {
        let status = project.status();
        let hello = instance(&status, "hello");
        let is_new = hello["container"] != lost.id.as_str();
        (hello["state"] == "ready" && is_new).then_some(())
    });
    assert_all_endpoints_respond(&project.status());
    assert_eq!(node.service("other"), other);

    let events = api.events(cursor);
    let planned: Vec<_> = events
        .iter()
        .filter(|e| e.event.kind == EventKind::Planned)
        .collect();
    assert_eq!(planned.len(), 1, "{planned:#?}");
    let steps = planned[0].event.data["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 1, "{steps:#?}");
    assert_eq!(steps[0]["action"], "start-instance");
    assert_eq!(steps[0]["reason"], json!({"because": "instance-absent"}));
    assert_eq!(steps[0]["instance"], "hello-1");
    for kind in [EventKind::NotReady, EventKind::Ready] {
        let matching = events.iter().filter(|e| e.event.kind == kind);
        assert_eq!(matching.count(), 1, "{kind:?} in {events:#?}");
    }
}

/// Returns the names of the images on the node that the platform built for its services.
fn built_images(project: &Project) -> BTreeSet<String> {
    let format = ["images", "--format", "{{.Repository}}:{{.Tag}}"];
    let prefix = format!("{}-{}/", project.name, &project.id()[..6]);
    let listed = project.node().docker(&format);
    let built = listed.lines().filter(|name| name.starts_with(&prefix));
    built.map(str::to_owned).collect()
}

fn unchanged_image_replaces_nothing(project: &Project) {
    let node = project.node();
    let runs = || (node.service("hello"), node.service("other"), node.manager());
    let (before, images) = (runs(), built_images(project));
    assert_eq!(images.len(), 2, "{images:?}");
    let compose = project.read("compose.yaml");
    project.write("README.md", "Not copied into the image.");
    for text in [
        format!("# A comment.\n{compose}"),
        format!("{compose}# Another comment.\n"),
    ] {
        project.write("compose.yaml", &text);
        project.ends(0, &["up"]);
        assert_eq!(runs(), before);
        let plan = project.ends(0, &["plan"]).stdout;
        assert!(plan.contains("Nothing to do"), "{plan}");
        let kept = "image unchanged: containers of hello are kept";
        assert!(plan.contains(kept), "{plan}");
    }
    let renamed = until("the old names are removed", Duration::from_mins(1), || {
        let renamed = built_images(project);
        (renamed.len() == 2).then_some(renamed)
    });
    assert_eq!(images.intersection(&renamed).count(), 1, "{renamed:?}");
}

fn changed_code_replaces_only_its_service(project: &Project) {
    let node = project.node();
    let (hello, other, manager) = (node.service("hello"), node.service("other"), node.manager());
    let generation = project.status()["platform"]["generation"].clone();
    let images = built_images(project);
    let server = project.read("hello.pl");
    project.write("hello.pl", &format!("{server}# A change.\n"));
    let code = format!("/var/lib/lifecycle/{}/code", project.id());
    let shell = |script: &str| node.exec(&["sh", "-c", script]);
    let present = || -> BTreeSet<String> {
        shell(&format!("ls {code}"))
            .lines()
            .map(str::to_owned)
            .collect()
    };
    let previous = present();
    assert_eq!(previous.len(), 2, "expected one code base for each service");
    // Simulate archives that earlier bring-ups left behind.
    let old =
        format!("cd {code}; for year in 2020 2021 2022; do touch -d $year-01-01 $year.tar; done");
    shell(&old);
    project.ends(0, &["up"]);
    let code = present();
    assert!(
        code.is_superset(&previous),
        "code that is still used was removed: {code:?}"
    );
    assert!(!code.contains("2020.tar"), "unused code was kept: {code:?}");
    assert_ne!(node.service("hello").id, hello.id);
    assert_eq!(node.service("other"), other);
    assert_eq!(node.manager(), manager);
    until("the old image is removed", Duration::from_mins(1), || {
        let left = built_images(project);
        (left.len() == 2 && left != images).then_some(())
    });
    let status = project.status();
    assert_eq!(
        status["platform"]["generation"].as_u64(),
        generation.as_u64().map(|generation| generation + 1)
    );
    assert_all_endpoints_respond(&status);
}

fn the_latest_plan_is_recorded_without_secrets(project: &Project) {
    let file = project.path("recorded.json");
    project.ends(0, &["why", "hello", "--record", file.to_str().unwrap()]);
    let recorded = std::fs::read_to_string(file).unwrap();
    assert!(
        !recorded.contains("Good "),
        "the recorded plan contains the environment"
    );
    let recorded: RecordedPlan = serde_json::from_str(&recorded).unwrap();
    assert!(recorded.plan.is_empty() && recorded.plan.settled);
    assert_eq!(plan(&recorded.input), *recorded.plan);
}

fn has_two_services(status: &Value) {
    assert_eq!(status["platform"]["generation"], 1);
    assert_eq!(status["nodes"].as_array().unwrap().len(), 1);
    let ip = &status["nodes"][0]["addresses"]["private"];
    let services = status["services"].as_array().unwrap();
    let names: Vec<_> = services.iter().map(|s| s["name"].as_str()).collect();
    assert_eq!(names, [Some("hello"), Some("other")]);
    for (service, port) in services.iter().zip([8080, 8081]) {
        assert_eq!(service["class"], "microservice");
        assert_eq!(service["instances"].as_array().unwrap().len(), 1);
        assert_eq!(
            service["instances"][0]["endpoints"],
            json!([{"ip": ip, "port": port, "container_port": 8080, "protocol": "tcp"}])
        );
    }
}

/// Requests each endpoint from this machine and checks the service's greeting in the response.
fn assert_all_endpoints_respond(status: &Value) {
    for (service, greeting) in [("hello", "Good morning"), ("other", "Good evening")] {
        let endpoints = endpoints(instance(status, service));
        assert_eq!(endpoints.len(), 1, "{service}: {endpoints:?}");
        for (ip, port) in endpoints {
            let answer = plain_get(&ip, port, "/");
            assert!(answer.contains(greeting), "{ip}:{port}: {answer}");
        }
    }
}
