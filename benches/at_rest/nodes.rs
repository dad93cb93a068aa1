//! Finds a platform's nodes on this machine. Nodes are containers, so their processes are in this
//! machine's `/proc`.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::tree::{Arguments as _, Proc, Tree};
use crate::docker::docker;

/// A node of a platform.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// The process id of the container's shim, which is the ancestor of all processes of the node.
    pub(crate) shim: u32,
    pub(crate) checks: Vec<Check>,
}

/// A health check that a node's engine runs.
#[derive(Debug, Clone)]
pub struct Check {
    /// The service that the engine checks.
    pub service: String,
    /// The declared interval.
    pub interval: Duration,
    pub(crate) container: String,
    pub(crate) command: Vec<String>,
}

impl Check {
    pub(crate) fn is_command(&self, words: &[String]) -> bool {
        if words == self.command {
            return true;
        }
        // The arguments of an exited process are gone, and its name is truncated to 15 characters.
        let program = self
            .command
            .first()
            .and_then(|path| path.rsplit('/').next());
        match (words, program) {
            ([word], Some(program)) => {
                word == program || word.len() == 15 && program.starts_with(word)
            }
            _ => false,
        }
    }
}

/// A long-running program of the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Manager,
    Agent,
}

/// A process of the manager or of an agent.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) node: String,
    pub(crate) part: Part,
    pub(crate) process: u32,
}

impl Node {
    /// Returns all running nodes of a platform.
    pub(crate) fn all(platform: &str) -> Result<Vec<Self>, String> {
        let filter = format!("label=lifecycle.platform-id={platform}");
        let ids = docker(&["ps", "--quiet", "--no-trunc", "--filter", &filter])?;
        let mut nodes = Vec::new();
        for id in ids.lines() {
            let found = only(&docker(&["inspect", id])?)?;
            let Some(name) = found["Config"]["Labels"]["lifecycle.node"].as_str() else {
                continue;
            };
            let init = found["State"]["Pid"]
                .as_u64()
                .and_then(|pid| pid.try_into().ok());
            let init = init.ok_or_else(|| format!("node {name} has no process"))?;
            nodes.push(Self {
                name: name.to_owned(),
                shim: parent_of(init).ok_or_else(|| format!("node {name} has ended"))?,
                checks: checks(id)?,
            });
        }
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        if nodes.is_empty() {
            return Err(format!("platform {platform} has no running nodes"));
        }
        Ok(nodes)
    }
}

/// Returns the health checks that a node's engine runs.
fn checks(node: &str) -> Result<Vec<Check>, String> {
    let ids = docker(&["exec", node, "docker", "ps", "--quiet", "--no-trunc"])?;
    let mut checks = Vec::new();
    for id in ids.lines() {
        let found = only(&docker(&["exec", node, "docker", "inspect", id])?)?;
        let check = &found["Config"]["Healthcheck"];
        let words = |from: usize| -> Vec<String> {
            let all = check["Test"].as_array().into_iter().flatten();
            all.skip(from)
                .filter_map(|word| Some(word.as_str()?.to_owned()))
                .collect()
        };
        let command = match check["Test"][0].as_str() {
            Some("CMD") => words(1),
            Some("CMD-SHELL") => ["/bin/sh".into(), "-c".into()]
                .into_iter()
                .chain(words(1))
                .collect(),
            _ => continue,
        };
        let labels = &found["Config"]["Labels"];
        let service = labels["lifecycle.service"]
            .as_str()
            .or(found["Name"].as_str());
        checks.push(Check {
            service: service.unwrap_or_default().to_owned(),
            // The engine's default interval is 30 s.
            interval: match check["Interval"].as_u64() {
                None | Some(0) => Duration::from_secs(30),
                Some(nanos) => Duration::from_nanos(nanos),
            },
            container: id.to_owned(),
            command,
        });
    }
    Ok(checks)
}

fn only(inspected: &str) -> Result<Value, String> {
    let mut all: Value = serde_json::from_str(inspected)
        .map_err(|error| format!("reading the output of docker inspect: {error}"))?;
    Ok(all[0].take())
}

/// Returns the ids of all processes on this machine, each with its parent's id.
pub(crate) fn running() -> Vec<(u32, u32)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let process = entry.file_name().to_str()?.parse().ok()?;
            Some((process, parent_of(process)?))
        })
        .collect()
}

fn parent_of(process: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Search from the end: the program's name is in parentheses, but may itself contain a
    // parenthesis.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Returns the processes of the manager and the agents.
pub(crate) fn programs(nodes: &[Node]) -> Result<Vec<Program>, String> {
    let tree = Tree::new(nodes, &running(), &Proc);
    let mut programs: Vec<Program> = tree
        .known()
        .filter_map(|(process, node)| {
            let words = Proc.of(process)?;
            let program = Path::new(words.first()?).file_name()?;
            let part = match (words.get(1)?.as_str(), words.get(2)?.as_str()) {
                _ if program != "lifecycle-manager" => return None,
                ("run", _) => Part::Manager,
                ("agent", option) if option.starts_with('-') => Part::Agent,
                _ => return None,
            };
            Some(Program {
                node: nodes.get(node)?.name.clone(),
                part,
                process,
            })
        })
        .collect();
    programs.sort_by(|a, b| (a.part, &a.node).cmp(&(b.part, &b.node)));
    let managers = programs.iter().filter(|p| p.part == Part::Manager).count();
    if managers != 1 || programs.len() != nodes.len() + 1 {
        return Err(format!(
            "expected a manager and an agent on each of {} nodes, found {programs:?}",
            nodes.len()
        ));
    }
    Ok(programs)
}
