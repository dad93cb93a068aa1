//! Controls this machine's engine and the nodes' engines without the programs under test.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::subprocess::{Finished, run};

/// The base image of all images that these tests build.
const BASE: &str = "debian:bookworm-slim";

/// Time limit for one call to an engine.
const CALL: Duration = Duration::from_mins(1);

/// Panics with instructions if this machine cannot run the tests.
pub(crate) fn require() {
    let engine = Command::new("docker")
        .args(["version", "--format", "{{.Server.Version}}"])
        .output();
    assert!(
        engine.is_ok_and(|output| output.status.success()),
        "these tests need Docker, running: apt-get install docker.io"
    );
    let base = call(&["image", "inspect", BASE]);
    assert!(
        base.status.success(),
        "these tests need the image {BASE}: script/base-image"
    );
}

/// Runs `docker` and returns the result, even if `docker` fails.
pub(crate) fn call(arguments: &[&str]) -> Finished {
    run(Command::new("docker").args(arguments), CALL)
}

/// Runs `docker` and returns the output. Panics if `docker` fails.
pub(crate) fn docker(arguments: &[&str]) -> String {
    let finished = call(arguments);
    assert!(
        finished.status.success(),
        "docker {}: {}",
        arguments.join(" "),
        finished.stderr
    );
    finished.stdout.trim().to_owned()
}

/// All containers, networks, and volumes of one platform on this machine's engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Belongings {
    pub(crate) containers: BTreeSet<String>,
    pub(crate) networks: BTreeSet<String>,
    pub(crate) volumes: BTreeSet<String>,
}

impl Belongings {
    pub(crate) fn of(platform: &str) -> Self {
        let filter = format!("label=lifecycle.platform-id={platform}");
        let list = |what: &[&str]| {
            let arguments = [what, &["--quiet", "--filter", &filter]].concat();
            docker(&arguments).lines().map(str::to_owned).collect()
        };
        Self {
            containers: list(&["container", "ls", "--all", "--no-trunc"]),
            networks: list(&["network", "ls", "--no-trunc"]),
            volumes: list(&["volume", "ls"]),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.networks.is_empty() && self.volumes.is_empty()
    }

    /// Removes the containers, networks, and volumes that still exist.
    pub(crate) fn remove(&self) {
        for container in &self.containers {
            call(&["rm", "--force", "--volumes", container]);
        }
        for volume in &self.volumes {
            call(&["volume", "rm", "--force", volume]);
        }
        for network in &self.networks {
            call(&["network", "rm", network]);
        }
    }
}

/// A Docker network of one test. Nodes connect to this machine at the network's gateway address.
pub(crate) struct Network {
    name: String,
}

impl Network {
    pub(crate) fn new(name: &str) -> Self {
        docker(&["network", "create", name]);
        Self {
            name: name.to_owned(),
        }
    }

    pub(crate) fn gateway(&self) -> IpAddr {
        let format = "{{range .IPAM.Config}}{{.Gateway}}{{end}}";
        let shown = docker(&["network", "inspect", "--format", format, &self.name]);
        shown.parse().unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        call(&["network", "rm", &self.name]);
    }
}

/// One run of a container, identified by the container's id and its start time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) started_at: String,
}

/// A node of a platform: a container on this machine's engine.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) container: String,
    platform: String,
}

impl Node {
    /// Returns all running nodes of a platform, by name.
    pub(crate) fn all(platform: &str) -> BTreeMap<String, Self> {
        let filter = format!("label=lifecycle.platform-id={platform}");
        let format = "{{.ID}} {{.Label \"lifecycle.node\"}}";
        let list = ["ps", "--no-trunc", "--filter", &filter, "--format", format];
        docker(&list)
            .lines()
            .map(|line| {
                let (container, name) = line.split_once(' ').unwrap();
                let node = Self {
                    container: container.to_owned(),
                    platform: platform.to_owned(),
                };
                (name.to_owned(), node)
            })
            .collect()
    }

    /// Returns the same node with another platform id. A simulated cloud labels containers with the
    /// simulator's id.
    pub(crate) fn of_platform(self, platform: &str) -> Self {
        Self {
            platform: platform.to_owned(),
            ..self
        }
    }

