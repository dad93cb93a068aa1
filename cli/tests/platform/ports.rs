//! Tests that a service loses no request at its published port while its replicas are replaced. The
//! clients run on this machine, outside the platform's nodes.
//!
//! `LIFECYCLE_TEST_WHOLE` has the same effect as for `rollouts`.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use crate::docker::Node;
use crate::load::{DOCKERFILE, Loaded, PROGRAM, Server, TIMEOUT, repeat};
use crate::project::Project;
use crate::subprocess::{Running, start, until};

const NODES: &str = "[nodes.a]\n[nodes.b]\n[nodes.c]\n[manager]\nnode = \"a\"\n";

/// The published port.
const PORT: u16 = 8080;

fn declare(replicas: usize, version: u32, server: Server, update: &str) -> String {
    let server = server.name();
    format!(
        r#"
  web:
    build: ./load
    command: [server, "8000"]
    environment: {{VERSION: "{version}", SERVER: {server}}}
    ports: ["{PORT}:8000"]
    stop_grace_period: 2s
    x-lifecycle: {{ready: "http://:8000/ready"}}
    deploy:
      replicas: {replicas}
      update_config: {{{update}}}
"#
    )
}

fn three(version: u32, server: Server, update: &str) -> String {
    declare(3, version, server, update)
}

fn one(version: u32, server: Server, update: &str) -> String {
    declare(1, version, server, update)
}

/// Starts clients on this machine. They send requests to the service's endpoints.
fn start_clients(loaded: &mut Loaded) -> Running {
    let service = loaded.api.service(loaded.service);
    let endpoints = service.instances.iter().flat_map(|one| &one.endpoints);
    let targets: Vec<String> = endpoints
        .map(|at| format!("{}:{}", at.ip, at.port))
        .collect();
    assert_eq!(targets.len(), loaded.replicas);
    assert!(
        targets.iter().all(|at| at.ends_with(&format!(":{PORT}"))),
        "{targets:?}"
    );
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    loaded.reports = free.local_addr().unwrap();
    drop(free);
    let program = loaded.project.path(&format!("load/{PROGRAM}"));
    let port = loaded.reports.port().to_string();
    let clients = start(Command::new(program).args(["clients", &targets.join(","), &port]));
    until("the clients have started", TIMEOUT, || {
        TcpStream::connect(loaded.reports).ok()
    });
    clients
}

/// Returns on how many nodes the engine publishes the port.
fn published_by_engine(loaded: &Loaded) -> usize {
    let nodes = Node::all(&loaded.project.id());
    let publishes = |node: &Node| {
        let ports = node.docker(&["ps", "--format", "{{.Ports}}"]);
        ports.contains(&format!(":{PORT}->"))
    };
    nodes.values().filter(|node| publishes(node)).count()
}

#[test]
fn published_ports_lose_no_request() {
    let project = Project::new();
    project.write("platform.toml", NODES);
    project.write("load/Dockerfile", DOCKERFILE);
    project.put_program(PROGRAM, &format!("load/{PROGRAM}"));
    project.compose(&three(1, Server::EndsAtOnce, ""));
    project.ends(0, &["up"]);
    let api = project.api();
    let mut loaded = Loaded {
        project,
        api,
        reports: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        service: "web",
        replicas: 3,
        declare: three,
        version: 1,
        serving: (1, Server::EndsAtOnce),
    };
    let clients = start_clients(&mut loaded);
    repeat(|| replicas_stop_first(&mut loaded));
    repeat(|| replicas_start_first(&mut loaded));
    clients.terminate(TIMEOUT);

    (loaded.replicas, loaded.declare) = (1, one);
    loaded
        .project
        .compose(&one(loaded.version, Server::Drains, ""));
    loaded.project.ends(0, &["up", "--yes"]);
    let clients = start_clients(&mut loaded);
    repeat(|| the_only_replica_stops_first(&mut loaded));
    repeat(|| the_only_replica_starts_first(&mut loaded));
    repeat(|| the_agent_that_forwards_the_port_is_replaced(&mut loaded));
    clients.terminate(TIMEOUT);
    loaded.project.ends(0, &["down", "--yes"]);
}

/// The first version ends on SIGTERM without answering, so it is stopped only after its open
/// connections have ended.
fn replicas_stop_first(loaded: &mut Loaded) {
    let rollout = loaded.roll_out(
        "3 replicas, stop-first",
        Server::Drains,
        "order: stop-first",
    );
    assert_eq!(rollout.least_ready, 2);
    loaded.is_complete(&rollout);
    assert_eq!(published_by_engine(loaded), 3);
}

fn replicas_start_first(loaded: &mut Loaded) {
    let before = published_by_engine(loaded);
    let rollout = loaded.roll_out(
        "3 replicas, start-first",
        Server::Drains,
        "order: start-first",
    );
    assert_eq!(rollout.least_ready, 3);
    loaded.is_complete(&rollout);
    // A new replica gets the port if the old one does not have it.
    assert_eq!(published_by_engine(loaded), 3 - before);
}

fn the_only_replica_stops_first(loaded: &mut Loaded) {
    let rollout = loaded.roll_out("1 replica, stop-first", Server::Drains, "order: stop-first");
    assert_eq!(rollout.least_ready, 0);
    loaded.is_complete(&rollout);
    assert_eq!(published_by_engine(loaded), 1);
}

fn the_only_replica_starts_first(loaded: &mut Loaded) {
    let rollout = loaded.roll_out(
        "1 replica, start-first",
        Server::Drains,
        "order: start-first",
    );
    assert_eq!(rollout.least_ready, 1);
    loaded.is_complete(&rollout);
}

fn the_agent_that_forwards_the_port_is_replaced(loaded: &mut Loaded) {
    while published_by_engine(loaded) > 0 {
        the_only_replica_starts_first(loaded);
    }
    loaded.upgrade("upgrade of the manager");
    assert_eq!(published_by_engine(loaded), 0);
}
