//! Implements `NodeConnector`, `NodeAccess` and `HostPreparer` for the simulation.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::TryStreamExt;

use super::actor::{Actor, Call, Done, Target};
use super::files;
use super::options::Span;
use super::runtime::SimRuntime;
use super::world::State;
use crate::cloud::ObservedNode;
use crate::error::{Error, Result};
use crate::host::{
    Account, Duplex, ForwardTarget, HostCommand, HostFile, HostOutput, HostPreparer, NodeAccess,
    NodeConnector, NodeHandle,
};
use crate::model::NodeName;
use crate::runtime::{EngineInfo, Owner};

/// The scripts that the simulated preparer runs on a simulated host.
const FIRST_BOOT: &str = "sim-first-boot";
const INSTALL: &str = "sim-install-engine";
const VERIFY: &str = "sim-verify-engine";

/// The size of a connection's buffer.
const BUFFER: usize = 64 * 1024;

/// Connects one platform to the machines of the world.
#[derive(Debug, Clone)]
pub struct SimConnector {
    actor: Actor,
    owner: Owner,
    handles: Arc<Mutex<BTreeMap<u64, (u64, NodeHandle)>>>,
}

impl SimConnector {
    pub(super) fn new(actor: Actor, owner: Owner) -> Self {
        Self {
            actor,
            owner,
            handles: Arc::default(),
        }
    }
}

#[async_trait]
impl NodeConnector for SimConnector {
    async fn connect(&self, node: &ObservedNode) -> Result<NodeHandle> {
        let number = node.provider_id.strip_prefix("sim-");
        let machine = number
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| Error::not_found(format!("machine {}", node.provider_id)))?;
        let call = Call {
            target: Target::Host {
                machine,
                boot: None,
            },
            node: Some(node.name.clone()),
            what: "connect".into(),
            is_effect: false,
            takes: self.actor.world().lock().rules.latencies.node_call,
        };
        let boot = self
            .actor
            .call(call, |state, _| {
                let machine = machine_of(state, machine, &node.name)?;
                Ok(Done::unchanged(machine.boot))
            })
            .await?;
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, handle)) = handles.get(&machine)
            && *of == boot
        {
            return Ok(handle.clone());
        }
        let host = SimHost {
            actor: self.actor.clone(),
            node: node.name.clone(),
            machine,
            boot,
        };
        let runtime = SimRuntime::new(
            self.actor.clone(),
            self.owner.clone(),
            node.name.clone(),
            machine,
            boot,
        );
        let handle = NodeHandle {
            host: Arc::new(host),
            runtime: Arc::new(runtime),
        };
        handles.insert(machine, (boot, handle.clone()));
        Ok(handle)
    }
}

fn machine_of<'a>(
    state: &'a mut State,
    number: u64,
    node: &NodeName,
) -> Result<&'a mut super::machine::Machine> {
    let found = state.machines.get_mut(&number);
    found.ok_or_else(|| Error::not_found(format!("node {node}")))
}

/// The operating system of a simulated machine, in one boot.
#[derive(Debug, Clone)]
pub struct SimHost {
    actor: Actor,
    node: NodeName,
    machine: u64,
    boot: u64,
}

impl SimHost {
    fn call(&self, what: String, is_effect: bool, takes: Span) -> Call {
        Call {
            target: Target::Host {
                machine: self.machine,
                boot: Some(self.boot),
            },
            node: Some(self.node.clone()),
            what,
            is_effect,
            takes,
        }
    }

    fn quick(&self) -> Span {
        self.actor.world().lock().rules.latencies.node_call
    }
}

#[async_trait]
impl NodeAccess for SimHost {
    async fn exec(&self, command: HostCommand) -> Result<HostOutput> {
        let script = command.script.trim();
        let (what, takes) = match script {
            INSTALL => {
                let missing = {
                    let state = self.actor.world().lock();
                    let machine = state.machines.get(&self.machine);
                    machine.is_some_and(|machine| !machine.engine.installed)
                };
                let takes = if missing {
                    self.actor.world().lock().rules.latencies.prepare
                } else {
                    self.quick()
                };
                ("prepare".to_owned(), takes)
            }
            FIRST_BOOT | VERIFY => (format!("exec {script}"), self.quick()),
            _ => (format!("exec {}", first_line(script)), self.quick()),
        };
        let is_effect = !matches!(script, FIRST_BOOT | VERIFY);
        self.actor
            .call(self.call(what, is_effect, takes), |state, _| {
                run(state, self.machine, &self.node, script)
            })
            .await
    }

