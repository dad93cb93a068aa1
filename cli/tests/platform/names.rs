//! Tests that services reach each other by name: on every node, with glibc and musl, without a
//! running manager, and after an agent was killed. A stop must wait for open connections.

use std::collections::BTreeSet;
use std::io::BufRead as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lifecycle_core::model::{EventKind, ServiceName, Subject};

use crate::docker::{Node, docker};
use crate::project::Project;
use crate::secrets::assert_only_root_can_open;
use crate::subprocess::until;

const NODES: &str = "[nodes.a]\n[nodes.b]\n[nodes.m]\n[manager]\nnode = \"m\"\n\
                     [network]\nwait = \"10s\"\n";

/// `db` listens two seconds after its start. `late` does not listen until the test creates a file.
const SERVICES: &str = r#"
  client:
    build: ./net
    command: [watch, "db:5432"]
    deploy: {placement: {constraints: ["node.hostname == a"]}}
  db:
    build: ./net
    command: [tcp, "5432"]
    environment: {NAME: db, DELAY: "2"}
    expose: ["5432"]
    deploy: {placement: {constraints: ["node.hostname == b"]}}
  echo_1:
    build: ./net
    command: [udp, "5353"]
    environment: {NAME: echo}
    expose: ["5353/udp"]
    deploy: {placement: {constraints: ["node.hostname == b"]}}
  late:
    build: ./net
    command: [tcp, "7000"]
    environment: {NAME: late, AFTER: /allowed}
    expose: ["7000"]
    deploy: {placement: {constraints: ["node.hostname == a"]}}
  web:
    build: ./net
    command: [tcp, "5432"]
    environment: {NAME: web}
    # The service `db` uses the same port in its containers, so this also tests that they do not
    # conflict.
    ports: ["5432:5432"]
    deploy: {replicas: 2, placement: {constraints: ["node.hostname != m"]}}
"#;

const TIMEOUT: Duration = Duration::from_mins(4);

/// How many times the test kills an agent.
const KILLS: usize = 3;

/// Runs `net.pl` in the client's container. Returns the output.
fn run_net(node: &Node, words: &[&str]) -> Vec<String> {
    let client = node.service("client").id;
    let output = node.docker(&[&["exec", &client, "perl", "/net.pl"], words].concat());
    output.lines().map(str::to_owned).collect()
}

fn build_the_dialer(project: &Project) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/platform/names/dial.c");
    let built = Command::new("musl-gcc")
        .args(["-static", "-O1", "-o"])
        .arg(project.path("net/dial"))
        .arg(source)
        .status();
    assert!(
        built.is_ok_and(|status| status.success()),
        "this test needs another C library: apt-get install musl-tools"
    );
}

#[test]
fn services_reach_each_other_by_name() {
    let project = Project::new();
    project.compose(SERVICES);
    project.write("platform.toml", NODES);
    project.copy_to(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/platform/names"),
        "net",
    );
    build_the_dialer(&project);

    let mut up = project.start(&["up"]);
    let (a, output) = until("both libraries have found db", TIMEOUT, || {
        assert!(up.runs(), "`up` ended before db was found");
        let a = Node::find(&project.identity()?, "a")?;
        // This call fails until the node's engine responds and the container exists.
        let logs = "docker logs $(docker ps --quiet --filter label=lifecycle.service=client)";
        let output = a.call(&["sh", "-c", logs]).stdout;
        (output.lines().count() == 2).then_some((a, output))
    });
    for line in ["glibc db:5432: db ", "musl db:5432: db "] {
        assert!(
            output.lines().any(|shown| shown.starts_with(line)),
            "{output}"
        );
    }
    let api = project.api();
    assert!(!api.is_ready(), "`late` is not ready yet");

    waiting_connections_are_reset_and_reported(&project, &a);
    let late = a.service("late").id;
    a.docker(&["exec", &late, "touch", "/allowed"]);
    let up = up.finish(TIMEOUT);
    project.keep(&up);
    assert_eq!(up.status.code(), Some(0), "{}", up.stderr);
    assert!(run_net(&a, &["dial", "late:7000"])[0].starts_with("late "));

    let b = Node::find(&project.id(), "b").unwrap();
    for node in [&a, &b] {
        assert_only_root_can_open(node, &project.id());
    }
    assert_all_names_work(&project, &a, &b);
    a_stop_waits_for_open_connections(&project, &a, &b);
    agents_restart(&a);
    names_work_without_the_manager(&project, &a);
    project.ends(0, &["down", "--yes"]);
}

