//! Finds what a platform may leave on this machine after `down`: containers, networks, volumes,
//! processes, and network interfaces.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::docker::{Belongings, Node, call, docker};
use crate::project::Project;
use crate::subprocess::until;

/// Time limit for killed processes to exit.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A process, identified by its PID and its start time. The PID alone is not enough, because PIDs
/// are reused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    pid: u32,
    parent: u32,
    /// The start time, in clock ticks since this machine booted.
    started: u64,
}

impl Process {
    /// Returns all running processes.
    fn all() -> BTreeSet<Self> {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter_map(|entry| {
                let pid = entry.file_name().to_str()?.parse().ok()?;
                let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
                // Search from the end: the program's name is in parentheses, but may itself contain
                // a parenthesis.
                let (_, rest) = stat.rsplit_once(") ")?;
                let fields: Vec<&str> = rest.split(' ').collect();
                Some(Self {
                    pid,
                    parent: fields[1].parse().ok()?,
                    started: fields[19].parse().ok()?,
                })
            })
            .collect()
    }

    fn contains(&self, file: &str, text: &str) -> bool {
        let file = Path::new("/proc").join(self.pid.to_string()).join(file);
        std::fs::read(file).is_ok_and(|said| String::from_utf8_lossy(&said).contains(text))
    }
}

/// The processes, network interfaces, and volumes of one platform on this machine.
#[derive(Debug)]
pub(crate) struct Traces {
    processes: BTreeSet<Process>,
    interfaces: Vec<String>,
    volumes: Vec<String>,
    addresses: Vec<String>,
}

impl Traces {
    /// Lists the processes, network interfaces, and volumes of a running platform.
    pub(crate) fn of(project: &Project) -> Self {
        let belongings = Belongings::of(&project.id());
        let nodes = Node::all(&project.id());
        let mut processes = BTreeSet::new();
        let mut volumes = Vec::new();
        for node in nodes.values() {
            let text = docker(&["inspect", &node.container]);
            let found = serde_json::from_str::<Value>(&text).unwrap()[0].take();
            let published = &found["HostConfig"]["PortBindings"];
            let count = published.as_object().map_or(0, serde_json::Map::len);
            assert_eq!(count, 0, "ports of this machine are published: {published}");
            let init = found["State"]["Pid"].as_u64().unwrap();
            processes.extend(descendants(u32::try_from(init).unwrap()));
            let mounts = found["Mounts"].as_array().unwrap().iter();
            volumes.extend(mounts.filter_map(|m| m["Name"].as_str().map(str::to_owned)));
        }
        let bridges = belongings
            .networks
            .iter()
            .map(|id| format!("br-{}", &id[..12]));
        let traces = Self {
            processes,
            interfaces: bridges.collect(),
            volumes,
            addresses: nodes.values().map(|n| n.address().to_string()).collect(),
        };
        assert!(
            traces.processes.len() > 3,
            "engine, manager, services: {traces:?}"
        );
        for interface in &traces.interfaces {
            assert!(exists(interface), "{interface}");
        }
        traces
    }

    /// Checks that no traces are left, and that all processes of the project's commands have
    /// exited.
    pub(crate) fn assert_removed(&self, project: &Project) {
        until("the platform's processes have exited", TIMEOUT, || {
            self.processes.is_disjoint(&Process::all()).then_some(())
        });
        let directory = project.configuration().to_string_lossy();
        for process in Process::all() {
            assert!(
                !process.contains("environ", &directory),
                "{process:?} is left"
            );
            for address in &self.addresses {
                let is_told = process.contains("cmdline", &format!("{address}\0"));
                assert!(!is_told, "{process:?} serves {address}");
            }
        }
        for interface in &self.interfaces {
            assert!(!exists(interface), "{interface} is left");
        }
        for volume in &self.volumes {
            let found = call(&["volume", "inspect", volume]);
            assert!(!found.status.success(), "the volume {volume} is left");
        }
    }
}

fn exists(interface: &str) -> bool {
    Path::new("/sys/class/net").join(interface).exists()
}

/// Returns a process with its direct and indirect children.
fn descendants(root: u32) -> BTreeSet<Process> {
    let all = Process::all();
    let mut found: BTreeSet<Process> = all.iter().filter(|p| p.pid == root).cloned().collect();
    loop {
        let pids: BTreeSet<u32> = found.iter().map(|p| p.pid).collect();
        let children = all.iter().filter(|p| pids.contains(&p.parent)).cloned();
        let before = found.len();
        found.extend(children);
        if found.len() == before {
            return found;
        }
    }
}
