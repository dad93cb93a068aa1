//! Tests a platform on machines that exist already: containers with a stock SSH server, and an account
//! whose password sudo requires.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::docker::{self, docker};
use crate::project::{Project, STATIC_SERVER};
use crate::subprocess::{run, until};

/// The bare machine of the tests of `lifecycle-docker`.
const MACHINE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../lifecycle-docker/tests/fixture/bare"
);
const IMAGE: &str = "lifecycle-docker-test:bare";

/// The password of the machines' account. It occurs nowhere else.
const PASSWORD: &str = "ops-pw";

/// Time limit for building the machines' image.
const BUILT: Duration = Duration::from_mins(5);

/// A machine with an SSH server and an account. It is removed when dropped.
struct Machine {
    name: String,
}

impl Machine {
    fn start(name: String, network: &str) -> Self {
        let container = [
            "run",
            "--detach",
            "--name",
            &name,
            "--network",
            network,
            "--cap-add=SYS_ADMIN",
            "--cap-add=NET_ADMIN",
            "--cap-add=SYS_PTRACE",
            "--security-opt=seccomp=unconfined",
            "--cgroupns=private",
            IMAGE,
        ];
        docker(&container);
        let machine = Self { name };
        machine.exec("rm /etc/sudoers.d/lifecycle-test");
        machine.await_ssh();
        machine
    }

    fn await_ssh(&self) {
        until("the SSH server runs", Duration::from_mins(1), || {
            let server = docker::call(&["exec", &self.name, "test", "-e", "/run/sshd.pid"]);
            server.status.success().then_some(())
        });
    }

    fn exec(&self, script: &str) -> String {
        docker(&["exec", &self.name, "sh", "-c", script])
    }

    fn address(&self) -> String {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        docker(&["inspect", "--format", format, &self.name])
    }

    fn node(&self, name: &str, more: &str) -> String {
        format!(
            "[nodes.{name}]\naddress = \"{}\"\nuser = \"ops\"\n\
             password = {{ env = \"OPS_PASSWORD\" }}\n{more}\n",
            self.address()
        )
    }

    /// Returns everything that the platform could leave on the machine, except Docker itself.
    fn traces(&self) -> String {
        self.exec(
            "ls -A /home /etc/sudoers.d; ls -A /var/lib/lifecycle 2>/dev/null; \
             cut -d: -f1 /etc/passwd; docker ps --all --quiet; docker images --quiet; \
             docker network ls --quiet --filter type=custom; docker volume ls --quiet; \
             ip -4 route | grep -v docker0; pgrep -l lifecycle || true",
        )
    }

    /// Returns whether an HTTP server answers at a port of the machine.
    fn answers(&self, port: u16) -> bool {
        let url = format!("http://{}:{port}/", self.address());
        let mut curl = Command::new("curl");
        let curl = curl.args(["--silent", "--max-time", "2", "--output", "/dev/null", &url]);
        run(curl, Duration::from_secs(5)).status.success()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        docker::call(&["rm", "--force", "--volumes", &self.name]);
    }
}

/// A network in which machines keep their addresses when they restart. It is removed when dropped.
struct Network(String);

impl Drop for Network {
    fn drop(&mut self) {
        docker::call(&["network", "rm", &self.0]);
    }
}

/// Returns whether the command line of a process of this machine or of a container contains `text`.
fn is_in_a_command_line(text: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).contains(text))
}

