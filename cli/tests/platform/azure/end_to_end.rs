//! Publishes and starts the IoT example on a simulated Azure, and checks that `down` removes
//! everything.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::simulated::SimulatedAzure;
use crate::docker::{Belongings, Node};
use crate::document::{assert_documented_shape, endpoints, instance, instances};
use crate::project::Project;
use crate::subprocess::{Finished, until};

/// Time limit for a connection attempt, which would hang if a firewall drops the packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

const NODES: &str = r#"
[nodes.hub]
labels = { zone = "center" }
[[node_pool]]
name = "edge"
count = 2
labels = { zone = "edge" }
[manager]
node = "hub"
"#;

fn example() -> Project {
    let project = Project::named("iot-platform");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/iot-platform");
    project.copy(&example);
    project.put_program("iot-platform", "code/iot/iot-platform");
    project
}

/// Describes the state after a bring-up: one line for each object, without ids, times, and
/// addresses.
fn end(project: &Project, nodes: impl IntoIterator<Item = (String, Node)>) -> Vec<String> {
    let status = project.status();
    assert_eq!(status["platform"]["state"], "running");
    let mut all: Vec<String> = instances(&status)
        .into_iter()
        .map(|one| {
            let known = endpoints(one).len();
            format!(
                "{} {} on {}, {known} endpoint",
                one["id"], one["state"], one["node"]
            )
        })
        .collect();
    for (name, node) in nodes {
        for container in node.inspect_all() {
            // Describe containers by their labels, because their names differ between runs.
            let labels = &container["Config"]["Labels"];
            let what = |label: &str| labels[label].as_str().unwrap_or("-").to_owned();
            all.push(format!(
                "{name}: {} {} runs {}",
                what("lifecycle.role"),
                what("lifecycle.service"),
                container["State"]["Running"]
            ));
        }
    }
    all.sort();
    all
}

/// Requests a page of a service from a node.
fn page(node: &Node, ip: &str, port: u64, path: &str) -> String {
    let script = format!(
        "exec 3<>/dev/tcp/{ip}/{port}; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    );
    node.call(&["timeout", "10", "bash", "-c", &script]).stdout
}

/// Declares that the containers of `sensor-controller` may use the metadata service.
fn with_metadata(compose: &str) -> String {
    let placement = "node.labels.zone == edge";
    let (before, rest) = compose.split_once(placement).unwrap();
    let code = "      code: iot\n";
    let rest = rest.replacen(code, &format!("{code}      metadata: true\n"), 1);
    format!("{before}{placement}{rest}")
}

/// Requests a token from the metadata service, in the network of a service's container.
fn token(node: &Node, service: &str) -> Finished {
    let container = node.service(service).id;
    let request = "exec 3<>/dev/tcp/169.254.169.254/80 && printf '%s\\r\\n' \
                   'GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com/ HTTP/1.0' \
                   'Metadata: true' '' >&3 && cat <&3";
    let process = format!("docker inspect --format '{{{{.State.Pid}}}}' {container}");
    let script = format!("nsenter --net=/proc/$({process})/ns/net timeout 10 bash -c \"$1\"");
    node.call(&["sh", "-c", &script, "sh", request])
}

/// Only containers of services that declare it reach the metadata service.
fn the_metadata_service_is_blocked(status: &Value, machines: &BTreeMap<String, Node>) {
    let edge = instance(status, "sensor-controller")["node"]
        .as_str()
        .unwrap();
    let allowed = token(&machines[edge], "sensor-controller");
    assert!(allowed.stdout.contains("access_token"), "{allowed:?}");
    let blocked = token(&machines["hub"], "sensor-manager");
    assert!(blocked.stderr.contains("Connection refused"), "{blocked:?}");
}

fn is_open(address: IpAddr, port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::new(address, port), CONNECT_TIMEOUT).is_ok()
}

