//! Tests local nodes on a real Docker engine: the conformance suite for clouds, and the guarantees
//! that are specific to local nodes. Needs Docker and the base image: `apt-get install docker.io`,
//! `script/base-image`.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "an unexpected result ends the test"
)]

use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::time::Duration;

use async_trait::async_trait;
use lifecycle_core::clock::{IdSource, RandomIds};
use lifecycle_core::cloud::{CloudProvider, NodeChange, ObservedNode, Power, carry_out};
use lifecycle_core::conformance::cloud::{self, CloudBench};
use lifecycle_core::model::{NodeName, NodeSpec, PlatformId, PlatformName};
use lifecycle_core::runtime::Owner;
use lifecycle_core::{Error, Result};
use lifecycle_docker::{LocalNodes, LocalNodesOptions};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIII6fX/0SqxN5uKL92X3reblSoar81B6yIgED6RWolKy";
const LIMIT: Duration = Duration::from_mins(15);

fn docker(arguments: &[&str]) -> Output {
    Command::new("docker")
        .args(arguments)
        .output()
        .expect("the docker command is needed: apt-get install docker.io")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A platform for this test. Its resources are removed even if an assertion fails.
struct Platform {
    owner: Owner,
    nodes: LocalNodes,
}

impl Platform {
    fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    fn with(name: &str, adjust: impl FnOnce(&mut LocalNodesOptions)) -> Self {
        let owner = Owner {
            id: PlatformId::new(RandomIds.uuid()),
            name: PlatformName::try_from(name).unwrap(),
        };
        let mut options = LocalNodesOptions::new(owner.clone(), KEY);
        adjust(&mut options);
        let nodes = LocalNodes::new(options).unwrap();
        Self { owner, nodes }
    }

    /// Opens another provider for this platform.
    fn open(&self) -> LocalNodes {
        LocalNodes::new(LocalNodesOptions::new(self.owner.clone(), KEY)).unwrap()
    }

    /// Returns the ids of the platform's containers, volumes, and networks on the engine.
    fn left(&self) -> [Vec<String>; 3] {
        let filter = format!("label=lifecycle.platform-id={}", self.owner.id);
        [
            &["ps", "-aq", "--filter", &filter][..],
            &["volume", "ls", "-q", "--filter", &filter][..],
            &["network", "ls", "-q", "--filter", &filter][..],
        ]
        .map(|arguments| {
            let output = docker(arguments);
            assert!(output.status.success(), "docker failed: {output:?}");
            stdout(&output).lines().map(str::to_owned).collect()
        })
    }

    fn container(&self, node: &str) -> String {
        format!("{}-{}-node-{node}", self.owner.name, self.owner.id.short())
    }

    async fn provision(&self, spec: &NodeSpec) -> ObservedNode {
        let change = NodeChange::Provision { spec: spec.clone() };
        carry_out(&self.nodes, change, LIMIT).await.unwrap();
        self.nodes.get(&spec.name).await.unwrap().unwrap()
    }

    async fn change(&self, change: NodeChange) -> Result<()> {
        carry_out(&self.nodes, change, LIMIT).await
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        let verbs: [&[&str]; 3] = [&["rm", "-fv"], &["volume", "rm", "-f"], &["network", "rm"]];
        for (verb, ids) in verbs.into_iter().zip(self.left()) {
            for id in ids {
                docker(&[verb, &[id.as_str()]].concat());
            }
        }
    }
}

fn name(text: &str) -> NodeName {
    NodeName::try_from(text).unwrap()
}

fn bare(node: &str) -> NodeSpec {
    NodeSpec {
        image: Some("bare".to_owned()),
        ..NodeSpec::new(name(node))
    }
}

fn ssh_banner(node: &ObservedNode) -> String {
    use std::io::Read;
    let address = SocketAddr::new(node.addresses.private.unwrap(), node.ssh.port);
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, limit).unwrap();
    stream.set_read_timeout(Some(limit)).unwrap();
    let mut banner = [0; 7];
    stream.read_exact(&mut banner).unwrap();
    String::from_utf8_lossy(&banner).into_owned()
}

/// Two platforms with the same name.
struct Bench {
    ours: Platform,
    theirs: Platform,
}

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bench")
    }
}

#[async_trait]
impl CloudBench for Bench {
    fn ours(&self) -> Box<dyn CloudProvider> {
        Box::new(self.ours.open())
    }

