//! Starts the server, the agent, and HAProxy.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lifecycle_core::agent::{self, AgentOptions};
use serde_json::json;
use tempfile::TempDir;

use crate::container::Container;
use crate::{Failure, place};

/// Time limit for a process to start listening.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// An endpoint through which clients reach the server: the server itself, or a proxy in front of
/// it. `process` is the process that listens there; it is `None` for a server in a container.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) at: SocketAddr,
    process: Option<Child>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // Ignore errors: the process may already have exited.
            drop(process.kill());
            drop(process.wait());
        }
    }
}

impl Proxy {
    fn start(name: &'static str, at: SocketAddr, command: &mut Command) -> Result<Self, Failure> {
        let process = command.stdin(Stdio::null()).spawn()?;
        let process = Some(process);
        Self { name, at, process }.listening()
    }

    fn listening(self) -> Result<Self, Failure> {
        let Self { name, at, .. } = self;
        let deadline = Instant::now() + LISTENS_WITHIN;
        while TcpStream::connect(at).is_err() {
            if Instant::now() > deadline {
                return Err(format!("{name} is not listening at {at}").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(self)
    }

    /// Returns the CPU time that the process has used so far, or zero without a process.
    pub(crate) fn processor_time(&self) -> Result<Duration, Failure> {
        let Some(process) = &self.process else {
            return Ok(Duration::ZERO);
        };
        let mut total = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", process.id()))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            let on_processor = text.split_ascii_whitespace().next().ok_or("no schedstat")?;
            total += on_processor.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(total))
    }

    /// Returns the process's resident memory in KiB.
    pub(crate) fn memory(&self) -> Result<f64, Failure> {
        let process = self
            .process
            .as_ref()
            .ok_or("the container has no process")?;
        let text = fs::read_to_string(format!("/proc/{}/status", process.id()))?;
        let line = text.lines().find(|line| line.starts_with("VmRSS:"));
        let word = line.and_then(|line| line.split_ascii_whitespace().nth(1));
        Ok(word.ok_or("no VmRSS")?.parse()?)
    }
}

/// The endpoints to compare: the server itself, the agent, and HAProxy if it is installed.
#[derive(Debug)]
pub(crate) struct Ways {
    all: Vec<Proxy>,
    _container: Option<Container>,
    _files: TempDir,
}

impl Ways {
    pub(crate) fn start() -> Result<Self, Failure> {
        let files = TempDir::new()?;
        let threads = std::thread::available_parallelism()?;
        let program = std::env::current_exe()?;
        let (container, direct) = match Container::start(&program) {
            Ok((container, at)) => {
                let direct = Proxy {
                    name: "directly",
                    at,
                    process: None,
                };
                (Some(container), direct.listening()?)
            }
            Err(error) => {
                println!("the server cannot run in a container, so it runs as a process: {error}");
                let at = place([127, 0, 0, 1], 18_080);
                let mut command = Command::new(&program);
                let command = command.args(["server", &at.to_string()]);
                (None, Proxy::start("directly", at, command)?)
            }
        };
        let server = direct.at;

        let state = files.path().join("agent");
        fs::create_dir(&state)?;
        let at = place([127, 90, 0, 5], 18_080);
        fs::write(state.join("table.json"), table(at, server).to_string())?;
        let agent = Proxy::start(
            "agent",
            at,
            Command::new(&program)
                .arg("agent")
                .arg(&state)
                .arg(threads.to_string()),
        )?;
        let mut ways = vec![direct, agent];

        let at = place([127, 0, 0, 1], 18_081);
        let configuration = files.path().join("haproxy.cfg");
        fs::write(
            &configuration,
            format!(
                "global\n nbthread {threads}\n maxconn {}\n\
                 defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
                 listen bench\n bind {at}\n server one {server}\n",
                most_connections()? + 50,
            ),
        )?;
        match Proxy::start(
            "haproxy",
            at,
            Command::new("haproxy")
                .arg("-db")
                .arg("-f")
                .arg(&configuration),
        ) {
            Ok(haproxy) => ways.push(haproxy),
            Err(error) => println!("HAProxy cannot be started, so there is no comparison: {error}"),
        }
        Ok(Self {
            all: ways,
            _container: container,
            _files: files,
        })
    }

    pub(crate) fn all(&self) -> &[Proxy] {
        &self.all
    }
}

/// Returns how many connections a proxy can hold. A proxy opens two files for each connection, and
/// the number of open files is limited.
pub(crate) fn most_connections() -> Result<usize, Failure> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let hard = line.and_then(|line| line.split_ascii_whitespace().nth(4));
    let hard = hard.ok_or("no limit of open files")?;
    let hard = hard.parse().unwrap_or(usize::MAX);
    Ok(hard.saturating_sub(500) / 2)
}

/// Returns an agent's table with one service and one backend.
fn table(at: SocketAddr, server: SocketAddr) -> serde_json::Value {
    let port = at.port();
    json!({
        "epoch": 1, "version": 1, "platform": "bench", "block": "127.90.0.0/16", "wait": 5,
        "services": { "web": {
            "address": at.ip(), "ports": [[port, "tcp"]],
            "backends": [{ "instance": "web-1", "container": "web-1",
                           "endpoints": [[port, "tcp", server]] }],
        } },
    })
}

/// Runs the agent in this process, as the manager's program does with its command `agent`.
pub(crate) fn run_agent(state: &str, threads: &str) -> Result<(), Failure> {
    let options = AgentOptions {
        route: false,
        dns_port: 18_053,
        threads: Some(threads.parse()?),
        ..AgentOptions::new(Path::new(state))
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(agent::run(options))?)
}
