//! Runs the IoT example on three nodes. Checks when the API's requests succeed, which service
//! starts last, and that the platform is idle afterwards.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use benches::at_rest::{self, Rest};
use lifecycle_core::clock::{Clock as _, SystemClock};
use serde_json::Value;

use crate::docker::{Belongings, Node, Run};
use crate::document::{assert_documented_shape, endpoints, instance, instances};
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

/// Time limit for each wait.
const TIMEOUT: Duration = Duration::from_mins(4);

/// How long the test waits before it measures the idle platform.
const SETTLING: Duration = Duration::from_secs(30);
/// How long the test measures the idle platform.
const IDLE: Duration = Duration::from_secs(90);

/// How often the API is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The responses to one poll of the API.
#[derive(Debug)]
struct Poll {
    ready: u16,
    /// The status code of a request to restart a service that does not exist.
    write: u16,
    /// The status code of a `PUT` of the current declaration, and whether the response reports a
    /// change.
    put: (u16, Option<bool>),
    /// The status codes of requests without a credential.
    unauthorized: [u16; 3],
    health: u16,
    progress: Value,
    /// The status code of the endpoint lookup for each service.
    endpoints: [u16; 7],
    services: Value,
}

fn poll(api: &Https, admin: &str, declaration: &str) -> Poll {
    let get = |path: &str| api.request("GET", path, Some(admin), "");
    let ready = api.request("GET", "/readyz", None, "").status;
    let write = api
        .request("POST", "/v1/services/absent/restart", Some(admin), "")
        .status;
    let put = api.request("PUT", "/v1/platform", Some(admin), declaration);
    let changed = (put.status == 200).then(|| put.json()["changed"].as_bool().unwrap());
    let progress = get("/v1/progress");
    assert_eq!(progress.status, 200, "{progress:?}");
    let found = get("/v1/services");
    assert_eq!(found.status, 200, "{found:?}");
    Poll {
        ready,
        write,
        put: (put.status, changed),
        unauthorized: [
            "/v1/progress",
            "/v1/services",
            "/v1/services/monitoring/endpoints",
        ]
        .map(|path| api.request("GET", path, None, "").status),
        health: api.request("GET", "/healthz", None, "").status,
        progress: progress.json(),
        endpoints: SERVICES.map(|name| get(&format!("/v1/services/{name}/endpoints")).status),
        services: found.json(),
    }
}

