//! Tests that a service loses no request at its published port while its replicas are replaced. The
//! clients run on this machine, outside the platform's nodes.
//!
//! `LIFECYCLE_TEST_WHOLE` has the same effect as for `rollouts`.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use crate::docker::Node;
use crate::load::{self, Loaded, PROGRAM, Server, TIMEOUT, repeat};
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
    let project = load::project(NODES);
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
    repeat(|| replicas_stop_first(&mut loaded));
    repeat(|| replicas_start_first(&mut loaded));
    repeat(|| the_agent_that_forwards_the_port_is_replaced(&mut loaded));
    clients.terminate(TIMEOUT);
    loaded.project.ends(0, &["down", "--yes"]);
}

/// Replaces the replicas. Checks how many of them were ready at the lowest point.
fn roll_out(loaded: &mut Loaded, order: &str, least_ready: usize) {
    let label = format!("{} replicas, {order}", loaded.replicas);
    let rollout = loaded.roll_out(&label, Server::Drains, &format!("order: {order}"));
    assert_eq!(rollout.least_ready, least_ready);
    loaded.is_complete(&rollout);
}

/// The engine publishes the ports afterwards. The first version ends on SIGTERM without answering, so
/// it is stopped only after its open connections have ended.
fn replicas_stop_first(loaded: &mut Loaded) {
    let replicas = loaded.replicas;
    roll_out(loaded, "stop-first", replicas - 1);
    assert_eq!(published_by_engine(loaded), replicas);
}

/// A new replica gets the port if the old one does not have it.
fn replicas_start_first(loaded: &mut Loaded) {
    let (replicas, before) = (loaded.replicas, published_by_engine(loaded));
    roll_out(loaded, "start-first", replicas);
    assert_eq!(published_by_engine(loaded), replicas - before);
}

fn the_agent_that_forwards_the_port_is_replaced(loaded: &mut Loaded) {
    while published_by_engine(loaded) > 0 {
        replicas_start_first(loaded);
    }
    loaded.upgrade("upgrade of the manager");
    assert_eq!(published_by_engine(loaded), 0);
}
