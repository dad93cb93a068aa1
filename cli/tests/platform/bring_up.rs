//! The IoT example on its three nodes, watched from the moment its manager can be asked: what
//! answers when, who starts last, whether data flows, and whether the platform then rests.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use benches::at_rest::{self, Rest};
use lifecycle_core::clock::{Clock as _, SystemClock};
use serde_json::Value;

use crate::docker::{Belongings, Node, Run};
use crate::document::{endpoints, has_the_documented_shape, instance, instances};
use crate::https::{Https, plain_get};
use crate::project::Project;
use crate::subprocess::{Running, until};

/// The services of the example, sorted.
const SERVICES: [&str; 7] = [
    "authentication",
    "deployment-manager",
    "monitoring",
    "request-manager",
    "sensor-binder",
    "sensor-controller",
    "sensor-manager",
];

/// Longer than a bring-up takes.
const PATIENCE: Duration = Duration::from_mins(4);

/// How long the platform is left alone: first it settles, then it is measured.
const SETTLES: Duration = Duration::from_secs(30);
const RESTS: Duration = Duration::from_secs(90);

/// How often the API is looked at.
const PACE: Duration = Duration::from_millis(50);

/// What one look at the API saw, in the order in which it was asked.
#[derive(Debug)]
struct Look {
    ready: u16,
    /// `POST` with the admin token to where nothing may be posted.
    write: u16,
    /// The open `PUT` of what is declared already: the code, and whether it changed anything.
    put: (u16, Option<bool>),
    /// Asked without a credential.
    unauthorized: [u16; 3],
    health: u16,
    progress: Value,
    /// Of each service.
    endpoints: [u16; 7],
    services: Value,
}

fn look(api: &Https, admin: &str, read: &str, declaration: &str) -> Look {
    let get = |path: &str| api.ask("GET", path, Some(read), "");
    let ready = api.ask("GET", "/readyz", None, "").status;
    let write = api.ask("POST", "/v1/services", Some(admin), "{}").status;
    let put = api.ask("PUT", "/v1/platform", Some(admin), declaration);
    let changed = (put.status == 200).then(|| put.json()["changed"].as_bool().unwrap());
    let progress = get("/v1/progress");
    assert_eq!(progress.status, 200, "{progress:?}");
    let found = get("/v1/services");
    assert_eq!(found.status, 200, "{found:?}");
    Look {
        ready,
        write,
        put: (put.status, changed),
        unauthorized: [
            "/v1/progress",
            "/v1/services",
            "/v1/services/monitoring/endpoints",
        ]
        .map(|path| api.ask("GET", path, None, "").status),
        health: api.ask("GET", "/healthz", None, "").status,
        progress: progress.json(),
        endpoints: SERVICES.map(|name| get(&format!("/v1/services/{name}/endpoints")).status),
        services: found.json(),
    }
}

/// Watches until the platform is ready; gives what was seen, and how long after the manager's
/// start the first look was.
fn watch(project: &Project, up: &mut Running) -> (Vec<Look>, Duration) {
    let hub = until("the manager's node runs", PATIENCE, || {
        assert!(up.runs(), "`up` ended before its node was seen");
        Node::find(&project.identity()?, "hub")
    });
    // Kept before the first effect.
    let api = Https::new(hub.address(), 7443, &project.kept("ca.pem"));
    let deadline = Instant::now() + PATIENCE;
    while api.try_ask("GET", "/healthz", None, "").is_none() {
        assert!(Instant::now() < deadline && up.runs(), "nobody answers");
        std::thread::sleep(PACE / 5);
    }
    // Nodes have this machine's clock.
    let answered = SystemClock.now().timestamp_micros();
    let silent = answered - hub.started("lifecycle.role=manager");
    let silent = Duration::from_micros(silent.try_into().unwrap());

    let (admin, read) = (project.kept("admin.token"), project.kept("read.token"));
    // What was handed over, as its owner would send it again.
    let declaration = format!(
        "/var/lib/lifecycle/{}/manager/declaration.json",
        project.id()
    );
    let declaration = hub.exec(&["cat", &declaration]);
    let mut looks = Vec::new();
    loop {
        looks.push(look(&api, &admin, &read, &declaration));
        if looks.last().unwrap().ready == 200 {
            return (looks, silent);
        }
        assert!(Instant::now() < deadline, "not ready: {:?}", looks.last());
        std::thread::sleep(PACE);
    }
}

fn all_looks_are_in_order(looks: &[Look]) {
    let (last, before) = looks.split_last().unwrap();
    assert!(!before.is_empty(), "the bring-up was never seen");
    for look in looks {
        assert_eq!(look.health, 200, "{look:?}");
        assert_eq!(look.unauthorized, [401; 3], "{look:?}");
        // Before it has read what is declared, it knows no service.
        if look.progress["generation"] != 0 {
            assert_eq!(look.endpoints, [200; 7], "{look:?}");
        }
        // Asked before the progress: what is not open now was not open then.
        if look.progress["open"] == false {
            assert_eq!(look.write, 503, "{look:?}");
            assert_eq!(look.ready, 503, "{look:?}");
        }
        // Before it leads nobody can change anything, the declaration included.
        assert!(
            look.put == (503, None) || look.put == (200, Some(false)),
            "{look:?}"
        );
    }
    assert!(
        before
            .iter()
            .any(|l| l.progress["open"] == false && l.put.0 == 200),
        "the declaration can be corrected while it converges: {before:#?}"
    );
    assert_eq!(last.write, 405, "once it is open, the path alone is wrong");
    // Not `ready`: the declaration that was just put asks for failed steps to be tried again, and
    // the round counts as ended only when the control loop has taken that.
    assert_eq!(last.progress["open"], true, "{last:?}");

    // Asked after `/readyz` said so.
    let services = last.services.as_array().unwrap();
    for instance in services
        .iter()
        .flat_map(|s| s["instances"].as_array().unwrap())
    {
        assert_eq!(instance["state"], "ready", "{instance}");
    }
    // Look-ups answered with what was ready so far, not only once all was.
    let ready_early = before.iter().flat_map(|l| l.services.as_array().unwrap());
    assert!(
        ready_early
            .flat_map(|s| s["instances"].as_array().unwrap())
            .any(|instance| !instance["endpoints"].as_array().unwrap().is_empty()),
        "endpoints are published as they come"
    );
}