/// Polls until the platform is ready. Returns the polls, and the time from the manager's start to
/// the first response.
fn watch(project: &Project, up: &mut Running) -> (Vec<Poll>, Duration) {
    let hub = until("the manager's node is running", TIMEOUT, || {
        assert!(up.runs(), "`up` ended before its node was running");
        Node::find(&project.identity()?, "hub")
    });
    // `up` stores the CA certificate before it creates the first node.
    let api = Https::new(hub.address(), 7443, &project.kept("ca.pem"));
    let deadline = Instant::now() + TIMEOUT;
    while api.try_request("GET", "/healthz", None, "").is_none() {
        assert!(
            Instant::now() < deadline && up.runs(),
            "the API does not respond"
        );
        std::thread::sleep(POLL_INTERVAL / 5);
    }
    // The local nodes use this machine's clock, so the two times can be compared.
    let answered = SystemClock.now().timestamp_micros();
    let first_response = answered - hub.started("lifecycle.role=manager");
    let first_response = Duration::from_micros(first_response.try_into().unwrap());

    let admin = project.kept("admin.token");
    // The manager stores the declaration in the format of a request body.
    let declaration = format!(
        "/var/lib/lifecycle/{}/manager/declaration.json",
        project.id()
    );
    let declaration = hub.exec(&["cat", &declaration]);
    let mut polls = Vec::new();
    loop {
        polls.push(poll(&api, &admin, &declaration));
        if polls.last().unwrap().ready == 200 {
            return (polls, first_response);
        }
        assert!(Instant::now() < deadline, "not ready: {:?}", polls.last());
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn assert_polls_in_order(polls: &[Poll]) {
    let (last, before) = polls.split_last().unwrap();
    assert!(!before.is_empty(), "no poll during the bring-up");
    for poll in polls {
        assert_eq!(poll.health, 200, "{poll:?}");
        // After 20 of these requests in a minute, the status is another one.
        let is_rejected = |status: &u16| matches!(status, 401 | 429);
        assert!(poll.unauthorized.iter().all(is_rejected), "{poll:?}");
        // Before the manager has read the declaration (generation 0), no service is known.
        if poll.progress["generation"] != 0 {
            assert_eq!(poll.endpoints, [200; 7], "{poll:?}");
        }
        // A poll requests the progress last. If the API was still closed at that point, it was
        // closed for the whole poll.
        if poll.progress["open"] == false {
            assert_eq!(poll.write, 503, "{poll:?}");
            assert_eq!(poll.ready, 503, "{poll:?}");
        }
        // The manager rejects declarations (503) only until it becomes the leader. The current
        // declaration changes nothing.
        assert!(
            poll.put == (503, None) || poll.put == (200, Some(false)),
            "{poll:?}"
        );
    }
    assert!(
        before
            .iter()
            .any(|l| l.progress["open"] == false && l.put.0 == 200),
        "no declaration was accepted during the bring-up: {before:#?}"
    );
    assert_eq!(
        last.write, 404,
        "the API must be open for changes, but the service does not exist"
    );
    // Do not check `ready`: the last poll's `PUT` also requests a retry, which makes `ready` false
    // for a moment.
    assert_eq!(last.progress["open"], true, "{last:?}");

    // The last poll requested the services after `/readyz` had succeeded, so all instances must be
    // ready.
    let services = last.services.as_array().unwrap();
    for instance in services
        .iter()
        .flat_map(|s| s["instances"].as_array().unwrap())
    {
        assert_eq!(instance["state"], "ready", "{instance}");
    }
    // Some endpoints must be published before the whole platform is ready.
    let ready_early = before.iter().flat_map(|l| l.services.as_array().unwrap());
    assert!(
        ready_early
            .flat_map(|s| s["instances"].as_array().unwrap())
            .any(|instance| !instance["endpoints"].as_array().unwrap().is_empty()),
        "no endpoint was published before the platform was ready"
    );
}

/// Checks with the engines' events that the seven services' only image was built on one node, and
/// that every other node received it once.
fn assert_image_is_built_once(project: &Project) {
    let (mut built, mut received) = (0, 0);
    for (name, node) in Node::all(&project.id()) {
        let images = node.docker(&["images", "--no-trunc", "--format={{.ID}} {{.Repository}}"]);
        let of_services = images
            .lines()
            .filter_map(|line| line.strip_suffix("/code-iot"));
        let ids: Vec<&str> = of_services
            .filter_map(|line| line.split(' ').next())
            .collect();
        let [id] = ids[..] else {
            panic!("{name}: {images}");
        };
        let format = "--format={{.Action}} {{.Actor.ID}}";
        let events = [
            "events",
            "--since=1h",
            "--until=0s",
            "--filter=type=image",
            format,
        ];
        let events = node.docker(&events);
        let of_image = events.lines().filter_map(|event| event.strip_suffix(id));
        // The builder's engine also reports each time that it exports the image (`save`).
        let of_image = of_image.map(str::trim).filter(|action| *action != "save");
        match of_image.collect::<Vec<_>>()[..] {
            ["tag"] => built += 1,
            ["load"] => received += 1,
            _ => panic!("{name}: {id} in {events}"),
        }
    }
    assert_eq!((built, received), (1, 2));
}

/// Checks that the request manager returns a reading of a simulated sensor, and later a newer
/// reading.
fn assert_data_flows(status: &Value) {
    let door = &endpoints(instance(status, "request-manager"))[0];
    let ask = |path: &str| -> Option<Value> {
        let answer = plain_get(&door.0, door.1, path);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let is_there = head.lines().next().unwrap().ends_with("200 OK");
        is_there.then(|| serde_json::from_str(body).unwrap())
    };
    let patience = Duration::from_secs(30);
    let path = "/readings/garden.light";
    let first = until("a reading is available", patience, || ask(path));
    assert_eq!(first["sensor"], "garden.light", "{first}");
    assert!(first["value"].is_f64(), "{first}");
    let next = until("another reading follows", patience, || {
        ask(path).filter(|reading| reading["at"] != first["at"])
    });
    assert!(next["at"].as_str() > first["at"].as_str(), "{first} {next}");
    let bound = until("an application has readings", patience, || {
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

/// Returns the current run of each container, by node.
fn runs(project: &Project) -> BTreeMap<String, BTreeMap<String, Run>> {
    let nodes = Node::all(&project.id());
    nodes
        .iter()
        .map(|(name, node)| (name.clone(), node.runs()))
        .collect()
}

/// Checks that no process starts repeatedly, and that memory and files do not grow. The limits
/// leave room for a debug build on a busy machine.
fn assert_idle(rest: &Rest) {
    const GROWTH: f64 = 500.0;
    const MORE: u64 = 10;
    let started = &rest.started;
    // The kernel may drop a few events on a busy machine; more would make the count meaningless.
    assert!(started.lost_events < 20, "incomplete: {started:?}");
    // Check that processes are counted at all: the example's health check runs every second.
    let checks: Vec<_> = started
        .checks
        .iter()
        .map(|c| c.check.service.as_str())
        .collect();
    assert_eq!(checks, ["sensor-manager"]);
    assert!(started.checks[0].seen >= 20, "{started:?}");
    assert!(
        rest.others_per_second() < 1.0,
        "new processes while idle: {started:?}"
    );
    assert_eq!(
        rest.programs.len(),
        4,
        "expected one manager and three agents"
    );
    for program in &rest.programs {
        assert!(program.slope < GROWTH, "memory: {program:?}");
        for (before, after) in [program.descriptors, program.threads] {
            assert!(after <= before + MORE, "{program:?}");
        }
    }
}

#[test]
fn example_starts_in_order_answers_requests_and_becomes_idle() {
    let project = Project::named("iot-platform");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/iot-platform");
    project.copy(&example);
    project.put_program("iot-platform", "code/iot/iot-platform");

    let mut up = project.start(&["up"]);
    let (polls, first_response) = watch(&project, &mut up);
    let up = up.finish(TIMEOUT);
    project.keep(&up);
    assert_eq!(up.status.code(), Some(0), "{}", up.stderr);
    println!(
        "the API responded {first_response:?} after the manager's start; {} polls",
        polls.len()
    );
    // The first response takes about one second, or a little longer on a busy machine.
    assert!(
        first_response < Duration::from_secs(3),
        "{first_response:?}"
    );
    assert_polls_in_order(&polls);

    let status = project.status();
    assert_documented_shape(&status, &project);
    let services = status["services"].as_array().unwrap();
    let names: Vec<_> = services
        .iter()
        .map(|s| s["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, SERVICES);
    assert_eq!(
        instances(&status).len(),
        8,
        "expected seven services, one of them with two instances"
    );
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
        // These times have the same format, so they can be compared as text.
        assert!(
            other["id"] == "monitoring-1" || other["ready_at"].as_str() < last.as_str(),
            "monitoring started at {last}, before {other}"
        );
    }
    assert_data_flows(&status);
    assert_image_is_built_once(&project);

    let before = (runs(&project), status);
    project.ends(0, &["up"]);
    assert_eq!((runs(&project), project.status()), before, "a second `up`");

    let id = project.id();
    let rest = at_rest::measure(&id, SETTLING, IDLE).unwrap();
    println!("{rest}");
    assert_idle(&rest);

    project.ends(0, &["down", "--yes"]);
    assert!(Belongings::of(&id).is_empty(), "{:?}", Belongings::of(&id));
}