/// Checks that only the SSH port of each node is open to this machine, and `public` on the nodes
/// that are listed with it.
fn only_ssh_is_open(status: &Value, public: &[(String, u16)]) {
    let of_services = instances(status)
        .into_iter()
        .flat_map(endpoints)
        .map(|(_, port)| u16::try_from(port).unwrap());
    let mut ports = vec![22, 80, 2375, 2376, 7443, 8000, 8080, 9090];
    ports.extend(of_services);
    ports.sort_unstable();
    ports.dedup();
    for node in status["nodes"].as_array().unwrap() {
        let address: IpAddr = node["addresses"]["public"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        // Try all ports concurrently: each attempt to reach a closed port takes the whole time
        // limit.
        let open: Vec<u16> = std::thread::scope(|scope| {
            let knocks: Vec<_> = ports
                .iter()
                .map(|&port| (port, scope.spawn(move || is_open(address, port))))
                .collect();
            let open = knocks.into_iter().filter_map(|(port, knock)| {
                let is_open = knock.join().unwrap();
                is_open.then_some(port)
            });
            open.collect()
        });
        let name = node["name"].as_str().unwrap();
        let public = public.iter().filter(|(at, _)| at == name);
        let expected: Vec<u16> = std::iter::once(22).chain(public.map(|one| one.1)).collect();
        assert_eq!(open, expected, "{node}");
    }
}

/// Requests a page from this machine, which is outside the nodes' network.
fn page_from_outside(address: &str, path: &str) -> String {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Makes a service public, and not public again. Checks from outside what is reachable.
fn public_ports_are_opened_and_closed(project: &Project) {
    let before = project.status();
    assert!(instance(&before, "request-manager")["container"].is_string());
    let private = project.read("compose.yaml");
    let of_service = "ports: [\"8080:8000\"]\n";
    assert_eq!(private.matches(of_service).count(), 1, "{private}");
    let code = "    x-lifecycle:\n      code: iot\n";
    let (start, rest) = private.split_once(of_service).unwrap();
    let rest = rest.replacen(code, &format!("{code}      public: true\n"), 1);
    project.write("compose.yaml", &format!("{start}{of_service}{rest}"));
    let up = project.ends(0, &["up"]);

    let status = project.status();
    let services = status["services"].as_array().unwrap();
    let service = services.iter().find(|one| one["name"] == "request-manager");
    let public = service.unwrap()["public"].as_array().unwrap();
    assert_eq!(public.len(), 1, "{public:?}");
    let text = |key: &str| public[0][key].as_str().unwrap().to_owned();
    let (node, address) = (text("node"), format!("{}:8080", text("ip")));
    assert!(up.stdout.contains(&address), "{}", up.stdout);
    let shown = project.ends(0, &["status"]);
    assert!(shown.stdout.contains(&address), "{}", shown.stdout);
    let health = page_from_outside(&address, "/health");
    assert!(health.contains("200 OK"), "{health}");
    only_ssh_is_open(&status, &[(node, 8080)]);
    let containers = |status: &Value| -> Vec<Value> {
        let all = instances(status).into_iter();
        all.map(|one| one["container"].clone()).collect()
    };
    assert_eq!(containers(&status), containers(&before), "{}", up.stderr);

    project.write("compose.yaml", &private);
    project.ends(0, &["up"]);
    let status = project.status();
    only_ssh_is_open(&status, &[]);
    assert_eq!(containers(&status), containers(&before));
}

fn all_commands_work(project: &Project) {
    let plan = project.ends(0, &["plan"]);
    assert!(plan.stdout.contains("Nothing to do"), "{}", plan.stdout);
    project.ends(0, &["status"]);
    project.ends(0, &["doctor"]);
    let why = project.ends(0, &["why", "monitoring"]);
    assert!(why.stdout.contains("monitoring"), "{}", why.stdout);
    project.ends(0, &["events"]);
    project.ends(0, &["logs", "authentication"]);
    let check = ["exec", "sensor-manager", "--", "/iot-platform", "check"];
    project.ends(0, &check);
    project.ends(0, &["restart", "sensor-binder"]);
}

/// Restarts a VM. Its services must be ready again, and no others may be restarted.
fn a_vm_is_restarted(project: &Project) {
    let started = || {
        let status = project.status();
        let here = instances(&status).into_iter().map(|one| {
            let is_here = one["node"] == "edge-1";
            (
                (one["id"].to_string(), is_here),
                one["started_at"].to_string(),
            )
        });
        here.collect::<BTreeMap<_, _>>()
    };
    let before = started();
    project.ends(0, &["node", "restart", "edge-1"]);
    let after = started();
    assert!(before.keys().any(|(_, is_here)| *is_here));
    for (key, old) in &before {
        let (_, is_here) = key;
        assert_eq!(after[key] > *old, *is_here, "{key:?}: {before:?} {after:?}");
    }
    assert_eq!(project.status()["platform"]["state"], "running");
}

/// Stops the engine of a VM, and requests its preparation. The services of the VM must run again.
fn a_vm_is_prepared(project: &Project, machine: &Node) {
    machine.stop_engine();
    project.ends(0, &["node", "prepare", "edge-1"]);
    machine.docker(&["version"]);
    until("everything runs", Duration::from_mins(2), || {
        (project.status()["platform"]["state"] == "running").then_some(())
    });
}

#[test]
fn azure_end_to_end() {
    let local = example();
    local.ends(0, &["up"]);
    let here = end(&local, Node::all(&local.id()));
    local.ends(0, &["down", "--yes"]);
    drop(local);

    let azure = SimulatedAzure::start();
    let project = example();
    let toml = format!(
        "name = \"iot-platform\"\n{}{NODES}",
        azure.platform_toml(&project, "")
    );
    project.write("platform.toml", &toml);
    project.write(
        "compose.yaml",
        &with_metadata(&project.read("compose.yaml")),
    );
    project.ends(0, &["doctor"]);
    project.ends(0, &["publish"]);
    let up = project.ends(0, &["up"]);
    let machines = azure.machines(&project.id());
    assert_eq!(end(&project, machines.clone()), here, "{}", up.stderr);
    let status = project.status();
    assert_documented_shape(&status, &project);

    let hub = &machines["hub"];
    for one in instances(&status) {
        let (ip, port) = &endpoints(one)[0];
        let health = page(hub, ip, *port, "/health");
        assert!(health.contains("200 OK"), "{one}: {health}");
    }
    let (ip, port) = &endpoints(instance(&status, "request-manager"))[0];
    until("readings arrive", Duration::from_secs(30), || {
        let reading = page(hub, ip, *port, "/readings/garden.light");
        reading.contains("\"value\"").then_some(())
    });
    the_metadata_service_is_blocked(&status, &machines);
    only_ssh_is_open(&status, &[]);
    public_ports_are_opened_and_closed(&project);
    all_commands_work(&project);
    a_vm_is_restarted(&project);
    a_vm_is_prepared(&project, &machines["edge-1"]);

    let before = azure.requests().len();
    project.ends(0, &["publish"]);
    project.ends(0, &["up"]);
    let changes = azure.changes_after(before);
    assert!(
        changes.is_empty(),
        "a second `up` made changes: {changes:?}"
    );

    project.ends(0, &["down", "--yes"]);
    assert!(azure.resources().is_empty(), "{:?}", azure.resources());
    assert!(azure.machines(&project.id()).is_empty());
    assert!(Belongings::of(&project.id()).is_empty());
}