    fn theirs(&self) -> Box<dyn CloudProvider> {
        Box::new(self.theirs.open())
    }

    fn nodes(&self) -> [NodeSpec; 2] {
        [bare("n1"), bare("n2")]
    }
}

#[tokio::test]
async fn local_nodes_pass_the_cloud_suite_and_leave_nothing() {
    let bench = Bench {
        ours: Platform::new("nodes-suite"),
        theirs: Platform::new("nodes-suite"),
    };
    cloud::all(&bench).await.unwrap();
    for platform in [&bench.ours, &bench.theirs] {
        assert_eq!(platform.left(), [const { Vec::<String>::new() }; 3]);
    }
}

#[tokio::test]
async fn a_ready_node_keeps_sshd_and_engine_across_boots() {
    let node = name("api1");
    let platform = Platform::with("nodes-ready", |options| {
        options.manager_node = Some(name("api1"));
    });
    let seen = platform.provision(&NodeSpec::new(node.clone())).await;
    assert_eq!(ssh_banner(&seen), "SSH-2.0");
    assert!(
        seen.ssh
            .host_keys
            .iter()
            .any(|key| key.starts_with("ssh-ed25519 ")),
        "{seen:?}"
    );
    let container = platform.container("api1");
    let inside = |script: &str| {
        let output = docker(&["exec", &container, "sh", "-c", script]);
        assert!(output.status.success(), "{script}: {output:?}");
        stdout(&output)
    };
    let offered = inside("cat /etc/ssh/ssh_host_ed25519_key.pub");
    assert!(
        seen.ssh
            .host_keys
            .iter()
            .any(|key| offered.starts_with(key)),
        "{offered}"
    );

    // The engine starts in the background during the first boot.
    let answers = "for i in $(seq 100); do docker info > /dev/null 2>&1 && break; sleep 0.1; done; \
                   docker info --format '{{.Driver}}'";
    assert_eq!(inside(answers), "overlay2");
    // As on a prepared cloud VM, the account can use sudo and has no password.
    assert_eq!(inside("su - lifecycle -c 'sudo -n id -u'"), "0");
    assert_eq!(inside("su - lifecycle -c 'id -nG'"), "lifecycle docker");
    assert_eq!(inside("cat /home/lifecycle/.ssh/authorized_keys"), KEY);
    // The manager creates nodes through the operator's engine.
    inside(
        "docker -H unix:///run/lifecycle/host-docker.sock inspect \"$(hostname)\" > /dev/null; \
            docker -H unix:///run/lifecycle/host-docker.sock version > /dev/null",
    );

    inside("docker volume create kept");
    // A node that is killed, for example by fencing, keeps the old files in /run.
    platform.nodes.fence(&node).await.unwrap();
    platform
        .change(NodeChange::Start { node: node.clone() })
        .await
        .unwrap();
    let again = platform.nodes.get(&node).await.unwrap().unwrap();
    assert_eq!(again.ssh, seen.ssh);
    assert_eq!(ssh_banner(&again), "SSH-2.0");
    assert_eq!(inside(answers), "overlay2");
    assert_eq!(inside("docker volume ls -q"), "kept");
    assert_eq!(inside("cat /home/lifecycle/.ssh/authorized_keys"), KEY);

    // The provider reports a frozen guest as running, and can stop it.
    assert!(docker(&["pause", &container]).status.success());
    let hangs = platform.nodes.get(&node).await.unwrap().unwrap();
    assert_eq!(hangs, again);
    platform.nodes.fence(&node).await.unwrap();
    assert_eq!(
        platform.nodes.get(&node).await.unwrap().unwrap().power,
        Power::Stopped
    );
}