    /// Returns the only node of a platform.
    pub(crate) fn only(platform: &str) -> Self {
        let nodes = Self::all(platform);
        assert_eq!(nodes.len(), 1, "expected exactly one node: {nodes:?}");
        nodes.into_values().next().unwrap()
    }

    /// Returns the node with this name, if the node is running.
    pub(crate) fn find(platform: &str, name: &str) -> Option<Self> {
        Self::all(platform).remove(name)
    }

    pub(crate) fn address(&self) -> IpAddr {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let address = docker(&["inspect", "--format", format, &self.container]);
        address.parse().unwrap()
    }

    /// Runs a program on the node and returns the result, even if the program fails.
    pub(crate) fn call(&self, program: &[&str]) -> Finished {
        call(&[&["exec", &self.container], program].concat())
    }

    /// Runs a program on the node and returns the output. Panics if the program fails.
    pub(crate) fn exec(&self, program: &[&str]) -> String {
        docker(&[&["exec", &self.container], program].concat())
    }

    /// Runs `docker` on the node. Returns its output.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        self.exec(&[&["docker"], arguments].concat())
    }

    /// Stops the node's engine, and returns when it has ended.
    pub(crate) fn stop_engine(&self) {
        let script = "kill $(cat /run/docker.pid); while pgrep -x dockerd; do sleep 0.1; done";
        self.exec(&["sh", "-c", script]);
    }

    /// Returns the current run of the node's container.
    pub(crate) fn run(&self) -> Run {
        let text = docker(&["inspect", &self.container]);
        run_of(&serde_json::from_str::<Value>(&text).unwrap()[0])
    }

    /// Returns the ids of the platform's containers with this label, including stopped containers.
    pub(crate) fn containers(&self, label: &str) -> Vec<String> {
        let ours = format!("label=lifecycle.platform-id={}", self.platform);
        let filter = format!("label={label}");
        let list = ["ps", "--all", "--quiet", "--no-trunc", "--filter"];
        let list = [&list[..], &[&ours, "--filter", &filter]].concat();
        self.docker(&list).lines().map(str::to_owned).collect()
    }

    /// Returns the output of `docker inspect` for the platform's containers.
    pub(crate) fn inspect_all(&self) -> Vec<Value> {
        let ids = self.containers("lifecycle.role");
        if ids.is_empty() {
            return Vec::new();
        }
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        // Containers that have been removed meanwhile are not in the output.
        let found = self.call(&[&["docker", "inspect"], &ids[..]].concat());
        serde_json::from_str(&found.stdout).unwrap()
    }

    /// Returns the current run of each of the platform's containers, by name.
    pub(crate) fn runs(&self) -> BTreeMap<String, Run> {
        let all = self.inspect_all();
        let named = |found: &Value| found["Name"].as_str().unwrap().to_owned();
        all.iter().map(|c| (named(c), run_of(c))).collect()
    }

    /// Returns the start time of the only container with this label, in microseconds since 1970.
    pub(crate) fn started(&self, label: &str) -> i64 {
        let started = run_of(&self.inspect(label)).started_at;
        let micros = self.exec(&["date", "-d", &started, "+%s%6N"]);
        micros.parse().unwrap()
    }

    /// Returns the output of `docker inspect` for the only container with this label.
    pub(crate) fn inspect(&self, label: &str) -> Value {
        let containers = self.containers(label);
        assert_eq!(containers.len(), 1, "{label}: {containers:?}");
        let text = self.docker(&["inspect", &containers[0]]);
        serde_json::from_str::<Value>(&text).unwrap()[0].take()
    }

    /// Returns the current run of a service's only container.
    pub(crate) fn service(&self, service: &str) -> Run {
        run_of(&self.inspect(&format!("lifecycle.service={service}")))
    }

    pub(crate) fn manager(&self) -> Run {
        run_of(&self.inspect("lifecycle.role=manager"))
    }
}

/// Returns the current run of a container from the output of `docker inspect`.
pub(crate) fn run_of(inspected: &Value) -> Run {
    Run {
        id: inspected["Id"].as_str().unwrap().to_owned(),
        started_at: inspected["State"]["StartedAt"].as_str().unwrap().to_owned(),
    }
}