/// What a simulated sensor measures can be read back through the request manager, and the next
/// reading follows.
fn data_flows(status: &Value) {
    let door = &endpoints(instance(status, "request-manager"))[0];
    let ask = |path: &str| -> Option<Value> {
        let answer = plain_get(&door.0, door.1, path);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let is_there = head.lines().next().unwrap().ends_with("200 OK");
        is_there.then(|| serde_json::from_str(body).unwrap())
    };
    let patience = Duration::from_secs(30);
    let path = "/readings/garden.light";
    let first = until("a reading is there", patience, || ask(path));
    assert_eq!(first["sensor"], "garden.light", "{first}");
    assert!(first["value"].is_f64(), "{first}");
    let next = until("another reading follows", patience, || {
        ask(path).filter(|reading| reading["at"] != first["at"])
    });
    assert!(next["at"].as_str() > first["at"].as_str(), "{first} {next}");
    let bound = until("an application has its readings", patience, || {
        ask("/applications/greenhouse/readings")
    });
    let mut kinds: Vec<_> = bound
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["sensor"].as_str().unwrap().split_once('.').unwrap().1)
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, ["humidity", "light"], "{bound}");
}

/// The services' containers with their starts, node by node.
fn runs(project: &Project) -> BTreeMap<String, BTreeMap<String, Run>> {
    let nodes = Node::all(&project.id());
    nodes
        .iter()
        .map(|(name, node)| (name.clone(), node.runs()))
        .collect()
}

/// Nothing keeps starting, and nothing grows. The bounds are those of a debug build on a busy
/// machine; `cargo bench -p benches --bench rest` prints what it really takes.
fn is_at_rest(rest: &Rest) {
    const GROWTH: f64 = 500.0;
    const MORE: u64 = 10;
    let started = &rest.started;
    // On a busy machine the kernel drops a few; many would make the count worthless.
    assert!(started.lost_events < 20, "incomplete: {started:?}");
    // What is counted is there at all: the example declares one health check, every second.
    let checks: Vec<_> = started
        .checks
        .iter()
        .map(|c| c.check.service.as_str())
        .collect();
    assert_eq!(checks, ["sensor-manager"]);
    assert!(started.checks[0].seen >= 20, "{started:?}");
    assert!(
        rest.others_per_second() < 1.0,
        "new processes at rest: {started:?}"
    );
    assert_eq!(rest.programs.len(), 4, "a manager, three agents");
    for program in &rest.programs {
        assert!(program.slope < GROWTH, "memory: {program:?}");
        for (before, after) in [program.descriptors, program.threads] {
            assert!(after <= before + MORE, "{program:?}");
        }
    }
}

#[test]
fn the_example_comes_up_in_order_answers_meanwhile_and_then_rests() {
    let project = Project::named("iot-platform");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/iot-platform");
    project.copy(&example);
    project.put_program("iot-platform", "code/iot/iot-platform");

    let mut up = project.start(&["up"]);
    let (looks, silent) = watch(&project, &mut up);
    let up = up.finish(PATIENCE);
    project.keep(&up);
    assert_eq!(up.status.code(), Some(0), "{}", up.stderr);
    println!(
        "the API answered {silent:?} after its manager's start; {} looks",
        looks.len()
    );
    // A second, and what a busy machine adds.
    assert!(silent < Duration::from_secs(3), "{silent:?}");
    all_looks_are_in_order(&looks);

    let status = project.status();
    has_the_documented_shape(&status, &project);
    let services = status["services"].as_array().unwrap();
    let names: Vec<_> = services
        .iter()
        .map(|s| s["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, SERVICES);
    assert_eq!(instances(&status).len(), 8, "one of them twice");
    for instance in instances(&status) {
        let endpoints = endpoints(instance);
        assert_eq!(endpoints.len(), 1, "{instance}");
        for (ip, port) in endpoints {
            let answer = plain_get(&ip, port, "/health");
            let first = answer.lines().next().unwrap();
            assert!(first.ends_with("200 OK"), "{instance}: {answer}");
        }
    }
    let last = &instance(&status, "monitoring")["started_at"];
    for other in instances(&status) {
        // Times of one form sort as text.
        assert!(
            other["id"] == "monitoring-1" || other["ready_at"].as_str() < last.as_str(),
            "monitoring started at {last}, before {other}"
        );
    }
    data_flows(&status);

    let before = (runs(&project), status);
    project.ends(0, &["up"]);
    assert_eq!((runs(&project), project.status()), before, "a second up");

    let id = project.id();
    let rest = at_rest::measure(&id, SETTLES, RESTS).unwrap();
    // Shown where the test fails.
    println!("{rest}");
    is_at_rest(&rest);

    project.ends(0, &["down", "--yes"]);
    assert!(Belongings::of(&id).is_empty(), "{:?}", Belongings::of(&id));
}