#[tokio::test]
async fn stopping_a_node_stops_its_containers_gracefully() {
    let node = name("db1");
    let platform = Platform::new("nodes-stop");
    platform.provision(&NodeSpec::new(node.clone())).await;
    let container = platform.container("db1");
    // The image is built from the node's own files, so no registry is needed.
    let script = "for i in $(seq 100); do docker info > /dev/null 2>&1 && break; sleep 0.1; done; \
                  mkdir -p /tmp/shell/bin && cp /bin/sh /bin/sleep /tmp/shell/bin && \
                  cp -L --parents $(ldd /bin/sh | grep -o '/[^ ]*') /tmp/shell && \
                  tar -C /tmp/shell -c . | docker import - shell > /dev/null && \
                  docker run -d --name graceful shell /bin/sh -c \
                  'trap \"echo ended in order; exit 0\" TERM; sleep 1000 & wait'";
    let output = docker(&["exec", &container, "sh", "-c", script]);
    assert!(output.status.success(), "{output:?}");
    platform
        .change(NodeChange::Stop { node: node.clone() })
        .await
        .unwrap();
    platform.change(NodeChange::Start { node }).await.unwrap();
    let script = "for i in $(seq 100); do docker info > /dev/null 2>&1 && break; sleep 0.1; done; \
                  docker logs graceful; docker inspect -f '{{.State.ExitCode}}' graceful";
    let output = docker(&["exec", &container, "sh", "-c", script]);
    assert_eq!(stdout(&output), "ended in order\n0", "{output:?}");
}

#[tokio::test]
async fn resources_of_others_are_never_touched() {
    let platform = Platform::new("nodes-foreign");
    let container = platform.container("n1");
    let made = docker(&[
        "create",
        "--name",
        &container,
        "debian:bookworm-slim",
        "true",
    ]);
    assert!(
        made.status.success(),
        "run script/base-image to build the image: {made:?}"
    );
    let id = stdout(&made);
    let node = name("n1");
    for change in [
        NodeChange::Provision { spec: bare("n1") },
        NodeChange::Start { node: node.clone() },
        NodeChange::Delete { node: node.clone() },
    ] {
        let outcome = platform.change(change).await;
        assert!(
            matches!(outcome, Err(Error::Conflict { .. })),
            "{outcome:?}"
        );
    }
    let fenced = platform.nodes.fence(&node).await;
    assert!(matches!(fenced, Err(Error::Conflict { .. })), "{fenced:?}");
    let adopted = platform.nodes.adopt(&name("n2")).await;
    assert!(
        matches!(adopted, Err(Error::Unsupported { .. })),
        "{adopted:?}"
    );
    let there = docker(&["rm", &id]);
    assert!(
        there.status.success(),
        "the existing container was removed: {there:?}"
    );
}

#[tokio::test]
async fn a_taken_subnet_fails_preflight_and_provisioning() {
    let first = Platform::new("nodes-subnet-a");
    first.provision(&bare("n1")).await;
    let network = format!("{}-{}", first.owner.name, first.owner.id.short());
    let format = "{{(index .IPAM.Config 0).Subnet}}";
    let taken = stdout(&docker(&["network", "inspect", "-f", format, &network]));
    let second = Platform::with("nodes-subnet-b", |options| {
        options.subnet = Some(taken.parse().unwrap());
    });
    let report = second.nodes.preflight(&[bare("n1")]).await.unwrap();
    assert_eq!(report.problems.len(), 1, "{report:?}");
    assert!(report.problems[0].contains(&taken), "{report:?}");
    let change = NodeChange::Provision { spec: bare("n1") };
    let outcome = second.change(change).await;
    assert!(matches!(outcome, Err(Error::Invalid { .. })), "{outcome:?}");
}

#[tokio::test]
async fn an_address_taken_by_another_process_is_skipped() {
    let platform = Platform::new("nodes-address");
    let first = platform.provision(&bare("n1")).await;
    let network = format!("{}-{}", platform.owner.name, platform.owner.id.short());
    // A foreign container uses the lowest free address.
    let squatter = format!("{network}-squatter");
    let filter = format!("lifecycle.platform-id={}", platform.owner.id);
    let lowest = first.addresses.private.unwrap().to_string();
    let third = format!("{}.3", lowest.strip_suffix(".2").unwrap());
    let made = docker(&[
        "run",
        "-d",
        "--name",
        &squatter,
        "--label",
        &filter,
        "--network",
        &network,
        "--ip",
        &third,
        "debian:bookworm-slim",
        "sleep",
        "1000",
    ]);
    assert!(made.status.success(), "{made:?}");
    let second = platform.provision(&bare("n2")).await;
    assert!(
        second
            .addresses
            .private
            .unwrap()
            .to_string()
            .ends_with(".4"),
        "{second:?}"
    );
    assert_eq!(ssh_banner(&second), "SSH-2.0");
}