/// A connection to a service that does not listen must be reset after the declared time, and an
/// event must name the service.
fn waiting_connections_are_reset_and_reported(project: &Project, a: &Node) {
    assert_eq!(run_net(a, &["dial", "late:7000"]), ["gave up after 10 s"]);
    let api = project.api();
    let about = Subject::Service(ServiceName::try_from("late").unwrap());
    until("the event is recorded", Duration::from_secs(20), || {
        let events = api.events(0);
        let found = events.iter().find(|event| {
            event.event.kind == EventKind::NoReadyEndpoint && event.event.subject == about
        });
        found.map(|event| {
            let message = &event.event.message;
            assert!(message.contains("late:7000"), "{message}");
        })
    });
}

fn assert_all_names_work(project: &Project, a: &Node, b: &Node) {
    // The service's two replicas, one on each node, share the connections.
    let output = run_net(a, &["dial", "web:5432", "20"]);
    let replicas: BTreeSet<&String> = output.iter().collect();
    assert_eq!((output.len(), replicas.len()), (20, 2), "{output:?}");
    assert!(
        output.iter().all(|line| line.starts_with("web ")),
        "{output:?}"
    );
    // Short names and full names work, for connections and for datagrams.
    let full = format!("db.{}.internal:5432", project.name);
    for name in ["db:5432", "DB:5432", &full] {
        assert!(run_net(a, &["dial", name])[0].starts_with("db "), "{name}");
    }
    assert!(run_net(a, &["ask", "echo_1:5353"])[0].starts_with("hello to echo "));
    // Names also work on the other node, and so does the published port.
    let container = &b.service("db").id;
    let dial = ["exec", container, "perl", "/net.pl", "dial", "late:7000"];
    assert!(b.docker(&dial).starts_with("late "));
    let published = std::net::TcpStream::connect((b.address(), 5432)).unwrap();
    let mut line = String::new();
    std::io::BufReader::new(published)
        .read_line(&mut line)
        .unwrap();
    assert!(line.starts_with("web "), "{line}");
    // Containers cannot reach the cloud's metadata service.
    let client = a.service("client").id;
    for address in ["169.254.169.254", "168.63.129.16"] {
        let output = a.call(&["docker", "exec", &client, "/dial", address, "80"]);
        assert_eq!(output.stdout, "failed to connect: Connection refused\n");
    }
    // The node's own resolver resolves all other names. In this test, Docker's resolver knows the
    // nodes' containers.
    let name = docker(&["inspect", "--format", "{{.Name}}", &b.container]);
    let client = &a.service("client").id;
    let found = a.docker(&[
        "exec",
        client,
        "getent",
        "hosts",
        name.trim_start_matches('/'),
    ]);
    assert!(found.starts_with(&b.address().to_string()), "{found}");
}

/// Restarts `db` while a connection from another node is open. The container must be stopped after
/// the connection has ended, but not much later.
fn a_stop_waits_for_open_connections(project: &Project, a: &Node, b: &Node) {
    let client = a.service("client").id;
    let command = "perl /net.pl hold db:5432 5 > /held";
    a.docker(&["exec", "--detach", &client, "sh", "-c", command]);
    let time = |output: &str, word: &str| {
        let time = output.lines().find_map(|line| line.strip_prefix(word));
        time.map(|time| time.trim().parse::<u64>().unwrap())
    };
    // The file may not exist yet.
    let report = || a.docker(&["exec", &client, "sh", "-c", "cat /held || true"]);
    until("the connection is open", TIMEOUT, || {
        report().starts_with("db ").then_some(())
    });
    let db = b.service("db").id;
    project.ends(0, &["restart", "db"]);
    let ended = until("db has stopped", TIMEOUT, || {
        time(&b.docker(&["logs", &db]), "ended ")
    });
    let closed = time(&report(), "closes ");
    let closed =
        closed.unwrap_or_else(|| panic!("db stopped at {ended}, but the connection is open"));
    assert!(ended - closed < 3_000, "{closed} {ended}");
}

