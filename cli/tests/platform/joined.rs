//! Tests a service that joins the network of another one, as behind a VPN client: both share the
//! loopback interface and the resolver, and are restarted and replaced together. Also tests a volume
//! below a mounted directory, and a variable that is removed.

use std::time::Duration;

use crate::docker::{Node, Run};
use crate::document::{endpoints, instance};
use crate::https::plain_get;
use crate::project::Project;
use crate::subprocess::until;

const NODES: &str = "[nodes.a]\n[nodes.b]\n[manager]\nnode = \"a\"\n";

const TIMEOUT: Duration = Duration::from_mins(2);

/// `gate` has the network and serves at port 8080; `inside` joins it and serves at port 9090.
fn services(greeting: &str) -> String {
    format!(
        r#"
  gate:
    build: .
    ports: ["8080:8080"]
    environment: {{GREETING: "{greeting}"}}
    deploy: {{placement: {{constraints: ["node.hostname == b"]}}}}
  inside:
    build: ./inside
    network_mode: service:gate
    expose: ["9090"]
    env_file: inside.env
    environment: {{GREETING: "from inside", UNSET: }}
    volumes: ["./app:/app", "data:/app/data"]
volumes: {{data: {{}}}}
"#
    )
}

/// A request to a port of the loopback interface, which prints the response.
const GET: &str = r#"use IO::Socket::INET; my $s = IO::Socket::INET->new("127.0.0.1:$ARGV[0]")
    or die "$!"; print $s "GET / HTTP/1.0\r\n\r\n"; print <$s>;"#;

struct Pair {
    project: Project,
    node: Node,
}

impl Pair {
    fn runs(&self) -> (Run, Run) {
        (self.node.service("gate"), self.node.service("inside"))
    }

    /// Requests a port of the loopback interface from a service's container.
    fn get(&self, service: &str, port: u16) -> String {
        let id = self.node.service(service).id;
        let port = port.to_string();
        self.node.docker(&["exec", &id, "perl", "-e", GET, &port])
    }

    /// Checks a volume below a mounted directory, and a variable that `environment` removes.
    fn has_files_and_variables(&self) {
        let id = self.node.service("inside").id;
        let shell = |script| self.node.docker(&["exec", &id, "sh", "-c", script]);
        assert_eq!(shell("cat /app/shipped"), "sent from this machine");
        assert_eq!(
            shell("echo kept > /app/data/file && cat /app/data/file"),
            "kept"
        );
        let variables = shell("env");
        assert!(variables.contains("SET=from the file"), "{variables}");
        assert!(!variables.contains("UNSET"), "{variables}");
    }

    /// Waits until both containers are different runs than before and ready.
    fn restarted(&self, before: &(Run, Run)) {
        until("both run again", TIMEOUT, || {
            let status = self.project.status();
            let is_ready = |service: &str| instance(&status, service)["state"] == "ready";
            let are_ready = is_ready("gate") && is_ready("inside");
            let running = self.node.runs().into_values();
            let old = [&before.0, &before.1];
            let are_new = running.filter(|run| old.contains(&run)).count() == 0;
            (are_ready && are_new).then_some(())
        });
        self.works();
    }

    /// Checks the connections between both containers, and from outside.
    fn works(&self) {
        let (gate, inside) = (self.get("inside", 8080), self.get("gate", 9090));
        assert!(gate.contains("from the gate"), "{gate}");
        assert!(inside.contains("from inside"), "{inside}");
        let status = self.project.status();
        for (service, greeting) in [("gate", "from the gate"), ("inside", "from inside")] {
            let endpoints = endpoints(instance(&status, service));
            assert!(!endpoints.is_empty(), "{service} has no endpoint");
            let mut answers = endpoints.iter().map(|(ip, port)| plain_get(ip, *port, "/"));
            assert!(answers.any(|answer| answer.contains(greeting)), "{service}");
        }
    }
}

#[test]
fn a_shared_network_is_restarted_and_replaced_with_both_containers() {
    let project = Project::new();
    project.write("platform.toml", NODES);
    project.compose(&services("from the gate"));
    project.web_server(".");
    project.web_server("inside");
    let server = project.read("inside/hello.pl");
    assert!(server.contains("8080"), "{server}");
    project.write("inside/hello.pl", &server.replace("8080", "9090"));
    let dockerfile = project.read("inside/Dockerfile").replace("8080", "9090");
    project.write("inside/Dockerfile", &dockerfile);
    project.write("inside.env", "SET=from the file\nUNSET=from the file\n");
    project.write("app/shipped", "sent from this machine\n");
    project.ends(0, &["up"]);
    let node = Node::find(&project.id(), "b").unwrap();
    let pair = Pair { project, node };
    pair.works();
    pair.has_files_and_variables();
    let resolver = |service: &str| {
        let id = pair.node.service(service).id;
        pair.node.docker(&["exec", &id, "cat", "/etc/resolv.conf"])
    };
    assert_eq!(resolver("gate"), resolver("inside"));
    for service in ["gate", "inside"] {
        let label = format!("lifecycle.service={service}");
        let mounts = pair.node.inspect(&label)["Mounts"].to_string();
        assert!(!mounts.contains("resolv.conf"), "{mounts}");
    }

    let before = pair.runs();
    pair.node.docker(&["kill", &before.0.id]);
    pair.restarted(&before);
    let before = pair.runs();
    pair.node.docker(&["restart", "--time", "1", &before.0.id]);
    pair.restarted(&before);
    let before = pair.runs();
    pair.project.ends(0, &["restart", "gate"]);
    pair.restarted(&before);
    let before = pair.runs();
    pair.node.docker(&["rm", "--force", &before.0.id]);
    pair.restarted(&before);

    let before = pair.runs();
    pair.project.compose(&services("still from the gate"));
    pair.project.ends(0, &["up"]);
    let after = pair.runs();
    assert_ne!(after.0.id, before.0.id);
    assert_ne!(after.1.id, before.1.id);
    pair.works();
    pair.project.ends(0, &["down", "--yes"]);
}