    async fn put(&self, file: HostFile) -> Result<()> {
        let what = format!("put {}", file.path);
        let contents = file
            .contents
            .try_collect::<Vec<_>>()
            .await
            .map_err(|error| Error::io(format!("reading the contents of {}", file.path), error))?;
        let contents = bytes::Bytes::from(contents.concat());
        self.actor
            .call(self.call(what, true, self.quick()), |state, _| {
                let machine = machine_of(state, self.machine, &self.node)?;
                let new = (file.mode, contents);
                let changed = machine.files.get(&file.path) != Some(&new);
                machine.files.insert(file.path, new);
                Ok(Done { value: (), changed })
            })
            .await
    }

    async fn connect(&self, target: ForwardTarget) -> Result<Box<dyn Duplex>> {
        let (what, port) = match &target {
            ForwardTarget::Tcp { host, port } => (format!("forward {host}:{port}"), Some(*port)),
            ForwardTarget::Unix { path } => (format!("forward {path}"), None),
        };
        let refused = Error::Unreachable {
            hint: None,
            what: format!("{what} on {}", self.node),
            source: None,
        };
        self.actor
            .call(self.call(what, false, self.quick()), |state, _| {
                let machine = machine_of(state, self.machine, &self.node)?;
                let (ours, theirs) = tokio::io::duplex(BUFFER);
                let listener = port.and_then(|port| machine.listeners.get(&port));
                match listener.map(|listener| listener.send(theirs)) {
                    Some(Ok(())) => Ok(Done::unchanged(Box::new(ours) as Box<dyn Duplex>)),
                    Some(Err(_)) | None => Err(refused),
                }
            })
            .await
    }

    async fn reconnect(&self) {
        // A reconnect updates the groups of an account. Simulated accounts have no groups.
    }
}

fn first_line(script: &str) -> String {
    script
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(60)
        .collect()
}

/// Runs a script on a host.
fn run(state: &mut State, number: u64, node: &NodeName, script: &str) -> Result<Done<HostOutput>> {
    let output = |code: u32, stdout: String| HostOutput {
        code,
        stdout,
        stderr: String::new(),
    };
    let preloaded = state.rules.preloaded.clone();
    let answer = state.rules.answers.iter().rev();
    let answer = answer
        .filter(|(text, _)| script.contains(text))
        .map(|(_, output)| output.clone())
        .next();
    let machine = machine_of(state, number, node)?;
    match script {
        INSTALL => {
            let changed = !machine.engine.installed;
            if changed {
                machine.engine.installed = true;
                machine.engine.images.extend(preloaded);
                machine.prepared += 1;
            }
            let done = if changed { "installed" } else { "" };
            Ok(Done {
                value: output(0, done.to_owned()),
                changed,
            })
        }
        VERIFY if !machine.engine.installed => Ok(Done::unchanged(output(1, String::new()))),
        VERIFY => serde_json::to_string(&engine_info())
            .map(|info| Done::unchanged(output(0, info)))
            .map_err(|error| Error::failed("verifying the engine", error.to_string())),
        _ => {
            let listing = files::run(&mut machine.files, script);
            Ok(Done::changed(answer.unwrap_or_else(|| output(0, listing))))
        }
    }
}

/// Returns the information that every simulated engine reports.
pub(super) fn engine_info() -> EngineInfo {
    EngineInfo {
        version: "20.10.24".into(),
        api_version: "1.41".into(),
        architecture: "amd64".into(),
        cpus: 4,
        memory_bytes: 16 << 30,
    }
}

/// Prepares hosts of a simulated world; fails on other hosts.
#[derive(Debug, Clone, Copy)]
pub struct SimPreparer;

#[async_trait]
impl HostPreparer for SimPreparer {
    async fn prepare(
        &self,
        host: &dyn NodeAccess,
        _: Account,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<EngineInfo> {
        let limit = std::time::Duration::from_mins(15);
        progress("waiting for the first boot to finish");
        host.exec(HostCommand::new(FIRST_BOOT).as_root())
            .await?
            .success("the host's first boot")?;
        progress("installing the engine");
        let installed = host
            .exec(HostCommand::new(INSTALL).as_root().within(limit))
            .await?
            .success("installing the engine")?;
        progress("verifying the engine");
        let info = host
            .exec(HostCommand::new(VERIFY).as_root())
            .await?
            .success("verifying the engine")?;
        let info: EngineInfo = serde_json::from_str(&info)
            .map_err(|error| Error::failed("verifying the engine", error.to_string()))?;
        let done = if installed.is_empty() {
            "was already running"
        } else {
            "was installed"
        };
        progress(&format!("engine {} {done}", info.version));
        Ok(info)
    }
}