/// Checks that connections work again less than a second after an agent was killed.
#[expect(clippy::print_stdout, reason = "prints the measured times")]
fn agents_restart(a: &Node) {
    let client = a.service("client").id;
    let dials = "perl /net.pl reach db:5432 > /reached";
    a.docker(&["exec", "--detach", &client, "sh", "-c", dials]);
    let first = a.inspect("lifecycle.role=agent");
    let took: Vec<u64> = (0..KILLS).map(|_| outage(a, &client)).collect();
    println!("times from the agent's kill to the next answered connection: {took:?} ms");
    a.docker(&["exec", &client, "touch", "/enough"]);
    let again = a.inspect("lifecycle.role=agent");
    assert_eq!(again["Id"], first["Id"], "the container was replaced");
    // Check only the shortest time: the engine delays each restart longer than the previous one,
    // and the machine may be busy.
    assert!(took.iter().min() < Some(&1000), "{took:?} ms");
}

/// Kills the agent. Returns how many milliseconds after the kill a new connection is answered.
fn outage(a: &Node, client: &str) -> u64 {
    let reached = || {
        let output = a.docker(&["exec", client, "cat", "/reached"]);
        let moments = |line: &str| {
            let (began, answered) = line.split_once(' ')?;
            Some((began.parse().ok()?, answered.parse().ok()?))
        };
        output
            .lines()
            .filter_map(moments)
            .collect::<Vec<(u64, u64)>>()
    };
    let after = |moment: u64| {
        let reached = reached().into_iter();
        let after = reached.filter(|(began, _)| *began > moment);
        after.map(|(_, answered)| answered).min()
    };
    let now = || a.exec(&["date", "+%s%3N"]).parse::<u64>().unwrap();
    let calm = now();
    until("connections are answered", TIMEOUT, || after(calm));
    let pid = a.inspect("lifecycle.role=agent")["State"]["Pid"].to_string();
    // Read the clock after the kill: the killed agent cannot answer a connection that starts after
    // this time.
    let script = format!("kill -9 {pid} && date +%s%3N");
    let killed: u64 = a.exec(&["sh", "-c", &script]).parse().unwrap();
    until("the agent is running again", TIMEOUT, || {
        let now = a.inspect("lifecycle.role=agent")["State"]["Pid"].to_string();
        (now != pid && now != "0").then_some(())
    });
    until("a connection is answered again", TIMEOUT, || after(killed)) - killed
}

fn names_work_without_the_manager(project: &Project, a: &Node) {
    let m = Node::find(&project.id(), "m").unwrap();
    docker(&["stop", "--time", "1", &m.container]);
    for name in ["db:5432", "web:5432", "late:7000"] {
        let output = run_net(a, &["dial", name]);
        assert!(output[0].starts_with(&name[..2]), "{name}: {output:?}");
    }
    assert!(run_net(a, &["ask", "echo_1:5353"])[0].starts_with("hello to echo "));
    // Without its agent, a node rejects traffic to the addresses of services.
    let client = a.service("client").id;
    let found = a.docker(&["exec", &client, "getent", "hosts", "db"]);
    let address = found.split_whitespace().next().unwrap();
    let agent = a.inspect("lifecycle.role=agent")["Id"].clone();
    a.docker(&["rm", "--force", agent.as_str().unwrap()]);
    let output = a.call(&["docker", "exec", &client, "/dial", address, "5432"]);
    assert_eq!(output.stdout, "failed to connect: Host is unreachable\n");
    docker(&["start", &m.container]);
    until("the manager responds again", Duration::from_mins(1), || {
        project.call(&["status"]).status.success().then_some(())
    });
    until("the agent is there again", Duration::from_mins(1), || {
        let output = a.call(&["docker", "exec", &client, "/dial", address, "5432"]);
        (!output.stdout.starts_with("failed")).then_some(())
    });
}