#[test]
fn a_platform_on_existing_machines() {
    let project = Project::new();
    let mut build = Command::new("docker");
    let build = build.args(["build", "--quiet", "--tag", IMAGE, MACHINE]);
    let image = run(build, BUILT);
    assert!(image.status.success(), "{}", image.stderr);
    let network = Network(format!("{}-machines", project.name));
    docker(&["network", "create", &network.0]);
    let machines = ["hub", "one", "two"]
        .map(|node| Machine::start(format!("{}-{node}", project.name), &network.0));
    let [hub, one, two] = &machines;
    let settings = |nodes: &[String]| {
        let text = format!("[cloud]\nprovider = \"hosts\"\n{}", nodes.concat());
        project.write("platform.toml", &text);
    };
    let nodes = [
        hub.node("hub", ""),
        one.node("one", ""),
        two.node("two", ""),
    ];
    settings(&nodes);
    project.static_server("server");
    let services = |replicas: u8| {
        project.compose(&format!(
            "  web:{STATIC_SERVER}    ports: [\"8080:8000\"]\n    deploy: {{replicas: {replicas}}}\n\
             \x20   volumes: [data:/data]\nvolumes: {{data: {{}}}}\n"
        ));
    };
    services(3);

    // Without the password, nothing is changed.
    let refused = project.ends(1, &["up"]);
    assert!(
        refused.stderr.contains("`OPS_PASSWORD`"),
        "{}",
        refused.stderr
    );
    assert_eq!(hub.exec("getent passwd lifecycle || true"), "");

    // The password is in no command line, at any time.
    let is_done = AtomicBool::new(false);
    let up = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut rounds = 0_u32;
            while !is_done.load(Ordering::Relaxed) {
                assert!(
                    !is_in_a_command_line(PASSWORD),
                    "a command line has the password"
                );
                rounds += 1;
            }
            rounds
        });
        let mut up = project.command(&["up"]);
        let up = run(up.env("OPS_PASSWORD", PASSWORD), Duration::from_mins(8));
        is_done.store(true, Ordering::Relaxed);
        assert!(watch.join().unwrap() > 10);
        up
    });
    assert_eq!(up.status.code(), Some(0), "{}\n{}", up.stdout, up.stderr);
    assert_eq!(
        up.stderr.matches("on first use").count(),
        3,
        "{}",
        up.stderr
    );
    for machine in &machines {
        assert!(machine.answers(8080), "{}", machine.name);
    }
    let status = project.status();
    assert_eq!(status["nodes"].as_array().unwrap().len(), 3);

    // The password is nowhere else either, and later commands do not need it.
    let events = project.ends(0, &["events", "--json"]);
    for text in [&up.stdout, &up.stderr, &events.stdout] {
        assert!(!text.contains(PASSWORD), "{text}");
    }
    let search = format!("grep -rlF -e {PASSWORD} /var/lib/lifecycle /home /tmp || true");
    for machine in &machines {
        assert_eq!(machine.exec(&search), "", "{}", machine.name);
    }
    let logs = "docker logs $(docker ps -q --filter label=lifecycle.role=manager) 2>&1";
    assert!(!hub.exec(logs).contains(PASSWORD));
    let kept = std::fs::read_dir(project.state()).unwrap().flatten();
    for file in kept.filter_map(|file| std::fs::read(file.path()).ok()) {
        assert!(!String::from_utf8_lossy(&file).contains(PASSWORD));
    }
    project.ends(0, &["up"]);
    let doctor = project.ends(0, &["doctor"]);
    let reached = doctor.stdout.matches("reaches other nodes: 2").count();
    assert_eq!(reached, 3, "{}", doctor.stdout);

    // The services of a machine start again after a reboot.
    let started = "docker inspect --format '{{.State.StartedAt}}' \
                   $(docker ps -q --filter label=lifecycle.role=instance)";
    let before = one.exec(started);
    docker(&["restart", "--time", "0", &one.name]);
    until("the service runs again", Duration::from_mins(2), || {
        let now = docker::call(&["exec", &one.name, "sh", "-c", started]);
        (now.status.success() && now.stdout.trim() != before && one.answers(8080)).then_some(())
    });

    // A machine with another host key is refused until its new key is declared.
    two.exec("rm /etc/ssh/ssh_host_* /run/sshd.pid");
    docker(&["restart", "--time", "0", &two.name]);
    two.await_ssh();
    let refused = project.ends(1, &["up"]);
    assert!(
        refused.stderr.contains("host key changed"),
        "{}",
        refused.stderr
    );
    let key = two.exec("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub");
    let [first, second, _] = nodes;
    let third = two.node("two", &format!("host_key = \"{key}\""));
    settings(&[first.clone(), second.clone(), third]);
    project.ends(0, &["up"]);

    // A machine that is no longer declared is released.
    settings(&[first, second]);
    services(2);
    project.ends(0, &["up", "--yes"]);
    let volume = two.exec("docker volume ls --quiet");
    assert!(volume.contains("data"), "{volume}");
    let clean = |machine: &Machine| {
        let traces = machine.traces();
        for trace in ["lifecycle", &project.name] {
            let lines = traces.lines().filter(|line| line.contains(trace));
            let left: Vec<&str> = lines.filter(|line| !line.ends_with("-data")).collect();
            assert!(left.is_empty(), "{}: {left:?}", machine.name);
        }
        machine.exec("command -v dockerd && docker version >/dev/null");
    };
    clean(two);
    project.ends(0, &["up"]);
    let status: Value = project.status();
    assert_eq!(status["nodes"].as_array().unwrap().len(), 2);

    project.ends(0, &["down", "--yes", "--volumes"]);
    clean(hub);
    clean(one);
    assert_eq!(
        one.exec("docker volume ls --quiet; docker ps -aq; docker images -q"),
        ""
    );
}
